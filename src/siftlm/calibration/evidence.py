"""The evidence of a calibration: verdicts, and the record in the memory's manifest."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from importlib import metadata
from typing import Any

import numpy as np

from siftlm.calibration.grid import Grid, Setting
from siftlm.calibration.search import CalibrationSearch, SearchOutcome
from siftlm.calibration.stopping import (
    StoppingRule,
    fit_adaptive_rule,
    fit_decide_rule,
    uncertainty_gain_correlation,
)
from siftlm.calibration.trials import HeldOut, Trial, TrialRunner
from siftlm.controller import Controller
from siftlm.evaluation.comparison import verdict
from siftlm.evaluation.fingerprints import memory_fingerprint
from siftlm.evaluation.predictiveness import adaptive_stop
from siftlm.evaluation.protocol import score_points
from siftlm.evaluation.statistics import Mean, mean
from siftlm.memory.searcher import Searcher
from siftlm.types import FloatArray

# With fewer texts the bootstrap's intervals are too narrow.
MIN_TEXTS_FOR_INTERVAL = 10


@dataclass(frozen=True, eq=False)
class Calibration:
    """The settings of the best local model on held-out texts, and the evidence."""

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
        """Mean bits per byte after tuning in % of the base model's, on the texts of the confirmation."""
        return float(self.evidence["chosen"]["mean"])

    @property
    def tried(self) -> Sequence[Mapping[str, Any]]:
        """The results of all settings by stage: ``stage``, ``setting``, ``texts``, ``steps``, ``mean``, …"""
        tried: Sequence[Mapping[str, Any]] = self.evidence["tried"]
        return tried

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
        order = ("n", "noise", "kernel", "k", "rate", "adaptive", "decide")
        words = [f"{name}={_shown_value(self.settings[name])}" for name in order if self.settings.get(name) is not None]
        return ", ".join([str(self.settings["method"]), *words])

    def __str__(self) -> str:
        return "\n".join(self.lines())

    def lines(self) -> list[str]:
        """The table of trials, then the verdict."""
        lines = [f"{'stage':<10} {'setting':<38} {'texts':>5} {'steps':>5}  {'% of base':>9}  95 % interval"]
        stage = ""
        for row in self.tried:
            low, high = row["interval"]
            head = row["stage"] if row["stage"] != stage else ""
            stage = row["stage"]
            lines.append(
                f"{head:<10} {row['setting']:<38} {row['texts']:>5} {row['best_steps']:>5}  {row['mean']:>9.1f}  "
                f"{low:.1f} … {high:.1f}{'  kept' if row['kept'] else ''}"
            )
        return [*lines, "", *self.verdict()]

    def verdict(self) -> list[str]:
        """The chosen settings, and their differences to the alternatives."""
        chosen, evidence = self.evidence["chosen"], self.evidence
        low, high = chosen["interval"]
        lines = [
            f"chosen: {self.words}",
            f"  {chosen['mean']:.1f} % of the base model's bits per byte on {chosen['texts']} held-out texts "
            f"[{low:.1f}, {high:.1f}]" + ("" if evidence["texts"]["fresh"] else ", which also chose the settings"),
        ]
        for name, other in evidence["against"].items():
            if other["same"]:
                lines.append(f"  the same as {name}")
                continue
            low, high = other["interval"]
            lines.append(
                f"  {other['mean']:+.1f} against {name} ({other['percent']:.1f}) [{low:+.1f}, {high:+.1f}], "
                f"better on {other['better']} of {chosen['texts']}: "
                + verdict(Mean(other["mean"], low, high), chosen["texts"] >= MIN_TEXTS_FOR_INTERVAL)
            )
        return lines + [f"  {remark}" for remark in evidence["remarks"]]


def _shown_value(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


RECORDED_LIBRARIES = ("siftlm", "numpy", "torch", "transformers")
# The record is in the manifest, which is read whenever a memory is opened.
MAX_RECORD_BYTES = 80_000


@dataclass(frozen=True, eq=False)
class Verdict:
    """The best of the finalists on the confirmation texts."""

    setting: Setting
    steps: int
    percents: Mapping[Setting, FloatArray]
    """(texts, points) of each finalist."""
    runs: Sequence[Trial]
    """The trials of the setting."""
    adaptive: StoppingRule | None
    decide: StoppingRule | None
    correlation: float | None
    helps: bool
    """Is tuning better than the base model?"""
    most: int

    @classmethod
    def of(cls, runner: TrialRunner, outcome: SearchOutcome) -> Verdict:
        """The finalist with the best mean, each at its own best number of steps; of equals the simpler one."""
        percents = {one: runner.percents(one, outcome.texts, outcome.steps) for one in outcome.finalists}
        simplest_first = dict.fromkeys((outcome.nearest, outcome.default, *outcome.finalists))
        setting = min(simplest_first, key=lambda one: float(percents[one].mean(axis=0).min()))
        steps = score_points(outcome.steps)[int(np.argmin(percents[setting].mean(axis=0)))]
        runs = [runner.runs[setting, text] for text in outcome.texts]
        helps = float(percents[setting].mean(axis=0).min()) < 100
        alpha = fit_adaptive_rule(runs, steps) if helps else None
        used = alpha is not None and alpha.helps
        stops = [adaptive_stop(run.uncertainty, alpha.value) if alpha is not None and used else steps for run in runs]
        rule = fit_decide_rule(runs, stops) if helps else None
        return cls(
            setting, steps, percents, runs, alpha, rule, uncertainty_gain_correlation(runs, steps), helps, outcome.steps
        )

    @property
    def settings(self) -> dict[str, Any]:
        """The chosen settings of `LocalModel`."""
        chosen: dict[str, Any] = {**self.setting.settings(), "n": self.steps}
        if not self.helps:
            return {**chosen, "n": 1, "decide": 1.0}
        if self.adaptive is not None and self.adaptive.helps:
            chosen.update(n=self.most, adaptive=self.adaptive.value)
        if self.decide is not None and self.decide.helps:
            chosen["decide"] = self.decide.value
        return chosen

    def at_best(self, setting: Setting) -> FloatArray:
        """(texts,) a finalist's % of base at its best number of steps."""
        percents = self.percents[setting]
        best: FloatArray = percents[:, int(np.argmin(percents.mean(axis=0)))]
        return best

    def against(self, other: Setting) -> dict[str, Any]:
        """The paired difference chosen − other; below zero the chosen setting is better."""
        difference = self.at_best(self.setting) - self.at_best(other)
        return {
            "setting": str(other),
            "same": other == self.setting,
            "percent": round(float(self.at_best(other).mean()), 3),
            **mean(difference).to_dict(),
            "better": int((difference < 0).sum()),
        }


def evidence_record(
    runner: TrialRunner,
    search: CalibrationSearch,
    outcome: SearchOutcome,
    verdict: Verdict,
    source: Mapping[str, Any],
    centres: Mapping[str, float],
) -> dict[str, Any]:
    """The record of a calibration, without the settings."""
    chosen = mean(verdict.at_best(verdict.setting))
    curve = verdict.percents[verdict.setting].mean(axis=0)
    for row in search.tried:
        if row["stage"] == "confirm":
            row["kept"] = row["setting"] == str(verdict.setting)
    record = {
        "chosen": {
            "setting": str(verdict.setting),
            "steps": verdict.steps,
            "texts": len(outcome.texts),
            **chosen.to_dict(),
            "curve": [[n, round(float(value), 3)] for n, value in zip(score_points(outcome.steps), curve, strict=True)],
        },
        "against": {
            "nearest neighbour": verdict.against(outcome.nearest),
            "the usual settings": verdict.against(outcome.default),
        },
        "remarks": _remarks(verdict, outcome),
        "adaptive": None if verdict.adaptive is None else verdict.adaptive.to_dict(),
        "decide": None if verdict.decide is None else verdict.decide.to_dict(),
        "correlation": verdict.correlation,
        "tried": search.tried,
        "texts": {
            **source,
            "drawn": len(runner.texts),
            "chosen_on": len(search.choice_texts),
            "confirmed_on": len(outcome.texts),
            "fresh": outcome.fresh,
            "digest": _texts_digest(runner.texts),
        },
        "spread": {name: round(noise, 4) for name, noise in centres.items()},
        "model": {"parameters": runner.controller.parameters, "engine": runner.controller.engine.description},
        "memory": memory_fingerprint(runner.memory),
        "steps": sum(min(run.steps, len(run.rows)) for run in runner.runs.values()),
        "seconds": round(runner.seconds, 1),
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in RECORDED_LIBRARIES}},
    }
    return _shrink_record(record)


def calibration_question(
    controller: Controller, memory: Searcher, texts: Sequence[HeldOut], grid: Grid, about: Mapping[str, Any]
) -> dict[str, Any]:
    """The question that a log's results answer: a log of another question is not resumed."""
    return {
        "model": controller.name,
        "weights": controller.fingerprint,
        "tuning": controller.tuning_settings().to_dict(),
        "context": controller.context,
        "memory": memory_fingerprint(memory),
        "texts": _texts_digest(texts),
        "grid": asdict(grid),
        **about,
    }


def _remarks(verdict: Verdict, outcome: SearchOutcome) -> list[str]:
    remarks = []
    if not verdict.helps:
        remarks.append("tuning did not help on these texts: decide=1 answers with the base model")
    if verdict.setting == outcome.nearest:
        remarks.append("no SIFT setting was better than nearest neighbour on these texts")
    if verdict.adaptive is not None:
        rule = verdict.adaptive
        remarks.append(
            f"stopping when σₙ > 1/({rule.value:g} n): {rule.percent:.1f} after {rule.steps:.1f} steps on average, "
            f"{rule.left_out:.1f} on texts left out, {rule.plain:.1f} without: {'used' if rule.helps else 'not used'}"
        )
    if verdict.decide is not None:
        rule = verdict.decide
        remarks.append(
            f"tuning only where {rule.value:.1%} of the uncertainty is removed: {rule.percent:.1f}, "
            f"{rule.left_out:.1f} on texts left out, {rule.plain:.1f} without: {'used' if rule.helps else 'not used'}"
        )
    if verdict.correlation is not None:
        remarks.append(f"uncertainty removed and gain: rank correlation {verdict.correlation:+.2f} over texts")
    if verdict.steps == outcome.steps and verdict.helps:
        remarks.append(f"{verdict.steps} steps were the most that were tried, and the best: more might be better")
    return remarks


def _texts_digest(texts: Sequence[HeldOut]) -> str:
    plain = json.dumps([[one.prompt, one.scored, list(one.exclude)] for one in texts])
    return hashlib.blake2b(plain.encode(), digest_size=8).hexdigest()


def _version(library: str) -> str:
    try:
        return metadata.version(library)
    except metadata.PackageNotFoundError:
        return "?"


def _shrink_record(record: dict[str, Any]) -> dict[str, Any]:
    """The record without the worst trials on the fewest texts, as far as it is too large."""
    while len(json.dumps(record)) > MAX_RECORD_BYTES and len(record["tried"]) > 1:
        least = min(record["tried"], key=lambda row: (row["kept"], row["texts"], -row["mean"]))
        record = {**record, "tried": [row for row in record["tried"] if row is not least]}
    return record
