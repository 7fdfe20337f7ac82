"""Checks of arguments that come from outside: the error names the argument and its value."""

from __future__ import annotations

import math
from typing import Any

from siftlm.errors import InvalidInput


def whole_number(name: str, value: Any, *, least: int = 1, most: int | None = None) -> int:
    """A whole number."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least or (most is not None and value > most):
        reach = f"from {least} on" if most is None else f"from {least} to {most}"
        raise InvalidInput(f"{name} must be a whole number {reach}, got {value!r}")
    return value


def number(name: str, value: Any, *, least: float = 0.0, above: bool = False, below: float = math.inf) -> float:
    """A finite number from ``least`` on, or above it."""
    fits = (
        not isinstance(value, bool)
        and isinstance(value, (int, float))
        and (least < value if above else least <= value)
        and value < below
    )
    if not fits:
        reach = f"above {least:g}" if above else f"from {least:g} on"
        reach += "" if below == math.inf else f" and below {below:g}"
        raise InvalidInput(f"{name} must be a number {reach}, got {value!r}")
    return float(value)


def text_with_content(name: str, text: Any) -> str:
    """A str that is more than white space."""
    if not isinstance(text, str):
        raise InvalidInput(f"{name} must be a str, got {type(text).__name__}")
    if not text.strip():
        raise InvalidInput(f"{name} is empty")
    return text
