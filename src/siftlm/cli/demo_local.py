"""What ``siftlm demo`` computes: a memory of what every Python has, and a small model that learns from it."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from siftlm import sample
from siftlm.call import split_in_half
from siftlm.errors import InvalidInput
from siftlm.local import LocalModel
from siftlm.memory import Memory

if TYPE_CHECKING:
    from siftlm.memory import Found
    from siftlm.progress import Report
    from siftlm.types import Document

METHODS = ("nearest", "sift")
# Characters of a held-out text: half of them are the prompt.
LENGTH = 1600
# New tokens of a continuation.
CONTINUED = 32
# Drawn, always with the same seed: so small a model repeats itself when it takes the likeliest token each time.
SAMPLING: dict[str, Any] = {"temperature": 0.8, "top_p": 0.9, "seed": 0}


@dataclass(eq=False)
class Run:
    """One method on one prompt; grows while the model learns."""

    method: str
    bits: list[float]
    """Bits per byte of the second half, before the first step and after each."""
    found: Found | None = None
    continuation: str = ""
    seconds: float = 0.0
    """Of selecting and tuning, without the scores after each step."""

    @property
    def uncertainty(self) -> list[float]:
        """In the share of what there was before the first pick."""
        if self.found is None:
            return []
        left = self.found.selection.uncertainty
        return [float(value / left[0]) for value in left]


@dataclass(eq=False)
class Case:
    """One held-out text."""

    kind: str
    name: str
    prompt: str
    scored: str
    base: float
    """Bits per byte before anything was learned."""
    continuation: str
    """By the base model."""
    context: float = float("nan")
    """Bits per byte with SIFT's picks in the context instead."""
    runs: dict[str, Run] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Ready for ``json.dumps``; what is no number becomes None."""
        return {
            "kind": self.kind,
            "name": self.name,
            "prompt": self.prompt,
            "base": self.base,
            "context": _number(self.context),
            "continuation": self.continuation,
            **{
                run.method: {
                    "bits": [_number(bits) for bits in run.bits],
                    "uncertainty": run.uncertainty,
                    "seconds": run.seconds,
                    "continuation": run.continuation,
                    "picks": run.found.to_dict()["hits"] if run.found else [],
                }
                for run in self.runs.values()
            },
        }


def _number(value: float) -> float | None:
    """JSON has no word for what is no number."""
    return value if math.isfinite(value) else None


def open_memory(folder: Path, progress: Report | None) -> Memory:
    """The sample memory: built the first time, under another name until it is whole."""
    if not folder.exists():
        part = folder.with_name(f"{folder.name}.part")
        if part.exists():
            shutil.rmtree(part)  # of a demo that was stopped
        Memory.build(sample.documents(), into=part, progress=progress or False).close()
        part.rename(folder)
    return Memory.open(folder)


def held_out(count: int, seed: int) -> list[Document]:
    """``count`` texts of each kind that are not in the memory."""
    try:
        return [text for kind in sample.KINDS for text in sample.prompts(kind, count=count, seed=seed)]
    except InvalidInput as error:
        raise InvalidInput(str(error).replace("count=", "--texts ")) from error


def learn(model: LocalModel, document: Document, n: int, watch: Callable[[Case, Run], None]) -> Case:
    """One text: base, nearest neighbour, SIFT, and SIFT's picks in the context. ``watch`` sees every step."""
    prompt, scored = split_in_half(document.text[:LENGTH])
    controller = model.controller

    def bits(texts: tuple[str, ...] = ()) -> float:
        return controller.likelihood(scored, after=prompt, texts=texts).bits_per_byte

    base = bits()
    before = controller.generate(prompt, max_new_tokens=CONTINUED, **SAMPLING).text
    case = Case(str(document.meta["kind"]), str(document.meta["name"]), prompt, scored, base, before)
    for method in METHODS:
        run = case.runs[method] = Run(method, [base])

        def stepped(_step: Any, run: Run = run) -> None:
            run.bits.append(bits())
            watch(case, run)

        with model.learned(prompt, n=n, method=method, after=stepped) as learned:
            run.found = learned.found
            run.seconds = sum(learned.found.seconds.values()) + sum(s.seconds for s in learned.trace.steps)
            run.continuation = controller.generate(prompt, max_new_tokens=CONTINUED, **SAMPLING).text
    picks = case.runs["sift"].found
    case.context = bits(tuple(picks.texts)) if picks else float("nan")
    return case
