"""Reranking: search by the memory's vectors, select by features that are too costly to have of every passage.

prompt -> the memory's k nearest -> features of these and of the prompt -> selection among them
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from siftlm import selection as choosing
from siftlm.errors import Conflict, InvalidInput, setting
from siftlm.memory.request import Search, SearchRequest, nearest_request, query_texts
from siftlm.memory.results import Found, Hit
from siftlm.memory.search import capped_settings, empty_selection, without_opposites
from siftlm.memory.searcher import Searcher
from siftlm.memory.vectors import unit_rows
from siftlm.types import Selection, Vectors

Features = Callable[[Sequence[str]], Vectors]
"""Texts -> (n, d)."""


def rerank(memory: Searcher, request: SearchRequest, features: Features) -> list[Found]:
    """The passages for each prompt, selected among the memory's k nearest by ``features``.

    The prompts are texts, and ``known`` may be. The hits' scores are cosines of features, too.
    """
    known = _known_texts(request.search)
    return [_rerank_one(memory, str(prompt), request, features, known) for prompt in request.prompts]


def check_rerank(memory: Searcher, request: SearchRequest) -> None:
    """Raise what `rerank` would raise for these settings, whatever the prompt is, without searching."""
    _known_texts(request.search)
    # A kernel may be made for features, and of those there are none yet.
    memory.check_request(replace(request, search=replace(request.search, known=None, kernel=None)))


def _known_texts(search: Search) -> list[str]:
    """The texts that are known already; an error where a setting does not go with features."""
    given = {"k": search.k is None, "residual": search.residual, "opposites": search.opposites}
    foreign = [setting(name, None if name == "k" else True) for name, is_given in given.items() if is_given]
    if foreign:
        raise Conflict(
            f"{setting('features')} are computed for the {setting('k')} nearest: leave out {' and '.join(foreign)}"
        )
    known: Any = search.known
    texts = [] if known is None or not len(known) else query_texts(known)
    if texts is None:
        raise Conflict(
            f"{setting('known')} must be texts where {setting('features')} are used: vectors of the memory's embedder "
            "mean nothing"
        )
    return texts


def _rerank_one(
    memory: Searcher, prompt: str, request: SearchRequest, features: Features, known: Sequence[str]
) -> Found:
    # 1. The memory's k nearest.
    alone = replace(request, prompts=[prompt])
    near = memory.run(nearest_request(alone, request.search.k or 1))[0]
    # 2. Features of the prompt, of what is known, and of these.
    began = time.perf_counter()
    made = unit_rows(np.asarray(features([prompt, *known, *near.texts])))
    if np.isnan(made[0]).any():
        raise InvalidInput(f"the prompt {prompt[:60]!r} has no direction: its features are zero or not finite")
    learned, rest = made[1 : 1 + len(known)], made[1 + len(known) :]
    there = np.flatnonzero(~np.isnan(rest).any(axis=1))
    hits, vectors = [near[int(at)] for at in there], rest[there]
    selecting = time.perf_counter()
    # 3. The selection among them.
    chosen = _select_reranked(made[0], vectors, hits, learned[~np.isnan(learned).any(axis=1)], request)
    seconds = {**near.seconds, "features": selecting - began, "select": time.perf_counter() - selecting}
    rows = np.array([hit.row for hit in hits], dtype=np.int64)
    return Found(
        _reranked_hits(hits, vectors @ made[0], chosen),
        replace(chosen, indices=rows[chosen.indices]),
        len(hits),
        seconds,
    )


def _select_reranked(
    query: Vectors, vectors: Vectors, hits: Sequence[Hit], known: Vectors, request: SearchRequest
) -> Selection:
    settings = {name: value for name, value in request.selection.items() if name != "known"}
    if not hits:
        tried = choosing.select(query, query[None], 1, method=request.method, **settings)
        return empty_selection(tried)
    n = min(request.n, len(hits))
    if request.search.per_document is not None:
        capped, n = capped_settings(request, n, [hit.document for hit in hits])
        settings = {name: value for name, value in capped.items() if name != "known"}
    if len(known):
        settings["known"] = known
    chosen, scores = choosing.select(query, vectors, n, method=request.method, **settings), vectors @ query
    if request.towards and not (scores[chosen.indices] > 0).all():
        return without_opposites(chosen, scores, query[None], vectors, n, settings)
    return chosen


def _reranked_hits(hits: Sequence[Hit], cosines: Vectors, chosen: Selection) -> tuple[Hit, ...]:
    return tuple(
        replace(
            hits[int(place)],
            score=float(cosines[int(place)]),
            gain=float(chosen.gains[at]),
            uncertainty=float(chosen.uncertainty[at + 1]),
        )
        for at, place in enumerate(chosen.indices)
    )
