"""The places where adapters can be while prompts learn and speak. Place 0 is the base model's, and nobody's."""

from __future__ import annotations

from dataclasses import dataclass

from siftlm.serving.remembering import AdapterKey, CachedTuning


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
