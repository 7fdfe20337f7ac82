"""Embedders that a model runs: their settings, checked, and the model, which is loaded when it is first needed.

Nothing here imports a model's libraries; `open_network` does.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from functools import partial
from typing import Any, Protocol

from siftlm.embedding.protocol import fingerprint
from siftlm.errors import InvalidInput, UnknownName, setting
from siftlm.extras import load
from siftlm.types import IntArray, Vectors
from siftlm.validation import list_of_texts, whole_number

# Settings that belong to a machine and not to the vectors.
MACHINE_SETTINGS = ("device", "batch_tokens")
PRECISIONS = ("float32", "bfloat16", "float16")
LAYER_SETS = ("head", "block", "lora")
POOLINGS = ("weighted", "mean", "last")
DEFAULT_SKETCH_WIDTH = 1024
# As published: the influences of LESS are small, so more than a cosine's hundredths have to be kept.
DEFAULT_LESS_WIDTH = 8192
# What a folder of checkpoints for LESS is known by.
LESS_FILE = "less.json"


@dataclass(frozen=True)
class ModelSettings:
    """The settings of an encoder or a sentence-transformers model."""

    max_tokens: int | None = None
    """At most so many tokens of a text are read; ``None``: as many as the model can."""
    query_prefix: str | None = None
    """Put before each prompt; ``None``: the model's own, if it brings one along."""
    passage_prefix: str | None = None
    """Put before each passage; ``None``: the model's own, if it brings one along."""
    precision: str | None = None
    """The precision of the arithmetic; ``None``: float32 on a processor."""
    device: str | None = None
    """The device; ``None``: the graphics card where there is one."""
    batch_tokens: int | None = None
    """Tokens that go through the model at once."""

    def __post_init__(self) -> None:
        _check_model_settings(self)


@dataclass(frozen=True)
class StatesSettings(ModelSettings):
    """The settings of the hidden states of a causal language model."""

    layer: int = -1
    """0 is the input, -1 the last layer."""
    pooling: str = "weighted"
    """``weighted``: token i of T weighs i / Σ i, as in RDS+; ``mean``: all alike; ``last``: the last token alone."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.pooling not in POOLINGS:
            raise UnknownName("pooling", self.pooling, POOLINGS, is_setting=True)


@dataclass(frozen=True)
class ProjectionSettings:
    """The settings of embedders that project gradients of a causal language model."""

    width: int = DEFAULT_SKETCH_WIDTH
    """The width of the vectors; inner products are off by about 1 / √width of the product of the norms."""
    seed: int = 0
    """The seed of the projection."""
    max_tokens: int | None = None
    """This and the others are those of `ModelSettings`."""
    precision: str | None = None
    device: str | None = None
    batch_tokens: int | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "width", whole_number("width", self.width))
        object.__setattr__(self, "seed", whole_number("seed", self.seed, least=0))
        _check_model_settings(self)


@dataclass(frozen=True)
class GradientSettings(ProjectionSettings):
    """The settings of sketched gradients of a causal language model."""

    layers: str | Sequence[str] = "head"
    """``head``: the output layer, which needs no backward pass; ``block``: the linear layers of the last block;
    ``lora``: those of all blocks; or a list of ends of names, such as ``["down_proj", "head"]``."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "layers", check_layers(self.layers))
        super().__post_init__()


@dataclass(frozen=True)
class LessSettings(ProjectionSettings):
    """The settings of LESS's features; the width is that of the vectors of each checkpoint."""

    width: int = DEFAULT_LESS_WIDTH


def _check_model_settings(settings: AnySettings) -> None:
    for name in ("max_tokens", "batch_tokens"):
        value = getattr(settings, name)
        if value is not None:
            object.__setattr__(settings, name, whole_number(name, value))
    if settings.precision is not None and settings.precision not in PRECISIONS:
        known = ", ".join(map(repr, PRECISIONS))
        raise InvalidInput(f"{setting('precision')} must be {known} or None, not {settings.precision!r}")


def check_layers(layers: Any) -> str | list[str]:
    """One of `LAYER_SETS`, or a list of names."""
    if isinstance(layers, str):
        if layers not in LAYER_SETS:
            raise UnknownName("choice of layers", layers, (*LAYER_SETS, "a list of names such as ['down_proj']"))
        return layers
    names = list(layers) if isinstance(layers, (list, tuple)) else []
    if not names or not all(isinstance(name, str) and name for name in names):
        raise InvalidInput(
            f"{setting('layers')} must be one of {', '.join(LAYER_SETS)}, or a list of names, got {layers!r}"
        )
    return names


AnySettings = ModelSettings | ProjectionSettings


class ModelNetwork(Protocol):
    """A model with its tokenizer, loaded."""

    @property
    def width(self) -> int:
        """d."""

    @property
    def max_tokens(self) -> int | None:
        """Tokens of a text that are read; special tokens and prefixes come on top."""

    @property
    def digest(self) -> dict[str, Any]:
        """Whatever changes the vectors."""

    def embed(self, texts: list[str], *, as_query: bool) -> Vectors:
        """(n, d) float32; zero for a text without tokens."""

    def tokens(self, texts: list[str]) -> list[IntArray]:
        """The `siftlm.embedding.Embedder.tokens`."""


class ModelEmbedder:
    """An embedder of the kind ``encoder``, ``states``, ``sentences``, ``gradients`` or ``less``."""

    def __init__(self, name: str, kind: str, settings: AnySettings, opener: Callable[[], ModelNetwork]) -> None:
        self.name, self.kind = name, kind
        self._settings, self._open = settings, opener
        self._lock = threading.Lock()
        self._network: ModelNetwork | None = None

    @property
    def settings(self) -> dict[str, Any]:
        """The settings that differ from their defaults and change the vectors."""
        values = {one.name: (getattr(self._settings, one.name), one.default) for one in fields(self._settings)}
        return {
            name: value
            for name, (value, default) in values.items()
            if name not in MACHINE_SETTINGS and value != default
        }

    @property
    def fingerprint(self) -> str:
        return fingerprint(self.kind, self._ready().digest)

    @property
    def width(self) -> int:
        return self._ready().width

    @property
    def max_tokens(self) -> int | None:
        """Tokens of a text that are read; special tokens and prefixes come on top."""
        return self._ready().max_tokens

    def embed(self, texts: Sequence[str], *, as_query: bool = False) -> Vectors:
        """(n, d) float32; zero for a text without tokens."""
        listed = list_of_texts("texts", texts)
        return self._ready().embed(listed, as_query=as_query)

    def tokens(self, texts: Sequence[str]) -> list[IntArray]:
        """The model's own tokens."""
        listed = list_of_texts("texts", texts)
        return self._ready().tokens(listed)

    def _ready(self) -> ModelNetwork:
        with self._lock:
            if self._network is None:
                self._network = self._open()
            return self._network


def open_network(kind: str, model: str, settings: Any) -> ModelNetwork:
    """Load the model in the folder or hub repository ``model``, and the libraries that it needs."""
    extra = "embed" if kind == "sentences" else "hf"
    for library in ("torch", "transformers", *(["sentence_transformers"] if kind == "sentences" else [])):
        load(library, extra)
    # Only here: these files import torch.
    from siftlm.embedding import gradients, less, loading, transformer

    openers: dict[str, Callable[[str, Any], ModelNetwork]] = {
        "encoder": transformer.open_encoder,
        "gradients": gradients.open_gradients,
        "less": less.open_less,
        "sentences": transformer.open_sentences,
        "states": transformer.open_states,
    }
    return loading.load_quietly(model, partial(openers[kind], model, settings))
