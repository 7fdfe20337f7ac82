"""The command line: parsing and printing only. Each module holds one command, or a few related ones."""

from __future__ import annotations

import argparse
import contextlib
import difflib
import errno
import functools
import io
import itertools
import os
import re
import sys
import textwrap
from collections.abc import Mapping, Sequence
from typing import IO, Any, NoReturn

from siftlm import __version__
from siftlm.cli import calibrate, demo, evaluate, generate, mcp, memory, pick, review, score, search, select, serve
from siftlm.cli.arguments import Flag, spelling
from siftlm.cli.terminal import printable
from siftlm.errors import SiftlmError, UnknownName

DESCRIPTION = """\
Fine-tune a language model for each prompt, on the texts that are most informative about it, and restore it afterwards.

quick start:
  siftlm demo                                  a first look, in a minute
  siftlm index notes/ --into memory            build a memory of a folder
  siftlm search memory "a question" --compare  SIFT beside nearest neighbours
  siftlm score memory --file page.txt          bits per byte, base and tuned
  siftlm generate memory "a prompt" --compare  continuations, base and tuned
  siftlm serve --memory memory                 an OpenAI-compatible server
"""
EPILOG = """\
siftlm COMMAND --help lists a command's options, with examples.

exit status: 0 success; 1 an error in a setting, the data or the environment; 2 a command line that cannot be parsed.
"""
# The commands as the help groups them.
GROUPS = {
    "memory": ("index", "search", "info", "delete", "compact", "verify"),
    "a model and a memory": ("score", "generate", "chat", "calibrate"),
    "evaluation": ("eval", "report"),
    "training sets": ("pick", "review"),
    "vectors in files": ("select", "methods", "spread"),
    "server": ("serve", "keys", "mcp"),
    "demonstration": ("demo",),
}

# Read when torch is loaded. By default its threads spin 300,000 times before they sleep, which is up to twenty times as
# slow beside another busy process; and it caches compiled kernels for 1,024 text lengths, gigabytes after an hour.
TORCH_ENVIRONMENT = {"GOMP_SPINCOUNT": "10000", "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "64"}

# The end of a message that marks a position with a caret on the line below.
CARET = re.compile(r"\n.*\n +\^\Z")
# A word that argparse reads as a flag, unlike a negative number, and - for stdin.
FLAG = re.compile(r"-[^\W\d]|--.")
# An indented line of a help text: a term, and its explanation after two spaces or more.
ENTRY = re.compile(r"(?P<term> +\S.*?) {2,}(?P<explanation>\S.*)")


class ClosedStdout(io.TextIOBase):
    """Stands in for a stdout that was closed at the start: an error only when something is printed."""

    def write(self, _text: str) -> int:
        """Raises ``OSError``."""
        raise OSError(errno.EBADF, "standard output is closed")


class HelpFormatter(argparse.HelpFormatter):
    """argparse's layout, except that descriptions and epilogs keep their paragraphs, lists and examples."""

    def _split_lines(self, text: str, width: int) -> list[str]:
        return textwrap.wrap(" ".join(text.split()), width, break_on_hyphens=False)

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        filled: list[str] = []
        for is_entry, lines in itertools.groupby(text.split("\n"), key=lambda line: line.startswith(" ")):
            if is_entry:
                filled += _fill_entries(list(lines), width)
            else:
                for is_text, group in itertools.groupby(lines, key=bool):
                    paragraph = list(group)
                    filled += _wrap(" ".join(paragraph), width) if is_text else paragraph
        return "".join(f"{indent}{line}\n" for line in filled)


def _fill_entries(lines: list[str], width: int) -> list[str]:
    """Indented lines: commands or terms with their explanations beside them, or below where a line is too long."""
    entries = [(line, ENTRY.fullmatch(line)) for line in lines]
    if all(len(line) <= width for line, entry in entries if entry):
        return lines
    filled = []
    for line, entry in entries:
        if entry is None:
            filled.append(line)
        elif (column := entry.start("explanation")) <= width // 2:
            filled += _wrap(entry["explanation"], width, first=line[:column], rest=" " * column)
        else:
            filled += [entry["term"], *_wrap(entry["explanation"], width, first=" " * 6, rest=" " * 6)]
    return filled


def _wrap(text: str, width: int, *, first: str = "", rest: str = "") -> list[str]:
    return textwrap.wrap(
        text, width, initial_indent=first, subsequent_indent=rest, break_on_hyphens=False, break_long_words=False
    )


class Parser(argparse.ArgumentParser):
    """argparse with errors of one line, and with help that any terminal can show."""

    def __init__(self, **settings: Any) -> None:
        settings.setdefault("formatter_class", HelpFormatter)
        settings.setdefault("allow_abbrev", False)
        super().__init__(**settings)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """The parsed words; an unknown flag is reported before whatever else is missing because of it."""
        words = list(sys.argv[1:] if args is None else args)
        if (flag := self._unknown_flag(words)) is not None:
            close = difflib.get_close_matches(flag, self._option_string_actions, n=1, cutoff=0.7)
            self.error(f"unknown option {flag}" + (f"; did you mean {close[0]}?" if close else ""))
        parsed, rest = super().parse_known_args(words, namespace)
        if rest:
            self.error(f"unexpected {' '.join(map(repr, rest))}; put a text of several words in quotes")
        return parsed, rest

    def _unknown_flag(self, words: Sequence[str]) -> str | None:
        """The first word in the place of a flag that is none; what follows a command is its own parser's."""
        for word in words:
            if word == "--" or (self._subparsers is not None and not word.startswith("-")):
                return None
            name = word.partition("=")[0] if word.startswith("--") else word[:2]
            if FLAG.match(word) and " " not in word and name not in self._option_string_actions:
                return name
        return None

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is None or value in action.choices:
            return
        choices = list(action.choices)
        if isinstance(action, argparse._SubParsersAction):
            raise argparse.ArgumentError(None, str(UnknownName("command", value, choices)))
        raise argparse.ArgumentError(action, f"expected {', '.join(choices[:-1])} or {choices[-1]}, got {value!r:.40}")

    def error(self, message: str) -> NoReturn:
        """Print one line on stderr and exit with status 2."""
        command = self.prog.removeprefix("siftlm").strip()
        prefix = f"{command}: " if command else ""
        self.exit(2, f"siftlm: {prefix}{message} (try: {self.prog} --help)\n")

    def _print_message(self, message: str, file: Any = None) -> None:
        stream: IO[str] | None = file or sys.stderr
        if stream is not None:
            stream.write(printable(message, stream))


@functools.cache
def parser() -> Parser:
    """The parser of the whole command line."""
    top = Parser(
        prog="siftlm",
        usage="siftlm [-h] [--version] COMMAND …",
    )
    top.add_argument("--version", action="version", version=f"siftlm {__version__}")
    # Not listed by argparse, which knows no groups of commands.
    commands = top.add_subparsers(
        metavar="COMMAND", required=True, parser_class=Parser, prog="siftlm", help=argparse.SUPPRESS
    )
    for module in (memory, search, score, generate, calibrate, evaluate, pick, review, select, serve, mcp, demo):
        module.add(commands)
    top.description = f"{DESCRIPTION}\n{_command_list(commands.choices)}"
    top.epilog = EPILOG
    return top


def _command_list(commands: Mapping[str, argparse.ArgumentParser]) -> str:
    """Every command with its description, group by group."""
    lines = []
    for title, names in GROUPS.items():
        lines.append(f"{title}:")
        for name in names:
            sentence = str(commands[name].description).rstrip(".")
            lines.append(f"  {name:10}  {sentence[0].lower()}{sentence[1:]}")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status.

    >>> main(["--version"])
    siftlm ...
    0
    """
    if sys.stdout is None:
        with contextlib.redirect_stdout(ClosedStdout()):
            return main(argv)
    if argv is None:  # this process runs nothing else
        for name, value in TORCH_ENVIRONMENT.items():
            os.environ.setdefault(name, value)
    flags: Sequence[Flag] = ()
    options: Sequence[str] = ()
    sets: Sequence[str] = ()
    try:
        arguments = parser().parse_args(argv)
        flags = getattr(arguments, "flags", None) or ()
        options, sets = ([name for name, _ in getattr(arguments, given, ())] for given in ("option", "sets"))
        status: int = arguments.run(arguments)
        sys.stdout.flush()  # here, where a closed pipe can still be caught
    except SystemExit as end:  # argparse, after --help or an error
        return end.code if isinstance(end.code, int) else 0
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        return _closed_pipe()
    except SiftlmError as error:
        return _print_error(error.spelled(spelling(flags, options, sets)))
    except MemoryError as error:
        return _print_error(f"not enough memory: {error}" if str(error) else "not enough memory")
    except OSError as error:
        reason = error.strerror or str(error)
        return _print_error(f"{error.filename}: {reason}" if error.filename else reason)
    return status


def _print_error(message: str) -> int:
    if sys.stderr is None:  # print() would write to stdout instead
        return 1
    text, *excerpt = message.rsplit("\n", 2) if CARET.search(message) else [message]
    print(printable(f"siftlm: {' '.join(text.split()).replace(' )', ')')}", sys.stderr), file=sys.stderr)
    for line in excerpt:  # character by character, so that the caret stays in its column
        encoding = getattr(sys.stderr, "encoding", None) or "ascii"
        visible = "".join(c if c.isprintable() else "?" for c in line)
        print(visible.encode(encoding, "replace").decode(encoding), file=sys.stderr)
    return 1


def _closed_pipe() -> int:
    """Redirect stdout to nowhere, since its reader has gone: Python would raise again when it closes it at exit."""
    try:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        os.close(null)
    except (OSError, ValueError):  # stdout is not a file: nothing is flushed at exit either
        pass
    return 128 + 13  # what a shell reports for a program ended by SIGPIPE
