"""Adapter slots, and the cache of adapters that were tuned for earlier requests. Only the engine's thread uses them."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

import torch

from siftlm.memory import Found
from siftlm.types import Trace


@dataclass(frozen=True)
class AdapterKey:
    """Everything that determines an adapter: requests with equal keys share one tuning."""

    memory: str
    version: str
    """The memory's version, which changes with every text that is added or deleted."""
    query: str
    settings: str
    """All settings, as JSON."""
    caller: str = ""
    """The caller that the adapter belongs to."""


@dataclass(frozen=True, eq=False)
class CachedTuning:
    """The result of tuning for one key."""

    found: Found
    trace: Trace
    context: tuple[str, ...]
    """Texts to put before the prompt."""
    weights: torch.Tensor | None = None
    """The adapter's weights; None if nothing was tuned."""

    @property
    def bytes(self) -> int:
        """Approximate size, the selected texts included."""
        own = 0 if self.weights is None else self.weights.numel() * self.weights.element_size()
        return own + sum(len(hit.text) * 2 + 500 for hit in self.found)


class AdapterCache:
    """A least-recently-used cache of tunings, limited by bytes."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._kept: OrderedDict[AdapterKey, CachedTuning] = OrderedDict()
        self.bytes = 0

    def __len__(self) -> int:
        return len(self._kept)

    def find(self, key: AdapterKey) -> CachedTuning | None:
        """The tuning of this key, which becomes the most recently used; None if it is not cached."""
        kept = self._kept.get(key)
        if kept is not None:
            self._kept.move_to_end(key)
        return kept

    def keep(self, key: AdapterKey, kept: CachedTuning) -> None:
        """Store a tuning, unless it alone exceeds the limit."""
        if kept.bytes > self._limit:
            return
        self._drop(key)
        self._kept[key] = kept
        self.bytes += kept.bytes
        while self.bytes > self._limit:
            self._drop(next(iter(self._kept)))

    def forget(self, memory: str, version: str) -> None:
        """Drop every tuning on other versions of this memory, so that deleted texts have no effect."""
        for key in [key for key in self._kept if key.memory == memory and key.version != version]:
            self._drop(key)

    def _drop(self, key: AdapterKey) -> None:
        kept = self._kept.pop(key, None)
        if kept is not None:
            self.bytes -= kept.bytes


@dataclass(eq=False)
class AdapterSlot:
    """A slot in use."""

    number: int
    key: AdapterKey
    users: int = 1
    kept: CachedTuning | None = None
    """The slot's adapter, once it is tuned."""


class AdapterSlots:
    """The slots for adapters; requests with equal keys share one."""

    def __init__(self, count: int) -> None:
        self._free = list(range(count, 0, -1))
        self._taken: dict[AdapterKey, AdapterSlot] = {}

    @property
    def free(self) -> int:
        """The number of free slots."""
        return len(self._free)

    def take(self, key: AdapterKey, kept: CachedTuning | None = None) -> AdapterSlot:
        """Take a free slot; there must be one."""
        slot = AdapterSlot(self._free.pop(), key, kept=kept)
        self._taken[key] = slot
        return slot

    def share(self, key: AdapterKey) -> AdapterSlot | None:
        """The slot that already holds this key, with one more user; None if there is none."""
        slot = self._taken.get(key)
        if slot is not None:
            slot.users += 1
        return slot

    def leave(self, slot: AdapterSlot | None) -> None:
        """Leave a slot; the last user frees it."""
        if slot is None or self._taken.get(slot.key) is not slot:
            return
        slot.users -= 1
        if not slot.users:
            del self._taken[slot.key]
            self._free.append(slot.number)
