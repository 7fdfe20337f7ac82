"""Files of lines: JSON lines, CSV and TSV, packed or plain, alone or in shards."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Any

from siftlm.errors import InvalidInput, MissingExtra
from siftlm.extras import load
from siftlm.memory.reading.fields import FieldMapping, UnreadableRow
from siftlm.memory.reading.files import file_identity, folder_identity, printable_path
from siftlm.memory.reading.parquet import common_schema
from siftlm.memory.reading.records import RawBatch, SkipCounter, SourcePart, unreadable

_PLAIN_BYTES = 1 << 18
# Packed bytes may grow a thousandfold: they are unpacked in small pieces, smaller ones where they grow more.
_PACKED_BYTES = 1 << 14
_MIN_PACKED_BYTES = 1 << 7
_MAX_UNPACKED_BYTES = 1 << 18
_COMPRESSION_MAGIC = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd"}
_COMPRESSION_SUFFIXES = {".gz": "gzip", ".zst": "zstd"}


class BrokenStream(Exception):
    """The file cannot be read any further; the message says why."""


class ByteStream:
    """The unpacked content of a file, piece by piece; ``position`` counts its bytes on disk."""

    def __init__(self, path: Path) -> None:
        self.path, self.position = path, 0

    def pieces(self) -> Iterator[bytes]:
        """The content; raises `BrokenStream` after the last readable byte."""
        try:
            with open(self.path, "rb") as file:
                packing = _compression(self.path, file.peek(4)[:4])
                raw = self._raw(file, _PLAIN_BYTES if packing is None else _PACKED_BYTES)
                yield from raw if packing is None else _decompress(raw, packing)
        except OSError as error:
            raise BrokenStream(f"cannot be read: {error.strerror or error}") from error

    def lines(self) -> Iterator[bytes]:
        """The lines without their line feeds; a byte order mark is dropped. The last one may lack its line feed."""
        return chain.from_iterable(self.line_blocks())

    def line_blocks(self) -> Iterator[list[bytes]]:
        """The same lines, those together that end in the same piece of the file."""
        rest: list[bytes] = []
        first = True
        for piece in self.pieces():
            head, *tail = piece.split(b"\n")
            rest.append(head)
            if not tail:
                continue
            line = b"".join(rest)
            rest = [tail.pop()]
            yield [line.removeprefix(b"\xef\xbb\xbf") if first else line, *tail]
            first = False
        line = b"".join(rest)
        if line:
            yield [line.removeprefix(b"\xef\xbb\xbf") if first else line]

    def _raw(self, file: Any, size: int) -> Iterator[bytes]:
        while piece := file.read(size):
            self.position += len(piece)
            yield piece


def _compression(path: Path, head: bytes) -> str | None:
    for magic, packing in _COMPRESSION_MAGIC.items():
        if head.startswith(magic):
            return packing
    return _COMPRESSION_SUFFIXES.get(path.suffix.lower()) if head else None


def _decompress(raw: Iterator[bytes], packing: str) -> Iterator[bytes]:
    """The unpacked content; a file may hold several packed streams in a row, each of which must be complete."""
    start, failures = _decompressor(packing)
    unpacker, fed = None, _MIN_PACKED_BYTES
    for piece in raw:
        while piece:
            if unpacker is None:
                # Some writers pad with zeros after the end.
                piece = piece.lstrip(b"\0")
                if not piece:
                    break
                unpacker = start()
            try:
                content = unpacker.decompress(piece[:fed])
            except failures as error:
                raise BrokenStream(f"is not a sound {packing} file: {error}") from error
            for at in range(0, len(content), _MAX_UNPACKED_BYTES):
                yield content[at : at + _MAX_UNPACKED_BYTES]
            piece = unpacker.unused_data + piece[fed:] if unpacker.eof else piece[fed:]
            unpacker = None if unpacker.eof else unpacker
            if len(content) > _MAX_UNPACKED_BYTES:
                fed = max(fed // 4, _MIN_PACKED_BYTES)
            elif len(content) < _MAX_UNPACKED_BYTES // 2:
                fed = min(fed * 2, _PACKED_BYTES)
    if unpacker is not None:
        raise BrokenStream(
            f"ends in the middle of its {packing} stream: it was cut off, and what followed is not there"
        )


def _decompressor(packing: str) -> tuple[Callable[[], Any], tuple[type[Exception], ...]]:
    if packing == "gzip":
        return (lambda: zlib.decompressobj(wbits=31)), (zlib.error,)
    zstandard = load("zstandard", "memory")
    # The largest window that the format knows: corpora are often packed with `zstd --long=31`.
    unpack = zstandard.ZstdDecompressor(max_window_size=2**31)
    return unpack.decompressobj, (zstandard.ZstdError,)


class JsonLinesFile:
    """One file of JSON lines. Blank lines are no records, but they count as lines."""

    unit = "bytes"

    def __init__(self, path: Path) -> None:
        self._path = path
        self.name = printable_path(path)
        self.size = path.stat().st_size

    def identity(self) -> dict[str, Any]:
        return {"kind": "jsonl", **file_identity(self._path)}

    def batches(self, skip: SkipCounter) -> Iterator[RawBatch]:
        stream, before = ByteStream(self._path), 0
        try:
            for lines in stream.line_blocks():
                numbers: Sequence[int] = range(before + 1, before + 1 + len(lines))
                before += len(lines)
                if not all(lines) or any(map(bytes.isspace, lines)):
                    numbers = [
                        number for number, line in zip(numbers, lines, strict=True) if line and not line.isspace()
                    ]
                    lines = [line for line in lines if line and not line.isspace()]
                first = skip.some(len(lines))
                if first < len(lines):
                    yield self._batch(lines[first:], numbers[first:], stream.position)
        except BrokenStream as broken:
            if not skip.some(1):
                problem = f"{printable_path(self._path.name)} {broken}"
                yield unreadable(f"{self.name}:{before + 1}", problem, stream.position)

    def _batch(self, lines: list[bytes], numbers: Sequence[int], position: int) -> RawBatch:
        rows = _json_objects(lines)
        if rows is None:
            rows = [self._object(line, number) for line, number in zip(lines, numbers, strict=True)]
        return RawBatch(rows, lambda at: f"{self.name}:{numbers[at]}", position)

    def _object(self, line: bytes, number: int) -> dict[str, Any] | UnreadableRow:
        try:
            value = json.loads(line.decode("utf-8"))
        except UnicodeDecodeError as error:
            return UnreadableRow(f"not UTF-8 at byte {error.start + 1} of the line")
        except json.JSONDecodeError as error:
            if number == 1 and line.strip() == b"[":
                raise self._one_list(number) from None
            return UnreadableRow(f"invalid JSON at column {error.colno}: {error.msg}")
        except (ValueError, RecursionError) as error:
            return UnreadableRow(f"JSON that cannot be read: {error}")
        if isinstance(value, dict):
            return value
        if number == 1 and isinstance(value, list) and value and isinstance(value[0], dict):
            raise self._one_list(number)
        return UnreadableRow("not a JSON object with fields")

    def _one_list(self, number: int) -> InvalidInput:
        return InvalidInput(f"{self.name}:{number}: this is one long JSON list; write one object a line instead")


# All digits made zeros, so that many in a row are found fast: orjson rounds longer whole numbers.
_DIGITS_AS_ZEROS = bytes(ord("0") if ord("0") <= at <= ord("9") else at for at in range(256))
_LONG_NUMBER = b"0" * 19
_DECODER = json.JSONDecoder()


def _json_objects(lines: Sequence[bytes]) -> list[Any] | None:
    """The objects of these lines; None where one of them is none, or must be looked at more closely."""
    parse = _json_parser()
    if parse is not _parse_line and _LONG_NUMBER in b"\n".join(lines).translate(_DIGITS_AS_ZEROS):
        parse = _parse_line
    try:
        rows: list[Any] = list(map(parse, lines))
    except (ValueError, RecursionError):
        return None
    return rows if set(map(type, rows)) == {dict} else None


@cache
def _json_parser() -> Callable[[bytes], Any]:
    """orjson where it is installed: it reads what Python's library reads, or refuses."""
    try:
        parse: Callable[[bytes], Any] = load("orjson", "memory").loads
    except MissingExtra:
        parse = _parse_line
    return parse


def _parse_line(line: bytes) -> Any:
    text = line.decode("utf-8")
    value, end = _DECODER.raw_decode(text)
    if end != len(text) and text[end:].strip(" \t\r\n"):
        raise ValueError("something follows the value")
    return value


# A quote that is never closed takes the rest of the file with it, at most this many characters.
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

    def batches(self, skip: SkipCounter) -> Iterator[RawBatch]:
        stream = ByteStream(self._path)
        lines = _CountedLines(stream)
        names: list[str] | None = None
        rows: list[Any] = []
        numbers: list[int] = []
        position = 0
        try:
            while (line := lines.next()) is not None:
                began = lines.number
                if not line or line.isspace():
                    continue
                if rows and stream.position != position:
                    yield self._batch(rows, numbers, position).without(skip)
                    rows, numbers = [], []
                problem, values = self._values(line, lines)
                position = stream.position
                if names is None:
                    names = self._names(values, problem, began)
                else:
                    rows.append(self._row(names, values, problem))
                    numbers.append(began)
        except BrokenStream as broken:
            rows.append(UnreadableRow(f"{printable_path(self._path.name)} {broken}"))
            numbers.append(lines.number + 1)
        yield self._batch(rows, numbers, stream.position).without(skip)

    def _batch(self, rows: list[Any], numbers: list[int], position: int) -> RawBatch:
        return RawBatch(rows, lambda at: f"{self.name}:{numbers[at]}", position)

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

    def _row(self, names: list[str], values: list[str], problem: str | None) -> dict[str, str] | UnreadableRow:
        if problem is None and len(values) != len(names):
            problem = f"has {len(values)} fields, there are {len(names)} columns"
        if problem is None and any(_has_invalid_bytes(value) for value in values):
            problem = "not UTF-8"
        return dict(zip(names, values, strict=True)) if problem is None else UnreadableRow(problem)


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


class ShardedFiles:
    """Files that are read one after the other, all of which count bytes."""

    unit = "bytes"

    def __init__(self, folder: Path, glob: str | None, files: Sequence[SourcePart]) -> None:
        self._folder, self._glob, self._files = folder, glob, files
        self.name = printable_path(folder)
        self.size = sum(file.size or 0 for file in files)
        self.empty = sum(not file.size for file in files)

    def identity(self) -> dict[str, Any]:
        return {"kind": "shards", **folder_identity(self._folder, self._glob)}

    def schema(self) -> Any:
        """The types of the columns, where all files have some."""
        return common_schema(self._files)

    def batches(self, skip: SkipCounter) -> Iterator[RawBatch]:
        before = 0
        for file in self._files:
            for batch in file.batches(skip):
                yield replace(batch, position=before + batch.position)
            before += file.size or 0
