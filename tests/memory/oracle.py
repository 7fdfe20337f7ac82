"""A memory in plain Python: documents in a dict, texts in a list, searches by sorting. Slow, and plain to read."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from siftlm.embedding import HashingEmbedder
from siftlm.memory.filters import parse
from siftlm.memory.near_duplicates import Near
from siftlm.memory.passages import split_passages

Array = np.ndarray[Any, Any]


@dataclass
class Place:
    """Where a part of a document is kept: its own text, or one that is nearly the same."""

    start: int
    text: str
    near: bool


@dataclass
class Doc:
    key: str | None
    meta: Mapping[str, Any]
    places: list[Place]


class Model:
    """What a memory with these settings must hold after the same calls."""

    def __init__(self, *, size: int, overlap: int, near: float | None = None) -> None:
        self.size, self.overlap = size, overlap
        self.near = None if near is None else Near(near)
        self.documents: list[Doc] = []
        self.texts: list[str] = []
        """Each once, in the order of coming: that of their rows."""

    def add(self, text: str, meta: Mapping[str, Any], key: str | None = None) -> None:
        self.documents.append(Doc(key, meta, [self._stand(start, part) for start, part in self.cut(text)]))

    def cut(self, text: str) -> list[tuple[int, str]]:
        if len(text) <= self.size:
            return [(text.find(text.strip()), text.strip())]
        tokens = HashingEmbedder(width=8).tokens([text])[0]
        spans = split_passages(text, tokens, size=self.size, overlap=self.overlap)
        return [(span.start, text[span.start : span.end]) for span in spans]

    def delete(self, where: Any) -> tuple[int, int]:
        """How many documents and texts went."""
        documents, texts = len(self.documents), len(self.texts)
        self.documents = [doc for doc in self.documents if not self.meant(doc, where)]
        held = {place.text for doc in self.documents for place in doc.places if not place.near}
        self.texts = [text for text in self.texts if text in held]
        for doc in self.documents:
            doc.places = [place for place in doc.places if place.text in held]
        self.documents = [doc for doc in self.documents if doc.places]
        return documents - len(self.documents), texts - len(self.texts)

    def holders(self, text: str, where: Any = None) -> list[Doc]:
        return [d for d in self.documents if self.meant(d, where) and any(p.text == text for p in d.places)]

    def copies(self, text: str) -> int:
        return sum(place.text == text for doc in self.documents for place in doc.places)

    def allowed(self, where: Any = None) -> list[int]:
        """Positions among the living texts."""
        return [at for at, text in enumerate(self.texts) if self.holders(text, where)]

    @staticmethod
    def meant(doc: Doc, where: Any) -> bool:
        return parse(where).matches(doc.meta, doc.key)

    def _stand(self, start: int, part: str) -> Place:
        if part in self.texts:
            return Place(start, part, near=False)
        for other in self.texts:
            if self.near is not None and self._nearly(part, other):
                return Place(start, other, near=True)
        self.texts.append(part)
        return Place(start, part, near=False)

    def _nearly(self, a: str, b: str) -> bool:
        assert self.near is not None
        first, second = self.near.bands([a, b]).tolist()
        return bool(set(first) & set(second)) and self.near.similarity(a, b) >= self.near.threshold


def cosines(query: Array, vectors: Array) -> Array:
    """(m, d) and (n, d) -> (n,) the cosine to the nearest of the m."""
    query, vectors = np.atleast_2d(query).astype(np.float64), np.atleast_2d(vectors).astype(np.float64)
    query = query / np.linalg.norm(query, axis=1, keepdims=True)
    vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return (vectors @ query.T).max(axis=1)


class Counting:
    """An embedder that counts what it embeds."""

    def __init__(self, width: int = 64, spoil: Callable[[Array], Array] | None = None) -> None:
        self._inner, self.embedded, self._spoil = HashingEmbedder(width=width), 0, spoil
        self.name, self.settings, self.max_tokens = "counting", {"width": width}, None
        self.fingerprint, self.width = f"counting:{width}", width

    def embed(self, texts: Sequence[str], *, as_query: bool = False) -> Array:
        self.embedded += 0 if as_query else len(texts)
        found = self._inner.embed(texts)
        return found if self._spoil is None else self._spoil(found)

    def tokens(self, texts: Sequence[str]) -> list[Array]:
        return self._inner.tokens(texts)
