"""SIFT: the picks that together leave the least uncertainty about the prompt."""

from __future__ import annotations

from siftlm.selection.problem import Problem
from siftlm.selection.registry import Steps, method


@method("sift", "least uncertainty about the prompt; relevant and not redundant", repeats=True)
def sift(problem: Problem) -> Steps:
    """mean_m k_n(x*_m, x)² / (k_n(x, x) + λ)

    Exactly the fall in the prompt's mean posterior variance by picking x. Also known as VTL.
    """
    posterior = problem.posterior(trace_only=True)
    while True:
        index = yield posterior.trace_gain()
        posterior.observe(index)
