"""The steps of the torch twin: one chunk of prompts, picked for until all of them are done.

Nothing in a step waits for the device, so it always has work queued.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from siftlm.extras import load
from siftlm.selection.tensors.candidates import TensorCandidates, TensorPlan
from siftlm.selection.tensors.methods import TensorView
from siftlm.selection.tensors.posterior import TensorFeaturePosterior, TensorLook, TensorPosterior

if TYPE_CHECKING:
    import torch
    from torch import Tensor
else:
    torch = load("torch", "torch")


REASONS = ("n", "adaptive", "until")
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
    sound: Tensor
    """(b,) was every gain a finite number?"""


class TensorChunk:
    """Some prompts and their candidates: what all of them know before each step, and the choice."""

    def __init__(self, plan: TensorPlan, candidates: TensorCandidates, targets: Tensor, mask: Tensor | None) -> None:
        self._plan, self._candidates = plan, candidates
        count, size = len(targets), candidates.vectors.shape[-2]
        cross = candidates.scan(targets)
        self._relevance = cross.new_empty(0)
        if plan.looks_at("relevance"):
            self._relevance = candidates.cosine(cross, targets.norm(dim=-1)).mean(1)
        self._closest = cross.new_zeros(count, size) if plan.looks_at("closest") else cross.new_empty(0)
        self._targets = targets @ targets.mT if plan.looks_at("targets") else cross.new_empty(0)
        self._least = 16 * plan.rounding * targets.square().sum(-1, keepdim=True)
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
        sound, indices, gains, trace = going, [], [], [left]
        may_end = plan.stopping.active or limits is not None
        for step in range(plan.n):
            index, gain, finite = self._choose(step)
            look = self._posterior.look(index)
            after = (left - look.cross.square().mean(1) / look.noisy).clamp_min_(0)
            if limits is not None:
                going = going & (step < limits)
            if may_end:
                going, reasons = self._refuse(step, after, going, reasons)
                # A prompt that has ended goes along, unheard.
                index, gain = torch.where(going, index, -1), torch.where(going, gain, 0)
                left = torch.where(going, after, left)
                finite = finite | ~going
            else:
                left = after
            counts, sound = counts + going, sound & finite
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
            torch.stack(indices, 1), torch.stack(gains, 1), torch.stack(trace, 1), counts, reasons, sound
        )

    def _refuse(self, step: int, after: Tensor, going: Tensor, reasons: Tensor) -> tuple[Tensor, Tensor]:
        """``Stopping.refuses``"""
        stopping = self._plan.stopping
        if stopping.adaptive is None or step < stopping.at_least:
            return going, reasons
        over = going & (after.sqrt() > 1 / (stopping.adaptive * (step + 1)))
        return going & ~over, torch.where(over, REASONS.index("adaptive"), reasons)

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
        if plan.looks_at("chance") and (step == 0 or plan.cap != 1):
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
        return plan.method.gains(view)

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
        if plan.looks_at("targets"):
            self._targets.addcmul_(look.cross[:, :, None], (look.cross / look.noisy[:, None])[:, None], value=-1)
        if plan.looks_at("closest"):
            length = self._candidates.of(self._candidates.lengths, index)[:, None]
            likeness = self._candidates.cosine(self._candidates.row(index)[:, None], length)[:, 0]
            # Before the first pick nothing is close, not even what points away: zero is not a cosine then.
            self._closest = likeness if not self._posterior.started else self._closest.maximum(likeness)
        self._posterior.observe(look)
