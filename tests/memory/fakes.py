"""Stores for tests: a well-behaved one with as little as the protocol asks for, and ones that spoil its answers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from siftlm.memory import ArrayStore, Neighbours


class Bare:
    """An `ArrayStore` without everything that is optional, with ids of its own, and sorted in the plainest way."""

    def __init__(self, array: ArrayStore, ids: np.ndarray | None = None) -> None:
        self._array, self.width = array, array.width
        self._ids = np.arange(len(array)) if ids is None else ids

    def nearest(self, queries, k, where):
        allowed = np.flatnonzero(self._array.allowed(where))
        answers = []
        for query in queries:
            scores = self._array.everything()[allowed] @ query
            best = np.argsort(-scores, kind="stable")[:k]
            answers.append(Neighbours(self._ids[allowed[best]], scores[best]))
        return answers

    def vectors(self, ids):
        return self._array.vectors(self._rows(ids))

    def passages(self, ids, where):
        return self._array.passages(self._rows(ids).tolist(), where)

    def _rows(self, ids):
        rows = [np.flatnonzero(self._ids == one) for one in ids]
        return np.array([int(row[0]) for row in rows], dtype=np.int64)


class Spoiled(Bare):
    """A store one of whose answers goes through a function: ``Spoiled(array, nearest=…)``."""

    def __init__(
        self, array: ArrayStore, *, width: Any = None, exact: Any = False, **spoil: Callable[..., Any]
    ) -> None:
        super().__init__(array)
        self.exact = exact
        self._spoil = spoil
        if width is not None:
            self.width = width

    def nearest(self, queries, k, where):
        return self._through("nearest", super().nearest(queries, k, where))

    def vectors(self, ids):
        return self._through("vectors", super().vectors(ids))

    def passages(self, ids, where):
        return self._through("passages", super().passages(ids, where))

    def _through(self, method, answer):
        return self._spoil[method](answer) if method in self._spoil else answer


def each(change: Callable[[np.ndarray, np.ndarray], Any]) -> Callable[[list[Neighbours]], list[Any]]:
    """Spoil the answer to each query: ``each(lambda ids, scores: (ids, 1 - scores))``."""
    return lambda answers: [change(one.ids, one.scores) for one in answers]
