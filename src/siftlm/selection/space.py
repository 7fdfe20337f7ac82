"""How candidates and prompt look to each other: the few inner products that selection asks for.

Three spaces with one face. ``FeatureSpace`` holds vectors whose inner product is the kernel and can scan;
``KernelSpace`` calls a kernel function a row at a time; ``GramSpace`` (gram.py) looks everything up.

Precision. Vectors are kept as they came (never copied to be normalised: lengths are divided out afterwards),
results are float64. A scan in float32 is off by about 1e-7, which is harmless while λ is far above that; for
smaller λ the products themselves are formed in float64 (``exact``), block by block if the vectors are large.
"""

from __future__ import annotations

import copy
from typing import Protocol

import numpy as np
import numpy.typing as npt

from siftlm.errors import InvalidInput, setting
from siftlm.selection import checks
from siftlm.selection.checks import RealArray
from siftlm.selection.explain import Evidence, VectorEvidence
from siftlm.selection.kernels import FeatureKernel, KernelFunction, Linear
from siftlm.selection.numerics import (
    MIN_FLOAT32_NOISE,
    NEGATIVE_DIAGONAL,
    UNIT_ROUNDINGS,
    entry_tolerance,
    fits_float32,
    same_vectors,
)
from siftlm.types import BoolArray, FloatArray, IntArray

# Up to this many bytes, a float64 copy of the candidates is cheaper than converting block by block.
MAX_COPY_BYTES = 1 << 28
# A Gram matrix of this many candidates is still cheap to hold.
MAX_GRAM_CANDIDATES = 4096
# Up to so many candidates a row, all rows at once cost less than one after the other: of one prompt, and of several.
GRAM_CANDIDATES_PER_ROW, GRAM_CANDIDATES_PER_SHARED_ROW = 3, 5
# Candidates that are converted or decomposed at a time.
CONVERSION_BLOCK_ROWS = 16384


def gram_pays(size: int, rows: int, *, together: bool = False) -> bool:
    """Are all products of K candidates cheaper at once than so many rows of them, one product of all with one each?

    Half of a Gram matrix is K² d / 2 products at the speed of a matrix product, on one core twice that of a product
    with one vector, which waits for memory. A second core helps only if it is idle: if not, BLAS waits for it. Several
    prompts ``together`` need rows a few at a time, which is slower still, and each finds the cache full of the others'.
    """
    most = GRAM_CANDIDATES_PER_SHARED_ROW if together else GRAM_CANDIDATES_PER_ROW
    return size <= min(most * rows, MAX_GRAM_CANDIDATES)


class Space(Protocol):
    """The inner products that selection may ask for. K candidates, m targets."""

    size: int
    """K"""
    targets: int
    """m; 0 when there is no prompt"""
    rounding: float
    """Absolute error of a product of unit vectors: decides what counts as a tie."""
    target_trace: float
    """Σ_m k(x*_m, x*_m)"""
    largest: float
    """The largest k(x, x) of a candidate"""

    def diagonal(self) -> FloatArray:
        """(K,) k(x, x)"""

    def row(self, index: int) -> RealArray:
        """(K,) k(x_index, x)"""

    def rows(self, indices: IntArray) -> RealArray:
        """(len(indices), K)"""

    def expect(self, rows: int) -> None:
        """Announce how many rows will be needed."""

    def cross(self) -> FloatArray:
        """(m, K) k(x*, x), an array of the caller's own"""

    def target_gram(self) -> FloatArray:
        """(m, m) k(x*, x*)"""

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
        low, high = float(squared.min()), float(squared.max())
        scale = 1.0 if normalize else float(squared.mean())
        exact = vectors.dtype == np.float64 or noise < MIN_FLOAT32_NOISE * scale or not fits_float32(squared, low, high)
        if not normalize:
            checks.within_product_range("candidates", squared)
            target_squares = checks.within_product_range("query", checks.row_squares(self.target_vectors))
            if self.targets:
                least, most = float(target_squares.min()), float(target_squares.max())
                exact = exact or not fits_float32(target_squares, least, most)
        self.target_trace = float(np.vdot(self._target_vectors, self._target_vectors))
        self._scan_type = np.float64 if exact else np.float32
        self.rounding = float(np.finfo(self._scan_type).eps)
        if exact and vectors.dtype != np.float64:
            # The check above squared in the vectors' own precision, which is no longer enough.
            squared = np.concatenate([checks.row_squares(block) for block in checks.blocks(vectors)])
            low, high = float(squared.min()), float(squared.max())
        # Vectors that are already unit, within the rounding of a scan, need no correction.
        slack = UNIT_ROUNDINGS * self.rounding
        unit = not normalize or (low >= 1 - slack and high <= 1 + slack)
        self._inverse_length = None if unit else 1 / np.sqrt(squared)
        self._inverse = None if self._inverse_length is None else self._inverse_length.astype(self._scan_type)
        self._diagonal = np.ones(self.size) if normalize else squared
        self.largest = 1.0 if normalize else high
        self.state_type: type[np.floating] = self._scan_type if normalize else np.float64
        """What numbers that are kept of each candidate may be rounded to: a scan's own rounding is all they then lose.
        Where lengths count, the longest may leave too little of the others in float32."""
        if vectors.dtype != self._scan_type and vectors.size * 8 <= MAX_COPY_BYTES:
            vectors = vectors.astype(self._scan_type)
        self.vectors = vectors
        self._gram: RealArray | None = None

    def expect(self, rows: int, *, together: bool = False) -> None:
        """Announce how many rows will be needed: if many, all products at once cost less."""
        if (
            self._gram is None
            and gram_pays(self.size, rows, together=together)
            and self.vectors.dtype == self._scan_type
        ):
            self._gram = self.vectors @ self.vectors.T
            if self._inverse is not None:
                self._gram *= self._inverse
                self._gram *= self._inverse[:, None]

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
        if self.vectors.dtype != self._scan_type:
            return self.scan(self.vector(index))
        products: RealArray = self.vectors.dot(self.vectors[index])  # the commonest case, without detours
        if self._inverse is not None:
            products *= self._inverse
            products *= self._inverse[index]
        return products

    def rows(self, indices: IntArray) -> RealArray:
        if self._gram is not None:
            return self._gram.take(indices, axis=0)
        return self.products(self.gather(indices))

    def products(self, directions: FloatArray, rows: slice = slice(None)) -> RealArray:
        """(b, d) -> (b, K): as `scan`, of several directions at once, and no wider than it was scanned."""
        narrow, vectors = directions.astype(self._scan_type), self.vectors[rows]
        if vectors.dtype == self._scan_type:
            products: RealArray = narrow @ vectors.T
        else:
            blocks: list[RealArray] = [block.astype(self._scan_type) for block in checks.blocks(vectors)]
            products = np.hstack([narrow @ block.T for block in blocks])
        if self._inverse is not None:
            products *= self._inverse[rows]
        return products

    def cross(self) -> FloatArray:
        return self.scan(self.target_vectors[0])[None, :] if self.targets == 1 else self.against(self.target_vectors)

    def against(self, vectors: FloatArray, dtype: type[np.floating] = np.float64) -> RealArray:
        """(r, d) -> (r, K): the products of these vectors with every candidate"""
        products = np.empty((len(vectors), self.size), dtype=dtype)
        for start in range(0, self.size, CONVERSION_BLOCK_ROWS):
            block = slice(start, start + CONVERSION_BLOCK_ROWS)
            products[:, block] = self.scan(vectors.T, block).T
        return products

    def target_gram(self) -> FloatArray:
        return self.target_vectors @ self.target_vectors.T

    def among(self, left: IntArray, right: IntArray) -> FloatArray:
        return self.gather(left) @ self.gather(right).T

    def cross_to(self, indices: IntArray) -> FloatArray:
        return self.target_vectors @ self.gather(indices).T

    def same(self, index: int, others: IntArray) -> BoolArray:
        # Most differ in their first few numbers, and of those no more is read.
        vector, few = self.vector(index), self.vectors[others, :8].astype(np.float64)
        if self._inverse_length is not None:
            few *= self._inverse_length[others, None]
        within = entry_tolerance(vector, self.rounding)
        alike = same_vectors(vector[:8], few, within)
        alike[alike] = same_vectors(vector, self.gather(others[alike]), within)
        return alike

    def evidence(self, indices: IntArray, known: int = 0) -> VectorEvidence:
        inverse = None if self._inverse_length is None else self._inverse_length[indices]
        return VectorEvidence(self.vectors[indices], inverse, self.target_vectors, None, known)

    def everything(self, count: int) -> FeatureSpace:
        view = copy.copy(self)
        # Not gathered here: of more targets than features only a root of their scatter is ever asked for.
        view.targets, view._target_vectors = count, None
        view.target_trace = float(self._diagonal[:count].sum())
        return view

    def part(self, indices: IntArray) -> FeatureSpace:
        """These candidates alone, with a copy of their vectors."""
        view = copy.copy(self)
        view.size, view._gram = len(indices), None
        view.vectors, view._diagonal = self.vectors[indices], self._diagonal[indices]
        if self._inverse is not None and self._inverse_length is not None:
            view._inverse, view._inverse_length = self._inverse[indices], self._inverse_length[indices]
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


def unit_rows(name: str, vectors: RealArray, *, normalize: bool) -> FloatArray:
    """The rows in float64, at unit length if ``normalize``."""
    wide = vectors.astype(np.float64)
    if len(wide) == 1:  # the commonest case, without detours
        own = float(np.vdot(wide, wide))
        if checks.MIN_SAFE_SQUARED_NORM <= own <= checks.SAFE_SQUARED_NORM:
            if normalize:
                wide /= own**0.5
            return wide
    if len(wide):
        squared = checks.squared_norms(name, wide, zero_ok=not normalize)
        if normalize:
            wide /= np.sqrt(squared)[:, None]
    return wide


class KernelSpace:
    """k is a function of two sets of vectors; every row costs one call over the whole candidate set."""

    def __init__(self, kernel: KernelFunction, vectors: RealArray, targets: RealArray, *, normalize: bool) -> None:
        self._kernel = kernel
        self.size, self.targets = len(vectors), len(targets)
        # Powers and constants of inner products amplify rounding, so everything is float64 here.
        self._vectors = unit_rows("candidates", vectors, normalize=normalize)
        self._targets = unit_rows("query", targets, normalize=normalize)
        self.rounding = float(np.finfo(np.float64).eps)
        self._diagonal = self._own_diagonal()
        self.largest = float(self._diagonal.max())
        self.target_trace = float(np.trace(self.target_gram())) if self.targets else 0.0

    def _own_diagonal(self) -> FloatArray:
        # A kernel function shows its diagonal only inside square blocks; small ones waste little.
        parts = [np.diagonal(self._call(block, block)) for block in checks.blocks(self._vectors, rows=64)]
        diagonal = np.concatenate(parts)
        if diagonal.min() < -NEGATIVE_DIAGONAL * np.abs(diagonal).max():
            row = int(np.argmin(diagonal))
            raise InvalidInput(f"kernel(x, x) of candidates row {row} is {diagonal[row]:g}; a kernel is never below 0")
        return checks.within_product_range("candidates", np.maximum(diagonal, 0))

    def _call(self, x: FloatArray, y: FloatArray) -> FloatArray:
        with np.errstate(over="ignore", invalid="ignore"):  # what overflows is found below
            values = checks.as_array("what kernel returned", self._kernel(x, y))
        if values.dtype.kind not in "fiub":
            raise InvalidInput(f"kernel returned values that are no real numbers: dtype {values.dtype}")
        values = values.astype(np.float64, copy=False)
        if values.shape != (len(x), len(y)):
            raise InvalidInput(
                f"kernel returned shape {values.shape} for {len(x)} and {len(y)} vectors, expected ({len(x)}, {len(y)})"
            )
        if not np.isfinite(values).all():
            row, column = np.argwhere(~np.isfinite(values))[0]
            raise InvalidInput(f"kernel returned {values[row, column]} for vectors {row} and {column}")
        return values

    def diagonal(self) -> FloatArray:
        return self._diagonal

    def row(self, index: int) -> FloatArray:
        row: FloatArray = self._call(self._vectors[index : index + 1], self._vectors)[0]
        return row

    def rows(self, indices: IntArray) -> FloatArray:
        return self._call(self._vectors[indices], self._vectors)

    def expect(self, rows: int) -> None:
        """Nothing to prepare: a row costs what it costs."""

    def cross(self) -> FloatArray:
        return self._call(self._targets, self._vectors)

    def target_gram(self) -> FloatArray:
        return self._call(self._targets, self._targets)

    def among(self, left: IntArray, right: IntArray) -> FloatArray:
        return self._call(self._vectors[left], self._vectors[right])

    def cross_to(self, indices: IntArray) -> FloatArray:
        return self._call(self._targets, self._vectors[indices])

    def everything(self, count: int) -> KernelSpace:
        view = copy.copy(self)
        view.targets, view._targets = count, self._vectors[:count]
        view.target_trace = float(self._diagonal[:count].sum())
        return view

    def same(self, index: int, others: IntArray) -> BoolArray:
        # What a kernel function makes of opposite vectors is its own affair; equal ones are equal to it.
        equal: BoolArray = (self._vectors[others] == self._vectors[index]).all(axis=1)
        return equal

    def evidence(self, indices: IntArray, known: int = 0) -> VectorEvidence:
        return VectorEvidence(self._vectors[indices], None, self._targets, self._kernel, known)


def space_of(
    vectors: RealArray,
    query: npt.ArrayLike | None,
    *,
    known: npt.ArrayLike | None = None,
    kernel: KernelFunction | FeatureKernel | None,
    normalize: bool,
    noise: float,
) -> Space:
    """The space that fits the kernel: scanning where the kernel has features, a row at a time where it has none.

    Known items follow the candidates; a kernel's features depend on the candidates alone.
    """
    size, width = vectors.shape
    targets = np.zeros((0, width)) if query is None else checks.matrix("query", query, width=width)
    if known is not None:
        more = checks.matrix("known", known, width=width, empty_ok=True)
        checks.squared_norms("known", more, zero_ok=not normalize)
        if normalize and more.dtype != vectors.dtype:
            # Cut to shorter floats only once they are unit, or large and small ones would be lost.
            more = unit_rows("known", more, normalize=True).astype(np.promote_types(vectors.dtype, np.float32))
        vectors = np.concatenate([vectors, more])
    if kernel is None or isinstance(kernel, Linear):
        return FeatureSpace(vectors, targets, normalize=normalize, noise=noise)
    if isinstance(kernel, FeatureKernel):
        candidates = unit_rows("candidates", vectors, normalize=normalize)
        prompt = unit_rows("query", targets, normalize=normalize)
        features = kernel.features(candidates, candidates[:size])
        if features.size * 8 > MAX_COPY_BYTES:
            features = features.astype(np.float32)
        return FeatureSpace(features, kernel.features(prompt, candidates[:size]), normalize=False, noise=noise)
    if not callable(kernel):
        raise InvalidInput(f"{setting('kernel')} must be a function such as kernels.named('power:4'), got {kernel!r}")
    return KernelSpace(kernel, vectors, targets, normalize=normalize)
