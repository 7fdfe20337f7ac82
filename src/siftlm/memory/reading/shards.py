"""A folder of data files: the records of all of them, in the order of their names."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from siftlm.memory.reading.listing import folder_identity, shown
from siftlm.memory.reading.parts import Part, Row, Skip


class Shards:
    """Files that are read one after the other, all of which count bytes."""

    unit = "bytes"

    def __init__(self, folder: Path, glob: str | None, files: Sequence[Part]) -> None:
        self._folder, self._glob, self._files = folder, glob, files
        self.name = shown(folder)
        self.size = sum(file.size or 0 for file in files)

    def identity(self) -> dict[str, Any]:
        return {"kind": "shards", **folder_identity(self._folder, self._glob)}

    def rows(self, skip: Skip) -> Iterator[Row]:
        before = 0
        for file in self._files:
            for row in file.rows(skip):
                yield Row(row.where, row.value, row.problem, before + row.position)
            before += file.size or 0
