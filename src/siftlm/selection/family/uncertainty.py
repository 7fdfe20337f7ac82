"""Uncertainty sampling: whatever is least known after the picks so far."""

from __future__ import annotations

from siftlm.selection.problem import Problem
from siftlm.selection.registry import Steps, method


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
