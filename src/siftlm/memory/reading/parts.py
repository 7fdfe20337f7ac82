"""Between a file and its records: rows as they stand in the input, and the source that numbers and converts them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from siftlm.errors import InvalidInput
from siftlm.memory.reading.beside import VectorFile
from siftlm.memory.reading.fields import FieldMapping, UnusableRecord
from siftlm.memory.reading.record import Record
from siftlm.types import Document


@dataclass(frozen=True)
class RawRecord:
    """What stands at one place of an input, before anybody looked for its text."""

    where: str
    value: Any = None
    """A mapping of fields, a text or a `Document`."""
    problem: str | None = None
    """Why there is no value."""
    position: int = 0


@dataclass
class SkipCounter:
    """How many rows are still to be passed over; a part counts it down."""

    left: int

    def one(self) -> bool:
        """Is this row to be passed over?"""
        if not self.left:
            return False
        self.left -= 1
        return True

    def block(self, rows: int) -> bool:
        """Is this whole block of rows to be passed over?"""
        if self.left < rows:
            return False
        self.left -= rows
        return True


class SourcePart(Protocol):
    """One file, folder, data set or iterable: one kind of input knows how to walk through its rows."""

    @property
    def name(self) -> str:
        """For people."""

    @property
    def size(self) -> int | None:
        """In the unit of `RawRecord.position`."""

    @property
    def unit(self) -> str:
        """Of size and position."""

    def identity(self) -> dict[str, Any]:
        """As `Source.identity`, without what the fields are called."""

    def rows(self, skip: SkipCounter) -> Iterator[RawRecord]:
        """All rows in order, less the first ``skip.left``, which are passed over as cheaply as can be."""


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

    def identity(self) -> dict[str, Any]:
        identity = {"parts": [part.identity() for part in self._parts], "settings": self._settings}
        return identity if self._beside is None else {**identity, "vectors": self._beside.identity()}

    def read(self, start: int = 0) -> Iterator[Record]:
        if start < 0:
            raise InvalidInput(f"start={start}: records are counted from 0")
        return self._records(start)

    def _records(self, start: int) -> Iterator[Record]:
        # The first vector of the input sets the width, wherever reading begins.
        width = self._first_width() if start and self._fields.vector is not None else None
        number, skip, unchecked = start, SkipCounter(start), start == 0
        for before, part in self._offsets():
            for row in part.rows(skip):
                if unchecked and isinstance(row.value, Mapping):
                    self._fields.check_present(row.value, row.where)
                    unchecked = False
                record = self._record(number, row, before, width)
                if width is None and record.document is not None and record.document.vector is not None:
                    width = len(record.document.vector)
                yield record
                number += 1
        if self._beside is not None and not skip.left:
            self._beside.check_end(number)

    def _record(self, number: int, row: RawRecord, before: int, width: int | None) -> Record:
        position = before + (row.position if self._alike or len(self._parts) == 1 else 0)
        if row.problem is not None:
            return Record(number, row.where, None, row.problem, position)
        try:
            document = self._fields.document(row.value, width)
            if self._beside is not None:
                document = Document(document.text, document.meta, document.id, self._beside.vector(number))
        except UnusableRecord as unusable:
            return Record(number, row.where, None, str(unusable), position)
        return Record(number, row.where, document, None, position)

    def _offsets(self) -> Iterator[tuple[int, SourcePart]]:
        before = 0
        for part in self._parts:
            yield before, part
            before += (part.size or 0) if self._alike else 1

    def _first_width(self) -> int | None:
        for record in self._records(0):
            if record.document is not None and record.document.vector is not None:
                return len(record.document.vector)
        return None
