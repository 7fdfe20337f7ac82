"""Adapter slots, and the cache of adapters that were tuned for earlier requests."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

from siftlm.memory import Found
from siftlm.types import Trace


@dataclass(frozen=True)
class AdapterKey:
    """Requests with equal keys would learn the same."""

    memory: str
    version: str
    """Of the memory, which changes with every text that is added or deleted."""
    prompt: str
    settings: str
    """All of them, as JSON."""
    asker: str = ""
    """Who may know that it was learned."""


@dataclass(frozen=True, eq=False)
class CachedTuning:
    """What one of them learned."""

    found: Found
    trace: Trace
    context: tuple[str, ...]
    """Texts to be put before the prompt."""
    weights: Any = None
    """Of the adapter; None where nothing was learned."""

    @property
    def bytes(self) -> int:
        """About; what was found counts with its texts."""
        own = 0 if self.weights is None else self.weights.numel() * self.weights.element_size()
        return own + sum(len(hit.text) * 2 + 500 for hit in self.found)


class AdapterCache:
    """At most so many bytes. Only the engine's thread uses it."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._kept: OrderedDict[AdapterKey, CachedTuning] = OrderedDict()
        self.bytes = 0

    def __len__(self) -> int:
        return len(self._kept)

    def find(self, key: AdapterKey) -> CachedTuning | None:
        """And it counts as used."""
        kept = self._kept.get(key)
        if kept is not None:
            self._kept.move_to_end(key)
        return kept

    def keep(self, key: AdapterKey, kept: CachedTuning) -> None:
        """Unless it alone is larger than the limit."""
        if kept.bytes > self._limit:
            return
        self._drop(key)
        self._kept[key] = kept
        self.bytes += kept.bytes
        while self.bytes > self._limit:
            self._drop(next(iter(self._kept)))

    def forget(self, memory: str, version: str) -> None:
        """All that was learned from other versions of this memory: what was deleted there has no effect any more."""
        for key in [key for key in self._kept if key.memory == memory and key.version != version]:
            self._drop(key)

    def _drop(self, key: AdapterKey) -> None:
        kept = self._kept.pop(key, None)
        if kept is not None:
            self.bytes -= kept.bytes


@dataclass(eq=False)
class AdapterSlot:
    """One of them, taken."""

    number: int
    key: AdapterKey
    users: int = 1
    kept: CachedTuning | None = None
    """What is there, once it has been learned."""


class AdapterSlots:
    """Who asks the same as somebody who is there already shares the place. Only the engine's thread uses it."""

    def __init__(self, count: int) -> None:
        self._free = list(range(count, 0, -1))
        self._taken: dict[AdapterKey, AdapterSlot] = {}

    @property
    def free(self) -> int:
        """How many."""
        return len(self._free)

    def take(self, key: AdapterKey, kept: CachedTuning | None = None) -> AdapterSlot:
        """A free one; there must be one."""
        place = AdapterSlot(self._free.pop(), key, kept=kept)
        self._taken[key] = place
        return place

    def share(self, key: AdapterKey) -> AdapterSlot | None:
        """The place of somebody who asks the same."""
        place = self._taken.get(key)
        if place is not None:
            place.users += 1
        return place

    def leave(self, place: AdapterSlot | None) -> None:
        """The last who leaves frees it."""
        if place is None or self._taken.get(place.key) is not place:
            return
        place.users -= 1
        if not place.users:
            del self._taken[place.key]
            self._free.append(place.number)
