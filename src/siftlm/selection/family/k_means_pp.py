"""The seeding of k-means++."""

from __future__ import annotations

import numpy as np

from siftlm.selection.family.max_dist import squared_distances
from siftlm.selection.family.random import exponential_race
from siftlm.selection.problem import Problem
from siftlm.selection.registry import Steps, method


@method("k-means++", "drawn at random in proportion to the squared distance from all picks", targeted=False)
def k_means_pp(problem: Problem) -> Steps:
    """d² / E,  d² = min_i ‖φ(x) − φ(x_i)‖² over the picks x_i (1 before any), E ~ Exp(1) anew for each pick

    The largest d²/E is a draw with probabilities in proportion to d². A factor on d² is a factor on the gain,
    so a prior makes the draw proportional to prior · d², and what is excluded never takes part. Known items
    count as picks. Once all distances are 0 there is nothing to draw, and ties go to the smaller index.
    """
    generator = problem.generator()
    index = yield exponential_race(generator, np.ones(problem.space.size))
    nearest = squared_distances(problem, index)
    while True:
        index = yield exponential_race(generator, nearest)
        np.minimum(nearest, squared_distances(problem, index), out=nearest)
