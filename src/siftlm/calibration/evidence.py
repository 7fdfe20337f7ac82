"""The outcome of a calibration: settings, verdicts, and the record in the memory's manifest."""

from __future__ import annotations

import json
import math
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from importlib import metadata
from typing import Any

import numpy as np

from siftlm.calibration.race import WINNER_PROBABILITY, Race, Trials
from siftlm.evaluation.corpus import Text
from siftlm.evaluation.fingerprints import memory_fingerprint
from siftlm.evaluation.methods import parse_method
from siftlm.evaluation.statistics import mean, rank_correlation, sign_flip_probability
from siftlm.guard import UNCALIBRATED
from siftlm.local import LocalModel
from siftlm.types import FloatArray

RECORD_VERSION = 2
RECORDED_LIBRARIES = ("siftlm", "numpy", "torch", "transformers")
# Of equally good numbers of steps the least is taken: one that keeps this share of the best one's gain.
KEPT_GAIN = 0.95
# Does tuning help? By the same test as in a race.
HELPS, HARMS, UNCLEAR = "helps", "harms", "unclear"
TUNING_WORDS = {HELPS: "tuning helps", HARMS: "tuning harms", UNCLEAR: "too little to say whether tuning helps"}
# Behind a method's label: with the guard.
GUARDED = "+use=auto"
# The guard's line is fitted with these as prior: intercept and slope, each worth so many texts, at a gain of so much.
PRIOR_LINE, PRIOR_TEXTS, PRIOR_GAIN = (-1.0, 1.0), (1.0, 4.0), 15.0
# With fewer texts the line is left as it is on other memories.
MIN_GUARDED_TEXTS = 8
# A text must be expected to gain this much, in % of base, to be learned.
GUARD_CAUTION = 2.0
MIN_SLOPE = 0.05
# A text is worse where it needs more bits than the base model by more than this, in %.
HARM_PERCENT = 0.5


@dataclass(frozen=True, eq=False)
class Calibration:
    """The settings of a local model that held-out texts speak for, and the evidence."""

    name: str
    """The model's name."""
    settings: Mapping[str, Any]
    """Settings of `LocalModel`, which reads them from the memory: ``method``, ``n``, ``rate``, …"""
    evidence: Mapping[str, Any]
    """All settings that were tried, on which texts, with what result; ready for ``json.dumps``."""
    noted: bool
    """Is the calibration stored in the memory's manifest?"""

    @property
    def percent(self) -> float:
        """Mean bits per byte after tuning in % of the base model's, by the settings that were chosen."""
        return float(self.evidence["chosen"]["mean"])

    @property
    def races(self) -> Sequence[Mapping[str, Any]]:
        """What was compared: ``question``, and ``tried`` with a row for each setting, the reference first."""
        races: Sequence[Mapping[str, Any]] = self.evidence["races"]
        return races

    def to_dict(self) -> dict[str, Any]:
        """Ready for ``json.dumps``."""
        record: dict[str, Any] = json.loads(json.dumps(dict(self.evidence)))
        return {"name": self.name, "settings": dict(self.settings), "noted": self.noted, **record}

    def record(self) -> dict[str, Any]:
        """The record in the manifest, where `LocalModel` reads ``settings``."""
        return {"settings": dict(self.settings), **self.evidence}

    @property
    def words(self) -> str:
        """The settings in one line.

        >>> Calibration("m", {"method": "sift", "noise": 0.3, "n": 20}, {}, False).words
        'sift, n=20, noise=0.3'
        """
        rest = {name: value for name, value in self.settings.items() if name not in ("method", "n")}
        named = {"n": self.settings["n"], **rest} if "n" in self.settings else rest
        return ", ".join([str(self.settings["method"]), *(f"{name}={_shown(value)}" for name, value in named.items())])

    def __str__(self) -> str:
        lines = []
        for one in self.races:
            lines.append(f"{one['question']:<34} {'texts':>5} {'steps':>5}  {'% of base':>9}  less the first")
            for row in one["tried"]:
                mark = "  won" if row["won"] else "  dropped out" if row["dropped"] else ""
                lines.append(
                    f"{row['setting']:<34} {row['texts']:>5} {row['steps']:>5}  {row['mean']:>9.1f}  "
                    f"{difference_words(row)}{mark}"
                )
        return "\n".join([*lines, "", *self.verdict()])

    def verdict(self) -> list[str]:
        """The chosen settings, what they are worth, and why nothing else was taken."""
        chosen = self.evidence["chosen"]
        low, high = chosen["interval"]
        worth = (
            f"{chosen['mean']:.1f} % of the base model's bits per byte on {chosen['texts']} held-out texts "
            f"[{low:.1f}, {high:.1f}] after {chosen['steps']} steps: {TUNING_WORDS[chosen['tuning']]}"
        )
        return [f"chosen: {self.words}", *(f"  {line}" for line in (worth, *self.evidence["remarks"]))]


def difference_words(row: Mapping[str, Any]) -> str:
    """The difference to the reference with its interval; empty for the reference."""
    if row["difference"] is None:
        return ""
    low, high = row["difference"]["interval"]
    return f"{row['difference']['mean']:+.1f} [{low:+.1f}, {high:+.1f}]"


def _shown(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def evidence_record(
    trials: Trials, races: Sequence[Race], guarded: Sequence[Text], local: LocalModel
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The chosen settings, and the record of a calibration without them."""
    last = races[-1]
    percents = trials.percents(last.winner, last.texts)
    curve = percents.mean(axis=0)
    at = _enough_steps(curve)
    steps, values = trials.protocol.points[at], percents[:, at]
    tuning = _does_tuning_help(values)
    settings = {**parse_method(last.winner).settings, "n": steps}
    if float(values.mean()) >= 100:
        settings |= {"n": 1, "decide": 1.0}
    guard = guard_evidence(trials, last.winner, guarded)
    if guard is not None:
        settings["guard"] = guard["line"]
    record = {
        "version": RECORD_VERSION,
        "chosen": {
            "setting": last.winner,
            "steps": steps,
            "texts": len(values),
            **mean(values).to_dict(),
            "curve": [[n, round(float(value), 3)] for n, value in zip(trials.protocol.points, curve, strict=True)],
            "tuning": tuning,
        },
        "races": [one.to_dict() for one in races],
        "guard": guard,
        "remarks": [*_remarks(races, trials, steps, settings), *_guard_remarks(guard)],
        "texts": {"drawn": len(trials.texts), "mode": trials.protocol.name},
        "model": {"parameters": local.controller.parameters, "engine": local.controller.engine.description},
        "memory": memory_fingerprint(local.memory),
        "steps": trials.steps,
        "seconds": round(trials.seconds, 1),
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in RECORDED_LIBRARIES}},
    }
    return settings, record


def guard_evidence(trials: Trials, label: str, texts: Sequence[Text]) -> dict[str, Any] | None:
    """What the gain of held-out passages says about that of the texts, and what the guard did with it; None where the
    memory has nothing to hold out, or with too few texts."""
    expected, plain, guarded = [], [], []
    for text in texts:
        one = trials.used(f"{label}{GUARDED}", text)
        estimate = one.extra.get("estimates", {}).get("weights")
        if estimate is not None and one.extra.get("held_out"):
            expected.append((100 - estimate - UNCALIBRATED[0]) / UNCALIBRATED[1])
            plain.append(100 - trials.used(label, text).percent)
            guarded.append(100 - one.percent)
    if len(expected) < MIN_GUARDED_TEXTS:
        return None
    intercept, slope = fit_line(np.array(expected), np.array(plain))
    return {
        "line": [round(intercept - GUARD_CAUTION, 3), round(slope, 4)],
        "texts": len(expected),
        "expected": round(float(np.mean(expected)), 3),
        "gained": round(float(np.mean(plain)), 3),
        "guarded": round(float(np.mean(guarded)), 3),
        "correlation": rank_correlation(expected, plain),
        "worse": int(sum(gain < -HARM_PERCENT for gain in plain)),
        "guarded_worse": int(sum(gain < -HARM_PERCENT for gain in guarded)),
    }


def fit_line(expected: FloatArray, gained: FloatArray) -> tuple[float, float]:
    """Intercept and slope of the gain over the expected one, by ridge regression towards what other memories have.

    >>> fit_line(np.array([10.0, 20.0]), np.array([9.0, 19.0]))
    (-1.0, 1.0)
    """
    x = np.stack([np.ones_like(expected), expected / PRIOR_GAIN], axis=1)
    prior, weight = np.array(PRIOR_LINE) * (1, PRIOR_GAIN), np.diag(PRIOR_TEXTS)
    intercept, slope = np.linalg.solve(x.T @ x + weight, x.T @ gained + weight @ prior)
    return round(float(intercept), 9), max(MIN_SLOPE, round(float(slope / PRIOR_GAIN), 9))


def _guard_remarks(guard: Mapping[str, Any] | None) -> list[str]:
    if guard is None:
        return []
    line = "held-out passages let expect a gain of {expected:.1f} %, and {gained:.1f} came of it; worse than the base"
    return [
        f"{line.format(**guard)} model: {guard['worse']} of {guard['texts']}, with use=auto {guard['guarded_worse']}"
    ]


def _enough_steps(means: FloatArray) -> int:
    """The index of the first point with most of the best one's gain."""
    gains = 100 - means
    best = float(gains.max())
    if best <= 0:
        return int(np.argmax(gains))
    return int(np.flatnonzero(gains >= KEPT_GAIN * best)[0])


def _does_tuning_help(values: FloatArray) -> str:
    if sign_flip_probability(values - 100) <= WINNER_PROBABILITY:
        return HELPS
    return HARMS if sign_flip_probability(100 - values) <= WINNER_PROBABILITY else UNCLEAR


def _remarks(races: Sequence[Race], trials: Trials, steps: int, settings: Mapping[str, Any]) -> list[str]:
    remarks = []
    if settings.get("decide") == 1.0:
        remarks.append("tuning did not help on these texts: decide=1 answers with the base model")
    elif steps == trials.protocol.points[-1]:
        remarks.append(f"{steps} steps were the most that were tried, and the best: more might be better")
    for one in races:
        reference, *rivals = one.standings
        if one.winner != reference.label:
            remarks.append(
                f"{one.question}: {one.winner} is better than {reference.label} by more than chance explains"
            )
        elif any(float(rival.differences.mean()) < 0 for rival in rivals if not rival.dropped):
            remarks.append(f"{one.question}: nothing is ahead of {reference.label} by more than chance explains")
    undecided = [one for one in races if not all(rival.dropped for rival in one.standings[1:])]
    needed = [math.ceil(math.log2((len(one.standings) - 1) / WINNER_PROBABILITY)) for one in undecided]
    if any(len(one.texts) < least for one, least in zip(undecided, needed, strict=True)):
        remarks.append(f"with fewer than {max(needed)} texts nothing can win: give it more minutes")
    return remarks


def _version(library: str) -> str:
    try:
        return metadata.version(library)
    except metadata.PackageNotFoundError:
        return "?"
