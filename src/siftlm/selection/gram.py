"""A kernel's values where they are known already: `Gram`, and the space that looks everything up in it."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from siftlm.errors import InvalidInput
from siftlm.selection import checks
from siftlm.selection.explain import GramEvidence
from siftlm.selection.numerics import GRAM_TOLERANCE, entry_tolerance, same_vectors
from siftlm.types import BoolArray, FloatArray, IntArray


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
        limit = most * (1 + GRAM_TOLERANCE) + GRAM_TOLERANCE**2
        if (np.abs(cross) > limit).any():
            row, column = (int(at) for at in np.argwhere(np.abs(cross) > limit)[0])
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
    if difference.max() > GRAM_TOLERANCE * float(diagonal.max()):
        row, column = (int(at) for at in np.unravel_index(int(difference.argmax()), gram.shape))
        raise InvalidInput(f"{name} is not symmetric: [{row}, {column}] differs from [{column}, {row}]")
    return gram


class GramSpace:
    """All inner products are given."""

    def __init__(self, gram: FloatArray, cross: FloatArray, targets: FloatArray) -> None:
        self._gram, self._cross, self._targets = gram, cross, targets
        self.size, self.targets, self.target_trace = len(gram), len(targets), float(np.trace(targets))
        self.rounding = float(np.finfo(np.float64).eps)
        self.largest = float(gram.diagonal().max())

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

    def among(self, left: IntArray, right: IntArray) -> FloatArray:
        return self._gram[np.ix_(left, right)]

    def cross_to(self, indices: IntArray) -> FloatArray:
        return self._cross[:, indices]

    def everything(self, count: int) -> GramSpace:
        return GramSpace(self._gram, self._gram[:count], self._gram[:count, :count])

    def same(self, index: int, others: IntArray) -> BoolArray:
        row, cross = self._gram[index], self._cross[:, index]
        equal = same_vectors(row, self._gram[others], entry_tolerance(row, self.rounding))
        return equal & same_vectors(cross, self._cross[:, others].T, entry_tolerance(cross, self.rounding))

    def evidence(self, indices: IntArray, known: int = 0) -> GramEvidence:
        return GramEvidence(self._gram[np.ix_(indices, indices)], self._cross[:, indices], self._targets, known)
