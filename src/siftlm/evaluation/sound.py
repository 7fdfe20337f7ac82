"""Is a record what it should be? A line may be whole JSON and still be damaged, or written by something else."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

# No count of tokens, bytes or rows is as large, and arrays of numbers hold no larger one.
LARGEST = 2**62

Check = Callable[[Any], bool]


def is_record(value: Any) -> bool:
    """Has it all that is needed, and is what it has of the right kind?

    >>> one = {"text": "3f", "method": "nn", "base": 2.0, "curve": [[0, 2.0], [5, 1.5]]}
    >>> is_record(one), is_record({**one, "bytes": -1}), is_record({**one, "curve": []})
    (True, False, False)
    """
    if not isinstance(value, Mapping) or not value.keys() >= NEEDED:
        return False
    return all(check(value[name]) for name, check in CHECKS.items() if name in value)


def _name(value: Any) -> bool:
    if not isinstance(value, str):
        return False
    try:
        value.encode()
    except UnicodeEncodeError:  # half of a character cannot be written anywhere
        return False
    return bool(value)


def _count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < LARGEST


def _number(value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return -LARGEST < value < LARGEST if isinstance(value, int) else math.isfinite(value)


def _perhaps(value: Any) -> bool:
    """None stands for what is no number."""
    return value is None or _number(value)


def _all(check: Check) -> Check:
    return lambda value: isinstance(value, list) and all(map(check, value))


def _curve(value: Any) -> bool:
    points = isinstance(value, list) and all(isinstance(one, list) and len(one) == 2 for one in value)
    return points and bool(value) and all(_count(step) and _perhaps(bits) for step, bits in value)


def _seconds(value: Any) -> bool:
    return isinstance(value, Mapping) and all(map(_number, value.values()))


def _mapping(value: Any) -> bool:
    return isinstance(value, Mapping)


NEEDED = {"text", "method", "base", "curve"}
CHECKS: Mapping[str, Check] = {
    **dict.fromkeys(("text", "method", "domain", "ended"), _name),
    **dict.fromkeys(("bytes", "tokens", "considered", "kept", "copies"), _count),
    **dict.fromkeys(("rows", "learned"), _all(_count)),
    **dict.fromkeys(("scores", "uncertainty"), _all(_number)),
    "losses": _all(_perhaps), "base": _perhaps, "curve": _curve, "seconds": _seconds,
    "extra": _mapping, "settings": _mapping,
}  # fmt: skip
