"""Optimal transport between two sets of points, with a little entropy: potentials, and the gradient by mass."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from siftlm.errors import InvalidInput
from siftlm.types import FloatArray

# How many iterations there are at most.
MAX_ITERATIONS = 5000
# How often the error is looked at.
CHECK_EVERY = 10
# Costs are at most 1, so that exp(-cost / MIN_ENTROPY) is no zero in float64.
MIN_ENTROPY = 0.002


@dataclass(frozen=True, eq=False)
class Potentials:
    """The solution of max_{f, g} Σ a f + Σ b g − ε (Σ_ij a_i b_j exp((f_i + g_j − c_ij) / ε) − 1)."""

    rows: FloatArray
    """(K,) f: what one more unit of mass at each row adds to the distance, up to a constant."""
    columns: FloatArray
    """(m,) g"""
    distance: float
    """The value of the maximum."""


def transport(
    cost: FloatArray, entropy: float, start: FloatArray | None = None, *, tolerance: float = 1e-7
) -> Potentials:
    """Potentials of K rows and m columns of equal masses, by Sinkhorn's iterations; O(K m) each.

    Args:
        cost: (K, m) from 0 to 1.
        entropy: ε; at least ``MIN_ENTROPY``. Towards 0 the distance is that of plain optimal transport.
        start: (m,) column potentials to begin with, those of a similar problem.
        tolerance: the sum of the errors of the column masses at which the iterations end.
    """
    rows, columns = cost.shape
    kernel = np.exp(-cost / entropy)
    right = np.full(columns, 1.0 / columns) if start is None else np.exp((start - start.max()) / entropy) / columns
    left = np.empty(rows)
    for step in range(MAX_ITERATIONS):
        left = 1.0 / (rows * (kernel @ right))
        reached = left @ kernel
        if step % CHECK_EVERY == CHECK_EVERY - 1:
            error = float(np.abs(right * reached - 1 / columns).sum())
            if error < tolerance:
                break
        right = 1.0 / (columns * reached)
    f, g = entropy * np.log(left * rows), entropy * np.log(right * columns)
    if not (np.isfinite(f).all() and np.isfinite(g).all()):
        raise InvalidInput(f"optimal transport with an entropy of {entropy:g} leaves what float64 can hold; raise it")
    return Potentials(f, g, float(f.mean() + g.mean()))


def row_potentials(cost: FloatArray, columns: FloatArray, entropy: float) -> FloatArray:
    """(K,) −ε log mean_j exp((g_j − c_xj) / ε): the potentials of any rows, from those of the columns."""
    scaled = (columns - cost) / entropy
    most = scaled.max(axis=1)
    summed: FloatArray = -entropy * (most + np.log(np.exp(scaled - most[:, None]).mean(axis=1)))
    return summed
