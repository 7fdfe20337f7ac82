"""Where rounding is decided: floors, margins, tolerances and jitter, each with its reason, for every file of the room.

``rounding`` is always the absolute error of a product of unit vectors: the eps of what scans are made in.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from siftlm.errors import InvalidInput, setting
from siftlm.types import BoolArray, FloatArray, IntArray

if TYPE_CHECKING:
    from siftlm.selection.space import Space

# --- how small λ may be

# Beside a k(x, x) of 1, float64 cannot tell what is left of a picked text from nothing at all below this λ.
MIN_RELATIVE_NOISE = 1e-12
# Below this ratio of λ to the kernel's size, float32 products would blur the decision.
MIN_FLOAT32_NOISE = 1e-3
# Squared lengths between these can be multiplied in float32 without overflow or lost digits.
MIN_FLOAT32_SQUARE, MAX_FLOAT32_SQUARE = 1e-24, 1e36
# A λ above so many roundings of a scan keeps k_n(x, x) + λ above λ by itself, without a floor under it.
FLOOR_ROUNDINGS = 1e4
# A coarser rounding than this is that of float32.
FLOAT64_ROUNDING = 1e-10


def smallest_noise(space: Space) -> float:
    """The least λ whose answers are more than rounding."""
    return MIN_RELATIVE_NOISE * space.largest


def check_noise(space: Space, noise: float) -> None:
    """Refuse a λ whose answers would be made of rounding."""
    if noise < smallest_noise(space):
        least = f"{smallest_noise(space):.2g}"
        raise InvalidInput(
            f"{setting('noise')}={noise:g} drowns in rounding beside a k(x, x) of {space.largest:.3g}; "
            f"use at least {least}"
        )


def needs_floor(space: Space, noise: float) -> bool:
    """Can rounding take k_n(x, x) below zero by as much as matters? k(x, x) + λ is then kept at λ or above."""
    return noise < FLOOR_ROUNDINGS * space.rounding * max(1.0, space.largest + noise)


def fits_float32(squared: FloatArray, low: float, high: float) -> bool:
    """Can float32 multiply vectors of these squared lengths, from ``low`` to ``high``? Those of length zero it can."""
    if low <= MIN_FLOAT32_SQUARE:
        low = float(np.min(squared, where=squared > 0, initial=np.inf))
    return low > MIN_FLOAT32_SQUARE and high < MAX_FLOAT32_SQUARE


# --- what counts as equal

# Gains that differ by less are equal: so many roundings of a scan, or this share where scans are exact.
TIE_ROUNDINGS, MIN_TIE = 8, 1e-9
# The same vector may get gains that differ by more, as λ magnifies rounding: so many roundings over λ, at most this.
DUPLICATE_ROUNDINGS, MAX_DUPLICATE_TIE = 256, 1e-3
# Entries of equal vectors differ by at most so many roundings of the largest entry.
SAME_ENTRY_ROUNDINGS = 8
# Unit vectors are unit within so many roundings.
UNIT_ROUNDINGS = 16


@dataclass(frozen=True)
class Ties:
    """Relative tolerances, and the question whether candidates are the same vector."""

    tie: float
    loose: float
    same: Callable[[int, IntArray], BoolArray]
    """``same(index, others)``: (len(others),) is it the same vector?"""

    def equals(self, scores: FloatArray, best: int) -> IntArray:
        """The indices that tie with ``best``, itself included, in rising order."""
        top = float(scores[best])
        near = np.flatnonzero(scores >= top - self.loose * abs(top))
        if len(near) == 1:
            return near
        equal: IntArray = near[(scores[near] >= top - self.tie * abs(top)) | self.same(best, near)]
        return equal


def ties_of(space: Space, noise: float) -> Ties:
    """The tolerances that fit the space's precision and λ."""
    tie = max(TIE_ROUNDINGS * space.rounding, MIN_TIE)
    loose = min(MAX_DUPLICATE_TIE, DUPLICATE_ROUNDINGS * space.rounding * max(1.0, space.largest) / noise)
    return Ties(tie, max(tie, loose), space.same)


def entry_tolerance(vector: FloatArray, rounding: float) -> float:
    """By how much the entries of vectors equal to this one may differ."""
    return SAME_ENTRY_ROUNDINGS * rounding * max(1e-300, float(np.abs(vector).max(initial=0.0)))


def same_vectors(vector: FloatArray, others: FloatArray, within: float) -> BoolArray:
    """(len(others),) which are the vector, or its opposite, within so much an entry?"""
    alike: BoolArray = np.all(np.abs(others - vector) <= within, axis=1)
    opposite: BoolArray = np.all(np.abs(others + vector) <= within, axis=1)
    return alike | opposite


# --- what counts as nothing

# A variance of at most so many roundings of what it was at first is rounding: nothing is left to learn.
SPENT_ROUNDINGS = 16
# A cosine below so many roundings is zero.
ZERO_COSINE_ROUNDINGS = 8
# Budgets and sums of costs such as 0.1 do not add up exactly in binary; a budget is not broken by this share.
BUDGET_SLACK = 1e-12
# A kernel's own diagonal may be this far below zero, relative to its largest entry: less is rounding.
NEGATIVE_DIAGONAL = 1e-9
# A Gram matrix may be so asymmetric, and exceed Cauchy–Schwarz by so much, and still be taken for a kernel.
GRAM_TOLERANCE = 1e-6


def cosines(products: FloatArray, own: FloatArray) -> FloatArray:
    """Products as cosines, ``own`` the products of the lengths; 0 where something has no length."""
    scaled: FloatArray = np.divide(products, own, out=np.zeros_like(products), where=own > 0)
    return scaled


# --- jitter in place of no noise

# So much of the largest k(x, x), or so many roundings of a scan where that is more.
JITTER, JITTER_ROUNDINGS = 1e-10, 32


def jitter_share(rounding: float) -> float:
    """What stands in for λ = 0, relative to the largest k(x, x): as little as scans of this rounding allow.

    With no jitter, a pick's own variance after it was picked is all rounding, and so is whatever is divided by it.
    """
    return max(JITTER, JITTER_ROUNDINGS * rounding)


# --- what a bound has to be beaten by

# Certificates are computed in float64, from sums over at most some thousands of numbers.
CERTIFICATE_MARGIN = 1e-7
# The largest eigenvalue of the targets' covariance is known no better than to this share of the residual's square.
COVARIANCE_ROUNDING = 1e-13
# Eigenvalues of the picks' Gram matrix below this share of the largest are rounding, and left out.
SPECTRUM_CUTOFF = 1e-10
# Lazy greedy compares gains of scans that may be float32 with a bound on gains.
LAZY_MARGIN = 1e-5
# How far a vector may be from unit length where unit vectors are promised: what float16 storage does to them.
UNIT_TOLERANCE = 1e-3
# How far above the promised largest length a vector may be.
LENGTH_TOLERANCE = 1e-6


def index_rounding(width: int, longest: float) -> float:
    """Error of an index's float32 scores: d terms in whatever order they are summed, and the query's rounding."""
    return (width + 8) * 2.0**-24 * longest


# --- formulas that must stay finite


def explained_variance(cross: FloatArray, targets: FloatArray, noise: float) -> FloatArray:
    """(K,) aᵀ (T + λI)⁻¹ a: how much of each candidate's variance the targets would explain.

    ``cross`` (m, K) holds the columns a, ``targets`` (m, m) is T, positive semi-definite up to rounding: what is
    below zero of its spectrum counts as zero.
    """
    values, vectors = np.linalg.eigh(targets)
    white = vectors.T @ cross
    white /= np.sqrt(np.maximum(values, 0) + noise)[:, None]
    total: FloatArray = np.einsum("mk,mk->k", white, white)
    return total


def mutual_information(part: FloatArray, variance: FloatArray, noise: float) -> FloatArray:
    """½ log((v + λ) / (v + λ − part)), in nats: what an observation shares with what explains ``part`` of v.

    No part is larger than the whole, so it is cut at v, and the logarithm stays finite.
    """
    shared: FloatArray = -0.5 * np.log1p(-np.minimum(part, variance) / (variance + noise))
    return shared


def entropy(probabilities: FloatArray) -> FloatArray:
    """−Σ_c p_c log p_c over the last axis, in nats, with 0 log 0 = 0.

    >>> entropy(np.array([[1.0, 0.0], [0.5, 0.5]])).round(3).tolist()
    [0.0, 0.693]
    """
    positive = probabilities > 0
    logs = np.log(probabilities, out=np.zeros_like(probabilities), where=positive)
    # A sum a little over one, which input may have, would otherwise give an entropy a little under zero.
    total: FloatArray = np.maximum(-(probabilities * logs).sum(axis=-1), 0)
    return total


def scaled_to_one(values: FloatArray) -> FloatArray:
    """Values times the power of two that brings the largest in size to between 0.5 and 1: no sum of them overflows.

    >>> scaled_to_one(np.array([1e308, -5e307, 0.0])).round(3).tolist()
    [0.556, -0.278, 0.0]
    """
    largest = float(np.abs(values).max(initial=0.0))
    scaled: FloatArray = np.ldexp(values, -math.frexp(largest)[1])
    return scaled
