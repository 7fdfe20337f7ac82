"""Which texts give the answer away: the prompt itself, a piece of it, something around it, or a near-copy."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from siftlm.errors import InvalidInput
from siftlm.memory.near import shingles
from siftlm.types import BoolArray

COPY_THRESHOLD = 0.8


def copy_mask(prompt: str, texts: Sequence[str], threshold: float = COPY_THRESHOLD) -> BoolArray:
    """(len(texts),) which of them share at least ``threshold`` of either side's runs of five words with the prompt.

    Counted is the larger of the share of the text's runs that the prompt has too, and of the prompt's that the text
    has. So a passage cut out of the prompt is a copy, and so is a document that holds the prompt. Case, punctuation
    and spaces do not count. A text or a prompt of fewer than five words is a copy only of the very same words.

    >>> prompt = "Four score and seven years ago our fathers brought forth a new nation"
    >>> copied(prompt, ["score, and seven years ago our fathers", "Our fathers.", "He said: " + prompt]).tolist()
    [True, False, True]
    """
    if isinstance(threshold, bool) or not 0 < threshold <= 1:
        raise InvalidInput(f"threshold must be above 0 and up to 1, got {threshold!r}")
    if not len(texts):
        return np.zeros(0, dtype=bool)
    wanted, times = np.unique(shingles([prompt]).values, return_counts=True)
    found = shingles(texts)
    lengths = np.diff(found.starts)
    place = np.minimum(np.searchsorted(wanted, found.values), len(wanted) - 1)
    hits = np.flatnonzero(wanted[place] == found.values)
    owners = np.repeat(np.arange(len(texts)), lengths)[hits]
    of_text = np.bincount(owners, minlength=len(texts)) / lengths
    # A run of the prompt counts once for a text, however often the text repeats it.
    pairs = np.unique(owners * len(wanted) + place[hits])
    of_prompt = np.bincount(pairs // len(wanted), times[pairs % len(wanted)], minlength=len(texts)) / times.sum()
    answer: BoolArray = np.maximum(of_text, of_prompt) >= threshold
    return answer
