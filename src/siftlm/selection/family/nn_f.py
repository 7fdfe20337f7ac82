"""NN-F: the nearest neighbour, n times over."""

from __future__ import annotations

from siftlm.selection.family.nearest import nearest
from siftlm.selection.problem import Problem
from siftlm.selection.registry import Steps, method


@method("nn-f", "the nearest neighbour n times; what repeating one text is worth", repeats=True)
def nn_f(problem: Problem) -> Steps:
    """(1 + mean_m cos(x*_m, x)) / 2

    As ``nearest``, but picks do not use candidates up: the best one stays the best. Where a limit
    (``replacement``, ``source_cap``, ``budget``) forbids it, the next nearest takes over.
    """
    yield from nearest(problem)
