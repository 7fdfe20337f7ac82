"""MM-ITL: the mean of the information about each target alone."""

from __future__ import annotations

import numpy as np

from siftlm.selection.problem import Problem
from siftlm.selection.registry import Steps, method


@method(
    "mm-itl",
    "most information about each target alone, on average; blind to how targets overlap",
    repeats=True,
)
def mm_itl(problem: Problem) -> Steps:
    """mean_m −½ log(1 − a_m² / ((v + λ) T_mm)),  a = k_n(x*, x), v = k_n(x, x), T = k_n(x*, x*)

    The mutual information, in nats, between an observation of x and the value of one target. A target with
    nothing left to learn (T_mm ≈ 0) counts 0.
    """
    posterior = problem.posterior()
    least = 16 * problem.space.rounding * np.diagonal(problem.space.target_gram())
    while True:
        left = np.diagonal(posterior.targets)
        open_ones = left > least
        variance = posterior.variance
        share = np.square(posterior.cross, dtype=np.float64)
        share /= np.where(open_ones, left, 1.0)[:, None]
        # By Cauchy–Schwarz a_m² ≤ v T_mm; rounding must not take it further.
        np.minimum(share, variance, out=share)
        share /= variance + posterior.noise
        index = yield -0.5 * (open_ones @ np.log1p(-share)) / len(left)
        posterior.observe(index)
