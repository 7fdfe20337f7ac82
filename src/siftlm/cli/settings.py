"""Words of the command line as the arguments of ``siftlm.select``."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from siftlm.selection.kernels import FeatureKernel, KernelFunction

# As `siftlm.selection.kernels.named` reads them; written here, so that --help loads nothing else.
KERNELS = ("linear", "centred", "power:P", "plus-constant:C")


def kernel(given: str | None) -> KernelFunction | FeatureKernel | None:
    """``power:4``, ``centred``, ``plus-constant:1``, ``linear``.

    >>> kernel("power:4")
    Power(exponent=4, base=Linear())
    """
    from siftlm import kernels

    return None if given is None else kernels.named(given)


def replacement(given: str) -> bool | int:
    """``yes``, ``no`` or at most how often; for argparse."""
    if given in ("yes", "no"):
        return given == "yes"
    if given.isascii() and given.isdigit() and int(given) > 0:
        return int(given)
    raise argparse.ArgumentTypeError(f"{given!r} is neither yes, no nor a whole number from 1 on")


def option(given: str) -> tuple[str, Any]:
    """``balance=0.3``: a name and a JSON value, or a word where it is none; for argparse.

    >>> option("balance=0.3"), option("start=first")
    (('balance', 0.3), ('start', 'first'))
    """
    name, equals, value = given.partition("=")
    name = name.strip().replace("-", "_")
    if not equals or not name.isidentifier():
        raise argparse.ArgumentTypeError(f"{given!r} is not name=value")
    try:
        return name, json.loads(value)
    except (json.JSONDecodeError, RecursionError):
        return name, value


def number_or_all(given: str) -> int | str:
    """A whole number from 1 on, or ``all``; for argparse."""
    if given == "all" or (given.isascii() and given.isdigit() and int(given) > 0):
        return given if given == "all" else int(given)
    raise argparse.ArgumentTypeError(f"{given!r} is neither a whole number from 1 on nor all")


def share(given: str) -> float:
    """Above 0 and up to 1; for argparse."""
    try:
        found = float(given)
    except ValueError:
        # What follows a flag whose value may be left out is taken for that value.
        raise argparse.ArgumentTypeError(f"{given!r:.60} is no number; put the flag behind the texts") from None
    if not 0 < found <= 1:
        raise argparse.ArgumentTypeError(f"{given} is not above 0 and up to 1")
    return found
