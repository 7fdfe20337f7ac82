"""Candidates and posterior on torch tensors, for b prompts at once: the two forms of ``siftlm.selection.posterior``."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from siftlm.selection.numerics import DUPLICATE_ROUNDINGS, MAX_DUPLICATE_TIE, MIN_TIE, TIE_ROUNDINGS
from siftlm.selection.rules import Stopping

# Products of equal vectors with a random one differ by at most so many roundings of their length.
SKETCH_ROUNDINGS = 64


@dataclass(frozen=True)
class TensorPlan:
    """What is the same for all prompts."""

    method: str
    looks_at: frozenset[str]
    """what the method looks at: see `TensorMethod`"""
    n: int
    noise: float
    rounding: float
    """of products of unit vectors"""
    cap: int | None
    """how often one candidate may be picked"""
    stopping: Stopping
    seed: int
    state: torch.dtype
    """of what is carried from pick to pick"""
    products: torch.dtype
    """of inner products"""
    normalize: bool
    features: bool
    """the posterior as directions in feature space, instead of as rows of a Cholesky factor"""
    gram: bool
    """all products among the candidates at once, instead of a row at a time"""


class TensorCandidates:
    """The candidates of a chunk and their products: one set for all prompts (K, d), or one each (b, K, d)."""

    def __init__(self, vectors: Tensor, lengths: Tensor, mask: Tensor | None, plan: TensorPlan) -> None:
        self.vectors = vectors.to(plan.products)
        self.lengths = torch.ones_like(lengths) if plan.normalize else lengths
        # A masked row may hold anything, zeros included. Vectors are not copied to be normalised.
        self._inverse = torch.where(lengths > 0, 1 / lengths, 0) if plan.normalize else None
        self._state = plan.state
        self._gram = self.vectors @ self.vectors.mT if plan.gram else None
        self.ties = TensorTies.of(vectors, lengths, mask, plan)

    def of(self, values: Tensor, index: Tensor) -> Tensor:
        """(b,) -> (b, …) each prompt's pick among values that come one per candidate"""
        if self.vectors.ndim == 2:
            return values[index]
        return values[torch.arange(len(index), device=index.device), index]

    def take(self, index: Tensor) -> Tensor:
        """(b,) -> (b, d) each prompt's pick"""
        wide = self.of(self.vectors, index).to(self._state)
        return wide if self._inverse is None else wide * self.of(self._inverse, index)[:, None]

    def scan(self, directions: Tensor) -> Tensor:
        """(b, j, d) -> (b, j, K) products with all candidates; of a shared set as one matrix product"""
        products = (directions.to(self.vectors.dtype) @ self.vectors.mT).to(self._state)
        return products if self._inverse is None else products.mul_(self._inverse.unsqueeze(-2))

    def row(self, index: Tensor) -> Tensor:
        """(b,) -> (b, K) the products of each prompt's pick"""
        if self._gram is None:
            return self.scan(self.take(index)[:, None])[:, 0]
        row = self.of(self._gram, index).to(self._state)
        if self._inverse is None:
            return row
        return row.mul_(self._inverse).mul_(self.of(self._inverse, index)[:, None])

    def cosine(self, products: Tensor, lengths: Tensor) -> Tensor:
        """(b, j, K) products with vectors of lengths (b, j), as cosines; 0 where something has no length"""
        own = lengths[:, :, None] * self.lengths.unsqueeze(-2)
        return torch.where(own > 0, products / own, 0)


@dataclass(frozen=True)
class TensorTies:
    """Which gains count as equal: the rule of ``siftlm.selection.rules``, without a question to the device.

    That asks of a few candidates whether they are the same vector; here all are put into groups beforehand.
    """

    tie: float
    loose: Tensor | None = None
    """(b, 1) or (1, 1); ``None`` where it is no looser than ``tie``"""
    group: Tensor | None = None
    """(b, K) or (1, K) equal for equal vectors and for opposite ones"""

    @classmethod
    def of(cls, vectors: Tensor, lengths: Tensor, mask: Tensor | None, plan: TensorPlan) -> TensorTies:
        """The tolerances that fit precision and λ, and the groups if those matter."""
        tie, loose = max(TIE_ROUNDINGS * plan.rounding, MIN_TIE), DUPLICATE_ROUNDINGS * plan.rounding / plan.noise
        if plan.normalize and loose <= tie:
            return cls(tie)
        lengths = lengths.reshape(-1, lengths.shape[-1])
        largest = torch.ones_like(lengths[:, :1])
        if not plan.normalize:
            allowed = lengths if mask is None else torch.where(mask, lengths, 0)
            largest = allowed.square().amax(1, keepdim=True).clamp_min(1)
        group = _groups(vectors.reshape(-1, *vectors.shape[-2:]), lengths, normalize=plan.normalize)
        return cls(tie, (loose * largest).clamp(tie, max(tie, MAX_DUPLICATE_TIE)), group)

    def equals(self, scores: Tensor, best: Tensor, at: Tensor) -> Tensor:
        """(b, K) which scores tie with the best (b, 1), found at (b, 1)?"""
        size = best.abs()
        equal = scores >= torch.sub(best, size, alpha=self.tie)
        if self.loose is None or self.group is None:
            return equal
        group = self.group.expand_as(scores)
        return equal.logical_or_((scores >= best - self.loose * size).logical_and_(group == group.gather(1, at)))


def _groups(vectors: Tensor, lengths: Tensor, *, normalize: bool) -> Tensor:
    """(b, K, d) -> (b, K) a number per candidate, equal where vectors are, or are opposite, but for rounding.

    Equal vectors have equal products with a random one. Others hardly ever do, within 1e-14.
    """
    wide, width = lengths.dtype, vectors.shape[-1]
    random = torch.randn(width, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    random = random.to(device=vectors.device, dtype=wide)
    blocks = widened(vectors.reshape(-1, width), wide)
    sketch = torch.cat([block @ random for block in blocks]).reshape(lengths.shape).abs()
    if normalize:
        sketch, lengths = sketch / lengths, torch.ones_like(lengths)
    ordered, order = sketch.sort(1)
    near = SKETCH_ROUNDINGS * torch.finfo(wide).eps * lengths.gather(1, order)
    new = ~(ordered.diff(dim=1, prepend=ordered[:, :1] - 1) <= near)
    return torch.zeros_like(order).scatter_(1, order, new.long().cumsum(1))


def widened(vectors: Tensor, dtype: torch.dtype) -> Iterator[Tensor]:
    """The vectors in this dtype, some at a time: on a processor so few that they stay in its cache."""
    numbers = 1 << (16 if vectors.device.type == "cpu" else 26)
    for block in vectors.split(max(1, numbers // vectors[0].numel())):
        yield block.to(dtype)


class TensorLook(NamedTuple):
    """The picks as seen just before they are picked."""

    picked: Tensor
    """(b,)"""
    cross: Tensor
    """(b, m) k_n(x*, x)"""
    noisy: Tensor
    """(b,) k_n(x, x) + λ"""


class TensorPosterior:
    """What is known of all candidates, as rows of a Cholesky factor: see ``siftlm.selection.posterior``."""

    def __init__(self, plan: TensorPlan, candidates: TensorCandidates, targets: Tensor, cross: Tensor) -> None:
        self._plan, self._candidates = plan, candidates
        self.cross = cross
        self.noisy = (candidates.lengths.square() + plan.noise).expand(len(targets), -1).clone()
        self._made = 0
        self._start(targets)

    @property
    def started(self) -> bool:
        """Has anything been observed?"""
        return self._made > 0

    def _start(self, targets: Tensor) -> None:
        self._rows = self.noisy.new_empty(len(targets), max(1, self._plan.n - 1), self.noisy.shape[1])

    def look(self, index: Tensor) -> TensorLook:
        """Each prompt's pick."""
        at = index[:, None, None].expand(-1, self.cross.shape[1], 1)
        return TensorLook(index, self.cross.gather(2, at)[:, :, 0], self.noisy.gather(1, index[:, None])[:, 0])

    def observe(self, look: TensorLook) -> None:
        """Condition on it: one new row over all candidates."""
        row = self._candidates.row(look.picked)
        past, new = self._rows[:, : self._made], self._rows[:, self._made]
        if self._made:
            own = past.gather(2, look.picked[:, None, None].expand(-1, self._made, 1)).mT
            row = torch.baddbmm(row[:, None], own, past, alpha=-1)[:, 0]
        torch.mul(row, look.noisy.rsqrt()[:, None], out=new)
        self._made += 1
        self._update(new, look)

    def _update(self, row: Tensor, look: TensorLook) -> None:
        """``row`` (b, K) is k_n(x_i, x) / sqrt(k_n(x_i, x_i) + λ)."""
        scaled = look.cross * look.noisy.rsqrt()[:, None]
        self.cross.addcmul_(scaled[:, :, None], row[:, None], value=-1)
        # Rounding can take a variance below zero; a variance cannot be.
        self.noisy.addcmul_(row, row, value=-1).clamp_min_(self._plan.noise)


class TensorFeaturePosterior(TensorPosterior):
    """The same in feature space: k_n(x, x') = xᵀ P x' with P = I − WᵀW, or P itself if smaller.

    Where no one looks at the candidates' posterior, nothing is scanned: the picks' own directions tell all
    there is to know about the prompt.
    """

    def _start(self, targets: Tensor) -> None:
        count, width = len(targets), targets.shape[-1]
        self._residual = targets.clone()
        self._matrix: Tensor | None = None
        if self._plan.n > width:
            eye = torch.eye(width, dtype=targets.dtype, device=targets.device)
            self._matrix = eye.expand(count, -1, -1).clone()
        else:
            self._white = targets.new_empty(count, max(1, self._plan.n - 1), width)

    def look(self, index: Tensor) -> TensorLook:
        vector = self._candidates.take(index)
        if self._matrix is not None:
            self._direction = (self._matrix @ vector[:, :, None])[:, :, 0]
        elif self._made:
            white = self._white[:, : self._made]
            inside = (white @ vector[:, :, None]).mT
            self._direction = torch.baddbmm(vector[:, None], inside, white, alpha=-1)[:, 0]
        else:
            self._direction = vector
        noisy = (vector * self._direction).sum(-1).clamp_min(0) + self._plan.noise
        return TensorLook(index, (self._residual @ vector[:, :, None])[:, :, 0], noisy)

    def observe(self, look: TensorLook) -> None:
        root = look.noisy.rsqrt()[:, None]
        white = self._direction * root
        self._residual.addcmul_((look.cross * root)[:, :, None], white[:, None], value=-1)
        if self._matrix is not None:
            self._matrix.addcmul_(white[:, :, None], white[:, None], value=-1)
        else:
            self._white[:, self._made] = white
        self._made += 1
        if "posterior" in self._plan.looks_at:
            self._update(self._candidates.scan(white[:, None])[:, 0], look)
