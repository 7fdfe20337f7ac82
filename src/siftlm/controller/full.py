"""The engine that tunes every weight and keeps a copy to go back to."""

from __future__ import annotations

from typing import Any

from siftlm.controller.engine import Adam, TensorBackup
from siftlm.controller.settings import Tuning


class FullWeights:
    """All floating-point parameters are trained."""

    name = "full"

    def __init__(self, model: Any) -> None:
        # Tied weights are one parameter here.
        self._parameters = [p for p in model.parameters() if p.is_floating_point()]
        others = [p for p in model.parameters() if not p.is_floating_point()]
        self._before = TensorBackup([*self._parameters, *others])
        self._best = TensorBackup(self._parameters)
        self._adam = Adam(self._parameters)

    def begin(self, settings: Tuning) -> None:
        self._before.save()
        self._adam.begin(settings)
        for p in self._parameters:
            p.requires_grad_(True)

    def parameters(self) -> list[Any]:
        return self._parameters

    def update(self, rate: float) -> None:
        self._adam.update(rate)

    def keep(self) -> None:
        self._best.save()

    def take_best(self) -> None:
        self._best.restore()

    def rewind(self) -> None:
        self._before.restore()

    def end(self) -> None:
        self._before.restore()

    def describe(self) -> dict[str, Any]:
        return {"engine": self.name, "trained": sum(p.numel() for p in self._parameters)}
