"""Models of sentence-transformers, with the pooling and the prompts that they bring along."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from siftlm.embedding.loading import (
    TokenLimits,
    checked_fast_tokenizer,
    device_or_best,
    load_quietly,
    needs_float32,
    precision_checked,
    token_limits,
    token_spans,
    tokenizer_digest,
    weights_digest,
    without_surrogates,
)
from siftlm.embedding.protocol import fingerprint
from siftlm.embedding.transformer import autocast, batches, default_batch_tokens
from siftlm.extras import load
from siftlm.types import IntArray, Vectors
from siftlm.validation import list_of_texts, whole_number


@dataclass(frozen=True)
class _SentenceNetwork:
    """What was loaded."""

    model: Any
    tokenizer: Any
    width: int
    limits: TokenLimits
    prefixes: dict[bool, str]
    digest: dict[str, Any]


class SentencesEmbedder:
    """A sentence-transformers model, loaded when it is first needed. Prefixes that are not given are the model's own.

    ``settings`` leave out ``device`` and ``batch_tokens``, which belong to a machine and not to the vectors.
    """

    def __init__(
        self,
        name: str,
        model: str,
        *,
        max_tokens: int | None = None,
        query_prefix: str | None = None,
        passage_prefix: str | None = None,
        precision: str | None = None,
        device: str | None = None,
        batch_tokens: int | None = None,
    ) -> None:
        self.name, self._model, self._device = name, model, device
        self._asked = None if max_tokens is None else whole_number("max_tokens", max_tokens)
        self._query_prefix, self._passage_prefix = query_prefix, passage_prefix
        self._precision = precision_checked(precision)
        self._batch_tokens = None if batch_tokens is None else whole_number("batch_tokens", batch_tokens)
        self._lock = threading.Lock()
        self._loaded: _SentenceNetwork | None = None

    @property
    def settings(self) -> dict[str, Any]:
        given = {
            "max_tokens": self._asked,
            "query_prefix": self._query_prefix,
            "passage_prefix": self._passage_prefix,
            "precision": self._precision,
        }
        return {name: value for name, value in given.items() if value is not None}

    @property
    def fingerprint(self) -> str:
        return fingerprint("sentences", self._ready().digest)

    @property
    def width(self) -> int:
        return self._ready().width

    @property
    def max_tokens(self) -> int | None:
        """Of the text itself: special tokens and prefixes come on top."""
        return self._ready().limits.text

    def embed(self, texts: Sequence[str], *, as_query: bool = False) -> Vectors:
        """(n, d) float32."""
        known = self._ready()
        cut, lengths = self._cut([without_surrogates(text) for text in list_of_texts("texts", texts)], known)
        vectors = np.zeros((len(cut), known.width), dtype=np.float32)
        extra = known.limits.special + known.limits.prefixes[as_query]
        budget = self._batch_tokens or default_batch_tokens(known.model.device.type)
        for batch in batches([length + extra for length in lengths], budget):
            with autocast(known.model.device.type, self._precision):
                vectors[batch] = known.model.encode(
                    [cut[place] for place in batch],
                    prompt=known.prefixes[as_query],
                    batch_size=len(batch),
                    show_progress_bar=False,
                )
        return vectors

    def tokens(self, texts: Sequence[str]) -> list[IntArray]:
        """The model's own tokens."""
        return token_spans(self._ready().tokenizer, list_of_texts("texts", texts))

    def _cut(self, texts: list[str], known: _SentenceNetwork) -> tuple[list[str], list[int]]:
        """The texts as far as they are read, and their lengths in tokens."""
        found, most = token_spans(known.tokenizer, texts), known.limits.text
        lengths = [len(one) if most is None else min(len(one), most) for one in found]
        cut = [
            text if len(one) == length else text[: one[length - 1, 1]]
            for text, one, length in zip(texts, found, lengths, strict=True)
        ]
        return cut, lengths

    def _ready(self) -> _SentenceNetwork:
        with self._lock:
            if self._loaded is None:
                self._loaded = load_quietly(self._model, "embed", self._open)
            return self._loaded

    def _open(self) -> _SentenceNetwork:
        library = load("sentence_transformers", "embed")
        device = device_or_best(self._device)
        model = library.SentenceTransformer(self._model, device=device).eval()
        if needs_float32(device, self._precision):
            model = model.float()
        tokenizer = checked_fast_tokenizer(model.tokenizer, self._model)
        prefixes = self._prefixes_of(model)
        limits = token_limits(tokenizer, model.max_seq_length, prefixes, self._asked)
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
        return _SentenceNetwork(model, tokenizer, int(width_of()), limits, prefixes, digest)

    def _prefixes_of(self, model: Any) -> dict[bool, str]:
        own = {name: prompt for name, prompt in model.prompts.items() if prompt}
        default = own.get(model.default_prompt_name, "")
        query, passage = self._query_prefix, self._passage_prefix
        if query is None:
            query = own.get("query", default)
        if passage is None:
            passage = own.get("document") or own.get("passage") or default
        return {True: query, False: passage}


def _module_description(module: Any) -> str:
    """What a step of the model does, apart from its weights."""
    pooling = getattr(module, "get_pooling_mode_str", None)
    return f"{type(module).__name__} {pooling()}" if callable(pooling) else type(module).__name__
