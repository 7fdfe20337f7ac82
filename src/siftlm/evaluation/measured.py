"""What is known of one method on one text; a record of a run is one of these."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from siftlm.results import Score


@dataclass(frozen=True)
class Measured:
    """One method on one text. Everything that a table or a figure needs, and no text."""

    base: float
    """Bits per byte of the base model."""
    curve: Mapping[int, float]
    """Steps -> bits per byte after so many of them; 0 is the base model."""
    bytes: int
    tokens: int
    """Of the scored text."""
    rows: tuple[int, ...] = ()
    """Of the memory: what was learned from, in order."""
    scores: tuple[float, ...] = ()
    """Cosine of each to the prompt."""
    uncertainty: tuple[float, ...] = ()
    """Before the first pick, and after each."""
    considered: int = 0
    """Passages it was selected from."""
    ended: str = "done"
    """See `siftlm.Trace`."""
    kept: int = 0
    """Steps that the answering model has made."""
    learned: tuple[int, ...] = ()
    """Tokens of each step."""
    losses: tuple[float | None, ...] = ()
    """Nats a token before each step, on its own text."""
    copies: int = 0
    """Picks that give the text away, its prompt included: pieces or near-copies of it."""
    seconds: Mapping[str, float] = field(default_factory=dict)
    """``select``, ``tune``, ``score``."""
    extra: Mapping[str, Any] = field(default_factory=dict)
    """What only this method has."""

    @property
    def tuned(self) -> float:
        """Bits per byte at the end."""
        return self.curve[max(self.curve)]

    @property
    def percent(self) -> float:
        """At the end, in % of the base model's."""
        return 100 * self.tuned / self.base

    def at(self, steps: int) -> float:
        """After so many steps: those of the last point before, where nothing was measured at this one.

        >>> Measured(2.0, {0: 2.0, 5: 1.5}, 10, 3).at(7)
        1.5
        """
        return self.curve[max((point for point in self.curve if point <= steps), default=min(self.curve))]

    def to_dict(self) -> dict[str, Any]:
        """Ready for ``json.dumps``."""
        plain = {name: value for name, value in asdict(self).items() if value not in ((), {}, 0) or name == "base"}
        return {
            **plain,
            "base": _rounded(self.base),
            "curve": [[point, _rounded(value)] for point, value in sorted(self.curve.items())],
        }

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> Measured:
        """From what `to_dict` gave; what else a record holds is passed over."""
        known = {name: record[name] for name in cls.__dataclass_fields__ if name in record}
        for name in ("rows", "scores", "uncertainty", "learned", "losses"):
            known[name] = tuple(known.get(name, ()))
        known["curve"] = {int(point): _record_number(value) for point, value in known["curve"]}
        known["base"] = _record_number(known["base"])
        return cls(**{"bytes": 0, "tokens": 0, **known})


def measured_from_score(score: Score, points: Sequence[int]) -> Measured:
    """A `Score` as a record; where there were fewer texts than steps, the last state stands for all later points."""
    curve = {0: score.base, **dict(score.curve)}
    taken = len(score.trace.steps)
    # A watch may have gone back, and after a divergence the base model answers: the end is what the tuned model says.
    curve.update({point: score.tuned for point in points if point >= taken})
    if taken > max(points):  # several passes or windows
        curve[taken] = score.tuned
    found = score.found
    return Measured(
        score.base,
        dict(sorted(curve.items())),
        score.likelihood.bytes,
        score.likelihood.tokens,
        rows=tuple(hit.row for hit in found),
        scores=tuple(round(hit.score, 5) for hit in found),
        uncertainty=tuple(float(f"{left:.6g}") for left in found.selection.uncertainty),
        considered=found.considered,
        ended=score.trace.ended,
        kept=score.trace.kept,
        learned=tuple(step.tokens for step in score.trace.steps),
        losses=tuple(_finite(float(f"{step.loss:.5g}")) for step in score.trace.steps),
        seconds={name: round(value, 4) for name, value in score.seconds.items()},
    )


def _rounded(value: float) -> float | None:
    """Nine digits are more than any result means."""
    return float(f"{value:.9g}") if math.isfinite(value) else None


def _record_number(value: float | None) -> float:
    return math.nan if value is None else float(value)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
