"""HullFT's selection: a sparse convex combination of candidates, in whole numbers, near the prompt."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from siftlm import validation
from siftlm.selection.checks import RealArray
from siftlm.selection.problem import Problem, Steps, method
from siftlm.types import FloatArray, IntArray

# Rows of similarities to candidates of the combination are kept up to this many numbers.
ROW_CACHE_NUMBERS = 1 << 26


@method(
    "hull",
    "counts of few texts whose mean rebuilds the prompt's embedding (HullFT)",
    whole=True,
    repeats=True,
)
def hull(problem: Problem, *, max_iter: int = 1000, tolerance: float = 1e-4) -> Steps:
    """Minimise ‖q − Σ_i c_i φ(x_i) / n‖² over counts c ≥ 0 that sum to n,  q = mean_m φ(x*_m)

    As in arXiv 2605.30337: Frank–Wolfe with exact line search, from the most similar candidate on, finds
    weights of at most n candidates; the counts are n times the weights, rounded down, the rest handed out one
    by one to whom it helps most, then moved from one candidate to another for as long as that helps.

    Frank–Wolfe ends after ``max_iter`` steps, with n candidates, or when no convex combination could lower
    ½‖q − z‖² by more than ``tolerance`` · ‖q‖² (its duality gap). Everything is inner products, so any kernel
    will do. The picks come grouped by text, largest count first; the gain of each is its text's weight. Known
    items play no part. Later steps to settle the counts cost O(support²) each, without the candidates.
    """
    most = validation.whole_number("max_iter", max_iter, least=0)
    tolerance = validation.number("tolerance", tolerance, least=0)
    gains = np.zeros(problem.space.size)
    for _ in range(problem.known):
        yield gains
    support, weights = _frank_wolfe(problem, most, tolerance)
    target = problem.space.cross_to(support).mean(axis=0)
    counts = _integer_counts(problem.space.among(support, support), target, weights, problem.picks)
    order = np.lexsort((support, -counts))
    for at in np.repeat(order, counts[order]):
        gains = np.zeros(problem.space.size)
        # Rounding may give a count to a text of no weight to speak of; its gain must still be the largest.
        gains[support[at]] = max(float(weights[at]), 1e-12)
        yield gains
    while True:
        yield gains


class _ConvexCombination(NamedTuple):
    support: IntArray
    """(s,) candidates, ascending"""
    weights: FloatArray
    """(s,) > 0, summing to 1"""


def _frank_wolfe(problem: Problem, most: int, tolerance: float) -> _ConvexCombination:
    """min ½‖q − z‖² over convex combinations z of candidates; of z only z·φ(x) for all x is kept."""
    space, choose = problem.space, problem.rules.choose
    similar = space.cross().mean(axis=0)  # q·φ(x)
    diagonal = space.diagonal()
    row = _RowCache(problem)
    first = choose(similar)
    weights = {first: 1.0}
    reached = row(first).astype(np.float64)  # z·φ(x)
    to_target, own = float(similar[first]), float(diagonal[first])  # q·z, z·z
    enough = tolerance * float(space.target_gram().mean())
    for _ in range(most):
        corner = choose(similar - reached)
        towards = float(similar[corner] - reached[corner])
        gap = towards - (to_target - own)
        length = float(diagonal[corner]) - 2 * float(reached[corner]) + own
        if gap <= enough or length <= 0 or (corner not in weights and len(weights) == problem.picks):
            break
        step = min(1.0, gap / length)
        to_target += step * (float(similar[corner]) - to_target)
        own = (1 - step) ** 2 * own + 2 * step * (1 - step) * float(reached[corner]) + step**2 * diagonal[corner]
        reached *= 1 - step
        reached += step * row(corner)
        weights = {index: (1 - step) * weight for index, weight in weights.items()}
        weights[corner] = weights.get(corner, 0.0) + step
    support = np.array(sorted(index for index, weight in weights.items() if weight > 0), dtype=np.int64)
    return _ConvexCombination(support, np.array([weights[int(index)] for index in support]))


class _RowCache:
    """k(x_index, ·), remembered while there is room: Frank–Wolfe comes back to the same few corners."""

    def __init__(self, problem: Problem) -> None:
        self._space = problem.space
        self._kept: dict[int, RealArray] = {}
        self._room = max(1, ROW_CACHE_NUMBERS // problem.space.size)

    def __call__(self, index: int) -> RealArray:
        row = self._kept.get(index)
        if row is None:
            row = self._space.row(index)
            if len(self._kept) < self._room:
                self._kept[index] = row
        return row


def _integer_counts(gram: FloatArray, target: FloatArray, weights: FloatArray, n: int) -> IntArray:
    """Counts near n · weights that sum to n and that no single move from one text to another improves.

    n² ‖q − Σ c_i φ_i / n‖² = n² ‖q‖² − 2n Σ c_i q·φ_i + cᵀGc, so one more of i changes it by
    −2n q·φ_i + 2(Gc)_i + G_ii, and moving one from i to j by the difference of slopes plus ‖φ_i − φ_j‖².
    """
    # A product such as 2.9999999999 means 3.
    counts = np.floor(n * weights + 1e-9).astype(np.int64)
    diagonal = np.diagonal(gram)
    slope = 2 * (gram @ counts - n * target)
    for _ in range(n - int(counts.sum())):
        index = int(np.argmin(slope + diagonal))
        counts[index] += 1
        slope += 2 * gram[index]
    apart = diagonal[:, None] + diagonal - 2 * gram
    # Each move lowers the sum of squares, so none comes back; the limit only guards against rounding.
    least = 1e-12 * n * max(1.0, float(diagonal.max()))
    for _ in range(100 + 10 * n):
        change = slope - slope[:, None] + apart
        change[counts == 0] = np.inf
        giver, taker = np.unravel_index(int(np.argmin(change)), change.shape)
        if change[giver, taker] >= -least:
            break
        counts[giver] -= 1
        counts[taker] += 1
        slope += 2 * (gram[taker] - gram[giver])
    return counts
