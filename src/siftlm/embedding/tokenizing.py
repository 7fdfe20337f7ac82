"""What is asked of a Hugging Face tokenizer: where the tokens are in a text."""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from siftlm.errors import InvalidInput
from siftlm.types import IntArray

# Half of a character that came alone: Python allows it, the tokenizers' Unicode does not.
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")


def readable(text: str) -> str:
    """The text as a tokenizer can take it, of the same length."""
    return _LONE_SURROGATE.sub("\ufffd", text)


def fast(tokenizer: Any, model: str) -> Any:
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


def spans(tokenizer: Any, texts: list[str]) -> list[IntArray]:
    """For each text, (t, 2): where its tokens start and end, without special tokens and without a limit."""
    if not texts:
        return []
    found = tokenizer(
        [readable(text) for text in texts],
        add_special_tokens=False,
        truncation=False,
        return_offsets_mapping=True,
        return_attention_mask=False,
        verbose=False,
    )["offset_mapping"]
    return [_in_order(np.array(offsets, dtype=np.int64).reshape(-1, 2)) for offsets in found]


def _in_order(offsets: IntArray) -> IntArray:
    # Tokens that stand for nothing in the text, such as an invented leading space, are dropped.
    offsets = offsets[offsets[:, 0] < offsets[:, 1]]
    return offsets[np.argsort(offsets[:, 0], kind="stable")]
