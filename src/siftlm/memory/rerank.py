"""Search by the memory's vectors, select by others: those of features too costly to have of every passage.

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
from siftlm.memory import inputs
from siftlm.memory.request import SearchRequest, search_request
from siftlm.memory.results import Found, Hit
from siftlm.memory.search import picks_within_cap
from siftlm.memory.searcher import Searcher
from siftlm.memory.vectors import unit_rows
from siftlm.types import Selection, Vectors

Features = Callable[[Sequence[str]], Vectors]
"""Texts -> (n, d)."""


def rerank(
    memory: Searcher,
    prompt: str,
    n: int,
    features: Features,
    *,
    method: Any = "sift",
    k: int | None = 200,
    candidates: str = "vectors",
    opposites: bool = False,
    where: Any = None,
    residual: bool = False,
    without_copies: bool | float = False,
    per_document: int | None = None,
    exclude: Any = None,
    exact: bool = False,
    **settings: Any,
) -> Found:
    """`Searcher.search`, but what is selected among the k nearest is selected by ``features``.

    The hits' scores are cosines of features, too. ``known`` may be texts.
    """
    k = _nearest_settings(k, residual, opposites)
    want = search_request(
        n,
        method=method,
        k=k,
        candidates=candidates,
        opposites=False,
        where=where,
        residual=False,
        without_copies=without_copies,
        per_document=per_document,
        exclude=exclude,
        settings=settings,
    )
    near = memory.search(
        prompt,
        k,
        method="nearest",
        k=k,
        candidates=candidates,
        where=where,
        without_copies=without_copies,
        exclude=exclude,
        exact=exact,
    )
    began = time.perf_counter()
    known = _embed_known_texts(settings.get("known"))
    made = unit_rows(np.asarray(features([prompt, *known, *near.texts])))
    if np.isnan(made[0]).any():
        raise InvalidInput(f"the prompt {prompt[:60]!r} has no direction: its features are zero or not finite")
    learned, rest = made[1 : 1 + len(known)], made[1 + len(known) :]
    there = np.flatnonzero(~np.isnan(rest).any(axis=1))
    hits, vectors = [near[int(at)] for at in there], rest[there]
    taken = time.perf_counter()
    chosen = _select_reranked(made[0], vectors, hits, learned[~np.isnan(learned).any(axis=1)], want)
    seconds = {**near.seconds, "features": taken - began, "select": time.perf_counter() - taken}
    return Found(_reranked_hits(hits, vectors @ made[0], chosen), _with_memory_rows(chosen, hits), len(hits), seconds)


def check_rerank(
    memory: Searcher,
    n: int,
    *,
    k: int | None = 200,
    residual: bool = False,
    opposites: bool = False,
    known: Any = None,
    kernel: Any = None,  # noqa: ARG001 (it may be made for features, and of those there are none yet)
    **settings: Any,
) -> None:
    """Raise what `rerank` would raise for these settings, whatever the prompt is, without searching."""
    k = _nearest_settings(k, residual, opposites)
    _embed_known_texts(known)
    memory.check(n, k=k, **settings)


def _nearest_settings(k: int | None, residual: bool, opposites: bool) -> int:
    if k is None or residual or opposites:
        raise Conflict(
            f"features are computed for the k nearest: {setting('k', None)}, {setting('residual', True)} and "
            f"{setting('opposites', True)} do not apply"
        )
    return k


def _embed_known_texts(known: Any) -> list[str]:
    texts = [] if known is None or not len(known) else inputs.query_texts(known)
    if texts is None:
        raise Conflict("known must be texts where features are used: vectors of the memory's embedder mean nothing")
    return list(texts)


def _select_reranked(
    query: Vectors, vectors: Vectors, hits: Sequence[Hit], known: Vectors, want: SearchRequest
) -> Selection:
    settings = {**want.settings, "method": want.method}
    settings.pop("known", None)
    if not hits:
        tried = choosing.select(query, query[None], 1, **settings)
        none = np.zeros(0, dtype=np.int64)
        return replace(
            tried,
            indices=none,
            gains=np.zeros(0),
            uncertainty=tried.uncertainty[:1],
            stopped="exhausted",
            evidence=None,
        )
    if len(known):
        settings["known"] = known
    n = min(want.n, len(hits))
    if want.per_document is not None:
        documents = [hit.document for hit in hits]
        settings.update(sources=documents, source_cap=want.per_document)
        n = picks_within_cap(n, documents, want.per_document)
    return choosing.select(query, vectors, n, **settings)


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


def _with_memory_rows(chosen: Selection, hits: Sequence[Hit]) -> Selection:
    """With the memory's rows for indices."""
    rows = np.array([hit.row for hit in hits], dtype=np.int64)
    return replace(chosen, indices=rows[chosen.indices])
