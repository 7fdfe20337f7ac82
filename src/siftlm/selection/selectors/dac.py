"""Draws by clusters whose weights are refined in rounds: "Diversify and Conquer" (Yu et al. 2024)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from siftlm import validation
from siftlm.errors import InvalidInput, setting
from siftlm.selection import checks
from siftlm.selection.clusters import cluster
from siftlm.selection.numerics import BUDGET_SLACK
from siftlm.selection.problem import Problem, Steps, method
from siftlm.types import FloatArray, IntArray

DEFAULT_ROUNDS = 3
Scores = npt.ArrayLike | Callable[[IntArray], npt.ArrayLike]


@method(
    "dac",
    "drawn from k-means clusters, weighted by the scores of the picks so far (DAC)",
    targeted=False,
    numbers=("scores",),
)
def dac(
    problem: Problem, *, clusters: int | None = None, rounds: int = DEFAULT_ROUNDS, scores: Scores | None = None
) -> Steps:
    """w_c / (E · Σ_{y ∈ c} p_y),  c the cluster of x, p the prior, E ~ Exp(1); after a round w_c ← w_c s_c / Σ s

    Yu et al. 2024, arXiv 2409.11378: each pick is a draw of a cluster by the weights w, then of one of its candidates
    left, by the prior (1 if there is none). All w are equal in the first of ``rounds`` of n / rounds picks each. s_c is
    the mean of ``scores`` over the picks from cluster c in the last round, that of all picks in it where there are
    none; the scores are (K,) numbers ≥ 0, or a function that gets the indices of a round's picks and returns theirs:
    in the paper, how much better the record's own answer is scored than that of the model trained so far. Without
    scores w stays equal.

    The published code makes scores positive by the exponential, and weights by them anew in each round. The paper's
    text draws the first round by the clusters' sizes, its Algorithm 1 by equal weights. ``clusters=None``: of 2, 4, …,
    512 as many as have the best silhouette. O(K) a pick.
    """
    rounds = validation.whole_number("rounds", rounds)
    count = None if clusters is None else validation.whole_number("clusters", clusters, most=problem.candidates)
    if scores is not None and not callable(scores):
        scores = checks.per_item("scores", scores, problem.candidates, positive=False)
    division, draw = cluster(problem, count, "dac"), problem.generator()
    size, labels = problem.space.size, division.labels
    weights = np.full(division.count, 1.0 / division.count)
    for _ in range(problem.known):
        yield np.zeros(size)
    picks: list[int] = []
    begun, done = 0, 0
    while True:
        if (share := _share(problem, len(picks))) >= (done + 1) / rounds and done + 1 < rounds:
            done = min(int(share * rounds + 1e-9), rounds - 1)
            if scores is not None and len(picks) > begun:
                weights = _reweighted(weights, labels, np.array(picks[begun:], dtype=np.int64), scores)
            begun = len(picks)
        picks.append((yield problem.padded(_race(problem, labels, weights, draw))))


def _share(problem: Problem, picks: int) -> float:
    """How much of the selection is done: of the picks, or of the budget if that is more."""
    rules = problem.rules
    spent = 0.0 if rules.budget is None else rules.spent / (rules.budget * (1 + BUDGET_SLACK))
    return max(picks / max(problem.picks, 1), spent)


def _race(problem: Problem, labels: IntArray, weights: FloatArray, draw: np.random.Generator) -> FloatArray:
    """(K,) the fastest, times its prior, is a draw by the weights of the clusters and then by the prior."""
    forbidden, prior = problem.rules.forbidden(), problem.rules.prior
    open_ones = np.ones(len(labels)) if forbidden is None else (~forbidden[: len(labels)]).astype(np.float64)
    mass = np.bincount(labels, open_ones if prior is None else open_ones * prior[: len(labels)], len(weights))
    per_mass = np.divide(weights, mass, out=np.zeros(len(weights)), where=mass > 0)
    speeds: FloatArray = per_mass[labels] / np.maximum(draw.standard_exponential(len(labels)), 1e-300)
    return speeds


def _reweighted(weights: FloatArray, labels: IntArray, picks: IntArray, scores: Scores) -> FloatArray:
    """w_c s_c, summing to 1; as they were if all scores are 0."""
    if callable(scores):
        values = checks.as_array("scores", scores(picks)).astype(np.float64)
        if values.shape != picks.shape or not np.isfinite(values).all() or (values < 0).any():
            raise InvalidInput(f"{setting('scores')} must return one finite number >= 0 for each of {len(picks)} picks")
    else:
        values = np.asarray(scores, dtype=np.float64)[picks]
    own, count = labels[picks], len(weights)
    held = np.bincount(own, minlength=count)
    means = np.divide(np.bincount(own, values, count), held, out=np.full(count, float(values.mean())), where=held > 0)
    refined = weights * means
    return refined / refined.sum() if refined.sum() > 0 else weights
