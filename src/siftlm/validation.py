"""Checks of arguments that come from outside: the error names the argument and its value.

Each check takes the argument's name and value, and returns the value in its plain Python type.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from numbers import Integral, Real
from typing import Any

from siftlm.errors import InvalidInput, UnknownName, setting


def whole_number(name: str, value: Any, *, least: int = 1, most: int | None = None) -> int:
    """A whole number from ``least`` to ``most``; numpy's integers are fine.

    >>> whole_number("n", 0)
    Traceback (most recent call last):
    siftlm.errors.InvalidInput: n must be a whole number ≥ 1, got 0
    """
    known = type(value) is int or (not isinstance(value, bool) and isinstance(value, Integral))
    if not known or int(value) < least or (most is not None and int(value) > most):
        reach = f"≥ {least}" if most is None else f"from {least} to {most}"
        raise InvalidInput(f"{_named(name)} must be a whole number {reach}, got {value!r}")
    return int(value)


def number(
    name: str,
    value: Any,
    *,
    least: float = -math.inf,
    above: float = -math.inf,
    most: float = math.inf,
    below: float = math.inf,
) -> float:
    """A finite number within bounds: ``least`` and ``most`` belong to them, ``above`` and ``below`` do not.

    >>> number("noise", -1, above=0)
    Traceback (most recent call last):
    siftlm.errors.InvalidInput: noise must be a number > 0, got -1
    """
    if type(value) is float or (not isinstance(value, bool) and isinstance(value, Real)):
        try:
            result = float(value)
        except OverflowError as error:
            raise InvalidInput(f"{_named(name)} must be finite, got a number that float64 cannot hold") from error
        if math.isfinite(result) and least <= result <= most and above < result < below:
            return result
    if math.isfinite(least) and math.isfinite(most):
        reach = f"from {least:g} to {most:g}"
    else:
        bounds = [("≥", least), (">", above), ("≤", most), ("<", below)]
        reach = " and ".join(f"{sign} {bound:g}" for sign, bound in bounds if math.isfinite(bound))
    finite = "finite " if not reach or (isinstance(value, Real) and not math.isfinite(value)) else ""
    kind = f"{finite}number {reach}".rstrip()
    raise InvalidInput(f"{_named(name)} must be a {kind}, got {value!r}")


def fraction(name: str, value: Any) -> float:
    """A number from 0 to 1."""
    return number(name, value, least=0, most=1)


def flag(name: str, value: Any) -> bool:
    """True or False; numpy's booleans are fine."""
    if isinstance(value, bool):
        return value
    if type(value).__name__ in {"bool", "bool_"} and hasattr(value, "item"):
        return bool(value)
    raise InvalidInput(f"{_named(name)} must be True or False, got {value!r}")


def choice(name: str, value: Any, known: Iterable[str]) -> str:
    """One of the ``known`` names.

    >>> choice("mode", "spilt", ["split", "transductive"])
    Traceback (most recent call last):
    siftlm.errors.UnknownName: unknown mode 'spilt'; did you mean 'split'? Known: split, transductive
    """
    known = list(known)
    if not isinstance(value, str) or value not in known:
        raise UnknownName(name, value, known, is_setting=name.isidentifier())
    return value


def text_with_content(name: str, value: Any) -> str:
    """A str that is more than white space."""
    if not isinstance(value, str):
        raise InvalidInput(f"{_named(name)} must be a str, got {type(value).__name__}")
    if not value.strip():
        raise InvalidInput(f"{_named(name)} is empty")
    return value


def list_of_texts(name: str, value: Any) -> list[str]:
    """A list of str, which may be empty, as may be the strings.

    >>> list_of_texts("texts", ["one", 2])
    Traceback (most recent call last):
    siftlm.errors.InvalidInput: texts[1] must be a str, got int
    """
    if isinstance(value, (str, bytes)) or not isinstance(value, Iterable) or getattr(value, "ndim", 1) != 1:
        raise InvalidInput(f"{_named(name)} must be a list of str, got {type(value).__name__}: write [text] for one")
    listed = list(value)
    for place, one in enumerate(listed):
        if not isinstance(one, str):
            raise InvalidInput(f"{_named(name)}[{place}] must be a str, got {type(one).__name__}")
    return listed


def _named(name: str) -> str:
    """A setting is marked as one, in ``each of owners`` too; another phrase stays as it is."""
    start, each, last = name.rpartition("each of ")
    return f"{start}{each}{setting(last)}" if last.isidentifier() else name
