"""ITL with everything as a target: greedy maximisation of a determinant."""

from __future__ import annotations

import numpy as np

from siftlm.selection.problem import Problem
from siftlm.selection.registry import Steps, method


@method(
    "undirected-itl",
    "most information about all candidates together; unlike one another",
    targeted=False,
    repeats=True,
)
def undirected_itl(problem: Problem) -> Steps:
    """½ log(1 + k_n(x, x) / λ)

    The mutual information, in nats, between an observation of x and everything. Same picks as
    ``uncertainty``, since the logarithm keeps the order; the gains add up to ½ log det(I + K_n/λ).
    """
    posterior = problem.posterior(trace_only=True)
    while True:
        index = yield 0.5 * np.log1p(posterior.variance / posterior.noise)
        posterior.observe(index)
