"""ITL: information-based transductive learning."""

from __future__ import annotations

from siftlm.selection.numerics import explained_variance, mutual_information
from siftlm.selection.problem import Problem
from siftlm.selection.registry import Steps, method


@method("itl", "most information about the targets together; weighs the least known ones most", repeats=True)
def itl(problem: Problem) -> Steps:
    """½ log((v + λ) / (v + λ − aᵀ (T + λI)⁻¹ a)),  a = k_n(x*, x), v = k_n(x, x), T = k_n(x*, x*)

    The mutual information, in nats, between an observation of x and noisy observations of all targets. With
    one target its order of candidates is that of SIFT at first, but not after: it asks for logarithms of
    variances, where SIFT asks for their sum. A step costs O(m² K + m³).
    """
    posterior = problem.posterior()
    while True:
        part = explained_variance(posterior.cross, posterior.targets, posterior.noise)
        index = yield mutual_information(part, posterior.variance, posterior.noise)
        posterior.observe(index)
