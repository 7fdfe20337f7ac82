"""Hugging Face encoders, hidden states of causal language models, and sentence-transformers models."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import transformers

from siftlm.embedding.loading import (
    TokenLimits,
    check_complete,
    checked_fast_tokenizer,
    device_or_best,
    needs_float32,
    position_limit,
    token_ids,
    token_limits,
    token_spans,
    tokenizer_digest,
    weights_digest,
    without_surrogates,
)
from siftlm.embedding.models import ModelSettings, StatesSettings
from siftlm.errors import InvalidInput, setting
from siftlm.extras import load
from siftlm.types import IntArray, Vectors

Pooling = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""(batch, tokens, d) states and the (batch, tokens) mask of what is no padding -> (batch, d)."""


def open_encoder(name: str, settings: ModelSettings) -> TransformerNetwork:
    """An encoder; its vectors are the mean of its last states."""
    return _open_transformer(name, settings, mean_pooling, -1)


def open_states(name: str, settings: StatesSettings) -> TransformerNetwork:
    """The states of a layer of a causal language model, pooled."""
    return _open_transformer(name, settings, STATE_POOLINGS[settings.pooling], settings.layer)


def mean_pooling(states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Σₜ hₜ / T."""
    weights = mask.unsqueeze(-1).to(states.dtype)
    return (states * weights).sum(dim=1) / weights.sum(dim=1)


def position_weighted_pooling(states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Σₜ t·hₜ / Σₜ t, where t counts from 1."""
    weights = (mask.cumsum(dim=1) * mask).unsqueeze(-1).to(states.dtype)
    return (states * weights).sum(dim=1) / weights.sum(dim=1)


def last_pooling(states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """h_T."""
    return states[torch.arange(len(states), device=states.device), mask.sum(dim=1) - 1]


STATE_POOLINGS: dict[str, Pooling] = {
    "weighted": position_weighted_pooling,
    "mean": mean_pooling,
    "last": last_pooling,
}


def _open_transformer(name: str, settings: ModelSettings, pool: Pooling, layer: int) -> TransformerNetwork:
    tokenizer = checked_fast_tokenizer(transformers.AutoTokenizer.from_pretrained(name), name)
    device = device_or_best(settings.device)
    model, info = transformers.AutoModel.from_pretrained(name, output_loading_info=True)
    check_complete(key for key in info["missing_keys"] if "pooler." not in key)
    config = model.config
    if config.is_encoder_decoder:
        model = model.get_encoder()
    depth = int(config.num_hidden_layers)
    if not -depth - 1 <= layer <= depth:
        raise InvalidInput(f"{setting('layer', layer)} of {name!r}: it has the layers 0 to {depth}")
    prefixes = {True: settings.query_prefix or "", False: settings.passage_prefix or ""}
    readable = {which: without_surrogates(prefix) for which, prefix in prefixes.items()}
    limits = token_limits(tokenizer, position_limit(model), readable, settings.max_tokens)
    digest = {
        "layer": layer % (depth + 1),
        "max_tokens": limits.text,
        "model": str(config.model_type),
        "prefixes": [prefixes[True], prefixes[False]],
        "tokenizer": tokenizer_digest(tokenizer),
        "weights": weights_digest(model),
    }
    if isinstance(settings, StatesSettings) and settings.pooling != StatesSettings.pooling:
        digest["pooling"] = settings.pooling  # the default has none: memories were built before there was a choice
    if needs_float32(device, settings.precision):
        model = model.float()
    return TransformerNetwork(tokenizer, model.eval().to(device), pool, layer, prefixes, limits, digest, settings)


@dataclass(frozen=True)
class TransformerNetwork:
    """A pooled layer of a Hugging Face model."""

    tokenizer: Any
    model: Any
    pool: Pooling
    layer: int
    prefixes: dict[bool, str]
    """The prefix of a query (True) and of a passage (False)."""
    limits: TokenLimits
    digest: dict[str, Any]
    settings: ModelSettings

    @property
    def width(self) -> int:
        return int(self.model.config.hidden_size)

    @property
    def max_tokens(self) -> int | None:
        return self.limits.text

    def embed(self, texts: list[str], *, as_query: bool) -> Vectors:
        """(n, d) float32; zero for a text without tokens."""
        prefixed = [self.prefixes[as_query] + without_surrogates(text) for text in texts]
        ids = token_ids(self.tokenizer, prefixed, self.limits.with_prefix(as_query))
        lengths = [len(one) for one in ids]
        vectors = np.zeros((len(ids), self.width), dtype=np.float32)
        budget = self.settings.batch_tokens or default_batch_tokens(self.model.device.type)
        for batch in batches(lengths, budget):
            rows = np.array([row for row in batch if lengths[row]], dtype=np.int64)
            if len(rows):
                vectors[rows] = self._pooled([ids[row] for row in rows])
        return vectors

    def tokens(self, texts: list[str]) -> list[IntArray]:
        return token_spans(self.tokenizer, texts)

    def _pooled(self, ids: list[list[int]]) -> Vectors:
        padded = torch.full((len(ids), len(ids[0])), self._padding_id(), dtype=torch.long)
        mask = torch.zeros_like(padded)
        # On the right: a causal model then sees every token where it would be without padding.
        for row, one in enumerate(ids):
            padded[row, : len(one)] = torch.tensor(one)
            mask[row, : len(one)] = 1
        padded, mask = padded.to(self.model.device), mask.to(self.model.device)
        last = self.layer == -1
        with torch.inference_mode():
            with autocast(self.model.device.type, self.settings.precision):
                out = self.model(input_ids=padded, attention_mask=mask, output_hidden_states=not last)
                states = out.last_hidden_state if last else out.hidden_states[self.layer]
            vectors: Vectors = self.pool(states.float(), mask).cpu().numpy()
        return vectors

    def _padding_id(self) -> int:
        for known in (self.tokenizer.pad_token_id, getattr(self.model.config, "pad_token_id", None)):
            if isinstance(known, int) and known >= 0:
                return known
        return 0  # masked out


def autocast(device: str, precision: str | None) -> AbstractContextManager[Any]:
    """The context that computes in ``precision``."""
    half = precision in {"bfloat16", "float16"}
    context: AbstractContextManager[Any] = torch.autocast(
        device, dtype=getattr(torch, str(precision)) if half else None, enabled=half
    )
    return context


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


# --- sentence-transformers: the pooling and the prompts are the model's own


def open_sentences(name: str, settings: ModelSettings) -> SentencesNetwork:
    """A sentence-transformers model; prefixes that are not set are the model's own."""
    library = load("sentence_transformers", "embed")
    device = device_or_best(settings.device)
    model = library.SentenceTransformer(name, device=device).eval()
    if needs_float32(device, settings.precision):
        model = model.float()
    tokenizer = checked_fast_tokenizer(model.tokenizer, name)
    prefixes = _sentence_prefixes(model, settings)
    limits = token_limits(tokenizer, model.max_seq_length, prefixes, settings.max_tokens)
    if limits.text is not None:
        # Texts are cut before, by their own tokens; this makes room for prefixes and special tokens.
        model.max_seq_length = max(limits.with_prefix(which) or 0 for which in prefixes)
    width_of = getattr(model, "get_embedding_dimension", None) or model.get_sentence_embedding_dimension
    digest = {
        "max_tokens": limits.text,
        "modules": [_module_description(module) for module in model],
        "prefixes": [prefixes[True], prefixes[False]],
        "tokenizer": tokenizer_digest(tokenizer),
        "weights": weights_digest(model),
    }
    return SentencesNetwork(tokenizer, model, int(width_of()), prefixes, limits, digest, settings)


def _sentence_prefixes(model: Any, settings: ModelSettings) -> dict[bool, str]:
    own = {name: prompt for name, prompt in model.prompts.items() if prompt}
    default = own.get(model.default_prompt_name, "")
    query, passage = settings.query_prefix, settings.passage_prefix
    if query is None:
        query = own.get("query", default)
    if passage is None:
        passage = own.get("document") or own.get("passage") or default
    return {True: query, False: passage}


def _module_description(module: Any) -> str:
    """A step of the model, apart from its weights."""
    pooling = getattr(module, "get_pooling_mode_str", None)
    return f"{type(module).__name__} {pooling()}" if callable(pooling) else type(module).__name__


@dataclass(frozen=True)
class SentencesNetwork:
    """A sentence-transformers model."""

    tokenizer: Any
    model: Any
    width: int
    prefixes: dict[bool, str]
    """The prefix of a query (True) and of a passage (False)."""
    limits: TokenLimits
    digest: dict[str, Any]
    settings: ModelSettings

    @property
    def max_tokens(self) -> int | None:
        return self.limits.text

    def embed(self, texts: list[str], *, as_query: bool) -> Vectors:
        """(n, d) float32."""
        cut, lengths = self._cut([without_surrogates(text) for text in texts])
        vectors = np.zeros((len(cut), self.width), dtype=np.float32)
        extra = self.limits.special + self.limits.prefixes[as_query]
        budget = self.settings.batch_tokens or default_batch_tokens(self.model.device.type)
        for batch in batches([length + extra for length in lengths], budget):
            with autocast(self.model.device.type, self.settings.precision):
                vectors[batch] = self.model.encode(
                    [cut[row] for row in batch],
                    prompt=self.prefixes[as_query],
                    batch_size=len(batch),
                    show_progress_bar=False,
                )
        return vectors

    def tokens(self, texts: list[str]) -> list[IntArray]:
        return token_spans(self.tokenizer, texts)

    def _cut(self, texts: list[str]) -> tuple[list[str], list[int]]:
        """The texts as far as they are read, and their lengths in tokens."""
        spans, most = token_spans(self.tokenizer, texts), self.limits.text
        lengths = [len(one) if most is None else min(len(one), most) for one in spans]
        cut = [
            text if len(one) == length else text[: one[length - 1, 1]]
            for text, one, length in zip(texts, spans, lengths, strict=True)
        ]
        return cut, lengths
