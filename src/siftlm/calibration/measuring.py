"""One setting on one text: select, tune, score after 1, 2, 5, … steps; everything is kept, nothing computed twice."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from siftlm.calibration.grid import Setting
from siftlm.calibration.heldout import HeldOut, excluded_rows
from siftlm.calibration.log import CalibrationLog
from siftlm.controller import Controller
from siftlm.errors import Conflict, InvalidInput
from siftlm.memory.searcher import Searcher
from siftlm.types import FloatArray, Step

SCORE_POINTS = (1, 2, 5, 10, 20, 50)


@dataclass(frozen=True)
class Trial:
    """What came of one setting on one text."""

    setting: Setting
    text: int
    steps: int
    """That were asked for."""
    base: float
    """Bits per byte without tuning."""
    curve: Mapping[int, float]
    """Steps -> bits per byte."""
    uncertainty: tuple[float, ...]
    """Before the first pick, and after each."""
    rows: tuple[int, ...]
    """What was selected, in order."""
    seconds: Mapping[str, float]
    """``select``, ``tune``, ``score``; nothing of it where another setting had selected the same."""

    def percent(self, steps: int) -> float:
        """Bits per byte after so many steps in % of the base model's."""
        return 100 * self.curve[steps] / self.base

    def to_dict(self) -> dict[str, Any]:
        """Ready for ``json.dumps``."""
        return {**asdict(self), "curve": [list(point) for point in self.curve.items()], "seconds": dict(self.seconds)}

    @classmethod
    def of(cls, kept: Mapping[str, Any]) -> Trial:
        """From what `to_dict` gave."""
        lists = {name: tuple(kept[name]) for name in ("uncertainty", "rows")}
        curve = {int(step): float(value) for step, value in kept["curve"]}
        return cls(**{**kept, **lists, "curve": curve, "setting": Setting(**kept["setting"])})


class TrialRunner:
    """Runs settings on texts, and remembers."""

    def __init__(
        self,
        controller: Controller,
        memory: Searcher,
        texts: Sequence[HeldOut],
        log: CalibrationLog,
        after: Callable[[TrialRunner], None] = lambda _: None,
    ) -> None:
        _check_one_step_per_text(controller)
        self.controller, self.memory, self.texts, self.log, self._after = controller, memory, texts, log, after
        self.runs: dict[tuple[Setting, int], Trial] = {}
        self.steps = 0
        """Taken since this bench was made; what the log knew takes none."""
        self._all: list[Trial] = []
        self._bases: dict[int, float] = {}
        self._excluded_rows: dict[int, list[int]] = {}
        for record in log.records:
            if "run" in record:
                self._remember(Trial.of(record["run"]))

    def warm_up(self) -> None:
        """The very first steps and scores take longer than all others, and would mislead whoever plans by them."""
        if not self.runs:
            held = self.texts[0]
            with self.controller.tuning() as tuner:
                tuner.learn([held.prompt] * 2)
            self.controller.likelihood(held.scored, after=held.before)

    def run(self, setting: Setting, text: int, steps: int) -> Trial:
        """The setting on the text, for that many steps at least."""
        known = self.runs.get((setting, text))
        if known is None or known.steps < steps:
            known = Trial.of(self.log.add(run=self._measured(setting, text, steps).to_dict())["run"])
            self._remember(known)
            self._after(self)
        return known

    def percents(self, setting: Setting, texts: Sequence[int], steps: int) -> FloatArray:
        """(len(texts), points) in % of base, for the points up to ``steps``."""
        runs = [self.run(setting, text, steps) for text in texts]
        return np.array([[run.percent(point) for point in score_points(steps)] for run in runs])

    @property
    def seconds(self) -> float:
        """Of all work so far, that before a crash included."""
        return sum(sum(run.seconds.values()) for run in self._all)

    def seconds_for(self, steps: int) -> float:
        """That one more run will take, judged by those that there are."""
        made = [run for run in self._all if run.seconds.get("tune")]
        clock = {name: sum(run.seconds.get(name, 0.0) for run in made) for name in ("select", "tune", "score")}
        points = sum(len(run.curve) for run in made)
        return (
            clock["select"] / max(1, len(made))
            + clock["tune"] / max(1, sum(min(run.steps, len(run.rows)) for run in made)) * steps
            + clock["score"] / max(1, points) * len(score_points(steps))
        )

    # --- inside

    def _remember(self, run: Trial) -> None:
        self._all.append(run)
        self.runs[run.setting, run.text] = run
        self._bases[run.text] = run.base

    def _measured(self, setting: Setting, text: int, steps: int) -> Trial:
        held, clock = self.texts[text], {"select": 0.0, "tune": 0.0, "score": 0.0}
        began = time.perf_counter()
        if text not in self._excluded_rows:
            self._excluded_rows[text] = excluded_rows(self.memory, held)
        found = self.memory.search(held.vector, exclude=self._excluded_rows[text], **setting.search(steps))
        rows = tuple(hit.row for hit in found)
        uncertainty = tuple(float(left) for left in found.selection.uncertainty)
        clock["select"] = time.perf_counter() - began
        base = self._base(text, clock)
        curve = self._known_curve(setting, text, rows, steps)
        if curve is None:
            curve = self._learned(setting.rate, held, found.texts, steps, base, clock)
            self.steps += steps
        return Trial(setting, text, steps, base, curve, uncertainty, rows, clock)

    def _base(self, text: int, clock: dict[str, float]) -> float:
        if text not in self._bases:
            began = time.perf_counter()
            held = self.texts[text]
            base = self.controller.likelihood(held.scored, after=held.before).bits_per_byte
            clock["score"] += time.perf_counter() - began
            if not (math.isfinite(base) and base > 0):
                raise InvalidInput(f"the text {held.text[:40]!r} cannot be scored: {base} bits per byte")
            self._bases[text] = base
        return self._bases[text]

    def _known_curve(
        self, setting: Setting, text: int, rows: tuple[int, ...], steps: int
    ) -> Mapping[int, float] | None:
        """The same texts at the same rate were learned already, under another name."""
        for (other, where), run in self.runs.items():
            same = where == text and other.rate == setting.rate and run.steps >= steps
            if same and run.rows[: len(rows)] == rows and (len(rows) == steps or len(run.rows) == len(rows)):
                return {point: run.curve[point] for point in score_points(steps)}
        return None

    def _learned(
        self, rate: float, held: HeldOut, texts: Sequence[str], steps: int, base: float, clock: dict[str, float]
    ) -> Mapping[int, float]:
        """Like `LocalModel.score` with ``at=``, but for what is known already."""
        points, curve, taken = score_points(steps), {}, 0

        def score() -> float:
            began = time.perf_counter()
            found = self.controller.likelihood(held.scored, after=held.before).bits_per_byte
            clock["score"] += time.perf_counter() - began
            return found if math.isfinite(found) else base

        def stepped(_: Step) -> None:
            nonlocal taken
            taken += 1
            if taken in points:
                curve[taken] = score()

        began, scored = time.perf_counter(), clock["score"]
        last = base
        with self.controller.tuning(rate=rate) as tuner:
            trace = tuner.learn(texts, after=stepped)
            # There were fewer texts than steps: more steps change nothing. After a divergence the base model answers.
            if trace.ended != "diverged" and taken and taken < steps:
                last = curve.get(taken) or score()
        clock["tune"] += time.perf_counter() - began - (clock["score"] - scored)
        return {point: curve.get(point, last) for point in points}


def score_points(steps: int) -> tuple[int, ...]:
    """After how many steps is scored."""
    return (*(point for point in SCORE_POINTS if point < steps), steps)


def last_point_within(steps: int, most: int) -> int:
    """The last point up to ``most`` on the way to ``steps``."""
    return max((point for point in score_points(steps) if point <= most), default=steps)


def _check_one_step_per_text(controller: Controller) -> None:
    """A curve over steps holds for every n only if step number n is on text number n."""
    known = controller.settings
    for name, plain in (("order", "picked"), ("passes", 1), ("windows", 1), ("repeats", "steps")):
        if getattr(known, name) != plain:
            raise Conflict(
                f"calibration takes one step on each text in the order of the picks, and the controller has "
                f"{name}={getattr(known, name)!r}; leave {name} at {plain!r}"
            )
