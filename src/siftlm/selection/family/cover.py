"""Saturated coverage: many candidates covered a little before few are covered much."""

from __future__ import annotations

import numpy as np

from siftlm.errors import InvalidInput
from siftlm.selection import checks
from siftlm.selection.problem import Problem
from siftlm.selection.registry import Steps, method
from siftlm.types import FloatArray

# Numbers that may be in memory at a time, beside the similarities.
COVER_BLOCK_PAIRS = 1 << 20


@method("cover", "relevance and how much the picks cover all candidates; needs all pairs", signed=True)
def cover(problem: Problem, *, balance: float = 0.5, gamma: float = 0.5) -> Steps:
    """balance · mean_m cos(x*_m, x) + (1 − balance) · Σ_j ((c_j + s_xj)^gamma − c_j^gamma)

    s = max(0, cos), and c_j = Σ_i s_ij over the picks x_i is how well candidate x_j is covered so far. A
    ``gamma`` in (0, 1] below 1 makes each further pick for the same x_j worth less. Known items count as
    picks and need no cover. O(K²) a pick.
    """
    balance, gamma = checks.fraction("balance", balance), checks.fraction("gamma", gamma)
    if gamma == 0:
        raise InvalidInput("gamma must be > 0: with 0 nothing is worth covering")
    size = problem.candidates
    pairs = problem.pairs("cover")
    # A small gamma makes much of little: a cosine that is zero but for rounding must not count as cover.
    pairs[pairs < 8 * problem.space.rounding] = 0.0
    relevant = balance * problem.relevance()
    covered = np.zeros(size)
    while True:
        index = yield relevant + (1 - balance) * _cover_gains(pairs[:, :size], covered, gamma)
        covered += pairs[index, :size]


def _cover_gains(pairs: FloatArray, covered: FloatArray, gamma: float) -> FloatArray:
    gains = np.empty(len(pairs))
    before = covered**gamma
    rows = max(1, COVER_BLOCK_PAIRS // len(covered))
    for start in range(0, len(pairs), rows):
        after = (covered + pairs[start : start + rows]) ** gamma
        after -= before
        gains[start : start + rows] = after.sum(axis=1)
    return gains
