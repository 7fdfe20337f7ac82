"""Methods of retrieval: nearest neighbours, MMR, max-sum, information density, random."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from siftlm import validation
from siftlm.errors import InvalidInput, setting
from siftlm.selection import checks
from siftlm.selection.numerics import entropy
from siftlm.selection.problem import Problem, Steps, method
from siftlm.types import FloatArray


@method("nearest", "nearest neighbours of the prompt; relevant, blind to redundancy", numbers=("relevance",))
def nearest(problem: Problem, *, relevance: npt.ArrayLike | None = None) -> Steps:
    """(1 + mean_m cos(x*_m, x)) / 2

    Shifted so that it is never negative, which changes no order and lets priors and costs multiply it. ``relevance``
    (K,), from −1 to 1, takes the place of the mean cosine: the nearest by a score that vectors do not know.
    """
    gains = (1 + problem.relevance(relevance)) / 2
    while True:
        yield gains


@method("nn-f", "the nearest neighbour n times; what repeating one text is worth", repeats=True, numbers=("relevance",))
def nn_f(problem: Problem, *, relevance: npt.ArrayLike | None = None) -> Steps:
    """(1 + mean_m cos(x*_m, x)) / 2

    As ``nearest``, but picks do not use candidates up: the best one stays the best. Where a limit
    (``replacement``, ``source_cap``, ``budget``) forbids it, the next nearest takes over.
    """
    yield from nearest(problem, relevance=relevance)


@method("mmr", "relevance less the similarity to the closest pick", signed=True, numbers=("relevance",))
def mmr(problem: Problem, *, balance: float = 0.5, relevance: npt.ArrayLike | None = None) -> Steps:
    """balance · mean_m cos(x*_m, x) − (1 − balance) · max_i cos(x_i, x) over the picks x_i

    Before any pick the second term is 0. Known items count as picks. ``relevance`` as for ``nearest``.
    """
    balance = validation.fraction("balance", balance)
    relevant = balance * problem.relevance(relevance)
    index = yield relevant
    closest = problem.similarity_to(index)
    while True:
        index = yield relevant - (1 - balance) * closest
        np.maximum(closest, problem.similarity_to(index), out=closest)


@method("max-sum", "relevance and the sum of distances to all picks", signed=True, numbers=("relevance",))
def max_sum(problem: Problem, *, balance: float = 0.5, relevance: npt.ArrayLike | None = None) -> Steps:
    """balance · mean_m cos(x*_m, x) + (1 − balance) · Σ_i (1 − cos(x_i, x)) over the picks x_i

    The sum grows with the picks and relevance does not, so distance decides more and more. Known items count
    as picks. ``relevance`` as for ``nearest``.
    """
    balance = validation.fraction("balance", balance)
    gains = balance * problem.relevance(relevance)
    while True:
        index = yield gains
        gains = gains + (1 - balance) * (1 - problem.similarity_to(index))


@method("information-density", "the classifier's entropy times relevance; blind to redundancy")
def information_density(problem: Problem, *, probabilities: npt.ArrayLike | None = None, beta: float = 1.0) -> Steps:
    """H(p_x) · max(0, mean_m cos(x*_m, x))^beta

    ``probabilities`` (K, C) are a classifier's outputs for the candidates; ``beta`` ≥ 0 weighs relevance.
    """
    if probabilities is None:
        raise InvalidInput(
            f"method 'information-density' needs {setting('probabilities')}, a classifier's outputs (K, C)"
        )
    own = checks.probabilities("probabilities", probabilities, rows=problem.candidates)
    beta = validation.number("beta", beta, least=0)
    relevance = np.maximum(problem.relevance()[: problem.candidates], 0)
    gains = problem.padded(entropy(own) * relevance**beta)
    while True:
        yield gains


@method("random", "by lot, or with prior= by weighted lot", targeted=False)
def random(problem: Problem) -> Steps:
    """1 / E,  E ~ Exp(1) anew for each candidate and pick

    The largest w/E is a draw with probabilities in proportion to w, so ``prior`` gives weighted sampling.
    """
    generator, weights = problem.generator(), np.ones(problem.space.size)
    while True:
        yield exponential_race(generator, weights)


def exponential_race(generator: np.random.Generator, weights: FloatArray) -> FloatArray:
    """(K,) arrival speeds w/E of an exponential race: the fastest is a draw in proportion to the weights."""
    times = generator.standard_exponential(len(weights))
    speeds: FloatArray = weights / np.maximum(times, 1e-300)
    return speeds
