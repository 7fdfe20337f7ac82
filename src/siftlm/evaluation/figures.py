"""Curves of a report: what a method has gained after so many steps, tokens or seconds, and the sweeps.

Every point is a mean over domains, each of which counts the same, in % of the base model's bits per byte.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from siftlm.evaluation.labels import split_noise
from siftlm.evaluation.results import Results
from siftlm.evaluation.statistics import Figure
from siftlm.evaluation.tables import Cell, Column, Table
from siftlm.memory.request import DEFAULT_NOISE

PERCENT_LABEL = "% of base"
# Points of a figure that still make a table.
MAX_TABLE_POINTS = 14
# The share of its cells that must have a number.
MIN_FILLED_SHARE = 0.6
Line = tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Chart:
    """Some lines, and what they mean."""

    name: str
    """Of its files."""
    title: str
    caption: str
    x_name: str
    y_name: str
    lines: Mapping[str, Line]
    log: bool = False
    """x goes up by factors."""

    def table(self) -> Table:
        """Its points, one a row: for CSV."""
        rows: list[tuple[Cell, ...]] = [(name, x, y) for name, line in self.lines.items() for x, y in line]
        columns = (Column("line"), Column(self.x_name, 2), Column(self.y_name, 2))
        return Table(self.name, self.title, self.caption, columns, tuple(rows))

    def wide(self) -> Table | None:
        """A column for each x, where the lines share a few."""
        places = sorted({x for line in self.lines.values() for x, _ in line})
        points = [(name, dict(line)) for name, line in self.lines.items()]
        filled = sum(len(known) for _, known in points)
        if not 1 < len(places) <= MAX_TABLE_POINTS or filled < MIN_FILLED_SHARE * len(places) * len(points):
            return None
        rows: list[tuple[Cell, ...]] = [(name, *(known.get(x) for x in places)) for name, known in points]
        columns = (Column(f"{self.x_name}:"), *(Column(f"{x:,g}") for x in places))
        return Table(self.name, self.title, f"In {self.y_name}. {self.caption}", columns, tuple(rows))


def mean_over_domains(found: Results, figure: Figure) -> float:
    """The mean of a figure over domains."""
    where = np.array(found.domains)
    return float(np.mean([figure(np.flatnonzero(where == name)) for name in found.names]))


def against_steps(found: Results, caption: str) -> Chart:
    """Figure: the number of texts learned from."""
    lines = {
        name: tuple(
            (float(point), mean_over_domains(found, found.percent(name, point))) for point in found.points(name)
        )
        for name in found.others
    }
    return Chart(
        "steps",
        "Bits per byte against steps",
        f"Mean over domains after so many steps, each on one text; in the context, after so many texts. {caption}",
        "steps",
        PERCENT_LABEL,
        lines,
    )


def against_tokens(found: Results, caption: str) -> Chart:
    """Figure: tokens learned from, the mean over texts."""
    lines = {
        name: tuple(
            (_tokens(found, name, point), mean_over_domains(found, found.percent(name, point))) for point in points
        )
        for name in found.others
        if (points := found.points(name)) and any(one.learned for one in found.measured[name])
    }
    return Chart(
        "tokens",
        "Bits per byte against tokens",
        f"The same points over the tokens learned from until then, mean over texts. {caption}",
        "tokens learned",
        PERCENT_LABEL,
        lines,
    )


def against_seconds(found: Results, caption: str) -> Chart:
    """Figure: seconds of selecting and tuning."""
    lines = {
        name: tuple(
            (_seconds(found, name, point), mean_over_domains(found, found.percent(name, point))) for point in points
        )
        for name in found.others
        if (points := found.points(name)) and any(one.learned and one.seconds for one in found.measured[name])
    }
    return Chart(
        "seconds",
        "Bits per byte against seconds",
        "Seconds for a text, mean over texts: all of the selection, and of the tuning a share in proportion to the "
        f"tokens learned up to that step. Scoring is not counted. {caption}",
        "seconds",
        PERCENT_LABEL,
        lines,
    )


def over_noise(found: Results, caption: str) -> Chart | None:
    """Figure: λ, for methods that differ in nothing else."""
    groups: dict[str, dict[float, float]] = {}
    for method in found.others:
        plain, noise = split_noise(method)
        if noise is None:
            known = found.settings.get(method, {}).get("noise")
            noise = float(known) if isinstance(known, (int, float)) else DEFAULT_NOISE
        groups.setdefault(plain, {}).setdefault(noise, mean_over_domains(found, found.percent(method)))
    lines = {name: tuple(sorted(values.items())) for name, values in groups.items() if len(values) > 1}
    if not lines:
        return None
    said = f"Methods that differ in λ alone. A method whose λ is not named has λ = {DEFAULT_NOISE:g}."
    return Chart("noise", "Bits per byte against λ", f"{said} {caption}", "λ", PERCENT_LABEL, lines, log=True)


def over_memory(memories: Sequence[Results], caption: str) -> Chart | None:
    """Figure: how many passages the memory holds, for runs on the same texts; these have to be cut to common ones."""
    sized = [(one.question.get("memory") or {}).get("passages") for one in memories]
    if len({size for size in sized if size}) < 2:
        return None
    lines: dict[str, list[tuple[float, float]]] = {}
    for size, one in sorted(
        ((size, one) for size, one in zip(sized, memories, strict=True) if size), key=lambda pair: pair[0]
    ):
        for method in one.others:
            lines.setdefault(method, []).append((float(size), mean_over_domains(one, one.percent(method))))
    kept = {name: tuple(points) for name, points in lines.items() if len(points) > 1}
    said = f"Runs whose memories differ, on the {len(memories[0].texts)} texts that all of them have."
    if not kept:
        return None
    return Chart(
        "memory",
        "Bits per byte against the size of the memory",
        f"{said} {caption}",
        "passages",
        PERCENT_LABEL,
        kept,
        log=True,
    )


def _tokens(found: Results, method: str, steps: int) -> float:
    return float(np.mean([sum(one.learned[:steps]) for one in found.measured[method]]))


def _seconds(found: Results, method: str, steps: int) -> float:
    if steps == 0:
        return 0.0
    spent = []
    for one in found.measured[method]:
        total = sum(one.learned)
        share = sum(one.learned[:steps]) / total if total else 0.0
        spent.append(one.seconds.get("select", 0.0) + share * one.seconds.get("tune", 0.0))
    return float(np.mean(spent))
