"""The posterior in feature space for many targets, where only the sum over them is asked for."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from siftlm.selection import posterior
from siftlm.selection.checks import RealArray
from siftlm.selection.numerics import check_noise, needs_floor
from siftlm.selection.posterior import UPDATE_BLOCK_CANDIDATES, FeatureBelief, Look
from siftlm.selection.space import FeatureSpace
from siftlm.types import BoolArray, FloatArray, IntArray

# E is summed up anew when the targets have lost so much of their squared length: a rounding error stays as large as E
# was when it was made, and so it stays small beside what is left.
KEPT_SHARE = 0.1
# Candidates that are brought up to date for many picks at a time: their products stay in the processor's cache.
MANY_PICKS_CANDIDATES = 1024


class Update(NamedTuple):
    """What a pick changes for every candidate x: E ← E + (w·x)(z·x); v ← v − (w·x)²."""

    white: FloatArray
    """(d,) w = P x_i / √(v_i + λ)"""
    tilt: FloatArray
    """(d,) z = |c|² w / (v_i + λ) − 2 u / √(v_i + λ)"""


@dataclass(frozen=True)
class Ceiling:
    """What the picks of a block beat, if they are the best: no other candidate may reach these scores."""

    others: BoolArray
    """(K,) who might have been picked instead"""
    scores: FloatArray
    """(b,) of the pick before each update but the first, and of nothing (∞) after the last"""
    weights: FloatArray | None
    """(K,) what gains are multiplied by to be scores; ``None`` for 1"""


class TracePosterior:
    """E(x) = Σ_m k_n(x*_m, x)² for every candidate, without a row of them for each target: memory O(K + d²).

    With r = k_n(x_i, x) / √(v_i + λ), c = k_n(x*, x_i) and u = Σ_m c_m P x*_m, picking x_i gives

        E ← E − 2 r (u·x) / √(v_i + λ) + r² |c|² / (v_i + λ);   v ← v − r²

    Two scans a pick, along P x_i and along u, whatever the number of targets; now and then E is summed up anew. Where
    the picks are known beforehand, one matrix product brings all candidates up to date for many of them (`prepare`).
    """

    def __init__(self, space: FeatureSpace, noise: float) -> None:
        check_noise(space, noise)
        self.noise, self._space = noise, space
        self.noisy: FloatArray = space.diagonal() + noise
        self.cross: RealArray = np.zeros((0, space.size))
        """(0, K): there is no row for each target"""
        self._floored = needs_floor(space, noise)
        # A trace sees the targets' scatter alone, so d vectors of the same scatter stand in for more targets than d.
        self._prompt = space.target_root() if space.targets > space.width else space.target_vectors
        self._belief = FeatureBelief(space, noise, self._prompt)
        self._picked: list[int] = []
        self._energy, self._gain = np.empty(space.size), np.empty(space.size)
        self._prepared: _Prepared | None = None
        self._summed = 0.0
        self._sum_up()

    @property
    def variance(self) -> FloatArray:
        """(K,) k_n(x, x)"""
        return np.maximum(self.noisy - self.noise, 0)

    @property
    def targets(self) -> FloatArray:
        """(m, m) k_n(x*, x*)"""
        return self._belief.residual @ self._prompt.T

    def trace_gain(self) -> FloatArray:
        """(K,) mean over targets of k_n(x*, x)² / (k_n(x, x) + λ). A buffer that the next call overwrites."""
        np.divide(self._energy, self.noisy, out=self._gain)
        self._gain *= 1 / self._space.targets
        return self._gain

    def look(self, index: int) -> Look:
        """One candidate."""
        return self._belief.look(index)

    def observe(self, index: int) -> None:
        """Condition on it. Of prepared picks, the last brings the candidates up to date for all of them."""
        update = self._learn(index)
        if self._prepared is None:
            self._apply(update)
        else:
            self._prepared.left -= 1
            if self._prepared.left:
                return
            self._energy, self.noisy, self._prepared = self._prepared.energy, self._prepared.noisy, None
        if self.refreshed:
            self._refresh()
        elif self.worn:
            self._sum_up()

    @property
    def worn(self) -> bool:
        """Is so little left of E that it has to be summed up anew?"""
        return float(np.square(self._belief.residual).sum()) < KEPT_SHARE * self._summed

    def _learn(self, index: int) -> Update:
        """Condition the belief on it, but no candidate."""
        look = self._belief.look(index)
        along = self._belief.residual.T @ look.cross
        white = self._belief.observe(index)
        self._picked.append(index)
        share = float(look.cross @ look.cross) / look.noisy
        return Update(white, share * white - (2 / look.noisy**0.5) * along)

    def _apply(self, update: Update) -> None:
        """Bring the candidates up to date for one pick."""
        for block in self._blocks():
            row = self._space.scan(update.white, block)
            change = self._space.scan(update.tilt, block)
            change *= row
            energy, noisy = self._energy[block], self.noisy[block]
            energy += change
            np.maximum(energy, 0, out=energy)
            row *= row
            noisy -= row
            if self._floored:
                np.maximum(noisy, self.noise, out=noisy)

    # --- many picks at once

    def part(self, indices: IntArray) -> TracePosterior:
        """The same for these candidates alone, which then goes its own way."""
        view = copy.copy(self)
        view._space = self._space.part(indices)
        view._belief = self._belief.fork(view._space)
        view._energy, view.noisy, view._gain = self._energy[indices], self.noisy[indices], np.empty(len(indices))
        view.cross, view._picked = self.cross[:, indices], []
        return view

    def rehearse(self, index: int) -> Update:
        """Condition on it, without ever computing anything anew. Returns what it changes for any candidate."""
        update = self._learn(index)
        self._apply(update)
        return update

    def prepare(self, updates: Sequence[Update], ceiling: Ceiling | None) -> int:
        """Bring all candidates up to date for picks that will be observed next. Returns for how many of them.

        That is all, or as many as come before the first pick to which some other candidate would have been preferred.
        """
        directions = np.stack([np.stack([one.white for one in updates]), np.stack([one.tilt for one in updates])])
        ready, counts = _Prepared(np.empty_like(self._energy), np.empty_like(self.noisy), len(updates)), []
        blocks = self._blocks(MANY_PICKS_CANDIDATES)
        for block in blocks:
            ready.left = self._prepare(ready, directions, block, ceiling)
            counts.append(ready.left)
        for block, count in zip(blocks, counts, strict=True):
            if count > ready.left:
                self._prepare(ready, directions, block, None)
        self._prepared = ready
        return ready.left

    def _prepare(self, ready: _Prepared, directions: FloatArray, block: slice, ceiling: Ceiling | None) -> int:
        """One block of candidates, for at most ``ready.left`` picks. Returns for how many of them."""
        count = ready.left
        both = directions[:, :count].reshape(2 * count, self._space.width)
        falls, changes = self._space.products(both, block).reshape(2, count, -1)
        changes *= falls
        falls *= falls
        if ceiling is not None:
            valid = self._below(ceiling, falls, changes, block)
            if valid < count:
                count, falls, changes = valid, falls[:valid], changes[:valid]
        np.maximum(self._energy[block] + changes.sum(axis=0), 0, out=ready.energy[block])
        np.subtract(self.noisy[block], falls.sum(axis=0), out=ready.noisy[block])
        if self._floored:
            np.maximum(ready.noisy[block], self.noise, out=ready.noisy[block])
        return count

    def _below(self, ceiling: Ceiling, falls: RealArray, changes: RealArray, block: slice) -> int:
        """After how many picks somebody of the block reaches the ceiling; all, if nobody does."""
        energy, noisy, scores = self._energy[block], self.noisy[block], ceiling.scores[: len(falls)]
        weights = np.ones(len(energy)) if ceiling.weights is None else ceiling.weights[block]
        # 1. Who can reach the lowest score s: E weight / m − s (v + λ) grows by no more than the sum of its rises.
        scale, lowest = weights / self._space.targets, float(scores.min())
        rises = np.multiply(falls, lowest)
        rises += changes * scale.astype(changes.dtype)
        np.maximum(rises, 0, out=rises)
        able = np.flatnonzero(ceiling.others[block] & (energy * scale + rises.sum(axis=0) >= lowest * noisy))
        if not len(able):
            return len(falls)
        # 2. Who does.
        left = noisy[able] - np.cumsum(falls[:, able], axis=0, dtype=np.float64)
        grown = energy[able] + np.cumsum(changes[:, able], axis=0, dtype=np.float64)
        grown *= scale[able]
        reached = (grown >= scores[:, None] * np.maximum(left, self.noise)).any(axis=1)
        return int(reached.argmax()) + 1 if reached.any() else len(falls)

    # --- anew, from the picks

    @property
    def refreshed(self) -> bool:
        """Was everything just computed from the picks alone? Then `restart` with them gives this state."""
        return self.picks_to_refresh == posterior.REFRESH_EVERY and self._belief.matrix is not None

    @property
    def picks_to_refresh(self) -> int:
        """Picks until everything is computed anew."""
        return posterior.REFRESH_EVERY - len(self._picked) % posterior.REFRESH_EVERY

    def restart(self, picks: IntArray) -> None:
        """The state after these picks, at least d of them, at the cost of a refresh."""
        self._picked = picks.tolist()
        self._refresh()

    def _refresh(self) -> None:
        """Everything anew from the picks."""
        root = self._belief.refresh(self._picked, self._prompt)
        for block in self._blocks():
            whitened = self._space.scan(root.T, block)
            self.noisy[block] = np.einsum("ij,ij->i", whitened, whitened) + self.noise
        self._sum_up()

    def _sum_up(self) -> None:
        """E by its definition."""
        residual = self._belief.residual
        self._summed = float(np.square(residual).sum())
        for block in self._blocks():
            cross = self._space.scan(residual.T, block)
            self._energy[block] = np.einsum("km,km->k", cross, cross)

    def _blocks(self, length: int = UPDATE_BLOCK_CANDIDATES) -> list[slice]:
        return [slice(start, start + length) for start in range(0, self._space.size, length)]


@dataclass
class _Prepared:
    """What the candidates will be after some more picks."""

    energy: FloatArray
    noisy: FloatArray
    left: int
    """Picks until then."""
