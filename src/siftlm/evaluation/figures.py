"""Figures of a report: bits per byte against steps, tokens, seconds, λ and the size of the memory; and their drawing.

Every point is a mean over domains with equal weights, in % of the base model's bits per byte.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from siftlm.evaluation import html
from siftlm.evaluation.html import Series
from siftlm.evaluation.labels import split_noise
from siftlm.evaluation.results import Results
from siftlm.evaluation.statistics import Figure
from siftlm.evaluation.tables import Cell, Column, Table
from siftlm.memory.request import DEFAULT_NOISE

PERCENT_LABEL = "% of base"
# A figure with more values of x is not shown as a table too.
MAX_TABLE_POINTS = 14
# The least share of such a table's cells that must have a number.
MIN_FILLED_SHARE = 0.6
Line = tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Chart:
    """Named lines with a title, a caption and axes."""

    name: str
    """The name of its files, without a suffix."""
    title: str
    caption: str
    x_name: str
    y_name: str
    lines: Mapping[str, Line]
    log: bool = False
    """Is x logarithmic?"""

    def table(self) -> Table:
        """The points, one a row, for CSV."""
        rows: list[tuple[Cell, ...]] = [(name, x, y) for name, line in self.lines.items() for x, y in line]
        columns = (Column("line"), Column(self.x_name, 2), Column(self.y_name, 2))
        return Table(self.name, self.title, self.caption, columns, tuple(rows))

    def wide(self) -> Table | None:
        """The points with a column for each x, or None if the lines do not share a few values of x."""
        places = sorted({x for line in self.lines.values() for x, _ in line})
        points = [(name, dict(line)) for name, line in self.lines.items()]
        filled = sum(len(line) for _, line in points)
        if not 1 < len(places) <= MAX_TABLE_POINTS or filled < MIN_FILLED_SHARE * len(places) * len(points):
            return None
        rows: list[tuple[Cell, ...]] = [(name, *(line.get(x) for x in places)) for name, line in points]
        columns = (Column(f"{self.x_name}:"), *(Column(f"{x:,g}") for x in places))
        return Table(self.name, self.title, f"In {self.y_name}. {self.caption}", columns, tuple(rows))


def mean_over_domains(results: Results, figure: Figure) -> float:
    """The figure's mean over domains."""
    where = np.array(results.domains)
    return float(np.mean([figure(np.flatnonzero(where == name)) for name in results.names]))


def against_steps(results: Results, caption: str) -> Chart:
    """Bits per byte against the number of steps."""
    lines = {
        name: tuple(
            (float(point), mean_over_domains(results, results.percent(name, point))) for point in results.points(name)
        )
        for name in results.others
    }
    return Chart(
        "steps",
        "Bits per byte against steps",
        f"Mean over domains after each number of steps, one per text; for context: texts in the prompt. {caption}",
        "steps",
        PERCENT_LABEL,
        lines,
    )


def against_tokens(results: Results, caption: str) -> Chart:
    """Bits per byte against the tokens of all steps, mean over texts."""
    lines = {
        name: tuple(
            (_tokens(results, name, point), mean_over_domains(results, results.percent(name, point)))
            for point in points
        )
        for name in results.others
        if (points := results.points(name)) and any(one.learned for one in results.measured[name])
    }
    return Chart(
        "tokens",
        "Bits per byte against tokens",
        f"The same points against the tokens of all steps so far, mean over texts. {caption}",
        "tokens tuned on",
        PERCENT_LABEL,
        lines,
    )


def against_seconds(results: Results, caption: str) -> Chart:
    """Bits per byte against seconds of selection and tuning."""
    lines = {
        name: tuple(
            (_seconds(results, name, point), mean_over_domains(results, results.percent(name, point)))
            for point in points
        )
        for name in results.others
        if (points := results.points(name)) and any(one.learned and one.seconds for one in results.measured[name])
    }
    return Chart(
        "seconds",
        "Bits per byte against seconds",
        "Seconds per text, mean over texts: the whole selection, and a share of the tuning in proportion to the tokens "
        f"of all steps so far. Scoring is not counted. {caption}",
        "seconds",
        PERCENT_LABEL,
        lines,
    )


def over_noise(results: Results, caption: str) -> Chart | None:
    """Bits per byte against λ, for methods that differ in nothing else; None if there are none."""
    groups: dict[str, dict[float, float]] = {}
    for method in results.others:
        plain, noise = split_noise(method)
        if noise is None:
            recorded = results.settings.get(method, {}).get("noise")
            noise = float(recorded) if isinstance(recorded, (int, float)) else DEFAULT_NOISE
        groups.setdefault(plain, {}).setdefault(noise, mean_over_domains(results, results.percent(method)))
    lines = {name: tuple(sorted(values.items())) for name, values in groups.items() if len(values) > 1}
    if not lines:
        return None
    note = f"Methods that differ only in λ; λ = {DEFAULT_NOISE:g} where the label names none."
    return Chart("noise", "Bits per byte against λ", f"{note} {caption}", "λ", PERCENT_LABEL, lines, log=True)


def over_memory(memories: Sequence[Results], caption: str) -> Chart | None:
    """Bits per byte against the memory's number of passages, for runs on the same texts (see `on_common_texts`)."""
    sizes = [(one.question.get("memory") or {}).get("passages") for one in memories]
    sized = [(size, one) for size, one in zip(sizes, memories, strict=True) if size]
    if len({size for size, _ in sized}) < 2:
        return None
    lines: dict[str, list[tuple[float, float]]] = {}
    for size, one in sorted(sized, key=lambda pair: pair[0]):
        for method in one.others:
            lines.setdefault(method, []).append((float(size), mean_over_domains(one, one.percent(method))))
    kept = {name: tuple(points) for name, points in lines.items() if len(points) > 1}
    note = f"Runs with different memories, on the {len(memories[0].texts)} texts that all of them have."
    if not kept:
        return None
    return Chart(
        "memory",
        "Bits per byte against the size of the memory",
        f"{note} {caption}",
        "passages",
        PERCENT_LABEL,
        kept,
        log=True,
    )


def _tokens(results: Results, method: str, steps: int) -> float:
    return float(np.mean([sum(one.learned[:steps]) for one in results.measured[method]]))


def _seconds(results: Results, method: str, steps: int) -> float:
    if steps == 0:
        return 0.0
    spent = []
    for one in results.measured[method]:
        total = sum(one.learned)
        share = sum(one.learned[:steps]) / total if total else 0.0
        spent.append(one.seconds.get("select", 0.0) + share * one.seconds.get("tune", 0.0))
    return float(np.mean(spent))


# --- drawing

# More lines in one picture are hard to distinguish; CSV has them all.
MAX_DRAWN_LINES = 8
METHOD_COLOURS = {"nn": "a", "nearest": "a", "sift": "b", "auto": "e", "context": "d"}
SPARE_COLOURS = "cefghdab"


def draw(chart: Chart, among: Iterable[str]) -> str:
    """The chart as SVG; ``among``: the lines of all pictures of the report, so that a line has one colour in all."""
    names = list(among)
    series = [
        Series(name, line, colour_of(name, names), dashed="+" in name)
        for name, line in drawn_lines(chart.lines).items()
    ]
    size = (720, 320)
    return html.line_chart(
        series, title=chart.title, x_name=chart.x_name, y_name=chart.y_name, log=chart.log, size=size
    )


def colour_of(method: str, among: Iterable[str]) -> str:
    """The colour of a method's line: fixed for the methods that most reports have, else the next spare one.

    >>> colour_of("sift", ["nn", "mmr", "sift"]), colour_of("mmr", ["nn", "mmr", "sift"])
    ('b', 'c')
    """
    names = list(among)
    if method in METHOD_COLOURS:
        return METHOD_COLOURS[method]
    free = [colour for colour in SPARE_COLOURS if colour not in {METHOD_COLOURS.get(name) for name in names}]
    return free[[name for name in names if name not in METHOD_COLOURS].index(method) % len(free)]


def drawn_lines(lines: Mapping[str, Line]) -> dict[str, Line]:
    """The lines to draw, at most `MAX_DRAWN_LINES`: SIFT and its usual rivals, then methods without settings, then
    those that end lowest."""

    def rank(name: str) -> tuple[bool, bool, float, str]:
        end = lines[name][-1][1]
        return name not in METHOD_COLOURS, "+" in name, end if math.isfinite(end) else math.inf, name

    order = sorted(lines, key=rank)[:MAX_DRAWN_LINES]
    return {name: line for name, line in lines.items() if name in order}
