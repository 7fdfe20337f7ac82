"""Passages for a prompt: candidates near it, then a selection of those that together tell most.

prompt -> vectors -> candidates (by vectors, words or both) -> without copies -> selection -> passages
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from siftlm import selection as choosing
from siftlm.errors import Conflict, InvalidInput, setting
from siftlm.memory import keywords, near_duplicates
from siftlm.memory.filters import Expression
from siftlm.memory.request import NO_ROWS, PER_CANDIDATE_SETTINGS, EmbeddedPrompt, Search, SearchRequest
from siftlm.memory.results import Found, Hit
from siftlm.memory.store import Neighbours, WholeStore
from siftlm.memory.vectors import unit_rows
from siftlm.selection.checks import blocks
from siftlm.selection.problem import find_method
from siftlm.types import BoolArray, FloatArray, IntArray, Selection, Vectors

# Copies of the prompt are looked for among so many of its neighbours where there is no list of candidates.
COPY_SEARCH_NEIGHBOURS = 1000


def find_passages(
    store: WholeStore, prompts: Sequence[EmbeddedPrompt], request: SearchRequest, seconds: Mapping[str, float]
) -> list[Found]:
    """The passages for each prompt, in the order of the prompts, which share scans and selections.

    ``seconds``: time spent before, by name.
    """
    if not prompts:
        return []
    if request.search.residual:
        return [_search_residual(store, prompt, request, _Clock(dict(seconds))) for prompt in prompts]
    clock = _Clock(dict(seconds))
    if request.search.k is None:
        return _search_everything(store, prompts, request, clock)
    candidates = _candidates(store, prompts, request)
    clock.lap("search")
    selections = _select(store, prompts, candidates, request)
    clock.lap("select")
    return [
        _build_found(store, own, chosen, len(own.ids), request, clock)
        for own, chosen in zip(candidates, selections, strict=True)
    ]


# --- among the nearest


@dataclass(frozen=True, eq=False)
class Shortlist:
    """The candidates for one prompt, best first: of what a method finds equal, the better one is picked."""

    ids: IntArray
    """(K,)"""
    vectors: Vectors
    """(K, d) at unit length."""
    scores: FloatArray
    """(K,) cosines to the nearest vector of the prompt."""
    means: FloatArray
    """(K,) mean cosines to the vectors of the prompt."""
    words: FloatArray | None = None
    """(K,) scores by words."""
    fused: FloatArray | None = None
    """(K,) `keywords.fused_scores` of the means, where candidates are found by both."""
    features: keywords.WordFeatures | None = None
    """The words as a part of the vectors that are selected from; None too where no candidate has a word that counts."""

    @property
    def relevance(self) -> FloatArray | None:
        """(K,) in the order of the list: the score by words or by both, where words count."""
        if self.words is None:
            return None
        # Rounding may take a cosine beyond 1.
        return keywords.relative_scores(self.words) if self.fused is None else np.clip(self.fused, -1, 1)


def _candidates(store: WholeStore, prompts: Sequence[EmbeddedPrompt], request: SearchRequest) -> list[Shortlist]:
    """For each prompt: the best of each of its vectors, and of their opposites where the method sees no signs."""
    search = request.search
    signs = (1.0, -1.0) if search.opposites and request.sign_blind else (1.0,)
    # So that exclusions leave k of them.
    reach = (search.k or 1) + len(search.excluded)
    answers: Iterator[Neighbours] = iter(())
    if search.candidates != "words":
        signed = [sign * prompt.targets for prompt in prompts for sign in signs]
        answers = iter(store.nearest(np.concatenate(signed), reach, search.filter))
    found = []
    for prompt in prompts:
        count = 0 if search.candidates == "words" else len(signs) * len(prompt.targets)
        rankings = [next(answers).ids for _ in range(count)]
        near = [ids[~np.isin(ids, search.excluded)][: search.k] for ids in rankings]
        nearest = np.unique(np.concatenate(near)) if near else NO_ROWS
        if search.candidates != "vectors":
            found.append(_score_by_words(store, prompt, nearest, reach, search))
            continue
        if search.copy_similarity is not None and len(nearest):
            nearest = nearest[~_copy_mask_of(store, nearest, prompt, search.copy_similarity)]
        found.append(_score_candidates(store, prompt, nearest))
    return found


def _score_candidates(store: WholeStore, prompt: EmbeddedPrompt, ids: IntArray) -> Shortlist:
    """Candidates with their vectors, and their cosines to the nearest vector of the prompt."""
    units = unit_rows(store.vectors(ids))
    # Unlike those of BLAS, these sums are the same for the same vector wherever it stands.
    cosines = np.einsum("kd,md->km", units, prompt.targets, dtype=np.float64)
    scores = cosines.max(axis=1, initial=-1.0)
    best = np.lexsort((ids, -scores))
    return Shortlist(ids[best], units[best], scores[best], cosines[best].mean(axis=1))


def _score_by_words(
    store: WholeStore, prompt: EmbeddedPrompt, nearest: IntArray, reach: int, search: Search
) -> Shortlist:
    """The k best by words, or by both words and vectors."""
    if prompt.text is None:
        raise Conflict(
            f"{setting('candidates', search.candidates)} needs the prompt's text, and only vectors were given"
        )
    # 1. What the words find, and what the vectors find.
    by_words = store.words(prompt.text, reach, search.filter)
    ids = by_words.ids[~np.isin(by_words.ids, search.excluded)][: search.k]
    if search.candidates == "both":
        ids = np.union1d(ids, nearest)
    if search.copy_similarity is not None and len(ids):
        ids = ids[~_copy_mask_of(store, ids, prompt, search.copy_similarity)]
    own = _score_candidates(store, prompt, ids)
    # 2. What each word adds; where the store does not know, the words count as one.
    place = {row: at for at, row in enumerate(by_words.ids.tolist())}
    rank = np.array([place.get(row, len(place)) for row in own.ids.tolist()], dtype=np.int64)
    whole = np.append(by_words.scores, 0.0)[rank]
    parts = store.term_scores(prompt.text, own.ids)
    if parts is None:
        parts = whole[:, None]
    # 3. The order of the words, or of both.
    fused = None
    if search.candidates == "words":
        words, best = whole, np.argsort(rank, kind="stable")
    else:
        words = parts.sum(axis=1)
        fused = keywords.fused_scores(own.means, words)
        best = np.lexsort((own.ids, -fused))[: search.k]
    return Shortlist(
        own.ids[best],
        own.vectors[best],
        own.scores[best],
        own.means[best],
        words[best],
        None if fused is None else fused[best],
        keywords.WordFeatures.of(parts[best]) if parts[best].any() else None,
    )


def _copy_mask_of(store: WholeStore, ids: IntArray, prompt: EmbeddedPrompt, threshold: float) -> BoolArray:
    if prompt.text is None:
        raise Conflict(f"{setting('without_copies')} needs the prompt's text, and only vectors were given")
    texts = [passage.text for passage in store.passages(ids.tolist(), None)]
    return near_duplicates.copy_mask(prompt.text, texts, threshold)


def _select(
    store: WholeStore, prompts: Sequence[EmbeddedPrompt], candidates: Sequence[Shortlist], request: SearchRequest
) -> list[Selection]:
    """The selections, whose indices are ids of the store; prompts with as many picks to make share the work."""
    counts = [min(request.n, len(own.ids)) for own in candidates]
    search = request.search
    capped, worded = search.per_document is not None, search.candidates != "vectors"
    selections: dict[int, Selection] = {}
    for n in dict.fromkeys(counts):
        group = [place for place, count in enumerate(counts) if count == n]
        if not n:
            made = [_empty_selection(prompts[at], request) for at in group]
        elif len(group) > 1 and not (capped or worded or request.per_candidate):
            queries, vectors = [prompts[at].query for at in group], [candidates[at].vectors for at in group]
            made = list(choosing.select_many(queries, vectors, n, method=request.method, **request.selection))
            for place, (at, chosen) in enumerate(zip(group, made, strict=True)):
                own, targets = candidates[at], prompts[at].targets
                if request.towards and not (own.scores[chosen.indices] > 0).all():
                    made[place] = without_opposites(chosen, own.scores, targets, own.vectors, n, request.selection)
        else:
            made = []
            for at in group:
                own, targets, settings, most = candidates[at], prompts[at].targets, dict(request.selection), n
                for name in PER_CANDIDATE_SETTINGS & settings.keys():
                    if np.shape(settings[name]) == own.ids.shape:  # given in the order of the ids
                        settings[name] = np.asarray(settings[name])[np.argsort(np.argsort(own.ids))]
                if capped:
                    passages = store.passages(own.ids.tolist(), search.filter)
                    caps, most = capped_settings(request, n, [passage.document for passage in passages])
                    settings |= {"sources": caps["sources"], "source_cap": caps["source_cap"]}
                offered, scores = own.vectors, own.scores
                if own.features is not None:
                    settings |= _word_settings(own, own.features, request)
                    targets, offered = own.features.prompt_beside(targets), own.features.passages_beside(offered)
                    scores = (offered @ targets.T).max(axis=1)
                chosen = choosing.select(targets, offered, most, method=request.method, **settings)
                if request.towards and not (scores[chosen.indices] > 0).all():
                    chosen = without_opposites(chosen, scores, targets, offered, most, settings)
                made.append(chosen)
        for at, chosen in zip(group, made, strict=True):
            selections[at] = replace(chosen, indices=candidates[at].ids[chosen.indices])
    return [selections[place] for place in range(len(prompts))]


def without_opposites(
    chosen: Selection, scores: FloatArray, targets: Vectors, vectors: Vectors, n: int, settings: Mapping[str, Any]
) -> Selection:
    """The selection made again, since there were opposites among its picks, without all whose score (K,) is 0 or less.

    Where there are none among its picks, it stays as it is: excluding the others would not change it.
    """
    closed = scores <= 0
    if (excluded := settings.get("exclude")) is not None:
        closed[excluded] = True
    left = int(np.count_nonzero(~closed))
    if not left:
        return empty_selection(chosen)
    cap = choosing.Limits(replacement=settings.get("replacement")).cap(repeats=False)
    most = n if cap is None else min(n, cap * left)
    again = choosing.select(targets, vectors, most, method=chosen.method, **{**settings, "exclude": closed})
    return replace(again, stopped="exhausted") if again.stopped == "n" and most < n else again


def _word_settings(own: Shortlist, features: keywords.WordFeatures, request: SearchRequest) -> dict[str, Any]:
    """The settings that differ where words stand beside the vectors."""
    changed: dict[str, Any] = {"normalize": False}
    if (known := request.selection.get("known")) is not None:
        vectors = np.atleast_2d(np.asarray(known, dtype=np.float32))
        changed["known"] = features.others_beside(unit_rows(vectors) if request.search.normalize else vectors)
    if "relevance" in find_method(request.method).options and "relevance" not in request.options:
        changed["relevance"] = own.relevance
    return changed


def capped_settings(request: SearchRequest, n: int, documents: Sequence[int]) -> tuple[dict[str, Any], int]:
    """The settings of a selection with a cap for each document, and the number of picks that the cap allows."""
    cap = min(request.n, request.search.per_document or request.n)
    _, counts = np.unique(np.array(documents), return_counts=True)
    most = min(n, int(np.minimum(counts, cap).sum()))
    return {**request.selection, "sources": documents, "source_cap": cap}, most


# --- among everything


def _search_everything(
    store: WholeStore, prompts: Sequence[EmbeddedPrompt], request: SearchRequest, clock: _Clock
) -> list[Found]:
    vectors, allowed = store.everything(), store.allowed(request.search.filter)
    if allowed is not None and len(allowed) != len(vectors):
        raise InvalidInput(f"the store says of {len(allowed)} rows what is allowed, and has {len(vectors)}")
    banned = [_excluded_ids(store, prompt, request.search, allowed) for prompt in prompts]
    banned = [out[out < len(vectors)] for out in banned]  # a caller may exclude what is not there
    clock.lap("search")
    selections = _select_everything(prompts, vectors, banned, request)
    clock.lap("select")
    found = []
    for chosen, prompt, out in zip(selections, prompts, banned, strict=True):
        candidates = _score_candidates(store, prompt, np.unique(chosen.indices))
        found.append(_build_found(store, candidates, chosen, len(vectors) - len(out), request, clock))
    return found


def _select_everything(
    prompts: Sequence[EmbeddedPrompt], vectors: Vectors, banned: Sequence[IntArray], request: SearchRequest
) -> Sequence[Selection]:
    sizes = [len(vectors) - len(out) for out in banned]
    settings = dict(request.selection)
    shared = all(np.array_equal(out, banned[0]) for out in banned)
    if len(prompts) > 1 and shared and sizes[0]:
        settings["exclude"] = banned[0] if len(banned[0]) else None
        queries, n = [prompt.query for prompt in prompts], min(request.n, sizes[0])
        selections = list(choosing.select_many(queries, vectors, n, method=request.method, **settings))
    else:
        selections = []
        for prompt, out, size in zip(prompts, banned, sizes, strict=True):
            settings["exclude"], n = out if len(out) else None, min(request.n, size)
            selections.append(
                choosing.select(prompt.targets, vectors, n, method=request.method, **settings)
                if size
                else _empty_selection(prompt, request)
            )
    for at, (chosen, prompt, out) in enumerate(zip(selections, prompts, banned, strict=True)):
        if request.towards and not (vectors[chosen.indices] @ prompt.targets.T).max(axis=1).min(initial=1) > 0:
            scores = np.concatenate([(block @ prompt.targets.T).max(axis=1) for block in blocks(vectors)])
            settings["exclude"], n = out, min(request.n, sizes[at])
            selections[at] = without_opposites(chosen, scores, prompt.targets, vectors, n, settings)
    return selections


def _excluded_ids(store: WholeStore, prompt: EmbeddedPrompt, search: Search, allowed: BoolArray | None) -> IntArray:
    """Rows that must not be picked."""
    out = search.excluded if allowed is None else np.union1d(np.flatnonzero(~allowed), search.excluded)
    if search.copy_similarity is not None:
        near = np.unique(
            np.concatenate([x.ids for x in store.nearest(prompt.targets, COPY_SEARCH_NEIGHBOURS, search.filter)])
        )
        out = np.union1d(out, near[_copy_mask_of(store, near, prompt, search.copy_similarity)])
    return out.astype(np.int64)


def _search_residual(store: WholeStore, prompt: EmbeddedPrompt, request: SearchRequest, clock: _Clock) -> Found:
    search = request.search
    out = _excluded_ids(store, prompt, search, None)
    none = np.zeros(0, dtype=np.int64)
    size, left = store.count(search.filter, none), store.count(search.filter, out)
    index = StoreIndex(store, search.filter) if size is None else SizedStoreIndex(store, search.filter, size)
    n = request.n if left is None else min(request.n, left)
    if left is None:
        # So that a store of unknown size is not asked to repeat itself, nor an empty one to answer.
        there, _ = index.search(prompt.targets, n + len(out))
        n = min(n, int((~np.isin(np.unique(there[there >= 0]), out)).sum()))
    clock.lap("search")
    chosen = _select_residual(prompt, index, n, request, out) if n > 0 else _empty_selection(prompt, request)
    clock.lap("select")
    candidates = _score_candidates(store, prompt, np.unique(chosen.indices))
    size = left if left is not None else int((~np.isin(index.seen, out)).sum())
    return _build_found(store, candidates, chosen, size, request, clock)


def _select_residual(
    prompt: EmbeddedPrompt, index: StoreIndex, n: int, request: SearchRequest, out: IntArray
) -> Selection:
    """`siftlm.select_from`; as long as there are opposites among the picks, again without those that it has seen."""
    targets, k = prompt.targets, request.search.k or 1
    while True:
        chosen = choosing.select_from(targets, index, n, k=k, exclude=out, **request.selection)
        scores = (index.vectors(chosen.indices) @ targets.T).max(axis=1)
        if not request.towards or scores.min(initial=1) > 0:
            return chosen
        opposite = index.seen[(index.vectors(index.seen) @ targets.T).max(axis=1) <= 0]
        out = np.union1d(np.union1d(out, opposite), chosen.indices[scores <= 0])
        near, _ = index.search(targets, len(out) + 1)
        near = np.setdiff1d(near[near >= 0], out)
        if not len(near) or (index.vectors(near) @ targets.T).max() <= 0:
            return empty_selection(chosen)


# --- the result


def _build_found(
    store: WholeStore, candidates: Shortlist, chosen: Selection, considered: int, request: SearchRequest, clock: _Clock
) -> Found:
    """The result of a selection whose indices are ids of the store."""
    if chosen.stopped == "n" and len(chosen.indices) < request.n:  # as many as there are to pick
        chosen = replace(chosen, stopped="exhausted")
    words, fused = candidates.words, candidates.fused
    place = {row: at for at, row in enumerate(candidates.ids.tolist())}
    ids = [int(index) for index in chosen.indices]
    hits = []
    for at, (row, passage) in enumerate(zip(ids, store.passages(ids, request.search.filter), strict=True)):
        left = float(chosen.uncertainty[at + 1])
        hits.append(
            Hit(
                text=passage.text,
                meta=passage.meta,
                score=float(candidates.scores[place[row]]),
                gain=float(chosen.gains[at]),
                uncertainty=left,
                row=row,
                id=passage.id,
                document=passage.document,
                part=passage.part,
                parts=passage.parts,
                start=passage.start,
                copies=passage.copies,
                words_score=None if words is None else float(words[place[row]]),
                fused_score=None if fused is None else float(fused[place[row]]),
            )
        )
    clock.lap("read")
    return Found(tuple(hits), chosen, considered, clock.seconds)


def _empty_selection(prompt: EmbeddedPrompt, request: SearchRequest) -> Selection:
    """The selection where there is no candidate, which is no error; a wrong setting is one here as well."""
    return empty_selection(dry_run_selection(prompt, request))


def empty_selection(tried: Selection) -> Selection:
    """The selection of nothing by the method and λ of another one."""
    return Selection(NO_ROWS, np.zeros(0), tried.uncertainty[:1], "exhausted", tried.method, tried.noise)


def dry_run_selection(prompt: EmbeddedPrompt, request: SearchRequest) -> Selection:
    """The selection with the prompt itself as the only candidate, to find out whether the settings are valid."""
    if request.search.residual:
        index = choosing.NumpyIndex(prompt.targets)
        return choosing.select_from(prompt.targets, index, 1, k=request.search.k or 1, **request.selection)
    return choosing.select(prompt.targets, prompt.targets, 1, method=request.method, **request.selection)


@dataclass
class _Clock:
    """The seconds since the last lap, added up by name."""

    seconds: dict[str, float]
    last: float = field(default_factory=time.perf_counter)

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self.seconds[name] = self.seconds.get(name, 0.0) + now - self.last
        self.last = now


class StoreIndex:
    """A `siftlm.selection.Index` over those of a store that meet a filter, however many they are."""

    def __init__(self, store: WholeStore, where: Expression | None) -> None:
        self._store, self._where, self.exact = store, where, store.exact
        self.seen: IntArray = np.zeros(0, dtype=np.int64)
        """All ids found so far."""

    def search(self, queries: npt.NDArray[Any], k: int) -> tuple[IntArray, npt.NDArray[Any]]:
        """See `siftlm.selection.Index`."""
        found = self._store.nearest(queries, k, self._where)
        ids = np.full((len(found), k), -1, dtype=np.int64)
        scores = np.full((len(found), k), -np.inf)
        for at, one in enumerate(found):
            ids[at, : len(one.ids)], scores[at, : len(one.ids)] = one.ids, one.scores
        self.seen = np.union1d(self.seen, ids[ids >= 0])
        return ids, scores

    def vectors(self, ids: IntArray) -> Vectors:
        """See `siftlm.selection.Index`."""
        return self._store.vectors(ids)


class SizedStoreIndex(StoreIndex):
    """A `StoreIndex` of known size, so that nobody asks it for more than there are."""

    def __init__(self, store: WholeStore, where: Expression | None, size: int) -> None:
        super().__init__(store, where)
        self._size = size

    def __len__(self) -> int:
        return self._size
