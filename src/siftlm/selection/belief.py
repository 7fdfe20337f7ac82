"""The targets' posterior alone: what any picks tell about the prompt, for methods that never look at it.

It costs no scan over the candidates, so that every method can report the uncertainty its picks leave.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import numpy as np

from siftlm.selection.posterior import Look, Projection, look_of
from siftlm.selection.space import FeatureSpace, Space
from siftlm.types import FloatArray, IntArray


class _CandidateState(NamedTuple):
    """One candidate, and what it takes to condition on it."""

    item: int
    look: Look
    past: FloatArray


class _BeliefForm(Protocol):
    def look(self, index: int) -> _CandidateState: ...

    def glance(self, indices: IntArray) -> tuple[FloatArray, FloatArray]: ...

    def observe(self, seen: _CandidateState) -> None: ...


class Belief:
    """The posterior of the targets, one candidate at a time."""

    def __init__(self, space: Space, noise: float) -> None:
        self.noise = noise
        self._form: _BeliefForm = (
            _FeatureForm(space, noise) if isinstance(space, FeatureSpace) else _KernelForm(space, noise)
        )
        self._last: _CandidateState | None = None

    def look(self, index: int) -> Look:
        """One candidate, as seen now."""
        return self._see(index).look

    def _see(self, index: int) -> _CandidateState:
        # Who looks usually picks next, so one look is kept.
        if self._last is None or self._last.item != index:
            self._last = self._form.look(index)
        return self._last

    def glance(self, indices: IntArray) -> tuple[FloatArray, FloatArray]:
        """(b,) drop and (b,) noisy of several candidates at once; see `Look`."""
        cross, variance = self._form.glance(indices)
        noisy = np.maximum(variance, 0) + self.noise
        return np.einsum("mb,mb->b", cross, cross) / (len(cross) * noisy), noisy

    def observe(self, index: int) -> None:
        """Condition on it."""
        self._form.observe(self._see(index))
        self._last = None


class _FeatureForm:
    """By P = (I + X_nᵀX_n/λ)⁻¹ of the feature space, as `FeaturePosterior`: O(min(n, d) d) a look."""

    def __init__(self, space: FeatureSpace, noise: float) -> None:
        self._space, self._noise = space, noise
        self._residual = space.target_vectors.copy()
        self._projection = Projection(space.width)

    def look(self, index: int) -> _CandidateState:
        vector = self._space.vector(index)
        direction = self._projection.apply(vector)
        noisy = max(0.0, float(vector @ direction)) + self._noise
        return _CandidateState(index, look_of(self._residual @ vector, noisy, len(self._residual)), direction)

    def glance(self, indices: IntArray) -> tuple[FloatArray, FloatArray]:
        vectors = self._space.gather(indices).T
        variance: FloatArray = np.einsum("db,db->b", vectors, self._projection.apply(vectors))
        return self._residual @ vectors, variance

    def observe(self, seen: _CandidateState) -> None:
        white = seen.past / seen.look.noisy**0.5
        self._residual -= np.outer(seen.look.cross / seen.look.noisy**0.5, white)
        self._projection.lose(white)


class _KernelForm:
    """By L⁻¹, with L Lᵀ = K_n + λI, for kernels that only compare pairs: O(n²) a look."""

    def __init__(self, space: Space, noise: float) -> None:
        self._space, self._noise, self._count = space, noise, 0
        self._picked: IntArray = np.zeros(16, dtype=np.int64)
        self._inverse: FloatArray = np.zeros((16, 16))
        self._white: FloatArray = np.zeros((16, space.targets))  # that inverse times k(X_n, x*)

    def look(self, index: int) -> _CandidateState:
        here = np.array([index], dtype=np.int64)
        own = float(self._space.among(here, here)[0, 0])
        past, cross = self._whiten(here)
        noisy = max(0.0, own - float(past[:, 0] @ past[:, 0])) + self._noise
        return _CandidateState(index, look_of(cross[:, 0], noisy, len(cross)), past[:, 0])

    def glance(self, indices: IntArray) -> tuple[FloatArray, FloatArray]:
        past, cross = self._whiten(indices)
        return cross, self._space.diagonal()[indices] - np.einsum("nb,nb->b", past, past)

    def _whiten(self, indices: IntArray) -> tuple[FloatArray, FloatArray]:
        n = self._count
        past = self._inverse[:n, :n] @ self._space.among(self._picked[:n], indices)
        return past, self._space.cross_to(indices) - self._white[:n].T @ past

    def observe(self, seen: _CandidateState) -> None:
        n, root = self._count, seen.look.noisy**0.5
        if n == len(self._picked):
            self._picked = np.pad(self._picked, (0, n))
            self._white = np.pad(self._white, ((0, n), (0, 0)))
            self._inverse = np.pad(self._inverse, (0, n))
        self._picked[n], self._white[n] = seen.item, seen.look.cross / root
        self._inverse[n, :n] = -(seen.past @ self._inverse[:n, :n]) / root
        self._inverse[n, n] = 1 / root
        self._count += 1
