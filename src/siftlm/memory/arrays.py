"""The smallest store: arrays and lists, scanned from end to end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from siftlm.errors import InvalidInput
from siftlm.memory import given, scan, vectors
from siftlm.memory.store import Neighbours, Passage
from siftlm.memory.vectors import VectorFormat
from siftlm.memory.where import Expression
from siftlm.types import BoolArray, IntArray, Vectors


class ArrayStore:
    """A `Store` over arrays that are there already; ids are their rows.

    Args:
        vectors: (n, d), of any length but zero; a copy is brought to unit length.
        texts: one a vector.
        metadata: one dict a text, for filters.
        ids: the caller's own name of each.

    >>> store = ArrayStore([[3.0, 0.0], [1.0, 1.0]], ["east", "north-east"], [{"wind": True}, {"wind": False}])
    >>> [one.ids.tolist() for one in store.nearest(np.array([[0.0, 1.0]]), k=2)]
    [[1, 0]]
    """

    exact = True

    def __init__(
        self,
        vectors: npt.ArrayLike,
        texts: Sequence[str],
        metadata: Sequence[Mapping[str, Any]] | None = None,
        *,
        ids: Sequence[str] | None = None,
    ) -> None:
        self._documents = given.InputDocuments(texts, metadata, ids, vectors).some(0, len(texts))
        self._vectors = _unit_vectors(vectors)
        self.width = self._vectors.shape[1]
        self._form = VectorFormat("float32", self.width)

    def __len__(self) -> int:
        return len(self._vectors)

    def nearest(self, queries: Vectors, k: int, where: Expression | None = None) -> list[Neighbours]:
        """A scan."""
        allowed = None if where is None else self.allowed(where)
        return scan.nearest(self._vectors, self._form, queries, k, allowed)

    def vectors(self, ids: IntArray) -> Vectors:
        """The rows."""
        return self._vectors[np.asarray(ids, dtype=np.int64)]

    def everything(self) -> Vectors:
        """All rows."""
        return self._vectors

    def allowed(self, where: Expression | None) -> BoolArray:
        """(n,) which rows meet the filter."""
        if where is None:
            return np.ones(len(self), dtype=np.bool_)
        return np.fromiter((where.matches(one.meta, one.id) for one in self._documents), np.bool_, len(self))

    def passages(self, ids: Sequence[int], where: Expression | None = None) -> list[Passage]:  # noqa: ARG002
        """Each text is a document of its own."""
        return [Passage(one.text, one.meta, one.id) for one in (self._documents[int(row)] for row in ids)]


def _unit_vectors(given_vectors: npt.ArrayLike) -> Vectors:
    array = np.asarray(given_vectors)
    found = vectors.unit_rows(array)
    if np.isnan(found).any():
        raise InvalidInput(f"vector {int(np.argmax(np.isnan(found).any(axis=1)))} is zero or not finite")
    return found
