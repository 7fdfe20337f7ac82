"""The command line: parsing and printing only. One module for each command or few that belong together."""

from __future__ import annotations

import argparse
import contextlib
import errno
import functools
import io
import os
import re
import sys
from collections.abc import Sequence
from typing import IO, Any, NoReturn

from siftlm import __version__
from siftlm.cli import calibrate, chat, demo, evaluate, generate, index, memory, score, search, select, serve
from siftlm.cli.arguments import Flag, spelling
from siftlm.cli.terminal import printable
from siftlm.errors import SiftlmError

EPILOG = """\
examples:
  siftlm demo                                             see a model learn for a prompt, offline, in a minute
  siftlm index notes/ --into memory                       build a memory of texts in files, folders or data sets
  siftlm search memory "a question" -n 10 --compare       the most informative passages, beside nearest neighbours
  siftlm score memory --file page.txt --model gpt2        bits per byte before and after learning for it
  siftlm generate memory "a prompt" --compare             continue it, beside the base model's continuation
  siftlm chat memory                                      prompt after prompt; /why shows what was learned
  siftlm calibrate memory                                 which settings make the model learn best from it
  siftlm eval --memory memory --test FILE --out runs/a    compare methods on many texts, resumably
  siftlm report runs/a                                    tables, figures and verdicts of a run
  siftlm serve --memory memory                            an OpenAI-compatible server, and a page that shows why
  siftlm info memory --redundancy                         what is in it, and whether diversity will matter
  siftlm spread --candidates vectors.npy                  which λ is sensible for these vectors
  siftlm select --candidates vectors.npy --query q.npy -n 10 --texts texts.txt
  siftlm methods sift                                     formula and settings of one method
  siftlm keys add keys.json ann                           a key for a server that asks for keys

exit status: 0 done; 1 a setting, the data or the disk does not allow it; 2 the command line cannot be read.
"""

# Read when torch is loaded. Its threads spin while they wait for one another, 300,000 times before they sleep: beside
# another busy process that is up to twenty times as slow. And it keeps what it has compiled for each of the last 1,024
# lengths of text, which is gigabytes after an hour.
TORCH_ENVIRONMENT = {"GOMP_SPINCOUNT": "10000", "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "64"}

# The end of a message that points at a place with a caret below it.
CARET = re.compile(r"\n.*\n +\^\Z")


class ClosedStdout(io.TextIOBase):
    """In place of a stdout that was closed before we began: fine until something is to be printed."""

    def write(self, _text: str) -> int:
        """Refuse."""
        raise OSError(errno.EBADF, "standard output is closed")


class Parser(argparse.ArgumentParser):
    """argparse, with errors of one line and help that any terminal can show."""

    def __init__(self, **settings: Any) -> None:
        settings.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        settings.setdefault("allow_abbrev", False)
        super().__init__(**settings)

    def error(self, message: str) -> NoReturn:
        """One line on stderr, exit status 2."""
        command = self.prog.removeprefix("siftlm").strip()
        where = f"{command}: " if command else ""
        self.exit(2, f"siftlm: {where}{message} (try: {self.prog} --help)\n")

    def _print_message(self, message: str, file: Any = None) -> None:
        stream: IO[str] | None = file or sys.stderr
        if stream is not None:
            stream.write(printable(message, stream))


@functools.cache
def parser() -> Parser:
    """The whole command line."""
    top = Parser(
        prog="siftlm",
        description="Pick the examples that together leave the least uncertainty about a prompt.",
        epilog=EPILOG,
    )
    top.add_argument("--version", action="version", version=f"siftlm {__version__}")
    commands = top.add_subparsers(metavar="command", required=True, parser_class=Parser)
    for module in (index, search, memory, score, generate, chat, calibrate, evaluate, select, serve, demo):
        module.add(commands)
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; return its exit status instead of raising.

    >>> main(["--version"])
    siftlm ...
    0
    """
    if sys.stdout is None:
        with contextlib.redirect_stdout(ClosedStdout()):
            return main(argv)
    if argv is None:  # the process is ours
        for name, value in TORCH_ENVIRONMENT.items():
            os.environ.setdefault(name, value)
    flags: Sequence[Flag] = ()
    try:
        arguments = parser().parse_args(argv)
        flags = getattr(arguments, "flags", None) or ()
        status: int = arguments.run(arguments)
        sys.stdout.flush()  # here, where a closed pipe is still ours to catch
    except SystemExit as leave:  # argparse, after --help or an error
        return leave.code if isinstance(leave.code, int) else 0
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        return _closed_pipe()
    except SiftlmError as error:
        return _print_error(error.spelled(spelling(flags)))
    except MemoryError as error:
        return _print_error(f"not enough memory: {error}" if str(error) else "not enough memory")
    except OSError as error:
        reason = error.strerror or str(error)
        return _print_error(f"{error.filename}: {reason}" if error.filename else reason)
    return status


def _print_error(message: str) -> int:
    if sys.stderr is None:  # print() would take stdout instead
        return 1
    text, *excerpt = message.rsplit("\n", 2) if CARET.search(message) else [message]
    print(printable(f"siftlm: {' '.join(text.split()).replace(' )', ')')}", sys.stderr), file=sys.stderr)
    for line in excerpt:  # a letter for a letter, or the caret would point elsewhere
        encoding = getattr(sys.stderr, "encoding", None) or "ascii"
        shown = "".join(c if c.isprintable() else "?" for c in line)
        print(shown.encode(encoding, "replace").decode(encoding), file=sys.stderr)
    return 1


def _closed_pipe() -> int:
    """Whoever read us has read enough. Python would complain once more when it closes stdout at exit."""
    try:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
    except (OSError, ValueError):  # stdout is no file: nothing will be flushed at exit either
        pass
    return 128 + 13  # what a shell reports of a program that ends by SIGPIPE
