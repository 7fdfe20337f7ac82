"""A folder of data files: the records of all of them, in the order of their names."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from siftlm.memory.reading.listing import folder_identity, printable_path
from siftlm.memory.reading.parts import RawRecord, SkipCounter, SourcePart


class ShardedFiles:
    """Files that are read one after the other, all of which count bytes."""

    unit = "bytes"

    def __init__(self, folder: Path, glob: str | None, files: Sequence[SourcePart]) -> None:
        self._folder, self._glob, self._files = folder, glob, files
        self.name = printable_path(folder)
        self.size = sum(file.size or 0 for file in files)

    def identity(self) -> dict[str, Any]:
        return {"kind": "shards", **folder_identity(self._folder, self._glob)}

    def rows(self, skip: SkipCounter) -> Iterator[RawRecord]:
        before = 0
        for file in self._files:
            for row in file.rows(skip):
                yield RawRecord(row.where, row.value, row.problem, before + row.position)
            before += file.size or 0
