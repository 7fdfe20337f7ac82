"""Hugging Face encoders and the hidden states of causal language models, pooled."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from siftlm.embedding.loading import (
    TokenLimits,
    checked_fast_tokenizer,
    device_or_best,
    load_quietly,
    needs_float32,
    position_limit,
    precision_checked,
    token_ids,
    token_limits,
    token_spans,
    tokenizer_digest,
    weights_digest,
    without_surrogates,
)
from siftlm.embedding.protocol import fingerprint
from siftlm.errors import InvalidInput
from siftlm.extras import load
from siftlm.types import IntArray, Vectors
from siftlm.validation import list_of_texts, whole_number

Pooling = Callable[[Any, Any], Any]
"""(batch, tokens, d) states and the (batch, tokens) mask of what is no padding -> (batch, d)."""


@dataclass(frozen=True)
class _TransformerNetwork:
    """What was loaded."""

    tokenizer: Any
    model: Any
    limits: TokenLimits
    digest: dict[str, Any]


class TransformerEmbedder:
    """A pooled layer of a Hugging Face model. The model is loaded when it is first needed.

    ``settings`` leave out ``device`` and ``batch_tokens``, which belong to a machine and not to the vectors.
    """

    def __init__(
        self,
        kind: str,
        name: str,
        model: str,
        pool: Pooling,
        *,
        layer: int = -1,
        max_tokens: int | None = None,
        query_prefix: str = "",
        passage_prefix: str = "",
        precision: str | None = None,
        device: str | None = None,
        batch_tokens: int | None = None,
    ) -> None:
        self.name = name
        self._kind, self._model, self._pool, self._layer = kind, model, pool, layer
        self._asked = None if max_tokens is None else whole_number("max_tokens", max_tokens)
        self._prefixes = {True: query_prefix, False: passage_prefix}
        self._precision, self._device = precision_checked(precision), device
        self._batch_tokens = None if batch_tokens is None else whole_number("batch_tokens", batch_tokens)
        self._lock = threading.Lock()
        self._network: _TransformerNetwork | None = None

    @property
    def settings(self) -> dict[str, Any]:
        given = {
            "layer": (self._layer, -1),
            "max_tokens": (self._asked, None),
            "query_prefix": (self._prefixes[True], ""),
            "passage_prefix": (self._prefixes[False], ""),
            "precision": (self._precision, None),
        }
        return {name: value for name, (value, default) in given.items() if value != default}

    @property
    def fingerprint(self) -> str:
        return fingerprint(self._kind, self._ready().digest)

    @property
    def width(self) -> int:
        return int(self._ready().model.config.hidden_size)

    @property
    def max_tokens(self) -> int | None:
        """Of the text itself: special tokens and prefixes come on top."""
        return self._ready().limits.text

    def embed(self, texts: Sequence[str], *, as_query: bool = False) -> Vectors:
        """(n, d) float32; zero for a text without tokens."""
        prefix = self._prefixes[as_query]
        prefixed = [prefix + without_surrogates(text) for text in list_of_texts("texts", texts)]
        network = self._ready()
        ids = token_ids(network.tokenizer, prefixed, network.limits.with_prefix(as_query))
        lengths = [len(one) for one in ids]
        vectors = np.zeros((len(ids), self.width), dtype=np.float32)
        for batch in batches(lengths, self._batch_tokens or default_batch_tokens(network.model.device.type)):
            batch = np.array([place for place in batch if lengths[place]], dtype=np.int64)
            if len(batch):
                vectors[batch] = self._run(network, [ids[place] for place in batch])
        return vectors

    def tokens(self, texts: Sequence[str]) -> list[IntArray]:
        """The model's own tokens."""
        return token_spans(self._ready().tokenizer, list_of_texts("texts", texts))

    def _run(self, network: _TransformerNetwork, ids: list[list[int]]) -> Vectors:
        torch, model = load("torch", "hf"), network.model
        padded = torch.full((len(ids), len(ids[0])), _padding_id(network), dtype=torch.long)
        mask = torch.zeros_like(padded)
        # On the right: a causal model then sees every token where it would be without padding.
        for row, one in enumerate(ids):
            padded[row, : len(one)] = torch.tensor(one)
            mask[row, : len(one)] = 1
        padded, mask = padded.to(model.device), mask.to(model.device)
        last = self._layer == -1
        with torch.inference_mode(), autocast(model.device.type, self._precision):
            out = model(input_ids=padded, attention_mask=mask, output_hidden_states=not last)
            states = out.last_hidden_state if last else out.hidden_states[self._layer]
        with torch.inference_mode():
            pooled: Vectors = self._pool(states.float(), mask).cpu().numpy()
        return pooled

    def _ready(self) -> _TransformerNetwork:
        with self._lock:
            if self._network is None:
                self._network = load_quietly(self._model, "hf", self._open)
            return self._network

    def _open(self) -> _TransformerNetwork:
        transformers = load("transformers", "hf")
        tokenizer = checked_fast_tokenizer(transformers.AutoTokenizer.from_pretrained(self._model), self._model)
        device = device_or_best(self._device)
        model, info = transformers.AutoModel.from_pretrained(self._model, output_loading_info=True)
        absent = sorted(name for name in info["missing_keys"] if "pooler." not in name)
        if absent:
            raise InvalidInput(f"the weights lack {len(absent)} of the model's tensors, such as {absent[0]}")
        config = model.config
        if config.is_encoder_decoder:
            model = model.get_encoder()
        depth = int(config.num_hidden_layers)
        if not -depth - 1 <= self._layer <= depth:
            raise InvalidInput(f"layer {self._layer} of {self._model!r}: it has the layers 0 to {depth}")
        prefixes = {which: without_surrogates(prefix) for which, prefix in self._prefixes.items()}
        limits = token_limits(tokenizer, position_limit(model), prefixes, self._asked)
        digest = {
            "layer": self._layer % (depth + 1),
            "max_tokens": limits.text,
            "model": str(config.model_type),
            "prefixes": [self._prefixes[True], self._prefixes[False]],
            "tokenizer": tokenizer_digest(tokenizer),
            "weights": weights_digest(model),
        }
        if needs_float32(device, self._precision):
            model = model.float()
        return _TransformerNetwork(tokenizer, model.eval().to(device), limits, digest)


def autocast(device: str, precision: str | None) -> Any:
    """The context that computes in ``precision``."""
    torch = load("torch", "hf")
    half = precision in {"bfloat16", "float16"}
    return torch.autocast(device, dtype=getattr(torch, str(precision)) if half else None, enabled=half)


def _padding_id(network: _TransformerNetwork) -> int:
    for known in (network.tokenizer.pad_token_id, getattr(network.model.config, "pad_token_id", None)):
        if isinstance(known, int) and known >= 0:
            return known
    return 0  # masked out


def encoder_embedder(
    name: str,
    model: str,
    *,
    max_tokens: int | None = None,
    query_prefix: str = "",
    passage_prefix: str = "",
    precision: str | None = None,
    device: str | None = None,
    batch_tokens: int | None = None,
) -> TransformerEmbedder:
    """The encoder in the folder or hub repository ``model``."""
    return TransformerEmbedder(
        "encoder",
        name,
        model,
        mean_pooling,
        max_tokens=max_tokens,
        query_prefix=query_prefix,
        passage_prefix=passage_prefix,
        precision=precision,
        device=device,
        batch_tokens=batch_tokens,
    )


def mean_pooling(states: Any, mask: Any) -> Any:
    """Σₜ hₜ / T."""
    weights = mask.unsqueeze(-1).to(states.dtype)
    return (states * weights).sum(dim=1) / weights.sum(dim=1)


def states_embedder(
    name: str,
    model: str,
    *,
    layer: int = -1,
    max_tokens: int | None = None,
    query_prefix: str = "",
    passage_prefix: str = "",
    precision: str | None = None,
    device: str | None = None,
    batch_tokens: int | None = None,
) -> TransformerEmbedder:
    """The states of the model in the folder or hub repository ``model``; layer 0 is the input, -1 the last."""
    return TransformerEmbedder(
        "states",
        name,
        model,
        position_weighted_pooling,
        layer=layer,
        max_tokens=max_tokens,
        query_prefix=query_prefix,
        passage_prefix=passage_prefix,
        precision=precision,
        device=device,
        batch_tokens=batch_tokens,
    )


def position_weighted_pooling(states: Any, mask: Any) -> Any:
    """Σₜ t·hₜ / Σₜ t, where t counts from 1."""
    weights = (mask.cumsum(dim=1) * mask).unsqueeze(-1).to(states.dtype)
    return (states * weights).sum(dim=1) / weights.sum(dim=1)


def batches(lengths: Sequence[int], budget: int) -> Iterator[IntArray]:
    """Indices, the longest texts first; a text beyond the budget goes alone.

    >>> [batch.tolist() for batch in batches([1, 5, 2, 2], budget=6)]
    [[1], [2, 3, 0]]
    """
    order = np.argsort(-np.asarray(lengths, dtype=np.int64), kind="stable")
    start = 0
    while start < len(order):
        # Sorted downwards: the first is the longest, and what the others are padded to.
        count = max(1, budget // max(1, lengths[order[start]]))
        yield order[start : start + count]
        start += count


def default_batch_tokens(device: str) -> int:
    """A budget, padding included: on a processor more gains nothing, a graphics card must be kept busy."""
    return 4096 if device == "cpu" else 65_536
