"""Which linear layers of a causal language model gradients are taken of."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from siftlm.errors import InvalidInput, UnknownName
from siftlm.extras import load

LAYER_SETS = ("head", "block", "lora")
Layers = str | Sequence[str]


@dataclass(frozen=True)
class LinearLayer:
    """A layer y = W h + b, whose gradient is Σₜ δₜ hₜᵀ."""

    name: str
    module: Any
    outputs: int
    inputs: int


def layers_checked(layers: Any) -> str | list[str]:
    """One of `LAYER_SETS`, or a list of names."""
    if isinstance(layers, str):
        if layers not in LAYER_SETS:
            raise UnknownName("choice of layers", layers, (*LAYER_SETS, "a list of names such as ['down_proj']"))
        return layers
    names = list(layers) if isinstance(layers, (list, tuple)) else []
    if not names or not all(isinstance(name, str) and name for name in names):
        raise InvalidInput(f"layers must be one of {', '.join(LAYER_SETS)}, or a list of names, got {layers!r}")
    return names


def chosen_layers(model: Any, layers: str | list[str]) -> list[LinearLayer]:
    """``head``: the output layer; ``block``: the linear layers of the last block; ``lora``: those of all blocks, which
    are those that LoRA adapts; a list: all whose name ends so, as for LoRA's targets, and ``head``.
    """
    linear = _linear_layers(model)
    head = model.get_output_embeddings()
    inner = [one for one in linear if one.module is not head]
    if layers == "head":
        return [one for one in linear if one.module is head]
    if layers == "lora":
        return inner
    if layers == "block":
        numbers = {one.name: _block_number(one.name) for one in inner}
        last = max((number for number in numbers.values() if number is not None), default=None)
        return [one for one in inner if last is not None and numbers[one.name] == last]
    found = []
    for name in layers:
        own = [one for one in linear if one.name == name or one.name.endswith(f".{name}")]
        own += [one for one in linear if name == "head" and one.module is head]
        if not own:
            raise UnknownName("layer", name, {"head", *(one.name.rsplit(".", 1)[-1] for one in inner)})
        found += own
    return [one for one in linear if any(one is other for other in found)]


def _block_number(name: str) -> int | None:
    """The first number in the path: ``model.layers.5.mlp.experts.2.up_proj`` is in block 5."""
    number = re.search(r"\.(\d+)\.", name)
    return int(number[1]) if number else None


def _linear_layers(model: Any) -> list[LinearLayer]:
    torch = load("torch", "hf")
    found = []
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear):
            found.append(LinearLayer(name, module, int(module.out_features), int(module.in_features)))
        elif type(module).__name__ == "Conv1D":  # GPT-2's, whose weight lies the other way round
            found.append(LinearLayer(name, module, int(module.weight.shape[1]), int(module.weight.shape[0])))
    if not found:
        raise InvalidInput(f"{type(model).__name__} has no linear layers to take gradients of")
    return found
