"""Candidates from an index, for each embedding and for its opposite, without gaps and repeats.

faiss itself is never imported; an index is used through its methods. A search returns scores and ids, where −1 means
"no more", and may return a text twice once it is searched for the query and for its opposite.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, TypeAlias, cast

import numpy as np
import numpy.typing as npt

from siftlm.selection import checks
from siftlm.selection.index import FaissIndex, NumpyIndex

Vectors: TypeAlias = npt.NDArray[np.float32]
Ids: TypeAlias = npt.NDArray[np.int64]

# The number of the inner product among the metrics of faiss; other metrics are distances.
INNER_PRODUCT = 0
# Kinds of faiss index whose ids are always 0 … ntotal − 1, so that all vectors can be read without a search.
SEQUENTIAL_ID_KINDS = {"IndexFlatCodes", "IndexHNSW"}
# Inner products with an array to hold at once, approximately.
MAX_INNER_PRODUCTS = 1 << 24


class FetchedCandidates(NamedTuple):
    """The candidates of one query."""

    ids: Ids
    """(k,) as the index numbers them, none twice"""
    vectors: checks.RealArray
    """(k, d)"""
    scores: Vectors
    """(k,) the best score of each over the query's embeddings and their opposites"""

    def by_id(self) -> FetchedCandidates:
        """The candidates in the order of their ids."""
        order = np.argsort(self.ids)
        return FetchedCandidates(self.ids[order], self.vectors[order], self.scores[order])


class _FaissLike(Protocol):
    """The methods of a faiss index that are used."""

    d: int
    ntotal: int

    def search_and_reconstruct(self, x: Vectors, k: int) -> tuple[Vectors, Ids, Vectors]:
        """Scores (n, k), ids (n, k), vectors (n, k, d)"""


class ActiveftIndex:
    """Any index, as a source of candidates."""

    def __init__(self, index: Any) -> None:
        if not all(hasattr(index, name) for name in ("d", "ntotal", "search")):
            index = _ArrayIndex(index)
        elif not hasattr(index, "search_and_reconstruct"):
            index = _ReconstructingIndex(index)
        self._index: _FaissLike = index
        self.similarity = getattr(index, "metric_type", INNER_PRODUCT) == INNER_PRODUCT

    @property
    def width(self) -> int:
        """d"""
        return int(self._index.d)

    @property
    def size(self) -> int:
        """The number of vectors in the index."""
        return int(self._index.ntotal)

    def everything(self) -> FetchedCandidates | None:
        """All vectors, if they can be read without a search; else None."""
        if isinstance(self._index, _ArrayIndex):
            vectors = self._index.array
        elif any(kind.__name__ in SEQUENTIAL_ID_KINDS for kind in type(self._index).__mro__):
            vectors = cast(Any, self._index).reconstruct_n(0, self.size)
        else:
            return None
        return FetchedCandidates(np.arange(self.size, dtype=np.int64), vectors, np.zeros(self.size, np.float32))

    def fetch(self, prompts: list[Vectors], k: int, *, opposite: bool) -> list[FetchedCandidates]:
        """For each prompt the union of the k nearest of its embeddings (m, d)."""
        rows = np.concatenate(prompts)
        results = [self._search(rows, k)]
        if opposite:
            results.append(self._search(-rows, k))
        scores, ids, vectors = (np.concatenate(parts, axis=1) for parts in zip(*results, strict=True))
        fetched, start = [], 0
        for prompt in prompts:
            # Flat positions of the k best of each embedding, then of each text once.
            here = np.arange(start, start + len(prompt))
            keep = [row * ids.shape[1] + self._best(ids[row], scores[row])[:k] for row in here]
            united = np.concatenate(keep)
            united = united[self._best(ids.ravel()[united], scores.ravel()[united])]
            rows_of, columns = np.divmod(united, ids.shape[1])
            at = rows_of, columns
            fetched.append(FetchedCandidates(ids[at], vectors[at], scores[at]))
            start += len(prompt)
        return fetched

    def _best(self, ids: Ids, scores: Vectors) -> Ids:
        """Positions of the valid ids, each where it scores best, best first; equal scores by id."""
        order = np.lexsort((ids, -scores if self.similarity else scores))
        order = order[ids[order] >= 0]
        _, first = np.unique(ids[order], return_index=True)
        positions: Ids = order[np.sort(first)].astype(np.int64)
        return positions

    def _search(self, rows: Vectors, k: int) -> tuple[Vectors, Ids, Vectors]:
        try:
            scores, ids, vectors = self._index.search_and_reconstruct(rows, k)
        except RuntimeError as error:
            # faiss raises nothing more specific. Some kinds of index search but don't reconstruct in a search.
            if "reconstruct" not in str(error):
                raise
            scores, ids = cast(Any, self._index).search(rows, k)
            vectors = _vectors_by_id(ids, self.width, FaissIndex(self._index).vectors)
        return np.asarray(scores), np.asarray(ids, dtype=np.int64), np.asarray(vectors)


class _ArrayIndex:
    """An array, searched by inner product."""

    def __init__(self, array: npt.ArrayLike) -> None:
        self.array = checks.matrix("index", array)
        self.ntotal, self.d = self.array.shape

    def search_and_reconstruct(self, x: Vectors, k: int) -> tuple[Vectors, Ids, Vectors]:
        index, step = NumpyIndex(self.array), max(1, MAX_INNER_PRODUCTS // self.ntotal)
        results = [index.search(x[start : start + step], k) for start in range(0, len(x), step)]
        ids, scores = (np.concatenate(parts) for parts in zip(*results, strict=True))
        return scores.astype(np.float32, copy=False), ids, self.array[ids].astype(np.float32, copy=False)


class _ReconstructingIndex:
    """An index that searches, and reconstructs one vector at a time."""

    def __init__(self, index: Any) -> None:
        self._index = index
        self.metric_type = getattr(index, "metric_type", INNER_PRODUCT)

    @property
    def d(self) -> int:
        return int(self._index.d)

    @property
    def ntotal(self) -> int:
        return int(self._index.ntotal)

    def search_and_reconstruct(self, x: Vectors, k: int) -> tuple[Vectors, Ids, Vectors]:
        scores, ids = self._index.search(x, k)
        return scores, ids, _vectors_by_id(ids, self.d, self._reconstruct)

    def _reconstruct(self, ids: Ids) -> checks.RealArray:
        return np.stack([self._index.reconstruct(int(at)) for at in ids])


def _vectors_by_id(ids: Ids, width: int, read: Callable[[Ids], checks.RealArray]) -> Vectors:
    """(n, k) -> (n, k, d); each vector is read once, and those of −1 are NaN."""
    known, where = np.unique(ids, return_inverse=True)
    real = known >= 0
    vectors = np.full((len(known), width), np.nan, np.float32)
    if real.any():
        vectors[real] = read(known[real])
    return vectors[where.reshape(ids.shape)]
