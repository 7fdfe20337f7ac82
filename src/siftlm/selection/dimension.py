"""`local_dimension`: on how many dimensions vectors lie, near each of them and on the whole.

Near a point x of a d-dimensional surface, the number of others within radius r grows as r^d. So with T_j(x) the
distance of x to its j-th nearest neighbour, the logarithms log(T_k / T_j) are independent and exponential with mean
1/d, and the most likely d is one over their mean (Levina and Bickel 2004).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from siftlm import validation
from siftlm.errors import InvalidInput, setting
from siftlm.selection import checks
from siftlm.types import FloatArray, IntArray, json_number

# Squared distances that are held together: 64 MiB of float64.
MAX_BLOCK_DISTANCES = 8 << 20
# Products may order neighbours wrongly by a rounding error, so that more than k are compared exactly.
SPARE_NEIGHBOURS = 8
# Where the two estimates differ by more than this factor, no single number describes the vectors; where one is more
# than the width by this factor, it is none.
AGREEMENT_FACTOR = 1.5


@dataclass(frozen=True, eq=False)
class LocalDimension:
    """The dimension of vectors, near each and on the whole; printing it gives a short report."""

    vectors: int
    """How many there are."""
    width: int
    distinct: int
    """How many different ones: of equal vectors only the first counts."""
    k: int
    """Neighbours of each."""
    rows: IntArray = field(repr=False)
    """(n,) the vectors near which the dimension was estimated."""
    values: FloatArray = field(repr=False)
    """(n,) the estimate near each: (k − 1) / Σ log(T_k / T_j); infinite where all its neighbours are equally far."""
    dimension: float
    """The estimate on the whole: the harmonic mean of `values`, which is the most likely common dimension."""
    two_nn: float
    """The same from the ratio of the distances to the two nearest alone: the check."""

    @property
    def mean(self) -> float:
        """The mean of `values`: on a surface of dimension d it is d (k − 1) / (k − 2)."""
        return float(np.mean(self.values))

    @property
    def median(self) -> float:
        """The median of `values`."""
        return float(np.median(self.values))

    @property
    def agree(self) -> bool:
        """Are the two estimates within a factor of 1.5 of each other?"""
        low, high = sorted((self.dimension, self.two_nn))
        return bool(np.isfinite(high) and high <= AGREEMENT_FACTOR * low)

    @property
    def told(self) -> bool:
        """Is the estimate one that vectors of this width can have, but for noise?"""
        return bool(self.dimension <= AGREEMENT_FACTOR * self.width)

    def _shown(self, value: float) -> str:
        return f"{value:.1f}" if value <= self.width else f"more than {self.width}"

    def __str__(self) -> str:
        counts = f"{len(self.rows):,} of {self.vectors:,} vectors of width {self.width}"
        if self.told:
            low, high = map(self._shown, np.quantile(self.values, [0.1, 0.9], method="nearest").tolist())
            middle = self._shown(self.median)
            lines = [
                f"{min(self.dimension, self.width):.1f} dimensions near {counts}",
                f"  {self.k} neighbours each; 80 % of the vectors have {low} to {high}, median {middle}",
                f"  check by the two nearest alone: {self._shown(self.two_nn)}",
            ]
        else:
            lines = [
                f"The dimension near {counts} cannot be told:",
                f"  the {self.k} neighbours of each are nearly equally far, which would be more than {self.width}",
            ]
        if self.distinct < self.vectors:
            lines.append(f"  equal to an earlier vector, and left out: {self.vectors - self.distinct:,}")
        if self.told and not self.agree:
            lines.append("The two estimates disagree: noise, repeats or few vectors; compare only at equal settings.")
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """The figures, ready for ``json.dumps``."""
        names = ("dimension", "mean", "median", "two_nn")
        counts = {name: getattr(self, name) for name in ("vectors", "width", "distinct", "k")}
        return counts | {"points": len(self.rows)} | {name: json_number(getattr(self, name)) for name in names}


def local_dimension(vectors: npt.ArrayLike, k: int = 20, *, sample: int = 10_000, seed: int = 0) -> LocalDimension:
    """Estimate on how many dimensions vectors lie, near each of them.

    Args:
        vectors: (N, d) embeddings, hidden states of a model, or any others; N is more than ``k``.
        k: neighbours of each. Few are more local and more noisy; for many, the surface must be flat that far.
        sample: the dimension is estimated near so many random vectors; neighbours are looked for among all.
        seed: of the sample.

    Compare numbers only at the same ``k`` and the same number of vectors: with N of them, dimensions far above log N
    are underestimated.

    >>> rng = np.random.default_rng(0)
    >>> plane = rng.uniform(size=(2000, 2)) @ rng.normal(size=(2, 50))
    >>> found = local_dimension(plane)
    >>> round(found.dimension), round(found.two_nn)
    (2, 2)
    """
    # 1. Settings.
    array = checks.matrix("vectors", vectors)
    checks.squared_norms("vectors", array, zero_ok=True)
    k = validation.whole_number("k", k, least=3)
    sample, seed = validation.whole_number("sample", sample), validation.whole_number("seed", seed, least=0)
    # 2. Different vectors alone: copies are at distance 0, and belong to no surface.
    first = np.sort(np.unique(array, axis=0, return_index=True)[1])
    distinct = array[first].astype(np.float64)
    if len(distinct) <= k:
        copies = "" if len(distinct) == len(array) else f", {len(distinct):,} of them different"
        raise InvalidInput(
            f"{setting('vectors')} has {len(array):,} rows{copies}, and {setting('k', k)} neighbours of each need "
            f"more than {k}; give more, or a smaller {setting('k')}"
        )
    distinct -= distinct.mean(axis=0)
    distinct /= np.abs(distinct).max()  # no square overflows or vanishes
    # 3. Distances to the nearest, and what follows from them.
    drawn = np.arange(len(distinct))
    if sample < len(distinct):
        drawn = np.sort(np.random.default_rng(seed).choice(len(distinct), sample, replace=False))
    logs = np.log(nearest_distances(distinct, drawn, k))
    sums = (logs[:, -1:] - logs[:, :-1]).sum(axis=1)
    pairs = logs[:, 1] - logs[:, 0]
    return LocalDimension(
        len(array),
        array.shape[1],
        len(distinct),
        k,
        first[drawn],
        _ratio(np.full(len(drawn), k - 1.0), sums),
        float(_ratio(np.array([len(drawn) * (k - 1.0)]), sums.sum(keepdims=True))[0]),
        float(_ratio(np.array([float(len(drawn))]), pairs.sum(keepdims=True))[0]),
    )


def _ratio(count: FloatArray, total: FloatArray) -> FloatArray:
    """count / total; infinite where the total is 0."""
    ratio: FloatArray = np.divide(count, total, out=np.full(len(count), np.inf), where=total > 0)
    return ratio


def nearest_distances(points: FloatArray, which: IntArray, k: int) -> FloatArray:
    """(len(which), k) the distances of some of (N, d) different points to their k nearest others, the nearest first."""
    squares = np.einsum("ij,ij->i", points, points)
    wide = min(k + SPARE_NEIGHBOURS, len(points) - 1)
    found: FloatArray = np.empty((len(which), k))
    step = max(1, MAX_BLOCK_DISTANCES // max(len(points), wide * points.shape[1]))
    for at in range(0, len(which), step):
        own = which[at : at + step]
        about = squares[own, None] + squares - 2 * (points[own] @ points.T)
        about[np.arange(len(own)), own] = np.inf
        near = np.argpartition(about, wide - 1, axis=1)[:, :wide]
        exact = np.linalg.norm(points[near] - points[own, None], axis=2)
        found[at : at + step] = np.sort(exact, axis=1)[:, :k]
    return found
