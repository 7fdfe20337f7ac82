"""The evidence of a calibration: verdicts, and the record that is kept."""

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
    picks_kept,
    uncertainty_gain_correlation,
)
from siftlm.calibration.trials import HeldOut, Trial, TrialRunner, score_points
from siftlm.controller import Controller
from siftlm.evaluation.fingerprints import memory_fingerprint
from siftlm.evaluation.statistics import mean
from siftlm.memory.searcher import Searcher
from siftlm.types import FloatArray

# The bootstrap is too sure of itself with fewer texts.
MIN_TEXTS_FOR_INTERVAL = 10


@dataclass(frozen=True, eq=False)
class Calibration:
    """The settings that made the best local models on held-out texts, and the evidence."""

    name: str
    """Of the model."""
    settings: Mapping[str, Any]
    """For `LocalModel`, which takes them from the memory by itself: ``method``, ``n``, ``rate``, …"""
    evidence: Mapping[str, Any]
    """Everything that was tried, on what, and how it did; ready for ``json.dumps``."""
    noted: bool
    """Is it written down in the memory's manifest?"""

    @property
    def percent(self) -> float:
        """Mean bits per byte after tuning in % of the base model's, on the texts of the confirmation."""
        return float(self.evidence["chosen"]["mean"])

    @property
    def tried(self) -> Sequence[Mapping[str, Any]]:
        """Each setting of each stage: ``stage``, ``setting``, ``texts``, ``steps``, ``mean``, ``interval``, …"""
        found: Sequence[Mapping[str, Any]] = self.evidence["tried"]
        return found

    def to_dict(self) -> dict[str, Any]:
        """Ready for ``json.dumps``."""
        record: dict[str, Any] = json.loads(json.dumps(dict(self.evidence)))
        return {"name": self.name, "settings": dict(self.settings), "noted": self.noted, **record}

    def record(self) -> dict[str, Any]:
        """As it is kept in the manifest, where `LocalModel` reads ``settings``."""
        return {"settings": dict(self.settings), **self.evidence}

    @property
    def words(self) -> str:
        """The settings, in a line.

        >>> Calibration("m", {"method": "sift", "noise": 0.3, "n": 20}, {}, False).words
        'sift, n=20, noise=0.3'
        """
        order = ("n", "noise", "kernel", "k", "rate", "adaptive", "decide")
        known = [f"{name}={_shown_value(self.settings[name])}" for name in order if self.settings.get(name) is not None]
        return ", ".join([str(self.settings["method"]), *known])

    def __str__(self) -> str:
        return "\n".join(self.lines())

    def lines(self) -> list[str]:
        """A table of what was tried, then what was chosen and why."""
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
        """What was chosen, against what, and how sure that is."""
        chosen, known = self.evidence["chosen"], self.evidence
        low, high = chosen["interval"]
        lines = [
            f"chosen: {self.words}",
            f"  {chosen['mean']:.1f} % of the base model's bits per byte on {chosen['texts']} held-out texts "
            f"[{low:.1f}, {high:.1f}]" + ("" if known["texts"]["fresh"] else ", the same that the choice was made on"),
        ]
        for name, other in known["against"].items():
            if other["same"]:
                lines.append(f"  the same as {name}")
                continue
            low, high = other["interval"]
            sure = "surely " if low * high > 0 and chosen["texts"] >= MIN_TEXTS_FOR_INTERVAL else "perhaps "
            sure += "better" if other["mean"] < 0 else "worse"
            sure = sure if other["mean"] else "no different"
            lines.append(
                f"  {other['mean']:+.1f} against {name} ({other['percent']:.1f}) [{low:+.1f}, {high:+.1f}], "
                f"better on {other['better']} of {chosen['texts']}: {sure}"
            )
        return lines + [f"  {remark}" for remark in known["remarks"]]


def _shown_value(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


RECORDED_LIBRARIES = ("siftlm", "numpy", "torch", "transformers")
# Bytes of the record; a manifest is read whenever a memory is opened.
MAX_RECORD_BYTES = 80_000


@dataclass(frozen=True, eq=False)
class Verdict:
    """The best of the finalists on the texts of the confirmation."""

    setting: Setting
    steps: int
    percents: Mapping[Setting, FloatArray]
    """(texts, points) of each finalist."""
    runs: Sequence[Trial]
    """Of the setting."""
    adaptive: StoppingRule | None
    decide: StoppingRule | None
    correlation: float | None
    helps: bool
    """Is tuning better than none?"""
    most: int

    @classmethod
    def of(cls, bench: TrialRunner, found: SearchOutcome) -> Verdict:
        """By the mean, each at its own best number of steps; the plainer one of equals."""
        percents = {one: bench.percents(one, found.texts, found.steps) for one in found.finalists}
        plainest = dict.fromkeys((found.nearest, found.usual, *found.finalists))
        setting = min(plainest, key=lambda one: float(percents[one].mean(axis=0).min()))
        steps = score_points(found.steps)[int(np.argmin(percents[setting].mean(axis=0)))]
        runs = [bench.runs[setting, text] for text in found.texts]
        helps = float(percents[setting].mean(axis=0).min()) < 100
        alpha = fit_adaptive_rule(runs, steps) if helps else None
        used = alpha is not None and alpha.helps
        stops = [picks_kept(run, alpha.value) if alpha is not None and used else steps for run in runs]
        rule = fit_decide_rule(runs, stops) if helps else None
        return cls(
            setting, steps, percents, runs, alpha, rule, uncertainty_gain_correlation(runs, steps), helps, found.steps
        )

    @property
    def settings(self) -> dict[str, Any]:
        """For `LocalModel`."""
        chosen: dict[str, Any] = {**self.setting.settings(), "n": self.steps}
        if not self.helps:
            return {**chosen, "n": 1, "decide": 1.0}
        if self.adaptive is not None and self.adaptive.helps:
            chosen.update(n=self.most, adaptive=self.adaptive.value)
        if self.decide is not None and self.decide.helps:
            chosen["decide"] = self.decide.value
        return chosen

    def at_best(self, setting: Setting) -> FloatArray:
        """(texts,) of a finalist at its best number of steps."""
        percents = self.percents[setting]
        best: FloatArray = percents[:, int(np.argmin(percents.mean(axis=0)))]
        return best

    def against(self, other: Setting) -> dict[str, Any]:
        """The paired difference: negative where the chosen one is better."""
        difference = self.at_best(self.setting) - self.at_best(other)
        return {
            "setting": str(other),
            "same": other == self.setting,
            "percent": round(float(self.at_best(other).mean()), 3),
            **mean(difference).to_dict(),
            "better": int((difference < 0).sum()),
        }


def evidence_record(
    bench: TrialRunner,
    search: CalibrationSearch,
    found: SearchOutcome,
    verdict: Verdict,
    source: Mapping[str, Any],
    centres: Mapping[str, float],
) -> dict[str, Any]:
    """The record, without the settings."""
    chosen = mean(verdict.at_best(verdict.setting))
    curve = verdict.percents[verdict.setting].mean(axis=0)
    for row in search.tried:
        if row["stage"] == "confirm":
            row["kept"] = row["setting"] == str(verdict.setting)
    record = {
        "chosen": {
            "setting": str(verdict.setting),
            "steps": verdict.steps,
            "texts": len(found.texts),
            **chosen.to_dict(),
            "curve": [[n, round(float(value), 3)] for n, value in zip(score_points(found.steps), curve, strict=True)],
        },
        "against": {
            "nearest neighbour": verdict.against(found.nearest),
            "the usual settings": verdict.against(found.usual),
        },
        "remarks": _remarks(verdict, found),
        "adaptive": None if verdict.adaptive is None else verdict.adaptive.to_dict(),
        "decide": None if verdict.decide is None else verdict.decide.to_dict(),
        "correlation": verdict.correlation,
        "tried": search.tried,
        "texts": {
            **source,
            "drawn": len(bench.texts),
            "chosen_on": len(search.choice_texts),
            "confirmed_on": len(found.texts),
            "fresh": found.fresh,
            "digest": _texts_digest(bench.texts),
        },
        "spread": {name: round(noise, 4) for name, noise in centres.items()},
        "model": {"parameters": bench.controller.parameters, "engine": bench.controller.engine.describe()},
        "memory": memory_fingerprint(bench.memory),
        "steps": sum(min(run.steps, len(run.rows)) for run in bench.runs.values()),
        "seconds": round(bench.seconds, 1),
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in RECORDED_LIBRARIES}},
    }
    return _shrink_record(record)


def calibration_question(
    controller: Controller, memory: Searcher, texts: Sequence[HeldOut], grid: Grid, given: Mapping[str, Any]
) -> dict[str, Any]:
    """What a log answers; to anything else it has nothing to say."""
    return {
        "model": controller.name,
        "weights": controller.fingerprint,
        "tuning": controller.tuning_settings().to_dict(),
        "context": controller.context,
        "memory": memory_fingerprint(memory),
        "texts": _texts_digest(texts),
        "grid": asdict(grid),
        **given,
    }


def _remarks(verdict: Verdict, found: SearchOutcome) -> list[str]:
    said = []
    if not verdict.helps:
        said.append("tuning did not help on these texts: decide=1 answers with the base model")
    if verdict.setting == found.nearest:
        said.append("no way to select by SIFT was better here, so nearest neighbour it is")
    if verdict.adaptive is not None:
        rule = verdict.adaptive
        said.append(
            f"stopping when σₙ > 1/({rule.value:g} n): {rule.percent:.1f} after {rule.steps:.1f} steps on average, "
            f"{rule.left_out:.1f} on texts left out, {rule.plain:.1f} without: {'used' if rule.helps else 'not used'}"
        )
    if verdict.decide is not None:
        rule = verdict.decide
        said.append(
            f"tuning only where {rule.value:.1%} of the uncertainty is removed: {rule.percent:.1f}, "
            f"{rule.left_out:.1f} on texts left out, {rule.plain:.1f} without: {'used' if rule.helps else 'not used'}"
        )
    if verdict.correlation is not None:
        said.append(f"uncertainty removed and gain: rank correlation {verdict.correlation:+.2f} over texts")
    if verdict.steps == found.steps and verdict.helps:
        said.append(f"{verdict.steps} steps were the most that was tried, and the best: more might be better")
    return said


def _texts_digest(texts: Sequence[HeldOut]) -> str:
    plain = json.dumps([[one.prompt, one.scored, list(one.exclude)] for one in texts])
    return hashlib.blake2b(plain.encode(), digest_size=8).hexdigest()


def _version(library: str) -> str:
    try:
        return metadata.version(library)
    except metadata.PackageNotFoundError:
        return "?"


def _shrink_record(record: dict[str, Any]) -> dict[str, Any]:
    """Without what did worst on fewest texts, where there is too much."""
    while len(json.dumps(record)) > MAX_RECORD_BYTES and len(record["tried"]) > 1:
        least = min(record["tried"], key=lambda row: (row["kept"], row["texts"], -row["mean"]))
        record = {**record, "tried": [row for row in record["tried"] if row is not least]}
    return record
