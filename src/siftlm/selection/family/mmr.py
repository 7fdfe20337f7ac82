"""MMR: maximal marginal relevance."""

from __future__ import annotations

import numpy as np

from siftlm.selection import checks
from siftlm.selection.problem import Problem
from siftlm.selection.registry import Steps, method


@method("mmr", "relevance less the similarity to the closest pick", signed=True)
def mmr(problem: Problem, *, balance: float = 0.5) -> Steps:
    """balance · mean_m cos(x*_m, x) − (1 − balance) · max_i cos(x_i, x) over the picks x_i

    Before any pick the second term is 0. Known items count as picks.
    """
    balance = checks.fraction("balance", balance)
    relevant = balance * problem.relevance()
    index = yield relevant
    closest = problem.similarity_to(index)
    while True:
        index = yield relevant - (1 - balance) * closest
        np.maximum(closest, problem.similarity_to(index), out=closest)
