"""Large answers as JSON: `json.dumps` is one step, and while it takes one no other thread of the process goes on."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from siftlm.serving.failures import encoded

AT_ONCE = 64
"""Entries of a list."""
DEEP = 4
"""Levels that are taken apart: answer, choices, one choice, its log-likelihoods."""


def in_parts(content: Any) -> bytes:
    """As `siftlm.serving.failures.encoded`, in many small steps.

    >>> in_parts({"a": [1, 2], "b": {}})
    b'{"a":[1,2],"b":{}}'
    """
    return b"".join(_parts(content, DEEP))


def _parts(content: Any, deep: int) -> Iterator[bytes]:
    if isinstance(content, dict) and deep:
        yield b"{"
        for at, (name, value) in enumerate(content.items()):
            yield (b"," if at else b"") + encoded(name) + b":"
            yield from _parts(value, deep - 1)
        yield b"}"
    elif isinstance(content, list) and deep and isinstance(next(iter(content), None), (dict, list)):
        yield b"["
        for at, value in enumerate(content):
            yield b"," if at else b""
            yield from _parts(value, deep - 1)
        yield b"]"
    elif isinstance(content, list) and len(content) > AT_ONCE:
        for start in range(0, len(content), AT_ONCE):
            yield (b"," if start else b"[") + encoded(content[start : start + AT_ONCE])[1:-1]
        yield b"]"
    else:
        yield encoded(content)
