"""Farthest-first traversal."""

from __future__ import annotations

import numpy as np

from siftlm.selection.problem import Problem
from siftlm.selection.registry import Steps, method
from siftlm.types import FloatArray


@method("max-dist", "farthest from all picks so far; covers the edges of the candidates", targeted=False)
def max_dist(problem: Problem) -> Steps:
    """min_i ‖φ(x) − φ(x_i)‖² over the picks x_i; before any pick ‖φ(x)‖²

    Distances are the kernel's: k(x, x) + k(x_i, x_i) − 2 k(x, x_i). Known items count as picks.
    """
    index = yield problem.space.diagonal().copy()
    nearest = squared_distances(problem, index)
    while True:
        index = yield nearest
        np.minimum(nearest, squared_distances(problem, index), out=nearest)


def squared_distances(problem: Problem, index: int) -> FloatArray:
    """(K,) ‖φ(x) − φ(x_index)‖², exactly 0 for the row itself"""
    diagonal = problem.space.diagonal()
    squared = diagonal + diagonal[index] - 2 * problem.space.row(index).astype(np.float64)
    squared[index] = 0
    distances: FloatArray = np.maximum(squared, 0)
    return distances
