"""Which passages of a memory give a text away: copies of it, and pieces of either of its parts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from siftlm.errors import InvalidInput
from siftlm.memory.near_duplicates import copy_mask
from siftlm.memory.searcher import Searcher

# Copies are looked for among so many neighbours of each part.
LEAK_SEARCH_NEIGHBOURS = 200


def leaked_rows(memory: Searcher, pieces: Sequence[str], *others: str) -> list[int]:
    """Rows of passages that share most of their words with a piece (a prompt, what is scored) or with ``others``.

    They are looked for near each piece.
    """
    wanted = [piece for piece in dict.fromkeys(pieces) if piece.strip()]
    rows: set[int] = set()
    for piece in wanted:
        try:
            near = memory.search(piece, LEAK_SEARCH_NEIGHBOURS, method="nearest", k=LEAK_SEARCH_NEIGHBOURS)
        except InvalidInput:  # it may have no direction
            continue
        texts = near.texts
        copy = np.zeros(len(texts), dtype=bool)
        for other in dict.fromkeys((*wanted, *others)):
            copy |= copy_mask(other, texts)
        rows.update(near[at].row for at in np.flatnonzero(copy).tolist())
    return sorted(rows)
