"""Tokens to text, one after another: the detokenizer, and the stop strings that end a text."""

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
        self._from, self._spelled = 0, len(self._ids)

    def add(self, token: int) -> str:
        """The text that this token adds; empty where it ends inside a character."""
        self._ids.append(token)
        return self._new(wait=True)

    def flush(self) -> str:
        """The text that still waited for more tokens, when none follows."""
        return self._new(wait=False)

    def _new(self, *, wait: bool) -> str:
        before = self._text(self._ids[self._from : self._spelled])
        now = self._text(self._ids[self._from :])
        if wait and now.endswith(REPLACEMENT_CHARACTER):
            return ""
        # Only what later tokens may still change is spelled again.
        self._from, self._spelled = self._spelled, len(self._ids)
        return now[len(before) :] if now.startswith(before) else now

    def _text(self, ids: Sequence[int]) -> str:
        return str(self._tokenizer.decode(ids, skip_special_tokens=True)) if ids else ""


class StopStrings:
    """A text on its way out, up to the first of some stop strings.

    >>> stops = StopStrings(["END"])
    >>> [stops.add(piece) for piece in ("one E", "N", "E two EN", "D three")], stops.stopped
    (['one ', '', 'ENE two ', ''], True)
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = list(stops)
        self._held = ""
        self.stopped = False
        """Was a stop string met? Then nothing more is shown."""

    def add(self, piece: str) -> str:
        """The text that may be shown now."""
        if self.stopped:
            return ""
        self._held += piece
        places = [place for stop in self._stops if (place := self._held.find(stop)) >= 0]
        if places:
            self.stopped = True
            return self._release(min(places))
        return self._release(len(self._held) - self._partial_length())

    def flush(self) -> str:
        """The text that was held back, when no more comes."""
        return "" if self.stopped else self._release(len(self._held))

    def _partial_length(self) -> int:
        """Characters at the end that may be the beginning of a stop string."""
        longest = max((len(stop) for stop in self._stops), default=1) - 1
        for size in range(min(longest, len(self._held)), 0, -1):
            if any(stop.startswith(self._held[-size:]) for stop in self._stops):
                return size
        return 0

    def _release(self, end: int) -> str:
        shown, self._held = self._held[:end], self._held[end:]
        return shown
