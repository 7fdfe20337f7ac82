"""The index that residual-query selection searches, held to its promise, and what proves a pick."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from siftlm.errors import InvalidInput
from siftlm.selection import checks
from siftlm.selection.index import Index
from siftlm.selection.numerics import (
    CERTIFICATE_MARGIN,
    COVARIANCE_ROUNDING,
    LENGTH_TOLERANCE,
    SPECTRUM_CUTOFF,
    UNIT_TOLERANCE,
    index_rounding,
)
from siftlm.types import BoolArray, FloatArray, IntArray

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


class IndexResult(NamedTuple):
    """What a search for ±q_i returned."""

    ids: IntArray
    """(a,) all ids, each once"""
    table: IntArray
    """(2, m, k) the ids, −1 where there were fewer"""
    scores: FloatArray
    """(2, m, k) their products with ±q_i / |q_i|"""
    length: FloatArray
    """(m,) |q_i|"""
    short: bool
    """Did any search return fewer than k?"""


class CheckedIndex:
    """The index, with everything that is checked about what comes back from it."""

    def __init__(self, index: Index, width: int, *, max_norm: float | None, excluded: IntArray) -> None:
        self._index, self._width, self._excluded = _checked_index(index), width, excluded
        self._unit = max_norm is None
        self.longest = 1 + UNIT_TOLERANCE if max_norm is None else max_norm
        self.shortest = 1 - UNIT_TOLERANCE if max_norm is None else 0.0
        self.rounding = index_rounding(width, self.longest)
        length = getattr(index, "__len__", None)
        self.size: int | None = int(length()) if callable(length) else None
        if self.size == 0:
            raise InvalidInput("the index is empty")

    @property
    def exact(self) -> bool:
        return getattr(self._index, "exact", False) is True

    @property
    def excluded_count(self) -> int:
        return len(self._excluded)

    def excludes(self, ids: IntArray) -> BoolArray:
        """(len(ids),) which are excluded?"""
        return np.isin(ids, self._excluded)

    def search(self, residual: FloatArray, k: int) -> IndexResult:
        """The best k for +q and −q of every target, in one call."""
        if self.size is not None and k >= self.size:
            k = self.size + 1  # one more than there are: the answer is short, and so known to be complete
        length = np.sqrt(np.einsum("ij,ij->i", residual, residual))
        unit = residual / np.maximum(length, np.finfo(np.float64).tiny)[:, None]
        ids, scores = self._index.search(np.concatenate([unit, -unit]).astype(np.float32), k)
        ids, scores = np.asarray(ids), np.asarray(scores, dtype=np.float64)
        whole = ids.ndim == 2 and len(ids) == 2 * len(unit) and ids.dtype.kind in "iu"
        if not whole or ids.shape != scores.shape:
            raise InvalidInput(
                f"index.search must return whole ids and scores, both ({2 * len(unit)}, {k}); "
                f"got {ids.dtype} {ids.shape} and {scores.shape}"
            )
        there = ids >= 0
        if not np.isfinite(scores[there]).all():
            at = tuple(np.argwhere(there & ~np.isfinite(scores))[0])
            raise InvalidInput(f"index.search returned the score {scores[at]} for id {ids[at]}")
        shape = (2, len(unit), ids.shape[1])
        return IndexResult(
            ids=np.unique(ids[there]).astype(np.int64),
            table=np.where(there, ids, -1).astype(np.int64).reshape(shape),
            scores=np.where(there, scores, np.inf).reshape(shape),
            length=length,
            short=bool((there.sum(axis=1) < k).any()),
        )

    def vectors(self, ids: IntArray) -> FloatArray:
        """(len(ids), d) float64, checked."""
        found = checks.matrix("vectors of the index", self._index.vectors(ids), width=self._width)
        vectors = found.astype(np.float64)
        if len(vectors) != len(ids):
            raise InvalidInput(f"index.vectors returned {len(vectors)} vectors for {len(ids)} ids")
        length = np.sqrt(checks.squared_norms("vectors of the index", vectors, zero_ok=True))
        off = np.abs(length - 1) > UNIT_TOLERANCE if self._unit else length > self.longest * (1 + LENGTH_TOLERANCE)
        if off.any():
            at = int(np.argmax(off))
            hint = "normalise the vectors, or pass max_norm" if self._unit else f"max_norm is {self.longest:g}"
            raise InvalidInput(f"the vector with id {ids[at]} has length {length[at]:.6g}; {hint}")
        return vectors


def _checked_index(index: Any) -> Index:
    """``index``, if it has the methods of one; or how to make one of it."""
    if callable(getattr(index, "search", None)):
        if callable(getattr(index, "vectors", None)):
            found: Index = index
            return found
        if hasattr(index, "ntotal"):
            raise InvalidInput(f"index is a bare {type(index).__name__}; wrap it: FaissIndex(index)")
    if isinstance(index, (list, tuple)) or hasattr(index, "__array__"):
        raise InvalidInput("index is a plain array; wrap it: NumpyIndex(array)")
    raise InvalidInput(f"index must have search(queries, k) and vectors(ids), got {type(index).__name__}; see Index")
