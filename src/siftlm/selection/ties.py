"""Who wins when gains are equal: the smaller index, and equal texts count as equal whatever rounding says.

BLAS may give two equal rows products that differ in the last bit, depending on where they stand, and a small λ
magnifies the difference. So two gains tie when they agree within plain rounding (``tie``), and also when they
agree within magnified rounding (``loose``) and the candidates are in fact the same vector. Different vectors whose
gains merely come close are not confused.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from siftlm.selection.space import Space
from siftlm.types import BoolArray, FloatArray, IntArray


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
    tie = max(8 * space.rounding, 1e-9)
    scale = max(1.0, float(space.diagonal().max()))
    return Ties(tie, max(tie, min(1e-3, 256 * space.rounding * scale / noise)), space.same)
