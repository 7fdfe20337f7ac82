"""The posterior of ``siftlm.selection.posterior`` in its two forms, for b prompts at once."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from siftlm.extras import load
from siftlm.selection.tensors.candidates import TensorCandidates, TensorPlan

if TYPE_CHECKING:
    import torch
    from torch import Tensor
else:
    torch = load("torch", "torch")


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
        if self._plan.looks_at("posterior"):
            self._update(self._candidates.scan(white[:, None])[:, 0], look)
