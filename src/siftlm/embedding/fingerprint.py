"""What makes the vectors of two embedders comparable, in one short line."""

from __future__ import annotations

import hashlib
import json
from typing import Any


def fingerprint(kind: str, what: dict[str, Any]) -> str:
    """``kind`` and a digest of whatever changes the vectors.

    >>> fingerprint("hashing", {"width": 512, "version": 1}) == fingerprint("hashing", {"version": 1, "width": 512})
    True
    """
    canonical = json.dumps(what, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return f"{kind}:{hashlib.sha256(canonical.encode()).hexdigest()[:24]}"
