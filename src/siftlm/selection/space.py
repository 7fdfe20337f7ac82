"""How candidates and prompt look to each other: the few inner products that selection asks for.

Three spaces with one face. ``FeatureSpace`` holds vectors whose inner product is the kernel and can scan;
``KernelSpace`` calls a kernel function a row at a time; ``GramSpace`` looks everything up.

Precision. Vectors are kept as they came (never copied to be normalised: lengths are divided out afterwards),
results are float64. A scan in float32 is off by about 1e-7, which is harmless while λ is far above that; for
smaller λ the products themselves are formed in float64 (``exact``), block by block if the vectors are large.
"""

from __future__ import annotations

import copy
from typing import Protocol

import numpy as np

from siftlm.selection import checks
from siftlm.selection.checks import RealArray
from siftlm.selection.explain import Evidence, VectorEvidence
from siftlm.types import BoolArray, FloatArray, IntArray

# Below this ratio of λ to the kernel's size, float32 products would blur the decision.
MIN_FLOAT32_NOISE = 1e-3
# Up to this many bytes, a float64 copy of the candidates is cheaper than converting block by block.
MAX_COPY_BYTES = 1 << 28
# A Gram matrix of this many candidates is still cheap to hold.
MAX_GRAM_CANDIDATES = 4096
# Candidates that are converted or decomposed at a time.
CONVERSION_BLOCK_ROWS = 16384


class Space(Protocol):
    """The inner products that selection may ask for. K candidates, m targets."""

    size: int
    """K"""
    targets: int
    """m; 0 when there is no prompt"""
    rounding: float
    """Absolute error of a product of unit vectors: decides what counts as a tie."""

    def diagonal(self) -> FloatArray:
        """(K,) k(x, x)"""

    def row(self, index: int) -> RealArray:
        """(K,) k(x_index, x)"""

    def rows(self, indices: IntArray) -> RealArray:
        """(len(indices), K)"""

    def expect(self, rows: int) -> None:
        """Announce how many rows will be asked for."""

    def cross(self) -> FloatArray:
        """(m, K) k(x*, x), an array of the caller's own"""

    def target_gram(self) -> FloatArray:
        """(m, m) k(x*, x*)"""

    def target_trace(self) -> float:
        """Σ_m k(x*_m, x*_m)"""

    def among(self, left: IntArray, right: IntArray) -> FloatArray:
        """(len(left), len(right)) k between candidates, exactly"""

    def cross_to(self, indices: IntArray) -> FloatArray:
        """(m, len(indices)) k(x*, x_index), exactly"""

    def everything(self, count: int) -> Space:
        """The same candidates, with the first ``count`` of them as the targets"""

    def same(self, index: int, others: IntArray) -> BoolArray:
        """(len(others),) are they the same vector as ``index``, or its opposite, but for rounding?"""

    def evidence(self, indices: IntArray, known: int = 0) -> Evidence:
        """What a result keeps to explain itself: of its picks, and before them of ``known`` known items."""


class FeatureSpace:
    """k(x, y) = x · y of the vectors, at unit length if ``normalize``."""

    def __init__(self, vectors: RealArray, targets: RealArray, *, normalize: bool, noise: float) -> None:
        self.size, self.width = vectors.shape
        self.targets = len(targets)
        self._target_vectors: FloatArray | None = unit_rows("query", targets, normalize=normalize)
        squared = checks.squared_norms("candidates", vectors, zero_ok=not normalize)
        scale = 1.0 if normalize else float(squared.mean())
        exact = vectors.dtype == np.float64 or noise < MIN_FLOAT32_NOISE * scale or not _fits_float32(squared)
        if not normalize:
            checks.within_product_range("candidates", squared)
            asked = checks.within_product_range("query", _block_squares(self.target_vectors))
            exact = exact or not _fits_float32(asked)
        self._scan_type = np.float64 if exact else np.float32
        self.rounding = float(np.finfo(self._scan_type).eps)
        if exact and vectors.dtype != np.float64:
            # The check above squared in the vectors' own precision, which is no longer enough.
            squared = np.concatenate([_block_squares(block) for block in checks.blocks(vectors)])
        # Vectors that are already unit, within the rounding of a scan, need no correction.
        slack = 16 * self.rounding
        unit = not normalize or (float(squared.min()) >= 1 - slack and float(squared.max()) <= 1 + slack)
        self._inverse_length = None if unit else 1 / np.sqrt(squared)
        self._diagonal = np.ones(self.size) if normalize else squared
        if vectors.dtype != self._scan_type and vectors.size * 8 <= MAX_COPY_BYTES:
            vectors = vectors.astype(self._scan_type)
        self.vectors = vectors
        self._gram: RealArray | None = None

    def expect(self, rows: int) -> None:
        """Announce how many rows will be asked for: if many, all products at once cost less (measured: K ≤ 5 n)."""
        if (
            self._gram is None
            and self.size <= min(5 * rows, MAX_GRAM_CANDIDATES)
            and self.vectors.dtype == self._scan_type
        ):
            self._gram = self.vectors @ self.vectors.T
            if self._inverse_length is not None:
                self._gram = self._gram * np.outer(self._inverse_length, self._inverse_length)

    @property
    def target_vectors(self) -> FloatArray:
        """(m, d) the targets, float64"""
        if self._target_vectors is None:  # see everything()
            return self.gather(np.arange(self.targets, dtype=np.int64))
        return self._target_vectors

    def diagonal(self) -> FloatArray:
        return self._diagonal

    def vector(self, index: int) -> FloatArray:
        """(d,) one candidate, float64"""
        wide: FloatArray = self.vectors[index].astype(np.float64)
        return wide if self._inverse_length is None else wide * self._inverse_length[index]

    def gather(self, indices: IntArray) -> FloatArray:
        """(len(indices), d) some candidates, float64"""
        wide: FloatArray = self.vectors[indices].astype(np.float64)
        return wide if self._inverse_length is None else wide * self._inverse_length[indices, None]

    def scan(self, direction: FloatArray, rows: slice = slice(None)) -> FloatArray:
        """(d,) or (d, b) -> (K,) or (K, b): every candidate's product with the direction; one pass."""
        narrow: RealArray = direction.astype(self._scan_type)
        vectors = self.vectors[rows]
        if vectors.dtype == self._scan_type:
            products: RealArray = vectors @ narrow
        else:
            products = np.concatenate([block.astype(self._scan_type) @ narrow for block in checks.blocks(vectors)])
        result: FloatArray = products.astype(np.float64)
        if self._inverse_length is not None:
            inverse = self._inverse_length[rows]
            result *= inverse if result.ndim == 1 else inverse[:, None]
        return result

    def row(self, index: int) -> RealArray:
        if self._gram is not None:
            known: RealArray = self._gram[index]
            return known
        if self._inverse_length is None and self.vectors.dtype == self._scan_type:
            products: RealArray = self.vectors.dot(self.vectors[index])  # the commonest case, without detours
            return products
        return self.scan(self.vector(index))

    def rows(self, indices: IntArray) -> RealArray:
        if self._gram is not None:
            return self._gram[indices]
        return self.scan(self.gather(indices).T).T

    def cross(self) -> FloatArray:
        return self.against(self.target_vectors)

    def against(self, vectors: FloatArray, dtype: type[np.floating] = np.float64) -> RealArray:
        """(r, d) -> (r, K): the products of these vectors with every candidate"""
        if len(vectors) == 1:
            return self.scan(vectors[0])[None, :].astype(dtype, copy=False)
        products = np.empty((len(vectors), self.size), dtype=dtype)
        for start in range(0, self.size, CONVERSION_BLOCK_ROWS):
            block = slice(start, start + CONVERSION_BLOCK_ROWS)
            products[:, block] = self.scan(vectors.T, block).T
        return products

    def target_gram(self) -> FloatArray:
        return self.target_vectors @ self.target_vectors.T

    def target_trace(self) -> float:
        if self._target_vectors is None:  # every candidate is a target
            return float(self._diagonal[: self.targets].sum())
        return float(np.einsum("ij,ij->", self._target_vectors, self._target_vectors))

    def among(self, left: IntArray, right: IntArray) -> FloatArray:
        return self.gather(left) @ self.gather(right).T

    def cross_to(self, indices: IntArray) -> FloatArray:
        return self.target_vectors @ self.gather(indices).T

    def same(self, index: int, others: IntArray) -> BoolArray:
        # Most differ in their first few numbers, and of those no more is read.
        vector, few = self.vector(index), self.vectors[others, :8].astype(np.float64)
        if self._inverse_length is not None:
            few *= self._inverse_length[others, None]
        within = rounding_of(vector, self.rounding)
        alike = same_vectors(vector[:8], few, within)
        alike[alike] = same_vectors(vector, self.gather(others[alike]), within)
        return alike

    def evidence(self, indices: IntArray, known: int = 0) -> VectorEvidence:
        return VectorEvidence(self.vectors[indices], self._lengths(indices), self.target_vectors, None, known)

    def _lengths(self, indices: IntArray) -> FloatArray | None:
        return None if self._inverse_length is None else self._inverse_length[indices]

    def everything(self, count: int) -> FeatureSpace:
        view = copy.copy(self)
        # Not gathered here: of more targets than features only a root of their scatter is ever asked for.
        view.targets, view._target_vectors = count, None
        return view

    def target_root(self) -> FloatArray:
        """(d, d) vectors with the same Σ x xᵀ as the targets, float64: the R of their QR decomposition.

        Unlike a square root of that sum, it is as exact as the targets themselves.
        """
        root: FloatArray = np.zeros((0, self.width))
        for start in range(0, self.targets, CONVERSION_BLOCK_ROWS):
            if self._target_vectors is not None:
                block = self._target_vectors[start : start + CONVERSION_BLOCK_ROWS]
            else:
                block = self.gather(np.arange(start, min(start + CONVERSION_BLOCK_ROWS, self.targets)))
            upper: FloatArray = np.asarray(np.linalg.qr(np.vstack([root, block]), mode="r"), dtype=np.float64)
            root = upper
        return root


def _fits_float32(squared: FloatArray) -> bool:
    """Are these squared lengths such that float32 can multiply the vectors without overflow or lost digits?"""
    if squared.size and float(squared.min()) > 1e-24:
        return float(squared.max()) < 1e36
    positive = squared[squared > 0]
    return not positive.size or (float(positive.min()) > 1e-24 and float(positive.max()) < 1e36)


def rounding_of(vector: FloatArray, rounding: float) -> float:
    """By how much the entries of equal vectors may differ."""
    return 8 * rounding * max(1e-300, float(np.abs(vector).max(initial=0.0)))


def same_vectors(vector: FloatArray, others: FloatArray, within: float) -> BoolArray:
    """(len(others),) which are the vector, or its opposite, within so much an entry?"""
    alike: BoolArray = np.all(np.abs(others - vector) <= within, axis=1)
    opposite: BoolArray = np.all(np.abs(others + vector) <= within, axis=1)
    return alike | opposite


def _block_squares(block: RealArray) -> FloatArray:
    wide = block.astype(np.float64)
    squares: FloatArray = np.einsum("ij,ij->i", wide, wide)
    return squares


def unit_rows(name: str, vectors: RealArray, *, normalize: bool) -> FloatArray:
    """The rows in float64, at unit length if asked."""
    wide = vectors.astype(np.float64)
    squared = checks.squared_norms(name, wide, zero_ok=not normalize) if len(wide) else np.zeros(0)
    return wide / np.sqrt(squared)[:, None] if normalize else wide
