"""What is asked of texts and settings before any work."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from siftlm.errors import InvalidInput


def texts_checked(texts: Sequence[str]) -> list[str]:
    """The texts as a list, or an error that names the one that is no text."""
    if isinstance(texts, (str, bytes)):
        raise InvalidInput("texts must be a list of strings; this is a single one: write [text]")
    listed = list(texts)
    for place, text in enumerate(listed):
        if not isinstance(text, str):
            raise InvalidInput(f"texts[{place}] must be a string, not {type(text).__name__}")
    return listed


def whole_number(name: str, value: Any, least: int = 1) -> int:
    """``value`` as an int ≥ ``least``, or an error that names it."""
    if isinstance(value, bool) or not hasattr(value, "__index__") or value.__index__() < least:
        raise InvalidInput(f"{name} must be a whole number ≥ {least}, not {value!r}")
    return int(value.__index__())


def precision_checked(precision: str | None) -> str | None:
    """``precision``, or an error that lists the known ones."""
    if precision not in {None, "float32", "bfloat16", "float16"}:
        raise InvalidInput(f"precision must be 'float32', 'bfloat16', 'float16' or None, not {precision!r}")
    return precision
