"""ITL when everything could be observed without noise."""

from __future__ import annotations

import numpy as np

from siftlm.selection.numerics import explained_variance, mutual_information
from siftlm.selection.posterior import posterior_of
from siftlm.selection.problem import Problem
from siftlm.selection.registry import Steps, method

# In place of λ = 0: this much of the largest k(x, x), or so many roundings of a scan where that is more.
ITL_JITTER = 1e-10
ITL_JITTER_ROUNDINGS = 32
# A candidate with at most so many jitters of its k(x, x) left is one that the picks have told already.
MIN_VARIANCE_JITTERS = 100


@method("noiseless-itl", "most information about the targets if texts told all they know at once")
def noiseless_itl(problem: Problem) -> Steps:
    """½ log(v / (v − aᵀ T⁻¹ a)),  a = k_n(x*, x), v = k_n(x, x), T = k_n(x*, x*), all given noiseless picks

    λ is replaced by a jitter of 1e-10 (4e-6 where vectors are scanned in float32) of the largest k(x, x), so
    a candidate that fixes a target completely has a large gain rather than an infinite one. Each candidate is
    picked once, and what the picks imply already (v ≈ 0) gains 0. The uncertainty in the result is still that
    under the λ of the selection, so that methods compare.
    """
    diagonal = problem.space.diagonal()
    share = max(ITL_JITTER, ITL_JITTER_ROUNDINGS * problem.space.rounding)
    jitter = share * (float(diagonal.max()) or 1.0)
    # Not problem.posterior(): the loop would report the uncertainty under the jitter.
    posterior = posterior_of(problem.space, jitter, problem.expected)
    while True:
        variance = posterior.variance
        gains = mutual_information(explained_variance(posterior.cross, posterior.targets, jitter), variance, jitter)
        index = yield np.where(variance > MIN_VARIANCE_JITTERS * share * diagonal, gains, 0.0)
        posterior.observe(index)
