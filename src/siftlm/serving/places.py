"""The places where adapters can be while prompts learn and speak. Place 0 is the base model's, and nobody's."""

from __future__ import annotations

from dataclasses import dataclass

from siftlm.serving.remembering import Kept, Key


@dataclass(eq=False)
class Place:
    """One of them, taken."""

    number: int
    key: Key
    users: int = 1
    kept: Kept | None = None
    """What is there, once it has been learned."""


class Places:
    """Who asks the same as somebody who is there already shares the place. Only the engine's thread uses it."""

    def __init__(self, count: int) -> None:
        self._free = list(range(count, 0, -1))
        self._taken: dict[Key, Place] = {}

    @property
    def free(self) -> int:
        """How many."""
        return len(self._free)

    def take(self, key: Key, kept: Kept | None = None) -> Place:
        """A free one; there must be one."""
        place = Place(self._free.pop(), key, kept=kept)
        self._taken[key] = place
        return place

    def share(self, key: Key) -> Place | None:
        """The place of somebody who asks the same."""
        place = self._taken.get(key)
        if place is not None:
            place.users += 1
        return place

    def leave(self, place: Place | None) -> None:
        """The last who leaves frees it."""
        if place is None or self._taken.get(place.key) is not place:
            return
        place.users -= 1
        if not place.users:
            del self._taken[place.key]
            self._free.append(place.number)
