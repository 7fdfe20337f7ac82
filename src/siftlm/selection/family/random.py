"""A draw by lot, which every method has to beat."""

from __future__ import annotations

import numpy as np

from siftlm.selection.problem import Problem
from siftlm.selection.registry import Steps, method
from siftlm.types import FloatArray


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
