"""The Gaussian posterior after some picks, as seen from every candidate and every target.

    k_n(x, x') = k(x, x') − k(x, X_n) (K_n + λI)⁻¹ k(X_n, x')

carried forward one pick at a time. What selection needs of it is, for every candidate x,

    cross (m, K)     k_n(x*, x)       how much x still says about each target
    noisy (K,)       k_n(x, x) + λ    how unsure an observation of x would be

Two forms of the same numbers:

* ``RowPosterior`` keeps one row of the Cholesky factor of K_n + λI per pick, extended over all candidates.
  Memory O(nK), any kernel.
* ``FeaturePosterior`` keeps P_n = (I + X_nᵀX_n/λ)⁻¹ of the feature space, so that k_n(x, x') = xᵀ P_n x' and a
  pick costs one scan along P_n x_i: P_n = I − WᵀW while n ≤ d, the matrix itself once n > d. Memory O(d²)
  beside the arrays above; for a trace, at most d targets, whatever their number.
  The direction is formed in float64 before the scan, so a float32 scan is off by its own rounding alone,
  however often picks repeat each other.

A `Belief` is the targets' posterior alone, one candidate at a time: what any picks tell about the prompt, without a
scan, so that methods that never look at the posterior can report the uncertainty that their picks leave.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from contextlib import suppress
from typing import NamedTuple, Protocol

import numpy as np

from siftlm.selection.checks import RealArray
from siftlm.selection.numerics import FLOAT64_ROUNDING, check_noise, needs_floor
from siftlm.selection.space import FeatureSpace, Space
from siftlm.types import FloatArray, IntArray

# Above this many candidates per feature, scanning along a direction beats rows of a Cholesky factor (measured:
# equal at K = 5,000, d = 768).
CANDIDATES_PER_FEATURE = 6
# From one target for so many features on, one more scan a pick beats a row for each target (K = 200,000, d = 384).
FEATURES_PER_TARGET = 24
# P is recomputed from the picks themselves this often, before its rounding errors can add up.
REFRESH_EVERY = 2048
# Candidates are updated so many at a time: a block's numbers stay in the processor's cache from scan to update.
UPDATE_BLOCK_CANDIDATES = 4096
ALL_CANDIDATES = slice(None)


class Look(NamedTuple):
    """One candidate, as seen just before it would be picked."""

    cross: FloatArray
    """(m,) k_n(x*, x); with ``trace_only``, of the vectors that replace the targets"""
    noisy: float
    """k_n(x, x) + λ"""
    drop: float
    """by how much picking it lowers the mean variance of the targets; NaN without targets"""


# No candidate has been looked at since the last pick; who looks usually picks next, so one look is kept.
NO_LOOK: tuple[int, Look] = (-1, Look(np.zeros(0), 0.0, 0.0))


def look_of(cross: FloatArray, noisy: float, targets: int) -> Look:
    """With the drop that follows from them, a mean over the targets."""
    if targets == 1:
        single = float(cross[0])
        return Look(cross, noisy, single * single / noisy)
    return Look(cross, noisy, float(cross.dot(cross)) / (targets * noisy) if targets else float("nan"))


class Posterior(Protocol):
    """What methods may ask of either form."""

    noise: float
    cross: RealArray
    """(m, K) k_n(x*, x)"""
    noisy: FloatArray
    """(K,) k_n(x, x) + λ"""

    @property
    def variance(self) -> FloatArray:
        """(K,) k_n(x, x)"""

    @property
    def targets(self) -> FloatArray:
        """(m, m) k_n(x*, x*)"""

    def trace_gain(self) -> FloatArray:
        """(K,) mean over targets of k_n(x*, x)² / (k_n(x, x) + λ). A buffer that the next call overwrites."""

    def look(self, index: int) -> Look:
        """One candidate."""

    def observe(self, index: int) -> None:
        """Condition on it."""


class _PosteriorArrays:
    """The part that both forms share: the arrays over candidates and their update by one row."""

    def __init__(self, space: Space, noise: float, cross: RealArray) -> None:
        check_noise(space, noise)
        self.noise = noise
        self.cross = cross
        self.noisy = space.diagonal() + noise
        self._space = space
        self._gain, self._scratch = np.empty(len(self.noisy)), np.empty(len(self.noisy))
        self._energy: FloatArray | None = None  # Σ_m cross², where there are several targets and a method needs it
        self._floored = needs_floor(space, noise)
        self._targets: FloatArray | None = None
        self._seen: list[tuple[FloatArray, float]] = []

    @property
    def variance(self) -> FloatArray:
        return np.maximum(self.noisy - self.noise, 0)

    @property
    def targets(self) -> FloatArray:
        # Few methods need it, so it is made at the first use and then kept up to date.
        if self._targets is None:
            self._targets = self._space.target_gram().copy()
        for cross, noisy in self._seen:
            self._targets -= np.outer(cross, cross) / noisy
        self._seen.clear()
        return self._targets

    def trace_gain(self) -> FloatArray:
        gain, cross, targets = self._gain, self.cross, self._space.targets
        if targets == 1:
            np.multiply(cross[0], cross[0], out=gain)
            gain /= self.noisy
        else:
            if self._energy is None:
                self._energy = np.empty(len(gain))
                for start in range(0, len(gain), UPDATE_BLOCK_CANDIDATES):
                    self._add_up(slice(start, start + UPDATE_BLOCK_CANDIDATES))
            np.divide(self._energy, self.noisy, out=gain)
            gain *= 1 / max(1, targets)
        return gain

    def _add_up(self, block: slice) -> None:
        """Σ_m k_n(x*_m, x)² of the block, cheapest while its numbers are still in the cache."""
        if self._energy is not None:
            part = self.cross[:, block]
            self._energy[block] = np.einsum("mk,mk->k", part, part)

    def _update(self, row: RealArray, look: Look, block: slice = ALL_CANDIDATES) -> None:
        """``row`` is k_n(x_i, x) / sqrt(k_n(x_i, x_i) + λ) for the candidates of the block."""
        root, scratch, cross, noisy = look.noisy**0.5, self._scratch, self.cross, self.noisy
        if block is not ALL_CANDIDATES:
            scratch, cross, noisy = scratch[block], cross[:, block], noisy[block]
        if len(cross) == 1:
            np.multiply(row, float(look.cross[0]) / root, out=scratch)
            cross -= scratch
        elif len(cross):
            cross -= np.outer((look.cross / root).astype(cross.dtype), row.astype(cross.dtype, copy=False))
        if self._energy is not None:
            self._add_up(block)
        np.multiply(row, row, out=scratch)
        noisy -= scratch
        if self._floored:
            np.maximum(noisy, self.noise, out=noisy)


class RowPosterior(_PosteriorArrays):
    """One row of the Cholesky factor a pick, over all candidates."""

    def __init__(self, space: Space, noise: float, expected: int) -> None:
        super().__init__(space, noise, space.cross())
        space.expect(expected)
        self._rows: FloatArray = np.empty((max(1, min(expected, 1024)), space.size))
        self._count = 0
        self._last = NO_LOOK

    def look(self, index: int) -> Look:
        if self._last[0] != index:
            self._last = (index, look_of(self.cross[:, index].copy(), float(self.noisy[index]), len(self.cross)))
        return self._last[1]

    def observe(self, index: int) -> None:
        if self._count == len(self._rows):
            self._rows = np.concatenate([self._rows, np.empty_like(self._rows)])
        look, past, row = self.look(index), self._rows[: self._count], self._rows[self._count]
        self._last = NO_LOOK
        product = self._space.row(index)
        if self._count:
            past[:, index].dot(past, out=self._scratch)
            np.subtract(product, self._scratch, out=row)
        else:
            row[:] = product
        row *= look.noisy**-0.5
        self._count += 1
        self._update(row, look)
        self._seen.append((look.cross, look.noisy))


class Belief(Protocol):
    """The posterior of the targets alone."""

    def look(self, index: int) -> Look:
        """One candidate, as seen now; kept, because who looks usually picks next."""

    def glance(self, indices: IntArray) -> tuple[FloatArray, FloatArray]:
        """(b,) drop and (b,) noisy of several candidates at once; see `Look`."""

    def observe(self, index: int) -> object:
        """Condition on it."""


class FeatureBelief:
    """By P_n = (I + X_nᵀX_n/λ)⁻¹ of the feature space: O(min(n, d) d) a look.

    P is I − WᵀW while there are at most d picks, the matrix itself from then on.
    """

    def __init__(self, space: FeatureSpace, noise: float, targets: FloatArray | None = None) -> None:
        self._space, self._noise = space, noise
        self.residual: FloatArray = (space.target_vectors if targets is None else targets).copy()
        """(m, d) P x*: what the prompt still lacks. Its product with any x, candidate or not, is k_n(x*, x)."""
        self.matrix: FloatArray | None = None
        """(d, d) P, once there are more than d picks"""
        self._white: FloatArray = np.empty((min(space.width, 64), space.width))
        self._count = 0
        self._last, self._direction = NO_LOOK, self._white[:0]

    def fork(self, space: FeatureSpace) -> FeatureBelief:
        """The same of another set of candidates, to go its own way."""
        view = copy.copy(self)
        view._space, view._white, view._last = space, self._white.copy(), NO_LOOK
        view.residual, view.matrix = self.residual.copy(), None if self.matrix is None else self.matrix.copy()
        return view

    def project(self, vectors: FloatArray) -> FloatArray:
        """P times a vector (d,) or the columns of a matrix (d, b)."""
        if self.matrix is not None:
            return self.matrix @ vectors
        white = self._white[: self._count]
        return vectors - white.T @ (white @ vectors)

    def look(self, index: int) -> Look:
        if self._last[0] != index:
            vector = self._space.vector(index)
            self._direction = self.project(vector)
            noisy = max(0.0, float(vector @ self._direction)) + self._noise
            self._last = (index, look_of(self.residual @ vector, noisy, self._space.targets))
        return self._last[1]

    def glance(self, indices: IntArray) -> tuple[FloatArray, FloatArray]:
        vectors = self._space.gather(indices).T
        variance: FloatArray = np.einsum("db,db->b", vectors, self.project(vectors))
        return _drops(self.residual @ vectors, variance, self._noise)

    def observe(self, index: int) -> FloatArray:
        """Condition on it: P − w wᵀ, with the returned w = P x / sqrt(k_n(x, x) + λ)."""
        look, width = self.look(index), self._space.width
        white: FloatArray = self._direction / look.noisy**0.5
        self.residual -= np.outer(look.cross / look.noisy**0.5, white)
        if self._count < width:
            if self._count == len(self._white):
                more = np.empty((min(self._count, width - self._count), width))
                self._white = np.concatenate([self._white, more])
            self._white[self._count] = white
        else:
            if self.matrix is None:
                self.matrix = np.eye(width) - self._white.T @ self._white
            self.matrix -= np.outer(white, white)
        self._count += 1
        self._last = NO_LOOK
        return white

    def refresh(self, picks: Sequence[int], targets: FloatArray) -> FloatArray:
        """P and the residual anew from these picks, at least d: P = BᵀB, B = √λ L⁻¹, L Lᵀ = λI + X_nᵀX_n. Returns B."""
        picked = self._space.gather(np.array(picks, dtype=np.int64))
        factor = np.linalg.cholesky(picked.T @ picked + self._noise * np.eye(self._space.width))
        root: FloatArray = self._noise**0.5 * np.linalg.inv(factor)
        self.matrix = root.T @ root
        self.residual = targets @ self.matrix
        self._count, self._last = len(picks), NO_LOOK
        return root


class KernelBelief:
    """By L⁻¹, with L Lᵀ = K_n + λI, for kernels that only compare pairs: O(n²) a look."""

    def __init__(self, space: Space, noise: float) -> None:
        self._space, self._noise, self._count = space, noise, 0
        self._picked: IntArray = np.zeros(16, dtype=np.int64)
        self._inverse: FloatArray = np.zeros((16, 16))
        self._white: FloatArray = np.zeros((16, space.targets))  # that inverse times k(X_n, x*)
        self._last, self._past = NO_LOOK, self._white[:0]

    def look(self, index: int) -> Look:
        if self._last[0] != index:
            here = np.array([index], dtype=np.int64)
            past, cross = self._whiten(here)
            self._past = past[:, 0]
            variance = float(self._space.among(here, here)[0, 0]) - float(self._past @ self._past)
            self._last = (index, look_of(cross[:, 0], max(0.0, variance) + self._noise, len(cross)))
        return self._last[1]

    def glance(self, indices: IntArray) -> tuple[FloatArray, FloatArray]:
        past, cross = self._whiten(indices)
        return _drops(cross, self._space.diagonal()[indices] - np.einsum("nb,nb->b", past, past), self._noise)

    def _whiten(self, indices: IntArray) -> tuple[FloatArray, FloatArray]:
        n = self._count
        past = self._inverse[:n, :n] @ self._space.among(self._picked[:n], indices)
        return past, self._space.cross_to(indices) - self._white[:n].T @ past

    def observe(self, index: int) -> None:
        look, n = self.look(index), self._count
        root = look.noisy**0.5
        if n == len(self._picked):
            self._picked = np.pad(self._picked, (0, n))
            self._white = np.pad(self._white, ((0, n), (0, 0)))
            self._inverse = np.pad(self._inverse, (0, n))
        self._picked[n], self._white[n] = index, look.cross / root
        self._inverse[n, :n] = -(self._past @ self._inverse[:n, :n]) / root
        self._inverse[n, n] = 1 / root
        self._count += 1
        self._last = NO_LOOK


def _drops(cross: FloatArray, variance: FloatArray, noise: float) -> tuple[FloatArray, FloatArray]:
    noisy = np.maximum(variance, 0) + noise
    return np.einsum("mb,mb->b", cross, cross) / (len(cross) * noisy), noisy


def belief_of(space: Space, noise: float) -> Belief:
    """The form that fits the space."""
    return FeatureBelief(space, noise) if isinstance(space, FeatureSpace) else KernelBelief(space, noise)


# Up to so many picks, one factorisation is faster than one pick after the other.
MAX_FACTORED_PICKS = 512


def uncertainty_of(space: Space, noise: float, picks: Sequence[int]) -> FloatArray:
    """(n + 1,) the targets' mean variance before the first of these picks and after each; NaN without targets.

    With L Lᵀ = K_n + λI and L z = k(X_n, x*), pick i lowers it by the mean of z_i².
    """
    if not space.targets:
        return np.full(len(picks) + 1, np.nan)
    indices = np.array(picks, dtype=np.int64)
    drops: FloatArray | None = None
    if len(indices) <= MAX_FACTORED_PICKS:
        with suppress(np.linalg.LinAlgError):  # λ is close to rounding
            factor = np.linalg.cholesky(space.among(indices, indices) + noise * np.eye(len(indices)))
            white = np.linalg.solve(factor, space.cross_to(indices).T)
            drops = np.einsum("nm,nm->n", white, white) / space.targets
    if drops is None:
        belief, each = belief_of(space, noise), []
        for index in picks:
            each.append(belief.look(index).drop)
            belief.observe(index)
        drops = np.array(each)
    uncertainty: FloatArray = space.target_trace / space.targets - np.concatenate([[0.0], np.cumsum(drops)])
    return uncertainty


class FeaturePosterior(_PosteriorArrays):
    """The posterior in feature space: one scan a pick, nothing kept per pick once there are d of them."""

    _space: FeatureSpace

    def __init__(self, space: FeatureSpace, noise: float, *, trace_only: bool = False) -> None:
        # A trace sees the targets' scatter alone, so d vectors of the same scatter stand in for more targets than d.
        stand_in = trace_only and space.targets > space.width
        self._prompt = space.target_root() if stand_in else space.target_vectors
        # With several targets, no wider than the scans that feed it.
        narrow = len(self._prompt) > 1 and space.rounding > FLOAT64_ROUNDING
        if narrow or stand_in:
            cross = space.against(self._prompt, np.float32 if narrow else np.float64)
        else:
            cross = space.cross()
        super().__init__(space, noise, cross)
        self._belief = FeatureBelief(space, noise, self._prompt)
        self._picked: list[int] = []

    def look(self, index: int) -> Look:
        return self._belief.look(index)

    def observe(self, index: int) -> None:
        look, white = self._belief.look(index), self._belief.observe(index)
        self._picked.append(index)
        for start in range(0, self._space.size, UPDATE_BLOCK_CANDIDATES):
            block = slice(start, start + UPDATE_BLOCK_CANDIDATES)
            self._update(self._space.scan(white, block), look, block)
        self._seen.append((look.cross, look.noisy))
        if self._belief.matrix is not None and len(self._picked) % REFRESH_EVERY == 0:
            self._refresh()

    @property
    def residual(self) -> FloatArray:
        """(m, d) P x*: what the prompt still lacks. Its product with any x, candidate or not, is k_n(x*, x)."""
        return self._belief.residual

    def extend(self) -> None:
        """Take in the candidates that the space has gained since: all earlier picks count for them too."""
        added = slice(len(self.noisy), self._space.size)
        vectors = self._space.gather(np.arange(added.start, added.stop))
        variance = np.einsum("ij,ji->i", vectors, self._belief.project(vectors.T))
        self.noisy = np.concatenate([self.noisy, np.maximum(variance, 0) + self.noise])
        self.cross = np.concatenate([self.cross, self._space.scan(self.residual.T, added).T], axis=1)
        self._gain, self._scratch, self._energy = np.empty(len(self.noisy)), np.empty(len(self.noisy)), None

    @property
    def refreshed(self) -> bool:
        """Was everything just computed from the picks alone? Then `restart` with them gives this state."""
        return self._belief.matrix is not None and len(self._picked) % REFRESH_EVERY == 0

    def restart(self, picks: IntArray) -> None:
        """The state after these picks, at least d of them, at the cost of a refresh."""
        self._picked = picks.tolist()
        self._refresh()

    def _refresh(self) -> None:
        """Everything anew from the picks."""
        root = self._belief.refresh(self._picked, self._prompt)
        for start in range(0, self._space.size, UPDATE_BLOCK_CANDIDATES):
            block = slice(start, start + UPDATE_BLOCK_CANDIDATES)
            whitened = self._space.scan(root.T, block)
            self.noisy[block] = np.einsum("ij,ij->i", whitened, whitened) + self.noise
            self.cross[:, block] = self._space.scan(self.residual.T, block).T
            self._add_up(block)


def posterior_of(space: Space, noise: float, expected: int, *, trace_only: bool = False) -> Posterior:
    """The cheaper form for this space and this many picks."""
    if isinstance(space, FeatureSpace) and (
        expected > space.width
        or space.size > CANDIDATES_PER_FEATURE * space.width
        or (trace_only and space.targets > space.width)
    ):
        if trace_only and space.targets > max(1, space.width // FEATURES_PER_TARGET):
            from siftlm.selection.trace import TracePosterior

            return TracePosterior(space, noise)
        return FeaturePosterior(space, noise, trace_only=trace_only)
    return RowPosterior(space, noise, expected)
