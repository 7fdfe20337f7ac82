"""The index that residual-query selection searches, with everything that is checked about its answers."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from siftlm.errors import InvalidInput
from siftlm.selection import checks
from siftlm.selection.indexes import Index
from siftlm.types import BoolArray, FloatArray, IntArray

# How far a vector may be from unit length where unit vectors are promised: what float16 storage does to them.
UNIT_TOLERANCE = 1e-3


class IndexResult(NamedTuple):
    """What a search for ±q_i returned."""

    ids: IntArray
    """(a,) all ids, each once"""
    table: IntArray
    """(2, m, k) the ids, −1 where there were fewer"""
    scores: FloatArray
    """(2, m, k) their products with ±q_i / |q_i|"""
    length: FloatArray
    """(m,) |q_i|"""
    short: bool
    """Did any search return fewer than k?"""


class CheckedIndex:
    """The index, with everything that is checked about what comes back from it."""

    def __init__(self, index: Index, width: int, *, max_norm: float | None, excluded: IntArray) -> None:
        self._index, self._width, self._excluded = _checked_index(index), width, excluded
        self._unit = max_norm is None
        self.longest = 1 + UNIT_TOLERANCE if max_norm is None else max_norm
        self.shortest = 1 - UNIT_TOLERANCE if max_norm is None else 0.0
        # A product of d float32 terms, in whatever order they are summed, and the rounding of the query.
        self.rounding = (width + 8) * 2.0**-24 * self.longest
        length = getattr(index, "__len__", None)
        self.size: int | None = int(length()) if callable(length) else None
        if self.size == 0:
            raise InvalidInput("the index is empty")

    @property
    def exact(self) -> bool:
        return getattr(self._index, "exact", False) is True

    @property
    def excluded_count(self) -> int:
        return len(self._excluded)

    def excludes(self, ids: IntArray) -> BoolArray:
        """(len(ids),) which are excluded?"""
        return np.isin(ids, self._excluded)

    def search(self, residual: FloatArray, k: int) -> IndexResult:
        """The best k for +q and −q of every target, in one call."""
        if self.size is not None and k >= self.size:
            k = self.size + 1  # one more than there are: the answer is short, and so known to be complete
        length = np.sqrt(np.einsum("ij,ij->i", residual, residual))
        unit = residual / np.maximum(length, np.finfo(np.float64).tiny)[:, None]
        ids, scores = self._index.search(np.concatenate([unit, -unit]).astype(np.float32), k)
        ids, scores = np.asarray(ids), np.asarray(scores, dtype=np.float64)
        whole = ids.ndim == 2 and len(ids) == 2 * len(unit) and ids.dtype.kind in "iu"
        if not whole or ids.shape != scores.shape:
            raise InvalidInput(
                f"index.search must return whole ids and scores, both ({2 * len(unit)}, {k}); "
                f"got {ids.dtype} {ids.shape} and {scores.shape}"
            )
        there = ids >= 0
        if not np.isfinite(scores[there]).all():
            at = tuple(np.argwhere(there & ~np.isfinite(scores))[0])
            raise InvalidInput(f"index.search returned the score {scores[at]} for id {ids[at]}")
        shape = (2, len(unit), ids.shape[1])
        return IndexResult(
            ids=np.unique(ids[there]).astype(np.int64),
            table=np.where(there, ids, -1).astype(np.int64).reshape(shape),
            scores=np.where(there, scores, np.inf).reshape(shape),
            length=length,
            short=bool((there.sum(axis=1) < k).any()),
        )

    def vectors(self, ids: IntArray) -> FloatArray:
        """(len(ids), d) float64, checked."""
        found = checks.matrix("vectors of the index", self._index.vectors(ids), width=self._width)
        vectors = found.astype(np.float64)
        if len(vectors) != len(ids):
            raise InvalidInput(f"index.vectors returned {len(vectors)} vectors for {len(ids)} ids")
        length = np.sqrt(checks.squared_norms("vectors of the index", vectors, zero_ok=True))
        off = np.abs(length - 1) > UNIT_TOLERANCE if self._unit else length > self.longest * (1 + 1e-6)
        if off.any():
            at = int(np.argmax(off))
            hint = "normalise the vectors, or pass max_norm" if self._unit else f"max_norm is {self.longest:g}"
            raise InvalidInput(f"the vector with id {ids[at]} has length {length[at]:.6g}; {hint}")
        return vectors


def _checked_index(index: Any) -> Index:
    """``index``, if it has the methods of one; or how to make one of it."""
    if callable(getattr(index, "search", None)):
        if callable(getattr(index, "vectors", None)):
            found: Index = index
            return found
        if hasattr(index, "ntotal"):
            raise InvalidInput(f"index is a bare {type(index).__name__}; wrap it: FaissIndex(index)")
    if isinstance(index, (list, tuple)) or hasattr(index, "__array__"):
        raise InvalidInput("index is a plain array; wrap it: NumpyIndex(array)")
    raise InvalidInput(f"index must have search(queries, k) and vectors(ids), got {type(index).__name__}; see Index")
