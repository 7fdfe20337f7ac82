"""Leave no trace: what the model was, torch's random state and every flag are back afterwards, whatever happens."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from siftlm.controller.interrupts import uninterrupted
from siftlm.errors import InvalidInput
from siftlm.extras import load

__all__ = ["dropping", "preserved", "uninterrupted"]

# Rates that models keep as plain numbers and hand to a function, instead of having a layer for them.
RATES = re.compile(r"dropout|layerdrop")


@contextmanager
def preserved(model: Any) -> Iterator[None]:
    """Everything about the model but its weights, and torch's random state."""
    torch = load("torch", "tune")
    devices = sorted({p.device.index for p in model.parameters() if p.device.type == "cuda"})
    state = torch.get_rng_state()
    cuda = [torch.cuda.get_rng_state(device) for device in devices]
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
    try:
        for p, _, _ in wanted:
            p.grad = None
        yield
    finally:
        with uninterrupted(), torch.no_grad():
            for module, before in attributes:
                vars(module).clear()
                vars(module).update(before)
            for hooked, before in hooks:
                if hooked.keys() != before.keys():
                    hooked.clear()
                    hooked.update(before)
            for module, name, buffer, value in buffers:
                module._buffers[name] = buffer
                if buffer is not None:
                    buffer.copy_(value)
            for p, required, gradient in wanted:
                p.requires_grad_(required)
                p.grad = gradient
            torch.set_rng_state(state)
            for device, one in zip(devices, cuda, strict=True):
                torch.cuda.set_rng_state(one, device)


@contextmanager
def dropping(model: Any, rate: float, checkpointing: bool) -> Iterator[None]:
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
            rated = isinstance(value, float) and ((layer and name == "p") or RATES.search(name))
            if rated or name == "gradient_checkpointing":
                before.append((module, name, value))
    try:
        if checkpointing:
            _checkpoint(model)
        for module, name, value in before:
            if isinstance(value, float):
                setattr(module, name, 0.0 if name == "layerdrop" else rate)
        model.train()  # checkpointing works in train mode only
        yield
    finally:
        for module, name, value in before:
            setattr(module, name, value)
        model.eval()


def _checkpoint(model: Any) -> None:
    # The older name warns from transformers 5.23 on.
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    try:
        enable({"use_reentrant": False})
    except ValueError as error:
        raise InvalidInput(f"checkpointing=True: {error}") from error
