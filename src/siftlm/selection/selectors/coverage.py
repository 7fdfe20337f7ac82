"""Submodular coverage and determinantal point processes."""

from __future__ import annotations

import numpy as np

from siftlm import validation
from siftlm.errors import InvalidInput
from siftlm.selection.numerics import ZERO_COSINE_ROUNDINGS, jitter_share
from siftlm.selection.posterior import posterior_of
from siftlm.selection.problem import Problem, Steps, method
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
    balance, gamma = validation.fraction("balance", balance), validation.fraction("gamma", gamma)
    if gamma == 0:
        raise InvalidInput("gamma must be > 0: with 0 nothing is worth covering")
    size = problem.candidates
    pairs = problem.pairs("cover")
    # A small gamma makes much of little: a cosine that is zero but for rounding must not count as cover.
    pairs[pairs < ZERO_COSINE_ROUNDINGS * problem.space.rounding] = 0.0
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


@method("dpp", "greedy determinantal point process: relevant, and spanning as much volume as possible")
def dpp(problem: Problem, *, balance: float = 0.5) -> Steps:
    """w(x)² · Var(x | picks) of S = cos,  w = exp(balance · z),  z = relevance in standard deviations

    The factor by which x raises the determinant of diag(w) S diag(w) over the picks. The variance is that of
    noiseless picks but for a tiny jitter; once the picks span everything, it is all that is left to tell
    candidates apart. ``balance`` ≥ 0: 0 is diversity alone. Known items count as picks.
    """
    balance = validation.number("balance", balance, least=0)
    weight = np.exp(2 * _quality_exponent(problem, balance))
    diagonal = problem.space.diagonal()
    jitter = jitter_share(problem.space.rounding) * (float(diagonal.max()) or 1.0)
    # Scaling x scales its variance alike, so S needs no space of its own.
    posterior = posterior_of(problem.space, jitter, problem.expected, trace_only=True)
    while True:
        variance = np.divide(posterior.variance, diagonal, out=np.zeros(len(diagonal)), where=diagonal > 0)
        index = yield weight * variance
        posterior.observe(index)


def _quality_exponent(problem: Problem, balance: float) -> FloatArray:
    """balance · z, standardised over the candidates, within what a double can exponentiate twice."""
    relevance = problem.relevance()
    own = relevance[: problem.candidates]
    spread = float(own.std())
    if spread <= ZERO_COSINE_ROUNDINGS * problem.space.rounding:
        return np.zeros(len(relevance))
    exponent: FloatArray = np.clip(balance * (relevance - own.mean()) / spread, -300, 300)
    return exponent
