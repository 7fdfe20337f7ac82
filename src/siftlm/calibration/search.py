"""The order of the search: successive halving, stage by stage."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from siftlm.calibration import grid as grids
from siftlm.calibration.grid import Grid, Setting
from siftlm.calibration.trials import MIN_TEXTS, SCORE_POINTS, TrialRunner, last_point_within, score_points
from siftlm.evaluation.statistics import mean

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

        >>> HalvingSchedule(settings=12, texts=2, keep=2, most=6).each()
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

    >>> affordable_schedule(46, keep=2, most=16, always=0, runs=60)
    HalvingSchedule(settings=14, texts=2, keep=2, most=16)
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


# Steps that tell rates apart, and ways to select.
RATE_STEPS, SELECTION_STEPS = 10, 20
# Of the time that is left, for each stage; the rest is for the confirmation, which needs at least half of all.
STAGE_TIME_SHARES = {"rates": 0.15, "selection": 0.4, "finer": 0.3}
FINALISTS, CONFIRMATION_TIME_SHARE, MIN_CONFIRMATION_TEXTS = 3, 0.5, 6


@dataclass(frozen=True)
class SearchOutcome:
    """Who reached the confirmation."""

    finalists: tuple[Setting, ...]
    """The best by SIFT, the best nearest neighbour, and what is usual; without repeats."""
    nearest: Setting
    usual: Setting
    steps: int
    texts: tuple[int, ...]
    """Those of the confirmation."""
    fresh: bool
    """Had they no part in the choice?"""


class CalibrationSearch:
    """Goes through the stages; every decision that depends on the clock is kept in the log, to be the same again."""

    def __init__(
        self,
        bench: TrialRunner,
        grid: Grid,
        rate: float,
        seconds: float | None,
        n: int | None,
        say: Callable[[str], None],
    ) -> None:
        self.bench, self.grid, self.rate, self.seconds, self.say = bench, grid, rate, seconds, say
        self.tried: list[dict[str, Any]] = []
        self._asked = n
        half = len(bench.texts) // 2
        self.fresh = half >= MIN_TEXTS
        self.choice_texts = tuple(range(half if self.fresh else len(bench.texts)))
        self.confirmation_texts: tuple[int, ...] = (
            tuple(range(half, len(bench.texts))) if self.fresh else self.choice_texts
        )

    def run(self, centres: Callable[[int], dict[str, float]]) -> SearchOutcome:
        """All stages; ``centres``: for n picks, where `siftlm.spread` would start for each kernel."""
        usual = grids.default_setting(self.rate)
        first = grids.nearest_setting(self.rate)
        self.say("calibrating: rates")
        self.bench.warm_up()
        self.bench.run(first, self.choice_texts[0], min(RATE_STEPS, self._asked or RATE_STEPS))  # how fast is it?
        steps = int(self._plan("steps", lambda: {"steps": self._steps()})["steps"])
        few = last_point_within(steps, RATE_STEPS)
        neighbours = self._halved("rates", [grids.nearest_setting(rate) for rate in self.grid.rates], 1, few)
        rate = (neighbours or [first])[0].rate
        self.say("calibrating: ways to select")
        some = last_point_within(steps, SELECTION_STEPS)
        ways = grids.sift_settings(rate, self.grid, centres(some))
        best = self._halved("selection", ways, 2, some, few, always=grids.nearest_setting(rate)) or ways[:1]
        self.say("calibrating: finer rates")
        finer = [(rate * grids.FINER_FACTOR), (rate / grids.FINER_FACTOR)]
        rivals = self._halved("finer", [*best, *(best[0].at(one) for one in finer)], 1, steps, share=0.5) or best
        near = grids.nearest_setting(rate)
        nears = self._halved("nearest", [near, *(near.at(one) for one in finer)], 1, steps, share=0.5) or [near]
        finalists = tuple(dict.fromkeys((rivals[0], nears[0], usual)))
        self.say("calibrating: confirming")
        texts = self._confirmed(finalists, steps)
        return SearchOutcome(finalists, nears[0], usual, steps, texts, self.fresh)

    # --- inside

    def _steps(self) -> int:
        """The most steps whose confirmation on a few texts leaves half of the time."""
        if self._asked is not None or self.seconds is None:
            return self._asked or SCORE_POINTS[-1]
        runs = FINALISTS * min(MIN_CONFIRMATION_TEXTS, len(self.confirmation_texts))
        fits = [
            n
            for n in SCORE_POINTS
            if n >= RATE_STEPS and runs * self.bench.seconds_for(n) <= CONFIRMATION_TIME_SHARE * self.seconds
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
        """The best ``keep``, best first; none where there was no time, or nothing to choose from.

        ``fewer``: steps to do with where ``steps`` are too many. ``always``: in every rung, to compare with.
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
        """What the time allows, as it is kept in the log."""
        none = {"settings": 0, "texts": 0, "steps": steps}
        if self.seconds is None:
            texts = max(2, len(self.choice_texts) // 4)
            return {"settings": count, "texts": texts, "steps": steps}
        part = STAGE_TIME_SHARES.get(stage, STAGE_TIME_SHARES["finer"]) * share * self._left()
        fewest = min(count, 8)
        for n in dict.fromkeys((steps, fewer or steps)):
            runs = part / max(1e-9, self.bench.seconds_for(n))
            least = fewest if n != (fewer or steps) else keep + 1
            found = affordable_schedule(
                count, keep, len(self.choice_texts), int(always is not None), runs, fewest=least
            )
            if found is not None:
                return {"settings": found.settings, "texts": found.texts, "steps": n}
        return none

    def _confirmed(self, finalists: Sequence[Setting], steps: int) -> tuple[int, ...]:
        """Run the finalists on as many texts as there is time for."""
        known, texts = self.bench.runs, self.confirmation_texts
        for at, text in enumerate(self.confirmation_texts):
            there = all((one, text) in known and known[one, text].steps >= steps for one in finalists)
            if at >= MIN_TEXTS and not there and self._left() < len(finalists) * self.bench.seconds_for(steps):
                break
            for setting in finalists:
                self.bench.run(setting, text, steps)
            texts = self.confirmation_texts[: at + 1]
        for setting in finalists:
            self.tried.append(self._row("confirm", setting, texts, steps))
        return texts

    def _left(self) -> float:
        return float("inf") if self.seconds is None else max(0.0, self.seconds - self.bench.seconds)

    def _row(self, stage: str, setting: Setting, texts: Sequence[int], steps: int) -> dict[str, Any]:
        """A setting on texts, at its best number of steps."""
        percents = self.bench.percents(setting, texts, steps)
        at = int(np.argmin(percents.mean(axis=0)))
        runs = [self.bench.runs[setting, text] for text in texts]
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
        """As it was decided before a crash, or now."""
        for record in self.bench.log.records:
            if record.get("plan") == stage:
                return record
        return self.bench.log.add(plan=stage, **make())
