"""Max-sum diversification."""

from __future__ import annotations

from siftlm.selection import checks
from siftlm.selection.problem import Problem
from siftlm.selection.registry import Steps, method


@method("max-sum", "relevance and the sum of distances to all picks", signed=True)
def max_sum(problem: Problem, *, balance: float = 0.5) -> Steps:
    """balance · mean_m cos(x*_m, x) + (1 − balance) · Σ_i (1 − cos(x_i, x)) over the picks x_i

    The sum grows with the picks and relevance does not, so distance decides more and more. Known items count
    as picks.
    """
    balance = checks.fraction("balance", balance)
    gains = balance * problem.relevance()
    while True:
        index = yield gains
        gains = gains + (1 - balance) * (1 - problem.similarity_to(index))
