"""What a problem is, and how its numbers are written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from random import Random

from siftlm.errors import InvalidInput


@dataclass(frozen=True)
class Exercise:
    """A question with its one answer."""

    question: str
    answer: str
    facts: tuple[int | str, ...]
    """What is asked, apart from the wording: problems with the same facts are the same problem."""


def number(rng: Random, digits: int = 3, places: int = 0, *, signed: bool = True) -> Fraction:
    """Draw a number with up to so many digits before and so many after the point; seldom a round one."""
    drawn = Fraction(rng.randint(1, 10 ** (rng.randint(1, digits) + places) - 1), 10**places)
    return -drawn if signed and rng.random() < 0.3 else drawn


def nonzero(rng: Random, largest: int) -> int:
    """Draw a whole number from ``-largest`` to ``largest``, but not 0."""
    return rng.randint(1, largest) * rng.choice((-1, 1))


def decimal(value: Fraction | int) -> str:
    """Write a number that has finitely many decimal places.

    >>> decimal(Fraction(-5, 4)), decimal(12)
    ('-1.25', '12')
    """
    value = Fraction(value)
    places = 0
    while 10**places % value.denominator:
        places += 1
        if places > 40:
            raise InvalidInput(f"{value} has no end as a decimal number")
    whole, rest = divmod(abs(value) * 10**places, 10**places)
    sign = "-" if value < 0 else ""
    return f"{sign}{whole}" + (f".{int(rest):0{places}d}" if places else "")


def polynomial(coefficients: Sequence[int], variable: str = "x") -> str:
    """Write a polynomial; ``coefficients[k]`` belongs to the k-th power.

    >>> polynomial([-7, 1, 0, 3])
    '3*x**3 + x - 7'
    """
    terms = [term(value, power, variable) for power, value in enumerate(coefficients) if value]
    return total(terms[::-1])


def term(value: int, power: int, variable: str) -> str:
    """Write ``value * variable ** power``.

    >>> term(-1, 2, "y"), term(4, 0, "y")
    ('-y**2', '4')
    """
    if power == 0:
        return str(value)
    factor = {1: "", -1: "-"}.get(value, f"{value}*")
    return factor + variable + (f"**{power}" if power > 1 else "")


def total(terms: Sequence[str]) -> str:
    """Write a sum, with minus signs instead of additions of what is negative.

    >>> total(["3*x", "-y", "2"])
    '3*x - y + 2'
    """
    if not terms:
        return "0"
    return terms[0] + "".join(f" - {one[1:]}" if one.startswith("-") else f" + {one}" for one in terms[1:])
