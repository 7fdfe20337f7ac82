"""Plain SIFT: one embedding a prompt, and no more limits than what may not be picked, or not twice.

`select` and `select_many` come here where nothing else was asked for. The numbers are those of ``RowPosterior`` and
``FeaturePosterior``, without what a method in general needs between two picks. Of many prompts, arrays have the prompts
in front: ``cross`` and ``noisy`` are (B, K), Cholesky rows (B, n, K).

Precision. What is kept of each candidate is as wide as the scans that feed it where all vectors are unit, and float64
where their lengths count (``FeatureSpace.state_type``).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from siftlm.selection.checks import RealArray
from siftlm.selection.explain import VectorEvidence
from siftlm.selection.numerics import Ties, check_noise, needs_floor, ties_of
from siftlm.selection.posterior import CANDIDATES_PER_FEATURE
from siftlm.selection.space import FeatureSpace, gram_pays
from siftlm.types import BoolArray, FloatArray, IntArray, Selection

METHODS = ("sift", "vtl")
# Cholesky rows, of one prompt or of a group, should stay in the processor's cache.
ROW_GROUP_BYTES = 4 << 20
# Fewer prompts than these are faster one by one: a product with a few vectors takes as long as with eight.
MIN_PROMPTS_TOGETHER = 5
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

    def selections(self, evidence: Sequence[VectorEvidence], method: str, noise: float) -> list[Selection]:
        """The results, one a prompt; ``evidence`` is that of each."""
        # With one target, a gain is the fall in uncertainty, which only rounding can take below zero.
        left = np.empty((len(self.gains), self.gains.shape[1] + 1))
        left[:, 0] = [np.vdot(one.targets, one.targets) for one in evidence]
        np.subtract(left[:, :1], self.gains.cumsum(axis=1), left[:, 1:])
        np.maximum(left, 0, out=left)
        return [
            Selection(
                indices=self.indices[b].copy(),
                gains=self.gains[b].copy(),
                uncertainty=left[b].copy(),
                stopped="n",
                method=method,
                noise=noise,
                evidence=one,
            )
            for b, one in enumerate(evidence)
        ]


@dataclass(frozen=True)
class PickLimits:
    """What may be picked."""

    excluded: IntArray | None = None
    """Indices that must not be picked."""
    once: bool = False
    """May each candidate be picked only once?"""


def by_rows(space: FeatureSpace, n: int) -> bool:
    """Are rows of a Cholesky factor the cheaper form for n picks of one prompt, or directions?

    A step reads all rows before it, n K / 2 numbers on average, where a direction takes n d. That costs little while
    the candidates are few for their width, or the rows stay in the cache.
    """
    few: bool = space.size <= CANDIDATES_PER_FEATURE * space.width
    cached: bool = n * space.size * np.dtype(space.state_type).itemsize <= ROW_GROUP_BYTES
    return (few or cached) and bool(n <= space.width)


def pick_one(space: FeatureSpace, cross: FloatArray, n: int, noise: float, limits: PickLimits) -> BatchPicks:
    """``RowPosterior`` of one target in a single loop; ``cross`` (K,) is k(x*, x).

    Between two products, a step is a dozen small operations on (K,) numbers, and their count is what K = 200 costs.
    """
    check_noise(space, noise)
    space.expect(n)
    kind, size, ties = space.state_type, space.size, ties_of(space, noise)
    cross, noisy = cross.astype(kind), (space.diagonal() + noise).astype(kind, copy=False)
    floored, keep = needs_floor(space, noise), 1 - ties.loose
    rows, gains, scratch = np.empty((n, size), kind), np.empty(size, kind), np.empty(size, kind)
    close, forbidden = np.empty(size, np.bool_), _forbidden(size, limits)
    # A Python number costs each operation a third of a microsecond more than an array without dimensions.
    threshold, scale, fall = np.empty((), kind), np.empty((), kind), np.empty((), kind)
    square, subtract, multiply, divide, reaches = np.square, np.subtract, np.multiply, np.divide, np.greater_equal
    product_of, indices, values = space.row, [], []
    for step in range(n):
        # 1. The best; the first of those that tie with it.
        square(cross, gains)
        divide(gains, noisy, gains)
        if forbidden is not None:
            gains[forbidden] = -1  # below what any gain can be
        index = int(gains.argmax())
        threshold[()] = gains.item(index) * keep
        if reaches(gains, threshold, close).argmax() != index:
            index = int(ties.equals(gains, index)[0])
        indices.append(index)
        values.append(gains.item(index))
        if step == n - 1:
            break
        if limits.once and forbidden is not None:
            forbidden[index] = True
        # 2. Its row of the Cholesky factor.
        product, row, root = product_of(index), rows[step], noisy.item(index) ** -0.5
        scale[()], fall[()] = root, cross.item(index) * root
        if step:
            past = rows[:step]
            past[:, index].dot(past, scratch)
            subtract(product, scratch, row)
            multiply(row, scale, row)
        else:
            multiply(product, scale, row)
        # 3. What it tells of all others.
        multiply(row, fall, scratch)
        subtract(cross, scratch, cross)
        square(row, scratch)
        subtract(noisy, scratch, noisy)
        if floored:
            np.maximum(noisy, noise, out=noisy)
    return BatchPicks(np.array([indices], np.int64), np.array([values]))


def _forbidden(size: int, limits: PickLimits) -> BoolArray | None:
    """(K,) what may not be picked, or ``None`` where everything may, however often."""
    if limits.excluded is None and not limits.once:
        return None
    mask = np.zeros(size, np.bool_)
    if limits.excluded is not None:
        mask[limits.excluded] = True
    return mask


def pick_shared(space: FeatureSpace, n: int, noise: float, limits: PickLimits) -> BatchPicks:
    """One set of candidates for all prompts; the space's targets are the prompts, one each."""
    check_noise(space, noise)
    prompts, size, kind, cross = space.targets, space.size, space.state_type, space.cross()
    rows = n <= space.width and gram_pays(size, prompts * n, together=True)
    if not rows and prompts < MIN_PROMPTS_TOGETHER and by_rows(space, n):
        return _join_picks([pick_one(space, own, n, noise, limits) for own in cross])
    noisy = np.broadcast_to((space.diagonal() + noise).astype(kind), (prompts, size))
    batch = _Batch(cross.astype(kind, copy=False), noisy, noise, [ties_of(space, noise)] * prompts, limits)
    batch.floored = needs_floor(space, noise)
    if not rows:
        groups = _prompt_groups(prompts, 8 * size * 3, SCAN_GROUP_BYTES)
        return _join_picks([_pick_by_scan(space, batch.group(group), n) for group in groups])
    space.expect(prompts * n, together=True)
    groups = _prompt_groups(prompts, batch.cross.itemsize * size * n, ROW_GROUP_BYTES)
    return _join_picks([_pick_by_rows(space.rows, batch.group(group), n) for group in groups])


def shared_evidence(space: FeatureSpace, picks: BatchPicks) -> list[VectorEvidence]:
    """What each prompt's result keeps; they share one copy of the picked vectors."""
    distinct, rows = np.unique(picks.indices, return_inverse=True)
    whole, rows = space.evidence(distinct), rows.reshape(picks.indices.shape)
    return [
        VectorEvidence(whole.vectors, whole.inverse_length, target[None], None, rows=own)
        for target, own in zip(whole.targets, rows, strict=True)
    ]


def pick_separate(spaces: Sequence[FeatureSpace], n: int, noise: float, limits: PickLimits) -> BatchPicks:
    """A set of K candidates for each prompt, all of the same K and one target each."""
    for space in spaces:
        check_noise(space, noise)
        space.expect(n, together=True)
    size, kind = spaces[0].size, np.result_type(*[space.state_type for space in spaces])
    noisy = np.stack([space.diagonal() + noise for space in spaces]).astype(kind)
    cross = np.concatenate([space.cross() for space in spaces]).astype(kind)
    batch = _Batch(cross, noisy, noise, [ties_of(space, noise) for space in spaces], limits)
    batch.floored = any(needs_floor(space, noise) for space in spaces)
    parts = []
    for group in _prompt_groups(len(spaces), kind.itemsize * size * n, ROW_GROUP_BYTES):
        own, products = spaces[group], np.empty((len(spaces[group]), size), kind)

        def rows(indices: IntArray, own: Sequence[FeatureSpace] = own, products: FloatArray = products) -> FloatArray:
            for product, space, index in zip(products, own, indices.tolist(), strict=True):
                product[:] = space.row(index)
            return products

        parts.append(_pick_by_rows(rows, batch.group(group), n))
    return _join_picks(parts)


def _prompt_groups(prompts: int, bytes_each: int, most: int) -> list[slice]:
    groups = -(-prompts // max(1, most // bytes_each))
    step = -(-prompts // groups)
    return [slice(start, min(start + step, prompts)) for start in range(0, prompts, step)]


def _join_picks(parts: list[BatchPicks]) -> BatchPicks:
    return BatchPicks(np.concatenate([p.indices for p in parts]), np.concatenate([p.gains for p in parts]))


def _pick_by_rows(products: Callable[[IntArray], RealArray], batch: _Batch, n: int) -> BatchPicks:
    """``RowPosterior`` with a prompt axis.

    A row is one product of the rows before it and of the kernel's with (−factors, 1) / sqrt(k_n(x_i, x_i) + λ): an
    operation on (B, K) costs far more where the other side is one number a prompt than where it is as large.
    """
    cross, noisy = batch.cross, batch.noisy
    count, size = cross.shape
    rows, scratch, each = np.empty((n, count, size), cross.dtype), np.empty_like(cross), np.arange(count)
    factors = np.empty((n, count), cross.dtype)
    picks, gains = _BatchPicker(batch, n), np.empty_like(cross)
    for step in range(n):
        index = picks.take(step, _score_gains(cross, noisy, gains))
        if step == n - 1:
            break
        flat = picks.starts + index
        scale = noisy.take(flat) ** -0.5
        row, fall = rows[step], cross.take(flat) * scale
        np.copyto(row, products(index))
        np.multiply(rows[:step, each, index], -scale, factors[:step])
        factors[step] = scale
        np.matmul(factors[: step + 1].T[:, None, :], rows[: step + 1].transpose(1, 0, 2), scratch[:, None, :])
        np.copyto(row, scratch)
        np.multiply(row, fall[:, None], scratch)
        np.subtract(cross, scratch, cross)
        np.square(row, scratch)
        np.subtract(noisy, scratch, noisy)
        if batch.floored:
            np.maximum(noisy, batch.noise, out=noisy)
    return picks.done()


def _pick_by_scan(space: FeatureSpace, batch: _Batch, n: int) -> BatchPicks:
    """``FeaturePosterior`` with a prompt axis: the prompts share one scan, a matrix–matrix product.

    A block of candidates is multiplied, conditioned and scored before the next, while it is in the cache.
    """
    cross, noisy = batch.cross, batch.noisy
    count, size = cross.shape
    gains = _score_gains(cross, noisy, np.empty_like(cross))
    white, each = np.empty((count, n, space.width)), np.arange(count)
    picks, block = _BatchPicker(batch, n), max(1024, SCAN_BLOCK_CANDIDATES // count)
    for step in range(n):
        index = picks.take(step, gains)
        if step == n - 1:
            break
        vectors, past = space.gather(index), white[:, :step]
        along = vectors - np.matmul(np.matmul(vectors[:, None, :], past.transpose(0, 2, 1)), past)[:, 0]
        own = np.maximum(np.einsum("bd,bd->b", vectors, along), 0) + batch.noise
        noisy[each, index] = own  # the direction is exact, so its own variance is better than the running one
        white[:, step] = along / np.sqrt(own)[:, None]
        fall = (cross[each, index] / np.sqrt(own)).astype(cross.dtype)[:, None]
        for start in range(0, size, block):
            part = slice(start, start + block)
            row = space.products(white[:, step], part).astype(cross.dtype, copy=False)
            near, left = cross[:, part], noisy[:, part]
            near -= row * fall
            np.square(row, row)
            left -= row
            if batch.floored:
                np.maximum(left, batch.noise, out=left)
            _score_gains(near, left, gains[:, part])
    return picks.done()


def _score_gains(cross: FloatArray, noisy: FloatArray, gains: FloatArray) -> FloatArray:
    """cross² / noisy"""
    np.square(cross, gains)
    np.divide(gains, noisy, gains)
    return gains


@dataclass
class _Batch:
    """What B prompts begin with."""

    cross: FloatArray
    """(B, K) k(x*, x)"""
    noisy: FloatArray
    """(B, K) k(x, x) + λ"""
    noise: float
    ties: list[Ties]
    limits: PickLimits
    floored: bool = False
    """Is ``noisy`` kept at λ or above?"""

    def group(self, prompts: slice) -> _Batch:
        """Some of the prompts, with arrays of their own."""
        return replace(
            self, cross=self.cross[prompts].copy(), noisy=self.noisy[prompts].copy(), ties=self.ties[prompts]
        )


class _BatchPicker:
    """Chooses for every prompt, by the same tie rule as ``PickRules``, and keeps the record."""

    def __init__(self, batch: _Batch, n: int) -> None:
        count, size = batch.cross.shape
        self.starts = np.arange(count) * size
        """(B,) where each prompt's numbers begin in a flat (B, K)"""
        self._limits, self._ties, self._each = batch.limits, batch.ties, np.arange(count)
        self._keep = np.array([1 - one.loose for one in batch.ties], batch.cross.dtype)
        self._indices, self._gains = np.empty((n, count), np.int64), np.empty((n, count))

    def take(self, step: int, gains: FloatArray) -> IntArray:
        """The best of each prompt, ties to the smaller index; ``gains`` of what may not be picked are lost."""
        # −1 is below what any gain can be.
        if self._limits.excluded is not None:
            gains[:, self._limits.excluded] = -1
        if self._limits.once:
            gains[self._each, self._indices[:step]] = -1
        index: IntArray = gains.argmax(axis=1)
        threshold = gains.take(self.starts + index) * self._keep
        first = (gains >= threshold[:, None]).argmax(axis=1)
        if (first != index).any():
            for prompt in np.flatnonzero(first != index).tolist():
                index[prompt] = self._ties[prompt].equals(gains[prompt], int(index[prompt]))[0]
        self._indices[step], self._gains[step] = index, gains.take(self.starts + index)
        return index

    def done(self) -> BatchPicks:
        """The record."""
        return BatchPicks(self._indices.T, self._gains.T)
