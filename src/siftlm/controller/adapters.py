"""The engine that tunes adapters, any that PEFT can inject, and takes them out again."""

from __future__ import annotations

import copy
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from siftlm.controller.engines import Adam, TensorBackup
from siftlm.controller.restore import RANDOM_STATE_LOCK
from siftlm.controller.settings import Tuning
from siftlm.errors import InvalidInput, setting
from siftlm.extras import load
from siftlm.validation import whole_number

ADAPTER_NAME = "siftlm"
DEFAULT_RANK = 16


class Adapters:
    """Adapters are injected once and then swapped in and out: between prompts the model is the plain one."""

    def __init__(self, model: torch.nn.Module, config: Any = None, *, seed: int = 0) -> None:
        self._model = model
        self.config = lora(model) if config is None else copy.deepcopy(config)
        self.name = str(self.config.peft_type.value).lower()
        if getattr(self.config, "is_prompt_learning", False):
            raise InvalidInput(
                f"{self.name} learns a prompt instead of weights; take a kind of adapter such as LoraConfig"
            )
        plain = dict(model.named_modules())
        base = [(p, p.data, p.requires_grad) for p in model.parameters()]
        children = [(module, dict(module._modules)) for module in plain.values()]
        try:
            self._inject(seed)
            # (the module that holds it, under which name, as it was, with the adapter)
            self._layers = [
                (parent, name, plain[f"{path}.{name}".lstrip(".")], child)
                for path, parent in model.named_modules()
                for name, child in parent.named_children()
                if f"{path}.{name}".lstrip(".") in plain and child is not plain[f"{path}.{name}".lstrip(".")]
            ]
            self._refuse_changed(base)
            own = {id(p) for p, _, _ in base}
            self.parameters = [p for p in model.parameters() if p.requires_grad and id(p) not in own]
            for p in self.parameters:
                p.data = p.data.float()  # updates are too small for half precision
            trained = sum(p.numel() for p in self.parameters)
            known = {name: getattr(self.config, name) for name in ("r", "lora_alpha") if hasattr(self.config, name)}
            self.description: dict[str, Any] = {"engine": self.name, "trained": trained, **known}
            self._initial, self._best = TensorBackup(self.parameters), TensorBackup(self.parameters)
            self._initial.save()
            self.adam = Adam(self.parameters)
        finally:  # also where it was refused, or memory ran out, with some layers replaced already
            for module, before in children:
                module._modules.clear()
                module._modules.update(before)
            for p, value, required in base:
                p.data = value
                p.requires_grad_(required)
            vars(model).pop("peft_config", None)

    def begin(self, settings: Tuning) -> None:
        for p in self._model.parameters():
            p.requires_grad_(False)
        self._initial.restore()
        for p in self.parameters:
            p.grad = None  # an error may have left some
        self.adam.begin(settings)
        self._swap(out=False)
        for p in self.parameters:
            p.requires_grad_(True)

    def keep(self) -> None:
        self._best.save()

    def take_best(self) -> None:
        self._best.restore()

    def rewind(self) -> None:
        self._initial.restore()

    def end(self) -> None:
        self._swap(out=True)

    def adapted_layers(self) -> list[tuple[str, torch.nn.Module, torch.nn.Module]]:
        """(name, layer of the plain model, the same with its adapter) for each layer that has one."""
        return [(name, without, with_adapter) for _, name, without, with_adapter in self._layers]

    def save(self, folder: str | os.PathLike[str], base: str) -> Path:
        """The adapter as it is now, in PEFT's format; only while it is swapped in."""
        peft, safetensors = load("peft", "tune"), load("safetensors.torch", "tune")
        weights = peft.get_peft_model_state_dict(self._model, adapter_name=ADAPTER_NAME)
        into = Path(folder)
        into.mkdir(parents=True, exist_ok=True)
        config = copy.deepcopy(self.config)
        config.base_model_name_or_path, config.inference_mode = base, True
        config.save_pretrained(into)
        named = {f"base_model.model.{name}": value.detach().cpu().contiguous() for name, value in weights.items()}
        safetensors.save_file(named, into / "adapter_model.safetensors", metadata={"format": "pt"})
        return into

    def _inject(self, seed: int) -> None:
        peft = load("peft", "tune")
        devices = sorted({p.device.index for p in self._model.parameters() if p.device.type == "cuda"})
        with RANDOM_STATE_LOCK, torch.random.fork_rng(devices=devices):
            torch.manual_seed(seed)  # every prompt starts from the same adapter
            try:
                peft.inject_adapter_in_model(self.config, self._model, adapter_name=ADAPTER_NAME)
            except (ValueError, TypeError, NotImplementedError) as error:
                kind = type(self._model).__name__
                raise InvalidInput(f"PEFT cannot put this adapter into {kind}: {error}") from error

    def _refuse_changed(self, base: Sequence[tuple[Any, Any, bool]]) -> None:
        """Only what was added is taken out again, so the model's own weights must stay as they are."""
        if any(p.data_ptr() != value.data_ptr() for p, value, _ in base):
            raise InvalidInput(
                f"this {self.name} adapter begins by changing the model's own weights "
                f"(init_lora_weights={getattr(self.config, 'init_lora_weights', None)!r}); take another beginning"
            )
        if any(p.requires_grad for p, _, _ in base):
            raise InvalidInput(
                f"this {self.name} adapter also trains weights of the model itself "
                f"(bias={getattr(self.config, 'bias', None)!r}): take bias='none', or engine='full'"
            )

    def _swap(self, *, out: bool) -> None:
        for parent, name, without, with_adapter in self._layers:
            setattr(parent, name, without if out else with_adapter)
        if out:
            vars(self._model).pop("peft_config", None)
        else:
            self._model.peft_config = {ADAPTER_NAME: self.config}  # PEFT looks for it there


def lora(model: torch.nn.Module, *, rank: int = DEFAULT_RANK, alpha: float | None = None, targets: Any = None) -> Any:
    """LoRA on all linear layers but the head, or on ``targets``; α is twice the rank unless given."""
    peft = load("peft", "tune")
    most = max(_adapted_matrix_sizes(model, targets), default=0)
    if whole_number("rank", rank) > max(most, DEFAULT_RANK) and most:
        raise InvalidInput(
            f"{setting('rank')} must be at most {most}, the largest side of a layer that gets an adapter, got {rank}"
        )
    conv = any(type(module).__name__ == "Conv1D" for module in model.modules())
    return peft.LoraConfig(
        r=rank,
        lora_alpha=2 * rank if alpha is None else alpha,
        target_modules="all-linear" if targets is None else targets,
        fan_in_fan_out=conv,
        task_type="CAUSAL_LM",
    )


def _adapted_matrix_sizes(model: torch.nn.Module, targets: Any) -> Iterator[int]:
    """Sides of the matrices that get an adapter, by PEFT's reading of ``targets``: a pattern, or how names end."""
    embedding = torch.nn.Embedding
    head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    for name, module in model.named_modules():
        shape = tuple(getattr(getattr(module, "weight", None), "shape", ()))
        if targets is None or targets == "all-linear":
            adapted = module is not head and not isinstance(module, embedding)
        elif isinstance(targets, str):
            adapted = re.fullmatch(targets, name) is not None
        else:  # what is no list of names PEFT refuses
            adapted = isinstance(targets, Iterable) and any(name == one or name.endswith(f".{one}") for one in targets)
        if adapted and len(shape) == 2:
            # The shape of packed weights says little.
            yield int(getattr(module, "in_features", shape[0]))
            yield int(getattr(module, "out_features", shape[1]))
