"""VTL: variance-based transductive learning, the name under which SIFT's objective was first studied."""

from __future__ import annotations

from siftlm.selection.family.sift import sift
from siftlm.selection.problem import Problem
from siftlm.selection.registry import Steps, method


@method("vtl", "least total variance of the targets; the objective of sift by its older name", repeats=True)
def vtl(problem: Problem) -> Steps:
    """mean_m k_n(x*_m, x)² / (k_n(x, x) + λ)

    The trace of the targets' posterior covariance. The same function as ``sift``, kept so that results of the
    active-learning literature can be named as they were.
    """
    yield from sift(problem)
