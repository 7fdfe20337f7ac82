"""How many settings on how many texts, so that the time suffices: successive halving, costed beforehand."""

from __future__ import annotations

import math
from dataclasses import dataclass

# With fewer texts the first halving would be a lottery; with fewer settings it would not be worth it.
MIN_TEXTS_PER_RUNG, MIN_SETTINGS_TO_HALVE = 2, 4


@dataclass(frozen=True)
class HalvingSchedule:
    """``settings`` begin on ``texts`` texts; then half as many go on with twice the texts, until ``keep`` are left."""

    settings: int
    texts: int
    keep: int
    most: int
    """Texts that there are."""

    def each(self) -> list[tuple[int, int]]:
        """(settings, texts) of each rung.

        >>> Rungs(settings=12, texts=2, keep=2, most=6).each()
        [(12, 2), (6, 4), (3, 6)]
        """
        found, settings, texts = [], self.settings, min(self.texts, self.most)
        while settings > self.keep:
            found.append((settings, texts))
            settings, texts = max(self.keep, math.ceil(settings / 2)), min(2 * texts, self.most)
        return found

    def runs(self, always: int = 0) -> int:
        """Of a setting on a text, in all; ``always``: settings besides that stay in every rung."""
        total, before = 0, 0
        for settings, texts in self.each():
            total += (settings + always) * (texts - before)
            before = texts
        return total


def affordable_schedule(
    settings: int, keep: int, most: int, always: int, runs: float, *, fewest: int = MIN_SETTINGS_TO_HALVE
) -> HalvingSchedule | None:
    """The rungs that take at most so many ``runs``: as many texts as possible, then as many settings; or None.

    >>> affordable(46, keep=2, most=16, always=0, runs=60)
    Rungs(settings=14, texts=2, keep=2, most=16)
    """
    least = min(MIN_TEXTS_PER_RUNG, most)
    for texts in range(most, least - 1, -1):
        found = HalvingSchedule(settings, texts, keep, most)
        if found.runs(always) <= runs:
            return found
    for fewer in range(settings - 1, max(keep + 1, min(fewest, settings)) - 1, -1):
        found = HalvingSchedule(fewer, least, keep, most)
        if found.runs(always) <= runs:
            return found
    return None
