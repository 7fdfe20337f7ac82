"""The hidden states of a causal language model, later positions weighing more, as in SGPT (Muennighoff, 2022).

A token of a causal model has seen only what stands before it, so the plain mean would be mostly about the beginning.
"""

from __future__ import annotations

from typing import Any

from siftlm.embedding.transformer import TransformerEmbedder


def states_embedder(
    name: str,
    model: str,
    *,
    layer: int = -1,
    max_tokens: int | None = None,
    query_prefix: str = "",
    passage_prefix: str = "",
    precision: str | None = None,
    device: str | None = None,
    batch_tokens: int | None = None,
) -> TransformerEmbedder:
    """The states of the model in the folder or hub repository ``model``; layer 0 is the input, -1 the last."""
    return TransformerEmbedder(
        "states",
        name,
        model,
        position_weighted_pooling,
        layer=layer,
        max_tokens=max_tokens,
        query_prefix=query_prefix,
        passage_prefix=passage_prefix,
        precision=precision,
        device=device,
        batch_tokens=batch_tokens,
    )


def position_weighted_pooling(states: Any, mask: Any) -> Any:
    """Σₜ t·hₜ / Σₜ t, where t counts from 1."""
    weights = (mask.cumsum(dim=1) * mask).unsqueeze(-1).to(states.dtype)
    return (states * weights).sum(dim=1) / weights.sum(dim=1)
