"""JSON lines: one object a line, plain or packed with gzip or zstd."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from siftlm.errors import InvalidInput
from siftlm.memory.reading.listing import file_identity, printable_path
from siftlm.memory.reading.parts import RawRecord, SkipCounter
from siftlm.memory.reading.stream import BrokenStream, ByteStream


class JsonLinesFile:
    """One file of JSON lines. Blank lines are no records, but they count as lines."""

    unit = "bytes"

    def __init__(self, path: Path) -> None:
        self._path = path
        self.name = printable_path(path)
        self.size = path.stat().st_size

    def identity(self) -> dict[str, Any]:
        return {"kind": "jsonl", **file_identity(self._path)}

    def rows(self, skip: SkipCounter) -> Iterator[RawRecord]:
        stream, number = ByteStream(self._path), 0
        try:
            for number, line in enumerate(stream.lines(), 1):
                if not line or line.isspace() or skip.one():
                    continue
                yield self._row(line, number, stream.position)
        except BrokenStream as broken:
            if not skip.one():
                where = f"{self.name}:{number + 1}"
                yield RawRecord(where, problem=f"{printable_path(self._path.name)} {broken}", position=stream.position)

    def _row(self, line: bytes, number: int, position: int) -> RawRecord:
        where = f"{self.name}:{number}"
        try:
            value = json.loads(line.decode("utf-8"))
        except UnicodeDecodeError as error:
            return RawRecord(where, problem=f"not UTF-8 at byte {error.start + 1} of the line", position=position)
        except json.JSONDecodeError as error:
            if number == 1 and line.strip() == b"[":
                raise InvalidInput(f"{where}: this is one long JSON list; write one object a line instead") from None
            return RawRecord(where, problem=f"invalid JSON at column {error.colno}: {error.msg}", position=position)
        except (ValueError, RecursionError) as error:
            return RawRecord(where, problem=f"JSON that cannot be read: {error}", position=position)
        if not isinstance(value, dict):
            if number == 1 and isinstance(value, list) and value and isinstance(value[0], dict):
                raise InvalidInput(f"{where}: this is one long JSON list; write one object a line instead")
            return RawRecord(where, problem="not a JSON object with fields", position=position)
        return RawRecord(where, value, None, position)
