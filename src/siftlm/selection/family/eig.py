"""EIG: the expected information gain of one hallucinated step on a classifier's last layer."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from siftlm.errors import InvalidInput
from siftlm.selection import checks
from siftlm.selection.numerics import entropy
from siftlm.selection.problem import Problem
from siftlm.selection.registry import Steps, method
from siftlm.types import FloatArray

# Numbers that may be in memory at a time.
EIG_BLOCK_LOGITS = 1 << 21
# The logarithm of an impossible class: far below any other, yet finite.
MIN_PROBABILITY = 1e-300


@method(
    "eig",
    "largest expected fall in the targets' entropy by one step on a classifier's last layer",
    signed=True,
)
def eig(
    problem: Problem,
    *,
    probabilities: npt.ArrayLike | None = None,
    target_probabilities: npt.ArrayLike | None = None,
    rate: float = 0.01,
) -> Steps:
    """Σ_m H(p*_m) − Σ_c p_x(c) Σ_m H(softmax(log p*_m − rate · (p_x − e_c) · k(x, x*_m)))

    ``probabilities`` (K, C) are the classifier's outputs for the candidates, ``target_probabilities`` (m, C)
    those for the targets. One gradient step of size ``rate`` on the cross-entropy of (x, c) moves the last
    layer's weights by −rate · (p_x − e_c) φ(x)ᵀ and so the logits of a target by the product with φ(x*_m):
    no model is needed to try it. No pick changes the gains of the others. O(K m C²), block by block.
    """
    if probabilities is None or target_probabilities is None:
        raise InvalidInput("method 'eig' needs probabilities= (K, C) and target_probabilities= (m, C)")
    own = checks.probabilities("probabilities", probabilities, rows=problem.candidates)
    prompt = checks.probabilities(
        "target_probabilities", target_probabilities, rows=problem.space.targets, classes=own.shape[1]
    )
    rate = checks.number("rate", rate, above=0)
    gains = problem.padded(_information_gains(own, prompt, problem.space.cross()[:, : problem.candidates], rate))
    while True:
        yield gains


def _information_gains(own: FloatArray, prompt: FloatArray, cross: FloatArray, rate: float) -> FloatArray:
    logits = np.log(np.maximum(prompt, MIN_PROBABILITY))
    before = entropy(prompt).sum()
    gains = np.empty(len(own))
    rows = max(1, EIG_BLOCK_LOGITS // logits.size)
    for start in range(0, len(own), rows):
        block, product = own[start : start + rows], cross[:, start : start + rows].T
        expected = np.zeros(len(block))
        for label in range(own.shape[1]):
            error = block.copy()
            error[:, label] -= 1
            moved = logits - rate * product[:, :, None] * error[:, None, :]  # (rows, m, C)
            expected += block[:, label] * _softmax_entropy(moved).sum(axis=1)
        gains[start : start + rows] = before - expected
    return gains


def _softmax_entropy(logits: FloatArray) -> FloatArray:
    """Entropy of softmax(logits) over the last axis. Overwrites the logits."""
    logits -= logits.max(axis=-1, keepdims=True)
    weights = np.exp(logits)
    total = weights.sum(axis=-1)
    weights *= logits
    result: FloatArray = np.log(total) - weights.sum(axis=-1) / total
    return result
