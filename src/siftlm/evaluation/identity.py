"""What tells one memory from another, for logs that go on."""

from __future__ import annotations

import hashlib
from typing import Any

from siftlm.memory import Memory
from siftlm.memory.searching import Searching

# Passages that are looked at: all would take too long in a large memory.
LOOKED_AT = 200


def of_memory(memory: Searching) -> dict[str, Any]:
    """Ready for ``json.dumps``."""
    if not isinstance(memory, Memory):
        return {"embedder": memory.embedder.name, "fingerprint": memory.embedder.fingerprint}
    known = memory.manifest
    return {
        "passages": len(memory), "generation": known.generation, "embedder": known.embedder,
        "fingerprint": known.fingerprint,
    }  # fmt: skip


def contents_of(memory: Searching) -> str | None:
    """Of some of its passages, evenly spread: two memories made alike of different texts are told apart by it."""
    if not isinstance(memory, Memory):
        return None
    rows = memory.rows()
    found = hashlib.blake2b(digest_size=8)
    for text in memory.texts(rows[:: max(1, len(rows) // LOOKED_AT)]):
        found.update(f"{len(text)} {text}".encode("utf-8", "surrogatepass"))
    return found.hexdigest()
