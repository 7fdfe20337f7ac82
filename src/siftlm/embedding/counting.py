"""Counts and ranges of whole numbers in arrays, and arrays that grow."""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from siftlm.types import IntArray


class Distinct(NamedTuple):
    """Ascending keys, and how often each occurs."""

    keys: npt.NDArray[Any]
    counts: IntArray


def distinct(keys: npt.NDArray[Any]) -> Distinct:
    """The different keys; sorts the array itself."""
    keys.sort()
    starts = run_starts(keys)
    counts = np.empty(len(starts), np.int64)
    np.subtract(starts[1:], starts[:-1], out=counts[:-1])
    counts[-1:] = len(keys) - starts[-1:]
    return Distinct(keys[starts], counts)


def run_starts(keys: npt.NDArray[Any]) -> IntArray:
    """Where a key is another one than the key before.

    >>> run_starts(np.array([3, 3, 5, 7, 7])).tolist()
    [0, 2, 3]
    """
    is_first = np.ones(len(keys), bool)
    np.not_equal(keys[1:], keys[:-1], out=is_first[1:])
    return is_first.nonzero()[0]


@cache
def _damped_small() -> IntArray:
    return _damped(np.arange(1, 1 << 12))


def _damped(counts: IntArray) -> IntArray:
    damped: IntArray = np.rint(256 * (1 + np.log(counts))).astype(np.int64)
    return damped


def damped(counts: IntArray) -> IntArray:
    """1 + log count, in 256ths so that weights stay whole; counts from 1 on."""
    table = _damped_small()
    return table.take(counts - 1) if len(counts) == 0 or counts.max() <= len(table) else _damped(counts)


def ranges(starts: IntArray, lengths: IntArray) -> IntArray:
    """Whole numbers counted up from each start.

    >>> ranges(np.array([5, 0]), np.array([2, 3])).tolist()
    [5, 6, 0, 1, 2]
    """
    ends = lengths.cumsum()
    counted: IntArray = (starts - ends + lengths).repeat(lengths)
    counted += np.arange(len(counted))
    return counted


class Growing:
    """An array that is appended to. What others took of it stays as it was."""

    def __init__(self, dtype: npt.DTypeLike, *shape: int) -> None:
        self._filled, self._space = 0, np.zeros((0, *shape), dtype)

    @property
    def array(self) -> npt.NDArray[Any]:
        return self._space[: self._filled]

    def append(self, rows: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """The array with more rows."""
        filled = self._filled + len(rows)
        if filled > len(self._space):
            space = np.zeros((filled + filled // 2, *self._space.shape[1:]), self._space.dtype)
            space[: self._filled] = self.array
            self._space = space
        self._space[self._filled : filled] = rows
        self._filled = filled
        return self.array
