"""The order of the search: learning rates, ways to select, finer rates, and a confirmation on texts not yet seen."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from siftlm.calibration import grid as grids
from siftlm.calibration.grid import Grid, Setting
from siftlm.calibration.heldout import LEAST
from siftlm.calibration.measuring import POINTS, Bench, points_to, shorter
from siftlm.calibration.planning import Rungs, affordable
from siftlm.evaluation.statistics import mean

# Steps that tell rates apart, and ways to select.
FEW, SOME = 10, 20
# Of the time that is left, for each stage; the rest is for the confirmation, which needs at least half of all.
SHARES = {"rates": 0.15, "selection": 0.4, "finer": 0.3}
CONFIRMED, RESERVED, WORTH_CONFIRMING = 3, 0.5, 6


@dataclass(frozen=True)
class Found:
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


class Search:
    """Goes through the stages; every decision that depends on the clock is kept in the log, to be the same again."""

    def __init__(
        self, bench: Bench, grid: Grid, rate: float, seconds: float | None, n: int | None, say: Callable[[str], None]
    ) -> None:
        self.bench, self.grid, self.rate, self.seconds, self.say = bench, grid, rate, seconds, say
        self.tried: list[dict[str, Any]] = []
        self._asked = n
        half = len(bench.texts) // 2
        self.fresh = half >= LEAST
        self.early = tuple(range(half if self.fresh else len(bench.texts)))
        self.late: tuple[int, ...] = tuple(range(half, len(bench.texts))) if self.fresh else self.early

    def run(self, centres: Callable[[int], dict[str, float]]) -> Found:
        """All stages; ``centres``: for n picks, where `siftlm.spread` would start for each kernel."""
        usual = grids.usual(self.rate)
        first = grids.nearest(self.rate)
        self.say("calibrating: rates")
        self.bench.warm_up()
        self.bench.run(first, self.early[0], min(FEW, self._asked or FEW))  # how fast is it?
        steps = int(self._plan("steps", lambda: {"steps": self._steps()})["steps"])
        few = shorter(steps, FEW)
        neighbours = self._halved("rates", [grids.nearest(rate) for rate in self.grid.rates], 1, few)
        rate = (neighbours or [first])[0].rate
        self.say("calibrating: ways to select")
        some = shorter(steps, SOME)
        ways = grids.selections(rate, self.grid, centres(some))
        best = self._halved("selection", ways, 2, some, few, always=grids.nearest(rate)) or ways[:1]
        self.say("calibrating: finer rates")
        finer = [(rate * grids.FINER), (rate / grids.FINER)]
        rivals = self._halved("finer", [*best, *(best[0].at(one) for one in finer)], 1, steps, share=0.5) or best
        near = grids.nearest(rate)
        nears = self._halved("nearest", [near, *(near.at(one) for one in finer)], 1, steps, share=0.5) or [near]
        finalists = tuple(dict.fromkeys((rivals[0], nears[0], usual)))
        self.say("calibrating: confirming")
        texts = self._confirmed(finalists, steps)
        return Found(finalists, nears[0], usual, steps, texts, self.fresh)

    # --- inside

    def _steps(self) -> int:
        """The most steps whose confirmation on a few texts leaves half of the time."""
        if self._asked is not None or self.seconds is None:
            return self._asked or POINTS[-1]
        runs = CONFIRMED * min(WORTH_CONFIRMING, len(self.late))
        fits = [n for n in POINTS if n >= FEW and runs * self.bench.seconds_for(n) <= RESERVED * self.seconds]
        return max(fits, default=FEW)

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
        rungs = Rungs(int(plan["settings"]), int(plan["texts"]), keep, len(self.early))
        alive = settings[: rungs.settings]
        rows: dict[Setting, dict[str, Any]] = {}
        for size, count in rungs.each():
            for setting in (*alive, *([always] if always else ())):
                rows[setting] = self._row(stage, setting, self.early[:count], steps)
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
            texts = max(2, len(self.early) // 4)
            return {"settings": count, "texts": texts, "steps": steps}
        part = SHARES.get(stage, SHARES["finer"]) * share * self._left()
        fewest = min(count, 8)
        for n in dict.fromkeys((steps, fewer or steps)):
            runs = part / max(1e-9, self.bench.seconds_for(n))
            least = fewest if n != (fewer or steps) else keep + 1
            found = affordable(count, keep, len(self.early), int(always is not None), runs, fewest=least)
            if found is not None:
                return {"settings": found.settings, "texts": found.texts, "steps": n}
        return none

    def _confirmed(self, finalists: Sequence[Setting], steps: int) -> tuple[int, ...]:
        """Run the finalists on as many texts as there is time for."""
        known, texts = self.bench.runs, self.late
        for at, text in enumerate(self.late):
            there = all((one, text) in known and known[one, text].steps >= steps for one in finalists)
            if at >= LEAST and not there and self._left() < len(finalists) * self.bench.seconds_for(steps):
                break
            for setting in finalists:
                self.bench.run(setting, text, steps)
            texts = self.late[: at + 1]
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
            "best_steps": points_to(steps)[at],
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
