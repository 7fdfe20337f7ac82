"""What calibration found: the settings, and what speaks for them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

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
