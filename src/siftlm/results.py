"""Results of the main flow."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from siftlm.memory import Found
from siftlm.types import Likelihood, Step, Trace, json_number


@dataclass(frozen=True, eq=False)
class Learned:
    """A model that has learned for one prompt; valid inside the block that made it."""

    found: Found
    """What it learned from."""
    trace: Trace
    """How that went."""
    context: tuple[str, ...]
    """Texts to be put before the prompt: what was found, where it is used as context."""


@dataclass(frozen=True, eq=False)
class Score:
    """How well a text was foreseen, before and after."""

    base: float
    """Bits per byte of the base model."""
    tuned: float
    """Bits per byte after tuning (and with the texts in the context, where that was asked for)."""
    mode: str
    """``split``: the first half was the prompt and the second is scored; ``transductive``: the scored text itself
    was the prompt, as in the published tables."""
    likelihood: Likelihood
    """Of the tuned model."""
    base_likelihood: Likelihood
    found: Found
    trace: Trace
    curve: tuple[tuple[int, float], ...] = ()
    """(steps, bits per byte) wherever that was asked for."""
    seconds: Mapping[str, float] = field(default_factory=dict)
    """``select``, ``tune``, ``score``."""

    @property
    def steps(self) -> tuple[Step, ...]:
        """Of the tuning."""
        return self.trace.steps

    @property
    def percent(self) -> float:
        """The tuned model's bits per byte in % of the base model's; NaN where that has none."""
        return 100 * self.tuned / self.base if self.base else math.nan

    def to_dict(self) -> dict[str, Any]:
        """Ready for ``json.dumps``; None where a number is not finite."""
        return {
            "base": json_number(self.base),
            "tuned": json_number(self.tuned),
            "mode": self.mode,
            "bytes": self.likelihood.bytes,
            "tokens": self.likelihood.tokens,
            "curve": [[steps, json_number(value)] for steps, value in self.curve],
            "seconds": dict(self.seconds),
            "trace": self.trace.to_dict(),
            "found": self.found.to_dict(),
        }

    def __str__(self) -> str:
        said = f"{self.base:.3f} -> {self.tuned:.3f} bits per byte ({self.percent:.1f} %), {self.mode}, "
        return said + f"{self.trace.kept} steps ({self.trace.ended})"


@dataclass(frozen=True, eq=False)
class Answer:
    """A continuation of the prompt by the model that was tuned for it."""

    text: str
    stopped: str
    """``end``, ``stop`` or ``length``."""
    tokens: int
    """That were made."""
    found: Found
    trace: Trace
    cut: int = 0
    """Tokens of the prompt's beginning that did not fit into the context."""
    seconds: Mapping[str, float] = field(default_factory=dict)
    """``select``, ``tune``, ``generate``."""

    def to_dict(self) -> dict[str, Any]:
        """Ready for ``json.dumps``."""
        own = {"text": self.text, "stopped": self.stopped, "tokens": self.tokens, "cut": self.cut}
        return {**own, "seconds": dict(self.seconds), "trace": self.trace.to_dict(), "found": self.found.to_dict()}

    def __str__(self) -> str:
        return self.text
