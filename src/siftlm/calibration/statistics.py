"""How sure a mean is, and whether two things go together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from siftlm.types import FloatArray

RESAMPLES = 2000


@dataclass(frozen=True)
class Mean:
    """Of values of several texts, with its 95 % interval by the bootstrap over texts."""

    value: float
    low: float
    high: float

    def to_dict(self) -> dict[str, float | list[float]]:
        """Rounded: more digits would say nothing."""
        return {"mean": round(self.value, 3), "interval": [round(self.low, 3), round(self.high, 3)]}

    def __str__(self) -> str:
        return f"{self.value:.1f} [{self.low:.1f}, {self.high:.1f}]"


def mean(values: Sequence[float] | FloatArray, seed: int = 0) -> Mean:
    """The mean of ``values``.

    >>> mean([1.0, 1.0, 1.0])
    Mean(value=1.0, low=1.0, high=1.0)
    """
    known = np.asarray(values, dtype=np.float64)
    drawn = np.random.default_rng(seed).integers(0, len(known), size=(RESAMPLES, len(known)))
    low, high = np.quantile(known[drawn].mean(axis=1), [0.025, 0.975])
    return Mean(float(known.mean()), float(low), float(high))


def rank_correlation(x: Sequence[float], y: Sequence[float]) -> float | None:
    """Spearman's; None where one of the two never changes.

    >>> rank_correlation([1, 2, 3], [10, 20, 25])
    1.0
    """
    ranks = np.stack([_ranks(np.asarray(x, dtype=np.float64)), _ranks(np.asarray(y, dtype=np.float64))])
    ranks -= ranks.mean(axis=1, keepdims=True)
    size = float(np.sqrt((ranks**2).sum(axis=1)).prod())
    return None if size == 0 else round(float(ranks[0] @ ranks[1]) / size, 12)


def _ranks(values: FloatArray) -> FloatArray:
    """From 0; equal values share the mean of theirs."""
    below = (values[:, None] > values[None, :]).sum(axis=1)
    equal = (values[:, None] == values[None, :]).sum(axis=1)
    ranks: FloatArray = below + (equal - 1) / 2.0
    return ranks
