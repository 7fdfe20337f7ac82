"""Tokens as text, one after another: what each adds to what was said before."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

# Tokens of the prompt that are looked at: enough to tell whether the first new one begins with a space.
DETOKENIZER_PREFIX_TOKENS = 8
REPLACEMENT_CHARACTER = "\ufffd"
"""What a tokenizer writes for bytes that are not yet a character."""


class Detokenizer:
    """The text of tokens that arrive one by one.

    A token alone would lose the space that it begins with, or be half a character; so it is spelled behind those before
    it, and half a character waits for the rest.
    """

    def __init__(self, tokenizer: Any, before: Sequence[int] = ()) -> None:
        self._tokenizer = tokenizer
        self._ids = list(before)[-DETOKENIZER_PREFIX_TOKENS:]
        self._from, self._said = 0, len(self._ids)

    def add(self, token: int) -> str:
        """What this token adds; empty where it ends inside a character."""
        self._ids.append(token)
        return self._new(wait=True)

    def rest(self) -> str:
        """What was still waited for, when no token follows."""
        return self._new(wait=False)

    def _new(self, *, wait: bool) -> str:
        before = self._text(self._ids[self._from : self._said])
        now = self._text(self._ids[self._from :])
        if wait and now.endswith(REPLACEMENT_CHARACTER):
            return ""
        # Only what later tokens may still change is spelled again.
        self._from, self._said = self._said, len(self._ids)
        return now[len(before) :] if now.startswith(before) else now

    def _text(self, ids: Sequence[int]) -> str:
        return str(self._tokenizer.decode(ids, skip_special_tokens=True)) if ids else ""
