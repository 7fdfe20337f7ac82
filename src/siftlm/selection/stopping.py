"""When to stop before n: rules on the uncertainty that is left."""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt


@dataclass(frozen=True)
class StoppingRules:
    """Three rules, each optional; all are asked before the work for the next pick is done.

    ``adaptive`` is the published rule with parameter α: keep pick n only while σ_n ≤ 1 / (α n), where σ_n² is
    the uncertainty left after it. A pick that breaks the rule is not kept and nothing after it is computed.
    ``until`` ends when the uncertainty is at most this fraction of what it was before the first pick.
    ``min_gain`` ends when the best pick would lower the uncertainty by less than this fraction of what is left.
    """

    adaptive: float | None = None
    until: float | None = None
    min_gain: float | None = None
    at_least: int = 1

    @property
    def active(self) -> bool:
        """Is any rule set?"""
        return self.adaptive is not None or self.until is not None or self.min_gain is not None

    def refuses(self, kept: int, before: float, after: float) -> str:
        """The rule that forbids keeping pick number ``kept + 1``, or an empty string."""
        if kept < self.at_least:
            return ""
        if self.adaptive is not None and sqrt(max(0.0, after)) > 1 / (self.adaptive * (kept + 1)):
            return "adaptive"
        if self.min_gain is not None and before - after < self.min_gain * before:
            return "min_gain"
        return ""

    def satisfied(self, kept: int, first: float, now: float) -> str:
        """The rule by which the picks so far are enough, or an empty string."""
        if self.until is not None and kept >= self.at_least and now <= self.until * first:
            return "until"
        return ""
