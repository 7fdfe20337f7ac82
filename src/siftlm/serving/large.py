"""Large answers as JSON: `json.dumps` is one step, and while it takes one no other thread of the process goes on."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from siftlm.serving.failures import encode_json

ITEMS_PER_PART = 64
"""Entries of a list."""
MAX_SPLIT_DEPTH = 4
"""Levels that are taken apart: answer, choices, one choice, its log-likelihoods."""


def encode_json_in_parts(content: Any) -> bytes:
    """As `siftlm.serving.failures.encode_json`, in many small steps.

    >>> in_parts({"a": [1, 2], "b": {}})
    b'{"a":[1,2],"b":{}}'
    """
    return b"".join(_json_parts(content, MAX_SPLIT_DEPTH))


def _json_parts(content: Any, deep: int) -> Iterator[bytes]:
    if isinstance(content, dict) and deep:
        yield b"{"
        for at, (name, value) in enumerate(content.items()):
            yield (b"," if at else b"") + encode_json(name) + b":"
            yield from _json_parts(value, deep - 1)
        yield b"}"
    elif isinstance(content, list) and deep and isinstance(next(iter(content), None), (dict, list)):
        yield b"["
        for at, value in enumerate(content):
            yield b"," if at else b""
            yield from _json_parts(value, deep - 1)
        yield b"]"
    elif isinstance(content, list) and len(content) > ITEMS_PER_PART:
        for start in range(0, len(content), ITEMS_PER_PART):
            yield (b"," if start else b"[") + encode_json(content[start : start + ITEMS_PER_PART])[1:-1]
        yield b"]"
    else:
        yield encode_json(content)
