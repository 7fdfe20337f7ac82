"""Whatever Python can walk through: a list, a generator, a database cursor."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from typing import Any

import numpy as np

from siftlm.errors import InvalidInput
from siftlm.memory.reading.parts import RawRecord, SkipCounter
from siftlm.types import Document


class IterablePart:
    """Texts, mappings of fields or documents.

    A list is known again by what is in it. Whether anything else gives the same the next time cannot be told.
    """

    unit = "records"
    name = "documents"

    def __init__(self, items: Iterable[Any]) -> None:
        self._items = items
        self._once = isinstance(items, Iterator)
        self._read = False
        self.size = len(items) if isinstance(items, Sized) else None

    def identity(self) -> dict[str, Any]:
        if isinstance(self._items, (list, tuple)):
            return {"kind": "list", "records": self.size, "digest": self._digest()}
        return {"kind": "iterable", "resumable": False, "records": self.size}

    def _digest(self) -> str:
        found = hashlib.blake2b(digest_size=16)
        for item in self._items:
            plain = repr(item) if isinstance(item, str) else _canonical_json(item)
            found.update(f"{len(plain)}:{plain}".encode())
        return found.hexdigest()

    def rows(self, skip: SkipCounter) -> Iterator[RawRecord]:
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
                yield RawRecord(f"item {at}", item, None, at)


def _canonical_json(item: Any) -> str:
    try:
        return json.dumps(item, default=_canonical_value)
    except (TypeError, ValueError, RecursionError):  # it will be a bad record, and may be the same one again
        return repr(item)


def _canonical_value(value: Any) -> Any:
    """What JSON cannot hold, as something that it can; equal values give equal things."""
    if isinstance(value, np.ndarray):
        return [str(value.dtype), value.shape, hashlib.blake2b(value.tobytes()).hexdigest()]
    if isinstance(value, Document):
        return [value.text, value.meta, value.id, value.vector]
    if isinstance(value, Mapping):
        return dict(value)
    return repr(value)
