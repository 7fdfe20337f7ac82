"""SIFT in the shape of sentence-transformers: a list of ``{"corpus_id", "score"}`` for each query.

from sentence_transformers.util import semantic_search                              # before
from siftlm.integrations.sentence_transformers import semantic_search               # after
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from siftlm.integrations.ranking import DEFAULT_FETCH, DEFAULT_N, Ranking, check_settings, rank_nearest
from siftlm.selection.diagnosis import UnitVectors
from siftlm.validation import whole_number


def semantic_search(
    query_embeddings: npt.ArrayLike | Sequence[npt.ArrayLike],
    corpus_embeddings: npt.ArrayLike,
    top_k: int = DEFAULT_N,
    *,
    fetch: int = DEFAULT_FETCH,
    **settings: Any,
) -> list[list[dict[str, Any]]]:
    """Search as ``sentence_transformers.util.semantic_search``, with SIFT's picks in place of the nearest.

    Args:
        query_embeddings: (b, d) or (d,), an array or a tensor; or a list, whose queries may have several vectors.
        corpus_embeddings: (N, d), an array or a tensor.
        top_k: at most so many results for each query.
        fetch: how many nearest are picked from, for each vector of a query.
        **settings: as for `siftlm.integrations.ranking.rank`, such as ``until=0.2``.

    Each result has ``corpus_id``, ``score`` (the cosine) and the figures of its pick: ``rank``, ``gain``, ``overlap``,
    the share of uncertainty ``left`` after it, ``stopped`` and ``verdict``. They come most informative first.

    >>> corpus = np.array([[1, 0.2, 0], [1, 0.21, 0], [0, 1, 0.1], [0, 0, 1]])
    >>> [[one["corpus_id"] for one in results] for results in semantic_search([[1.0, 1.0, 0.0]], corpus, noise=0.1)]
    [[1, 2]]
    """
    corpus = UnitVectors("corpus_embeddings", _on_cpu(corpus_embeddings))
    check_settings(whole_number("top_k", top_k), **settings)
    rankings = [rank_nearest(query, corpus, top_k, fetch=fetch, **settings) for query in _queries(query_embeddings)]
    return [_results(ranking) for ranking in rankings]


def _queries(embeddings: Any) -> list[Any]:
    if isinstance(embeddings, (list, tuple)) and len(embeddings) and np.ndim(_on_cpu(embeddings[0])):
        return [_on_cpu(one) for one in embeddings]
    array = np.asarray(_on_cpu(embeddings))
    return [array] if array.ndim == 1 else list(array)


def _on_cpu(embeddings: Any) -> Any:
    """A torch tensor as numpy can read it; everything else as it is."""
    return embeddings.detach().cpu().float() if hasattr(embeddings, "detach") else embeddings


def _results(ranking: Ranking) -> list[dict[str, Any]]:
    figures = [ranking.metadata(at) for at in range(len(ranking))]
    return [
        {"corpus_id": one.index, "score": own.pop("relevance"), **own}
        for one, own in zip(ranking, figures, strict=True)
    ]
