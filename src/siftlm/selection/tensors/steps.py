"""Methods and steps on torch tensors: one chunk of prompts, picked for until all of them are done.

Each method is a pure function of what is known before a pick, for b prompts. Nothing in a step waits for the device,
so it always has work queued.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from siftlm.selection.numerics import SPENT_ROUNDINGS
from siftlm.selection.rules import STOPPING_RULES
from siftlm.selection.tensors.posterior import (
    TensorCandidates,
    TensorFeaturePosterior,
    TensorLook,
    TensorPlan,
    TensorPosterior,
)


class TensorView(NamedTuple):
    """What a method may look at: b prompts, m targets each, K candidates. Empty where it does not."""

    a: Tensor
    """(b, m, K) k_n(x*, x)"""
    noisy: Tensor
    """(b, K) k_n(x, x) + λ"""
    targets: Tensor
    """(b, m, m) k_n(x*, x*)"""
    least: Tensor
    """(b, m, 1) a target's variance below this is rounding: nothing is left to learn of it"""
    relevance: Tensor
    """(b, K) mean cosine to the targets"""
    closest: Tensor
    """(b, K) largest cosine to a pick; 0 before the first"""
    chance: Tensor
    """(b, K) uniform random numbers, the same for every prompt"""
    noise: float
    """λ"""


def sift(view: TensorView) -> Tensor:
    """mean_m k_n(x*_m, x)² / (k_n(x, x) + λ)"""
    if view.a.shape[1] == 1:
        return view.a[:, 0].square().div_(view.noisy)
    return view.a.square().mean(1).div_(view.noisy)


def itl(view: TensorView) -> Tensor:
    """½ log((v + λ) / (v + λ − aᵀ (T + λI)⁻¹ a)),  a = k_n(x*, x), v = k_n(x, x), T = k_n(x*, x*)"""
    covariance = view.targets.clone()
    # The jitter is far below λ, and keeps what rounding made of T positive; least is of the size of rounding.
    covariance.diagonal(dim1=1, dim2=2).add_(view.noise + view.least[:, :, 0])
    factor = torch.linalg.cholesky_ex(covariance)[0]  # cholesky itself would wait for the device to look for errors
    part = torch.linalg.solve_triangular(factor, view.a, upper=False).square().sum(1)
    return torch.log1p(-part.minimum(uncertainty(view)) / view.noisy) / -2


def mm_itl(view: TensorView) -> Tensor:
    """mean_m −½ log(1 − a_m² / ((v + λ) T_mm)),  a = k_n(x*, x), v = k_n(x, x), T = k_n(x*, x*)"""
    left = view.targets.diagonal(dim1=1, dim2=2)[:, :, None]
    share = torch.where(left > view.least, view.a.square() / left, 0)
    # By Cauchy–Schwarz a_m² ≤ v T_mm; rounding must not take it further.
    share = share.minimum(uncertainty(view)[:, None]) / view.noisy[:, None]
    return torch.log1p(-share).mean(1) / -2


def undirected_itl(view: TensorView) -> Tensor:
    """½ log(1 + k_n(x, x) / λ)"""
    return torch.log1p(uncertainty(view) / view.noise) / 2


def uncertainty(view: TensorView) -> Tensor:
    """k_n(x, x)"""
    return (view.noisy - view.noise).clamp_min(0)


def nearest(view: TensorView) -> Tensor:
    """(1 + mean_m cos(x*_m, x)) / 2"""
    return (1 + view.relevance) / 2


def mmr(view: TensorView) -> Tensor:
    """½ mean_m cos(x*_m, x) − ½ max_{i picked} cos(x_i, x)"""
    return (view.relevance - view.closest) / 2


def random(view: TensorView) -> Tensor:
    """A random number, the same for every prompt: each gets the picks that it would get alone."""
    return view.chance


@dataclass(frozen=True)
class TensorMethod:
    """A method and what it looks at; what no method looks at is not computed."""

    gains: Callable[[TensorView], Tensor]
    looks_at: frozenset[str] = frozenset({"posterior"})
    """Of ``posterior`` (a, noisy), ``targets``, ``relevance``, ``closest``, ``chance``"""
    repeats: bool = False
    """May it pick the same candidate again by default?"""


METHODS: dict[str, TensorMethod] = {
    "sift": TensorMethod(sift, repeats=True),
    "vtl": TensorMethod(sift, repeats=True),
    "itl": TensorMethod(itl, frozenset({"posterior", "targets"}), repeats=True),
    "mm-itl": TensorMethod(mm_itl, frozenset({"posterior", "targets"}), repeats=True),
    "undirected-itl": TensorMethod(undirected_itl, repeats=True),
    "uncertainty": TensorMethod(uncertainty, repeats=True),
    "nearest": TensorMethod(nearest, frozenset({"relevance"})),
    "nn-f": TensorMethod(nearest, frozenset({"relevance"}), repeats=True),
    "mmr": TensorMethod(mmr, frozenset({"relevance", "closest"})),
    "random": TensorMethod(random, frozenset({"chance"})),
}


REASONS = ("n", *STOPPING_RULES)
# Have all prompts stopped? To ask is to wait for the device, so that happens only every so many steps.
ASK_EVERY = 8


class TensorPicks(NamedTuple):
    """What a chunk found, of s steps at most n."""

    indices: Tensor
    """(b, s)"""
    gains: Tensor
    """(b, s)"""
    uncertainty: Tensor
    """(b, s + 1)"""
    counts: Tensor
    """(b,)"""
    reasons: Tensor
    """(b,) places in ``REASONS``"""
    all_finite: Tensor
    """(b,) was every gain a finite number?"""


class TensorChunk:
    """Some prompts and their candidates: what all of them know before each step, and the choice."""

    def __init__(self, plan: TensorPlan, candidates: TensorCandidates, targets: Tensor, mask: Tensor | None) -> None:
        self._plan, self._candidates = plan, candidates
        count, size = len(targets), candidates.vectors.shape[-2]
        cross = candidates.scan(targets)
        self._relevance = cross.new_empty(0)
        if "relevance" in plan.looks_at:
            self._relevance = candidates.cosine(cross, targets.norm(dim=-1)).mean(1)
        self._closest = cross.new_zeros(count, size) if "closest" in plan.looks_at else cross.new_empty(0)
        self._targets = targets @ targets.mT if "targets" in plan.looks_at else cross.new_empty(0)
        self._least = SPENT_ROUNDINGS * plan.rounding * targets.square().sum(-1, keepdim=True)
        self._chance = cross.new_empty(0)
        self._generator = torch.Generator().manual_seed(plan.seed)
        self._posterior = (TensorFeaturePosterior if plan.features else TensorPosterior)(
            plan, candidates, targets, cross
        )
        self.first = targets.square().sum(-1).mean(-1)
        self._numbers = torch.arange(size, device=targets.device)
        self._blocked: Tensor | None = None
        if mask is not None or plan.cap is not None:
            blocked = torch.zeros(size, dtype=torch.bool, device=targets.device) if mask is None else ~mask
            self._blocked = blocked.expand(count, size).clone()
        self._uses = None
        if plan.cap is not None and plan.cap > 1:
            self._uses = torch.zeros(count, size, dtype=torch.int32, device=targets.device)

    def run(self, limits: Tensor | None) -> TensorPicks:
        """Pick; prompt b at most ``limits[b]`` times, where they differ."""
        plan, left = self._plan, self.first
        count, device = len(left), left.device
        going = torch.ones(count, dtype=torch.bool, device=device)
        counts = reasons = torch.zeros_like(going, dtype=torch.int64)
        all_finite, indices, gains, trace = going, [], [], [left]
        may_end = plan.stopping.active or limits is not None
        for step in range(plan.n):
            index, gain, finite = self._choose(step)
            look = self._posterior.look(index)
            after = (left - look.cross.square().mean(1) / look.noisy).clamp_min_(0)
            if limits is not None:
                going = going & (step < limits)
            if may_end:
                going, reasons = self._refuse(step, left, after, going, reasons)
                # A prompt that has ended is computed with the others, and not recorded.
                index, gain = torch.where(going, index, -1), torch.where(going, gain, 0)
                left = torch.where(going, after, left)
                finite = finite | ~going
            else:
                left = after
            counts, all_finite = counts + going, all_finite & finite
            indices.append(index)
            gains.append(gain)
            trace.append(left)
            if may_end:
                going, reasons = self._satisfy(step, left, going, reasons)
            if step == plan.n - 1:
                break
            if may_end and step % ASK_EVERY == ASK_EVERY - 1 and not bool(going.any()):
                break
            self._observe(look)
        return TensorPicks(
            torch.stack(indices, 1), torch.stack(gains, 1), torch.stack(trace, 1), counts, reasons, all_finite
        )

    def _refuse(
        self, step: int, before: Tensor, after: Tensor, going: Tensor, reasons: Tensor
    ) -> tuple[Tensor, Tensor]:
        """``Stopping.refuses``"""
        stopping = self._plan.stopping
        if step < stopping.at_least:
            return going, reasons
        if stopping.adaptive is not None:
            over = going & (after.sqrt() > 1 / (stopping.adaptive * (step + 1)))
            going, reasons = going & ~over, torch.where(over, REASONS.index("adaptive"), reasons)
        if stopping.min_gain is not None:
            little = going & (before - after < stopping.min_gain * before)
            going, reasons = going & ~little, torch.where(little, REASONS.index("min_gain"), reasons)
        if stopping.min_growth is not None:
            little = going & (before - after < stopping.min_growth * (self.first - before))
            going, reasons = going & ~little, torch.where(little, REASONS.index("min_growth"), reasons)
        return going, reasons

    def _satisfy(self, step: int, left: Tensor, going: Tensor, reasons: Tensor) -> tuple[Tensor, Tensor]:
        """``Stopping.satisfied``"""
        stopping = self._plan.stopping
        if stopping.until is None or step + 1 < stopping.at_least:
            return going, reasons
        enough = going & (left <= stopping.until * self.first)
        return going & ~enough, torch.where(enough, REASONS.index("until"), reasons)

    def _gains(self, step: int) -> Tensor:
        plan, posterior = self._plan, self._posterior
        # Without replacement one draw orders all candidates; with it, each pick needs its own.
        if "chance" in plan.looks_at and (step == 0 or plan.cap != 1):
            drawn = torch.rand(len(self._numbers), generator=self._generator, dtype=torch.float64)
            self._chance = drawn.to(posterior.noisy).expand_as(posterior.noisy)
        view = TensorView(
            a=posterior.cross,
            noisy=posterior.noisy,
            targets=self._targets,
            least=self._least,
            relevance=self._relevance,
            closest=self._closest,
            chance=self._chance,
            noise=plan.noise,
        )
        return METHODS[plan.method].gains(view)

    def _choose(self, step: int) -> tuple[Tensor, Tensor, Tensor]:
        """Of each prompt (b,): the best candidate, ties to the smaller index; its gain; is that finite?"""
        scores = self._gains(step)
        if self._blocked is not None:
            scores = scores.masked_fill(self._blocked, -torch.inf)
        best, at = scores.max(1, keepdim=True)
        equal = self._candidates.ties.equals(scores, best, at)
        index = torch.where(equal, self._numbers, len(self._numbers) - 1).amin(1)
        return index, scores.gather(1, index[:, None])[:, 0], best[:, 0].isfinite()

    def _observe(self, look: TensorLook) -> None:
        """Note the picks and condition on them."""
        plan, index = self._plan, look.picked
        if self._blocked is not None and plan.cap == 1:
            self._blocked.scatter_(1, index[:, None], value=True)
        elif self._blocked is not None and self._uses is not None:
            self._uses.scatter_add_(1, index[:, None], torch.ones_like(index[:, None], dtype=torch.int32))
            self._blocked |= self._uses == plan.cap
        if "targets" in plan.looks_at:
            self._targets.addcmul_(look.cross[:, :, None], (look.cross / look.noisy[:, None])[:, None], value=-1)
        if "closest" in plan.looks_at:
            length = self._candidates.of(self._candidates.lengths, index)[:, None]
            likeness = self._candidates.cosine(self._candidates.row(index)[:, None], length)[:, 0]
            # Before the first pick nothing is close, not even what points away: zero is not a cosine then.
            self._closest = likeness if not self._posterior.started else self._closest.maximum(likeness)
        self._posterior.observe(look)
