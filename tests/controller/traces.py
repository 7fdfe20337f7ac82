"""All that tuning must leave as it was, in a form that can be compared."""

from __future__ import annotations

import hashlib
from typing import Any

import torch

PLAIN = (bool, int, float, str, type(None))


def of(model: Any) -> dict[str, Any]:
    """Hashes of tensors, flags, the modules themselves and torch's random state, by name."""
    found: dict[str, Any] = {"random": hashed(torch.get_rng_state())}
    for path, module in model.named_modules(remove_duplicate=False):
        found[f"{path}: module"] = (id(module), type(module), module.training)
        found[f"{path}: numbers"] = {name: value for name, value in vars(module).items() if isinstance(value, PLAIN)}
        found[f"{path}: names"] = sorted(name for name in vars(module) if name != "_gradient_checkpointing_func")
        found[f"{path}: hooks"] = {
            name: len(hooks) for name, hooks in vars(module).items() if name.endswith("_hooks") and hooks
        }
    for name, p in model.named_parameters(remove_duplicate=False):
        gradient = None if p.grad is None else (id(p.grad), hashed(p.grad))
        found[f"{name}: parameter"] = (id(p), hashed(p), p.requires_grad, gradient)
    for name, buffer in model.named_buffers(remove_duplicate=False):
        found[f"{name}: buffer"] = (id(buffer), hashed(buffer))
    for name, value in model.state_dict().items():
        found[f"{name}: state"] = hashed(value)
    return found


def hashed(tensor: Any) -> str:
    """Of the bits, the type and the shape."""
    flat = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
    return f"{tensor.dtype} {tuple(tensor.shape)} {hashlib.sha256(flat.numpy().tobytes()).hexdigest()}"


def differences(before: dict[str, Any], after: dict[str, Any]) -> dict[str, Any]:
    """What is not as it was: name -> (before, after)."""
    names = [*before, *(name for name in after if name not in before)]
    return {name: (before.get(name), after.get(name)) for name in names if before.get(name) != after.get(name)}
