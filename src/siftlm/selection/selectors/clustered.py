"""Draws from clusters: "Diversify and Conquer" (Yu et al. 2024) and Adapt-∞ (Maharana et al. 2024)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from siftlm import validation
from siftlm.errors import Conflict, InvalidInput, setting
from siftlm.selection import checks
from siftlm.selection.clusters import cluster, even_shares, feature_space
from siftlm.selection.numerics import BUDGET_SLACK, scaled_to_one
from siftlm.selection.problem import Problem, Steps, method
from siftlm.types import FloatArray, IntArray

DEFAULT_ROUNDS = 3
# As in Adapt-∞'s published code: ranges of scores, also for their entropy, and the shares that count as outliers.
SCORE_RANGES, OUTLIERS = 50, (0.05, 0.95)
# Pruning compares every pair of a cluster.
MAX_CLUSTER_PAIRS = 20_000
Scores = npt.ArrayLike | Callable[[IntArray], npt.ArrayLike]


@method(
    "dac",
    "drawn from k-means clusters, weighted by the scores of the picks so far (DAC)",
    targeted=False,
    numbers=("scores",),
    nonnegative=("scores",),
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
    values, own, count = scaled_to_one(values), labels[picks], len(weights)
    held = np.bincount(own, minlength=count)
    means = np.divide(np.bincount(own, values, count), held, out=np.full(count, float(values.mean())), where=held > 0)
    refined = weights * means
    return refined / refined.sum() if refined.sum() > 0 else weights


# --- Adapt-∞


@method(
    "adapt-inf",
    "drawn evenly from clusters and over ranges of a score of their own (Adapt-∞)",
    targeted=False,
    whole=True,
    numbers=("scores",),
)
def adapt_inf(
    problem: Problem, *, scores: npt.ArrayLike | None = None, clusters: int | None = None, prune: float = 0.0
) -> Steps:
    """n / k draws from each of k clusters, over ranges of the score s* = argmax_s H(s) in the cluster

    Maharana et al. 2024, arXiv 2410.10636, whose clusters are of gradients, so that each is a skill of the model as it
    is: a choice anew, with new scores, after each stage of training. ``scores`` are one number for each candidate, or
    several, (K, S): how much it could teach by different measures, such as its loss, or the norm of its gradient. In
    each cluster the one counts whose values, in standard deviations from their mean, have the largest entropy over
    ranges. Without scores draws are at random.

    The values from the 5th to the 95th percentile of a cluster are cut into 50 ranges, of which each gives as many at
    random; what a small range has not the others give, and outliers come only where these are too few. A small cluster
    leaves its share to others. ``prune`` leaves out that share of the candidates for good, first: in each cluster those
    whose cosine with any earlier one is largest, which takes all pairs of a cluster.
    ``clusters=None``: of 2, 4, …, 512 as many as have the best silhouette. The gain of a pick is 1.
    """
    prune = validation.number("prune", prune, least=0, below=1)
    count = None if clusters is None else validation.whole_number("clusters", clusters, most=problem.candidates)
    values = _score_columns(scores, problem.candidates)
    labels, draw = cluster(problem, count, "adapt-inf").labels, problem.generator()
    forbidden = problem.rules.forbidden()
    allowed = np.arange(len(labels)) if forbidden is None else np.flatnonzero(~forbidden[: len(labels)])
    groups = [allowed[labels[allowed] == one] for one in np.unique(labels[allowed])]
    if prune:
        kept = even_shares([len(group) for group in groups], len(allowed) - int(prune * len(allowed)))
        groups = [_least_redundant(problem, group, share) for group, share in zip(groups, kept, strict=True)]
        groups = [group for group in groups if len(group)]
    out = np.ones(problem.space.size, dtype=np.bool_)
    out[np.concatenate([*groups, np.empty(0, dtype=np.int64)]).astype(np.int64)] = False
    problem.rules.block(out)
    sizes = [len(group) for group in groups]
    shares = even_shares(sizes, min(problem.picks, sum(sizes)))
    for _ in range(problem.known):
        yield np.zeros(problem.space.size)
    for group, share in zip(groups, shares, strict=True):
        own = values[group, _best_score(values[group])]
        for member in group[_over_ranges(own, share, draw)].tolist():
            gains = np.zeros(problem.space.size)
            gains[member] = 1
            yield gains
    while True:
        yield np.zeros(problem.space.size)


def _score_columns(scores: npt.ArrayLike | None, size: int) -> FloatArray:
    """(K, S), one column of zeros for no scores."""
    if scores is None:
        return np.zeros((size, 1))
    array = checks.as_array("scores", scores)
    columns = checks.finite_matrix("scores", array[:, None] if array.ndim == 1 else array, shape=(size, None))
    for at in range(columns.shape[1]):
        columns[:, at] = scaled_to_one(columns[:, at])
    return columns


def _best_score(values: FloatArray) -> int:
    """The column of (n, S) whose standardized values have the largest entropy over ranges from −4 to 4."""
    edges = np.linspace(-4, 4, SCORE_RANGES)
    entropies = []
    for column in values.T:
        spread = column.std()
        counts = np.histogram((column - column.mean()) / spread, edges)[0] if spread > 0 else np.array([len(column)])
        shares = counts[counts > 0] / max(counts.sum(), 1)
        entropies.append(-float((shares * np.log2(shares)).sum()))
    return int(np.argmax(entropies))


def _over_ranges(values: FloatArray, share: int, draw: np.random.Generator) -> IntArray:
    """(share,) places of values, as many from each range between the outliers; outliers if these are too few."""
    ordered = np.sort(values)
    low, high = (ordered[int(len(values) * at)] for at in OUTLIERS)
    inside = (values > low) & (values <= high)
    ranges = np.searchsorted(np.linspace(low, high, SCORE_RANGES + 1)[1:-1], values, side="left")
    # In any order: where there are more ranges than picks, chance decides which of equal size give none.
    groups = [np.flatnonzero(inside & (ranges == at)) for at in draw.permutation(SCORE_RANGES)]
    sizes = [len(group) for group in groups]
    groups, shares = [*groups, np.flatnonzero(~inside)], even_shares(sizes, min(share, sum(sizes)))
    return np.concatenate(
        [draw.choice(own, one, replace=False) for own, one in zip(groups, [*shares, share - sum(shares)], strict=True)]
    )


def _least_redundant(problem: Problem, group: IntArray, share: int) -> IntArray:
    """The members that are least like any member before them, in the order of the candidates."""
    if len(group) > MAX_CLUSTER_PAIRS:
        raise Conflict(
            f"{setting('prune')} compares every pair of a cluster, and one has {len(group):,} candidates: pass more "
            f"{setting('clusters')}"
        )
    rows = feature_space(problem, "adapt-inf").gather(group)
    rows /= np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-300)
    largest = np.full(len(rows), -np.inf)
    for at in range(1, len(rows)):
        largest[at] = (rows[:at] @ rows[at]).max()
    kept: IntArray = group[np.sort(np.argsort(largest, kind="stable")[:share])]
    return kept
