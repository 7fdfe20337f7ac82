"""Batches of rows: which rows go through the model together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

# Bytes that a logit costs while it is learned from: itself, in full precision, its softmax, their gradients, and what
# the layers below keep.
BYTES_PER_LOGIT = 64
# Logits, and weights of adapters beside those of the prompts themselves, that a batch may hold on a CPU.
MAX_TUNING_LOGITS, MAX_TUNING_WEIGHTS = 2**26, 2**27
# A pass costs as much as so many tokens, however few it reads.
PASS_OVERHEAD_TOKENS = {"cpu": 48, "cuda": 4096}


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
