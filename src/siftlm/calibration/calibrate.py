"""`calibrate`: choose a local model's settings by how well the tuned model predicts held-out texts."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from siftlm.calibration.evidence import Calibration, Verdict, calibration_question, evidence_record
from siftlm.calibration.grid import Grid, make_grid
from siftlm.calibration.search import CalibrationSearch
from siftlm.calibration.trials import (
    LOG_FILE,
    CalibrationLog,
    HeldOut,
    TrialRunner,
    draw_held_out,
    held_out_from_texts,
)
from siftlm.controller import Controller
from siftlm.errors import Conflict, setting
from siftlm.memory import Memory
from siftlm.memory.searcher import Searcher
from siftlm.progress import Progress, Report, reporter
from siftlm.selection import kernels, spread
from siftlm.validation import number, whole_number

# Held-out texts: half of them to choose by, half to confirm the choice.
DEFAULT_HELD_OUT_TEXTS = 48
DEFAULT_MINUTES = 5.0
# Vectors by which the memory's spread is estimated.
SPREAD_SAMPLE_VECTORS = 2000


def calibrate(
    model: Any,
    memory: str | os.PathLike[str] | Searcher,
    *,
    texts: Sequence[str] | None = None,
    count: int = DEFAULT_HELD_OUT_TEXTS,
    minutes: float | None = DEFAULT_MINUTES,
    n: int | None = None,
    mode: str = "split",
    rates: Sequence[float] | None = None,
    noises: Sequence[float] | None = None,
    kernels: Sequence[str] | None = None,
    ks: Sequence[int] | None = None,
    seed: int = 0,
    log: str | os.PathLike[str] | None = None,
    again: bool = False,
    note: bool = True,
    progress: bool | Report | None = None,
) -> Calibration:
    """Find the settings with which tuning on this memory helps this model most, and store them in its manifest.

    From then on `LocalModel` uses them for this model and memory, except where a call names others. Settings are tried
    on held-out texts; rows that would leak a text (its own document, near-copies) are excluded from its search. Many
    settings begin on few texts, and the better half goes on with more. At the end the best is compared with nearest
    neighbour and with the default settings on texts that had no part in the choice, and the best of the three on
    these is chosen: there the choice is never worse than nearest neighbour.

    Args:
        model: a `Controller`, or its argument: a name, a folder, ``siftlm-tiny``.
        memory: a `Memory` or its folder; an `Outside` database needs ``texts=`` and ``note=False``.
        texts: texts like the future prompts, not in the memory; by default drawn from all parts of the memory.
        count: the number of texts to draw.
        minutes: the time limit, which decides how many settings and texts are used; ``None``: all of them.
        n: the most steps; by default 50, or fewer if the time does not suffice.
        mode: ``split`` or ``transductive``, as for `LocalModel.score`.
        rates: learning rates to try; by default some around the one that suits models of this size.
        noises: λ to try.
        kernels: names of kernels to try, such as ``power:4``.
        ks: numbers of candidates to try.
        seed: the seed of the draw.
        log: the file that stores every result at once; by default ``calibration.jsonl`` in the memory's folder. The
            same call resumes from it; a call with other arguments begins anew.
        again: begin anew in any case.
        note: store the result in the memory's manifest.
        progress: draw progress (``True``), don't (``False``), pass it to a function, or draw it on a terminal
            (default).
    """
    own = memory if isinstance(memory, Searcher) else Memory.open(memory)
    if not isinstance(own, Memory) and (texts is None or note):
        raise Conflict(
            f"only a Memory can be drawn from and written into: give {setting('texts')} and {setting('note', False)}"
        )
    whole_number("count", count, least=4)
    seconds = None if minutes is None else 60 * number("minutes", minutes, above=0)
    if n is not None:
        whole_number("n", n)
    whole_number("seed", seed, least=0)
    controller = model if isinstance(model, Controller) else Controller(model)
    held = (
        held_out_from_texts(own, texts, mode)
        if texts is not None
        else draw_held_out(_require_memory(own), count, seed, mode)
    )
    rate = float(controller.tuning_settings().rate or 0.0)
    passages = len(own) if isinstance(own, Memory) else None
    grid = make_grid(rate, passages, rates=rates, noises=noises, kernel_names=kernels, ks=ks)
    question = calibration_question(
        controller, own, held, grid, {"mode": mode, "seed": seed, "minutes": minutes, "n": n}
    )
    results = CalibrationLog(_log_path(own, log), question, again=again)
    progress_reporter = _ProgressReporter(reporter(progress), seconds)
    runner = TrialRunner(controller, own, held, results, progress_reporter.after)
    search = CalibrationSearch(runner, grid, rate, seconds, n, progress_reporter.begin)
    centres = _NoiseCentres(own, held, grid, seed)
    outcome = search.run(centres)
    progress_reporter.finish(runner)
    verdict = Verdict.of(runner, outcome)
    source = {"from": "memory" if texts is None else "caller", "mode": mode, "seed": seed}
    evidence = evidence_record(runner, search, outcome, verdict, source, centres(outcome.steps))
    result = Calibration(controller.name, verdict.settings, evidence, noted=note)
    if note:
        _require_memory(own).note_calibration(controller.name, result.record(), wait=WRITER_WAIT_SECONDS)
    return result


# Seconds to wait for another writer of the memory before the result is lost.
WRITER_WAIT_SECONDS = 600.0


def _require_memory(memory: Searcher) -> Memory:
    if not isinstance(memory, Memory):
        raise Conflict(
            f"only a Memory can be drawn from and written into: give {setting('texts')} and {setting('note', False)}"
        )
    return memory


def _log_path(memory: Searcher, log: str | os.PathLike[str] | None) -> Path | None:
    if log is not None:
        return Path(log)
    return memory.path / LOG_FILE if isinstance(memory, Memory) else None


class _NoiseCentres:
    """The λ to begin with, for each kernel: that of `siftlm.spread` on a sample of the memory."""

    def __init__(self, memory: Searcher, held: Sequence[HeldOut], grid: Grid, seed: int) -> None:
        self._kernels, self._seed = grid.kernels, seed
        self._queries = np.stack([one.vector for one in held])
        self._sample = None
        if isinstance(memory, Memory):
            # A text's own passages are nearer to it than any that it may be tuned on.
            rows = np.setdiff1d(memory.rows(), [row for one in held for row in one.exclude])
            chosen = np.random.default_rng(seed).choice(rows, size=min(SPREAD_SAMPLE_VECTORS, len(rows)), replace=False)
            self._sample = memory.vectors(np.sort(chosen))

    def __call__(self, n: int) -> dict[str, float]:
        if self._sample is None or len(self._sample) < 3:
            return {}
        noises = {
            name: spread(self._sample, self._queries, n=n, kernel=kernels.named(name), seed=self._seed).noise
            for name in self._kernels
        }
        return {name: noise for name, noise in noises.items() if not math.isnan(noise)}


class _ProgressReporter:
    """Reports steps done and, if there is a time limit, the steps that it allows."""

    def __init__(self, report: Report | None, seconds: float | None) -> None:
        self._report, self._seconds, self._what = report, seconds, "calibrating"
        self._began = time.monotonic()

    def begin(self, stage: str) -> None:
        """Name the stage that begins."""
        self._what = stage

    def after(self, runner: TrialRunner) -> None:
        """Report after a trial."""
        self._send(runner, finished=False)

    def finish(self, runner: TrialRunner) -> None:
        """Report the end."""
        self._what = "calibrating"
        self._send(runner, finished=True)

    def _send(self, runner: TrialRunner, *, finished: bool) -> None:
        if self._report is None:
            return
        total = None
        if self._seconds is not None:
            left = max(0.0, self._seconds - runner.seconds)
            total = runner.steps + round(left / max(1e-9, runner.seconds_for(10) / 10))
        seconds = time.monotonic() - self._began
        self._report(Progress(self._what, runner.steps, total, "steps", seconds, finished))
