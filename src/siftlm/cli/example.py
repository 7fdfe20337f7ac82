"""The examples of ``siftlm demo``: their data, and what the demo prints of them, computed anew each time."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from siftlm.selection import select, spread
from siftlm.types import FloatArray

DATA = Path(__file__).parent / "demo_data"
NOISES = (0.001, 0.01, 0.1, 1.0)
PICKS = {"jordan": 2, "coffee": 8}


@dataclass(frozen=True)
class Example:
    """A prompt, the texts to choose from, and which fact each of them tells."""

    name: str
    title: str
    prompt: str
    texts: tuple[str, ...]
    told: tuple[str, ...]
    """The fact that each text tells."""
    asked: frozenset[str]
    """The facts that the prompt asks for."""
    query: npt.NDArray[Any]
    """(d,)"""
    vectors: npt.NDArray[Any]
    """(K, d)"""


@dataclass(frozen=True)
class Picked:
    """What one method picked."""

    texts: tuple[str, ...]
    kinds: tuple[str, ...]
    """Each pick is ``new`` (a fact asked for), ``again`` (told already) or ``beside`` (not asked for)."""
    uncertainty: FloatArray
    """(n + 1,) before the first pick and after each, relative to the first."""
    missing: tuple[str, ...]
    """Facts that were asked for and not found."""
    complete_after: int | None
    """How many picks it would take to find all of them; ``None`` if it never happens."""

    @property
    def found(self) -> int:
        """How many of the facts were found."""
        return self.kinds.count("new")


@dataclass(frozen=True)
class Comparison:
    """Nearest neighbours and SIFT on one example."""

    example: Example
    noise: float
    noise_range: tuple[float, float]
    nearest: Picked
    sift: Picked
    by_noise: tuple[tuple[float, int], ...]
    """(λ, how many facts SIFT finds with it)"""

    def to_dict(self) -> dict[str, Any]:
        """Plain lists and numbers."""
        methods = {"nearest": self.nearest, "sift": self.sift}
        return {
            "example": self.example.name,
            "prompt": self.example.prompt,
            "candidates": len(self.example.texts),
            "facts_asked_for": sorted(self.example.asked),
            "noise": self.noise,
            "sift_facts_found_by_noise": {str(noise): found for noise, found in self.by_noise},
            **{
                name: {
                    "texts": list(picked.texts),
                    "kinds": list(picked.kinds),
                    "facts_found": picked.found,
                    "uncertainty": picked.uncertainty.tolist(),
                    "all_facts_after": picked.complete_after,
                }
                for name, picked in methods.items()
            },
        }


def fingerprint(record: dict[str, Any]) -> str:
    """What tells vectors of other texts from the vectors of these."""
    texts = [record["prompt"], *(text for fact in record["facts"] for text in fact["texts"])]
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()


def load(name: str) -> Example:
    """The example of this name."""
    record = json.loads((DATA / f"{name}.json").read_text(encoding="utf-8"))
    with np.load(DATA / "vectors.npz", allow_pickle=False) as stored:
        query, vectors = stored[f"{name}_prompt"], stored[f"{name}_texts"]
    return Example(
        name=name,
        title=record["title"],
        prompt=record["prompt"],
        texts=tuple(text for fact in record["facts"] for text in fact["texts"]),
        told=tuple(fact["fact"] for fact in record["facts"] for _ in fact["texts"]),
        asked=frozenset(fact["fact"] for fact in record["facts"] if fact["asked"]),
        query=query.astype(np.float32),
        vectors=vectors.astype(np.float32),
    )


def compare(name: str) -> Comparison:
    """Run both methods, with the λ that ``siftlm.spread`` proposes for these vectors."""
    example, n = load(name), PICKS[name]
    report = spread(example.vectors, example.query, n=n)
    noise = float(f"{report.noise:.2g}")
    return Comparison(
        example,
        noise,
        (report.noise_low, report.noise_high),
        _pick(example, n, "nearest", noise),
        _pick(example, n, "sift", noise),
        tuple((other, _pick(example, n, "sift", other).found) for other in NOISES),
    )


def _pick(example: Example, n: int, method: str, noise: float) -> Picked:
    # All the way, to see when the last fact comes; the first n picks are those of a selection of n.
    whole = select(example.query, example.vectors, len(example.texts), method=method, noise=noise)
    indices = whole.indices.tolist()
    told = [example.told[index] for index in indices]
    seen = {fact: told.index(fact) + 1 for fact in example.asked if fact in told}
    return Picked(
        texts=tuple(example.texts[index] for index in indices[:n]),
        kinds=tuple(_kinds(told[:n], example.asked)),
        uncertainty=whole.uncertainty[: n + 1] / whole.uncertainty[0],
        missing=tuple(sorted(example.asked - set(told[:n]))),
        complete_after=max(seen.values()) if len(seen) == len(example.asked) else None,
    )


def _kinds(told: Sequence[str], asked: frozenset[str]) -> list[str]:
    return ["beside" if fact not in asked else "again" if fact in told[:at] else "new" for at, fact in enumerate(told)]
