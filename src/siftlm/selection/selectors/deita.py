"""Score first, then leave out what is too similar to a pick: DEITA's filter (Liu et al. 2024, arXiv 2312.15685)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from siftlm import validation
from siftlm.selection import checks
from siftlm.selection.numerics import ZERO_COSINE_ROUNDINGS
from siftlm.selection.problem import Problem, Steps, method

# Cosine above which a record repeats an accepted one: the default of the published code.
DEFAULT_THRESHOLD = 0.9


@method(
    "deita",
    "best score (prior=) first, but nothing too similar to a pick (DEITA)",
    targeted=False,
    numbers=("complexity",),
)
def deita(problem: Problem, *, threshold: float = DEFAULT_THRESHOLD, complexity: npt.ArrayLike | None = None) -> Steps:
    """complexity(x), times the prior,  among candidates with max_i cos(x_i, x) ≤ threshold over the picks x_i

    Liu et al. 2024, arXiv 2312.15685. The score of a text is the product of its complexity and its quality, two
    numbers that DEITA's own models give: pass one as ``complexity`` (K,) and the other as ``prior``, or the product as
    ``prior``. Without any, candidates come in the order in which they are given. What is too similar to a pick or to a
    known item can never be picked, so there may be fewer picks than asked for. O(K d) a pick.
    """
    threshold = validation.number("threshold", threshold, least=-1, most=1)
    scores = np.ones(problem.candidates)
    if complexity is not None:
        scores = checks.per_item("complexity", complexity, problem.candidates, positive=False)
    gains = problem.padded(scores)
    # A cosine is no more than the threshold if it is so but for rounding.
    most = threshold + ZERO_COSINE_ROUNDINGS * problem.space.rounding
    while True:
        index = yield gains
        problem.rules.block(problem.similarity_to(index) > most)
