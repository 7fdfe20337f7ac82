"""The search that a memory and a vector database in its place have in common."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from siftlm.embedding.protocol import Embedder
from siftlm.errors import InvalidInput
from siftlm.memory import inputs, vectors
from siftlm.memory.request import EmbeddedPrompt, Query, Search, SearchRequest, query_texts, search_request
from siftlm.memory.results import Found
from siftlm.memory.search import dry_run_selection, find_passages
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
        """The store, unchanged inside the block."""

    def search(
        self, query: Query, n: int = 10, *, method: str | Method = "sift", search: Search | None = None, **settings: Any
    ) -> Found:
        """Find the passages that together tell most about the prompt.

        Args:
            query: the prompt's text, or several texts, or (d,) or (m, d) vectors of this memory's embedder.
            n: how many to pick; fewer if there are no more.
            method: how to select; ``siftlm.methods()`` lists what there is.
            search: settings made before.
            **settings: the fields of `siftlm.Search` by name, which win over ``search``, and the method's own:

                * ``k=200`` nearest passages to select among (``None``: the whole memory, exactly), found by
                  ``candidates="vectors"``, ``"words"`` or ``"both"``; ``opposites``, ``exact``
                * ``where`` (a filter), ``exclude``, ``without_copies``, ``per_document``: what may be found
                * ``noise=1.0`` (λ), ``kernel``, ``normalize``, ``known``, ``prior``: how passages are compared
                * ``replacement``, ``sources`` with ``source_cap``, ``costs`` with ``budget``: what may be picked
                * ``adaptive``, ``until``, ``min_gain``, ``min_growth``, ``at_least``: when to stop before ``n``
                * ``residual``, with ``certify`` and ``max_norm``: search again at each step
                * ``seed``: of the methods that involve chance
        """
        return self.run(search_request(n, method, settings, search=search, prompts=[query]))[0]

    def search_many(
        self,
        queries: Sequence[Query],
        n: int = 10,
        *,
        method: str | Method = "sift",
        search: Search | None = None,
        **settings: Any,
    ) -> list[Found]:
        """`search` for many prompts, in their order; embedding, scans and selection are shared."""
        request = search_request(n, method, settings, search=search)
        if isinstance(queries, str) or not isinstance(queries, (Sequence, np.ndarray)):
            raise InvalidInput("queries must be a list of prompts; for one prompt use search")
        return self.run(replace(request, prompts=list(queries)))

    def check(
        self, n: int = 10, *, method: str | Method = "sift", search: Search | None = None, **settings: Any
    ) -> None:
        """Raise what `search` would raise for these settings, whatever the prompt is, without searching.

        A setting that has a value for each candidate, such as ``costs``, is only known to fit when there are some.
        """
        self.check_request(search_request(n, method, settings, search=search))

    def run(self, request: SearchRequest) -> list[Found]:
        """The passages for each prompt of the request."""
        began, width = time.perf_counter(), self.width
        # 1. The vectors of known texts.
        known = request.search.known
        known_texts = None if known is None else query_texts(known)
        if known_texts is not None:
            embedded = vectors.embed_checked(self.embedder, known_texts, width)
            request = replace(request, search=replace(request.search, known=embedded))
        # 2. The vectors of the prompts: all texts of all of them are embedded in one call.
        texts_of = [query_texts(query) for query in request.prompts]
        texts = [text for own in texts_of for text in own or ()]
        units: Vectors = np.empty((0, width), dtype=np.float32)
        if texts:
            units = vectors.unit_rows(vectors.embed_checked(self.embedder, texts, width, as_query=True))
            if np.isnan(units).any():
                bad = int(np.argmax(np.isnan(units).any(axis=1)))
                if not texts[bad].strip():
                    raise InvalidInput("the prompt is empty: it must be a text, texts, or vectors")
                raise InvalidInput(f"the prompt {texts[bad][:60]!r} has no direction: its vector is zero or not finite")
        prompts, start, many = [], 0, len(request.prompts) > 1
        for at, (query, own) in enumerate(zip(request.prompts, texts_of, strict=True)):
            if own is None:
                name = f"prompt {at}" if many else "the prompt"
                prompts.append(EmbeddedPrompt(inputs.unit_targets(name, query, width), None))
            else:
                prompts.append(EmbeddedPrompt(units[start : start + len(own)], "\n".join(own)))
                start += len(own)
        # 3. The search.
        seconds = {"embed": time.perf_counter() - began}
        with self._store() as store:
            return find_passages(store.scanning() if request.search.exact else store, prompts, request, seconds)

    def check_request(self, request: SearchRequest) -> None:
        """`check`, of a request."""
        if request.per_candidate:
            return
        known = request.search.known
        if known is not None and query_texts(known) is not None:  # any texts can be embedded
            request = replace(request, search=replace(request.search, known=None))
        dry_run_selection(EmbeddedPrompt(np.eye(1, self.width, dtype=np.float32), None), request)
