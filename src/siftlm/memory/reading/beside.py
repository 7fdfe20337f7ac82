"""Vectors that lie beside a corpus: row i of the array belongs to record i, bad records included."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from siftlm.errors import InvalidInput
from siftlm.memory.reading.fields import usable_vector
from siftlm.types import Vectors


class VectorFile:
    """An array of (n, d) numbers; a file of it is mapped, not loaded."""

    def __init__(self, vectors: str | os.PathLike[str] | Vectors, folder: Path | None) -> None:
        self._path = None if isinstance(vectors, np.ndarray) else _find_vector_file(Path(vectors), folder)
        self.name = "the array of vectors" if self._path is None else str(self._path)
        self._array: Vectors = vectors if isinstance(vectors, np.ndarray) else self._map()
        if self._array.ndim != 2 or self._array.dtype.kind not in "fiu":
            held = f"shape {self._array.shape} of {self._array.dtype}"
            raise InvalidInput(f"{self.name} has {held}; one row of numbers for each record is needed")

    def identity(self) -> dict[str, Any]:
        """What tells this array from another."""
        shape = list(self._array.shape)
        if self._path is None:
            return {"path": None, "shape": shape}
        status = self._path.stat()
        return {"path": str(self._path.resolve()), "bytes": status.st_size, "mtime_ns": status.st_mtime_ns}

    def vector(self, number: int) -> Vectors:
        """That of record ``number``; a copy, since the file may be unmapped before the record is used."""
        if number >= len(self._array):
            raise InvalidInput(f"{self.name} has {len(self._array)} rows, the corpus has more records than that")
        return usable_vector(np.array(self._array[number]))

    def check_end(self, records: int) -> None:
        """Vectors left over mean that vectors and records do not belong together."""
        if records < len(self._array):
            raise InvalidInput(f"{self.name} has {len(self._array)} rows, the corpus only {records} records")

    def _map(self) -> Vectors:
        try:
            array: Vectors = np.load(str(self._path), mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise InvalidInput(f"{self._path} cannot be read as a .npy array: {error}") from error
        return array


def _find_vector_file(path: Path, folder: Path | None) -> Path:
    for place in (path, *([folder / path] if folder is not None else [])):
        if place.is_file():
            return place
    raise InvalidInput(f"there is no file {path} with vectors")
