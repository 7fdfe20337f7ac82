"""Text in, vectors out."""

from siftlm.embedding.hashing import HashingEmbedder
from siftlm.embedding.protocol import Embedder
from siftlm.embedding.resolve import DEFAULT_EMBEDDER, FunctionEmbedder, embedder

__all__ = ["DEFAULT_EMBEDDER", "Embedder", "FunctionEmbedder", "HashingEmbedder", "embedder"]
