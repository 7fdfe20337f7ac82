"""CTL: correlation-based transductive learning."""

from __future__ import annotations

import numpy as np

from siftlm.selection.problem import Problem
from siftlm.selection.registry import Steps, method


@method("ctl", "highest correlation with the targets given the picks; opposite texts count against", signed=True)
def ctl(problem: Problem) -> Steps:
    """mean_m a_m / √(v T_mm),  a = k_n(x*, x), v = k_n(x, x), T = k_n(x*, x*)

    The cosine, of what the picks have left open. It has no noise in the denominator: a picked text keeps
    nearly all of its correlation however little variance it has left, so each candidate is picked once.
    0 where v or T_mm vanishes.
    """
    posterior = problem.posterior()
    smallest = 16 * problem.space.rounding
    least_left = smallest * np.diagonal(problem.space.target_gram())
    least_variance = smallest * problem.space.diagonal()
    while True:
        left, variance = np.diagonal(posterior.targets), posterior.variance
        per_target = np.divide(1, np.sqrt(left), out=np.zeros(len(left)), where=left > least_left)
        per_text = np.divide(1, np.sqrt(variance), out=np.zeros(len(variance)), where=variance > least_variance)
        correlations = posterior.cross * per_target[:, None] * per_text
        index = yield np.clip(correlations, -1, 1).mean(axis=0)
        posterior.observe(index)
