"""Text in, vectors out."""

from siftlm.embedding.hashing import HashingEmbedder
from siftlm.embedding.protocol import Embedder
from siftlm.embedding.resolve import FunctionEmbedder, embedder

__all__ = ["Embedder", "FunctionEmbedder", "HashingEmbedder", "embedder"]
