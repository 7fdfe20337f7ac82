"""CSV and TSV: a line of names, then a record a line; quoted fields may hold delimiters and line ends.

Python's `csv` refuses fields of more than 128 KiB unless a limit is raised for the whole process, and it cannot say
which line is not UTF-8; a test compares the two on what both read.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from siftlm.errors import InvalidInput
from siftlm.memory.reading.fields import FieldMapping
from siftlm.memory.reading.listing import file_identity, printable_path
from siftlm.memory.reading.parts import RawRecord, SkipCounter
from siftlm.memory.reading.stream import BrokenStream, ByteStream

# A quote that is never closed takes the rest of the file with it, at most so many characters.
_MAX_RECORD_CHARACTERS = 1 << 28


class DelimitedFile:
    """One file of CSV (``","``) or TSV (``"\\t"``), plain or packed. All values are strings."""

    unit = "bytes"

    def __init__(self, path: Path, delimiter: str, fields: FieldMapping) -> None:
        self._path, self._delimiter, self._fields = path, delimiter, fields
        self.name = printable_path(path)
        self.size = path.stat().st_size

    def identity(self) -> dict[str, Any]:
        return {"kind": "csv" if self._delimiter == "," else "tsv", **file_identity(self._path)}

    def rows(self, skip: SkipCounter) -> Iterator[RawRecord]:
        stream = ByteStream(self._path)
        lines = _CountedLines(stream)
        names: list[str] | None = None
        try:
            while (line := lines.next()) is not None:
                began = lines.number
                if not line or line.isspace():
                    continue
                problem, values = self._values(line, lines)
                if names is None:
                    names = self._names(values, problem, began)
                elif not skip.one():
                    yield self._row(names, values, problem, began, stream.position)
        except BrokenStream as broken:
            if not skip.one():
                where = f"{self.name}:{lines.number + 1}"
                yield RawRecord(where, problem=f"{printable_path(self._path.name)} {broken}", position=stream.position)

    def _values(self, line: str, lines: _CountedLines) -> tuple[str | None, list[str]]:
        try:
            return None, split_record(line, self._delimiter, lines)
        except _MalformedRecord as malformed:
            return str(malformed), []

    def _names(self, values: list[str], problem: str | None, line: int) -> list[str]:
        where = f"{self.name}:{line}"
        if problem is not None:
            raise InvalidInput(f"{where}: {problem}, in the line that names the columns")
        twice = sorted({name for name in values if values.count(name) > 1})
        if twice:
            raise InvalidInput(f"{where}: two columns are called {twice[0]!r}")
        self._fields.check_columns(values, where)
        return values

    def _row(self, names: list[str], values: list[str], problem: str | None, line: int, position: int) -> RawRecord:
        if problem is None and len(values) != len(names):
            problem = f"has {len(values)} fields, there are {len(names)} columns"
        if problem is None and any(_has_invalid_bytes(value) for value in values):
            problem = "not UTF-8"
        where = f"{self.name}:{line}"
        if problem is not None:
            return RawRecord(where, problem=problem, position=position)
        return RawRecord(where, dict(zip(names, values, strict=True)), None, position)


class _MalformedRecord(Exception):
    """A record whose quotes are wrong."""


class _CountedLines:
    """Lines as text, counted. Bytes that are not UTF-8 stay visible as lone surrogates."""

    def __init__(self, stream: ByteStream) -> None:
        self._lines = stream.lines()
        self.number = 0

    def next(self) -> str | None:
        line = next(self._lines, None)
        if line is None:
            return None
        self.number += 1
        return line.decode("utf-8", "surrogateescape")


def split_record(line: str, delimiter: str, lines: Any) -> list[str]:
    """The fields of the record that begins with ``line``; ``lines.next()`` gives further ones while a quote is open."""
    if '"' not in line:
        return line.removesuffix("\r").split(delimiter)
    values, at = [], 0
    while True:
        if line.startswith('"', at):
            value, line, at = _quoted(line, at + 1, lines)
        else:
            value = ""
        end = line.find(delimiter, at)
        if end < 0:
            values.append(value + line[at:].removesuffix("\r"))
            return values
        values.append(value + line[at:end])
        at = end + 1


def _quoted(line: str, at: int, lines: Any) -> tuple[str, str, int]:
    """The content of a quoted field, and where in which line it ended."""
    pieces, length = [], 0
    while True:
        quote = line.find('"', at)
        if quote < 0:
            pieces.append(line[at:] + "\n")
            length += len(pieces[-1])
            following = lines.next() if length <= _MAX_RECORD_CHARACTERS else None
            if following is None:
                raise _MalformedRecord("a quote is opened here and never closed")
            line, at = following, 0
        elif line.startswith('"', quote + 1):
            pieces.append(line[at : quote + 1])
            at = quote + 2
        else:
            pieces.append(line[at:quote])
            return "".join(pieces), line, quote + 1


def _has_invalid_bytes(value: str) -> bool:
    if value.isascii():
        return False
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        return True
    return False
