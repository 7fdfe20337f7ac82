"""Whatever Python can walk through: a list, a generator, a database cursor."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence, Sized
from typing import Any

from siftlm.errors import InvalidInput
from siftlm.memory.reading.parts import Row, Skip


class InMemory:
    """Texts, mappings of fields or documents. Whether they are the same the next time cannot be told."""

    unit = "records"
    name = "the iterable"

    def __init__(self, items: Iterable[Any]) -> None:
        self._items = items
        self._once = isinstance(items, Iterator)
        self._read = False
        self.size = len(items) if isinstance(items, Sized) else None

    def identity(self) -> dict[str, Any]:
        return {"kind": "iterable", "resumable": False, "records": self.size}

    def rows(self, skip: Skip) -> Iterator[Row]:
        if self._once and self._read:
            raise InvalidInput("an iterator can be read only once; pass a list, or open it anew")
        self._read = True
        if isinstance(self._items, Sequence):
            first = min(skip.left, len(self._items))
            skip.block(first)
            items: Iterable[Any] = (self._items[at] for at in range(first, len(self._items)))
        else:
            first, items = 0, self._items
        for at, item in enumerate(items, first + 1):
            if not skip.one():
                yield Row(f"item {at}", item, None, at)
