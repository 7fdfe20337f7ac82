"""Leave no trace: random state, modes, gradients and dropout rates are as they were, whatever happens inside."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from siftlm.extras import load


@contextmanager
def preserved(model: Any) -> Iterator[None]:
    """Everything about the model but its weights and buffers, and torch's random state."""
    torch = load("torch", "tune")
    devices = sorted({p.device.index for p in model.parameters() if p.device.type == "cuda"})
    state = torch.get_rng_state()
    cuda = [torch.cuda.get_rng_state(device) for device in devices]
    modes = [(module, module.training) for module in model.modules()]
    wanted = [(p, p.requires_grad, p.grad) for p in model.parameters()]
    for p, _, _ in wanted:
        p.grad = None
    try:
        yield
    finally:
        with uninterrupted():
            for module, training in modes:
                module.training = training
            for p, required, gradient in wanted:
                p.requires_grad_(required)
                p.grad = gradient
            torch.set_rng_state(state)
            for device, one in zip(devices, cuda, strict=True):
                torch.cuda.set_rng_state(one, device)


@contextmanager
def dropping(model: Any, rate: float, checkpointing: bool) -> Iterator[None]:
    """All dropout layers at ``rate``; a model that learns without any stays in eval mode."""
    if not rate and not checkpointing:
        model.eval()
        yield
        return
    torch = load("torch", "tune")
    # Checkpointing works in train mode only, where attention reads rates that are no layers but plain numbers.
    layers = [m for m in model.modules() if isinstance(m, torch.nn.modules.dropout._DropoutNd)]
    plain = [m for m in model.modules() if isinstance(getattr(m, "attention_dropout", None), float)]
    before = [m.p for m in layers], [m.attention_dropout for m in plain]
    active = getattr(model, "is_gradient_checkpointing", False)
    try:
        for layer in layers:
            layer.p = rate
        for module in plain:
            module.attention_dropout = rate
        model.train()
        if checkpointing and not active:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        yield
    finally:
        with uninterrupted():
            if checkpointing and not active:
                model.gradient_checkpointing_disable()
            for layer, rate_before in zip(layers, before[0], strict=True):
                layer.p = rate_before
            for module, rate_before in zip(plain, before[1], strict=True):
                module.attention_dropout = rate_before
            model.eval()


@contextmanager
def uninterrupted() -> Iterator[None]:
    """A Ctrl-C inside is heard at the end: a model must not stay half put back.

    Only the main thread hears signals; elsewhere there is nothing to hold back.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    heard: list[tuple[int, Any]] = []
    before = signal.getsignal(signal.SIGINT)
    if before is None:  # set by something that is not Python: not ours to change
        yield
        return
    signal.signal(signal.SIGINT, lambda number, frame: heard.append((number, frame)))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if heard and callable(before):
        before(*heard[0])
