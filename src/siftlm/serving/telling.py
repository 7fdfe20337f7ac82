"""Stop texts in a text that grows: what may be shown, and what is held back because a stop text may have begun."""

from __future__ import annotations

from collections.abc import Sequence


class StopTexts:
    """One choice's text on its way out.

    >>> telling = Telling(["END"])
    >>> [telling.add(piece) for piece in ("one E", "N", "E two EN", "D three")], telling.stopped
    (['one ', '', 'ENE two ', ''], True)
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = list(stops)
        self._held = ""
        self.stopped = False
        """Was a stop text met? Then nothing more is shown."""

    def add(self, piece: str) -> str:
        """What may be shown now."""
        if self.stopped:
            return ""
        self._held += piece
        met = [at for stop in self._stops if (at := self._held.find(stop)) >= 0]
        if met:
            self.stopped = True
            return self._out(min(met))
        return self._out(len(self._held) - self._begun())

    def rest(self) -> str:
        """What was held back, when no more comes."""
        return "" if self.stopped else self._out(len(self._held))

    def _begun(self) -> int:
        """Characters at the end that may be the beginning of a stop text."""
        longest = max((len(stop) for stop in self._stops), default=1) - 1
        for size in range(min(longest, len(self._held)), 0, -1):
            if any(stop.startswith(self._held[-size:]) for stop in self._stops):
                return size
        return 0

    def _out(self, end: int) -> str:
        shown, self._held = self._held[:end], self._held[end:]
        return shown
