"""The posterior in feature space for many targets, where only the sum over them is asked for."""

from __future__ import annotations

import numpy as np

from siftlm.selection import posterior
from siftlm.selection.checks import RealArray
from siftlm.selection.numerics import check_noise, needs_floor
from siftlm.selection.posterior import UPDATE_BLOCK_CANDIDATES, FeatureBelief, Look
from siftlm.selection.space import FeatureSpace
from siftlm.types import FloatArray, IntArray

# E is summed up anew when the targets have lost so much of their squared length: a rounding error stays as large as E
# was when it was made, and so it stays small beside what is left.
KEPT_SHARE = 0.1


class TracePosterior:
    """E(x) = Σ_m k_n(x*_m, x)² for every candidate, without a row of them for each target: memory O(K + d²).

    With r = k_n(x_i, x) / √(v_i + λ), c = k_n(x*, x_i) and u = Σ_m c_m P x*_m, picking x_i gives

        E ← E − 2 r (u·x) / √(v_i + λ) + r² |c|² / (v_i + λ);   v ← v − r²

    Two scans a pick, along P x_i and along u, whatever the number of targets; now and then E is summed up anew.
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
        """Condition on it."""
        look = self._belief.look(index)
        along = self._belief.residual.T @ look.cross
        white = self._belief.observe(index)
        self._picked.append(index)
        root = look.noisy**0.5
        share = float(look.cross @ look.cross) / look.noisy
        for block in self._blocks():
            row = self._space.scan(white, block)
            change = self._space.scan(along, block)
            change *= -2 / root
            change += share * row
            change *= row
            energy, noisy = self._energy[block], self.noisy[block]
            energy += change
            np.maximum(energy, 0, out=energy)
            row *= row
            noisy -= row
            if self._floored:
                np.maximum(noisy, self.noise, out=noisy)
        if self.refreshed:
            self._refresh()
        elif float(np.square(self._belief.residual).sum()) < KEPT_SHARE * self._summed:
            self._sum_up()

    @property
    def refreshed(self) -> bool:
        """Was everything just computed from the picks alone? Then `restart` with them gives this state."""
        return self._belief.matrix is not None and len(self._picked) % posterior.REFRESH_EVERY == 0

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

    def _blocks(self) -> list[slice]:
        size, length = self._space.size, UPDATE_BLOCK_CANDIDATES
        return [slice(start, start + length) for start in range(0, size, length)]
