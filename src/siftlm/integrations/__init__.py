"""siftlm inside other people's programs. Each module needs its own library only when it is used."""
