"""What proves a pick of a residual-query selection: an upper bound on the gain of all that a search left out."""

from __future__ import annotations

import numpy as np

from siftlm.selection.numerics import CERTIFICATE_MARGIN, COVARIANCE_ROUNDING, SPECTRUM_CUTOFF
from siftlm.types import FloatArray

# Fractions of P's smallest eigenvalue that are tried as θ.
EIGENVALUE_FRACTIONS = (0.0, 0.3, 0.6, 0.8, 0.9, 0.97, 0.995)


def hidden_square(scores: FloatArray, length: FloatArray, rounding: float) -> float:
    """s² = Σ_i τ_i² for what a search left out.

    ``scores`` (2, m, k) are the products with ±q_i / |q_i|; ``length`` (m,) is |q_i|. What is left out scores
    at most the lowest score returned, for either sign; the larger of the two is τ_i. (Not the smallest
    |score|: one sign may return scores near zero while the other hides large ones.) ``rounding`` is how
    far a score may be off.
    """
    lowest = scores.min(axis=2).max(axis=0)
    bound = (np.maximum(lowest, 0) + rounding) * length
    return float(bound @ bound)


def hidden_gain(
    square: float,
    residual: FloatArray,
    targets: FloatArray,
    picked: FloatArray | None,
    noise: float,
    shortest: float,
    *,
    gain: float | None = None,
) -> float:
    """An upper bound on the gain of every hidden vector.

    Args:
        square: s², from `hidden_square`.
        residual: (m, d) Q.
        targets: (m, m) the targets' posterior covariance.
        picked: (n, d) the vectors picked so far, repeats included; ``None`` tries θ = 0 alone.
        noise: λ.
        shortest: r, no vector is shorter; 0 if nothing is known.
        gain: if given, the answer need only be right about being at most this, which can save the spectrum.
    """
    leftover = _largest_eigenvalue(targets) + COVARIANCE_ROUNDING * float(np.square(residual).sum())
    best = _gain_bound(square, leftover, 0.0, noise)
    if picked is not None and shortest > 0 and _can_decide(gain, best, square, leftover, picked, noise, len(residual)):
        for theta, rho in _theta_bounds(residual, picked, noise):
            best = min(best, _gain_bound(square, rho, theta * shortest**2, noise))
    return best / len(residual) * (1 + CERTIFICATE_MARGIN)


def _can_decide(
    gain: float | None,
    bound: float,
    square: float,
    leftover: float,
    picked: FloatArray,
    noise: float,
    targets: int,
) -> bool:
    """Can another θ decide? μ_max(K_n) is at least each of its diagonal entries, and ρ_θ at least ρ_0."""
    if gain is None:
        return True
    largest = float(np.einsum("nd,nd->n", picked, picked).max(initial=0.0))
    hoped = _gain_bound(square, leftover, noise / (noise + largest), noise) / (1 + CERTIFICATE_MARGIN)
    return hoped <= gain * targets < bound * (1 + CERTIFICATE_MARGIN)


def _gain_bound(square: float, rho: float, kept: float, noise: float) -> float:
    """t / (kept + t/ρ + λ) at t = s²"""
    return square / (kept + (square / rho if rho > 0 else 0.0) + noise)


def _theta_bounds(residual: FloatArray, picked: FloatArray, noise: float) -> list[tuple[float, float]]:
    """Pairs θ, ρ_θ, from the eigenvalues of P in the span of the picks; P is the identity outside of it."""
    values, vectors = np.linalg.eigh(picked @ picked.T) if len(picked) else (np.zeros(0), np.zeros((0, 0)))
    largest = float(values.max(initial=0.0))
    kept = values > SPECTRUM_CUTOFF * largest
    eigen = noise / (noise + values[kept])
    along = residual @ (picked.T @ (vectors[:, kept] / np.sqrt(values[kept])))
    rest = residual @ residual.T - along @ along.T
    # Directions that were dropped have an eigenvalue between this and 1: take the one that promises less.
    rest_eigen = noise / (noise + SPECTRUM_CUTOFF * largest)
    smallest = min(rest_eigen, noise / (noise + largest))
    return [
        (theta, _largest_eigenvalue((along / (eigen - theta)) @ along.T + rest / (rest_eigen - theta)))
        for theta in (fraction * smallest for fraction in EIGENVALUE_FRACTIONS[1:])
    ]


def _largest_eigenvalue(matrix: FloatArray) -> float:
    """The largest eigenvalue of a symmetric matrix, never below 0."""
    top = matrix[0, 0] if len(matrix) == 1 else np.linalg.eigvalsh(matrix)[-1]
    return max(0.0, float(top))
