"""A determinantal point process, maximised greedily."""

from __future__ import annotations

import numpy as np

from siftlm.selection import checks
from siftlm.selection.posterior import posterior_of
from siftlm.selection.problem import Problem
from siftlm.selection.registry import Steps, method
from siftlm.types import FloatArray

# In place of no noise: this much of the largest k(x, x), or so many roundings of a scan where that is more.
DPP_JITTER = 1e-10
DPP_JITTER_ROUNDINGS = 32


@method("dpp", "greedy determinantal point process: relevant, and spanning as much volume as possible")
def dpp(problem: Problem, *, balance: float = 0.5) -> Steps:
    """w(x)² · Var(x | picks) of S = cos,  w = exp(balance · z),  z = relevance in standard deviations

    The factor by which x raises the determinant of diag(w) S diag(w) over the picks. The variance is that of
    noiseless picks but for a tiny jitter; once the picks span everything, it is all that is left to tell
    candidates apart. ``balance`` ≥ 0: 0 is diversity alone. Known items count as picks.
    """
    balance = checks.number("balance", balance, at_least=0)
    weight = np.exp(2 * _quality_exponent(problem, balance))
    diagonal = problem.space.diagonal()
    share = max(DPP_JITTER, DPP_JITTER_ROUNDINGS * problem.space.rounding)
    # Scaling x scales its variance alike, so S needs no space of its own.
    posterior = posterior_of(problem.space, share * (float(diagonal.max()) or 1.0), problem.expected, trace_only=True)
    while True:
        variance = np.divide(posterior.variance, diagonal, out=np.zeros(len(diagonal)), where=diagonal > 0)
        index = yield weight * variance
        posterior.observe(index)


def _quality_exponent(problem: Problem, balance: float) -> FloatArray:
    """balance · z, standardised over the candidates, within what a double can exponentiate twice."""
    relevance = problem.relevance()
    own = relevance[: problem.candidates]
    spread = float(own.std())
    if spread <= 8 * problem.space.rounding:
        return np.zeros(len(relevance))
    exponent: FloatArray = np.clip(balance * (relevance - own.mean()) / spread, -300, 300)
    return exponent
