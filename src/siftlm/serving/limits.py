"""Limits of a request, checked before its items or texts are read."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

from siftlm.serving.errors import BadRequest


@dataclass(frozen=True)
class RequestLimits:
    """What a request may cost at most; beyond it there is an error that says so."""

    body: int = 8 * 2**20
    """Bytes."""
    seconds: float = 300.0
    """Until the whole answer is there."""
    prompts: int = 64
    """In one request."""
    choices: ClassVar[int] = 8
    """For each prompt; the description of the API says it as well."""
    inputs: int = 2048
    """Texts to be embedded."""
    messages: int = 4096
    """Of a conversation."""
    text: int = 2**20
    """Characters of one text that is embedded, learned for, selected for or split into tokens."""
    texts: int = 2**22
    """Characters of all texts to be embedded."""
    ids: int = 2**18
    """Tokens to be spelled."""
    stops: int = 16
    """Stop texts. OpenAI takes 4; tasks of lm-evaluation-harness bring more."""
    entries: int = 2_000_000
    """Of an answer: (tokens that are made, and with echo those of the prompts) × choices × (logprobs + 1)."""


def check_items(body: Any, name: str, most: int, called: str) -> None:
    """Refuse a list that is too long: to check each of a million items takes seconds.

    >>> check_items({"stop": ["a", "b"]}, "stop", 1, "texts")
    Traceback (most recent call last):
    siftlm.serving.errors.BadRequest: stop must be up to 1 texts, got 2
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
