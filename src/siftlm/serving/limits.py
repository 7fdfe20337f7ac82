"""How much one request may ask for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar


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
