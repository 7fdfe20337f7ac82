"""Active learning by variance and distance."""

from __future__ import annotations

import numpy as np

from siftlm.selection.posterior import posterior_of
from siftlm.selection.problem import Problem, Steps, method
from siftlm.selection.selectors.retrieval import exponential_race
from siftlm.types import FloatArray


@method(
    "uncertainty",
    "least known given the picks; covers everything, outliers first",
    targeted=False,
    repeats=True,
)
def uncertainty(problem: Problem) -> Steps:
    """k_n(x, x)"""
    posterior = problem.posterior(trace_only=True)
    while True:
        index = yield posterior.variance
        posterior.observe(index)


@method(
    "undirected-vtl",
    "least total variance of all candidates; typical and not redundant",
    targeted=False,
    repeats=True,
)
def undirected_vtl(problem: Problem) -> Steps:
    """mean_j k_n(x_j, x)² / (k_n(x, x) + λ) over all candidates x_j

    Needs no query and ignores one, but for the uncertainty that the result reports. Known items condition the
    candidates and are not targets themselves. With more candidates than features the K × K covariance is
    never formed: Σ_j k_n(x_j, x)² = |S^½ P_n x|² with S the candidates' (d, d) scatter; O(K d (N + d)).
    """
    # Not problem.posterior(): the loop would take the uncertainty about the candidates for that of the query.
    space = problem.everything("undirected-vtl")
    posterior = posterior_of(space, problem.noise, problem.expected, trace_only=True)
    while True:
        index = yield posterior.trace_gain()
        posterior.observe(index)


@method("max-dist", "farthest from all picks so far; covers the edges of the candidates", targeted=False)
def max_dist(problem: Problem) -> Steps:
    """min_i ‖φ(x) − φ(x_i)‖² over the picks x_i; before any pick ‖φ(x)‖²

    Distances are the kernel's: k(x, x) + k(x_i, x_i) − 2 k(x, x_i). Known items count as picks.
    """
    index = yield problem.space.diagonal().copy()
    nearest = squared_distances(problem, index)
    while True:
        index = yield nearest
        np.minimum(nearest, squared_distances(problem, index), out=nearest)


def squared_distances(problem: Problem, index: int) -> FloatArray:
    """(K,) ‖φ(x) − φ(x_index)‖², exactly 0 for the row itself"""
    diagonal = problem.space.diagonal()
    squared = diagonal + diagonal[index] - 2 * problem.space.row(index).astype(np.float64)
    squared[index] = 0
    distances: FloatArray = np.maximum(squared, 0)
    return distances


@method("k-means++", "drawn at random in proportion to the squared distance from all picks", targeted=False)
def k_means_pp(problem: Problem) -> Steps:
    """d² / E,  d² = min_i ‖φ(x) − φ(x_i)‖² over the picks x_i (1 before any), E ~ Exp(1) anew for each pick

    The largest d²/E is a draw with probabilities in proportion to d². A factor on d² is a factor on the gain,
    so a prior makes the draw proportional to prior · d², and what is excluded never takes part. Known items
    count as picks. Once all distances are 0 there is nothing to draw, and ties go to the smaller index.
    """
    generator = problem.generator()
    index = yield exponential_race(generator, np.ones(problem.space.size))
    nearest = squared_distances(problem, index)
    while True:
        index = yield exponential_race(generator, nearest)
        np.minimum(nearest, squared_distances(problem, index), out=nearest)
