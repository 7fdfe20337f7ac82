"""The search: successive halving in stages, within a time limit."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from siftlm.calibration import grid as grids
from siftlm.calibration.grid import Grid, Setting
from siftlm.calibration.trials import MIN_TEXTS, TrialRunner, last_point_within
from siftlm.evaluation.protocol import DEFAULT_POINTS, score_points
from siftlm.evaluation.statistics import mean

# With fewer texts the first halving would be due to chance; with fewer settings it would save too little.
MIN_TEXTS_PER_RUNG, MIN_SETTINGS_TO_HALVE = 2, 4


@dataclass(frozen=True)
class HalvingSchedule:
    """A schedule: ``settings`` begin on ``texts`` texts; half go on with twice the texts, until ``keep`` are left."""

    settings: int
    texts: int
    keep: int
    most: int
    """All texts."""

    def each(self) -> list[tuple[int, int]]:
        """The (settings, texts) of each rung.

        >>> HalvingSchedule(settings=12, texts=2, keep=2, most=6).each()
        [(12, 2), (6, 4), (3, 6)]
        """
        rungs, settings, texts = [], self.settings, min(self.texts, self.most)
        while settings > self.keep:
            rungs.append((settings, texts))
            settings, texts = max(self.keep, math.ceil(settings / 2)), min(2 * texts, self.most)
        return rungs

    def runs(self, always: int = 0) -> int:
        """The number of trials; ``always``: further settings that stay in every rung."""
        total, before = 0, 0
        for settings, texts in self.each():
            total += (settings + always) * (texts - before)
            before = texts
        return total


def affordable_schedule(
    settings: int, keep: int, most: int, always: int, runs: float, *, fewest: int = MIN_SETTINGS_TO_HALVE
) -> HalvingSchedule | None:
    """The schedule of at most ``runs`` trials with the most texts, then the most settings; None if there is none.

    >>> affordable_schedule(46, keep=2, most=16, always=0, runs=60)
    HalvingSchedule(settings=14, texts=2, keep=2, most=16)
    """
    least = min(MIN_TEXTS_PER_RUNG, most)
    for texts in range(most, least - 1, -1):
        schedule = HalvingSchedule(settings, texts, keep, most)
        if schedule.runs(always) <= runs:
            return schedule
    for fewer in range(settings - 1, max(keep + 1, min(fewest, settings)) - 1, -1):
        schedule = HalvingSchedule(fewer, least, keep, most)
        if schedule.runs(always) <= runs:
            return schedule
    return None


# Steps that suffice to compare rates, and selections.
RATE_STEPS, SELECTION_STEPS = 10, 20
# Each stage's share of the time left; the rest is for the confirmation, which needs at least half of all.
STAGE_TIME_SHARES = {"rates": 0.15, "selection": 0.4, "finer": 0.3}
FINALISTS, CONFIRMATION_TIME_SHARE, MIN_CONFIRMATION_TEXTS = 3, 0.5, 6


@dataclass(frozen=True)
class SearchOutcome:
    """The settings that reached the confirmation."""

    finalists: tuple[Setting, ...]
    """The best setting of SIFT, the best of nearest neighbour, and the default; without repeats."""
    nearest: Setting
    default: Setting
    steps: int
    texts: tuple[int, ...]
    """The texts of the confirmation."""
    fresh: bool
    """Had these texts no part in the choice?"""


class CalibrationSearch:
    """Runs the stages. Decisions that depend on the clock are logged, so that a resumed search repeats them."""

    def __init__(
        self,
        runner: TrialRunner,
        grid: Grid,
        rate: float,
        seconds: float | None,
        n: int | None,
        begin: Callable[[str], None],
    ) -> None:
        self.runner, self.grid, self.rate, self.seconds, self._begin = runner, grid, rate, seconds, begin
        self.tried: list[dict[str, Any]] = []
        self._n = n
        half = len(runner.texts) // 2
        self.fresh = half >= MIN_TEXTS
        self.choice_texts = tuple(range(half if self.fresh else len(runner.texts)))
        self.confirmation_texts: tuple[int, ...] = (
            tuple(range(half, len(runner.texts))) if self.fresh else self.choice_texts
        )

    def run(self, centres: Callable[[int], dict[str, float]]) -> SearchOutcome:
        """Run all stages; ``centres``: number of picks -> each kernel's λ to start from."""
        default = grids.default_setting(self.rate)
        first = grids.nearest_setting(self.rate)
        self._begin("calibrating: rates")
        self.runner.warm_up()
        self.runner.run(first, self.choice_texts[0], min(RATE_STEPS, self._n or RATE_STEPS))  # measures the speed
        steps = int(self._plan("steps", lambda: {"steps": self._steps()})["steps"])
        few = last_point_within(steps, RATE_STEPS)
        neighbours = self._halved("rates", [grids.nearest_setting(rate) for rate in self.grid.rates], 1, few)
        rate = (neighbours or [first])[0].rate
        self._begin("calibrating: selection")
        some, near = last_point_within(steps, SELECTION_STEPS), grids.nearest_setting(rate)
        selections = grids.sift_settings(rate, self.grid, centres(some))
        best = self._halved("selection", selections, 2, some, few, always=near) or selections[:1]
        self._begin("calibrating: finer rates")
        finer = [(rate * grids.FINER_FACTOR), (rate / grids.FINER_FACTOR)]
        rivals = self._halved("finer", [*best, *(best[0].at(one) for one in finer)], 1, steps, share=0.5) or best
        nears = self._halved("nearest", [near, *(near.at(one) for one in finer)], 1, steps, share=0.5) or [near]
        finalists = tuple(dict.fromkeys((rivals[0], nears[0], default)))
        self._begin("calibrating: confirming")
        texts = self._confirmed(finalists, steps)
        return SearchOutcome(finalists, nears[0], default, steps, texts, self.fresh)

    # --- inside

    def _steps(self) -> int:
        """The most steps for which confirming on a few texts takes at most half of the time."""
        if self._n is not None or self.seconds is None:
            return self._n or DEFAULT_POINTS[-1]
        runs = FINALISTS * min(MIN_CONFIRMATION_TEXTS, len(self.confirmation_texts))
        fits = [
            n
            for n in DEFAULT_POINTS
            if n >= RATE_STEPS and runs * self.runner.seconds_for(n) <= CONFIRMATION_TIME_SHARE * self.seconds
        ]
        return max(fits, default=RATE_STEPS)

    def _halved(
        self,
        stage: str,
        settings: Sequence[Setting],
        keep: int,
        steps: int,
        fewer: int | None = None,
        *,
        always: Setting | None = None,
        share: float = 1.0,
    ) -> list[Setting]:
        """The best ``keep`` settings, best first; none if there was no time.

        ``fewer``: the number of steps if ``steps`` take too long. ``always``: a setting in every rung, for comparison.
        """
        settings = list(dict.fromkeys(settings))
        if len(settings) <= keep:
            return settings
        plan = self._plan(stage, lambda: self._rungs(stage, len(settings), keep, steps, fewer, always, share))
        if not plan["settings"]:
            return []
        steps = int(plan["steps"])
        rungs = HalvingSchedule(int(plan["settings"]), int(plan["texts"]), keep, len(self.choice_texts))
        alive = settings[: rungs.settings]
        rows: dict[Setting, dict[str, Any]] = {}
        for size, count in rungs.each():
            for setting in (*alive, *([always] if always else ())):
                rows[setting] = self._row(stage, setting, self.choice_texts[:count], steps)
            alive = sorted(alive, key=lambda one: float(rows[one]["mean"]))
            alive = alive[: max(keep, -(-size // 2))]
        for setting in alive[:keep]:
            rows[setting]["kept"] = True
        self.tried += sorted(rows.values(), key=lambda row: (-row["texts"], row["mean"]))
        return alive[:keep]

    def _rungs(
        self,
        stage: str,
        count: int,
        keep: int,
        steps: int,
        fewer: int | None,
        always: Setting | None,
        share: float,
    ) -> dict[str, int]:
        """The schedule that the time allows, as a record of the log."""
        none = {"settings": 0, "texts": 0, "steps": steps}
        if self.seconds is None:
            texts = max(2, len(self.choice_texts) // 4)
            return {"settings": count, "texts": texts, "steps": steps}
        part = STAGE_TIME_SHARES.get(stage, STAGE_TIME_SHARES["finer"]) * share * self._left()
        fewest = min(count, 8)
        for n in dict.fromkeys((steps, fewer or steps)):
            runs = part / max(1e-9, self.runner.seconds_for(n))
            least = fewest if n != (fewer or steps) else keep + 1
            schedule = affordable_schedule(
                count, keep, len(self.choice_texts), int(always is not None), runs, fewest=least
            )
            if schedule is not None:
                return {"settings": schedule.settings, "texts": schedule.texts, "steps": n}
        return none

    def _confirmed(self, finalists: Sequence[Setting], steps: int) -> tuple[int, ...]:
        """Run the finalists on as many texts as there is time for; returns the texts."""
        runs, texts = self.runner.runs, self.confirmation_texts
        for at, text in enumerate(self.confirmation_texts):
            there = all((one, text) in runs and runs[one, text].steps >= steps for one in finalists)
            if at >= MIN_TEXTS and not there and self._left() < len(finalists) * self.runner.seconds_for(steps):
                break
            for setting in finalists:
                self.runner.run(setting, text, steps)
            texts = self.confirmation_texts[: at + 1]
        for setting in finalists:
            self.tried.append(self._row("confirm", setting, texts, steps))
        return texts

    def _left(self) -> float:
        return float("inf") if self.seconds is None else max(0.0, self.seconds - self.runner.seconds)

    def _row(self, stage: str, setting: Setting, texts: Sequence[int], steps: int) -> dict[str, Any]:
        """The row of a setting in the table of trials, at its best number of steps."""
        percents = self.runner.percents(setting, texts, steps)
        at = int(np.argmin(percents.mean(axis=0)))
        runs = [self.runner.runs[setting, text] for text in texts]
        return {
            "stage": stage,
            "setting": str(setting),
            **{name: value for name, value in asdict(setting).items() if value is not None},
            "texts": len(texts),
            "steps": steps,
            "best_steps": score_points(steps)[at],
            **mean(percents[:, at]).to_dict(),
            "seconds": round(sum(sum(run.seconds.values()) for run in runs), 2),
            "kept": False,
        }

    def _plan(self, stage: str, make: Callable[[], dict[str, int]]) -> dict[str, Any]:
        """The logged decision from before a crash, or a new one."""
        for record in self.runner.log.records:
            if record.get("plan") == stage:
                return record
        return self.runner.log.add(plan=stage, **make())
