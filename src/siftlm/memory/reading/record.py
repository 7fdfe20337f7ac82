"""What every kind of input becomes: numbered records, good or bad, each knowing where it came from."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from siftlm.types import Document


@dataclass(frozen=True)
class Record:
    """One record of an input: a document, or what is wrong with it."""

    number: int
    """Counted from 0 through the whole input, bad ones included, so that a reader can go on after any."""
    where: str
    """``file:line``, or what serves as that."""
    document: Document | None
    problem: str | None = None
    """Why there is no document."""
    position: int = 0
    """How much of the input was read, in the unit of ``Source.size``."""


class Source(Protocol):
    """An input that can be read from any record on, again and again, in the same order."""

    @property
    def name(self) -> str:
        """For people: the path or the data set."""

    @property
    def size(self) -> int | None:
        """How large it is, in the unit of `Record.position`, where that is known without reading it."""

    @property
    def unit(self) -> str:
        """Of size and position: ``bytes``, ``files``, ``records``."""

    def identity(self) -> dict[str, Any]:
        """What tells this input from another, or from itself after a change; JSON can hold it."""

    def read(self, start: int = 0) -> Iterator[Record]:
        """The records from number ``start`` on; memory use does not grow with the input."""
