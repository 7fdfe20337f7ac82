"""A search: find candidates near the prompt, then select among them those that together tell most.

prompt -> vectors -> candidates (by vectors, words or both) -> without copies -> selection -> passages
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from siftlm import selection as choosing
from siftlm.errors import Conflict, InvalidInput, setting
from siftlm.memory import keywords, near_duplicates
from siftlm.memory.filters import Expression
from siftlm.memory.request import EmbeddedPrompt, SearchRequest
from siftlm.memory.results import Found, Hit
from siftlm.memory.store import Neighbours, WholeStore
from siftlm.types import BoolArray, Candidates, FloatArray, IntArray, Selection, Vectors

# Copies of the prompt are looked for among so many of its neighbours where there is no list of candidates.
COPY_SEARCH_NEIGHBOURS = 1000


def search(
    store: WholeStore, prompt: EmbeddedPrompt, want: SearchRequest, seconds: Mapping[str, float] | None = None
) -> Found:
    """One prompt."""
    clock = _Clock(seconds)
    if want.k is None:
        return _search_everything(store, [prompt], want, clock)[0]
    if want.residual:
        return _search_residual(store, prompt, want, clock)
    return _search_nearest(store, [prompt], want, clock)[0]


def search_many(store: WholeStore, prompts: Sequence[EmbeddedPrompt], want: SearchRequest) -> list[Found]:
    """Many prompts; the scans are shared."""
    clock = _Clock(None)
    if not prompts:
        return []
    if want.residual:
        return [_search_residual(store, prompt, want, _Clock(None)) for prompt in prompts]
    return (
        _search_everything(store, prompts, want, clock)
        if want.k is None
        else _search_nearest(store, prompts, want, clock)
    )


# --- among the nearest


def _search_nearest(
    store: WholeStore, prompts: Sequence[EmbeddedPrompt], want: SearchRequest, clock: _Clock
) -> list[Found]:
    found = [_drop_copies(store, c, p, want) for c, p in zip(_candidates(store, prompts, want), prompts, strict=True)]
    clock.lap("search")
    picked = [None if len(c.ids) else _empty_selection(prompt, want) for c, prompt in zip(found, prompts, strict=True)]
    # Prompts with as many picks to make are selected for together.
    for n in dict.fromkeys(min(want.n, len(c.ids)) for c in found if len(c.ids)):
        group = [at for at, c in enumerate(found) if min(want.n, len(c.ids)) == n and len(c.ids)]
        for at, chosen in zip(group, _select_group(store, prompts, found, group, n, want), strict=True):
            picked[at] = replace(chosen, indices=found[at].ids[chosen.indices])
    clock.lap("select")
    return [
        _build_found(store, c, chosen, len(c.ids), want, clock)
        for c, chosen in zip(found, picked, strict=True)
        if chosen is not None
    ]


def _select_group(
    store: WholeStore,
    prompts: Sequence[EmbeddedPrompt],
    found: Sequence[Candidates],
    group: Sequence[int],
    n: int,
    want: SearchRequest,
) -> Sequence[Selection]:
    settings = dict(want.settings, method=want.method)
    if len(group) == 1 or want.per_document is not None:
        return [_select_one(store, prompts[at], found[at], n, want, settings) for at in group]
    queries = [_selection_query(prompts[at]) for at in group]
    return choosing.select_many(queries, [found[at].vectors for at in group], n, **settings)


def _select_one(
    store: WholeStore, prompt: EmbeddedPrompt, found: Candidates, n: int, want: SearchRequest, settings: dict[str, Any]
) -> Selection:
    if want.per_document is not None:
        documents = [passage.document for passage in store.passages(found.ids.tolist(), want.where)]
        settings = dict(settings, sources=documents, source_cap=want.per_document)
        n = picks_within_cap(n, documents, want.per_document)
    return choosing.select(_selection_query(prompt), found.vectors, n, **settings)


def picks_within_cap(n: int, documents: Sequence[int], cap: int) -> int:
    """The most picks up to n of which no more than ``cap`` share a document."""
    _, counts = np.unique(np.array(documents), return_counts=True)
    return min(n, int(np.minimum(counts, cap).sum()))


def _selection_query(prompt: EmbeddedPrompt) -> Vectors:
    query: Vectors = prompt.targets[0] if len(prompt.targets) == 1 else prompt.targets
    return query


def _candidates(store: WholeStore, prompts: Sequence[EmbeddedPrompt], want: SearchRequest) -> list[Candidates]:
    """For each prompt: the best of each of its vectors, and of their opposites where the method sees no signs."""
    # So that exclusions leave k of them.
    reach = (want.k or 1) + len(want.exclude)
    near: list[list[Neighbours]] = [[] for _ in prompts]
    if want.candidates != "words":
        signed = [sign * prompt.targets for prompt in prompts for sign in want.signs]
        answers = iter(store.nearest(np.concatenate(signed), reach, want.where))
        near = [[next(answers) for _ in range(len(want.signs) * len(prompt.targets))] for prompt in prompts]
    return [_prompt_candidates(store, prompt, own, reach, want) for prompt, own in zip(prompts, near, strict=True)]


def _prompt_candidates(
    store: WholeStore, prompt: EmbeddedPrompt, near: Sequence[Neighbours], reach: int, want: SearchRequest
) -> Candidates:
    rankings = [_best_allowed(one.ids, want) for one in near]
    if want.candidates == "vectors":
        ids = np.unique(np.concatenate(rankings))
    else:
        rankings = [*rankings[: len(prompt.targets)], _best_allowed(_keyword_ranking(store, prompt, reach, want), want)]
        ids = np.sort(keywords.reciprocal_rank_fusion(rankings, want.k or 1))
    return _score_candidates(store, prompt, ids)


def _score_candidates(store: WholeStore, prompt: EmbeddedPrompt, ids: IntArray) -> Candidates:
    """With their vectors, and their cosines to the nearest vector of the prompt."""
    vectors = store.vectors(ids)
    scores = (vectors @ prompt.targets.T.astype(np.float32)).max(axis=1, initial=-1.0).astype(np.float64)
    return Candidates(ids, vectors, scores)


def _best_allowed(ranking: IntArray, want: SearchRequest) -> IntArray:
    return ranking[~np.isin(ranking, want.exclude)][: want.k]


def _keyword_ranking(store: WholeStore, prompt: EmbeddedPrompt, k: int, want: SearchRequest) -> IntArray:
    if prompt.text is None:
        raise Conflict(f"candidates={want.candidates!r} needs the prompt's text, and only vectors were given")
    return store.words(prompt.text, k, want.where)


def _drop_copies(store: WholeStore, found: Candidates, prompt: EmbeddedPrompt, want: SearchRequest) -> Candidates:
    """Without the prompt itself and its near-copies, if that was asked for."""
    if want.without_copies is None or not len(found.ids):
        return found
    keep = ~_copy_mask_of(store, found.ids, prompt, want.without_copies)
    return Candidates(found.ids[keep], found.vectors[keep], found.scores[keep])


def _copy_mask_of(store: WholeStore, ids: IntArray, prompt: EmbeddedPrompt, threshold: float) -> BoolArray:
    if prompt.text is None:
        raise Conflict(f"{setting('without_copies')} needs the prompt's text, and only vectors were given")
    texts = [passage.text for passage in store.passages(ids.tolist(), None)]
    return near_duplicates.copy_mask(prompt.text, texts, threshold)


# --- among everything


def _search_everything(
    store: WholeStore, prompts: Sequence[EmbeddedPrompt], want: SearchRequest, clock: _Clock
) -> list[Found]:
    vectors, allowed = store.everything(), store.allowed(want.where)
    if allowed is not None and len(allowed) != len(vectors):
        raise InvalidInput(f"the store says of {len(allowed)} rows what is allowed, and has {len(vectors)}")
    banned = [_excluded_ids(store, prompt, want, allowed) for prompt in prompts]
    banned = [out[out < len(vectors)] for out in banned]  # a caller may exclude what is not there
    clock.lap("search")
    picked = _select_everything(prompts, vectors, banned, want)
    clock.lap("select")
    found = []
    for chosen, prompt, out in zip(picked, prompts, banned, strict=True):
        size = len(vectors) - len(out)
        hits = _score_candidates(store, prompt, np.unique(chosen.indices))
        found.append(_build_found(store, hits, chosen, size, want, clock))
    return found


def _select_everything(
    prompts: Sequence[EmbeddedPrompt], vectors: Vectors, banned: Sequence[IntArray], want: SearchRequest
) -> Sequence[Selection]:
    sizes = [len(vectors) - len(out) for out in banned]
    settings = dict(want.settings, method=want.method)
    shared = all(np.array_equal(out, banned[0]) for out in banned)
    if len(prompts) > 1 and shared and sizes[0]:
        exclude = banned[0] if len(banned[0]) else None
        queries = [_selection_query(prompt) for prompt in prompts]
        return choosing.select_many(queries, vectors, min(want.n, sizes[0]), exclude=exclude, **settings)
    picked = []
    for prompt, out, size in zip(prompts, banned, sizes, strict=True):
        exclude = out if len(out) else None
        picked.append(
            choosing.select(_selection_query(prompt), vectors, min(want.n, size), exclude=exclude, **settings)
            if size
            else _empty_selection(prompt, want)
        )
    return picked


def _excluded_ids(
    store: WholeStore, prompt: EmbeddedPrompt, want: SearchRequest, allowed: BoolArray | None
) -> IntArray:
    """Rows that must not be picked."""
    out = want.exclude if allowed is None else np.union1d(np.flatnonzero(~allowed), want.exclude)
    if want.without_copies is not None:
        near = np.unique(
            np.concatenate([x.ids for x in store.nearest(prompt.targets, COPY_SEARCH_NEIGHBOURS, want.where)])
        )
        out = np.union1d(out, near[_copy_mask_of(store, near, prompt, want.without_copies)])
    return out.astype(np.int64)


def _search_residual(store: WholeStore, prompt: EmbeddedPrompt, want: SearchRequest, clock: _Clock) -> Found:
    out = _excluded_ids(store, prompt, want, None)
    none = np.zeros(0, dtype=np.int64)
    size, left = store.count(want.where, none), store.count(want.where, out)
    index = StoreIndex(store, want.where) if size is None else SizedStoreIndex(store, want.where, size)
    n = want.n if left is None else min(want.n, left)
    if left is None:
        # So that a store of unknown size is not asked to repeat itself, nor an empty one to answer.
        there, _ = index.search(prompt.targets, n + len(out))
        n = min(n, int((~np.isin(np.unique(there[there >= 0]), out)).sum()))
    clock.lap("search")
    if n > 0:
        chosen = choosing.select_from(_selection_query(prompt), index, n, k=want.k or 1, exclude=out, **want.settings)
    else:
        chosen = _empty_selection(prompt, want)
    clock.lap("select")
    hits = _score_candidates(store, prompt, np.unique(chosen.indices))
    size = left if left is not None else int((~np.isin(index.seen, out)).sum())
    return _build_found(store, hits, chosen, size, want, clock)


# --- the result


def _build_found(
    store: WholeStore, candidates: Candidates, chosen: Selection, considered: int, want: SearchRequest, clock: _Clock
) -> Found:
    """``chosen`` holds the store's own ids."""
    score = dict(zip(candidates.ids.tolist(), candidates.scores.tolist(), strict=True))
    ids = [int(index) for index in chosen.indices]
    hits = []
    for at, (row, passage) in enumerate(zip(ids, store.passages(ids, want.where), strict=True)):
        left = float(chosen.uncertainty[at + 1])
        hits.append(
            Hit(
                text=passage.text,
                meta=passage.meta,
                score=score[row],
                gain=float(chosen.gains[at]),
                uncertainty=left,
                row=row,
                id=passage.id,
                document=passage.document,
                part=passage.part,
                parts=passage.parts,
                start=passage.start,
                copies=passage.copies,
            )
        )
    clock.lap("read")
    return Found(tuple(hits), chosen, considered, clock.seconds)


def _empty_selection(prompt: EmbeddedPrompt, want: SearchRequest) -> Selection:
    """An empty memory, or a filter that nothing meets, is no error; a wrong setting is one there as well."""
    tried = dry_run_selection(prompt, want)
    ids: IntArray = np.zeros(0, dtype=np.int64)
    gains: FloatArray = np.zeros(0)
    return Selection(ids, gains, tried.uncertainty[:1], "exhausted", tried.method, tried.noise)


def dry_run_selection(prompt: EmbeddedPrompt, want: SearchRequest) -> Selection:
    """The selection as it is wanted, with the prompt itself as the only candidate: whatever is wrong is an error."""
    if want.residual:
        index = choosing.NumpyIndex(prompt.targets)
        return choosing.select_from(_selection_query(prompt), index, 1, k=want.k or 1, **want.settings)
    return choosing.select(_selection_query(prompt), prompt.targets, 1, method=want.method, **want.settings)


class _Clock:
    """Where the time goes."""

    def __init__(self, seconds: Mapping[str, float] | None) -> None:
        self.seconds = dict(seconds or {})
        self._last = time.perf_counter()

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self.seconds[name] = self.seconds.get(name, 0.0) + now - self._last
        self._last = now


class StoreIndex:
    """A `siftlm.selection.Index` over those of a store that meet a filter, however many they are."""

    def __init__(self, store: WholeStore, where: Expression | None) -> None:
        self._store, self._where, self.exact = store, where, store.exact
        self.seen: IntArray = np.zeros(0, dtype=np.int64)
        """Every id that was found so far."""

    def search(self, queries: npt.NDArray[Any], k: int) -> tuple[IntArray, npt.NDArray[Any]]:
        """As `siftlm.selection.Index` has it."""
        found = self._store.nearest(queries, k, self._where)
        ids = np.full((len(found), k), -1, dtype=np.int64)
        scores = np.full((len(found), k), -np.inf)
        for at, one in enumerate(found):
            ids[at, : len(one.ids)], scores[at, : len(one.ids)] = one.ids, one.scores
        self.seen = np.union1d(self.seen, ids[ids >= 0])
        return ids, scores

    def vectors(self, ids: IntArray) -> Vectors:
        """As `siftlm.selection.Index` has it."""
        return self._store.vectors(ids)


class SizedStoreIndex(StoreIndex):
    """One whose size is known, so that nobody asks it for more than there are."""

    def __init__(self, store: WholeStore, where: Expression | None, size: int) -> None:
        super().__init__(store, where)
        self._size = size

    def __len__(self) -> int:
        return self._size
