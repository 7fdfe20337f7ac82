"""What is the same for all prompts, and the candidates of a chunk: their products and their ties."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from siftlm.extras import load
from siftlm.selection.posterior import CANDIDATES_PER_FEATURE
from siftlm.selection.rules import Stopping
from siftlm.selection.tensors.checks import widened
from siftlm.selection.tensors.methods import TensorMethod

if TYPE_CHECKING:
    import torch
    from torch import Tensor
else:
    torch = load("torch", "torch")


@dataclass(frozen=True)
class TensorPlan:
    """What is the same for all prompts."""

    method: TensorMethod
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

    def looks_at(self, what: str) -> bool:
        """Does the method?"""
        return what in self.method.looks_at


def prefers_features(method: TensorMethod, n: int, size: int, width: int) -> bool:
    """Is the form in feature space the cheaper one? Always, where nobody looks at what is not picked."""
    return "posterior" not in method.looks_at or n > width or size > CANDIDATES_PER_FEATURE * width


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
        tie, loose = max(8 * plan.rounding, 1e-9), 64 * plan.rounding / plan.noise
        if plan.normalize and loose <= tie:
            return cls(tie)
        lengths = lengths.reshape(-1, lengths.shape[-1])
        largest = torch.ones_like(lengths[:, :1])
        if not plan.normalize:
            allowed = lengths if mask is None else torch.where(mask, lengths, 0)
            largest = allowed.square().amax(1, keepdim=True).clamp_min(1)
        group = _groups(vectors.reshape(-1, *vectors.shape[-2:]), lengths, normalize=plan.normalize)
        return cls(tie, (loose * largest).clamp(tie, 0.01), group)

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
    near = 64 * torch.finfo(wide).eps * lengths.gather(1, order)
    new = ~(ordered.diff(dim=1, prepend=ordered[:, :1] - 1) <= near)
    return torch.zeros_like(order).scatter_(1, order, new.long().cumsum(1))
