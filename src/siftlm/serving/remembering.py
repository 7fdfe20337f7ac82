"""What was learned for a prompt, kept for the next request that asks the same: the least recently used go first."""

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
