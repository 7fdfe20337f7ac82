"""What tells one memory from another, for logs that go on."""

from __future__ import annotations

from typing import Any

from siftlm.memory import Memory
from siftlm.memory.searching import Searching


def of_memory(memory: Searching) -> dict[str, Any]:
    """Ready for ``json.dumps``."""
    if not isinstance(memory, Memory):
        return {"embedder": memory.embedder.name, "fingerprint": memory.embedder.fingerprint}
    known = memory.manifest
    return {
        "passages": len(memory), "generation": known.generation, "embedder": known.embedder,
        "fingerprint": known.fingerprint,
    }  # fmt: skip
