"""`Measured`: one method on one text. A record of a run holds one of these."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from siftlm.errors import InvalidInput
from siftlm.memory import Found
from siftlm.results import Score
from siftlm.types import json_number

# No count of tokens, bytes or rows is as large, and numpy's integers hold no larger one.
MAX_COUNT = 2**62


@dataclass(frozen=True)
class Measured:
    """One method on one text: everything that a table or a figure needs, and no text."""

    base: float
    """The base model's bits per byte."""
    curve: Mapping[int, float]
    """Steps -> bits per byte after so many of them; 0 is the base model."""
    bytes: int
    """The scored text's bytes in UTF-8."""
    tokens: int
    """The scored text's tokens."""
    rows: tuple[int, ...] = ()
    """Rows of the memory that the model was tuned on, in order."""
    scores: tuple[float, ...] = ()
    """Each row's cosine to the prompt."""
    uncertainty: tuple[float, ...] = ()
    """The uncertainty before the first pick, and after each."""
    considered: int = 0
    """The number of candidates."""
    ended: str = "done"
    """Why tuning ended; see `siftlm.Trace`."""
    kept: int = 0
    """Steps that the answering model has made."""
    learned: tuple[int, ...] = ()
    """Tokens of each step."""
    losses: tuple[float | None, ...] = ()
    """Nats per token of each step's own text, before the step."""
    copies: int = 0
    """Picks that leak the text or its prompt: pieces or near-copies of it."""
    seconds: Mapping[str, float] = field(default_factory=dict)
    """``select``, ``tune``, ``score``."""
    extra: Mapping[str, Any] = field(default_factory=dict)
    """Fields of this method alone."""

    @property
    def tuned(self) -> float:
        """Bits per byte after the last step."""
        return self.curve[max(self.curve)]

    @property
    def percent(self) -> float:
        """Bits per byte after the last step, in % of the base model's."""
        return 100 * self.tuned / self.base

    def at(self, steps: int) -> float:
        """Bits per byte after ``steps``, or at the last measured point before.

        >>> Measured(2.0, {0: 2.0, 5: 1.5}, 10, 3).at(7)
        1.5
        """
        return self.curve[max((point for point in self.curve if point <= steps), default=min(self.curve))]

    def to_dict(self) -> dict[str, Any]:
        """The record, ready for ``json.dumps``."""
        plain = {name: value for name, value in asdict(self).items() if value not in ((), {}, 0) or name == "base"}
        # Nine digits are more than any result means.
        curve = [[point, json_number(value, 9)] for point, value in sorted(self.curve.items())]
        return {**plain, "base": json_number(self.base, 9), "curve": curve}

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> Measured:
        """The result in a record: the inverse of `to_dict`. Fields of other names are ignored.

        >>> Measured.of({"base": 2.0, "curve": [[0, 2.0]], "bytes": -1})
        Traceback (most recent call last):
        siftlm.errors.InvalidInput: bytes must be a count, got -1
        """
        for name in ("base", "curve"):
            if name not in record:
                raise InvalidInput(f"the record has no {name}")
        points = record["curve"]
        if not isinstance(points, list) or not points or any(not _is_pair(point) for point in points):
            raise InvalidInput(f"curve must be a list of [steps, bits per byte], got {points!r:.80}")
        seconds, extra = record.get("seconds", {}), record.get("extra", {})
        if not isinstance(seconds, Mapping) or not all(map(_is_number, seconds.values())):
            raise InvalidInput(f"seconds must be a mapping to numbers, got {seconds!r:.80}")
        if not isinstance(extra, Mapping):
            raise InvalidInput(f"extra must be a mapping, got {extra!r:.80}")
        counts = ("bytes", "tokens", "considered", "kept", "copies")
        fields: dict[str, Any] = {name: _count(name, record.get(name, 0)) for name in counts}
        fields |= {name: _values(name, record.get(name, []), _is_count) for name in ("rows", "learned")}
        fields |= {name: _values(name, record.get(name, []), _is_number) for name in ("scores", "uncertainty")}
        return cls(
            base=_float("base", record["base"]),
            curve={_count("steps of curve", steps): _float("bits of curve", bits) for steps, bits in points},
            losses=_values("losses", record.get("losses", []), lambda one: one is None or _is_number(one)),
            ended=checked_name("ended", record.get("ended", "done")),
            seconds=dict(seconds),
            extra=dict(extra),
            **fields,
        )


def measured_from_score(score: Score, points: Sequence[int]) -> Measured:
    """The record of a `Score`; where there were fewer texts than steps, the last state stands for all later points."""
    curve = {0: score.base, **dict(score.curve)}
    steps = len(score.trace.steps)
    # Watching may restore an earlier state, and after a divergence the base model answers: the tuned model's score
    # is that of the end.
    curve.update({point: score.tuned for point in points if point >= steps})
    if steps > max(points):  # several passes or windows
        curve[steps] = score.tuned
    return Measured(
        score.base,
        dict(sorted(curve.items())),
        score.likelihood.bytes,
        score.likelihood.tokens,
        **selection_fields(score.found),
        ended=score.trace.ended,
        kept=score.trace.kept,
        learned=tuple(step.tokens for step in score.trace.steps),
        losses=tuple(json_number(step.loss, 5) for step in score.trace.steps),
        seconds={name: round(value, 4) for name, value in score.seconds.items()},
        extra=_guard_fields(score),
    )


def _guard_fields(score: Score) -> dict[str, Any]:
    """What held-out passages chose, and the losses that they let expect after each look, in % of the base model's."""
    choice = score.trace.choice
    if choice is None:
        return {}
    looks = [[at, json_number(step.watched, 6)] for at, step in enumerate(score.trace.steps, 1) if step.watched]
    estimates = {use: json_number(value, 6) for use, value in choice.estimates.items()}
    return {"use": choice.use, "estimates": estimates, "held_out": choice.held_out, "expected": looks}


def selection_fields(found: Found) -> dict[str, Any]:
    """The fields of `Measured` that a selection decides."""
    return {
        "rows": tuple(hit.row for hit in found),
        "scores": tuple(round(hit.score, 5) for hit in found),
        "uncertainty": tuple(float(f"{left:.6g}") for left in found.selection.uncertainty),
        "considered": found.considered,
    }


# --- checks of a record's fields, whose types are JSON's


def checked_name(name: str, value: Any) -> str:
    """A str with content that can be written in UTF-8; half of a surrogate pair cannot."""
    if not isinstance(value, str) or not value or any("\ud800" <= letter <= "\udfff" for letter in value):
        raise InvalidInput(f"{name} must be a name, got {value!r:.80}")
    return value


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < MAX_COUNT


def _is_number(value: Any) -> bool:
    return math.isfinite(value) if type(value) is float else type(value) is int and abs(value) < MAX_COUNT


def _is_pair(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2


def _count(name: str, value: Any) -> int:
    if not _is_count(value):
        raise InvalidInput(f"{name} must be a count, got {value!r:.80}")
    return int(value)


def _float(name: str, value: Any) -> float:
    """None stands for NaN."""
    if value is not None and not _is_number(value):
        raise InvalidInput(f"{name} must be a number or null, got {value!r:.80}")
    return math.nan if value is None else float(value)


def _values(name: str, value: Any, holds: Callable[[Any], bool]) -> tuple[Any, ...]:
    if not isinstance(value, (list, tuple)) or not all(map(holds, value)):
        raise InvalidInput(f"{name} must be a list of numbers, got {value!r:.80}")
    return tuple(value)
