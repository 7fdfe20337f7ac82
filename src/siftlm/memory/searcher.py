"""What a memory and a vector database in its place have in common: how they are asked."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager
from inspect import signature
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from siftlm.embedding.protocol import Embedder
from siftlm.errors import InvalidInput
from siftlm.memory import ingest, inputs, search, vectors
from siftlm.memory.request import EmbeddedPrompt, FilterInput, Query, search_request
from siftlm.memory.results import Found
from siftlm.memory.store import WholeStore
from siftlm.types import Vectors

if TYPE_CHECKING:
    from siftlm.selection import Method


class Searcher(ABC):
    """`search` and `search_many`, over a store that the class opens for each call."""

    @property
    @abstractmethod
    def embedder(self) -> Embedder:
        """What turns prompts into vectors."""

    @property
    @abstractmethod
    def width(self) -> int:
        """d, of its vectors."""

    @abstractmethod
    def _store(self) -> AbstractContextManager[WholeStore]:
        """What is searched, unchanged inside the block."""

    def search(
        self,
        query: Query,
        n: int = 10,
        *,
        method: str | Method = "sift",
        k: int | None = 200,
        candidates: str = "vectors",
        opposites: bool = False,
        where: FilterInput = None,
        residual: bool = False,
        without_copies: bool | float = False,
        per_document: int | None = None,
        exclude: npt.ArrayLike | None = None,
        exact: bool = False,
        **settings: Any,
    ) -> Found:
        """Find the passages that together tell most about the prompt.

        Args:
            query: the prompt's text, or several texts, or (d,) or (m, d) vectors of this memory's embedder.
            n: how many to pick; fewer if there are no more.
            method: how to select; ``siftlm.methods()`` lists what there is.
            k: choose among so many nearest passages of each of the prompt's vectors. ``None``: among the whole
                memory, exactly.
            candidates: found by ``vectors``, by ``words`` (BM25) or by ``both`` (their ranks, fused).
            opposites: for SIFT and its kin, also choose among the k nearest of each vector's opposite. To them
                what points away from the prompt tells as much as what points towards it; to a reader it
                rarely does.
            where: only passages of documents whose metadata meet this, ``{"source": "wiki"}`` or
                ``'source = "wiki" and year >= 2000'``.
            residual: search anew at each step, for what the prompt still lacks.
            without_copies: leave out the prompt itself and whatever shares 80 % (or a given share) of its
                five-word sequences, such as when the prompt may be part of the memory.
            per_document: at most so many picks from one document.
            exclude: rows that must not be picked.
            exact: look at every vector, even where there is an index that is faster and may miss some.
            **settings: for the selection, as in ``siftlm.select``: ``kernel``, ``adaptive``, ``until``, …; ``known``
                may be texts, and two have other defaults here: ``noise`` (λ) is 1, and ``replacement``
                False, since hits are for reading. For training, where hearing a text twice can be worth more
                than hearing another, pass ``replacement=True``.
        """
        want = search_request(
            n,
            method=method,
            k=k,
            candidates=candidates,
            opposites=opposites,
            where=where,
            residual=residual,
            without_copies=without_copies,
            per_document=per_document,
            exclude=exclude,
            settings=settings,
        )
        began = time.perf_counter()
        self._embed_known(want.settings)
        prompt = self._prompts([query])[0]
        seconds = {"embed": time.perf_counter() - began}
        with self._store() as store:
            return search.search(store.scanning() if exact else store, prompt, want, seconds)

    def search_many(
        self,
        queries: Sequence[Query],
        n: int = 10,
        *,
        method: str | Method = "sift",
        k: int | None = 200,
        candidates: str = "vectors",
        opposites: bool = False,
        where: FilterInput = None,
        residual: bool = False,
        without_copies: bool | float = False,
        per_document: int | None = None,
        exclude: npt.ArrayLike | None = None,
        exact: bool = False,
        **settings: Any,
    ) -> list[Found]:
        """`search` for many prompts, in their order; embedding, scans and selection are shared."""
        want = search_request(
            n,
            method=method,
            k=k,
            candidates=candidates,
            opposites=opposites,
            where=where,
            residual=residual,
            without_copies=without_copies,
            per_document=per_document,
            exclude=exclude,
            settings=settings,
        )
        if isinstance(queries, str) or not isinstance(queries, (Sequence, np.ndarray)):
            raise InvalidInput("queries must be a list of prompts; for one prompt use search")
        self._embed_known(want.settings)
        prompts = self._prompts(list(queries))
        with self._store() as store:
            return search.search_many(store.scanning() if exact else store, prompts, want)

    def check(self, n: int = 10, **settings: Any) -> None:
        """Raise what `search` would raise for these settings, whatever the prompt is, without searching.

        A setting that has a value for each candidate, such as ``costs``, is only known to fit when there are some.
        """
        asked = signature(Searcher.search).bind(self, "", n, **settings)
        asked.apply_defaults()
        how = {name: value for name, value in asked.arguments.items() if name not in ("self", "query", "exact")}
        want = search_request(**how)
        if want.per_candidate:
            return
        known = want.settings.get("known")
        if known is not None and inputs.query_texts(known) is not None:
            del want.settings["known"]  # any texts can be embedded
        search.dry_run_selection(EmbeddedPrompt(np.eye(1, self.width, dtype=np.float32), None), want)

    def _embed_known(self, settings: dict[str, Any]) -> None:
        """Texts that are known already become vectors; vectors may be given as well."""
        texts = inputs.query_texts(settings["known"]) if settings.get("known") is not None else None
        if texts is not None:
            settings["known"] = ingest.embed_checked(self.embedder, texts, self.width)

    def _prompts(self, queries: Sequence[Query]) -> list[EmbeddedPrompt]:
        """Embed all texts of all prompts in one call."""
        texts: list[str] = []
        made: list[tuple[slice, str] | Vectors] = []
        for at, query in enumerate(queries):
            own = inputs.query_texts(query)
            if own is None:
                made.append(inputs.unit_targets(f"query {at}", query, self.width))
            else:
                made.append((slice(len(texts), len(texts) + len(own)), "\n".join(own)))
                texts.extend(own)
        found: Vectors = np.empty((0, self.width), dtype=np.float32)
        if texts:
            found = vectors.unit_rows(ingest.embed_checked(self.embedder, texts, self.width, as_query=True))
            if np.isnan(found).any():
                at = int(np.argmax(np.isnan(found).any(axis=1)))
                raise InvalidInput(f"the prompt {texts[at][:60]!r} has no direction: its vector is zero or not finite")
        return [
            EmbeddedPrompt(one, None) if isinstance(one, np.ndarray) else EmbeddedPrompt(found[one[0]], one[1])
            for one in made
        ]
