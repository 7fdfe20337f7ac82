"""The gradient of the transport distance to the targets, by which GOT-D chooses (Kang et al. 2024)."""

from __future__ import annotations

import numpy as np

from siftlm import validation
from siftlm.selection.numerics import ZERO_COSINE_ROUNDINGS
from siftlm.selection.problem import Problem, Steps, method
from siftlm.selection.transport import MIN_ENTROPY, row_potentials, transport
from siftlm.types import FloatArray, IntArray

DEFAULT_ENTROPY = 0.01
# So many candidates stand for all where the transport is solved; all get a gradient.
DEFAULT_SAMPLE = 8192
# Candidates whose costs are computed at a time.
COST_BLOCK = 16384


@method(
    "got-d",
    "what moves the pool, or the known items, most towards the targets (GOT-D)",
    signed=True,
)
def got_d(problem: Problem, *, entropy: float = DEFAULT_ENTROPY, sample: int = DEFAULT_SAMPLE) -> Steps:
    """mean_j f_j − f(x) over the others x_j,  f the dual potential of OT(pool, targets) with cost ‖φ(x) − φ(x*)‖

    Kang et al. 2024, arXiv 2405.02774: minus the calibrated gradient of the distance by the mass of x, so the largest
    gains are the most negative gradients. With known items, OT(known, targets), and the gradient of mass at x beside
    them: these are what a model has been trained on, for which GOT-D lets the pool stand where it is unknown. Blind to
    redundancy among the picks.

    The distance is that with ``entropy``, in units of the largest cost: towards 0 it is the plain one. Of more than
    ``sample`` candidates (or known items) as many are drawn, and the gradients of all follow from the targets'
    potentials; the paper draws two millions of those nearest by domain, and picks from these. O(sample · m) an
    iteration, O(m K d) once.
    """
    entropy = validation.number("entropy", entropy, least=MIN_ENTROPY, most=1)
    sample = validation.whole_number("sample", sample)
    sources = np.arange(problem.candidates, problem.space.size) if problem.known else np.arange(problem.candidates)
    cost = target_distances(problem)
    largest = float(cost.max()) or 1.0
    cost /= largest
    if len(sources) > sample:
        sources = np.sort(problem.generator().choice(sources, sample, replace=False))
    solved = transport(cost[sources], entropy)
    potential = np.empty(len(cost))
    for start in range(0, len(cost), COST_BLOCK):
        block = slice(start, start + COST_BLOCK)
        potential[block] = row_potentials(cost[block], solved.columns, entropy)
    gains = largest * minus_calibrated(potential, sources)
    while True:
        yield gains


def target_distances(problem: Problem) -> FloatArray:
    """(K, m) ‖φ(x) − φ(x*)‖"""
    own, targets = problem.space.diagonal(), np.diagonal(problem.space.target_gram())
    squared = own[:, None] + targets - 2 * problem.space.cross().T
    squared[squared < ZERO_COSINE_ROUNDINGS * problem.space.rounding * problem.space.largest] = 0
    distances: FloatArray = np.sqrt(np.maximum(squared, 0, out=squared), out=squared)
    return distances


def minus_calibrated(potential: FloatArray, sources: IntArray) -> FloatArray:
    """(K,) the mean potential of the sources other than x, less that of x."""
    total, count = float(potential[sources].sum()), len(sources)
    if count == 1:
        return total - potential
    gains = total / count - potential
    gains[sources] = (total - potential[sources]) / (count - 1) - potential[sources]
    return gains
