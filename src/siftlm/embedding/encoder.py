"""Any Hugging Face encoder: the mean of its last states over all tokens that are no padding."""

from __future__ import annotations

from typing import Any

from siftlm.embedding.transformer import TransformerEmbedder


def encoder_embedder(
    name: str,
    model: str,
    *,
    max_tokens: int | None = None,
    query_prefix: str = "",
    passage_prefix: str = "",
    precision: str | None = None,
    device: str | None = None,
    batch_tokens: int | None = None,
) -> TransformerEmbedder:
    """The encoder in the folder or hub repository ``model``."""
    return TransformerEmbedder(
        "encoder",
        name,
        model,
        mean_pooling,
        max_tokens=max_tokens,
        query_prefix=query_prefix,
        passage_prefix=passage_prefix,
        precision=precision,
        device=device,
        batch_tokens=batch_tokens,
    )


def mean_pooling(states: Any, mask: Any) -> Any:
    """Σₜ hₜ / T."""
    weights = mask.unsqueeze(-1).to(states.dtype)
    return (states * weights).sum(dim=1) / weights.sum(dim=1)
