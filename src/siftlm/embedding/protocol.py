"""The protocol of embedders, and the fingerprints that distinguish them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from siftlm.types import IntArray, Vectors


class Embedder(Protocol):
    """Turns texts into vectors, the same ones for the same texts on every machine, up to rounding."""

    @property
    def name(self) -> str:
        """The name that `siftlm.embedding.embedder` makes it from, such as ``hashing``."""

    @property
    def settings(self) -> dict[str, Any]:
        """The keyword arguments that `siftlm.embedding.embedder` needs besides the name; JSON can hold them."""

    @property
    def fingerprint(self) -> str:
        """Equal for two embedders whose vectors can be compared, and only for those."""

    @property
    def width(self) -> int:
        """d, the width of the vectors."""

    @property
    def max_tokens(self) -> int | None:
        """Tokens beyond this many are not read; ``None`` where there is no limit."""

    def embed(self, texts: Sequence[str], *, as_query: bool = False) -> Vectors:
        """(len(texts), d) float32, one vector a text, in their order; need not be of unit length.

        ``as_query`` is for models that treat questions and passages differently.
        """

    def tokens(self, texts: Sequence[str]) -> list[IntArray]:
        """For each text, (t, 2): where each of its tokens starts and ends, in characters, in order.

        Without special tokens and without truncation: this is what long documents are cut by.
        """


class Embeddings(Protocol):
    """What LangChain calls by that name."""

    def embed_documents(self, texts: list[str]) -> Any:
        """(len(texts), d) numbers."""

    def embed_query(self, text: str) -> Any:
        """(d,) numbers."""


EmbedTexts = Callable[[list[str]], Any]
"""Texts -> (n, d) numbers, as an array or as lists."""
EmbedderSource = str | Embedder | Embeddings | EmbedTexts
"""Whatever `siftlm.embedding.embedder` makes an embedder of."""


def fingerprint(kind: str, content: dict[str, Any]) -> str:
    """The fingerprint: ``kind``, and a digest of whatever changes the vectors.

    >>> fingerprint("hashing", {"width": 512, "version": 1}) == fingerprint("hashing", {"version": 1, "width": 512})
    True
    """
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return f"{kind}:{hashlib.sha256(canonical.encode()).hexdigest()[:24]}"
