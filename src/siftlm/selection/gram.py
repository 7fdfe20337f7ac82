"""Spaces that know pairs instead of features: a kernel function, or a Gram matrix of its values."""

from __future__ import annotations

import copy

import numpy as np
import numpy.typing as npt

from siftlm.errors import InvalidInput
from siftlm.selection import checks
from siftlm.selection.checks import RealArray
from siftlm.selection.explain import GramEvidence, VectorEvidence
from siftlm.selection.kernels import FeatureKernel, KernelFunction, Linear
from siftlm.selection.space import MAX_COPY_BYTES, FeatureSpace, Space, rounding_of, same_vectors, unit_rows
from siftlm.types import BoolArray, FloatArray, IntArray


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

    def _own_diagonal(self) -> FloatArray:
        # A kernel function shows its diagonal only inside square blocks; small ones waste little.
        parts = [np.diagonal(self._call(block, block)) for block in checks.blocks(self._vectors, rows=64)]
        diagonal = np.concatenate(parts)
        if diagonal.min() < -1e-9 * np.abs(diagonal).max():  # less is rounding
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

    def target_trace(self) -> float:
        return float(np.trace(self.target_gram()))

    def among(self, left: IntArray, right: IntArray) -> FloatArray:
        return self._call(self._vectors[left], self._vectors[right])

    def cross_to(self, indices: IntArray) -> FloatArray:
        return self._call(self._targets, self._vectors[indices])

    def everything(self, count: int) -> KernelSpace:
        view = copy.copy(self)
        view.targets, view._targets = count, self._vectors[:count]
        return view

    def same(self, index: int, others: IntArray) -> BoolArray:
        # What a kernel function makes of opposite vectors is its own affair; equal ones are equal to it.
        equal: BoolArray = (self._vectors[others] == self._vectors[index]).all(axis=1)
        return equal

    def evidence(self, indices: IntArray, known: int = 0) -> VectorEvidence:
        return VectorEvidence(self._vectors[indices], None, self._targets, self._kernel, known)


class Gram:
    """The kernel's values among the candidates, (K, K), where they are known already.

    ``targets`` (m, m) holds k(x*, x*); it may be left out for one target with k(x*, x*) = 1. The query of
    ``select`` is then k(x*, x).

    >>> from siftlm import select
    >>> gram = Gram([[1.0, 0.9, 0.0], [0.9, 1.0, 0.0], [0.0, 0.0, 1.0]])
    >>> select([0.7, 0.6, 0.5], gram, n=2).indices.tolist()
    [0, 2]
    """

    def __init__(self, values: npt.ArrayLike, targets: npt.ArrayLike | None = None) -> None:
        self.values = _checked_gram("gram", values)
        self.targets = None if targets is None else _checked_gram("targets", targets)

    def space(self, query: npt.ArrayLike | None) -> GramSpace:
        """The space that looks everything up; ``query`` holds k(x*, x), (K,) or (m, K)."""
        size = len(self.values)
        cross = np.zeros((0, size)) if query is None else checks.finite_matrix("query", query, shape=(None, size))
        if self.targets is not None:
            targets = checks.finite_matrix("targets", self.targets, shape=(len(cross), len(cross)))
        elif len(cross) > 1:
            raise InvalidInput(f"several targets need Gram(…, targets=) of shape ({len(cross)}, {len(cross)})")
        else:
            targets = np.ones((len(cross), len(cross)))
        most = np.sqrt(np.outer(np.diagonal(targets), np.diagonal(self.values)))
        if (np.abs(cross) > most * (1 + 1e-6) + 1e-12).any():
            row, column = (int(at) for at in np.argwhere(np.abs(cross) > most * (1 + 1e-6) + 1e-12)[0])
            raise InvalidInput(
                f"query[{row}, {column}] is {cross[row, column]:g}, and no kernel gives more than "
                f"√(k(x*, x*) k(x, x)) = {most[row, column]:g}; pass k(x*, x*) as Gram(…, targets=)"
            )
        return GramSpace(self.values, cross, targets)


def _checked_gram(name: str, value: npt.ArrayLike) -> FloatArray:
    gram = checks.finite_matrix(name, value, shape=(None, None))
    if gram.shape[0] != gram.shape[1]:
        raise InvalidInput(f"{name} must be square, got shape {gram.shape}")
    diagonal = np.diagonal(gram)
    if (diagonal < 0).any():
        row = int(np.argmin(diagonal))
        raise InvalidInput(f"{name}[{row}, {row}] is {diagonal[row]:g}; a kernel's diagonal is never below 0")
    checks.within_product_range(name, diagonal)
    difference = np.abs(gram - gram.T)
    if difference.max() > 1e-6 * float(diagonal.max()):
        row, column = (int(at) for at in np.unravel_index(int(difference.argmax()), gram.shape))
        raise InvalidInput(f"{name} is not symmetric: [{row}, {column}] differs from [{column}, {row}]")
    return gram


class GramSpace:
    """All inner products are given."""

    def __init__(self, gram: FloatArray, cross: FloatArray, targets: FloatArray) -> None:
        self._gram, self._cross, self._targets = gram, cross, targets
        self.size, self.targets = len(gram), len(targets)
        self.rounding = float(np.finfo(np.float64).eps)

    def diagonal(self) -> FloatArray:
        return self._gram.diagonal().copy()

    def row(self, index: int) -> FloatArray:
        row: FloatArray = self._gram[index]
        return row

    def rows(self, indices: IntArray) -> FloatArray:
        return self._gram[indices]

    def expect(self, rows: int) -> None:
        """Nothing to prepare: all rows are there."""

    def cross(self) -> FloatArray:
        return self._cross.copy()

    def target_gram(self) -> FloatArray:
        return self._targets

    def target_trace(self) -> float:
        return float(np.trace(self.target_gram()))

    def among(self, left: IntArray, right: IntArray) -> FloatArray:
        return self._gram[np.ix_(left, right)]

    def cross_to(self, indices: IntArray) -> FloatArray:
        return self._cross[:, indices]

    def everything(self, count: int) -> GramSpace:
        return GramSpace(self._gram, self._gram[:count], self._gram[:count, :count])

    def same(self, index: int, others: IntArray) -> BoolArray:
        row, cross = self._gram[index], self._cross[:, index]
        equal = same_vectors(row, self._gram[others], rounding_of(row, self.rounding))
        return equal & same_vectors(cross, self._cross[:, others].T, rounding_of(cross, self.rounding))

    def evidence(self, indices: IntArray, known: int = 0) -> GramEvidence:
        return GramEvidence(self._gram[np.ix_(indices, indices)], self._cross[:, indices], self._targets, known)


def space_of(
    vectors: RealArray,
    targets: RealArray,
    *,
    kernel: KernelFunction | FeatureKernel | None,
    normalize: bool,
    noise: float,
    own: int | None = None,
) -> Space:
    """The space that fits the kernel: scanning where the kernel has features, a row at a time where it has none.

    Only the first ``own`` vectors are candidates, which features may depend on; known items follow them.
    """
    if kernel is None or isinstance(kernel, Linear):
        return FeatureSpace(vectors, targets, normalize=normalize, noise=noise)
    if isinstance(kernel, FeatureKernel):
        candidates = unit_rows("candidates", vectors, normalize=normalize)
        prompt = unit_rows("query", targets, normalize=normalize)
        features = kernel.features(candidates, candidates[:own])
        if features.size * 8 > MAX_COPY_BYTES:
            features = features.astype(np.float32)
        return FeatureSpace(features, kernel.features(prompt, candidates[:own]), normalize=False, noise=noise)
    if not callable(kernel):
        raise InvalidInput(f"kernel must be a function of two sets of vectors, got {kernel!r}")
    return KernelSpace(kernel, vectors, targets, normalize=normalize)
