"""Choose the settings of a local model by what they are for: how well it foresees texts once it has learned."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from siftlm.calibration import trials as logs
from siftlm.calibration.evidence import Calibration, Verdict, calibration_question, evidence_record
from siftlm.calibration.grid import Grid, make_grid
from siftlm.calibration.search import CalibrationSearch
from siftlm.calibration.trials import CalibrationLog, HeldOut, TrialRunner, draw_held_out, held_out_from_texts
from siftlm.controller import Controller
from siftlm.errors import Conflict, setting
from siftlm.memory import Memory
from siftlm.memory.searcher import Searcher
from siftlm.progress import Progress, Report, reporter
from siftlm.selection import kernels, spread
from siftlm.validation import number, whole_number

# Texts that are held out: half of them to choose by, half to confirm the choice.
DEFAULT_HELD_OUT_TEXTS = 48
DEFAULT_MINUTES = 5.0
# Vectors that the spread of the memory is judged by.
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
    """Find the settings with which this model learns best from this memory, and write them into its manifest.

    From then on `LocalModel` uses them for this model and this memory wherever a call says nothing else. Settings
    are tried on held-out texts; whatever of the memory would give a text away (its own document, near-copies) is left
    out of its search. Many settings begin on few texts, the better half goes on with more. At the end the best is
    compared with nearest neighbour and with the usual settings on texts that had no part in the choice, and the best
    of the three on these is taken: so the choice is never worse than nearest neighbour there.

    Args:
        model: a `Controller`, or what makes one: a name, a folder, ``siftlm-tiny``.
        memory: a `Memory` or its folder; an `Outside` database needs ``texts=`` and ``note=False``.
        texts: like the prompts to come, and not in the memory. Left out, some are drawn from all over the memory.
        count: draw so many.
        minutes: of work, which decides how many settings and texts are used; ``None``: all of them.
        n: the most steps; left out, 50, or fewer where the time would not suffice.
        mode: ``split`` or ``transductive``, as for `LocalModel.score`.
        rates: learning rates to try; left out, some around the one that suits models of this size.
        noises: λ to try.
        kernels: names of kernels to try, such as ``power:4``.
        ks: numbers of candidates to try.
        seed: of the draw.
        log: where every result is kept at once; left out, ``calibration.jsonl`` in the memory's folder. The
            same call goes on from there after a crash; a call that asks something else begins anew.
        again: begin anew in any case.
        note: write the result into the memory's manifest.
        progress: draw it (``True``), don't (``False``), hand it to a function, or draw it where a person
            is watching (left out).
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
    asked = calibration_question(controller, own, held, grid, {"mode": mode, "seed": seed, "minutes": minutes, "n": n})
    kept = CalibrationLog(_log_path(own, log), asked, again=again)
    told = _ProgressReporter(reporter(progress), seconds)
    bench = TrialRunner(controller, own, held, kept, told.after)
    search = CalibrationSearch(bench, grid, rate, seconds, n, told.say)
    centres = _NoiseCentres(own, held, grid, seed)
    found = search.run(centres)
    told.finish(bench)
    verdict = Verdict.of(bench, found)
    source = {"from": "memory" if texts is None else "caller", "mode": mode, "seed": seed}
    known = evidence_record(bench, search, found, verdict, source, centres(found.steps))
    result = Calibration(controller.name, verdict.settings, known, noted=note)
    if note:
        _require_memory(own).note_calibration(controller.name, result.record(), wait=WRITER_WAIT_SECONDS)
    return result


# Seconds that a writer of the memory is waited for, after all that work.
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
    return memory.path / logs.LOG_FILE if isinstance(memory, Memory) else None


class _NoiseCentres:
    """Where to begin with λ: what `siftlm.spread` says of a sample of the memory, for each kernel."""

    def __init__(self, memory: Searcher, held: Sequence[HeldOut], grid: Grid, seed: int) -> None:
        self._kernels, self._seed = grid.kernels, seed
        self._queries = np.stack([one.vector for one in held])
        self._sample = None
        if isinstance(memory, Memory):
            # A text's own passages lie nearer to it than anything that it may learn from.
            rows = np.setdiff1d(memory.rows(), [row for one in held for row in one.exclude])
            chosen = np.random.default_rng(seed).choice(rows, size=min(SPREAD_SAMPLE_VECTORS, len(rows)), replace=False)
            self._sample = memory.vectors(np.sort(chosen))

    def __call__(self, n: int) -> dict[str, float]:
        if self._sample is None or len(self._sample) < 3:
            return {}
        found = {
            name: spread(self._sample, self._queries, n=n, kernel=kernels.named(name), seed=self._seed).noise
            for name in self._kernels
        }
        return {name: noise for name, noise in found.items() if noise == noise}  # without NaN


class _ProgressReporter:
    """How far it has come, and how long it will take: what the time allows, if there is a limit."""

    def __init__(self, report: Report | None, seconds: float | None) -> None:
        self._report, self._seconds, self._what = report, seconds, "calibrating"
        self._began = time.monotonic()

    def say(self, what: str) -> None:
        """What comes next."""
        self._what = what

    def after(self, bench: TrialRunner) -> None:
        """One more run is done."""
        self._tell(bench, finished=False)

    def finish(self, bench: TrialRunner) -> None:
        """Nothing more comes."""
        self._what = "calibrating"
        self._tell(bench, finished=True)

    def _tell(self, bench: TrialRunner, *, finished: bool) -> None:
        if self._report is None:
            return
        total = None
        if self._seconds is not None:
            left = max(0.0, self._seconds - bench.seconds)
            total = bench.steps + round(left / max(1e-9, bench.seconds_for(10) / 10))
        seconds = time.monotonic() - self._began
        self._report(Progress(self._what, bench.steps, total, "steps", seconds, finished))
