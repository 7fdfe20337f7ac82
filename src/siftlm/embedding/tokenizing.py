"""What is asked of a Hugging Face tokenizer: where the tokens are in a text."""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from siftlm.errors import InvalidInput
from siftlm.types import IntArray

# Half of a character that came alone: Python allows it, the tokenizers' Unicode does not.
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")


def without_surrogates(text: str) -> str:
    """The text as a tokenizer can take it, of the same length."""
    return _LONE_SURROGATE.sub("\ufffd", text)


def checked_fast_tokenizer(tokenizer: Any, model: str) -> Any:
    """The tokenizer, unless it cannot say where its tokens are."""
    if not getattr(tokenizer, "is_fast", False):
        raise InvalidInput(
            f"the tokenizer of {model!r} does not say where its tokens are in a text: it needs a tokenizer.json "
            "(transformers writes one: AutoTokenizer.from_pretrained(…).save_pretrained(…))"
        )
    return tokenizer


def token_ids(tokenizer: Any, texts: list[str], longest: int | None) -> list[list[int]]:
    """The ids of each text with special tokens, cut to ``longest``."""
    if not texts:
        return []
    options = {"truncation": True, "max_length": longest} if longest is not None else {"truncation": False}
    found: list[list[int]] = tokenizer(texts, return_attention_mask=False, verbose=False, **options)["input_ids"]
    return found


def token_spans(tokenizer: Any, texts: list[str]) -> list[IntArray]:
    """For each text, (t, 2): where its tokens start and end, without special tokens and without a limit."""
    if not texts:
        return []
    texts = [without_surrogates(text) for text in texts]
    found = tokenizer(
        texts,
        add_special_tokens=False,
        truncation=False,
        return_offsets_mapping=True,
        return_attention_mask=False,
        verbose=False,
    )["offset_mapping"]
    return [_ordered_spans(text, offsets) for text, offsets in zip(texts, found, strict=True)]


def _ordered_spans(text: str, offsets: list[tuple[int, int]]) -> IntArray:
    spans: IntArray = np.array(offsets, dtype=np.int64).reshape(-1, 2)
    # Some tokenizers cut spaces off their tokens' ends, so that a token of nothing but space has no width left. It
    # is read like any other, so it must be counted: it gets its last space back.
    for place in np.flatnonzero(spans[:, 0] >= spans[:, 1]):
        end = spans[place, 0]
        if end > 0 and text[end - 1].isspace():
            spans[place] = end - 1, end
    # What is left without width stands for nothing in the text, such as an invented leading space.
    spans = spans[spans[:, 0] < spans[:, 1]]
    return spans[np.argsort(spans[:, 0], kind="stable")]
