"""Texts of like length go together, as many as a budget of tokens allows, so that little is padding."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from siftlm.types import IntArray

# Tokens in a batch, padding included. More gains nothing on processors and little on graphics cards.
BATCH_TOKENS = 16_384


def batches(lengths: Sequence[int], budget: int = BATCH_TOKENS) -> Iterator[IntArray]:
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
