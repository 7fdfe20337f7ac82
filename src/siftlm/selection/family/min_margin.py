"""Min-margin: torn between the two likeliest classes."""

from __future__ import annotations

import numpy as np

from siftlm.selection.problem import Problem
from siftlm.selection.registry import Steps, method


@method("min-margin", "smallest lead of the likeliest class over the next", targeted=False, reads="probabilities")
def min_margin(problem: Problem) -> Steps:
    """1 − (p1 − p2) of the two largest p_x(c); a single class leads by all it has"""
    outputs = problem.outputs()
    largest = np.sort(outputs, axis=1)[:, -2:]
    margin = largest[:, -1] - largest[:, 0] if outputs.shape[1] > 1 else largest[:, -1]
    gains = np.maximum(1 - margin, 0)
    while True:
        yield gains
