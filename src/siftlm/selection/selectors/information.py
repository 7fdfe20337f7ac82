"""Information: SIFT's relatives ITL, MM-ITL, CTL, EIG, noiseless and undirected ITL; a classifier's uncertainty."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from siftlm import validation
from siftlm.errors import InvalidInput, setting
from siftlm.selection import checks
from siftlm.selection.numerics import (
    SPENT_ROUNDINGS,
    entropy,
    explained_variance,
    jitter_share,
    mutual_information,
)
from siftlm.selection.posterior import posterior_of
from siftlm.selection.problem import Problem, Steps, method
from siftlm.types import FloatArray


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


@method(
    "mm-itl",
    "most information about each target alone, on average; blind to how targets overlap",
    repeats=True,
)
def mm_itl(problem: Problem) -> Steps:
    """mean_m −½ log(1 − a_m² / ((v + λ) T_mm)),  a = k_n(x*, x), v = k_n(x, x), T = k_n(x*, x*)

    The mutual information, in nats, between an observation of x and the value of one target. A target with
    nothing left to learn (T_mm ≈ 0) counts 0.
    """
    posterior = problem.posterior()
    least = SPENT_ROUNDINGS * problem.space.rounding * np.diagonal(problem.space.target_gram())
    while True:
        left = np.diagonal(posterior.targets)
        open_ones = left > least
        variance = posterior.variance
        share = np.square(posterior.cross, dtype=np.float64)
        share /= np.where(open_ones, left, 1.0)[:, None]
        # By Cauchy–Schwarz a_m² ≤ v T_mm; rounding must not take it further.
        np.minimum(share, variance, out=share)
        share /= variance + posterior.noise
        index = yield -0.5 * (open_ones @ np.log1p(-share)) / len(left)
        posterior.observe(index)


# A candidate with at most so many jitters of its k(x, x) left is already determined by the picks.
MIN_VARIANCE_JITTERS = 100


@method("noiseless-itl", "most information about the targets in the limit λ → 0")
def noiseless_itl(problem: Problem) -> Steps:
    """½ log(v / (v − aᵀ T⁻¹ a)),  a = k_n(x*, x), v = k_n(x, x), T = k_n(x*, x*), all given noiseless picks

    λ is replaced by a jitter of 1e-10 (4e-6 where vectors are scanned in float32) of the largest k(x, x), so
    a candidate that fixes a target completely has a large gain rather than an infinite one. Each candidate is
    picked once, and what the picks imply already (v ≈ 0) gains 0. The uncertainty in the result is still that
    under the λ of the selection, so that methods compare.
    """
    diagonal = problem.space.diagonal()
    share = jitter_share(problem.space.rounding)
    jitter = share * (float(diagonal.max()) or 1.0)
    # Not problem.posterior(): the loop would report the uncertainty under the jitter.
    posterior = posterior_of(problem.space, jitter, problem.expected)
    while True:
        variance = posterior.variance
        gains = mutual_information(explained_variance(posterior.cross, posterior.targets, jitter), variance, jitter)
        index = yield np.where(variance > MIN_VARIANCE_JITTERS * share * diagonal, gains, 0.0)
        posterior.observe(index)


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


@method("ctl", "highest correlation with the targets given the picks; opposite texts count against", signed=True)
def ctl(problem: Problem) -> Steps:
    """mean_m a_m / √(v T_mm),  a = k_n(x*, x), v = k_n(x, x), T = k_n(x*, x*)

    The cosine, of what the picks have left open. It has no noise in the denominator: a picked text keeps
    nearly all of its correlation however little variance it has left, so each candidate is picked once.
    0 where v or T_mm vanishes.
    """
    posterior = problem.posterior()
    smallest = SPENT_ROUNDINGS * problem.space.rounding
    least_left = smallest * np.diagonal(problem.space.target_gram())
    least_variance = smallest * problem.space.diagonal()
    while True:
        left, variance = np.diagonal(posterior.targets), posterior.variance
        per_target = np.divide(1, np.sqrt(left), out=np.zeros(len(left)), where=left > least_left)
        per_text = np.divide(1, np.sqrt(variance), out=np.zeros(len(variance)), where=variance > least_variance)
        correlations = posterior.cross * per_target[:, None] * per_text
        index = yield np.clip(correlations, -1, 1).mean(axis=0)
        posterior.observe(index)


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
        raise InvalidInput(
            f"method 'eig' needs {setting('probabilities')}, a classifier's outputs (K, C) for the candidates, and "
            f"{setting('target_probabilities')}, (m, C) for the targets"
        )
    own = checks.probabilities("probabilities", probabilities, rows=problem.candidates)
    prompt = checks.probabilities(
        "target_probabilities", target_probabilities, rows=problem.space.targets, classes=own.shape[1]
    )
    rate = validation.number("rate", rate, above=0)
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


# --- a classifier's outputs as candidates


@method("max-entropy", "widest spread of the classifier's outputs", targeted=False, reads="probabilities")
def max_entropy(problem: Problem) -> Steps:
    """−Σ_c p_x(c) log p_x(c)"""
    gains = entropy(problem.outputs())
    while True:
        yield gains


@method("min-margin", "smallest lead of the likeliest class over the next", targeted=False, reads="probabilities")
def min_margin(problem: Problem) -> Steps:
    """1 − (p1 − p2) of the two largest p_x(c); a single class leads by all it has"""
    outputs = problem.outputs()
    largest = np.sort(outputs, axis=1)[:, -2:]
    margin = largest[:, -1] - largest[:, 0] if outputs.shape[1] > 1 else largest[:, -1]
    gains = np.maximum(1 - margin, 0)
    while True:
        yield gains


@method("least-confidence", "smallest probability of the likeliest class", targeted=False, reads="probabilities")
def least_confidence(problem: Problem) -> Steps:
    """1 − max_c p_x(c)"""
    gains = np.maximum(1 - problem.outputs().max(axis=1), 0)
    while True:
        yield gains
