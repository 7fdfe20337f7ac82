"""Figures of a selection. They need matplotlib (the extra ``plot``) and touch none of its global state."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from siftlm import extras, validation
from siftlm.errors import InvalidInput
from siftlm.selection.kernels import FeatureKernel, KernelFunction
from siftlm.selection.select import select
from siftlm.types import FloatArray, Selection

FIGURE_NOISES = tuple(float(noise) for noise in np.logspace(-3, 2, 21))
RANDOM_DRAWS = 8
INK, QUIET = "#1f2933", "#7b8794"
NEAREST, RANDOM = "#d1495b", "#7b8794"


@dataclass(frozen=True)
class TradeOff:
    """Where a selection stands between relevance and redundancy."""

    relevance: float
    """Mean over the picks of the largest similarity to a target."""
    redundancy: float
    """Mean over the picks, the first left out, of the largest similarity to an earlier pick."""


ReferencePoint = tuple[TradeOff, str, str, str]
"""A point to compare with: where, its name, its marker, its colour."""


def trade_off(selection: Selection) -> TradeOff:
    """The mean relevance and the mean overlap of the picks; similarity is the kernel, 1 for equal texts.

    >>> s = select([1.0, 1.0], [[1.0, 0.0], [0.0, 1.0]], n=2)
    >>> trade_off(s)
    TradeOff(relevance=0.70..., redundancy=0.0)
    """
    why = selection.explain()
    later = why.overlap[1:]
    return TradeOff(float(why.relevance.mean()), float(later.mean()) if len(later) else 0.0)


def relevance_redundancy(
    query: npt.ArrayLike | None,
    candidates: npt.ArrayLike,
    n: int = 10,
    *,
    noises: Sequence[float] = FIGURE_NOISES,
    kernel: KernelFunction | FeatureKernel | None = None,
    normalize: bool = True,
    seed: int = 0,
) -> Any:
    """Draw what λ trades: the mean relevance of SIFT's picks against their mean redundancy.

    The curve runs through ``noises``, λ written along it. Nearest neighbours and random picks (the mean of
    eight draws) are there to compare with. Up is more relevant, left is less repeated.

    Args:
        query, candidates, kernel, normalize: as in ``select``.
        n: how many are picked; at least 2, because one pick repeats nothing.
        noises: the values of λ.
        seed: of the random picks.

    Returns:
        A ``matplotlib.figure.Figure``; ``figure.savefig("trade-off.png")`` writes it.
    """
    if query is None:
        raise InvalidInput("relevance and redundancy need a query")
    n = validation.whole_number("n", n, least=2)
    if not len(noises):
        raise InvalidInput("noises is empty")
    figure = extras.load("matplotlib.figure", "plot").Figure(figsize=(7.2, 5.0), layout="constrained")
    about: dict[str, Any] = {"kernel": kernel, "normalize": normalize}

    def point(**settings: Any) -> TradeOff:
        return trade_off(select(query, candidates, n, **about, **settings))

    noises = sorted(float(noise) for noise in noises)
    curve = [point(noise=noise) for noise in noises]
    nearest = point(method="nearest")
    draws = [point(method="random", seed=seed + draw) for draw in range(RANDOM_DRAWS)]
    lot = TradeOff(
        float(np.mean([d.relevance for d in draws])),
        float(np.mean([d.redundancy for d in draws])),
    )
    references = [(nearest, "nearest neighbours", "D", NEAREST), (lot, "random", "s", RANDOM)]
    axes = figure.add_subplot()
    _style_axes(axes, n)
    _draw_curve(axes, curve, noises)
    for at, _, marker, colour in references:
        _draw_reference(axes, at, marker, colour)
    _place_labels(figure, axes, curve, noises, references)
    return figure


def _style_axes(axes: Any, n: int) -> None:
    axes.set_xlabel("redundancy: mean similarity to the closest earlier pick", color=INK)
    axes.set_ylabel("relevance: mean similarity to the prompt", color=INK)
    axes.set_title(f"What λ trades, {n} picks", loc="left", color=INK, fontsize=12, fontweight="bold", pad=12)
    axes.set_title("better: up and to the left ↖", loc="right", color=QUIET, fontsize=9, pad=12)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color("#cbd2d9")
    axes.tick_params(colors=QUIET, labelsize=9)
    axes.grid(color="#e4e7eb", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.margins(0.12)


def _draw_curve(axes: Any, curve: Sequence[TradeOff], noises: Sequence[float]) -> None:
    x, y = [p.redundancy for p in curve], [p.relevance for p in curve]
    axes.plot(x, y, color="#9fb3c8", linewidth=1.6, zorder=2)
    axes.scatter(x, y, c=np.log10(noises), cmap="viridis_r", s=46, edgecolors="white", linewidths=1.0, zorder=3)


def _draw_reference(axes: Any, at: TradeOff, marker: str, colour: str) -> None:
    axes.scatter([at.redundancy], [at.relevance], marker=marker, s=64, color=colour, edgecolors="white", zorder=4)


def _place_labels(
    figure: Any,
    axes: Any,
    curve: Sequence[TradeOff],
    noises: Sequence[float],
    references: Sequence[ReferencePoint],
) -> None:
    """Write the names of the references, and λ along the curve, where they cover as little as possible."""
    figure.draw_without_rendering()  # the layout is final only now
    scale = figure.dpi / 72
    line = axes.transData.transform([(p.redundancy, p.relevance) for p in curve]) / scale
    marks = axes.transData.transform([(at.redundancy, at.relevance) for at, *_ in references]) / scale
    frame = np.array(axes.bbox.extents).reshape(2, 2) / scale
    page = _LabelLayout(
        np.concatenate([_points_along(line), *(_points_around(mark) for mark in (*marks, *line))]), frame
    )
    halo = extras.load("matplotlib.patheffects", "plot").withStroke(linewidth=3, foreground="white")

    def write(text: str, point: TradeOff, spot: FloatArray, size: float, **style: Any) -> None:
        offset = page.place(spot, len(text) * size * (0.68 if "fontweight" in style else 0.6), size) - spot
        axes.annotate(
            text,
            (point.redundancy, point.relevance),
            xytext=tuple(offset),
            textcoords="offset points",
            ha="center",
            va="center_baseline",
            fontsize=size,
            zorder=5,
            path_effects=[halo],
            in_layout=False,
            **style,
        )

    for (point, name, _, colour), mark in zip(references, marks, strict=True):
        write(name, point, mark, 10.0, color=colour, fontweight="bold")
    for number, (low, high, at) in enumerate(_curve_labels(noises, line)):
        text = f"{low:g}" if low == high else f"{low:g} … {high:g}"
        write(text if number else f"λ = {text}", curve[at], line[at], 9.0, color=INK)


def _curve_labels(noises: Sequence[float], line: FloatArray) -> list[tuple[float, float, int]]:
    """What stands along the curve: whole powers of ten, if there are any; equal points share one label."""
    whole = [at for at, noise in enumerate(noises) if abs(np.log10(noise) - round(np.log10(noise))) < 1e-9]
    marked: list[tuple[float, float, int]] = []
    for at in whole or range(len(noises)):
        if marked and np.hypot(*(line[at] - line[marked[-1][2]])) < 4:
            marked[-1] = (marked[-1][0], noises[at], marked[-1][2])
        else:
            marked.append((noises[at], noises[at], at))
    return marked


def _points_along(line: FloatArray) -> FloatArray:
    """Points every few units along a line."""
    pieces = [line[:1]]
    for start, end in itertools.pairwise(line):
        steps = max(2, int(np.hypot(*(end - start)) / 3))
        pieces.append(np.linspace(start, end, steps))
    return np.concatenate(pieces)


def _points_around(mark: FloatArray) -> FloatArray:
    """Points that stand for the area of a mark."""
    turns = np.linspace(0, 2 * np.pi, 8, endpoint=False)
    ring: FloatArray = mark + 4.0 * np.stack([np.cos(turns), np.sin(turns)], axis=1)
    return ring


class _LabelLayout:
    """What is drawn already, in points; finds free places for labels."""

    def __init__(self, drawn: FloatArray, frame: FloatArray) -> None:
        self._drawn, self._frame = drawn, frame

    def place(self, spot: FloatArray, width: float, height: float) -> FloatArray:
        """The middle of a box near ``spot`` that covers least; the box is taken from then on."""
        half = np.array([width, height]) / 2
        best, least = spot, np.inf
        for turn in np.linspace(0, 2 * np.pi, 16, endpoint=False):
            towards = np.array([np.cos(turn), np.sin(turn)])
            for away in (7.0, 12.0, 20.0):
                # The edge of the box, not its middle, is what should be this far away.
                middle = spot + towards * (away + min(half / np.maximum(np.abs(towards), 1e-9)))
                badness = self._covered(middle, half + 2) + away / 7.0
                if badness < least:
                    best, least = middle, badness
        inner = np.stack(np.meshgrid(np.linspace(-1, 1, 9), np.linspace(-1, 1, 3)), axis=-1).reshape(-1, 2)
        self._drawn = np.concatenate([self._drawn, best + inner * half])
        return best

    def _covered(self, middle: FloatArray, half: FloatArray) -> float:
        covered = np.count_nonzero((np.abs(self._drawn - middle) < half).all(axis=1))
        inside = (middle - half > self._frame[0]).all() and (middle + half < self._frame[1]).all()
        return float(covered) + (0 if inside else 50)
