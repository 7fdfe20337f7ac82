"""Sketched gradients of a causal language model: its linear layers, their sketches, and the backward passes."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch

from siftlm.embedding.transformer import autocast
from siftlm.errors import InvalidInput, UnknownName
from siftlm.types import FloatArray, IntArray


@dataclass(frozen=True)
class LinearLayer:
    """A layer y = W h + b, whose gradient is Σₜ δₜ hₜᵀ."""

    name: str
    module: Any
    outputs: int
    inputs: int


def chosen_layers(model: Any, layers: str | Sequence[str]) -> list[LinearLayer]:
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
    chosen: list[LinearLayer] = []
    for name in layers:
        own = [one for one in linear if one.name == name or one.name.endswith(f".{name}")]
        own += [one for one in linear if name == "head" and one.module is head]
        if not own:
            raise UnknownName("layer", name, {"head", *(one.name.rsplit(".", 1)[-1] for one in inner)})
        chosen += own
    return [one for one in linear if any(one is other for other in chosen)]


def _block_number(name: str) -> int | None:
    """The first number in the path: ``model.layers.5.mlp.experts.2.up_proj`` is in block 5."""
    number = re.search(r"\.(\d+)\.", name)
    return int(number[1]) if number else None


def _linear_layers(model: Any) -> list[LinearLayer]:
    linear = []
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear):
            linear.append(LinearLayer(name, module, int(module.out_features), int(module.in_features)))
        elif type(module).__name__ == "Conv1D":  # GPT-2's, whose weight lies the other way round
            linear.append(LinearLayer(name, module, int(module.weight.shape[1]), int(module.weight.shape[0])))
    if not linear:
        raise InvalidInput(f"{type(model).__name__} has no linear layers to take gradients of")
    return linear


@dataclass(frozen=True, eq=False)
class SketchHash:
    """Buckets and signs of one side's coordinates: of each ``width`` consecutive ones no two share a bucket."""

    buckets: IntArray
    """(n,)"""
    signs: FloatArray
    """(n,) 1 or −1."""
    width: int


def sketch_hash(key: str, size: int, width: int) -> SketchHash:
    """The hash of a key, the same on every machine.

    >>> sketch_hash("an example", 5, 3).buckets.tolist()
    [2, 1, 0, 1, 2]
    """
    chunks = -(-size // width)
    words = hashlib.shake_256(f"buckets {key}".encode()).digest(chunks * width * 8)
    places = np.frombuffer(words, dtype="<u8").reshape(chunks, width).argsort(axis=1, kind="stable")
    bits = np.frombuffer(hashlib.shake_256(f"signs {key}".encode()).digest(-(-size // 8)), dtype=np.uint8)
    signs: FloatArray = 1.0 - 2.0 * np.unpackbits(bits)[:size].astype(np.float64)
    return SketchHash(places.reshape(-1)[:size].astype(np.int64), signs, width)


class CountSketch:
    """A `SketchHash` on a device: (tokens, n) -> (tokens, width)."""

    def __init__(self, side: SketchHash, device: torch.device) -> None:
        self._width = side.width
        self._signs = torch.tensor(side.signs, dtype=torch.float32, device=device)
        # Gathering is faster than scattering: which coordinate each bucket takes from each run of coordinates. Past
        # the end of a short last run there are zeros to take.
        self._sources = []
        for start in range(0, len(side.buckets), side.width):
            used = side.buckets[start : start + side.width]
            free = np.setdiff1d(np.arange(side.width), used)
            source = np.argsort(np.concatenate([used, free]))
            self._sources.append(torch.tensor(source, device=device))

    def __call__(self, values: torch.Tensor) -> Any:
        """Σ over the coordinates of each bucket, signed."""
        sums = None
        for run, source in enumerate(self._sources):
            part = slice(run * self._width, (run + 1) * self._width)
            signed = values[:, part].float() * self._signs[part]
            if signed.shape[1] < self._width:
                signed = torch.nn.functional.pad(signed, (0, self._width - signed.shape[1]))
            moved = signed.index_select(1, source)
            sums = moved if sums is None else sums.add_(moved)
        return sums


class TensorSketch:
    """The sketches of δ hᵀ for one layer, in the frequency domain, where convolving is multiplying."""

    def __init__(self, layer: str, outputs: int, inputs: int, width: int, seed: int, device: torch.device) -> None:
        self._outputs = CountSketch(sketch_hash(f"{seed} {layer} out", outputs, width), device)
        self._inputs = CountSketch(sketch_hash(f"{seed} {layer} in", inputs, width), device)

    def add(self, total: torch.Tensor, rows: torch.Tensor, deltas: torch.Tensor, states: torch.Tensor) -> None:
        """total[rows[t]] += the sketch of deltas[t] states[t]ᵀ; ``total`` is (texts, width // 2 + 1, 2)."""
        product = torch.fft.rfft(self._outputs(deltas)) * torch.fft.rfft(self._inputs(states))
        total.index_add_(0, rows, torch.view_as_real(product))


def from_frequency_domain(total: torch.Tensor, width: int) -> torch.Tensor:
    """(texts, width) sketches from their (texts, width // 2 + 1, 2) in the frequency domain."""
    return torch.fft.irfft(torch.view_as_complex(total), n=width)


# Logits that are held together: on a processor as many as stay in its cache.
MAX_GRADIENT_LOGITS = {"cpu": 2**21, "other": 2**25}
# The label where nothing is predicted.
NO_LABEL = -1


class LayerSum(Protocol):
    """What is summed of a layer's gradient Σₜ δₜ hₜᵀ, for each text."""

    def add(self, total: torch.Tensor, rows: torch.Tensor, deltas: torch.Tensor, states: torch.Tensor) -> None:
        """total[rows[t]] += whatever is kept of deltas[t] states[t]ᵀ."""


class GradientPasses:
    """Gradients of the mean loss of texts in some layers of a model; ``sums`` says what is kept of each layer's."""

    def __init__(
        self, model: Any, layers: Sequence[LinearLayer], sums: Mapping[str, LayerSum], precision: str | None
    ) -> None:
        self._model, self._precision = model, precision
        self.device = next(model.parameters()).device
        self._head = model.get_output_embeddings()
        self._inner = [one for one in layers if one.module is not self._head]
        self._sums = dict(sums)
        self._head_name = next((one.name for one in layers if one.module is self._head), None)
        self._vocabulary = int(self._head.weight.shape[0])
        config = model.config
        scale = getattr(config, "logit_scale", None) or 1 / (getattr(config, "logits_scaling", None) or 1)
        self._scale, self._cap = float(scale), getattr(config, "final_logit_softcapping", None)
        _check_head(self)

    def accumulate(self, total: torch.Tensor, texts: Sequence[Sequence[int]]) -> None:
        """Fill ``total``, (texts, …) zeros, for texts of two tokens or more.

        Each token but the first is predicted from those before.
        """
        ids, labels = self._padded(texts)
        rows, places = (labels != NO_LABEL).nonzero(as_tuple=True)
        with _frozen_weights(self._model), self._recorded_calls() as calls, torch.set_grad_enabled(bool(self._inner)):
            states = self.states(ids)
        if not _has_text_axis(calls, ids.shape):
            for row, text in enumerate(texts):
                self.accumulate(total[row : row + 1], [text])
            return
        back = torch.zeros_like(states) if self._inner else None
        chunk = max(1, MAX_GRADIENT_LOGITS["cpu" if self.device.type == "cpu" else "other"] // self._vocabulary)
        for some in torch.arange(len(rows), device=self.device).split(chunk):
            where = rows[some], places[some]
            own = states.detach()[where]
            deltas, inward = self._loss_gradients(own, labels[where])
            if self._head_name is not None:
                self._sums[self._head_name].add(total, where[0], deltas, own)
            if back is not None and inward is not None:
                back[where] = inward.to(back.dtype)
        if calls:
            self._add_inner_layers(total, (rows, places), states, back, calls)
        counts = (labels != NO_LABEL).sum(dim=1)
        total /= counts.reshape(-1, *[1] * (total.dim() - 1))

    def states(self, ids: torch.Tensor) -> Any:
        """The last hidden states, which the head reads."""
        with autocast(self.device.type, self._precision):
            # Padding stands behind the text, where a causal model does not look, so there is no mask.
            return self._model.base_model(input_ids=ids, use_cache=False).last_hidden_state

    def logits(self, output: torch.Tensor) -> torch.Tensor:
        """The logits that the model makes of its head's output: some scale or cap it."""
        scale, cap = self._scale, self._cap
        output = output.float() * scale if scale != 1 else output.float()
        return output if cap is None else cap * (output / cap).tanh()

    def head_output(self, states: torch.Tensor) -> torch.Tensor:
        """The head's output."""
        with autocast(self.device.type, self._precision):
            return self._head(states)

    def _loss_gradients(self, states: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """The gradients of each token's loss in the head's output, and in its input where inner layers need it."""
        scale, cap = self._scale, self._cap
        with torch.set_grad_enabled(bool(self._inner)), _frozen_weights(self._model):
            states = states.detach().requires_grad_(bool(self._inner))
            output = self.head_output(states)
        with torch.no_grad():
            logits = self.logits(output)
            deltas = logits.softmax(dim=1)
            deltas[torch.arange(len(labels), device=self.device), labels] -= 1
            if cap is not None:
                deltas *= 1 - (logits / cap) ** 2
            if scale != 1:
                deltas *= scale
        if not self._inner:
            return deltas, None
        return deltas, torch.autograd.grad(output, states, grad_outputs=deltas.to(output.dtype))[0]

    def _add_inner_layers(
        self, total: torch.Tensor, where: Any, states: torch.Tensor, back: Any, calls: Sequence[_LayerCall]
    ) -> None:
        """Backpropagate from the last states to the layers before the head, and add what is kept."""
        outputs = [call.output for call in calls]
        deltas = torch.autograd.grad(states, outputs, grad_outputs=back, allow_unused=True)
        for call, delta in zip(calls, deltas, strict=True):
            if delta is None:
                continue
            if call.input.dim() == 3:
                self._sums[call.layer].add(total, where[0], delta[where], call.input[where])
            else:
                rows = torch.zeros(len(call.input), dtype=torch.long, device=self.device)
                self._sums[call.layer].add(total, rows, delta, call.input)

    def _padded(self, texts: Sequence[Sequence[int]]) -> tuple[torch.Tensor, torch.Tensor]:
        """The tokens that are read and those that are predicted, (texts, tokens) each; the last is not read."""
        ids = torch.zeros((len(texts), max(len(text) for text in texts) - 1), dtype=torch.long)
        labels = torch.full_like(ids, NO_LABEL)
        for row, text in enumerate(texts):
            ids[row, : len(text) - 1] = torch.tensor(text[:-1])
            labels[row, : len(text) - 1] = torch.tensor(text[1:])
        return ids.to(self.device), labels.to(self.device)

    @contextmanager
    def _recorded_calls(self) -> Iterator[list[_LayerCall]]:
        """Each call of an inner layer."""
        calls: list[_LayerCall] = []
        hooks = [one.module.register_forward_hook(_recording_hook(one.name, calls)) for one in self._inner]
        try:
            yield calls
        finally:
            for hook in hooks:
                hook.remove()


class _LayerCall(NamedTuple):
    """A layer's input and output, (texts, tokens, d) as a rule."""

    layer: str
    input: torch.Tensor
    output: torch.Tensor


def _recording_hook(name: str, calls: list[_LayerCall]) -> Callable[..., torch.Tensor]:
    def record(module: Any, arguments: tuple[Any, ...], output: Any) -> torch.Tensor:
        del module
        # The first layers that are recorded begin the graph: nothing before them needs a gradient.
        output = output if output.requires_grad else output.requires_grad_()
        calls.append(_LayerCall(name, arguments[0].detach(), output))
        copy: torch.Tensor = output.clone()  # so that nobody changes it in place
        return copy

    return record


def _has_text_axis(calls: Sequence[_LayerCall], shape: Any) -> bool:
    """Whether every layer sees (texts, tokens, …). Experts, for one, get tokens that are sorted differently."""
    return shape[0] == 1 or all(call.input.shape[:-1] == shape for call in calls)


@contextmanager
def _frozen_weights(model: Any) -> Iterator[None]:
    """No weight needs a gradient meanwhile, so nothing is kept for one."""
    trained = [p for p in model.parameters() if p.requires_grad]
    for p in trained:
        p.requires_grad_(False)
    try:
        yield
    finally:
        for p in trained:
            p.requires_grad_(True)


def _check_head(gradients: GradientPasses) -> None:
    """Raise where the model does more between its last states and its logits than is known here."""
    model = gradients._model
    ids = torch.arange(min(8, int(model.get_input_embeddings().weight.shape[0])), device=gradients.device)[None]
    with torch.no_grad():
        ours = gradients.logits(gradients.head_output(gradients.states(ids)))
        with autocast(gradients.device.type, gradients._precision):
            theirs = model(input_ids=ids, use_cache=False).logits.float()
    if ours.shape != theirs.shape or not torch.allclose(ours, theirs, rtol=1e-2, atol=1e-2 * float(theirs.std())):
        raise InvalidInput(
            f"{type(model).__name__} does something to its logits that is not known here, so gradients would be wrong"
        )
