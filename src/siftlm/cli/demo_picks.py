"""``siftlm demo picks``: nearest neighbours and SIFT side by side on small examples, without a model."""

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
# Name -> number of picks.
EXAMPLES = {"island": 5, "jordan": 2, "coffee": 8}
FIRST_EXAMPLE = "island"
# SIFT alone, without a number of picks, ends when the next one removes less than this share of what is left.
MIN_GAIN = 0.05
# Kind of pick -> mark, its substitute in ASCII, colour, meaning.
MARKS = {
    "new": ("✓", "+", "green", "a fact that the prompt needs"),
    "again": ("=", "=", "yellow", "a repeated fact"),
    "beside": ("·", ".", "dim", "an unrelated fact"),
}
NEAREST, SIFT = "nearest neighbour", "SIFT"
WIDEST_COLUMNS = 120
INDENT = 2


def run(arguments: argparse.Namespace) -> int:
    """Compare the methods on the examples."""
    comparisons = [compare(name) for name in EXAMPLES if arguments.name in ("picks", name)]
    if arguments.json:
        print_json([comparison.to_dict() for comparison in comparisons], indent=1)
        return 0
    terminal = Terminal.of(sys.stdout)
    width = min(terminal.width, WIDEST_COLUMNS)
    for comparison in comparisons:
        terminal.show(*example_parts(comparison, terminal, width), "", width=width)
    own = "siftlm select --candidates vectors.npy --query q.npy -n 8"
    terminal.show("Next, with other vectors:", indented(terminal.prose(own, "cyan")))
    return 0


# --- results


@dataclass(frozen=True)
class DemoExample:
    """A prompt, candidate texts, and the fact that each states."""

    name: str
    title: str
    prompt: str
    texts: tuple[str, ...]
    facts: tuple[str, ...]
    """The fact that each text states."""
    needed: frozenset[str]
    """The facts that the prompt needs."""
    query: npt.NDArray[Any]
    """(d,)"""
    vectors: npt.NDArray[Any]
    """(K, d)"""


@dataclass(frozen=True)
class ExamplePicks:
    """The picks of one method."""

    texts: tuple[str, ...]
    kinds: tuple[str, ...]
    """Each pick is ``new`` (a needed fact), ``again`` (a repeated one) or ``beside`` (an unrelated one)."""
    uncertainty: FloatArray
    """(n + 1,) before the first pick and after each, relative to the initial uncertainty."""
    missing: tuple[str, ...]
    """Needed facts that no pick states."""
    complete_after: int | None
    """The number of picks until all needed facts are found; ``None`` if never."""

    @property
    def found(self) -> int:
        """The number of needed facts that the picks state."""
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
    """(λ, number of needed facts that SIFT finds)"""
    ended: tuple[int, int]
    """(picks, needed facts in them) of SIFT where ``min_gain`` decides how many."""

    def to_dict(self) -> dict[str, Any]:
        """A JSON record."""
        methods = {"nearest": self.nearest, "sift": self.sift}
        return {
            "example": self.example.name,
            "prompt": self.example.prompt,
            "candidates": len(self.example.texts),
            "facts_asked_for": sorted(self.example.needed),
            "noise": self.noise,
            "sift_facts_found_by_noise": {str(noise): found for noise, found in self.by_noise},
            "min_gain": {"min_gain": MIN_GAIN, "picks": self.ended[0], "facts_found": self.ended[1]},
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
    """A hash of the texts, which detects vectors of other texts."""
    return hashlib.sha256("\n".join([record["prompt"], *_texts(record)]).encode()).hexdigest()


def _texts(record: dict[str, Any]) -> list[str]:
    return [text for fact in record["facts"] for text in fact["texts"]]


def load(name: str) -> DemoExample:
    """The example of this name."""
    import numpy as np

    record = json.loads((DATA / f"{name}.json").read_text(encoding="utf-8"))
    if "embedder" in record:
        from siftlm.embedding import embedder

        query, *rows = embedder(record["embedder"]).embed([record["prompt"], *_texts(record)])
        vectors = np.array(rows)
    else:
        with np.load(DATA / "vectors.npz", allow_pickle=False) as stored:
            query, vectors = stored[f"{name}_prompt"], stored[f"{name}_texts"]
    return DemoExample(
        name=name,
        title=record["title"],
        prompt=record["prompt"],
        texts=tuple(_texts(record)),
        facts=tuple(fact["fact"] for fact in record["facts"] for _ in fact["texts"]),
        needed=frozenset(fact["fact"] for fact in record["facts"] if fact["asked"]),
        query=query.astype(np.float32),
        vectors=vectors.astype(np.float32),
    )


def compare(name: str) -> ExampleComparison:
    """Run both methods with the λ that ``siftlm.spread`` suggests for these vectors."""
    from siftlm.selection import select, spread

    example, n = load(name), EXAMPLES[name]
    report = spread(example.vectors, example.query, n=n)
    noise = float(f"{report.noise:.2g}")
    alone = select(example.query, example.vectors, len(example.texts), noise=noise, min_gain=MIN_GAIN)
    told = {example.facts[index] for index in alone.indices}
    return ExampleComparison(
        example,
        noise,
        (report.noise_low, report.noise_high),
        _pick(example, n, "nearest", noise),
        _pick(example, n, "sift", noise),
        tuple((other, _pick(example, n, "sift", other).found) for other in COMPARED_NOISES),
        (len(alone), len(told & example.needed)),
    )


def _pick(example: DemoExample, n: int, method: str, noise: float) -> ExamplePicks:
    from siftlm.selection import select

    # A full ranking, to see when all facts are found; its first n picks are a selection of n.
    ranking = select(example.query, example.vectors, len(example.texts), method=method, noise=noise)
    indices = ranking.indices.tolist()
    facts = [example.facts[index] for index in indices]
    places = {fact: facts.index(fact) + 1 for fact in example.needed if fact in facts}
    return ExamplePicks(
        texts=tuple(example.texts[index] for index in indices[:n]),
        kinds=tuple(_kinds(facts[:n], example.needed)),
        uncertainty=ranking.uncertainty[: n + 1] / ranking.uncertainty[0],
        missing=tuple(sorted(example.needed - set(facts[:n]))),
        complete_after=max(places.values()) if len(places) == len(example.needed) else None,
    )


def _kinds(facts: Sequence[str], needed: frozenset[str]) -> list[str]:
    kinds = []
    for at, fact in enumerate(facts):
        kinds.append("beside" if fact not in needed else "again" if fact in facts[:at] else "new")
    return kinds


# --- output


def example_parts(comparison: ExampleComparison, terminal: Terminal, width: int) -> list[RenderableType]:
    """One example: the prompt, both methods' picks, the chart of uncertainty, and the findings."""
    example = comparison.example
    about = f"{len(example.texts)} texts, {len(comparison.sift.texts)} picks, λ = {comparison.noise:g}, "
    about += "as `siftlm spread` suggests."
    room = width - INDENT
    body = Group(
        terminal.prose(example.prompt, "bold"),
        terminal.prose(about, "dim"),
        "",
        *_picks(comparison, terminal, room),
        "",
        _legend(terminal, room),
        "",
        _chart(comparison, terminal, room),
        "",
        *map(terminal.prose, findings(comparison)),
    )
    return [terminal.rule(example.title), "", indented(body)]


def _legend(terminal: Terminal, width: int) -> Text:
    """The legend of the marks, on one line if there is room."""
    entries = [
        Text(f"{terminal.pick(fine, plain)} {meaning}", colour) for fine, plain, colour, meaning in MARKS.values()
    ]
    return Text("   " if width >= 62 else "\n").join(entries)


def _picks(comparison: ExampleComparison, terminal: Terminal, width: int) -> list[RenderableType]:
    """Both methods' picks, side by side if there is room."""
    column = column_width(width)
    left = _block(NEAREST, comparison.nearest, "yellow", column, terminal)
    right = _block(SIFT, comparison.sift, "cyan", column, terminal)
    return side_by_side(left, right, width)


def _block(name: str, picks: ExamplePicks, colour: str, column: int, terminal: Terminal) -> list[RenderableType]:
    """The name, then each pick."""
    block: list[RenderableType] = [Text(name, f"bold {colour}")]
    digits = len(str(len(picks.texts)))
    for at, (text, kind) in enumerate(zip(picks.texts, picks.kinds, strict=True), start=1):
        fine, plain, style, _ = MARKS[kind]
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


def findings(comparison: ExampleComparison) -> list[str]:
    """The findings, in words."""
    nearest, sift, facts = comparison.nearest, comparison.sift, len(comparison.example.needed)
    missing = [(name, picks.missing) for name, picks in ((NEAREST, nearest), (SIFT, sift)) if picks.missing]
    found = sorted({count for _, count in comparison.by_noise})
    picks, told = comparison.ended
    left = ", ".join(f"{name} {100 * one.uncertainty[-1]:.0f} %" for name, one in ((NEAREST, nearest), (SIFT, sift)))
    noises = ", ".join(f"{other:g}" for other, _ in comparison.by_noise)
    counts = f"{found[0]} of {facts} for each" if len(found) == 1 else f"{found[0]} to {found[-1]} of {facts}"
    return [
        f"{NEAREST}: {nearest.found} of {facts} facts in {len(sift.texts)} picks; {SIFT}: {sift.found} of {facts}.",
        f"Uncertainty left: {left}.",
        *(f"{name} misses: {', '.join(names)}." for name, names in missing),
        f"All {facts} are found after {_after(nearest)} picks of {NEAREST}, {_after(sift)} of {SIFT}.",
        f"{SIFT} with min_gain={MIN_GAIN:g} ends by itself after {picks} picks, with {told} of {facts} facts.",
        f"{SIFT} with λ = {noises}: {counts}.",
    ]


def _after(picks: ExamplePicks) -> str:
    return "no number of" if picks.complete_after is None else str(picks.complete_after)
