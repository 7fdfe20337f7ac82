"""UDS (Zou et al. 2025, arXiv 2510.16882): batches of rows that a language model can learn much from, unlike the last.

    uds = UtilityDiversity()
    loader = ActiveDataLoader(dataset, batch_size=8, model=model, subsample=64, **uds.settings)

Of ``subsample`` random rows each batch takes those with the largest ‖L‖* + weight · mean_i ‖P(L) − P(L_i)‖ over the
rows i that were chosen last. L (tokens, V) are a row's logits, ‖·‖* is the nuclear norm, and P a random projection. The
logits of rows chosen before are remembered as they were then.
"""

# ruff: noqa: E402 - a missing torch is an error of ours, which names the extra
from __future__ import annotations

from siftlm.extras import load

load("torch", "torch")

from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from siftlm.embedding.gradient_passes import SketchHash, sketch_hash
from siftlm.errors import InvalidInput, setting
from siftlm.selection import Method
from siftlm.selection.problem import MethodFunction, Problem, Steps
from siftlm.selection.space import FeatureSpace
from siftlm.types import FloatArray, IntArray
from siftlm.validation import number, whole_number

__all__ = ["UtilityDiversity"]

# As in the published code.
DEFAULT_WEIGHT, DEFAULT_MEMORY, DEFAULT_WIDTHS = 2.5e-3, 1024, (8, 128)


class UtilityDiversity:
    """The embedding and the method of UDS, for one training run; `settings` are those of the loader.

    Args:
        logits: a function ``logits(model, inputs)`` that returns (rows, tokens, V), or (rows, V) of a classifier. Left
            out, the model is called with the inputs, by keyword if they are a mapping, without ``labels``, and returns
            them or has them as ``logits``. Where inputs have an ``attention_mask``, padding doesn't count.
        weight: of the distances.
        memory: how many of the rows chosen last are compared with.
        widths: of the projection, along tokens and along V.
        seed: of the projection.
    """

    def __init__(
        self,
        logits: Callable[[Any, Any], Tensor] | None = None,
        *,
        weight: float = DEFAULT_WEIGHT,
        memory: int = DEFAULT_MEMORY,
        widths: tuple[int, int] = DEFAULT_WIDTHS,
        seed: int = 0,
    ) -> None:
        self.weight = number("weight", weight, least=0)
        pair: Any = widths
        if not isinstance(pair, (tuple, list)) or len(pair) != 2:
            raise InvalidInput(f"{setting('widths')} must be two whole numbers, got {widths!r}")
        self.widths = (whole_number("widths", pair[0]), whole_number("widths", pair[1]))
        self.seed = whole_number("seed", seed, least=0)
        self._logits = logits or model_logits
        self._chosen: deque[FloatArray] = deque(maxlen=whole_number("memory", memory))

    @property
    def settings(self) -> dict[str, Any]:
        """Settings of `ActiveDataLoader`, `ActiveBatchSampler` and ``ActiveTrainer(active=…)``."""
        return {"embed": self.embed, "method": self.method, "normalize": False, "known_limit": 0}

    def state_dict(self) -> dict[str, Any]:
        """What is remembered, for ``torch.save``: a loader's own state has it not."""
        return {"chosen": torch.tensor(np.array(self._chosen))}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state_dict` was called."""
        chosen = state.get("chosen")
        width = self.widths[0] * self.widths[1]
        if not isinstance(chosen, Tensor) or (len(chosen) and chosen.shape[1:] != (width,)):
            raise InvalidInput(f"{setting('state')} is not of a UtilityDiversity with {setting('widths', self.widths)}")
        self._chosen.clear()
        self._chosen.extend(chosen.double().numpy())

    def embed(self, model: Any, inputs: Any) -> Tensor:
        """(rows, 1 + width): ‖L‖*, and P(L)."""
        logits = self._logits(model, inputs)
        if not isinstance(logits, Tensor) or logits.ndim not in (2, 3):
            got = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
            raise InvalidInput(f"{setting('logits')} must be a tensor (rows, tokens, V) or (rows, V), got {got}")
        logits = logits.float() if logits.ndim == 3 else logits.float()[:, None]
        mask = inputs.get("attention_mask") if isinstance(inputs, Mapping) else None
        if isinstance(mask, Tensor) and mask.shape == logits.shape[:2]:
            logits = logits * mask[:, :, None]  # rows of zeros change no singular value
        utility = torch.linalg.svdvals(logits).sum(dim=1, keepdim=True)
        return torch.cat([utility, self._project(logits)], dim=1)

    def _project(self, logits: Tensor) -> Tensor:
        """(rows, tokens, V) -> (rows, width): signed sums over buckets of tokens and of V."""
        for dim, name in ((2, "V"), (1, "tokens")):
            width = self.widths[dim - 1]
            side: SketchHash = sketch_hash(f"{self.seed} {name}", logits.shape[dim], width)
            signs = torch.tensor(side.signs, dtype=logits.dtype, device=logits.device)
            buckets = torch.tensor(side.buckets, device=logits.device)
            moved = logits * (signs if dim == 2 else signs[:, None])
            shape = [*logits.shape[:dim], width, *logits.shape[dim + 1 :]]
            logits = torch.zeros(shape, dtype=logits.dtype, device=logits.device).index_add_(dim, buckets, moved)
        return logits.flatten(1)

    @property
    def method(self) -> MethodFunction:
        """The method for vectors of `embed`; what it chooses is remembered."""

        def uds(problem: Problem) -> Steps:
            """‖L‖* + weight · mean_i ‖P(L) − P(L_i)‖ over the rows i chosen last"""
            if not isinstance(problem.space, FeatureSpace):
                raise InvalidInput("UDS compares vectors: a kernel function has none")
            rows = problem.space.gather(np.arange(problem.candidates))
            scores = self.scores(rows)
            best: IntArray = np.argsort(-scores, kind="stable")[: problem.picks]
            self._chosen.extend(rows[best, 1:])
            while True:
                yield problem.padded(scores)

        summary = "logits of large nuclear norm, unlike those of the rows chosen last (UDS)"
        uds.method = Method("uds", summary, uds, targeted=False)  # type: ignore[attr-defined]
        return uds

    def scores(self, rows: FloatArray) -> FloatArray:
        """(rows,) of vectors of `embed`; without rows chosen before, the utility alone."""
        utility = rows[:, 0].copy()
        if not self._chosen or not self.weight:
            return utility
        before = np.array(self._chosen)
        squares = (rows[:, 1:] ** 2).sum(axis=1)[:, None] + (before**2).sum(axis=1) - 2 * rows[:, 1:] @ before.T
        distances: FloatArray = np.sqrt(np.maximum(squares, 0)).mean(axis=1)
        return utility + self.weight * distances


def model_logits(model: Any, inputs: Any) -> Any:
    """What the model makes of the inputs: a tensor, or the ``logits`` of what it returns."""
    if isinstance(inputs, Mapping):
        out = model(**{name: value for name, value in inputs.items() if name != "labels"})
    else:
        out = model(inputs)
    return getattr(out, "logits", out)
