"""Charts that rich lacks: a bar in eighths of a character, a sparkline, and curves in braille dots."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from rich.console import Group
from rich.text import Text

from siftlm.cli.terminal import Terminal

SPARKS = "▁▂▃▄▅▆▇█"
PLAIN_SPARKS = "_.-=+*%#"
WIDEST_CHART = 56


def bar(fraction: float, width: int, terminal: Terminal) -> str:
    """A bar of ``fraction`` of the width, in eighths of a character if the stream has Unicode.

    >>> bar(0.5, 8, Terminal()), bar(0.5, 8, Terminal(unicode=False))
    ('████    ', '####    ')
    """
    fraction = min(1.0, max(0.0, fraction)) if fraction == fraction else 0.0
    if not terminal.unicode:
        return ("#" * round(fraction * width)).ljust(width)
    eighths = round(fraction * width * 8)
    return ("█" * (eighths // 8) + " ▏▎▍▌▋▊▉"[eighths % 8].strip()).ljust(width)


def sparkline(values: Sequence[float], width: int, terminal: Terminal) -> str:
    """A character for each value, or for the mean of several if there are more than ``width``; its height is the value.

    >>> sparkline([1.0, 2.0, 3.0], 10, Terminal()), sparkline([1.0, 1.0], 10, Terminal(unicode=False))
    ('▁▅█', '__')
    """
    if not values or width < 1:
        return ""
    count = min(width, len(values))
    edges = [round(at * len(values) / count) for at in range(count + 1)]
    means = [sum(values[a:b]) / (b - a) for a, b in itertools.pairwise(edges)]
    finite = [value for value in means if math.isfinite(value)]
    low, high = (min(finite), max(finite)) if finite else (0.0, 0.0)
    levels = terminal.pick(SPARKS, PLAIN_SPARKS)
    scale = (len(levels) - 1) / (high - low) if high > low else 0.0
    return "".join(levels[round((value - low) * scale)] if math.isfinite(value) else "?" for value in means)


@dataclass(frozen=True)
class Curve:
    """One line of a chart."""

    name: str
    values: Sequence[float]
    """y at x = 0, 1, 2, …"""
    colour: str
    mark: str
    """The character at each point."""
    plain_mark: str
    """Its substitute in ASCII."""


def titled_chart(
    title: str,
    curves: Sequence[Curve],
    terminal: Terminal,
    *,
    width: int,
    height: int = 11,
    x_name: str = "",
    low: float = 0.0,
    top: float = 1.0,
    label: Callable[[float], str] = "{:.2f}".format,
) -> Group:
    """A chart under its title and legend; if there is little room, the curves are named in the legend only."""
    marks = Text("   ").join(Text(f"{terminal.pick(c.mark, c.plain_mark)} {c.name}", c.colour) for c in curves)
    head = [Text.assemble((title, "bold"), "   ", marks)]
    if width < head[0].cell_len:
        head = [Text(title, "bold"), marks]
        curves = [replace(curve, name="") for curve in curves]
    ends = max(len(curve.name) for curve in curves) + len(label(top)) + 2
    room = max(10, min(WIDEST_CHART, width - 6 - max(ends, len(x_name) + 4)))
    drawn = chart(curves, terminal, width=room, height=height, x_name=x_name, low=low, top=top, label=label)
    return Group(*head, drawn)


def chart(
    curves: Sequence[Curve],
    terminal: Terminal,
    *,
    width: int,
    height: int = 11,
    x_name: str = "",
    low: float = 0.0,
    top: float | None = None,
    label: Callable[[float], str] = "{:.2f}".format,
) -> Text:
    """Curves over x = 0, 1, 2, … with y from ``low`` to ``top`` (default: the largest value), named at their ends.

    NaN reserves room for a point that is not known yet. Lines are braille dots, points are marks; in ASCII there are
    only marks.
    """
    last = max(len(curve.values) for curve in curves) - 1
    if top is None:
        top = max([v for curve in curves for v in curve.values if math.isfinite(v)], default=0.0) or 1.0
    reach = (top - low) or 1.0
    grid = _Grid(width, height)
    placed = [
        [(x / max(1, last), (y - low) / reach) for x, y in enumerate(curve.values) if math.isfinite(y)]
        for curve in curves
    ]
    if terminal.unicode:
        for curve, points in zip(curves, placed, strict=True):
            for start, end in itertools.pairwise(points):
                grid.line(start, end, curve.colour)
    for curve, points in zip(curves, placed, strict=True):
        for x, y in points:
            grid.mark(x, y, terminal.pick(curve.mark, curve.plain_mark), curve.colour)
    labels = _labels(curves, low, reach, height, label)
    middle = height // 2
    scale = {0: f"{top:.3g}", middle: f"{top - reach * middle / (height - 1):.3g}", height - 1: f"{low:.3g}"}
    lines = []
    for row in range(height):
        axis = Text(f"{scale.get(row, ''):>4} {terminal.pick('┤', '|')}", "dim")
        lines.append(Text.assemble(axis, *grid.row(row), " ", labels.get(row, "")))
    lines.append(Text(" " * 5 + terminal.pick("└", "+") + terminal.pick("─", "-") * width, "dim"))
    lines.append(Text(" " * 6 + _ticks(last, width) + f" {x_name}", "dim"))
    return Text("\n", no_wrap=True, overflow="ellipsis").join(lines)


def _labels(
    curves: Sequence[Curve], low: float, reach: float, height: int, label: Callable[[float], str]
) -> dict[int, tuple[str, str]]:
    """Row -> the label at its end; labels of curves that end in the same row move apart."""
    labels: dict[int, tuple[str, str]] = {}
    ends = [(next((v for v in reversed(curve.values) if math.isfinite(v)), low), curve) for curve in curves]
    for end, curve in sorted(ends, key=lambda pair: -pair[0]):
        row = round((1 - (end - low) / reach) * (height - 1))
        while row in labels:
            row += 1
        labels[row] = (f"{curve.name} {label(end)}".strip(), curve.colour)
    overflow = max(0, max(labels, default=0) - (height - 1))
    return {row - overflow: label for row, label in labels.items()}


def _ticks(last: int, width: int) -> str:
    """The numbers below the x axis, as many as fit."""
    every = next(e for e in (1, 2, 5, 10, 20, 50, 100, 10**9) if last / e * 4 <= width)
    ticks = [" "] * (width + 3)
    for x in range(0, last + 1, every):
        at = round(x / max(1, last) * (width - 1))
        ticks[at : at + len(str(x))] = str(x)
    return "".join(ticks).rstrip()


class _Grid:
    """A grid of character cells, each of 2 × 4 braille dots."""

    DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))

    def __init__(self, width: int, height: int) -> None:
        self.width, self.height = width, height
        self.dots = [[0] * width for _ in range(height)]
        self.marks: dict[tuple[int, int], str] = {}
        self.colours: dict[tuple[int, int], str] = {}

    def _at(self, x: float, y: float) -> tuple[float, float]:
        """Coordinates in [0, 1] as dots; 0 and 1 are the centres of the outermost cells."""
        return x * (self.width - 1) * 2 + 0.5, (1 - y) * (self.height - 1) * 4 + 1.5

    def line(self, start: tuple[float, float], end: tuple[float, float], colour: str) -> None:
        (x0, y0), (x1, y1) = self._at(*start), self._at(*end)
        steps = max(1, round(2 * max(abs(x1 - x0), abs(y1 - y0))))
        for step in range(steps + 1):
            x, y = round(x0 + (x1 - x0) * step / steps), round(y0 + (y1 - y0) * step / steps)
            row, column = min(y // 4, self.height - 1), min(x // 2, self.width - 1)
            self.dots[row][column] |= self.DOTS[y % 4][x % 2]
            self.colours[row, column] = colour

    def mark(self, x: float, y: float, character: str, colour: str) -> None:
        row, column = round((1 - y) * (self.height - 1)), round(x * (self.width - 1))
        self.marks[row, column] = character
        self.colours[row, column] = colour

    def row(self, row: int) -> Iterator[tuple[str, str]]:
        for column, dots in enumerate(self.dots[row]):
            character = self.marks.get((row, column)) or (chr(0x2800 + dots) if dots else " ")
            yield character, self.colours.get((row, column), "")
