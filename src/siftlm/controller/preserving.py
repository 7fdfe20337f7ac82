"""Leave no trace: what the model was, torch's random state and every flag are back afterwards, whatever happens."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from siftlm.controller.interrupts import uninterrupted
from siftlm.controller.putting_back import PendingRestores, RestoreStep
from siftlm.errors import InvalidInput
from siftlm.extras import load

__all__ = ["preserved_model", "preserved_random_state", "training_mode", "uninterrupted"]

# Rates that models keep as plain numbers and hand to a function, instead of having a layer for them.
DROPOUT_ATTRIBUTES = re.compile(r"dropout|layerdrop")


@contextmanager
def preserved_model(model: Any, unfinished: PendingRestores) -> Iterator[list[RestoreStep]]:
    """All of the model; the weights by what is added to the list that this yields.

    What cannot be put back stays in ``unfinished``.
    """
    # Modes, dropout rates, checkpointing, what rotary embeddings remember: all are attributes of modules.
    attributes = [(module, dict(vars(module))) for module in model.modules()]
    hooks = [  # transformers leaves some on the embeddings when checkpointing is switched off
        (hooked, dict(hooked))
        for _, before in attributes
        for name, hooked in before.items()
        if name.endswith("_hooks") and isinstance(hooked, dict)
    ]
    buffers = [
        (module, name, buffer, None if buffer is None else buffer.detach().clone())
        for module in model.modules()
        for name, buffer in module._buffers.items()
    ]
    wanted = [(p, p.requires_grad, p.grad) for p in model.parameters()]
    weights: list[RestoreStep] = []
    try:
        for p, _, _ in wanted:
            p.grad = None
        yield weights
    finally:
        with uninterrupted():
            unfinished.run(
                [
                    *weights,
                    *(partial(_restore_attributes, *one) for one in attributes),
                    *(partial(_restore_hooks, *one) for one in hooks),
                    *(partial(_restore_grad, *one) for one in wanted),
                    *(partial(_restore_buffer, *one) for one in buffers),
                ]
            )


@contextmanager
def preserved_random_state(model: Any, unfinished: PendingRestores) -> Iterator[None]:
    """Torch's random state on all devices of the model; only for those who draw from it, as all threads share it."""
    torch = load("torch", "tune")
    devices = sorted({p.device.index for p in model.parameters() if p.device.type == "cuda"})
    state = torch.get_rng_state()
    cuda = [torch.cuda.get_rng_state(device) for device in devices]
    try:
        yield
    finally:
        with uninterrupted():
            unfinished.run(
                [
                    partial(torch.set_rng_state, state),
                    *(partial(torch.cuda.set_rng_state, *one) for one in zip(cuda, devices, strict=True)),
                ]
            )


def _restore_attributes(module: Any, before: dict[str, Any]) -> None:
    vars(module).clear()
    vars(module).update(before)


def _restore_hooks(hooked: dict[Any, Any], before: dict[Any, Any]) -> None:
    if hooked.keys() != before.keys():
        hooked.clear()
        hooked.update(before)


def _restore_grad(p: Any, required: bool, gradient: Any) -> None:
    p.requires_grad_(required)
    p.grad = gradient


def _restore_buffer(module: Any, name: str, buffer: Any, value: Any) -> None:
    module._buffers[name] = buffer
    if buffer is not None:
        with load("torch", "tune").inference_mode():  # where each buffer may be changed, whichever mode made it
            buffer.copy_(value)


@contextmanager
def training_mode(model: Any, rate: float, checkpointing: bool) -> Iterator[None]:
    """All dropout at ``rate``; a model that learns without any stays in eval mode. Eval mode afterwards."""
    if not rate and not checkpointing:
        model.eval()
        yield
        return
    torch = load("torch", "tune")
    before: list[tuple[Any, str, Any]] = []
    for module in model.modules():
        layer = isinstance(module, torch.nn.modules.dropout._DropoutNd)
        for name, value in vars(module).items():
            rated = isinstance(value, float) and ((layer and name == "p") or DROPOUT_ATTRIBUTES.search(name))
            if rated or name == "gradient_checkpointing":
                before.append((module, name, value))
    try:
        if checkpointing:
            _gradient_checkpointing(model)
        for module, name, value in before:
            if isinstance(value, float):
                setattr(module, name, 0.0 if name == "layerdrop" else rate)
        model.train()  # checkpointing works in train mode only
        yield
    finally:
        for module, name, value in before:
            setattr(module, name, value)
        model.eval()


def _gradient_checkpointing(model: Any) -> None:
    # The older name warns from transformers 5.23 on.
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    try:
        enable({"use_reentrant": False})
    except ValueError as error:
        raise InvalidInput(f"checkpointing=True: {error}") from error
