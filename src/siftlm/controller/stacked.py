"""Adapters of many prompts on one frozen base: row b of a batch passes through the adapter of its own prompt.

All weights of a prompt's adapter lie in one row of P (prompts, total), its moments in rows of M and V. A layer computes
y = base(x) + scale · x Aᵀ Bᵀ with A (rows, r, in) and B (rows, out, r), views of the rows of P that the batch needs.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.optim.adamw import adamw

from siftlm.controller.adapters import ADAPTER_NAME, Adapters
from siftlm.controller.engines import Engine, normal_tensors
from siftlm.controller.restore import InterruptShield
from siftlm.controller.settings import Tuning
from siftlm.errors import Conflict, setting

LoraFactors = list[tuple[torch.Tensor, torch.Tensor]]
"""For each layer A (rows, r, in) and B (rows, out, r)."""


@dataclass(frozen=True, eq=False)
class LoraLayer:
    """A linear layer of the base, and the two weights of the adapter on it."""

    name: str
    module: torch.nn.Module
    """The layer of the plain model."""
    lora_a: torch.nn.Parameter
    """A, (r, in): a parameter of the engine, whose value is where every prompt begins."""
    lora_b: torch.nn.Parameter
    """B, (out, r)."""
    scale: float


class AdapterStack:
    """The weights of every prompt's adapter, their moments, and the place of each in the base model."""

    def __init__(self, engine: Engine, count: int, settings: Tuning) -> None:
        self.engine, self.layers = stackable_layers(engine)
        self.engine.rewind()
        with normal_tensors():
            self._begin(count, settings)

    def _begin(self, count: int, settings: Tuning) -> None:
        weights = [weight for layer in self.layers for weight in (layer.lora_a, layer.lora_b)]
        self._sizes, self._shapes = [w.numel() for w in weights], [tuple(w.shape) for w in weights]
        self.initial = torch.cat([w.detach().reshape(-1) for w in weights])
        """(total,) where every prompt begins."""
        self.weights = self.initial.repeat(count, 1)
        """(prompts, total)"""
        self._moments = torch.zeros_like(self.weights), torch.zeros_like(self.weights)
        # Where fused AdamW wants its step counts to lie; one for each prompt.
        self._taken = [torch.zeros((), device=self.initial.device) for _ in range(count)]
        self._fused = self.initial.device.type in ("cpu", "cuda")
        self._settings = settings
        self._factors: LoraFactors = []
        self._width = 0
        self._hooks: list[Any] = []

    @property
    def total(self) -> int:
        """Weights of one adapter."""
        return int(self.initial.numel())

    # --- in the model

    @contextmanager
    def attached(self) -> Iterator[None]:
        """Inside, the model passes through the adapters whenever `rows` says which; else it is the base model."""
        try:
            with InterruptShield():
                for place, layer in enumerate(self.layers):
                    self._hooks.append(layer.module.register_forward_hook(self._hook(place)))
            yield
        finally:
            with InterruptShield():
                for hook in self._hooks:
                    hook.remove()
                self._hooks.clear()

    @contextmanager
    def rows(self, owners: Sequence[int], *, kind: Any = None) -> Iterator[Any]:
        """Inside, row i of a batch passes through the adapter of prompt ``owners[i]``.

        Yields the (rows, total) weights, a leaf to take gradients of. ``kind``: the type to compute in.
        """
        leaf = self.weights.detach()
        if list(owners) != list(range(len(self.weights))):
            leaf = leaf[torch.tensor(list(owners), device=leaf.device)]
        leaf.requires_grad_(not torch.is_inference_mode_enabled())
        with self.apply_factors(self._cut(leaf, kind)):
            yield leaf

    def factors(self, owners: Sequence[int]) -> LoraFactors:
        """For `apply_factors`: what these prompts' adapters are now. Gathered once, they serve for many passes."""
        return self._cut(self.weights.detach()[torch.tensor(list(owners), device=self.weights.device)], None)

    @contextmanager
    def apply_factors(self, factors: LoraFactors) -> Iterator[None]:
        """Inside, row i of a batch passes through the i-th of these."""
        self._factors = factors
        try:
            yield
        finally:
            self._factors = []

    def _cut(self, leaf: Any, kind: Any) -> LoraFactors:
        # Cast and cut in one piece each: the gradient then arrives in one piece as well.
        pieces = (leaf if kind is None else leaf.to(kind)).split(self._sizes, dim=1)
        views = [piece.view(len(leaf), *shape) for piece, shape in zip(pieces, self._shapes, strict=True)]
        return list(zip(views[::2], views[1::2], strict=True))

    def _hook(self, place: int) -> Callable[[Any, Any, Any], Any]:
        layer = self.layers[place]

        def add_adapter(_: Any, inputs: tuple[Any, ...], base: torch.Tensor) -> torch.Tensor | None:
            if not self._factors:
                return None
            lora_a, lora_b = self._factors[place]
            x = self._by_row(inputs[0], len(lora_a), layer.name)
            y = base.reshape(*x.shape[:2], -1)
            if not torch.is_autocast_enabled(x.device.type):
                x, y = x.to(lora_a.dtype), y.to(lora_a.dtype)
            low, lora_b = torch.bmm(x, lora_a.transpose(1, 2)), lora_b.transpose(1, 2)
            if low.dtype == torch.float32:
                y = torch.baddbmm(y, low, lora_b, alpha=layer.scale)
            else:  # rounded where PEFT rounds: in half precision another place changes a loss in the third digit
                y = y + torch.bmm(low, lora_b) * layer.scale
            return y.reshape(base.shape).to(base.dtype)

        return add_adapter

    def _by_row(self, x: Any, rows: int, name: str) -> Any:
        """(rows, tokens, in), also where a model has put the tokens of all rows into one long row."""
        if x.dim() == 3 and x.shape[0] == rows:
            self._width = x.shape[1]
            return x
        if x.dim() == 2 and x.shape[0] == rows * self._width:
            return x.view(rows, self._width, x.shape[1])
        raise Conflict(
            f"{name} reads tokens of several prompts mixed in an array of {tuple(x.shape)}, so they cannot pass "
            f"through adapters of their own: tune such a model one prompt at a time, or name other targets"
        )

    # --- while they learn

    def update(self, steps: Sequence[tuple[int, Any, float]], settings: Tuning) -> None:
        """One step of AdamW for each (prompt, (total,) gradient, rate), as `Adam` makes it."""
        first, second = self._moments
        with normal_tensors():
            for rate in dict.fromkeys(rate for _, _, rate in steps):  # several only where repeats are scaled
                own = [(owner, gradient) for owner, gradient, its in steps if its == rate]
                adamw(
                    [self.weights[owner] for owner, _ in own],
                    [gradient for _, gradient in own],
                    [first[owner] for owner, _ in own],
                    [second[owner] for owner, _ in own],
                    [],
                    [self._taken[owner] for owner, _ in own],
                    fused=self._fused,
                    amsgrad=False,
                    beta1=settings.betas[0],
                    beta2=settings.betas[1],
                    lr=rate,
                    weight_decay=settings.decay,
                    eps=settings.epsilon,
                    maximize=False,
                )

    def rewind(self, owner: int) -> None:
        """Back to where every prompt begins, which is the base model."""
        self.weights[owner] = self.initial

    def begin(self, owner: int) -> None:
        """Start afresh in this place: weights of the base model, moments of zero."""
        with normal_tensors():
            self.rewind(owner)
            for moment in self._moments:
                moment[owner] = 0
            self._taken[owner].zero_()

    def export_weights(self, owner: int) -> Any:
        """A copy of a prompt's weights, (total,), for `load_weights`; on the CPU, where there is room for many."""
        return self.weights[owner].detach().to("cpu", copy=True)

    def load_weights(self, owner: int, weights: Any) -> None:
        """Set the weights of a prompt."""
        with normal_tensors():
            self.weights[owner] = weights.to(self.weights.device)

    def finite(self, owners: Sequence[int]) -> list[bool]:
        """For each of these prompts: is every weight of its adapter a number?"""
        return [bool(fine) for fine in torch.isfinite(self.weights[list(owners)].norm(dim=1)).tolist()]

    def save(self, owner: int, folder: str | os.PathLike[str], base: str) -> Path:
        """One prompt's adapter in PEFT's format."""
        pieces = self.weights[owner].split(self._sizes)
        try:
            self.engine.begin(self._settings)
            with torch.no_grad():
                for layer, lora_a, lora_b in zip(self.layers, pieces[::2], pieces[1::2], strict=True):
                    layer.lora_a.copy_(lora_a.view_as(layer.lora_a))
                    layer.lora_b.copy_(lora_b.view_as(layer.lora_b))
            return self.engine.save(folder, base)
        finally:
            with InterruptShield():
                self.engine.end()


def refuse_unstackable(settings: Tuning) -> None:
    """Refuse settings whose outcome would depend on the prompts beside, or that do not work for many."""
    if settings.dropout:
        raise Conflict(
            f"dropout={settings.dropout:g} draws for a whole batch, so a prompt would depend on its neighbours: "
            f"many prompts at once learn with dropout=0"
        )
    if settings.compile:
        raise Conflict("compile=True is for one prompt at a time: stacked adapters change with every batch")


def can_stack(engine: Engine, settings: Tuning) -> bool:
    """May many prompts learn at once with these?"""
    try:
        refuse_unstackable(settings)
        stackable_layers(engine)
    except Conflict:
        return False
    return True


def stackable_layers(engine: Engine) -> tuple[Adapters, list[LoraLayer]]:
    """The layers of a LoRA engine, or a `Conflict` that says why its adapters cannot be stacked."""
    if not isinstance(engine, Adapters) or engine.name != "lora":
        raise Conflict(
            f"many prompts at once share one frozen base, which the engine {engine.name!r} has not got: "
            f"take {setting('engine', 'lora')}, or tune one prompt at a time"
        )
    layers = [_lora_layer(name, plain, adapted) for name, plain, adapted in engine.adapted_layers()]
    trained = {id(weight) for layer in layers for weight in (layer.lora_a, layer.lora_b)}
    if trained != {id(weight) for weight in engine.parameters}:
        raise Conflict(
            "this LoRA trains more than A and B of linear layers (biases, embeddings or whole modules): tune one "
            "prompt at a time"
        )
    devices = sorted({str(layer.lora_a.device) for layer in layers})
    if len(devices) > 1:
        raise Conflict(f"the adapters lie on {', '.join(devices)}, and stacked they must lie on one device")
    return engine, layers


def _lora_layer(name: str, plain: torch.nn.Module, adapted: Any) -> LoraLayer:
    sides = [getattr(adapted, side, {}) for side in ("lora_A", "lora_B")]
    if not all(ADAPTER_NAME in side and isinstance(side[ADAPTER_NAME], torch.nn.Linear) for side in sides):
        raise Conflict(f"the adapter on {name} is no LoRA on a linear layer: tune one prompt at a time")
    kinds = (getattr(adapted, "use_dora", {}), getattr(adapted, "lora_variant", {}))
    if any(kind.get(ADAPTER_NAME) for kind in kinds if hasattr(kind, "get")):
        raise Conflict(f"the adapter on {name} is a variant of LoRA (such as DoRA): tune one prompt at a time")
    lora_a, lora_b = (side[ADAPTER_NAME].weight for side in sides)
    return LoraLayer(name, plain, lora_a, lora_b, float(adapted.scaling[ADAPTER_NAME]))
