"""A vector database in the memory's place."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

from siftlm.embedding import embedder as make_embedder
from siftlm.embedding.protocol import Embedder
from siftlm.errors import InvalidInput, WrongEmbedder
from siftlm.memory.checked import CheckedStore
from siftlm.memory.searching import Searcher
from siftlm.memory.store import Store, WholeStore


class Outside(Searcher):
    """Searches any `Store` as a `Memory` searches itself: the same methods, the same results.

    What a store lacks (full-text search, all vectors at once) is a `Conflict` once it is asked for.

    Args:
        store: see `Store`; `ArrayStore` is one over arrays.
        embedder: the one that the store's vectors came from, by name or as an `Embedder`; nobody can check that it
            is, beyond its width. ``None``: prompts are given as vectors.

    >>> from siftlm.embedding import embedder
    >>> from siftlm.memory import ArrayStore
    >>> hashing, texts = embedder("hashing"), ["Michael Jordan has five children.", "Jordan is a country."]
    >>> outside = Outside(ArrayStore(hashing.embed(texts), texts), hashing)
    >>> outside.search("How many children has Michael Jordan?", n=1).texts
    ['Michael Jordan has five children.']
    """

    def __init__(self, store: Store, embedder: str | Embedder | None) -> None:
        self._checked = CheckedStore(store)
        self._embedder = None if embedder is None else make_embedder(embedder)
        if self._embedder is not None and self._embedder.width != self.width:
            raise WrongEmbedder(
                f"embedder {self._embedder.name!r} gives vectors of width {self._embedder.width}, and "
                f"{type(store).__name__} holds vectors of width {self.width}"
            )

    @property
    def embedder(self) -> Embedder:
        """As it was given."""
        if self._embedder is None:
            raise InvalidInput("without an embedder prompts must be vectors: Outside(store, embedder)")
        return self._embedder

    @property
    def width(self) -> int:
        """d, of its vectors."""
        return self._checked.width

    def _store(self) -> AbstractContextManager[WholeStore]:
        return nullcontext(self._checked)
