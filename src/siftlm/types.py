"""The results that travel between rooms: small, frozen, and arrays of numbers rather than objects."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]


Vectors = npt.NDArray[Any]
"""(n, d) real vectors of any float width."""


@dataclass(frozen=True, eq=False, slots=True)
class Document:
    """A text on its way into a memory, with whatever is known about it."""

    text: str
    meta: Mapping[str, Any] = field(default_factory=dict)
    """Whatever JSON can hold; searches filter by it."""
    id: str | None = None
    """The caller's own name for it, if it has one."""
    vector: Vectors | None = None
    """(d,) its embedding, where that is known already."""


class Evidence(Protocol):
    """What a `Selection` keeps in order to explain itself: the picks and the prompt, no candidates."""

    def explain(self, selection: Selection, texts: Sequence[str] | None) -> Explanation:
        """The explanation of each pick."""


@dataclass(frozen=True, eq=False)
class Selection:
    """The picks of a selection, in order, and what each was worth.

    Repeats are allowed: the same index may occur several times (see `weights`).
    """

    indices: IntArray
    """(n,) the picks, most informative first."""
    gains: FloatArray
    """(n,) the gain of each pick, as its method defines it. For SIFT: the fall in uncertainty."""
    uncertainty: FloatArray
    """(n + 1,) variance left about the prompt, averaged over its embeddings; entry 0 is before the first pick.
    The same measure for every method, so that methods can be compared; NaN when there is no prompt."""
    stopped: str
    """The reason to stop: ``n``, ``adaptive``, ``until``, ``min_gain``, ``min_growth``, ``budget`` or ``exhausted``."""
    method: str
    """The registered name of the method."""
    noise: float
    """The λ that was used."""
    certified: BoolArray | None = None
    """(n,) where a method searched only a part: is this pick provably the one of a full search?"""
    evidence: Evidence | None = field(default=None, repr=False)
    """What `explain` needs: kernels between picks and prompt."""

    def __len__(self) -> int:
        return len(self.indices)

    @property
    def distinct(self) -> IntArray:
        """The picks without repeats, in order of first appearance."""
        _, first = np.unique(self.indices, return_index=True)
        return self.indices[np.sort(first)]

    @property
    def weights(self) -> IntArray:
        """How often each of `distinct` was picked: its weight in training."""
        values, first, counts = np.unique(self.indices, return_index=True, return_counts=True)
        del values
        return counts[np.argsort(first)].astype(np.int64)

    def explain(self, texts: Sequence[str] | None = None) -> Explanation:
        """The explanation of each pick: its relevance, its overlap with earlier picks, the target it served.

        ``texts`` are those of all candidates; only the picked ones are read.
        """
        if self.evidence is None:
            raise TypeError("this Selection was made by hand and has no evidence to explain itself with")
        return self.evidence.explain(self, texts)

    def to_dict(self) -> dict[str, Any]:
        """The selection as plain lists and numbers for ``json.dumps``; a number that is not finite becomes ``None``."""
        return {
            "method": self.method,
            "noise": self.noise,
            "stopped": self.stopped,
            "indices": self.indices.tolist(),
            "gains": [json_number(gain) for gain in self.gains.tolist()],
            "uncertainty": [json_number(left) for left in self.uncertainty.tolist()],
            "certified": None if self.certified is None else self.certified.tolist(),
        }


@dataclass(frozen=True, eq=False)
class Explanation:
    """The reasons for each pick; printing it gives a table."""

    indices: IntArray
    """(n,) the picks."""
    relevance: FloatArray
    """(n,) largest |similarity| to a target; similarity is the kernel, scaled to 1 for equal texts."""
    overlap: FloatArray
    """(n,) largest |similarity| to an earlier pick; 0 for the first."""
    served: IntArray
    """(n,) the target whose uncertainty fell most by this pick."""
    alone: FloatArray
    """(n,) by how much the uncertainty would rise if this pick were left out and all others stayed; NaN without a
    target."""
    gains: FloatArray
    """(n,) as in the selection."""
    uncertainty: FloatArray
    """(n,) the uncertainty left after the pick."""
    texts: tuple[str, ...] | None = None
    """The picked texts, if they were given."""

    def __str__(self) -> str:
        several = len(set(self.served.tolist())) > 1
        head = f"{'pick':>4} {'index':>8} {'relevance':>9} {'overlap':>8} {'left':>8}"
        lines = [head + ("  target" if several else "") + ("  text" if self.texts else "")]
        for n in range(len(self.indices)):
            row = f"{n + 1:>4} {self.indices[n]:>8} {self.relevance[n]:>9.3f} {self.overlap[n]:>8.3f}"
            row += f" {self.uncertainty[n]:>8.4f}"
            if several:
                row += f"  {self.served[n]:>6}"
            if self.texts:
                row += "  " + " ".join(self.texts[n].split())[:80]
            lines.append(row)
        return "\n".join(lines)


@dataclass(frozen=True)
class UseChoice:
    """What ``use="auto"`` chose for a prompt, and why."""

    use: str
    """``none``: the base model answers; ``weights``, ``context`` or ``both``."""
    estimates: Mapping[str, float]
    """Use -> the expected loss of the continuation in % of the base model's, where it was tried."""
    held_out: int
    """The number of passages that the estimates come from."""

    def to_dict(self) -> dict[str, Any]:
        """The choice as a dict for ``json.dumps``."""
        estimates = {use: json_number(value) for use, value in self.estimates.items()}
        return {"use": self.use, "estimates": estimates, "held_out": self.held_out, "reason": str(self)}

    def __str__(self) -> str:
        if not self.held_out:
            return "the memory has no further passages to hold out, so nothing shows that the texts help"
        names = {
            "weights": "tuned on the texts",
            "context": "with the texts in context",
            "both": "tuned and in context",
        }
        expected = ", ".join(f"{names[use]} {value:.1f} %" for use, value in self.estimates.items())
        plural = "" if self.held_out == 1 else "s"
        return f"expected loss by {self.held_out} held-out passage{plural}, in % of the base model's: {expected}"


@dataclass(frozen=True)
class Step:
    """A gradient step: its text, loss, norm and rate."""

    text: int
    """The index of the text among those given."""
    loss: float
    """Loss on that text before the step, in nats a token."""
    tokens: int
    """The number of tokens in the loss."""
    norm: float
    """The gradient's norm, before clipping."""
    rate: float
    """The learning rate of the step."""
    reused: bool = False
    """True where the gradient is that of an earlier step on the same text."""
    watched: float | None = None
    """What was watched, after the step, where it was measured: lower is better."""
    seconds: float = 0.0


@dataclass(frozen=True)
class Trace:
    """The course of tuning: its steps and why it ended."""

    steps: tuple[Step, ...]
    ended: str
    """``done``; ``seconds`` or ``tokens``: the budget was spent; ``worse``: what was watched got worse, and the best
    state was taken; ``diverged``: a loss that was no number, and the model is the base model again; ``declined``: it
    was not thought worth it; ``nothing``: there was no text to tune on."""
    kept: int
    """The number of steps that the resulting model keeps."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """The settings of the tuning and of its engine."""
    seconds: Mapping[str, float] = field(default_factory=dict)
    """Seconds spent on ``steps``, ``watch`` and ``reset``."""
    choice: UseChoice | None = None
    """How the texts are used, and why, where that was left to ``use="auto"``."""

    @property
    def losses(self) -> list[float]:
        """The loss before each step, in nats a token."""
        return [step.loss for step in self.steps]

    def to_dict(self) -> dict[str, Any]:
        """The trace as a dict for ``json.dumps``; a number that is not finite becomes ``None``."""
        steps = [{name: json_number(getattr(step, name)) for name in step.__dataclass_fields__} for step in self.steps]
        return {
            "ended": self.ended,
            "kept": self.kept,
            "settings": dict(self.settings),
            "seconds": dict(self.seconds),
            "steps": steps,
            **({} if self.choice is None else {"choice": self.choice.to_dict()}),
        }


@dataclass(frozen=True)
class Likelihood:
    """The likelihood of a text under a model."""

    nats: float
    """Total negative log-likelihood."""
    tokens: int
    """The number of scored tokens."""
    bytes: int
    """The UTF-8 length of the text that the scored tokens spell."""

    @property
    def bits_per_byte(self) -> float:
        """Bits per byte: nats / ln 2 / bytes; NaN for an empty text."""
        return self.nats / math.log(2) / self.bytes if self.bytes else math.nan

    @property
    def nats_per_byte(self) -> float:
        """Nats per byte; NaN for an empty text."""
        return self.nats / self.bytes if self.bytes else math.nan

    @property
    def nats_per_token(self) -> float:
        """Nats per token; NaN for an empty text."""
        return self.nats / self.tokens if self.tokens else math.nan


def json_number(value: float | None, digits: int | None = None) -> float | None:
    """A number as strict JSON can hold it: ``None`` where it is not finite, rounded to ``digits`` significant ones.

    >>> json_number(math.nan), json_number(7), json_number(2 / 3, 3)
    (None, 7, 0.667)
    """
    if value is None or not math.isfinite(value):
        return None
    return value if digits is None else float(f"{value:.{digits}g}")
