"""The model's forward pass: losses to learn from, and texts to score, many at once without padding waste."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch

from siftlm.controller.tokens import IGNORE_INDEX, TokenSpan, Window
from siftlm.types import FloatArray

# Logits that are held at once while texts are scored, and the most padding beside them.
MAX_SCORING_LOGITS = 2**27
MAX_PADDING_RATIO = 1.1


def autocast(device: str, precision: str) -> AbstractContextManager[Any]:
    """The context that computes in ``precision``."""
    if precision == "float32":
        return nullcontext()
    context: AbstractContextManager[Any] = torch.autocast(device, dtype=getattr(torch, precision))
    return context


def resolve_precision(precision: str, device: str) -> str:
    """What ``auto`` means on this device."""
    if precision != "auto":
        return precision
    if device == "cuda":
        return "bfloat16" if torch.cuda.is_bf16_supported() else "float32"
    if device != "cpu":
        return "float32"
    fast = [getattr(torch.cpu, name, lambda: False) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported")]
    return "bfloat16" if any(has() for has in fast) else "float32"


def window_loss(run: Callable[..., Any], window: Window, device: Any, precision: str) -> Any:
    """Mean nats of the tokens that are learned; the last token is predicted and not read."""
    ids = torch.tensor([window.ids[:-1]], device=device)
    labels = torch.tensor(window.labels[1:], device=device)
    with autocast(ids.device.type, precision):
        logits = run(input_ids=ids, use_cache=False).logits[0]
    return torch.nn.functional.cross_entropy(logits.float(), labels, ignore_index=IGNORE_INDEX)


def span_nats(model: Any, spans: Sequence[TokenSpan], vocabulary: int) -> FloatArray:
    """(n,) the nats of each span's scored tokens."""
    found = np.zeros(len(spans))
    for batch in _length_batches([len(span.ids) - 1 for span in spans], max(1, MAX_SCORING_LOGITS // vocabulary)):
        found[list(batch)] = span_nats_in_one_pass(model, [spans[place] for place in batch])
    return found


def token_nats(model: Any, spans: Sequence[TokenSpan], vocabulary: int) -> list[FloatArray]:
    """(scored,) for each span: the nats of each of its scored tokens."""
    found: list[FloatArray] = [np.zeros(0)] * len(spans)
    for batch in _length_batches([len(span.ids) - 1 for span in spans], max(1, MAX_SCORING_LOGITS // vocabulary)):
        nats = _padded_nats(model, [spans[place] for place in batch])
        for place, row in zip(batch, nats.double().cpu().numpy(), strict=True):
            end = len(spans[place].ids) - 1
            found[place] = row[end - spans[place].scored : end]
    return found


def span_nats_in_one_pass(model: Any, spans: Sequence[TokenSpan]) -> FloatArray:
    """`span_nats` in one pass."""
    summed: FloatArray = _padded_nats(model, spans).double().sum(dim=1).cpu().numpy()
    return summed


def _padded_nats(model: Any, spans: Sequence[TokenSpan]) -> Any:
    """(n, longest) of each token that is read: the nats of the one behind it, 0 where that is not scored."""
    device = next(model.parameters()).device
    lengths = [len(span.ids) - 1 for span in spans]
    ids = torch.zeros((len(spans), max(lengths)), dtype=torch.long)
    labels = torch.full_like(ids, IGNORE_INDEX)
    # On the right: a causal model then sees every token where it would be without padding.
    for row, (span, length) in enumerate(zip(spans, lengths, strict=True)):
        ids[row, :length] = torch.tensor(span.ids[:-1])
        labels[row, length - span.scored : length] = torch.tensor(span.ids[-span.scored :])
    with torch.inference_mode():
        logits = model(input_ids=ids.to(device), use_cache=False).logits
        # Flat: with the vocabulary in the last place its sums run over neighbours, ten times as fast.
        nats = torch.nn.functional.cross_entropy(
            logits.float().flatten(0, 1), labels.to(device).flatten(), ignore_index=IGNORE_INDEX, reduction="none"
        )
        return nats.view(labels.shape)


def _length_batches(lengths: Sequence[int], most: int) -> list[list[int]]:
    """Places of similar length together: no more than ``most`` tokens, and hardly any of them padding."""
    batches: list[list[int]] = []
    for place in sorted(range(len(lengths)), key=lambda at: -lengths[at]):
        batch = batches[-1] if batches else []
        longest = lengths[batch[0]] if batch else 0
        if batch and longest * (len(batch) + 1) <= most and longest <= MAX_PADDING_RATIO * lengths[place]:
            batch.append(place)
        else:
            batches.append([place])
    return batches
