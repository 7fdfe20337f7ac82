"""The model's forward pass: losses to learn from, spans of text to score, and which rows go through it together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeVar

import numpy as np
import torch

from siftlm.controller.tokens import IGNORE_INDEX, ScoredText, TokenSpan, Window
from siftlm.errors import InvalidInput, setting
from siftlm.types import FloatArray, Likelihood, Vectors

# Bytes that a logit costs while it is learned from: itself, in full precision, its softmax, their gradients, and what
# the layers below keep.
BYTES_PER_LOGIT = 64
# Logits, and weights of adapters beside those of the prompts themselves, that a batch may hold on a CPU.
MAX_TUNING_LOGITS, MAX_TUNING_WEIGHTS = 2**26, 2**27
# A pass costs as much as so many tokens, however few it reads.
PASS_OVERHEAD_TOKENS = {"cpu": 48, "cuda": 4096}

Measured = TypeVar("Measured")
Measure = Callable[[torch.Tensor, torch.Tensor], Sequence[Measured]]
"""(rows, tokens, vocabulary) logits and (rows, tokens) labels -> one figure for each row."""
RowsContext = Callable[[Sequence[int]], AbstractContextManager[Any]]
"""Places of what is in a batch -> the context in which the model reads those rows."""


@dataclass(frozen=True)
class BatchBudget:
    """The most that one batch may hold."""

    tokens: int
    rows: int
    overhead: int
    """A pass costs as much as so many tokens of padding."""


def batch_budget(device: torch.device, vocabulary: int, weights: int = 0) -> BatchBudget:
    """The budget for logits of ``vocabulary``, and an adapter of ``weights`` numbers for each row."""
    logits, held = MAX_TUNING_LOGITS, MAX_TUNING_WEIGHTS
    if device.type == "cuda":
        logits = torch.cuda.get_device_properties(device).total_memory // BYTES_PER_LOGIT
        held = logits // 2
    return BatchBudget(
        max(1, logits // vocabulary),
        max(1, held // max(1, weights)),
        PASS_OVERHEAD_TOKENS.get(device.type, PASS_OVERHEAD_TOKENS["cuda"]),
    )


def batches(lengths: Sequence[int], room: BatchBudget) -> list[list[int]]:
    """The cheapest cut of the rows, sorted by length: a batch costs ``overhead`` + rows · its longest.

    >>> batches([200, 10, 11, 190], BatchBudget(tokens=1000, rows=8, overhead=48))
    [[0, 3], [2, 1]]
    """
    order = sorted(range(len(lengths)), key=lambda at: -lengths[at])
    # costs[n]: of the first n rows; begins[n]: where their last batch begins.
    costs, begins = [0], [0]
    for end in range(1, len(order) + 1):
        best = (costs[end - 1] + room.overhead + lengths[order[end - 1]], end - 1)
        for begin in range(end - 2, max(-1, end - room.rows - 1), -1):
            held = (end - begin) * lengths[order[begin]]
            if held > room.tokens:
                break
            best = min(best, (costs[begin] + room.overhead + held, begin))
        costs.append(best[0])
        begins.append(best[1])
    found, end = [], len(order)
    while end:
        found.append(order[begins[end] : end])
        end = begins[end]
    return found[::-1]


def autocast(device: str, precision: str) -> AbstractContextManager[Any]:
    """The context that computes in ``precision``."""
    if precision == "float32":
        return nullcontext()
    context: AbstractContextManager[Any] = torch.autocast(device, dtype=getattr(torch, precision))
    return context


@cache
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


def text_likelihoods(
    model: torch.nn.Module, texts: Sequence[ScoredText], budget: BatchBudget, rows: RowsContext | None = None
) -> list[Likelihood]:
    """The likelihood of each text, in few forward passes; ``rows`` gets the places of texts."""
    spans = [span for text in texts for span in text.spans]
    owners = [place for place, text in enumerate(texts) for _ in text.spans]
    by_text = None if rows is None else (lambda batch: rows([owners[place] for place in batch]))
    nats = iter(measure_spans(model, spans, _summed_nats, budget, by_text))
    return [Likelihood(float(sum(next(nats) for _ in text.spans)), text.tokens, text.bytes) for text in texts]


def span_nats(model: torch.nn.Module, spans: Sequence[TokenSpan], budget: BatchBudget) -> FloatArray:
    """(n,) the nats of each span's scored tokens."""
    return np.array(measure_spans(model, spans, _summed_nats, budget), dtype=np.float64)


def _summed_nats(logits: torch.Tensor, labels: torch.Tensor) -> list[float]:
    sums: list[float] = token_nats_of(logits, labels).double().sum(dim=1).tolist()
    return sums


def token_nats(model: torch.nn.Module, spans: Sequence[TokenSpan], budget: BatchBudget) -> list[FloatArray]:
    """(scored,) for each span: the nats of each of its scored tokens."""

    def measure(logits: torch.Tensor, labels: torch.Tensor) -> list[FloatArray]:
        nats, known = token_nats_of(logits, labels).double().cpu().numpy(), (labels != IGNORE_INDEX).cpu().numpy()
        return [row[own] for row, own in zip(nats, known, strict=True)]

    return measure_spans(model, spans, measure, budget)


def measure_spans(
    model: torch.nn.Module,
    spans: Sequence[TokenSpan],
    measure: Measure[Measured],
    budget: BatchBudget,
    rows: RowsContext | None = None,
) -> list[Measured]:
    """What ``measure`` makes of the logits and labels of each span, in few forward passes.

    Args:
        model: read in the modes that it is in.
        spans: each is a row; the labels are its scored tokens.
        measure: gets a batch of rows at a time.
        budget: what one pass may hold.
        rows: the context of a batch, by the places of its spans; such as `AdapterStack.rows`.
    """
    device = next(model.parameters()).device
    figures: dict[int, Measured] = {}
    for batch in batches([len(span.ids) - 1 for span in spans], budget):
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


def hidden_states(
    model: Any, pieces: Sequence[Sequence[int]], layer: int, skipped: int, budget: BatchBudget
) -> Vectors:
    """(tokens, d) float32: the states of the tokens of each piece behind its first ``skipped``, in order."""
    body = model.base_model
    device = next(model.parameters()).device
    found: dict[int, Vectors] = {}
    for batch in batches([len(piece) for piece in pieces], budget):
        width = max(len(pieces[place]) for place in batch)
        ids = torch.zeros((len(batch), width), dtype=torch.long)
        for row, place in enumerate(batch):  # padded on the right, as in `measure_spans`
            ids[row, : len(pieces[place])] = torch.tensor(pieces[place])
        with torch.inference_mode():
            states = body(input_ids=ids.to(device), use_cache=False, output_hidden_states=True).hidden_states
        if not -len(states) <= layer < len(states):
            raise InvalidInput(
                f"{setting('layer', layer)}: the model has {len(states) - 1} layers, and 0 for embeddings"
            )
        for row, place in enumerate(batch):
            found[place] = states[layer][row, skipped : len(pieces[place])].float().cpu().numpy()
    if not found:
        raise InvalidInput(f"{setting('texts')} have no tokens")
    return np.concatenate([found[place] for place in range(len(pieces))])
