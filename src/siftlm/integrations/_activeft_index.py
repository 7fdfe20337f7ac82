"""Fetching candidates from an index: per embedding, for its opposite too, without gaps and without repeats.

A faiss index is used through its own methods and never imported: a search answers with scores and ids, where
−1 means "no more", and may hold a text twice once it is asked for the query and for its opposite.
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

# faiss numbers its metrics; this one is the inner product, and the others that matter are distances.
INNER_PRODUCT = 0
# Kinds of faiss index whose ids are always 0 … ntotal − 1, so that all vectors can be read without a search.
SEQUENTIAL_ID_KINDS = {"IndexFlatCodes", "IndexHNSW"}
# At most about this many inner products with an array are held at a time.
MAX_INNER_PRODUCTS = 1 << 24


class FetchedCandidates(NamedTuple):
    """Candidates."""

    ids: Ids
    """(k,) as the index numbers them, none twice"""
    vectors: checks.RealArray
    """(k, d)"""
    scores: Vectors
    """(k,) the best score of each for any of the query's embeddings or their opposites"""

    def by_id(self) -> FetchedCandidates:
        """The same, in the order of the ids."""
        order = np.argsort(self.ids)
        return FetchedCandidates(self.ids[order], self.vectors[order], self.scores[order])


class _FaissLike(Protocol):
    """The part of a faiss index that is used."""

    d: int
    ntotal: int

    def search_and_reconstruct(self, x: Vectors, k: int) -> tuple[Vectors, Ids, Vectors]:
        """Scores (n, k), ids (n, k), vectors (n, k, d)"""


class ActiveftIndex:
    """Any index, seen as a source of candidates."""

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
        """How many vectors it holds now."""
        return int(self._index.ntotal)

    def everything(self) -> FetchedCandidates | None:
        """All vectors, where they can be had without a search."""
        if isinstance(self._index, _ArrayIndex):
            vectors = self._index.array
        elif any(kind.__name__ in SEQUENTIAL_ID_KINDS for kind in type(self._index).__mro__):
            vectors = cast(Any, self._index).reconstruct_n(0, self.size)
        else:
            return None
        return FetchedCandidates(np.arange(self.size, dtype=np.int64), vectors, np.zeros(self.size, np.float32))

    def fetch(self, prompts: list[Vectors], k: int, *, opposite: bool) -> list[FetchedCandidates]:
        """The k nearest of every embedding (m, d) of a prompt, united."""
        rows = np.concatenate(prompts)
        answers = [self._search(rows, k)]
        if opposite:
            answers.append(self._search(-rows, k))
        scores, ids, vectors = (np.concatenate(parts, axis=1) for parts in zip(*answers, strict=True))
        founds, start = [], 0
        for prompt in prompts:
            # Flat positions of the k best of each embedding, then of each text once.
            here = np.arange(start, start + len(prompt))
            keep = [row * ids.shape[1] + self._best(ids[row], scores[row])[:k] for row in here]
            united = np.concatenate(keep)
            united = united[self._best(ids.ravel()[united], scores.ravel()[united])]
            rows_of, columns = np.divmod(united, ids.shape[1])
            founds.append(FetchedCandidates(ids[rows_of, columns], vectors[rows_of, columns], scores[rows_of, columns]))
            start += len(prompt)
        return founds

    def _best(self, ids: Ids, scores: Vectors) -> Ids:
        """Positions of the real ids, each once where it scores best, best first; equal scores by id."""
        order = np.lexsort((ids, -scores if self.similarity else scores))
        order = order[ids[order] >= 0]
        _, first = np.unique(ids[order], return_index=True)
        positions: Ids = order[np.sort(first)].astype(np.int64)
        return positions

    def _search(self, rows: Vectors, k: int) -> tuple[Vectors, Ids, Vectors]:
        try:
            scores, ids, vectors = self._index.search_and_reconstruct(rows, k)
        except RuntimeError as error:
            # faiss raises nothing more specific. Some kinds find but don't give back.
            if "reconstruct" not in str(error):
                raise
            scores, ids = cast(Any, self._index).search(rows, k)
            vectors = _vectors_by_id(ids, self.width, FaissIndex(self._index).vectors)
        return np.asarray(scores), np.asarray(ids, dtype=np.int64), np.asarray(vectors)


class _ArrayIndex:
    """A plain array, scanned by inner product."""

    def __init__(self, array: npt.ArrayLike) -> None:
        self.array = checks.matrix("index", array)
        self.ntotal, self.d = self.array.shape

    def search_and_reconstruct(self, x: Vectors, k: int) -> tuple[Vectors, Ids, Vectors]:
        index, step = NumpyIndex(self.array), max(1, MAX_INNER_PRODUCTS // self.ntotal)
        answers = [index.search(x[start : start + step], k) for start in range(0, len(x), step)]
        ids, scores = (np.concatenate(parts) for parts in zip(*answers, strict=True))
        return scores.astype(np.float32, copy=False), ids, self.array[ids].astype(np.float32, copy=False)


class _ReconstructingIndex:
    """An index that searches and gives back one vector at a time."""

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
        return scores, ids, _vectors_by_id(ids, self.d, self._give)

    def _give(self, ids: Ids) -> checks.RealArray:
        return np.stack([self._index.reconstruct(int(at)) for at in ids])


def _vectors_by_id(ids: Ids, width: int, give: Callable[[Ids], checks.RealArray]) -> Vectors:
    """(n, k) -> (n, k, d); each vector is asked for once, and those of −1 are left NaN."""
    known, where = np.unique(ids, return_inverse=True)
    real = known >= 0
    vectors = np.full((len(known), width), np.nan, np.float32)
    if real.any():
        vectors[real] = give(known[real])
    return vectors[where.reshape(ids.shape)]
