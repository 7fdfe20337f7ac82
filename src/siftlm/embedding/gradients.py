"""Texts as the gradients that a language model would learn from them: the kernel that tuning itself uses.

φ(x) is a random projection of the gradient of x's mean loss a token, so that φ(x)·φ(x') is an unbiased estimate of
what one plain gradient step on x does to the loss of x', per unit of the learning rate.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from siftlm.embedding.gradient_passes import GradientPasses, Layers, chosen_layers, layers_checked
from siftlm.embedding.loading import (
    TokenLimits,
    checked_fast_tokenizer,
    device_or_best,
    load_quietly,
    needs_float32,
    position_limit,
    precision_checked,
    token_limits,
    token_spans,
    tokenizer_digest,
    weights_digest,
    without_surrogates,
)
from siftlm.embedding.protocol import fingerprint
from siftlm.embedding.transformer import batches
from siftlm.errors import InvalidInput, setting
from siftlm.extras import load
from siftlm.types import IntArray, Vectors
from siftlm.validation import list_of_texts, whole_number

# Changes whenever the vectors of the same model and settings do.
GRADIENTS_VERSION = 1
DEFAULT_SKETCH_WIDTH = 1024


@dataclass(frozen=True)
class _GradientNetwork:
    """What was loaded."""

    tokenizer: Any
    gradients: GradientPasses
    limits: TokenLimits
    digest: dict[str, Any] | None
    """Of a model that is loaded by name."""


class GradientEmbedder:
    """Sketched gradients of a causal language model, by its name or already loaded.

    Args:
        name: of the embedder, such as ``gradients:gpt2``.
        model: a folder, a name on the Hugging Face hub, or a transformers model (with ``tokenizer``).
        layers: ``head``, the output layer, which needs no backward pass; ``block``, the linear layers of the last
            block; ``lora``, those of all blocks; or a list of ends of names, such as ``["down_proj", "head"]``.
        width: of the vectors; their inner products are off by about 1 / √width of the product of their norms.
        seed: of the projection.
        max_tokens: read at most so many tokens of a text; left out, as many as the model can.
        precision: of the arithmetic; left out, float32 on a processor.
        device: left out, the graphics card where there is one.
        batch_tokens: go through the model at once.
        tokenizer: of a model that is loaded already. Such a model is put into eval mode by the caller, and must not be
            used by other threads meanwhile.
    """

    def __init__(
        self,
        name: str,
        model: Any,
        *,
        layers: Layers = "head",
        width: int = DEFAULT_SKETCH_WIDTH,
        seed: int = 0,
        max_tokens: int | None = None,
        precision: str | None = None,
        device: str | None = None,
        batch_tokens: int | None = None,
        tokenizer: Any = None,
    ) -> None:
        self.name, self._model, self._tokenizer = name, model, tokenizer
        self._layers, self._width = layers_checked(layers), whole_number("width", width)
        self._seed = whole_number("seed", seed, least=0)
        self._asked = None if max_tokens is None else whole_number("max_tokens", max_tokens)
        self._precision, self._device = precision_checked(precision), device
        self._batch_tokens = None if batch_tokens is None else whole_number("batch_tokens", batch_tokens)
        if not isinstance(model, str) and tokenizer is None:
            raise InvalidInput(f"a model that is loaded already needs its tokenizer: pass {setting('tokenizer')}")
        self._lock, self._turn = threading.Lock(), threading.Lock()
        self._network: _GradientNetwork | None = None

    @property
    def settings(self) -> dict[str, Any]:
        given = {
            "layers": (self._layers, "head"),
            "width": (self._width, DEFAULT_SKETCH_WIDTH),
            "seed": (self._seed, 0),
            "max_tokens": (self._asked, None),
            "precision": (self._precision, None),
        }
        return {name: value for name, (value, default) in given.items() if value != default}

    @property
    def fingerprint(self) -> str:
        network = self._ready()
        # The weights of a model that was given may have changed.
        digest = network.digest or self._digest(network.tokenizer, self._model, network.limits)
        return fingerprint("gradients", digest)

    @property
    def width(self) -> int:
        return self._width

    @property
    def max_tokens(self) -> int | None:
        """Of the text itself: a first token that the tokenizer adds comes on top."""
        return self._ready().limits.text

    def embed(self, texts: Sequence[str], *, as_query: bool = False) -> Vectors:
        """(n, d) float32; zero for a text without tokens. Prompts and passages are treated alike."""
        del as_query
        readables = [without_surrogates(text) for text in list_of_texts("texts", texts)]
        network = self._ready()
        ids = _tuning_token_ids(network.tokenizer, readables, network.limits.text)
        lengths = [len(one) - 1 for one in ids]
        vectors = np.zeros((len(ids), self._width), dtype=np.float32)
        with self._turn:  # hooks belong to the model
            for batch in batches(lengths, self._batch_tokens or _default_batch_tokens(network.gradients.device.type)):
                some = [int(place) for place in batch if lengths[place] > 0]
                if some:
                    vectors[some] = network.gradients.of([ids[place] for place in some]).cpu().numpy()
        return vectors

    def tokens(self, texts: Sequence[str]) -> list[IntArray]:
        """The model's own tokens."""
        return token_spans(self._ready().tokenizer, list_of_texts("texts", texts))

    def _ready(self) -> _GradientNetwork:
        with self._lock:
            if self._network is None:
                if isinstance(self._model, str):
                    self._network = load_quietly(self._model, "hf", self._open)
                else:
                    self._network = self._made(self._tokenizer, self._model)
            return self._network

    def _open(self) -> _GradientNetwork:
        transformers = load("transformers", "hf")
        tokenizer = transformers.AutoTokenizer.from_pretrained(self._model)
        device = device_or_best(self._device)
        model, info = transformers.AutoModelForCausalLM.from_pretrained(self._model, output_loading_info=True)
        absent = sorted(info["missing_keys"])
        if absent:
            raise InvalidInput(f"the weights lack {len(absent)} of the model's tensors, such as {absent[0]}")
        if needs_float32(device, self._precision):
            model = model.float()
        model = model.eval().to(device)
        for p in model.parameters():
            p.requires_grad_(False)
        return self._made(checked_fast_tokenizer(tokenizer, self._model), model, own=True)

    def _made(self, tokenizer: Any, model: Any, *, own: bool = False) -> _GradientNetwork:
        if getattr(model, "get_output_embeddings", lambda: None)() is None or model.config.is_encoder_decoder:
            raise InvalidInput(f"{type(model).__name__} is no causal language model of transformers")
        limits = token_limits(tokenizer, position_limit(model), {True: "", False: ""}, self._asked)
        gradients = GradientPasses(model, chosen_layers(model, self._layers), self._width, self._seed, self._precision)
        return _GradientNetwork(tokenizer, gradients, limits, self._digest(tokenizer, model, limits) if own else None)

    def _digest(self, tokenizer: Any, model: Any, limits: TokenLimits) -> dict[str, Any]:
        return {
            "layers": [one.name for one in chosen_layers(model, self._layers)],
            "max_tokens": limits.text,
            "model": str(model.config.model_type),
            "seed": self._seed,
            "tokenizer": tokenizer_digest(tokenizer),
            "version": GRADIENTS_VERSION,
            "weights": weights_digest(model),
            "width": self._width,
        }


def gradients_embedder(
    name: str,
    model: str,
    *,
    layers: Layers = "head",
    width: int = DEFAULT_SKETCH_WIDTH,
    seed: int = 0,
    max_tokens: int | None = None,
    precision: str | None = None,
    device: str | None = None,
    batch_tokens: int | None = None,
) -> GradientEmbedder:
    """The gradients of the model in the folder or hub repository ``model``."""
    return GradientEmbedder(
        name,
        model,
        layers=layers,
        width=width,
        seed=seed,
        max_tokens=max_tokens,
        precision=precision,
        device=device,
        batch_tokens=batch_tokens,
    )


def _tuning_token_ids(tokenizer: Any, texts: list[str], longest: int | None) -> list[list[int]]:
    """The tokens that tuning learns from, behind the one that the tokenizer puts first, if it does.

    A single token is read behind the one that begins or ends texts, or there would be nothing to predict.
    """
    if not texts:
        return []
    options = {"truncation": True, "max_length": longest} if longest is not None else {"truncation": False}
    plain = tokenizer(texts, add_special_tokens=False, return_attention_mask=False, verbose=False, **options)[
        "input_ids"
    ]
    own = list(tokenizer("", add_special_tokens=True)["input_ids"])[:1]
    leading = own if own == [tokenizer.bos_token_id] else []
    starts = [token for token in (tokenizer.bos_token_id, tokenizer.eos_token_id) if isinstance(token, int)][:1]
    return [(starts if len(ids) == 1 and not leading else leading) + list(ids) if ids else [] for ids in plain]


def _default_batch_tokens(device: str) -> int:
    """A sketch of every token is held beside the activations."""
    return 4096 if device == "cpu" else 16_384
