"""Texts of a wished length, cut where they have a seam and joined where they are short.

A memory cuts long texts into passages by itself. What it cannot know is what a passage should be called, and where a
definition begins: so source texts come in pieces that begin with a definition and are named after it.
"""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

Definition = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
_BLANK = re.compile(r"\n[^\S\n]*\n")


@dataclass(frozen=True)
class Piece:
    """A text, and what is defined or described in it, such as ``heapq.merge``."""

    name: str
    text: str


def parsed(source: str) -> ast.Module | None:
    """The syntax tree, or None where this Python cannot read the text."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # some modules show what not to write
        try:
            return ast.parse(source)
        except (SyntaxError, ValueError, RecursionError):
            return None


def of_source(name: str, source: str, tree: ast.Module, largest: int) -> list[Piece]:
    """Cut a module into its definitions; a class that is longer than ``largest`` characters into its own.

    Together the pieces hold every line that is not blank, in order.
    """
    # Not splitlines(): a form feed ends no line for the parser.
    lines = source.split("\n")
    return packed(_between(name, lines, _seams(tree, name, lines, largest)), largest)


def _seams(node: ast.Module | ast.ClassDef, name: str, lines: list[str], largest: int) -> dict[int, str]:
    """The lines (the first is 0) on which definitions begin, with the comments and decorators above; their names."""
    seams: dict[int, str] = {}
    for child in node.body:
        if not isinstance(child, Definition):
            continue
        inner = f"{name}.{child.name}"
        first = min([child.lineno, *(decorator.lineno for decorator in child.decorator_list)]) - 1
        while first > 0 and lines[first - 1].lstrip().startswith("#"):
            first -= 1
        seams[first] = inner
        end = child.end_lineno or child.lineno
        seams.setdefault(end, name)
        if isinstance(child, ast.ClassDef) and sum(map(len, lines[first:end])) > largest:
            seams = {**_seams(child, inner, lines, largest), **seams}
    return seams


def _between(name: str, lines: list[str], seams: dict[int, str]) -> Iterator[Piece]:
    starts = sorted({0: name, **seams}.items())
    ends = [start for start, _ in starts[1:]] + [len(lines)]
    for (start, inner), end in zip(starts, ends, strict=True):
        yield Piece(inner, "\n".join(lines[start:end]))


def packed(pieces: Iterable[Piece], largest: int) -> list[Piece]:
    """Join neighbours while they stay within ``largest`` characters, and cut what does not.

    >>> [piece.text for piece in packed([Piece("a", "one"), Piece("b", "two"), Piece("c", "three")], 8)]
    ['one\\n\\ntwo', 'three']
    """
    joined: list[Piece] = []
    for piece in (part for whole in pieces for part in cut(whole, largest)):
        if joined and len(joined[-1].text) + 2 + len(piece.text) <= largest:
            last = joined[-1]
            # The header of a module or class says less than what is defined below it.
            name = piece.name if piece.name.startswith(last.name + ".") else last.name
            joined[-1] = Piece(name, f"{last.text}\n\n{piece.text}")
        else:
            joined.append(piece)
    return joined


def cut(piece: Piece, largest: int) -> Iterator[Piece]:
    """Cut a text into parts of at most ``largest`` characters: at a blank line, else a line's end, else anywhere."""
    rest = _trimmed(piece.text)
    while len(rest) > largest:
        window = rest[: largest + 1]
        blank = [match.start() for match in _BLANK.finditer(window) if match.start() > largest // 4]
        at = blank[-1] if blank else window.rfind("\n")
        if at <= 0:
            at = largest
        yield Piece(piece.name, rest[:at].rstrip())
        rest = _trimmed(rest[at:])
    if rest:
        yield Piece(piece.name, rest)


def _trimmed(text: str) -> str:
    """Without blank lines at its beginning and white space at its end; the first line stays indented."""
    return re.sub(r"\A(?:[^\S\n]*\n)+", "", text).rstrip()
