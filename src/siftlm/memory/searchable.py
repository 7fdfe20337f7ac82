"""A store as the index of residual-query selection."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from siftlm.memory.store import WholeStore
from siftlm.memory.where import Expression
from siftlm.types import IntArray, Vectors


class StoreIndex:
    """A `siftlm.selection.Index` over those of a store that meet a filter, however many they are."""

    def __init__(self, store: WholeStore, where: Expression | None) -> None:
        self._store, self._where, self.exact = store, where, store.exact
        self.seen: IntArray = np.zeros(0, dtype=np.int64)
        """Every id that was found so far."""

    def search(self, queries: npt.NDArray[Any], k: int) -> tuple[IntArray, npt.NDArray[Any]]:
        """As `siftlm.selection.Index` has it."""
        found = self._store.nearest(queries, k, self._where)
        ids = np.full((len(found), k), -1, dtype=np.int64)
        scores = np.full((len(found), k), -np.inf)
        for at, one in enumerate(found):
            ids[at, : len(one.ids)], scores[at, : len(one.ids)] = one.ids, one.scores
        self.seen = np.union1d(self.seen, ids[ids >= 0])
        return ids, scores

    def vectors(self, ids: IntArray) -> Vectors:
        """As `siftlm.selection.Index` has it."""
        return self._store.vectors(ids)


class SizedStoreIndex(StoreIndex):
    """One whose size is known, so that nobody asks it for more than there are."""

    def __init__(self, store: WholeStore, where: Expression | None, size: int) -> None:
        super().__init__(store, where)
        self._size = size

    def __len__(self) -> int:
        return self._size
