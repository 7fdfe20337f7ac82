"""Formulas that several methods share, written so that rounding cannot make a NaN or an infinity of them."""

from __future__ import annotations

import numpy as np

from siftlm.types import FloatArray


def explained_variance(cross: FloatArray, targets: FloatArray, noise: float) -> FloatArray:
    """(K,) aᵀ (T + λI)⁻¹ a: how much of each candidate's variance the targets would explain.

    ``cross`` (m, K) holds the columns a, ``targets`` (m, m) is T, positive semi-definite up to rounding.
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
