"""Information density: unsure and relevant at once."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from siftlm.errors import InvalidInput
from siftlm.selection import checks
from siftlm.selection.numerics import entropy
from siftlm.selection.problem import Problem
from siftlm.selection.registry import Steps, method


@method("information-density", "the classifier's entropy times relevance; blind to redundancy")
def information_density(problem: Problem, *, probabilities: npt.ArrayLike | None = None, beta: float = 1.0) -> Steps:
    """H(p_x) · max(0, mean_m cos(x*_m, x))^beta

    ``probabilities`` (K, C) are a classifier's outputs for the candidates; ``beta`` ≥ 0 weighs relevance.
    """
    if probabilities is None:
        raise InvalidInput("method 'information-density' needs probabilities= (K, C)")
    own = checks.probabilities("probabilities", probabilities, rows=problem.candidates)
    beta = checks.number("beta", beta, at_least=0)
    relevance = np.maximum(problem.relevance()[: problem.candidates], 0)
    gains = problem.padded(entropy(own) * relevance**beta)
    while True:
        yield gains
