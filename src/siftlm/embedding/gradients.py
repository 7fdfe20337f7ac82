"""Texts as the gradients that a language model would learn from them: the kernel that tuning itself uses.

φ(x) is a random projection of the gradient of x's mean loss a token, so that φ(x)·φ(x') is an unbiased estimate of
what one plain gradient step on x does to the loss of x', per unit of the learning rate.
"""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import torch
import transformers

from siftlm.embedding.gradient_passes import GradientPasses, TensorSketch, chosen_layers, from_frequency_domain
from siftlm.embedding.loading import (
    check_complete,
    checked_fast_tokenizer,
    device_or_best,
    needs_float32,
    position_limit,
    token_limits,
    token_spans,
    tokenizer_digest,
    weights_digest,
    without_surrogates,
)
from siftlm.embedding.models import GradientSettings, ModelEmbedder
from siftlm.embedding.transformer import batches
from siftlm.errors import InvalidInput
from siftlm.types import IntArray, Vectors

# Changes whenever the vectors of the same model and settings do.
GRADIENTS_VERSION = 1
DEFAULT_SETTINGS = GradientSettings()


def loaded_model_gradients(
    name: str, model: Any, tokenizer: Any, settings: GradientSettings = DEFAULT_SETTINGS
) -> ModelEmbedder:
    """The embedder of a transformers model that is loaded already.

    The caller puts the model into eval mode, and lets no other thread use it meanwhile. Its fingerprint is that of
    its weights at the moment.
    """
    return ModelEmbedder(name, "gradients", settings, lambda: GradientNetwork(model, tokenizer, settings))


def open_gradients(name: str, settings: GradientSettings) -> GradientNetwork:
    """The model in a folder or hub repository, which nothing changes any more."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(name)
    device = device_or_best(settings.device)
    model, info = transformers.AutoModelForCausalLM.from_pretrained(name, output_loading_info=True)
    check_complete(info["missing_keys"])
    if needs_float32(device, settings.precision):
        model = model.float()
    model = model.eval().to(device)
    for p in model.parameters():
        p.requires_grad_(False)
    return GradientNetwork(model, checked_fast_tokenizer(tokenizer, name), settings, fixed=True)


class GradientNetwork:
    """Sketched gradients of a causal language model."""

    def __init__(self, model: Any, tokenizer: Any, settings: GradientSettings, *, fixed: bool = False) -> None:
        """``fixed`` says that nobody changes the weights, so that they are looked at only once."""
        if getattr(model, "get_output_embeddings", lambda: None)() is None or model.config.is_encoder_decoder:
            raise InvalidInput(f"{type(model).__name__} is no causal language model of transformers")
        self.tokenizer, self.width, self._model, self._settings = tokenizer, settings.width, model, settings
        self.max_tokens = token_limits(
            tokenizer, position_limit(model), {True: "", False: ""}, settings.max_tokens
        ).text
        self._layers = chosen_layers(model, settings.layers)
        device, width, seed = next(model.parameters()).device, settings.width, settings.seed
        sketches = {
            one.name: TensorSketch(one.name, one.outputs, one.inputs, width, seed, device) for one in self._layers
        }
        self.gradients = GradientPasses(model, self._layers, sketches, settings.precision)
        self._turn = threading.Lock()
        self._fixed_digest = self._digest_now() if fixed else None

    @property
    def digest(self) -> dict[str, Any]:
        return self._fixed_digest or self._digest_now()

    def embed(self, texts: list[str], *, as_query: bool) -> Vectors:
        """(n, d) float32; zero for a text without tokens. Prompts and passages are treated alike."""
        del as_query
        ids = tuning_token_ids(self.tokenizer, [without_surrogates(text) for text in texts], self.max_tokens)
        lengths = [len(one) - 1 for one in ids]
        vectors = np.zeros((len(ids), self.width), dtype=np.float32)
        budget = self._settings.batch_tokens or default_batch_tokens(self.gradients.device.type)
        with self._turn:  # hooks belong to the model
            for batch in batches(lengths, budget):
                rows = [int(row) for row in batch if lengths[row] > 0]
                if rows:
                    vectors[rows] = self._sketches([ids[row] for row in rows]).cpu().numpy()
        return vectors

    def _sketches(self, texts: list[list[int]]) -> torch.Tensor:
        """(texts, width) of texts of two tokens or more."""
        total = torch.zeros((len(texts), self.width // 2 + 1, 2), device=self.gradients.device)
        self.gradients.accumulate(total, texts)
        return from_frequency_domain(total, self.width)

    def tokens(self, texts: list[str]) -> list[IntArray]:
        return token_spans(self.tokenizer, texts)

    def _digest_now(self) -> dict[str, Any]:
        return {
            "layers": [one.name for one in self._layers],
            "max_tokens": self.max_tokens,
            "model": str(self._model.config.model_type),
            "seed": self._settings.seed,
            "tokenizer": tokenizer_digest(self.tokenizer),
            "version": GRADIENTS_VERSION,
            "weights": weights_digest(self._model),
            "width": self.width,
        }


def tuning_token_ids(tokenizer: Any, texts: list[str], longest: int | None) -> list[list[int]]:
    """The tokens that tuning learns from, behind the one that the tokenizer puts first, if any.

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


def default_batch_tokens(device: str) -> int:
    """A sketch of every token is held beside the activations."""
    return 4096 if device == "cpu" else 16_384
