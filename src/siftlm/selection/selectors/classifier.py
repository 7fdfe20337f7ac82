"""Uncertainty of a classifier's outputs: max-entropy, min-margin, least confidence."""

from __future__ import annotations

import numpy as np

from siftlm.selection.kernels import entropy
from siftlm.selection.problem import Problem, Steps, method


@method("max-entropy", "widest spread of the classifier's outputs", targeted=False, reads="probabilities")
def max_entropy(problem: Problem) -> Steps:
    """−Σ_c p_x(c) log p_x(c)"""
    gains = entropy(problem.outputs())
    while True:
        yield gains


@method("min-margin", "smallest lead of the likeliest class over the next", targeted=False, reads="probabilities")
def min_margin(problem: Problem) -> Steps:
    """1 − (p1 − p2) of the two largest p_x(c); a single class leads by all it has"""
    outputs = problem.outputs()
    largest = np.sort(outputs, axis=1)[:, -2:]
    margin = largest[:, -1] - largest[:, 0] if outputs.shape[1] > 1 else largest[:, -1]
    gains = np.maximum(1 - margin, 0)
    while True:
        yield gains


@method("least-confidence", "smallest probability of the likeliest class", targeted=False, reads="probabilities")
def least_confidence(problem: Problem) -> Steps:
    """1 − max_c p_x(c)"""
    gains = np.maximum(1 - problem.outputs().max(axis=1), 0)
    while True:
        yield gains
