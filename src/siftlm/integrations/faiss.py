"""SIFT around a FAISS index: the same ``search(x, k)``, whose results do not repeat each other and may be fewer.

distances, ids = index.search(x, 10)                  # before
distances, ids = SiftIndex(index).search(x, 10)       # after
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from siftlm.errors import InvalidInput, setting
from siftlm.extras import load
from siftlm.integrations.ranking import DEFAULT_FETCH, DEFAULT_N, Ranking, check_settings, of_rows, rank, with_indices
from siftlm.selection import checks
from siftlm.selection.index import reconstruct
from siftlm.types import IntArray
from siftlm.validation import whole_number

Distances = npt.NDArray[np.float32]


class SiftIndex:
    """A FAISS index whose results SIFT picks; all else that the index can do, it can do through this one.

    Args:
        index: any FAISS index of float vectors, of inner products or of L2 distances.
        vectors: (ntotal, d) its vectors, for an index that cannot give them back; the ids are their rows.
        fetch: how many nearest vectors to pick from.
        **settings: as for `siftlm.integrations.ranking.rank`, such as ``until=0.2``. ``costs``, ``sources``,
            ``exclude`` and ``prior`` have a value for each id 0, 1, …

    >>> import faiss                                                            # doctest: +SKIP
    >>> flat = faiss.IndexFlatIP(2); flat.add(np.eye(2, dtype=np.float32))      # doctest: +SKIP
    >>> SiftIndex(flat).search(np.ones((1, 2), np.float32), 2)                  # doctest: +SKIP
    """

    def __init__(
        self, index: Any, *, vectors: npt.ArrayLike | None = None, fetch: int = DEFAULT_FETCH, **settings: Any
    ) -> None:
        faiss = load("faiss", "faiss")
        if not isinstance(index, faiss.Index):
            raise InvalidInput(f"{setting('index')} must be a faiss index of float vectors, got {type(index).__name__}")
        self.index, self.fetch, self.settings = index, whole_number("fetch", fetch), settings
        self._vectors = None if vectors is None else checks.matrix("vectors", vectors, width=index.d)
        # What FAISS fills up with, where it finds fewer than k.
        self._worst = np.finfo(np.float32).max * (-1 if faiss.is_similarity_metric(index.metric_type) else 1)
        check_settings(**settings)

    def __getattr__(self, name: str) -> Any:
        if name == "index":  # not there yet, as while it is unpickled
            raise AttributeError(name)
        return getattr(self.index, name)

    def search(self, x: npt.ArrayLike, k: int, *, params: Any = None) -> tuple[Distances, IntArray]:
        """(D, I), both (n, k), as FAISS returns them: in the order of the picks, then −1 after SIFT has stopped.

        Args:
            x: (n, d), each row a query of its own.
            k: how many results each gets at most.
            params: of the search in the index.
        """
        queries, k = checks.matrix("x", x, width=int(self.index.d), empty_ok=True), whole_number("k", k)
        distances: Distances = np.full((len(queries), k), self._worst, dtype=np.float32)
        ids: IntArray = np.full((len(queries), k), -1, dtype=np.int64)
        for row, (found, own) in enumerate(zip(*self._nearest(queries, k, params), strict=True)):
            ranking = self._rank(queries[row], own, k)
            distance = dict(zip(own.tolist(), found.tolist(), strict=True))
            ids[row, : len(ranking)] = ranking.indices
            distances[row, : len(ranking)] = [distance[one] for one in ranking.indices]
        return distances, ids

    def rank(self, query: npt.ArrayLike, k: int = DEFAULT_N, *, params: Any = None) -> Ranking:
        """The ranking for one prompt of one or several vectors (m, d), with its verdict; indices are ids."""
        targets, k = checks.matrix("query", query, width=int(self.index.d)), whole_number("k", k)
        _, ids = self._nearest(targets, k, params)
        return self._rank(targets, ids.ravel(), k)

    def _nearest(self, queries: checks.RealArray, k: int, params: Any) -> tuple[Distances, IntArray]:
        if not self.index.is_trained:
            raise InvalidInput(f"{type(self.index).__name__} is not trained yet: call index.train(vectors) first")
        rows = np.ascontiguousarray(queries, dtype=np.float32)
        found: tuple[Distances, IntArray] = self.index.search(rows, max(k, self.fetch), params=params)
        return found

    def _rank(self, targets: checks.RealArray, found: IntArray, k: int) -> Ranking:
        ids = found[found >= 0]
        _, first = np.unique(ids, return_index=True)
        ids = ids[np.sort(first)]  # each once, the nearest first
        if not len(ids):
            return rank(targets, [], k)
        per_id = of_rows(self.settings, ids, max(int(ids.max()) + 1, int(self.index.ntotal)))
        return with_indices(rank(targets, self._vectors_of(ids), k, **per_id), ids)

    def _vectors_of(self, ids: IntArray) -> checks.RealArray:
        if self._vectors is None:
            return reconstruct(self.index, ids)
        if ids.max() >= len(self._vectors):
            raise InvalidInput(
                f"{setting('vectors')} has {len(self._vectors)} rows, and the index found id {ids.max()}: ids must be "
                "rows"
            )
        return self._vectors[ids]
