"""Texts of like length go together, as many as a budget of tokens allows, so that little is padding."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from siftlm.types import IntArray


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
