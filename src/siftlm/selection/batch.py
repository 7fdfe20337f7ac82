"""Plain SIFT for many prompts at once: the same numbers as one at a time, with the overhead shared.

``select_many`` comes here when every prompt has one embedding and nothing but n, λ and normalisation was
asked for. Arrays carry the prompts in front: ``cross`` and ``noisy`` are (B, K), Cholesky rows (B, n, K).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from siftlm.selection.checks import RealArray
from siftlm.selection.posterior import CANDIDATES_PER_FEATURE, check_noise
from siftlm.selection.rules import Ties, ties_of
from siftlm.selection.space import FeatureSpace
from siftlm.types import FloatArray, IntArray

# Cholesky rows of a group of prompts should stay in the processor's cache.
ROW_GROUP_BYTES = 4 << 20
# What a scan keeps of each candidate for each prompt only has to fit into memory: it is worked off in blocks.
SCAN_GROUP_BYTES = 1 << 30
# Candidates of a block, for one prompt; of several prompts' blocks together.
SCAN_BLOCK_CANDIDATES = 1 << 16


@dataclass(frozen=True)
class BatchPicks:
    """The picks of B prompts."""

    indices: IntArray
    """(B, n)"""
    gains: FloatArray
    """(B, n)"""


@dataclass(frozen=True)
class PickLimits:
    """What may be picked."""

    excluded: IntArray | None = None
    """Indices that nobody may pick."""
    once: bool = False
    """May each candidate be picked only once?"""


def sift_shared(space: FeatureSpace, n: int, noise: float, limits: PickLimits) -> BatchPicks:
    """One set of candidates for all prompts; the space's targets are the prompts, one each."""
    check_noise(space, noise)
    prompts, size = space.targets, space.size
    cross, diagonal = space.cross(), space.diagonal()
    space.expect(prompts * n)
    ties = [ties_of(space, noise)] * prompts
    if n > space.width or size > CANDIDATES_PER_FEATURE * space.width:
        many = _prompt_groups(prompts, 8 * size * 3, SCAN_GROUP_BYTES)
        return _join_picks([_pick_by_scan(space, cross[group], n, noise, ties, limits) for group in many])
    groups = _prompt_groups(prompts, 8 * size * n, ROW_GROUP_BYTES)
    return _join_picks(
        [_pick_by_rows(cross[g], diagonal, lambda i, _: space.rows(i), g, n, noise, ties, limits) for g in groups]
    )


def sift_separate(spaces: Sequence[FeatureSpace], n: int, noise: float, limits: PickLimits) -> BatchPicks:
    """A set of K candidates for each prompt, all of the same K and one target each."""

    def products(indices: IntArray, group: slice) -> RealArray:
        return np.stack([space.row(int(index)) for space, index in zip(spaces[group], indices, strict=True)])

    size = spaces[0].size
    for space in spaces:
        check_noise(space, noise)
        space.expect(n)
    cross = np.concatenate([space.cross() for space in spaces])
    diagonal = np.stack([space.diagonal() for space in spaces])
    ties = [ties_of(space, noise) for space in spaces]
    groups = _prompt_groups(len(spaces), 8 * size * n, ROW_GROUP_BYTES)
    return _join_picks([_pick_by_rows(cross[g], diagonal[g], products, g, n, noise, ties[g], limits) for g in groups])


def _prompt_groups(prompts: int, bytes_each: int, most: int) -> list[slice]:
    step = max(1, most // bytes_each)
    return [slice(start, min(start + step, prompts)) for start in range(0, prompts, step)]


def _join_picks(parts: list[BatchPicks]) -> BatchPicks:
    return BatchPicks(np.concatenate([p.indices for p in parts]), np.concatenate([p.gains for p in parts]))


def _pick_by_rows(
    cross: FloatArray,
    diagonal: FloatArray,
    products: Callable[[IntArray, slice], RealArray],
    group: slice,
    n: int,
    noise: float,
    ties: Sequence[Ties],
    limits: PickLimits,
) -> BatchPicks:
    """``RowPosterior`` with a prompt axis."""
    count, size = cross.shape
    cross, noisy = cross.copy(), np.broadcast_to(diagonal + noise, cross.shape).copy()
    rows, scratch, each = np.empty((count, n, size)), np.empty_like(cross), np.arange(count)
    picks = _BatchPicker(count, n, ties, limits)
    for step in range(n):
        index = picks.take(step, _score_gains(cross, noisy, scratch))
        if step == n - 1:
            break
        row = rows[:, step]
        np.copyto(row, products(index, group))
        if step:
            past = rows[:, :step]
            row -= np.matmul(past[each, :, index][:, None, :], past)[:, 0]
        _condition_on_picks(cross, noisy, row, scratch, each, index, noise)
    return picks.done()


def _pick_by_scan(
    space: FeatureSpace,
    cross: FloatArray,
    n: int,
    noise: float,
    ties: Sequence[Ties],
    limits: PickLimits,
) -> BatchPicks:
    """``FeaturePosterior`` with a prompt axis: the prompts share one scan, a matrix–matrix product.

    A block of candidates is multiplied, conditioned and scored before the next, while it is in the cache.
    """
    count, size = cross.shape
    cross, noisy = cross.copy(), np.broadcast_to(space.diagonal() + noise, cross.shape).copy()
    gains = _score_gains(cross, noisy, np.empty_like(cross))
    white, each = np.empty((count, n, space.width)), np.arange(count)
    picks, block = _BatchPicker(count, n, ties, limits), max(1024, SCAN_BLOCK_CANDIDATES // count)
    for step in range(n):
        index = picks.take(step, gains)
        if step == n - 1:
            break
        vectors, past = space.gather(index), white[:, :step]
        along = vectors - np.matmul(np.matmul(vectors[:, None, :], past.transpose(0, 2, 1)), past)[:, 0]
        own = np.maximum(np.einsum("bd,bd->b", vectors, along), 0) + noise
        noisy[each, index] = own  # the direction is exact, so its own variance is better than the running one
        white[:, step] = along / np.sqrt(own)[:, None]
        falls = (cross[each, index] / np.sqrt(own))[:, None]
        columns = np.ascontiguousarray(white[:, step].T)
        for start in range(0, size, block):
            part = slice(start, start + block)
            row = np.ascontiguousarray(space.scan(columns, part).T)
            cross[:, part] -= row * falls
            np.multiply(row, row, out=row)
            noisy[:, part] -= row
            np.maximum(noisy[:, part], noise, out=noisy[:, part])
            _score_gains(cross[:, part], noisy[:, part], gains[:, part])
    return picks.done()


def _score_gains(cross: FloatArray, noisy: FloatArray, gains: FloatArray) -> FloatArray:
    """cross² / noisy"""
    np.multiply(cross, cross, out=gains)
    np.divide(gains, noisy, out=gains)
    return gains


def _condition_on_picks(
    cross: FloatArray,
    noisy: FloatArray,
    row: FloatArray,
    scratch: FloatArray,
    each: IntArray,
    index: IntArray,
    noise: float,
) -> None:
    """Condition each prompt on its pick; ``row`` holds k_n(x_i, ·) and leaves as the Cholesky row."""
    root = np.sqrt(noisy[each, index])
    step = cross[each, index] / root
    row /= root[:, None]
    np.multiply(row, step[:, None], out=scratch)
    cross -= scratch
    np.multiply(row, row, out=scratch)
    noisy -= scratch
    np.maximum(noisy, noise, out=noisy)


class _BatchPicker:
    """Chooses for every prompt, by the same tie rule as ``Rules``, and keeps the record."""

    def __init__(self, count: int, n: int, ties: Sequence[Ties], limits: PickLimits) -> None:
        self._limits = limits
        self._indices = np.empty((count, n), dtype=np.int64)
        self._gains = np.empty((count, n))
        self._ties, self._each = ties, np.arange(count)
        self._keep = np.array([1 - one.loose for one in ties[:count]])

    def take(self, step: int, gains: FloatArray) -> IntArray:
        """The best of each prompt, ties to the smaller index; ``gains`` of what may not be picked are lost."""
        # −1 is below what any gain can be.
        if self._limits.excluded is not None:
            gains[:, self._limits.excluded] = -1
        if self._limits.once:
            gains[self._each[:, None], self._indices[:, :step]] = -1
        index: IntArray = gains.argmax(axis=1)
        best = gains[self._each, index]
        near = (gains >= (best * self._keep)[:, None]).argmax(axis=1)
        for prompt in np.flatnonzero(near < index).tolist():
            index[prompt] = self._ties[prompt].equals(gains[prompt], int(index[prompt]))[0]
        self._indices[:, step] = index
        self._gains[:, step] = gains[self._each, index]
        return index

    def done(self) -> BatchPicks:
        """The record."""
        return BatchPicks(self._indices, self._gains)
