"""SIFT on a Hugging Face data set: the rows that together tell most about a prompt, ready for ``Dataset.select``.

dataset.select(rank_rows(dataset, "How do I sort a list?", column="text").indices)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from siftlm.embedding import DEFAULT_EMBEDDER
from siftlm.embedding import embedder as make_embedder
from siftlm.embedding.protocol import Embedder, EmbedderSource
from siftlm.errors import InvalidInput, UnknownName, setting
from siftlm.extras import load
from siftlm.integrations.ranking import (
    DEFAULT_FETCH,
    DEFAULT_N,
    Ranking,
    check_settings,
    of_rows,
    rank_nearest,
    with_indices,
)
from siftlm.selection import checks
from siftlm.selection.diagnosis import UnitVectors
from siftlm.validation import list_of_texts


def rank_rows(
    dataset: Any,
    query: str | Sequence[str] | npt.ArrayLike,
    n: int = DEFAULT_N,
    *,
    column: str,
    embedder: EmbedderSource = DEFAULT_EMBEDDER,
    fetch: int = DEFAULT_FETCH,
    **settings: Any,
) -> Ranking:
    """Rank the rows of a ``datasets.Dataset`` that together tell most about a prompt.

    Args:
        dataset: any ``Dataset``.
        query: the prompt, or several of its questions; or their vectors, (d,) or (m, d).
        n: at most so many rows.
        column: of vectors, or of texts, which are embedded; a row without any word is never picked.
        embedder: for a column of texts, and for a prompt that is text: what made the column's vectors.
        fetch: how many nearest rows are picked from, for each vector of the prompt.
        **settings: as for `siftlm.integrations.ranking.rank`; those with a value for each candidate have one for each
            row, and ``costs`` and ``sources`` may name a column.
    """
    if not isinstance(dataset, load("datasets", "datasets").Dataset):
        raise InvalidInput(f"{setting('dataset')} must be a datasets.Dataset, got {type(dataset).__name__}")
    for name in ("costs", "sources"):
        if isinstance(settings.get(name), str):
            settings[name] = _column(dataset, settings[name])
    check_settings(n, **settings)
    values, made = _column(dataset, column), None
    if not len(values):
        raise InvalidInput(f"{setting('dataset')} has no rows")
    if isinstance(values[0], str):
        made = make_embedder(embedder)
        values = made.embed(list_of_texts(column, values))
        return _rank_texts(_vectors(query, made, embedder), column, values, n, fetch, settings)
    if values.ndim != 2 or values.dtype.kind not in "fiu":
        raise InvalidInput(f"{setting('column')} must hold texts, or vectors of one width, got {column!r}")
    return rank_nearest(_vectors(query, made, embedder), UnitVectors(column, values), n, fetch=fetch, **settings)


def _rank_texts(query: Any, column: str, values: Any, n: int, fetch: int, settings: Mapping[str, Any]) -> Ranking:
    """Rank the rows whose text has a word; the others have no direction, and tell nothing about any prompt."""
    rows = np.flatnonzero(values.any(axis=1))
    if not len(rows):
        raise InvalidInput(f"{setting('column', column)}: the embedder knows no word of any row")
    settings = of_rows(settings, rows, len(values))
    return with_indices(rank_nearest(query, UnitVectors(column, values[rows]), n, fetch=fetch, **settings), rows)


def _column(dataset: Any, name: str) -> Any:
    """The values of a column: an array where they are numbers, all of one shape."""
    if name not in dataset.column_names:
        raise UnknownName("column", name, dataset.column_names)
    return dataset.with_format("numpy", columns=[name])[:][name]


def _vectors(query: Any, made: Embedder | None, embedder: EmbedderSource) -> Any:
    """The prompt's vectors."""
    if isinstance(query, str):
        query = [query]
    if isinstance(query, (list, tuple)) and query and all(isinstance(one, str) for one in query):
        return (made or make_embedder(embedder)).embed(list(query), as_query=True)
    return checks.matrix("query", query)
