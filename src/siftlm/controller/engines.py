"""Engines: what is tuned, all weights or adapters, and how it is restored bit for bit."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import torch

from siftlm.controller.restore import PendingRestores, restore_tensor
from siftlm.controller.settings import Tuning


class Engine(Protocol):
    """Weights that can be trained and restored."""

    name: str
    """``full``, or that of the kind of adapter."""
    parameters: list[torch.nn.Parameter]
    """The weights that are trained. Their gradients are the caller's to fill and to clear."""
    description: dict[str, Any]
    """Kind and size, for the record."""
    adam: Adam
    """Takes the steps, with the gradients as they are."""

    def begin(self, settings: Tuning) -> None:
        """Remember the state; whatever is trained starts afresh, its moments at zero."""

    def keep(self) -> None:
        """Remember the state as the best so far."""

    def take_best(self) -> None:
        """Go back to what was kept last."""

    def rewind(self) -> None:
        """Go back to the base model and stay ready to train."""

    def end(self) -> None:
        """Restore everything, bit for bit."""


@contextmanager
def normal_tensors() -> Iterator[None]:
    """Inside, tensors are made and changed that outlive the call.

    What is made inside ``torch.inference_mode`` could never be changed outside of it again.
    """
    with torch.inference_mode(False), torch.no_grad():
        yield


@dataclass(frozen=True, eq=False)
class AdamMoments:
    """Adam's moments, one tensor a parameter in their order; what changes with the next step is not copied."""

    first: list[torch.Tensor]
    second: list[torch.Tensor]
    steps: int


class Adam:
    """torch's fused AdamW, whose moments are kept and zeroed: allocating them anew for each prompt takes longer."""

    def __init__(self, parameters: Sequence[torch.nn.Parameter]) -> None:
        kinds = {p.device.type for p in parameters}
        self._optimiser = torch.optim.AdamW(list(parameters), lr=1.0, fused=kinds <= {"cpu", "cuda"})
        self._whole = True

    def begin(self, settings: Tuning) -> None:
        """Fresh moments."""
        if not self._whole:
            self._optimiser.state.clear()
        with normal_tensors():
            for state in self._optimiser.state.values():
                for value in state.values():
                    value.zero_()
        for group in self._optimiser.param_groups:
            group.update(betas=tuple(settings.betas), eps=settings.epsilon, weight_decay=settings.decay)

    def update(self, rate: float) -> None:
        """One step."""
        for group in self._optimiser.param_groups:
            group["lr"] = rate
        self._whole = False  # if memory runs out inside, some moments are there and some are not
        with normal_tensors():
            self._optimiser.step()
        self._whole = True

    def moments(self) -> AdamMoments:
        """The moments after the last step; zero before the first."""
        parameters = [p for group in self._optimiser.param_groups for p in group["params"]]
        states = [self._optimiser.state.get(p, {}) for p in parameters]
        first, second = (
            [state.get(name, torch.zeros_like(p)) for p, state in zip(parameters, states, strict=True)]
            for name in ("exp_avg", "exp_avg_sq")
        )
        return AdamMoments(first, second, max((int(state.get("step", 0)) for state in states), default=0))


class TensorBackup:
    """Tensors and room for copies of them, which is made once and used for every prompt."""

    def __init__(self, tensors: Sequence[torch.Tensor]) -> None:
        self._tensors = list(tensors)
        self._copies: list[torch.Tensor] = []
        self._saved = False

    def save(self) -> None:
        """Copy the tensors as they are now."""
        self._saved = False
        with normal_tensors():
            if not self._copies:
                self._copies = [tensor.detach().clone() for tensor in self._tensors]
            elif self._tensors:
                torch._foreach_copy_(self._copies, [tensor.detach() for tensor in self._tensors])
        self._saved = True

    def restore(self) -> None:
        """Set the tensors to what was saved; where saving failed, nothing was changed since."""
        if self._saved:  # one by one: where memory runs out for one, the others are restored
            pairs = zip(self._tensors, self._copies, strict=True)
            PendingRestores().run(partial(restore_tensor, *pair) for pair in pairs)


class FullWeights:
    """All floating-point parameters are trained."""

    name = "full"

    def __init__(self, model: torch.nn.Module) -> None:
        # Tied weights are one parameter here.
        self.parameters = [p for p in model.parameters() if p.is_floating_point()]
        self.description: dict[str, Any] = {"engine": self.name, "trained": sum(p.numel() for p in self.parameters)}
        others = [p for p in model.parameters() if not p.is_floating_point()]
        self._before = TensorBackup([*self.parameters, *others])
        self._best = TensorBackup(self.parameters)
        self.adam = Adam(self.parameters)

    def begin(self, settings: Tuning) -> None:
        self._before.save()
        self.adam.begin(settings)
        for p in self.parameters:
            p.requires_grad_(True)

    def keep(self) -> None:
        self._best.save()

    def take_best(self) -> None:
        self._best.restore()

    def rewind(self) -> None:
        self._before.restore()

    def end(self) -> None:
        self._before.restore()
