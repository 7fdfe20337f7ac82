"""Pools: whatever holds records to train on, in files, a data set, a list or a memory, read in blocks."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from siftlm.embedding import DEFAULT_EMBEDDER
from siftlm.embedding import embedder as make_embedder
from siftlm.embedding.protocol import Embedder, EmbedderSource
from siftlm.errors import BadRecord, Conflict, InvalidInput, UnknownName, WrongEmbedder, setting
from siftlm.memory import Memory
from siftlm.memory.manifest import MANIFEST_FILE
from siftlm.memory.reading.fields import UnreadableRow
from siftlm.memory.reading.open import open_parts
from siftlm.memory.reading.parquet import common_schema
from siftlm.memory.reading.records import Origin, SkipCounter
from siftlm.picking.records import WholeRecords
from siftlm.types import IntArray, Vectors

# Records that are embedded and written together.
BLOCK_RECORDS = 1024
# How files and data sets are read; see `siftlm.memory.reading.open_source`.
READING = ("format", "split", "glob")


@dataclass(frozen=True, eq=False)
class PoolBlock:
    """Records of a pool that follow each other, as they were written."""

    first: int
    """The number of the first record, counted from 0."""
    records: Sequence[Any]
    """Mappings of fields, texts, documents, or an `UnreadableRow` in the place of one that cannot be read."""
    sources: Sequence[str]
    """``file:line`` of each, or what serves as that."""
    position: int
    """How much of the pool was read with them, in the unit of ``Pool.size``."""
    vectors: Vectors | None = None
    """(len(records), d), where the pool has them."""


class Pool(Origin, Protocol):
    """Numbered records that can be read again and again, in the same order."""

    @property
    def embedder(self) -> Embedder | None:
        """What made the vectors of the pool, if it has some."""

    def blocks(self, start: int = 0) -> Iterator[PoolBlock]:
        """The records from number ``start`` on."""

    def schema(self) -> Any:
        """The Arrow schema of the records; ``None`` where they have no types of their own."""


class RecordPool:
    """Files, folders, data sets and lists of records."""

    embedder = None

    def __init__(self, corpus: Any, **reading: Any) -> None:
        """``reading``: the settings ``format``, ``split`` and ``glob`` of `siftlm.memory.reading.open_source`."""
        self._parts = open_parts(list(corpus) if isinstance(corpus, Iterator) else corpus, WholeRecords(), **reading)
        self._alike = all(part.size is not None and part.unit == self._parts[0].unit for part in self._parts)

    @property
    def name(self) -> str:
        first = self._parts[0].name
        return first if len(self._parts) == 1 else f"{first} and {len(self._parts) - 1} more"

    @property
    def size(self) -> int | None:
        return sum(part.size or 0 for part in self._parts) if self._alike else None

    @property
    def unit(self) -> str:
        return self._parts[0].unit if self._alike else "records"

    def identity(self) -> dict[str, Any]:
        return {"parts": [part.identity() for part in self._parts]}

    def schema(self) -> Any:
        return common_schema(self._parts)

    def blocks(self, start: int = 0) -> Iterator[PoolBlock]:
        number, before, skip = start, 0, SkipCounter(start)
        records: list[Any] = []
        sources: list[str] = []
        position = 0
        for part in self._parts:
            for raw in part.batches(skip):
                rows = raw.rows
                if isinstance(rows, dict):
                    names = list(rows)
                    rows = [dict(zip(names, values, strict=True)) for values in zip(*rows.values(), strict=True)]
                records.extend(rows)
                sources.extend(raw.where(at) for at in range(len(rows)))
                position = before + raw.position if self._alike else number + len(records)
                if len(records) >= BLOCK_RECORDS:
                    yield PoolBlock(number, records, sources, position)
                    number, records, sources = number + len(records), [], []
            before += part.size or 0
        if records:
            yield PoolBlock(number, records, sources, position)


class MemoryPool:
    """The passages of a memory, with the vectors that it has of them."""

    unit = "passages"

    def __init__(self, memory: Memory) -> None:
        self._memory = memory
        self.name = str(memory.path)

    @property
    def embedder(self) -> Embedder:
        return self._memory.embedder

    @property
    def size(self) -> int:
        return len(self._memory)

    def identity(self) -> dict[str, Any]:
        return {"memory": str(self._memory.path.resolve()), "version": self._memory.version}

    def schema(self) -> None:
        """Metadata may be of any type."""

    def blocks(self, start: int = 0) -> Iterator[PoolBlock]:
        rows = self._memory.rows()[start:]
        for first in range(0, len(rows), BLOCK_RECORDS):
            yield self._block(start + first, rows[first : first + BLOCK_RECORDS])

    def _block(self, first: int, rows: IntArray) -> PoolBlock:
        with self._memory.snapshot() as snapshot:
            passages, vectors = snapshot.passages(rows.tolist()), snapshot.vectors(rows)
        records = []
        for one in passages:
            known = {"id": one.id, "meta": dict(one.meta)}
            records.append({"text": one.text, **{name: value for name, value in known.items() if value}})
        return PoolBlock(first, records, [f"{self.name}: row {row}" for row in rows], first + len(rows), vectors)


def check_reading(function: Callable[..., Any], reading: Mapping[str, Any]) -> None:
    """Raise for a keyword that is none of the function's, and none of those that say how files are read."""
    own = [one.name for one in inspect.signature(function).parameters.values() if one.kind is not one.VAR_KEYWORD]
    if unknown := [name for name in reading if name not in READING]:
        raise UnknownName("setting", unknown[0], [*own, *READING])


def open_pool(name: str, pool: Any, **reading: Any) -> Pool:
    """The pool in a memory or its folder, or in anything that `siftlm.memory.reading.open_source` reads.

    ``name`` is the setting that holds it.
    """
    if isinstance(pool, (str, os.PathLike)) and (Path(pool) / MANIFEST_FILE).is_file():
        pool = Memory.open(pool)
    if isinstance(pool, (list, tuple)):
        for one in pool:
            if isinstance(one, os.PathLike) and (Path(one) / MANIFEST_FILE).is_file():
                raise Conflict(f"{setting(name)} has other parts beside the memory {one}: a memory is a pool alone")
    if not isinstance(pool, Memory):
        return RecordPool(pool, **reading)
    if given := [key for key, value in reading.items() if value not in (None, "train")]:
        raise Conflict(f"{setting(given[0])} is for files and data sets, and {setting(name)} is a memory")
    return MemoryPool(pool)


def embedder_for(pool: Pool, given: EmbedderSource | None, *, needed: bool) -> Embedder | None:
    """The embedder of pool and targets; ``None`` where all vectors are given and it is not named."""
    own = pool.embedder
    if own is not None:
        if given is not None and (made := make_embedder(given)).fingerprint != own.fingerprint:
            raise WrongEmbedder(f"{pool.name} was built with embedder {own.name!r}, not with {made.name!r}")
        return own
    if given is None and not needed:
        return None
    return make_embedder(DEFAULT_EMBEDDER if given is None else given)


def check_readable(record: Any, source: str) -> None:
    """Raise `BadRecord` for a record that could not be read."""
    if isinstance(record, UnreadableRow):
        raise BadRecord(f"{source}: {record}")


def vector_rows(name: str, vectors: Any) -> Vectors:
    """(n, d) vectors from an array or from a .npy file, which is mapped and not loaded."""
    if isinstance(vectors, (str, os.PathLike)):
        path = Path(vectors)
        try:
            array: Any = np.load(path, mmap_mode="r", allow_pickle=False)
        except FileNotFoundError:
            raise InvalidInput(f"there is no file {str(path)!r} ({setting(name)})") from None
        except (OSError, ValueError, EOFError) as error:
            raise InvalidInput(f"{path} cannot be read as a .npy array: {error}") from error
        vectors = array
    try:
        array = np.asarray(vectors)
    except (TypeError, ValueError) as error:
        raise InvalidInput(f"{setting(name)} is not an array of numbers: {error}") from error
    if array.ndim != 2 or array.dtype.kind not in "fiu" or not array.shape[1]:
        raise InvalidInput(f"{setting(name)} must hold a vector in each row, got {array.dtype} of shape {array.shape}")
    rows: Vectors = array if array.dtype.kind == "f" else array.astype(np.float32)
    return rows


def fetch(pool: Pool, numbers: IntArray) -> tuple[list[Any], list[str]]:
    """The records of these numbers and where they stand, in the order of the numbers given."""
    places = {number: at for at, number in enumerate(numbers.tolist())}
    records: list[Any] = [None] * len(numbers)
    sources = [""] * len(numbers)
    missing = set(places)
    for block in pool.blocks():
        for at in sorted(missing & set(range(block.first, block.first + len(block.records)))):
            records[places[at]] = block.records[at - block.first]
            sources[places[at]] = block.sources[at - block.first]
            missing.discard(at)
        if not missing:
            return records, sources
    raise InvalidInput(f"{pool.name}: record {min(missing) + 1:,} is gone: the pool has changed meanwhile")
