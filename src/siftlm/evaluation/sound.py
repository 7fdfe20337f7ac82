"""Is a record what it should be? A line may be whole JSON and still be damaged, or written by something else."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

# No count of tokens, bytes or rows is as large, and arrays of numbers hold no larger one.
MAX_COUNT = 2**62

FieldCheck = Callable[[Any], bool]


def is_valid_record(value: Any) -> bool:
    """Has it all that is needed, and is what it has of the right kind?

    >>> one = {"text": "3f", "method": "nn", "base": 2.0, "curve": [[0, 2.0], [5, 1.5]]}
    >>> is_record(one), is_record({**one, "bytes": -1}), is_record({**one, "curve": []})
    (True, False, False)
    """
    if not isinstance(value, Mapping) or not value.keys() >= REQUIRED_FIELDS:
        return False
    return all(check(value[name]) for name, check in FIELD_CHECKS.items() if name in value)


def _is_name(value: Any) -> bool:
    if not isinstance(value, str):
        return False
    try:
        value.encode()
    except UnicodeEncodeError:  # half of a character cannot be written anywhere
        return False
    return bool(value)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < MAX_COUNT


def _is_number(value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return -MAX_COUNT < value < MAX_COUNT if isinstance(value, int) else math.isfinite(value)


def _is_number_or_none(value: Any) -> bool:
    """None stands for what is no number."""
    return value is None or _is_number(value)


def _list_of(check: FieldCheck) -> FieldCheck:
    return lambda value: isinstance(value, list) and all(map(check, value))


def _is_curve(value: Any) -> bool:
    points = isinstance(value, list) and all(isinstance(one, list) and len(one) == 2 for one in value)
    return points and bool(value) and all(_is_count(step) and _is_number_or_none(bits) for step, bits in value)


def _is_seconds(value: Any) -> bool:
    return isinstance(value, Mapping) and all(map(_is_number, value.values()))


def _is_mapping(value: Any) -> bool:
    return isinstance(value, Mapping)


REQUIRED_FIELDS = {"text", "method", "base", "curve"}
FIELD_CHECKS: Mapping[str, FieldCheck] = {
    **dict.fromkeys(("text", "method", "domain", "ended"), _is_name),
    **dict.fromkeys(("bytes", "tokens", "considered", "kept", "copies"), _is_count),
    **dict.fromkeys(("rows", "learned"), _list_of(_is_count)),
    **dict.fromkeys(("scores", "uncertainty"), _list_of(_is_number)),
    "losses": _list_of(_is_number_or_none),
    "base": _is_number_or_none,
    "curve": _is_curve,
    "seconds": _is_seconds,
    "extra": _is_mapping,
    "settings": _is_mapping,
}
