"""Nearest neighbours: what retrieval usually does, and what SIFT is compared with."""

from __future__ import annotations

from siftlm.selection.problem import Problem
from siftlm.selection.registry import Steps, method


@method("nearest", "nearest neighbours of the prompt; relevant, blind to redundancy")
def nearest(problem: Problem) -> Steps:
    """(1 + mean_m cos(x*_m, x)) / 2

    Shifted so that it is never negative, which changes no order and lets priors and costs multiply it.
    """
    gains = (1 + problem.relevance()) / 2
    while True:
        yield gains
