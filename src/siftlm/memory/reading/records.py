"""Numbered records, good or bad, and the sources that deliver them."""

from __future__ import annotations

import os
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np

from siftlm.errors import InvalidInput
from siftlm.memory.reading.columns import CheckedRows, DocumentBatch, Table, check_rows
from siftlm.memory.reading.fields import FieldMapping, UnreadableRow
from siftlm.types import Document, Vectors


@dataclass(frozen=True)
class Record:
    """One record of an input: a document, or the problem with it."""

    number: int
    """Counted from 0 through the whole input, bad ones included, so that a reader can go on after any."""
    where: str
    """``file:line``, or what serves as that."""
    document: Document | None
    problem: str | None = None
    """Why there is no document."""
    position: int = 0
    """How much of the input was read, in the unit of ``Source.size``."""


class Origin(Protocol):
    """What records come from: files, a data set, a list."""

    @property
    def name(self) -> str:
        """The path or the data set, for people."""

    @property
    def size(self) -> int | None:
        """The size in `unit`, where that is known without reading it."""

    @property
    def unit(self) -> str:
        """The unit of the size, and of positions in it: ``bytes``, ``files``, ``records``."""

    def identity(self) -> dict[str, Any]:
        """Whatever distinguishes this input from others, and from itself after a change; JSON can hold it."""


class Source(Origin, Protocol):
    """An input that can be read from any record on, again and again, in the same order."""

    @property
    def empty(self) -> int:
        """Files of a folder that hold nothing; they are passed over, and are no bad records."""

    def read(self, start: int = 0) -> Iterator[Record]:
        """The records from number ``start`` on; memory use does not grow with the input."""

    def batches(self, start: int = 0) -> Iterator[RecordBatch]:
        """The same records as columns, in batches as they come."""


class RecordProblem(NamedTuple):
    """A record that gives no document."""

    number: int
    where: str
    problem: str


@dataclass(frozen=True, eq=False)
class RecordBatch:
    """Records of an input that follow each other: the documents as columns, and the problems with the others."""

    first: int
    """The number of the first record."""
    count: int
    numbers: Sequence[int]
    """The number of each document."""
    documents: DocumentBatch
    problems: Sequence[RecordProblem]
    position: int
    """How much of the input was read with them, in the unit of ``Source.size``."""
    where: Callable[[int], str]
    """``file:line`` of the record of a number, or what serves as that."""

    def records(self) -> Iterator[Record]:
        """The records one by one."""
        problems = {one.number: one.problem for one in self.problems}
        at = 0
        for number in range(self.first, self.first + self.count):
            problem = problems.get(number)
            document = None if problem is not None else self.documents.document(at)
            at += problem is None
            yield Record(number, self.where(number), document, problem, self.position)

    def slice(self, start: int, end: int) -> RecordBatch:
        """The records from the ``start``-th to the ``end``-th, counted from the first."""
        if start <= 0 and end >= self.count:
            return self
        low, high = self.first + start, self.first + min(end, self.count)
        begin, stop = bisect_left(self.numbers, low), bisect_left(self.numbers, high)
        problems = [one for one in self.problems if low <= one.number < high]
        return replace(
            self,
            first=low,
            count=high - low,
            numbers=self.numbers[begin:stop],
            documents=self.documents.slice(begin, stop),
            problems=problems,
        )

    @classmethod
    def joined(cls, batches: Sequence[RecordBatch]) -> RecordBatch:
        """Batches that follow each other."""
        if len(batches) == 1:
            return batches[0]
        ends = [(batch.first + batch.count, batch.where) for batch in batches]
        return cls(
            batches[0].first,
            sum(batch.count for batch in batches),
            [number for batch in batches for number in batch.numbers],
            DocumentBatch.joined([batch.documents for batch in batches]),
            [problem for batch in batches for problem in batch.problems],
            batches[-1].position,
            lambda number: next(where for end, where in ends if number < end)(number),
        )


@dataclass(frozen=True)
class RawBatch:
    """Rows as they were read, before their texts are looked for."""

    rows: Sequence[Any] | Table
    """Mappings of fields, texts, documents or `UnreadableRow`; or columns by their names."""
    where: Callable[[int], str]
    """``file:line`` of a row, or what serves as that."""
    position: int
    """How much of the part was read when these rows were."""

    def __len__(self) -> int:
        if isinstance(self.rows, Mapping):
            return len(next(iter(self.rows.values()), ()))
        return len(self.rows)

    def without(self, skip: SkipCounter) -> RawBatch:
        """The batch without the rows that are to be skipped."""
        first = skip.some(len(self))
        if not first:
            return self
        rows: Sequence[Any] | Table = (
            {name: column[first:] for name, column in self.rows.items()}
            if isinstance(self.rows, Mapping)
            else self.rows[first:]
        )
        where = self.where
        return RawBatch(rows, lambda at: where(first + at), self.position)

    def front(self) -> tuple[int, Mapping[Any, Any]] | None:
        """The first row that is a mapping, and its number in the batch."""
        if isinstance(self.rows, Mapping):
            return 0, {name: column[0] for name, column in self.rows.items()}
        return next(((at, row) for at, row in enumerate(self.rows) if isinstance(row, Mapping)), None)


def unreadable(where: str, problem: str, position: int) -> RawBatch:
    """A batch of one row that cannot be read."""
    return RawBatch([UnreadableRow(problem)], lambda _: where, position)


@dataclass
class SkipCounter:
    """The rows that are still to be skipped; a part counts them down."""

    left: int

    def some(self, rows: int) -> int:
        """How many of so many rows are to be skipped."""
        skipped = min(self.left, rows)
        self.left -= skipped
        return skipped

    def block(self, rows: int) -> bool:
        """Whether this whole block of rows is to be skipped."""
        if self.left < rows:
            return False
        self.left -= rows
        return True


class SourcePart(Protocol):
    """One file, folder, data set or iterable of a source."""

    @property
    def name(self) -> str:
        """The part's name, for people."""

    @property
    def size(self) -> int | None:
        """The size in the unit of `RawBatch.position`."""

    @property
    def unit(self) -> str:
        """The unit of size and position."""

    def identity(self) -> dict[str, Any]:
        """The `Source.identity` of this part, without the names of the fields."""

    def batches(self, skip: SkipCounter) -> Iterator[RawBatch]:
        """All rows in order, without the first ``skip.left``, which are skipped as cheaply as possible.

        Where a batch ends does not depend on what is skipped.
        """


@runtime_checkable
class FolderPart(Protocol):
    """A part that is a folder."""

    @property
    def empty(self) -> int:
        """Files that hold nothing."""


class RecordReader:
    """The `Source` of every kind of input: its parts one after the other, as numbered records."""

    def __init__(
        self, parts: Sequence[SourcePart], fields: FieldMapping, beside: VectorFile | None, settings: Mapping[str, Any]
    ):
        self._parts, self._fields, self._beside, self._settings = parts, fields, beside, dict(settings)
        # Sizes can only be added up where all are known and count the same thing; else whole parts are counted.
        self._alike = all(part.size is not None and part.unit == parts[0].unit for part in parts)

    @property
    def name(self) -> str:
        first = self._parts[0].name
        return first if len(self._parts) == 1 else f"{first} and {len(self._parts) - 1} more"

    @property
    def size(self) -> int | None:
        if len(self._parts) == 1:
            return self._parts[0].size
        return sum(part.size or 0 for part in self._parts) if self._alike else len(self._parts)

    @property
    def unit(self) -> str:
        return self._parts[0].unit if self._alike or len(self._parts) == 1 else "inputs"

    @property
    def empty(self) -> int:
        return sum(part.empty for part in self._parts if isinstance(part, FolderPart))

    def identity(self) -> dict[str, Any]:
        identity = {"parts": [part.identity() for part in self._parts], "settings": self._settings}
        return identity if self._beside is None else {**identity, "vectors": self._beside.identity()}

    def read(self, start: int = 0) -> Iterator[Record]:
        return _one_by_one(self.batches(start))

    def batches(self, start: int = 0) -> Iterator[RecordBatch]:
        if start < 0:
            raise InvalidInput(f"start={start}: records are counted from 0")
        return self._batches(start)

    def _batches(self, start: int) -> Iterator[RecordBatch]:
        # The first vector of the input sets the width, wherever reading begins.
        width = self._first_width() if start and self._fields.vector is not None else None
        number, skip, unchecked = start, SkipCounter(start), start == 0
        for before, part in self._offsets():
            for raw in part.batches(skip):
                if not len(raw):
                    continue
                front = raw.front() if unchecked else None
                if front is not None:
                    self._fields.check_present(front[1], raw.where(front[0]))
                    unchecked = False
                batch = self._batch(number, raw, before, width)
                if width is None and batch.documents.vectors is not None:
                    width = batch.documents.vectors.shape[1]
                number += len(raw)
                yield batch
                del raw, batch  # before the next are read
        if self._beside is not None and not skip.left:
            self._beside.check_end(number)

    def _batch(self, number: int, raw: RawBatch, before: int, width: int | None) -> RecordBatch:
        checked = check_rows(raw.rows, self._fields, width)
        if self._beside is not None:
            checked = self._beside.beside(checked, number)
        numbers: Sequence[int] = range(number, number + len(raw))
        if checked.problems:
            numbers = [number + at for at in checked.positions]
        where = raw.where
        problems = [RecordProblem(number + at, where(at), why) for at, why in checked.problems.items()]
        position = before + (raw.position if self._alike or len(self._parts) == 1 else 0)
        return RecordBatch(
            number, len(raw), numbers, checked.documents, problems, position, lambda of: where(of - number)
        )

    def _offsets(self) -> Iterator[tuple[int, SourcePart]]:
        before = 0
        for part in self._parts:
            yield before, part
            before += (part.size or 0) if self._alike else 1

    def _first_width(self) -> int | None:
        for batch in self._batches(0):
            if batch.documents.vectors is not None:
                return int(batch.documents.vectors.shape[1])
        return None


def _one_by_one(batches: Iterator[RecordBatch]) -> Iterator[Record]:
    for batch in batches:
        yield from batch.records()
        del batch  # before the next is read


class ReadAhead:
    """A source that is read only once, after its first records were: these come again, and then the rest."""

    def __init__(self, source: Source) -> None:
        self._source, self._rest = source, source.batches()
        self._first: deque[RecordBatch] = deque()

    def first(self) -> Iterator[RecordBatch]:
        """The records from the front, which are kept to come again."""
        for batch in self._rest:
            self._first.append(batch)
            yield batch

    @property
    def name(self) -> str:
        return self._source.name

    @property
    def size(self) -> int | None:
        return self._source.size

    @property
    def unit(self) -> str:
        return self._source.unit

    @property
    def empty(self) -> int:
        return self._source.empty

    def identity(self) -> dict[str, Any]:
        return self._source.identity()

    def read(self, start: int = 0) -> Iterator[Record]:
        """The records from number ``start`` on, each given out for the last time."""
        return _one_by_one(self.batches(start))

    def batches(self, start: int = 0) -> Iterator[RecordBatch]:
        """The same records as columns."""
        kept = (self._first.popleft() for _ in range(len(self._first)))
        for batch in chain(kept, self._rest):
            if batch.first + batch.count > start:
                yield batch.slice(start - batch.first, batch.count)


class VectorFile:
    """An array of (n, d) numbers; a file of it is mapped, not loaded."""

    def __init__(self, vectors: str | os.PathLike[str] | Vectors, folder: Path | None) -> None:
        self._path = None if isinstance(vectors, np.ndarray) else _find_vector_file(Path(vectors), folder)
        self.name = "the array of vectors" if self._path is None else str(self._path)
        self._array: Any = vectors if isinstance(vectors, np.ndarray) else self._map()
        if self._array.ndim != 2 or self._array.dtype.kind not in "fiu":
            held = f"shape {self._array.shape} of {self._array.dtype}"
            raise InvalidInput(f"{self.name} has {held}; one row of numbers for each record is needed")

    def identity(self) -> dict[str, Any]:
        """Whatever distinguishes this array from others."""
        shape = list(self._array.shape)
        if self._path is None:
            return {"path": None, "shape": shape}
        status = self._path.stat()
        return {"path": str(self._path.resolve()), "bytes": status.st_size, "mtime_ns": status.st_mtime_ns}

    def beside(self, checked: CheckedRows, number: int) -> CheckedRows:
        """The documents with their vectors; the first row is record ``number``."""
        if not len(checked.documents):
            return checked
        first, last = number + checked.positions[0], number + checked.positions[-1]
        if last >= len(self._array):
            raise InvalidInput(f"{self.name} has {len(self._array)} rows, the corpus has more records than that")
        rows = self._rows(first, last + 1)
        if len(rows) != len(checked.positions):
            rows = rows[[number + at - first for at in checked.positions]]
        return checked.with_vectors(rows)

    def _rows(self, start: int, end: int) -> Vectors:
        """(end - start, d). Read from the file where that is possible: pages of a map would stay in memory."""
        array, width = self._array, self._array.shape[1]
        if self._path is None or not (isinstance(array, np.memmap) and array.flags.c_contiguous):
            return np.array(array[start:end])
        offset = array.offset + start * width * array.dtype.itemsize
        rows = np.fromfile(self._path, array.dtype, (end - start) * width, offset=offset)
        if len(rows) != (end - start) * width:
            raise InvalidInput(f"{self.name} was changed while it was read")
        return rows.reshape(-1, width)

    def check_end(self, records: int) -> None:
        """Raise where vectors are left over: then vectors and records do not belong together."""
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
