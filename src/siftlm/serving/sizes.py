"""How long the lists and texts of a request may be, before anybody looks at each item or reads any text."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from siftlm.serving.limits import RequestLimits
from siftlm.serving.refusals import BadRequest


def check_items(body: Any, name: str, most: int, called: str) -> None:
    """Refuse a list that is too long: to check each of a million items takes seconds.

    >>> check_items({"stop": ["a", "b"]}, "stop", 1, "texts")
    Traceback (most recent call last):
    siftlm.serving.refusals.BadRequest: stop must be up to 1 texts, got 2
    """
    found = body.get(name) if isinstance(body, dict) else None
    if isinstance(found, list) and len(found) > most:
        raise BadRequest(f"{name} must be up to {most} {called}, got {len(found)}", param=name, code="too_many_items")


def check_texts(name: str, texts: Iterable[str], limits: RequestLimits) -> None:
    """Refuse texts that would be read for minutes."""
    lengths = [len(one) for one in texts]
    if max(lengths, default=0) > limits.text:
        said = f"{name} must be of up to {limits.text} characters, got {max(lengths)}"
    elif sum(lengths) > limits.texts:
        said = f"{name} must be of up to {limits.texts} characters together, got {sum(lengths)}"
    else:
        return
    raise BadRequest(said, param=name, code="text_too_long")
