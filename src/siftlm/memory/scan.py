"""The nearest rows by a scan of all: exact, and about as fast as memory can be read.

Rows are decoded and multiplied in blocks that stay in the processor's cache. A query and its opposite, of which SIFT
needs both, share one product: the scores of −q are those of q with the sign turned.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from siftlm.memory.store import Neighbours
from siftlm.memory.vectors import TopK, VectorFormat
from siftlm.types import BoolArray, IntArray, Vectors

# Decoded rows that are multiplied at a time, in bytes: what was decoded must still be in the processor's cache, and
# what needs no decoding is best read in longer runs: the threads of BLAS wait for each other after each.
DECODED_BLOCK_BYTES, MAPPED_BLOCK_BYTES = 1 << 20, 16 << 20
# Scores that are held before the best are taken from them.
MAX_KEPT_SCORES = 2 << 20
# Up to so many queries, BLAS multiplies a matrix by one after the other faster.
MAX_SEPARATE_QUERIES = 4
# Below one allowed row in so many, only the allowed rows are read.
SPARSE_ROW_RATIO = 8


def nearest(
    stored: Vectors, form: VectorFormat, queries: Vectors, k: int, allowed: BoolArray | None
) -> list[Neighbours]:
    """The k rows with the largest inner product with each query (b, d); equal ones go to the smaller row.

    Args:
        stored: rows as they are on disk.
        form: their format.
        queries: (b, d).
        k: if there are fewer rows, all of them are found.
        allowed: which rows may be found; None for all.
    """
    shared = _distinct_queries(queries)
    best = TopK(len(queries), k)
    rows = None
    if allowed is not None and np.count_nonzero(allowed) * SPARSE_ROW_RATIO < len(allowed):
        rows, allowed = np.flatnonzero(allowed), None
    count = len(stored) if rows is None else len(rows)
    step = max(1, MAX_KEPT_SCORES // max(1, len(shared.directions)))
    for first in range(0, count, step):
        some = stored[first : first + step] if rows is None else stored[rows[first : first + step]]
        scores = _products(some, form, shared.directions)
        banned = None if allowed is None else ~allowed[first : first + step]
        for query, (direction, opposite) in enumerate(zip(shared.direction, shared.opposite, strict=True)):
            own = -scores[direction] if opposite else scores[direction]
            if banned is not None:
                own = np.where(banned, np.float32(-np.inf), own)
            best.take(query, own, first)
    neighbours = [Neighbours(*best.best(query)) for query in range(len(queries))]
    return neighbours if rows is None else [Neighbours(rows[one.ids], one.scores) for one in neighbours]


class _DistinctQueries(NamedTuple):
    """Queries as directions with a sign, each direction once."""

    directions: Vectors
    """(m, d) float32, m ≤ b."""
    direction: IntArray
    """(b,) the direction of each query."""
    opposite: BoolArray
    """(b,) whether the query points the other way."""


def _distinct_queries(queries: Vectors) -> _DistinctQueries:
    # Adding zero makes −0 a 0, so that equal numbers are equal bytes.
    wide = np.ascontiguousarray(queries, dtype=np.float32) + np.float32(0)
    seen: dict[bytes, int] = {}
    firsts: list[int] = []
    direction, opposite = np.zeros(len(wide), np.int64), np.zeros(len(wide), np.bool_)
    for at, query in enumerate(wide):
        key = query.tobytes()
        if key in seen:
            direction[at] = seen[key]
            continue
        turned = (np.float32(0) - query).tobytes()
        if turned in seen:
            direction[at], opposite[at] = seen[turned], True
            continue
        seen[key] = direction[at] = len(firsts)
        firsts.append(at)
    return _DistinctQueries(wide[firsts], direction, opposite)


def _products(rows: Vectors, form: VectorFormat, directions: Vectors) -> npt.NDArray[np.float32]:
    """(m, d) directions -> (m, len(rows)) inner products."""
    products = np.empty((len(directions), len(rows)), dtype=np.float32)
    step = max(1, (MAPPED_BLOCK_BYTES if form.storage == "float32" else DECODED_BLOCK_BYTES) // (4 * form.width))
    if form.storage == "float32" and len(directions) == 1:
        step = max(1, len(rows))  # nothing is read twice, so there is nothing to keep in the cache
    for first in range(0, len(rows), step):
        block = form.decode(rows[first : first + step])
        into = products[:, first : first + step]
        if len(directions) > MAX_SEPARATE_QUERIES:
            np.matmul(directions, block.T, out=into)
        else:
            for direction, own in zip(directions, into, strict=True):
                np.matmul(block, direction, out=own)
    return products
