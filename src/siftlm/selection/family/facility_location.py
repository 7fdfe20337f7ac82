"""Facility location: every candidate should have a pick close by."""

from __future__ import annotations

import numpy as np

from siftlm.selection.problem import Problem
from siftlm.selection.registry import Steps, method
from siftlm.types import FloatArray

# Numbers that may be in memory at a time, beside the similarities.
FACILITY_BLOCK_PAIRS = 1 << 20


@method("facility-location", "every relevant candidate has a pick close by; needs all pairs", targeted=False)
def facility_location(problem: Problem) -> Steps:
    """Σ_j w_j · max(0, s_xj − max_i s_ij) over candidates x_j and picks x_i,  s = max(0, cos)

    w_j = max(0, relevance of x_j), or 1 when there is no query; max_i s_ij is 0 before any pick. Known items
    count as picks and need none close by. O(K²) a pick.
    """
    pairs = np.maximum(problem.pairs("facility-location"), 0)
    size = problem.candidates
    demand = np.maximum(problem.relevance()[:size], 0) if problem.space.targets else np.ones(size)
    best = np.zeros(size)
    while True:
        index = yield _facility_gains(pairs[:, :size], best, demand)
        np.maximum(best, pairs[index, :size], out=best)


def _facility_gains(pairs: FloatArray, best: FloatArray, demand: FloatArray) -> FloatArray:
    gains = np.empty(len(pairs))
    rows = max(1, FACILITY_BLOCK_PAIRS // len(best))
    for start in range(0, len(pairs), rows):
        closer = pairs[start : start + rows] - best
        gains[start : start + rows] = np.maximum(closer, 0, out=closer) @ demand
    return gains
