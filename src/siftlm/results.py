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
    """A model fine-tuned for one prompt; valid inside the block that made it."""

    found: Found
    """The texts it was tuned on."""
    trace: Trace
    """The course of tuning."""
    context: tuple[str, ...]
    """Texts to put before the prompt: those found, where they are used in context."""


@dataclass(frozen=True, eq=False)
class Score:
    """How well a text is predicted, before tuning and after."""

    base: float
    """Bits per byte of the base model."""
    tuned: float
    """Bits per byte after tuning (and with the texts in context, for ``use="context"`` and ``"both"``)."""
    mode: str
    """``split``: the first half was the prompt and the second is scored; ``transductive``: the scored text itself
    was the prompt, as in the published tables."""
    likelihood: Likelihood
    """The likelihood of the text by the tuned model."""
    base_likelihood: Likelihood
    """The likelihood of the text by the base model."""
    found: Found
    """The texts that the model was tuned on."""
    trace: Trace
    """The course of tuning."""
    curve: tuple[tuple[int, float], ...] = ()
    """(steps, bits per byte) at each point of ``at``."""
    seconds: Mapping[str, float] = field(default_factory=dict)
    """Seconds spent to ``select``, ``tune`` and ``score``."""

    @property
    def steps(self) -> tuple[Step, ...]:
        """The steps of tuning."""
        return self.trace.steps

    @property
    def percent(self) -> float:
        """The tuned model's bits per byte in % of the base model's; NaN where that has none."""
        return 100 * self.tuned / self.base if self.base else math.nan

    def to_dict(self) -> dict[str, Any]:
        """The score as a dict for ``json.dumps``; None where a number is not finite."""
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
        figures = f"{self.base:.3f} -> {self.tuned:.3f} bits per byte ({self.percent:.1f} %), {self.mode}, "
        return figures + f"{self.trace.kept} steps ({self.trace.ended})"


@dataclass(frozen=True)
class ScoredChoice:
    """One choice of a question, and how likely it is before tuning and after."""

    text: str
    base: Likelihood
    """Its likelihood by the base model."""
    tuned: Likelihood
    """Its likelihood after tuning (and with the texts in context, for ``use="context"`` and ``"both"``)."""

    def to_dict(self) -> dict[str, Any]:
        """The choice as a dict for ``json.dumps``; None where a number is not finite."""
        figures = {
            name: {
                "log_likelihood": json_number(-one.nats),
                "nats_per_byte": json_number(one.nats_per_byte),
                "nats_per_token": json_number(one.nats_per_token),
            }
            for name, one in (("base", self.base), ("tuned", self.tuned))
        }
        return {"text": self.text, "bytes": self.tuned.bytes, "tokens": self.tuned.tokens, **figures}


@dataclass(frozen=True, eq=False)
class ChoiceScores:
    """How likely each choice of a question is, before tuning and after.

    The likeliest choice is the one with the highest log-likelihood, and of equals the first. Among choices of very
    different length that is often the shortest; ``best_per_byte`` compares them by nats per byte.
    """

    choices: tuple[ScoredChoice, ...]
    """In the order in which they were given."""
    found: Found
    """The texts that the model was tuned on."""
    trace: Trace
    """The course of tuning."""
    curve: tuple[tuple[int, tuple[Likelihood, ...]], ...] = ()
    """(steps, the likelihood of each choice) at each point of ``at``."""
    seconds: Mapping[str, float] = field(default_factory=dict)
    """Seconds spent to ``select``, ``tune`` and ``score``."""

    @property
    def best(self) -> str:
        """The likeliest choice after tuning."""
        return min(self.choices, key=lambda one: one.tuned.nats).text

    @property
    def base_best(self) -> str:
        """The likeliest choice before tuning."""
        return min(self.choices, key=lambda one: one.base.nats).text

    @property
    def best_per_byte(self) -> str:
        """The choice with the fewest nats per byte after tuning."""
        return min(self.choices, key=lambda one: one.tuned.nats_per_byte).text

    @property
    def base_best_per_byte(self) -> str:
        """The choice with the fewest nats per byte before tuning."""
        return min(self.choices, key=lambda one: one.base.nats_per_byte).text

    def to_dict(self) -> dict[str, Any]:
        """The scores as a dict for ``json.dumps``; None where a number is not finite."""
        return {
            "best": self.best,
            "base_best": self.base_best,
            "best_per_byte": self.best_per_byte,
            "base_best_per_byte": self.base_best_per_byte,
            "choices": [one.to_dict() for one in self.choices],
            "curve": [[steps, [json_number(-one.nats) for one in seen]] for steps, seen in self.curve],
            "seconds": dict(self.seconds),
            "trace": self.trace.to_dict(),
            "found": self.found.to_dict(),
        }

    def __str__(self) -> str:
        head = f"{self.base_best!r} -> {self.best!r}, {self.trace.kept} steps ({self.trace.ended}); log-likelihoods:"
        lines = [f"{-one.base.nats:10.3f} -> {-one.tuned.nats:8.3f}  {one.text!r:.80}" for one in self.choices]
        return "\n".join([head, *lines])


@dataclass(frozen=True, eq=False)
class Answer:
    """A continuation of a prompt by the model tuned for it."""

    text: str
    stopped: str
    """``end``, ``stop`` or ``length``."""
    tokens: int
    """The number of generated tokens."""
    found: Found
    """The texts that the model was tuned on."""
    trace: Trace
    """The course of tuning."""
    cut: int = 0
    """Tokens cut from the beginning of the prompt because they did not fit into the context."""
    seconds: Mapping[str, float] = field(default_factory=dict)
    """Seconds spent to ``select``, ``tune`` and ``generate``."""

    def to_dict(self) -> dict[str, Any]:
        """The answer as a dict for ``json.dumps``."""
        own = {"text": self.text, "stopped": self.stopped, "tokens": self.tokens, "cut": self.cut}
        return {**own, "seconds": dict(self.seconds), "trace": self.trace.to_dict(), "found": self.found.to_dict()}

    def __str__(self) -> str:
        return self.text
