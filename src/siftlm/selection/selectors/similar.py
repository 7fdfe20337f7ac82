"""The most similar to the targets, by turns and by groups, as training sets are chosen with RDS+ and LESS."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from siftlm.errors import InvalidInput, setting
from siftlm.selection import checks
from siftlm.selection.problem import Problem, Steps, method
from siftlm.types import FloatArray, IntArray


@method("rds", "every target in turn takes its most similar candidate that is left (RDS+)")
def rds(problem: Problem) -> Steps:
    """(1 + cos(x*_t, x)) / 2,  t = (number of picks) mod m: the target whose turn it is

    Ivison et al. 2025, arXiv 2503.01807. The targets' order is that in which they are given. RDS+ is this on vectors
    of a language model: means of its last hidden states, weighted by position. A target whose nearest candidate was
    taken by another takes its next one, so that all get as many; in the published code it loses its turn. Shifted so
    that gains are never negative, which lets priors and costs multiply them. Known items take no turn.
    O(m K d) once, then O(K) a pick; m K numbers in memory.
    """
    near = (1 + problem.similarity()) / 2
    for _ in range(problem.known):
        yield near[0]
    turn = 0
    while True:
        yield near[turn]
        turn = (turn + 1) % len(near)


@method(
    "less",
    "most similar to any one group of targets: LESS, on its gradient features",
    target_labels=("groups",),
)
def less(problem: Problem, *, groups: Sequence[object] | None = None) -> Steps:
    """(1 + max_g mean_{m ∈ g} cos(x*_m, x)) / 2 over the groups g of targets

    Xia et al. 2024, arXiv 2402.04333, where a group is a subtask, such as one subject of an exam with its few
    examples. ``groups`` has a label for each target; left out, each target is a group of its own.

    On the gradient features of LESS this is LESS: there the candidates' are those of an Adam step, the targets' plain
    gradients, both projected and of unit length. Several checkpoints are one vector, each part times the square root
    of its learning rate. On other vectors it is the same rule without the influence that it stands for. Shifted so
    that gains are never negative. O(m K d) once.
    """
    similarity = problem.similarity()
    if groups is not None:
        similarity = group_means(similarity, _group_numbers(groups, len(similarity)))
    gains = (1 + similarity.max(axis=0)) / 2
    while True:
        yield gains


def _group_numbers(groups: Sequence[object], targets: int) -> IntArray:
    if isinstance(groups, str) or not hasattr(groups, "__len__") or len(groups) != targets:
        several = hasattr(groups, "__len__") and not isinstance(groups, str)
        got = f"{len(groups)} labels" if several else f"{groups!r}, which is no list of labels"
        raise InvalidInput(
            f"{setting('groups')} must be a list with a label for each of {targets} targets, got {got:.60}"
        )
    return checks.labels("groups", groups, targets)


def group_means(rows: FloatArray, groups: IntArray) -> FloatArray:
    """(m, K) and (m,) labels 0, 1, … -> (number of labels, K): the mean of each group's rows."""
    means = np.zeros((int(groups.max()) + 1, rows.shape[1]))
    for row, group in zip(rows, groups.tolist(), strict=True):
        means[group] += row
    means /= np.bincount(groups)[:, None]
    return means
