"""siftlm inside other programs: a module for each, which needs the program's library only when it is used."""
