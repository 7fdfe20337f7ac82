"""What a result keeps of its picks, and how it explains them. The other candidates are not kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from siftlm.errors import InvalidInput
from siftlm.selection.checks import RealArray
from siftlm.selection.kernels import KernelFunction
from siftlm.selection.numerics import cosines
from siftlm.types import Evidence, Explanation, FloatArray, IntArray, Selection

__all__ = ["Evidence", "GramEvidence", "VectorEvidence"]


@dataclass(frozen=True, eq=False)
class GramEvidence:
    """The inner products among known items and picks, in this order, and with the prompt."""

    gram: FloatArray
    """(n, n)"""
    cross: FloatArray
    """(m, n)"""
    targets: FloatArray
    """(m, m)"""
    known: int = 0
    """how many known items there are: the picks come after them"""

    def explain(self, selection: Selection, texts: Sequence[str] | None) -> Explanation:
        """Relevance, overlap, the target served and what nothing else covers, of each pick."""
        gram, cross = self.gram[self.known :, self.known :], self.cross[:, self.known :]
        own = np.sqrt(np.maximum(np.diagonal(gram), 0))
        prompt = np.sqrt(np.maximum(np.diagonal(self.targets), 0))
        relevance = np.abs(cosines(cross, np.outer(prompt, own))).max(axis=0, initial=0.0)
        similar = np.abs(cosines(gram, np.outer(own, own)))
        overlap = np.array([similar[:n, n].max(initial=0.0) for n in range(len(similar))])
        return Explanation(
            indices=selection.indices,
            relevance=relevance,
            overlap=overlap,
            served=self._served(selection.noise)[self.known :],
            alone=self._alone(selection.noise)[self.known :],
            gains=selection.gains,
            uncertainty=selection.uncertainty[1:],
            texts=None if texts is None else _picked_texts(texts, selection.indices),
        )

    def _served(self, noise: float) -> IntArray:
        """(n,) the target whose variance fell most at each item: condition on them one after the other."""
        n = len(self.gram)
        served = np.zeros(n, dtype=np.int64)
        if not len(self.cross):
            return served
        gram, cross = self.gram.copy(), self.cross.copy()
        for pick in range(n):
            served[pick] = int(np.argmax(cross[:, pick] ** 2))
            row = gram[pick] / (max(0.0, float(gram[pick, pick])) + noise)
            cross -= np.outer(cross[:, pick], row)
            gram -= np.outer(gram[:, pick], row)
        return served

    def _alone(self, noise: float) -> FloatArray:
        """(n,) mean over the targets of (M c)ᵢ² / Mᵢᵢ with M = (K + λI)⁻¹: what leaving out item i adds to c'Mc."""
        if not len(self.cross):
            return np.full(len(self.gram), np.nan)
        inverse = np.linalg.inv(self.gram + noise * np.eye(len(self.gram)))
        rise: FloatArray = ((self.cross @ inverse) ** 2).mean(axis=0) / np.diagonal(inverse)
        return rise


@dataclass(frozen=True, eq=False)
class VectorEvidence:
    """The known and the picked vectors and the prompt's; products are formed only when somebody asks."""

    vectors: RealArray
    """(n, d) as given"""
    inverse_length: FloatArray | None
    """(n,) factors that make them unit, where needed"""
    targets: FloatArray
    """(m, d)"""
    kernel: KernelFunction | None
    """``None``: the inner product"""
    known: int = 0
    """as in `GramEvidence`"""
    rows: IntArray | None = None
    """(n,) which of the vectors, where the results of several prompts share them; ``None``: all, in order"""

    def explain(self, selection: Selection, texts: Sequence[str] | None) -> Explanation:
        """As `GramEvidence.explain`."""
        rows = slice(None) if self.rows is None else self.rows
        vectors = self.vectors[rows].astype(np.float64)
        if self.inverse_length is not None:
            vectors *= self.inverse_length[rows, None]
        products = self.kernel or (lambda x, y: x @ y.T)
        gram = GramEvidence(
            np.asarray(products(vectors, vectors), dtype=np.float64),
            np.asarray(products(self.targets, vectors), dtype=np.float64),
            np.asarray(products(self.targets, self.targets), dtype=np.float64),
            self.known,
        )
        return gram.explain(selection, texts)


def _picked_texts(texts: Sequence[str], indices: IntArray) -> tuple[str, ...]:
    if len(indices) and len(texts) <= int(indices.max()):
        raise InvalidInput(f"texts must hold all candidates: it has {len(texts)}, and pick {indices.max()} was made")
    return tuple(str(texts[int(index)]) for index in indices)
