"""VTL with everything as a target: the picks that tell most about all candidates."""

from __future__ import annotations

from siftlm.selection.posterior import posterior_of
from siftlm.selection.problem import Problem
from siftlm.selection.registry import Steps, method


@method(
    "undirected-vtl",
    "least total variance of all candidates; typical and not redundant",
    targeted=False,
    repeats=True,
)
def undirected_vtl(problem: Problem) -> Steps:
    """mean_j k_n(x_j, x)² / (k_n(x, x) + λ) over all candidates x_j

    Needs no query and ignores one, but for the uncertainty that the result reports. Known items condition the
    candidates and are not targets themselves. With more candidates than features the K × K covariance is
    never formed: Σ_j k_n(x_j, x)² = |S^½ P_n x|² with S the candidates' (d, d) scatter; O(K d (N + d)).
    """
    # Not problem.posterior(): the loop would take the uncertainty about the candidates for that of the query.
    space = problem.everything("undirected-vtl")
    posterior = posterior_of(space, problem.noise, problem.expected, trace_only=True)
    while True:
        index = yield posterior.trace_gain()
        posterior.observe(index)
