"""Which text is learned from when, before anything is computed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from siftlm.controller.settings import Tuning


@dataclass(frozen=True)
class PlannedStep:
    """One text's turn."""

    text: int
    """Its place among those given; that of the first, for one that is there several times."""
    scale: float = 1.0
    """Multiplies the learning rate."""
    reuse: bool = False
    """Take the gradient that is there."""


def plan_steps(texts: Sequence[str], settings: Tuning) -> list[PlannedStep]:
    """All turns, in order.

    >>> [turn.text for turn in plan(["a", "b", "a"], Tuning(repeats="grouped"))]
    [0, 0, 1]
    """
    first: dict[str, int] = {}
    places = [first.setdefault(text, place) for place, text in enumerate(texts)]
    if settings.order == "reversed":
        places.reverse()
    counts = Counter(places)
    if settings.repeats == "steps":
        once = [PlannedStep(place) for place in places]
    elif settings.repeats == "scaled":
        once = [PlannedStep(place, scale=float(counts[place])) for place in dict.fromkeys(places)]
    else:
        once = [
            PlannedStep(place, reuse=time % settings.reuse != 0)
            for place in dict.fromkeys(places)
            for time in range(counts[place])
        ]
    return once * settings.passes
