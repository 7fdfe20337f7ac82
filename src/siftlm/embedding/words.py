"""Tokens without a tokenizer: words, and whatever else is no space, one character at a time."""

from __future__ import annotations

import re

import numpy as np

from siftlm.types import IntArray

WORD_OR_SIGN = re.compile(r"\w+|[^\w\s]")


def word_spans(texts: list[str]) -> list[IntArray]:
    """For each text, (t, 2): where its words and signs start and end.

    >>> word_spans(["Oh no!"])[0].tolist()
    [[0, 2], [3, 5], [5, 6]]
    """
    spans = ([match.span() for match in WORD_OR_SIGN.finditer(text)] for text in texts)
    return [np.array(found, dtype=np.int64).reshape(-1, 2) for found in spans]
