"""Least confidence: the likeliest class is not very likely."""

from __future__ import annotations

import numpy as np

from siftlm.selection.problem import Problem
from siftlm.selection.registry import Steps, method


@method("least-confidence", "smallest probability of the likeliest class", targeted=False, reads="probabilities")
def least_confidence(problem: Problem) -> Steps:
    """1 − max_c p_x(c)"""
    gains = np.maximum(1 - problem.outputs().max(axis=1), 0)
    while True:
        yield gains
