"""From a name to an embedder: the one place that knows all kinds."""

from __future__ import annotations

from typing import Any

from siftlm.embedding.hashing import HashingEmbedder
from siftlm.embedding.protocol import Embedder
from siftlm.errors import UnknownName

KNOWN = ("hashing",)


def embedder(name: str | Embedder, **settings: Any) -> Embedder:
    """The embedder of that name; an embedder is returned as it is.

    >>> embedder("hashing", width=256).width
    256
    """
    if not isinstance(name, str):
        return name
    if name == "hashing":
        return HashingEmbedder(**settings)
    raise UnknownName("embedder", name, KNOWN)
