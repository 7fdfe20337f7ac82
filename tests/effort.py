"""How much of a test is done: all of it by `make test`, a part by `make quick`."""

from __future__ import annotations

import os

QUICK = os.environ.get("SIFTLM_TESTS") == "quick"


def examples(count: int) -> int:
    """How many examples of a property are tried: a fifth of ``count`` by `make quick`."""
    return max(3, count // 5) if QUICK else count
