"""What both halves of the checks read questions with."""

from __future__ import annotations

import re
from fractions import Fraction

NUMBER = re.compile(r"-?\d+(?:\.\d+)?")


def numbers(text: str) -> list[Fraction]:
    return [Fraction(found) for found in NUMBER.findall(text)]
