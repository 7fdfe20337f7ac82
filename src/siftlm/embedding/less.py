"""LESS (Xia et al., 2024): texts as what a warmed-up model would learn from them, step by step of Adam.

At checkpoint i a passage x is Γᵢ(x), the step that Adam would take on its loss, and a query x' is ∇ᵢ(x'), the gradient
of its loss; both in the weights of LoRA, projected, at unit length. With shares wᵢ = ηᵢ / Σ η of the learning rates the
vectors are (√w₁ Γ₁, √w₂ Γ₂, …) and (√w₁ ∇₁, √w₂ ∇₂, …), so that their inner product is Σᵢ wᵢ cos(∇ᵢ(x'), Γᵢ(x)): the
influence of x on x', per unit of the learning rates.

`siftlm.picking.warm_up` makes the checkpoints.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from siftlm.embedding.gradient_passes import GradientPasses, LinearLayer, chosen_layers, sketch_hash
from siftlm.embedding.gradients import default_batch_tokens, tuning_token_ids
from siftlm.embedding.loading import (
    check_complete,
    checked_fast_tokenizer,
    device_or_best,
    position_limit,
    token_limits,
    token_spans,
    tokenizer_digest,
    weights_digest,
    without_surrogates,
)
from siftlm.embedding.models import LESS_FILE, LessSettings
from siftlm.embedding.transformer import batches
from siftlm.errors import Damaged, InvalidInput
from siftlm.extras import TINY_MODEL, bundled_model, load
from siftlm.types import FloatArray, IntArray, Vectors

# Changes whenever the vectors of the same checkpoints and settings do.
LESS_VERSION = 1
# Entries of exact gradients that are held together, apart from the activations.
MAX_GRADIENT_ENTRIES = 2**26


@dataclass(frozen=True)
class WarmUp:
    """What a warm-up was, as `LESS_FILE` tells it."""

    model: str
    """The name or folder of the base model, or ``siftlm-tiny``."""
    weights: str
    """The `weights_digest` of the base model."""
    layers: tuple[str, ...]
    """The adapted layers, in the order in which the moments hold them: A, then B of each."""
    scale: float
    """α / rank: a layer's weight is W + scale B A."""
    betas: tuple[float, float]
    epsilon: float
    rates: tuple[float, ...]
    """The learning rate before each checkpoint."""
    steps: tuple[int, ...]
    """Steps of Adam until each checkpoint."""
    digests: tuple[str, ...]
    """SHA-256 of each checkpoint's file."""
    version: int = LESS_VERSION

    def write(self, folder: Path) -> None:
        """Write it into the folder of the checkpoints, which is complete then."""
        (folder / LESS_FILE).write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")

    @classmethod
    def read(cls, folder: Path) -> WarmUp:
        """The one in a folder."""
        try:
            known = json.loads((folder / LESS_FILE).read_text(encoding="utf-8"))
            values: dict[str, Any] = {
                name: tuple(value) if isinstance(value, list) else value for name, value in known.items()
            }
            made = cls(**values)
            fits = len(made.rates) == len(made.steps) == len(made.digests) >= 1 and made.version == LESS_VERSION
        except FileNotFoundError as error:
            raise InvalidInput(f"the folder {str(folder)!r} holds no warm-up: {LESS_FILE} is missing") from error
        except (OSError, ValueError, TypeError) as error:
            raise Damaged(f"the warm-up in {str(folder)!r} cannot be read: {error}") from error
        if not fits:
            raise Damaged(f"the warm-up in {str(folder)!r} does not fit together: warm up again")
        return made


def checkpoint_file(folder: Path, number: int) -> Path:
    """The file of a checkpoint, counted from 0."""
    return folder / f"checkpoint-{number + 1}.safetensors"


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """LoRA's matrices and Adam's moments after some steps."""

    lora_a: Mapping[str, torch.Tensor]
    """Layer -> A, (rank, inputs)."""
    lora_b: Mapping[str, torch.Tensor]
    """Layer -> B, (outputs, rank)."""
    exp_avg: torch.Tensor
    """(p,) Adam's first moment m, of A and B of each layer in order."""
    exp_avg_sq: torch.Tensor
    """(p,) Adam's second moment v."""

    def write(self, path: Path) -> str:
        """Write it; returns the SHA-256 of the file."""
        tensors = {"exp_avg": self.exp_avg, "exp_avg_sq": self.exp_avg_sq}
        tensors |= {f"lora_a.{name}": value for name, value in self.lora_a.items()}
        tensors |= {f"lora_b.{name}": value for name, value in self.lora_b.items()}
        plain = {name: value.detach().float().cpu().contiguous() for name, value in tensors.items()}
        content: bytes = load("safetensors.torch", "hf").save(plain)
        path.write_bytes(content)
        return hashlib.sha256(content).hexdigest()

    @classmethod
    def read(cls, path: Path, layers: Sequence[str], digest: str, device: str) -> Checkpoint:
        """The one in a file, whole."""
        try:
            content = path.read_bytes()
        except OSError as error:
            raise Damaged(f"{path}: this checkpoint of a warm-up cannot be read: {error.strerror}") from error
        if hashlib.sha256(content).hexdigest() != digest:
            raise Damaged(f"{path}: this checkpoint is not what was written: warm up again")
        known = {name: value.to(device) for name, value in load("safetensors.torch", "hf").load(content).items()}
        a, b = ({name: known[f"{which}.{name}"] for name in layers} for which in ("lora_a", "lora_b"))
        return cls(a, b, known["exp_avg"], known["exp_avg_sq"])


def adam_direction(
    gradients: torch.Tensor, exp_avg: torch.Tensor, exp_avg_sq: torch.Tensor, warm_up: WarmUp, steps: int
) -> torch.Tensor:
    """Γ = m̂ / √(v̂ + ε), the step that Adam would take next on each of (rows, p) gradients.

    m̂ = (β₁ m + (1 − β₁) g) / (1 − β₁ᵗ) and v̂ = (β₂ v + (1 − β₂) g²) / (1 − β₂ᵗ), where t counts the step.
    """
    (beta1, beta2), time = warm_up.betas, steps + 1
    first = (beta1 * exp_avg + (1 - beta1) * gradients) / (1 - beta1**time)
    second = (beta2 * exp_avg_sq + (1 - beta2) * gradients**2) / (1 - beta2**time)
    return first / (second + warm_up.epsilon).sqrt()


class LoraSum:
    """The gradients of a layer's A and B, exactly, in their place among those of all layers."""

    def __init__(self, a: torch.Tensor, b: torch.Tensor, scale: float, start: int) -> None:
        self._a, self._b, self._scale = a, b, scale
        self._start, self._middle = start, start + a.numel()
        self.end = self._middle + b.numel()

    def add(self, total: torch.Tensor, rows: torch.Tensor, deltas: torch.Tensor, states: torch.Tensor) -> None:
        """∂L/∂A = s Bᵀ Σₜ δₜ hₜᵀ and ∂L/∂B = s Σₜ δₜ (A hₜ)ᵀ, for each text."""
        deltas, states = deltas.float() * self._scale, states.float()
        inner, outer = deltas @ self._b, states @ self._a.mT
        for row in rows.unique().tolist():
            own = rows == row
            total[row, self._start : self._middle] += (inner[own].mT @ states[own]).reshape(-1)
            total[row, self._middle : self.end] += (deltas[own].mT @ outer[own]).reshape(-1)


def open_less(folder: str, settings: LessSettings) -> LessNetwork:
    """The warm-up in a folder, with its base model."""
    warm_up = WarmUp.read(Path(folder))
    name = str(bundled_model()) if warm_up.model == TINY_MODEL else warm_up.model
    tokenizer = checked_fast_tokenizer(transformers.AutoTokenizer.from_pretrained(name), name)
    device = device_or_best(settings.device)
    model, info = transformers.AutoModelForCausalLM.from_pretrained(name, dtype=torch.float32, output_loading_info=True)
    check_complete(info["missing_keys"])
    if weights_digest(model) != warm_up.weights:
        raise InvalidInput(
            f"{warm_up.model!r} is not the model that was warmed up in {folder!r}: its weights have changed"
        )
    model = model.eval().to(device).requires_grad_(False)
    checkpoints = [
        Checkpoint.read(checkpoint_file(Path(folder), at), warm_up.layers, digest, device)
        for at, digest in enumerate(warm_up.digests)
    ]
    return LessNetwork(model, tokenizer, settings, warm_up, checkpoints)


class LessNetwork:
    """A base model, which the checkpoints' adapters are merged into one after the other."""

    def __init__(
        self, model: Any, tokenizer: Any, settings: LessSettings, warm_up: WarmUp, checkpoints: Sequence[Checkpoint]
    ) -> None:
        self.tokenizer, self._model, self._settings, self._warm_up = tokenizer, model, settings, warm_up
        self._checkpoints = list(checkpoints)
        self.width = settings.width * len(self._checkpoints)
        positions = position_limit(model)
        self.max_tokens = token_limits(tokenizer, positions, {True: "", False: ""}, settings.max_tokens).text
        self._layers = chosen_layers(model, list(warm_up.layers))
        if sorted(one.name for one in self._layers) != sorted(warm_up.layers):
            raise Damaged(f"the layers of the warm-up are not those of {warm_up.model!r}: warm up again")
        self._plain = {one.name: one.module.weight.detach().clone() for one in self._layers}
        self.parameters = len(self._checkpoints[0].exp_avg)
        self._project = SignedSums(f"{settings.seed} less", self.parameters, settings.width, model.device)
        rates: FloatArray = np.array(warm_up.rates)
        self._weights = np.sqrt(rates / rates.sum())
        self._turn = threading.Lock()
        self.digest = {
            "checkpoints": list(warm_up.digests),
            "max_tokens": self.max_tokens,
            "rates": list(warm_up.rates),
            "seed": settings.seed,
            "tokenizer": tokenizer_digest(tokenizer),
            "version": LESS_VERSION,
            "weights": warm_up.weights,
            "width": settings.width,
        }

    def embed(self, texts: list[str], *, as_query: bool) -> Vectors:
        """(n, d) float32 of unit length; zero for a text without tokens."""
        ids = tuning_token_ids(self.tokenizer, [without_surrogates(text) for text in texts], self.max_tokens)
        lengths = [len(one) - 1 for one in ids]
        vectors = np.zeros((len(ids), self.width), dtype=np.float32)
        with self._turn:
            for at, weight in enumerate(self._weights):
                part = slice(at * self._settings.width, (at + 1) * self._settings.width)
                passes = self._at(at)
                for rows in self._batches(lengths):
                    gradients = self._gradients(passes, [ids[row] for row in rows])
                    vectors[rows, part] = weight * self._features(gradients, at, as_query=as_query).cpu().numpy()
        return vectors

    def tokens(self, texts: list[str]) -> list[IntArray]:
        return token_spans(self.tokenizer, texts)

    def _at(self, number: int) -> GradientPasses:
        """Merge a checkpoint's adapter into the model."""
        checkpoint, scale = self._checkpoints[number], self._warm_up.scale
        layers = {one.name: one for one in self._layers}
        sums, start = {}, 0
        for name in self._warm_up.layers:
            a, b = checkpoint.lora_a[name], checkpoint.lora_b[name]
            sums[name] = LoraSum(a, b, scale, start)
            start = sums[name].end
            _set_weight(layers[name], self._plain[name], scale * (b @ a))
        return GradientPasses(self._model, self._layers, sums, self._settings.precision)

    def _batches(self, lengths: Sequence[int]) -> list[list[int]]:
        """Rows that go through the model together; their gradients are held at once."""
        budget = self._settings.batch_tokens or default_batch_tokens(self._model.device.type)
        most = max(1, MAX_GRADIENT_ENTRIES // self.parameters)
        found = []
        for batch in batches(lengths, budget):
            rows = [int(row) for row in batch if lengths[row] > 0]
            found += [rows[start : start + most] for start in range(0, len(rows), most)]
        return found

    def _gradients(self, passes: GradientPasses, texts: list[list[int]]) -> torch.Tensor:
        """(texts, p) exact gradients of the mean loss a token."""
        total = torch.zeros((len(texts), self.parameters), device=passes.device)
        passes.accumulate(total, texts)
        return total

    def _features(self, gradients: torch.Tensor, number: int, *, as_query: bool) -> torch.Tensor:
        """(texts, width) of unit length."""
        if not as_query:
            one = self._checkpoints[number]
            gradients = adam_direction(
                gradients, one.exp_avg, one.exp_avg_sq, self._warm_up, self._warm_up.steps[number]
            )
        return torch.nn.functional.normalize(self._project(gradients), dim=1, eps=1e-30)


def _set_weight(layer: LinearLayer, plain: torch.Tensor, update: torch.Tensor) -> None:
    """W + an update (outputs, inputs); GPT-2's layers hold it the other way round."""
    transposed = type(layer.module).__name__ == "Conv1D"
    layer.module.weight.data.copy_(plain + (update.mT if transposed else update))


class SignedSums:
    """A random projection (rows, p) -> (rows, width) that keeps inner products on average: a count sketch."""

    def __init__(self, key: str, size: int, width: int, device: torch.device) -> None:
        side = sketch_hash(key, size, width)
        self._width = width
        self._buckets = torch.tensor(side.buckets, device=device)
        self._signs = torch.tensor(side.signs, dtype=torch.float32, device=device)

    def __call__(self, values: torch.Tensor) -> torch.Tensor:
        """Σ over the entries of each bucket, signed."""
        sums = torch.zeros((len(values), self._width), device=values.device)
        return sums.index_add_(1, self._buckets, values * self._signs)
