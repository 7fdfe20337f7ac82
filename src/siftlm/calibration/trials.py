"""Trials: held-out texts, settings tried on them, and the log of the results."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from siftlm.calibration.grid import Setting
from siftlm.call import split_text
from siftlm.controller import Controller
from siftlm.errors import Conflict, InvalidInput, setting
from siftlm.evaluation.protocol import leaked_rows, score_points
from siftlm.memory import Memory, durability
from siftlm.memory.searcher import Searcher
from siftlm.memory.snapshot import Snapshot
from siftlm.memory.vectors import embed_checked
from siftlm.types import FloatArray, Step, Vectors

LOG_FILE = "calibration.jsonl"
LOG_FORMAT = 1


class CalibrationLog:
    """The results so far for one question. Another question, or ``again``, begins a new log."""

    def __init__(self, path: Path | None, question: Mapping[str, Any], *, again: bool = False) -> None:
        self._path = path
        # As JSON is read back: tuples become lists.
        head = json.loads(json.dumps({"format": LOG_FORMAT, "question": question}))
        self.records: list[dict[str, Any]] = []
        if path is None:
            return
        records, size = _read_log(path)
        if records and records[0] == head and not again:
            self.records = records[1:]
            with durability.translate_write_errors(path), open(path, "rb+") as file:
                file.truncate(size)  # without the line that a crash left unfinished
            return
        with durability.translate_write_errors(path):
            durability.atomic_replace(path, _log_line(head))

    def add(self, **record: Any) -> dict[str, Any]:
        """Store a record; returns it as it will be read back."""
        line = _log_line(record)
        if self._path is not None:
            with durability.translate_write_errors(self._path), open(self._path, "ab") as file:
                file.write(line)
        stored: dict[str, Any] = json.loads(line)
        self.records.append(stored)
        return stored


def _log_line(record: Mapping[str, Any]) -> bytes:
    return (json.dumps(record, ensure_ascii=False) + "\n").encode()


def _read_log(path: Path) -> tuple[list[dict[str, Any]], int]:
    """The complete lines, and their number of bytes."""
    try:
        raw = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return [], 0
    if raw and not raw.startswith(b'{"format": '):
        raise InvalidInput(f"{path}: is no log of a calibration, and will not be overwritten; choose another place")
    records: list[dict[str, Any]] = []
    size = 0
    for line in raw.splitlines(keepends=True):
        try:
            record = json.loads(line)
        except ValueError:
            break
        if not line.endswith(b"\n") or not isinstance(record, dict):
            break
        records.append(record)
        size += len(line)
    return records, size


# Characters of a drawn text: enough to embed one half and score the other, few enough to be fast.
MIN_HELD_OUT_CHARACTERS, MAX_HELD_OUT_CHARACTERS = 100, 1500
# The least number of texts.
MIN_TEXTS = 4
# Passages that are tried before a part of the memory is skipped.
MAX_DRAWS_PER_PART = 20


@dataclass(frozen=True, eq=False)
class HeldOut:
    """A held-out text with its parts."""

    text: str
    prompt: str
    scored: str
    before: str
    """The context before the scored part."""
    vector: Vectors
    """(d,) the prompt's embedding."""
    exclude: tuple[int, ...] = ()
    """Rows of the text's own document."""
    document: int | None = None


def held_out_from_texts(memory: Searcher, texts: Sequence[str], mode: str) -> list[HeldOut]:
    """The caller's texts."""
    if isinstance(texts, str) or len(texts) < MIN_TEXTS:
        count = "one str" if isinstance(texts, str) else str(len(texts))
        raise InvalidInput(
            f"{setting('texts')} must have at least {MIN_TEXTS} texts, got {count}; with fewer, chance decides"
        )
    cut = [split_text(f"text {at}", text, mode) for at, text in enumerate(texts)]
    vectors = _prompt_vectors(memory, [prompt for prompt, _, _ in cut])
    for at, good in enumerate(_has_direction(vectors)):
        if not good:
            raise InvalidInput(f"text {at}: its prompt {cut[at][0][:40]!r} has no direction: its vector is zero")
    return [HeldOut(text, *cut[at], vectors[at]) for at, text in enumerate(texts)]


def draw_held_out(memory: Memory, count: int, seed: int, mode: str) -> list[HeldOut]:
    """A text from each of ``count`` equal parts of the memory, ordered so that every prefix is spread over it."""
    generator = np.random.default_rng(seed)
    rows = memory.rows()
    drawn: list[tuple[str, list[int], int]] = []
    used: set[int] = set()
    with memory.snapshot() as snapshot:
        for part in _bit_reversed(np.array_split(rows, min(count, max(1, len(rows))))):
            for row in generator.permutation(part)[:MAX_DRAWS_PER_PART].tolist():
                one = _text_at(snapshot, row, used, mode)
                if one is not None:
                    drawn.append(one)
                    used.add(one[2])
                    break
    cut = [split_text("a passage", text, mode) for text, _, _ in drawn]
    vectors = _prompt_vectors(memory, [prompt for prompt, _, _ in cut])
    usable = [
        HeldOut(text, *cut[at], vectors[at], tuple(own), document)
        for at, (text, own, document) in enumerate(drawn)
        if _has_direction(vectors)[at]
    ]
    if len(usable) < MIN_TEXTS:
        raise InvalidInput(
            f"{memory.path}: only {len(usable)} documents of {MIN_HELD_OUT_CHARACTERS} characters or more can be held "
            f"out, and at least {MIN_TEXTS} are needed: pass representative prompts with {setting('texts')}"
        )
    return usable


def excluded_rows(memory: Searcher, held: HeldOut) -> list[int]:
    """Rows that must not be tuned on: the text's own document, and copies of the text or of either half."""
    return sorted({*held.exclude, *leaked_rows(memory, (held.prompt, held.scored), held.text)})


def _text_at(snapshot: Snapshot, row: int, used: set[int], mode: str) -> tuple[str, list[int], int] | None:
    """The text around a passage, with its document's rows and number; None if the text is unusable."""
    document = snapshot.passages([row])[0].document
    places = snapshot.rows_of(document)
    # A near-copy is stored with the original's text.
    if document in used or any(near for _, _, near in places):
        return None
    at = [place for place, _, _ in places].index(row)
    text = _join_passages(snapshot, places[at : at + 1 + MAX_HELD_OUT_CHARACTERS // MIN_HELD_OUT_CHARACTERS])
    while at and len(text) < MAX_HELD_OUT_CHARACTERS:
        at -= 1
        text = _join_passages(snapshot, places[at : at + 1 + MAX_HELD_OUT_CHARACTERS // MIN_HELD_OUT_CHARACTERS])
    text = text[:MAX_HELD_OUT_CHARACTERS]
    if len(text) < MIN_HELD_OUT_CHARACTERS:
        return None
    try:
        split_text("a passage", text, mode)
    except InvalidInput:
        return None
    return text, [place for place, _, _ in places], document


def _join_passages(snapshot: Snapshot, places: Sequence[tuple[int, int, bool]]) -> str:
    """The text of consecutive passages, which overlap, or between which only white space is missing."""
    text, end = "", places[0][1]
    for (_, start, _), part in zip(places, snapshot.texts([row for row, _, _ in places]), strict=True):
        if start >= end:
            text += ("\n" if text and start > end else "") + part
        else:
            text += part[end - start :]
        end = max(end, start + len(part))
    return text


def _bit_reversed(pieces: Sequence[npt.NDArray[np.int64]]) -> list[npt.NDArray[np.int64]]:
    """The pieces in bit-reversed order: the first, the middle, the quarters, …"""
    bits = max(1, (len(pieces) - 1).bit_length())
    order = sorted(range(len(pieces)), key=lambda at: int(f"{at:0{bits}b}"[::-1], 2))
    return [pieces[at] for at in order]


def _prompt_vectors(memory: Searcher, texts: Sequence[str]) -> Vectors:
    if not texts:
        return np.zeros((0, memory.width), dtype=np.float32)
    return embed_checked(memory.embedder, texts, memory.width, as_query=True)


def _has_direction(vectors: Vectors) -> list[bool]:
    directed: list[bool] = (np.isfinite(vectors).all(axis=1) & (np.abs(vectors).max(axis=1, initial=0) > 0)).tolist()
    return directed


@dataclass(frozen=True)
class Trial:
    """The result of one setting on one text."""

    setting: Setting
    text: int
    steps: int
    """The requested number of steps."""
    base: float
    """The base model's bits per byte."""
    curve: Mapping[int, float]
    """Steps -> bits per byte after so many of them."""
    uncertainty: tuple[float, ...]
    """The uncertainty before the first pick, and after each."""
    rows: tuple[int, ...]
    """The selected rows, in order."""
    seconds: Mapping[str, float]
    """``select``, ``tune``, ``score``; zero for what another setting with the same selection had done."""

    def percent(self, steps: int) -> float:
        """Bits per byte after so many steps in % of the base model's."""
        return 100 * self.curve[steps] / self.base

    def to_dict(self) -> dict[str, Any]:
        """Ready for ``json.dumps``."""
        return {**asdict(self), "curve": [list(point) for point in self.curve.items()], "seconds": dict(self.seconds)}

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> Trial:
        """The trial in a record: the inverse of `to_dict`."""
        lists = {name: tuple(record[name]) for name in ("uncertainty", "rows")}
        curve = {int(step): float(value) for step, value in record["curve"]}
        return cls(**{**record, **lists, "curve": curve, "setting": Setting(**record["setting"])})


class TrialRunner:
    """Runs settings on texts, each once, and logs the results."""

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
        """Steps taken by this runner; results from the log take none."""
        self._all: list[Trial] = []
        self._bases: dict[int, float] = {}
        self._excluded_rows: dict[int, list[int]] = {}
        for record in log.records:
            if "run" in record:
                self._remember(Trial.of(record["run"]))

    def warm_up(self) -> None:
        """Take the first steps and scores, which are slower than later ones and would distort the estimate of time."""
        if not self.runs:
            held = self.texts[0]
            with self.controller.tuning() as tuner:
                tuner.learn([held.prompt] * 2)
            self.controller.likelihood(held.scored, after=held.before)

    def run(self, setting: Setting, text: int, steps: int) -> Trial:
        """The trial of a setting on a text, of at least so many steps."""
        trial = self.runs.get((setting, text))
        if trial is None or trial.steps < steps:
            trial = Trial.of(self.log.add(run=self._measured(setting, text, steps).to_dict())["run"])
            self._remember(trial)
            self._after(self)
        return trial

    def percents(self, setting: Setting, texts: Sequence[int], steps: int) -> FloatArray:
        """(len(texts), points) in % of base, at the points up to ``steps``."""
        runs = [self.run(setting, text, steps) for text in texts]
        return np.array([[run.percent(point) for point in score_points(steps)] for run in runs])

    @property
    def seconds(self) -> float:
        """Seconds of all trials so far, those before a crash included."""
        return sum(sum(run.seconds.values()) for run in self._all)

    def seconds_for(self, steps: int) -> float:
        """The estimated seconds of one more trial."""
        tuned = [run for run in self._all if run.seconds.get("tune")]
        clock = {name: sum(run.seconds.get(name, 0.0) for run in tuned) for name in ("select", "tune", "score")}
        points = sum(len(run.curve) for run in tuned)
        return (
            clock["select"] / max(1, len(tuned))
            + clock["tune"] / max(1, sum(min(run.steps, len(run.rows)) for run in tuned)) * steps
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
            curve = self._tuned_curve(setting.rate, held, found.texts, steps, base, clock)
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
        """The curve of a trial that tuned on the same rows at the same rate, if there is one."""
        for (other, where), run in self.runs.items():
            same = where == text and other.rate == setting.rate and run.steps >= steps
            if same and run.rows[: len(rows)] == rows and (len(rows) == steps or len(run.rows) == len(rows)):
                return {point: run.curve[point] for point in score_points(steps)}
        return None

    def _tuned_curve(
        self, rate: float, held: HeldOut, texts: Sequence[str], steps: int, base: float, clock: dict[str, float]
    ) -> Mapping[int, float]:
        """The curve of tuning on texts: like `LocalModel.score` with ``at=``, but without the selection."""
        points, curve, taken = score_points(steps), {}, 0

        def score() -> float:
            began = time.perf_counter()
            bits = self.controller.likelihood(held.scored, after=held.before).bits_per_byte
            clock["score"] += time.perf_counter() - began
            return bits if math.isfinite(bits) else base

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


def last_point_within(steps: int, most: int) -> int:
    """The last of the points up to ``steps`` that is at most ``most``."""
    return max((point for point in score_points(steps) if point <= most), default=steps)


def _check_one_step_per_text(controller: Controller) -> None:
    """Refuse tuning settings under which step n is not on text n: the curve over steps holds for every n only then."""
    settings = controller.settings
    for name, plain in (("order", "picked"), ("passes", 1), ("windows", 1), ("repeats", "steps")):
        if getattr(settings, name) != plain:
            raise Conflict(
                "calibration takes one step on each text in the order of the picks, and the controller has "
                f"{setting(name, getattr(settings, name))}; leave {setting(name)} at {plain!r}"
            )
