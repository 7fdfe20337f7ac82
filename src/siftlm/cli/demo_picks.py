"""``siftlm demo picks``: nearest neighbours and SIFT side by side on two small examples; no model is needed."""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from siftlm.cli.charts import Curve, titled_chart
from siftlm.cli.tables import column_width, side_by_side
from siftlm.cli.terminal import Terminal, indented, print_json

if TYPE_CHECKING:
    import numpy.typing as npt

    from siftlm.types import FloatArray

DATA = Path(__file__).parent / "demo_data"
COMPARED_NOISES = (0.001, 0.01, 0.1, 1.0)
EXAMPLES = {"jordan": 2, "coffee": 8}
# Of each kind of pick: sign, the same in ASCII, colour, meaning.
SIGNS = {
    "new": ("✓", "+", "green", "a fact that was asked for"),
    "again": ("=", "=", "yellow", "stated again"),
    "beside": ("·", ".", "dim", "not asked for"),
}
NEAREST, SIFT = "nearest neighbour", "SIFT"
WIDEST_COLUMNS = 120
INDENT = 2


def run(arguments: argparse.Namespace) -> int:
    """Compute and print."""
    found = [compare(name) for name in EXAMPLES if arguments.name in ("picks", name)]
    if arguments.json:
        print_json([comparison.to_dict() for comparison in found], indent=1)
        return 0
    terminal = Terminal.of(sys.stdout)
    width = min(terminal.width, WIDEST_COLUMNS)
    for comparison in found:
        terminal.show(*example_parts(comparison, terminal, width), "", width=width)
    own = "siftlm select --candidates vectors.npy --query q.npy -n 8"
    terminal.show("Now with your own vectors:", indented(terminal.prose(own, "cyan")))
    return 0


# --- what is computed


@dataclass(frozen=True)
class DemoExample:
    """A prompt, the texts to choose from, and which fact each of them states."""

    name: str
    title: str
    prompt: str
    texts: tuple[str, ...]
    facts: tuple[str, ...]
    """The fact that each text states."""
    needed: frozenset[str]
    """The facts that the prompt asks for."""
    query: npt.NDArray[Any]
    """(d,)"""
    vectors: npt.NDArray[Any]
    """(K, d)"""


@dataclass(frozen=True)
class ExamplePicks:
    """What one method picked."""

    texts: tuple[str, ...]
    kinds: tuple[str, ...]
    """Each pick is ``new`` (a fact asked for), ``again`` (stated already) or ``beside`` (not asked for)."""
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
class ExampleComparison:
    """Nearest neighbours and SIFT on one example."""

    example: DemoExample
    noise: float
    noise_range: tuple[float, float]
    nearest: ExamplePicks
    sift: ExamplePicks
    by_noise: tuple[tuple[float, int], ...]
    """(λ, how many facts SIFT finds with it)"""

    def to_dict(self) -> dict[str, Any]:
        """Plain lists and numbers."""
        methods = {"nearest": self.nearest, "sift": self.sift}
        return {
            "example": self.example.name,
            "prompt": self.example.prompt,
            "candidates": len(self.example.texts),
            "facts_asked_for": sorted(self.example.needed),
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
    """A hash of the texts, to detect vectors of other texts."""
    texts = [record["prompt"], *(text for fact in record["facts"] for text in fact["texts"])]
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()


def load(name: str) -> DemoExample:
    """The example of this name."""
    import numpy as np

    record = json.loads((DATA / f"{name}.json").read_text(encoding="utf-8"))
    with np.load(DATA / "vectors.npz", allow_pickle=False) as stored:
        query, vectors = stored[f"{name}_prompt"], stored[f"{name}_texts"]
    return DemoExample(
        name=name,
        title=record["title"],
        prompt=record["prompt"],
        texts=tuple(text for fact in record["facts"] for text in fact["texts"]),
        facts=tuple(fact["fact"] for fact in record["facts"] for _ in fact["texts"]),
        needed=frozenset(fact["fact"] for fact in record["facts"] if fact["asked"]),
        query=query.astype(np.float32),
        vectors=vectors.astype(np.float32),
    )


def compare(name: str) -> ExampleComparison:
    """Run both methods, with the λ that ``siftlm.spread`` proposes for these vectors."""
    from siftlm.selection import spread

    example, n = load(name), EXAMPLES[name]
    report = spread(example.vectors, example.query, n=n)
    noise = float(f"{report.noise:.2g}")
    return ExampleComparison(
        example,
        noise,
        (report.noise_low, report.noise_high),
        _pick(example, n, "nearest", noise),
        _pick(example, n, "sift", noise),
        tuple((other, _pick(example, n, "sift", other).found) for other in COMPARED_NOISES),
    )


def _pick(example: DemoExample, n: int, method: str, noise: float) -> ExamplePicks:
    from siftlm.selection import select

    # All the way, to see when the last fact comes; the first n picks are those of a selection of n.
    whole = select(example.query, example.vectors, len(example.texts), method=method, noise=noise)
    indices = whole.indices.tolist()
    facts = [example.facts[index] for index in indices]
    places = {fact: facts.index(fact) + 1 for fact in example.needed if fact in facts}
    return ExamplePicks(
        texts=tuple(example.texts[index] for index in indices[:n]),
        kinds=tuple(_kinds(facts[:n], example.needed)),
        uncertainty=whole.uncertainty[: n + 1] / whole.uncertainty[0],
        missing=tuple(sorted(example.needed - set(facts[:n]))),
        complete_after=max(places.values()) if len(places) == len(example.needed) else None,
    )


def _kinds(facts: Sequence[str], needed: frozenset[str]) -> list[str]:
    kinds = []
    for at, fact in enumerate(facts):
        kinds.append("beside" if fact not in needed else "again" if fact in facts[:at] else "new")
    return kinds


# --- what is printed


def example_parts(comparison: ExampleComparison, terminal: Terminal, width: int) -> list[RenderableType]:
    """One example: the prompt, both methods' picks, the chart of uncertainty, and the findings."""
    example = comparison.example
    about = f"{len(example.texts)} texts, {len(comparison.sift.texts)} picks, λ = {comparison.noise:g}, "
    about += "where `siftlm spread` suggests to start."
    room = width - INDENT
    body = Group(
        terminal.prose(example.prompt, "bold"),
        terminal.prose(about, "dim"),
        "",
        *_picks(comparison, terminal, room),
        "",
        _signs(terminal, room),
        "",
        _chart(comparison, terminal, room),
        "",
        *map(terminal.prose, _findings(comparison)),
    )
    return [terminal.rule(example.title), "", indented(body)]


def _signs(terminal: Terminal, width: int) -> Text:
    """What the signs mean: in one line where there is room."""
    entries = [
        Text(f"{terminal.pick(fine, plain)} {meaning}", colour) for fine, plain, colour, meaning in SIGNS.values()
    ]
    return Text("   " if width >= 62 else "\n").join(entries)


def _picks(comparison: ExampleComparison, terminal: Terminal, width: int) -> list[RenderableType]:
    """Both methods' picks: beside each other where there is room."""
    column = column_width(width)
    left = _block(NEAREST, comparison.nearest, "yellow", column, terminal)
    right = _block(SIFT, comparison.sift, "cyan", column, terminal)
    return side_by_side(left, right, width)


def _block(name: str, picks: ExamplePicks, colour: str, column: int, terminal: Terminal) -> list[RenderableType]:
    """The name, then each pick."""
    block: list[RenderableType] = [Text(name, f"bold {colour}")]
    digits = len(str(len(picks.texts)))
    for at, (text, kind) in enumerate(zip(picks.texts, picks.kinds, strict=True), start=1):
        fine, plain, style, _ = SIGNS[kind]
        row = Table.grid(padding=(0, 1, 0, 0))
        row.add_row(Text(f"{at:>{digits}} {terminal.pick(fine, plain)}", style), terminal.prose(text, style))
        row.columns[0].no_wrap = True
        row.columns[1].max_width = column - digits - 3
        block.append(row)
    return block


def _chart(comparison: ExampleComparison, terminal: Terminal, width: int) -> RenderableType:
    nearest, sift = comparison.nearest.uncertainty.tolist(), comparison.sift.uncertainty.tolist()
    curves = [Curve(NEAREST, nearest, "yellow", "○", "o"), Curve(SIFT, sift, "cyan", "●", "*")]
    return titled_chart("uncertainty left about the prompt", curves, terminal, width=width, x_name="picks")


def _findings(comparison: ExampleComparison) -> list[str]:
    """What the run has shown, for better or worse."""
    nearest, sift, facts = comparison.nearest, comparison.sift, len(comparison.example.needed)
    missing = [(name, picks.missing) for name, picks in ((NEAREST, nearest), (SIFT, sift)) if picks.missing]
    found = sorted({count for _, count in comparison.by_noise})
    noises = ", ".join(f"{other:g}" for other, _ in comparison.by_noise)
    counts = f"{found[0]} of {facts} each time" if len(found) == 1 else f"{found[0]} to {found[-1]} of {facts}"
    return [
        f"{NEAREST}: {nearest.found} of {facts} facts in {len(sift.texts)} picks; {SIFT}: {sift.found} of {facts}.",
        *(f"Not found by {name}: {', '.join(names)}." for name, names in missing),
        f"All {facts} are there after {_after(nearest)} picks of {NEAREST}, {_after(sift)} of {SIFT}.",
        f"{SIFT} with λ = {noises}: {counts}.",
    ]


def _after(picks: ExamplePicks) -> str:
    return "no number of" if picks.complete_after is None else str(picks.complete_after)
