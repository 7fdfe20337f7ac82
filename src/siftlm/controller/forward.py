"""The model's forward pass: losses to learn from, and spans of text to score, many at once without padding waste."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeVar

import numpy as np
import torch

from siftlm.controller.batching import BatchBudget, batch_budget, batches
from siftlm.controller.tokens import IGNORE_INDEX, TokenSpan, Window
from siftlm.types import FloatArray

Measured = TypeVar("Measured")
Measure = Callable[[torch.Tensor, torch.Tensor], Sequence[Measured]]
"""(rows, tokens, vocabulary) logits and (rows, tokens) labels -> one figure for each row."""
RowsContext = Callable[[Sequence[int]], AbstractContextManager[Any]]
"""Places of the spans in a batch -> the context in which the model reads those rows."""


def autocast(device: str, precision: str) -> AbstractContextManager[Any]:
    """The context that computes in ``precision``."""
    if precision == "float32":
        return nullcontext()
    context: AbstractContextManager[Any] = torch.autocast(device, dtype=getattr(torch, precision))
    return context


def resolve_precision(precision: str, device: str) -> str:
    """The precision that ``auto`` means on this device."""
    if precision != "auto":
        return precision
    if device == "cuda":
        return "bfloat16" if torch.cuda.is_bf16_supported() else "float32"
    if device != "cpu":
        return "float32"
    fast = [getattr(torch.cpu, name, lambda: False) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported")]
    return "bfloat16" if any(has() for has in fast) else "float32"


def vocabulary_size(model: torch.nn.Module) -> int:
    """How many tokens the model's head predicts."""
    return int(model.get_output_embeddings().weight.shape[0])


def window_loss(run: Callable[..., Any], window: Window, device: torch.device, precision: str) -> torch.Tensor:
    """Mean nats of the tokens that are learned; the last token is predicted and not read."""
    ids = torch.tensor([window.ids[:-1]], device=device)
    labels = torch.tensor(window.labels[1:], device=device)
    with autocast(ids.device.type, precision):
        logits = run(input_ids=ids, use_cache=False).logits[0]
    return torch.nn.functional.cross_entropy(logits.float(), labels, ignore_index=IGNORE_INDEX)


def token_nats_of(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """(rows, tokens) nats of each label; 0 where there is none."""
    # Flat: with the vocabulary in the last place its sums run over neighbours, ten times as fast as transposed.
    nats = torch.nn.functional.cross_entropy(
        logits.float().flatten(0, 1), labels.flatten(), ignore_index=IGNORE_INDEX, reduction="none"
    )
    return nats.view(labels.shape)


def span_nats(
    model: torch.nn.Module,
    spans: Sequence[TokenSpan],
    *,
    budget: BatchBudget | None = None,
    rows: RowsContext | None = None,
) -> FloatArray:
    """(n,) the nats of each span's scored tokens."""

    def measure(logits: torch.Tensor, labels: torch.Tensor) -> list[float]:
        sums: list[float] = token_nats_of(logits, labels).double().sum(dim=1).tolist()
        return sums

    return np.array(measure_spans(model, spans, measure, budget=budget, rows=rows), dtype=np.float64)


def token_nats(model: torch.nn.Module, spans: Sequence[TokenSpan]) -> list[FloatArray]:
    """(scored,) for each span: the nats of each of its scored tokens."""

    def measure(logits: torch.Tensor, labels: torch.Tensor) -> list[FloatArray]:
        nats, known = token_nats_of(logits, labels).double().cpu().numpy(), (labels != IGNORE_INDEX).cpu().numpy()
        return [row[own] for row, own in zip(nats, known, strict=True)]

    return measure_spans(model, spans, measure)


def measure_spans(
    model: torch.nn.Module,
    spans: Sequence[TokenSpan],
    measure: Measure[Measured],
    *,
    budget: BatchBudget | None = None,
    rows: RowsContext | None = None,
) -> list[Measured]:
    """What ``measure`` makes of the logits and labels of each span, in few forward passes.

    Args:
        model: read in the modes that it is in.
        spans: each is a row; the labels are its scored tokens.
        measure: gets a batch of rows at a time.
        budget: what one pass may hold; left out, what fits beside the model.
        rows: the context of a batch, given the places of its spans; such as `AdapterStack.rows`.
    """
    device = next(model.parameters()).device
    figures: dict[int, Measured] = {}
    for batch in batches([len(span.ids) - 1 for span in spans], budget or batch_budget(device, vocabulary_size(model))):
        own = [spans[place] for place in batch]
        width = max(len(span.ids) for span in own) - 1
        ids = torch.zeros((len(own), width), dtype=torch.long)
        labels = torch.full_like(ids, IGNORE_INDEX)
        # Padding on the right: a causal model then sees every token where it would be without it.
        for row, span in enumerate(own):
            length = len(span.ids) - 1
            ids[row, :length] = torch.tensor(span.ids[:-1])
            labels[row, length - span.scored : length] = torch.tensor(span.ids[-span.scored :])
        with torch.inference_mode(), rows(batch) if rows is not None else nullcontext():
            measured = measure(model(input_ids=ids.to(device), use_cache=False).logits, labels.to(device))
        figures.update(zip(batch, measured, strict=True))
    return [figures[place] for place in range(len(spans))]
