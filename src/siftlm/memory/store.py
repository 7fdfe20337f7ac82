"""The protocol of stores, which hold texts and vectors: a memory, or a vector database in its place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from siftlm.memory.filters import Expression
from siftlm.types import BoolArray, FloatArray, IntArray, Vectors


class Neighbours(NamedTuple):
    """The best rows of one query, best first."""

    ids: IntArray
    """(k,), or fewer if there are no more."""
    scores: FloatArray
    """(k,) cosines, or the scores of a full-text search."""


@dataclass(frozen=True, eq=False)
class Passage:
    """A stored text, with one of the documents that hold it."""

    text: str
    meta: Mapping[str, Any] = field(default_factory=dict)
    """The metadata of its document."""
    id: str | None = None
    """The caller's own name for the document."""
    document: int = -1
    """The document's number; −1 where it is one of its own."""
    part: int = 0
    """Which passage of the document this is, counted from 0."""
    parts: int = 1
    """How many passages the document has."""
    start: int = 0
    """Where in the document it begins, in characters."""
    copies: int = 1
    """How often this text was added."""


@dataclass(frozen=True, eq=False)
class Listed:
    """A document, as a list shows it."""

    number: int
    id: str | None
    """The caller's own name for it."""
    meta: Mapping[str, Any]
    text: str
    """How it begins."""
    passages: int
    """How many passages it was cut into."""


class Store(Protocol):
    """Vectors with the texts they stand for; ids are whole numbers ≥ 0.

    Five more things are used where they are there. ``words(text, k, where)`` gives the ids that a full-text search
    finds, best first, or `Neighbours` with its scores, all above 0; ``term_scores(text, ids)``, (len(ids), T), says
    what each word of the text adds to the score of each id. ``everything()`` gives all vectors as one array with the
    ids as its rows, for a selection among all of them, and ``allowed(where)`` says which of those rows are meant:
    (rows,), true or false. ``exact`` is ``True`` where ``nearest`` looks at every vector.
    """

    @property
    def width(self) -> int:
        """d."""

    def nearest(self, queries: Vectors, k: int, where: Expression | None) -> list[Neighbours]:
        """(b, d) -> for each query the k best among those that meet ``where``."""

    def vectors(self, ids: IntArray) -> Vectors:
        """(len(ids), d)"""

    def passages(self, ids: Sequence[int], where: Expression | None) -> list[Passage]:
        """One each, in their order; of several documents with the same text, one that meets ``where``."""


class WholeStore(Store, Protocol):
    """A store with everything that a search may need, if only as a `Conflict` that says what it lacks."""

    @property
    def exact(self) -> bool:
        """Whether ``nearest`` looks at every vector."""

    def scanning(self) -> WholeStore:
        """The same store, looking at every vector."""

    def words(self, text: str, k: int, where: Expression | None) -> Neighbours:
        """What a full-text search finds, with its scores, all above 0."""

    def term_scores(self, text: str, ids: IntArray) -> FloatArray | None:
        """(len(ids), T) what each word of the text adds to the score of each id; None where that is unknown."""

    def everything(self) -> Vectors:
        """(rows, d) with the ids as rows."""

    def allowed(self, where: Expression | None) -> BoolArray | None:
        """(rows,) which of everything are there and meet ``where``; None if that is all of them."""

    def count(self, where: Expression | None, without: IntArray) -> int | None:
        """How many meet ``where``, those of ``without`` not counted; None where that is unknown."""
