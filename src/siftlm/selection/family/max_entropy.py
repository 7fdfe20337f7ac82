"""Max-entropy: the outputs that are spread widest."""

from __future__ import annotations

from siftlm.selection.numerics import entropy
from siftlm.selection.problem import Problem
from siftlm.selection.registry import Steps, method


@method("max-entropy", "widest spread of the classifier's outputs", targeted=False, reads="probabilities")
def max_entropy(problem: Problem) -> Steps:
    """−Σ_c p_x(c) log p_x(c)"""
    gains = entropy(problem.outputs())
    while True:
        yield gains
