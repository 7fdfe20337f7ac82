"""Text in, vectors out."""

from siftlm.embedding.hashing import HashingEmbedder
from siftlm.embedding.protocol import Embedder
from siftlm.embedding.resolve import embedder

__all__ = ["Embedder", "HashingEmbedder", "embedder"]
