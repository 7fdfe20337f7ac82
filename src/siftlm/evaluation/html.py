"""Web pages in one file: text, tables and charts as inline SVG, for light and dark screens, without scripts.

All functions return HTML; `escape_html` makes any text safe in it.
"""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

PALETTE = """\
:root { --ink: #1d2430; --faint: #667085; --line: #d8dde6; --paper: #ffffff; --panel: #f6f7f9;
  --a: #b45309; --b: #0e7490; --c: #7c3aed; --d: #475467; --e: #15803d; --f: #be123c; --g: #1d4ed8; --h: #a16207;
  color-scheme: light dark; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ef; --faint: #98a2b3; --line: #344054; --paper: #12161d;
  --panel: #1b212b; --a: #fbbf24; --b: #22d3ee; --c: #c4b5fd; --d: #cbd5e1; --e: #4ade80;
  --f: #fb7185; --g: #93c5fd; --h: #fde047; } }
"""
DRAWING_STYLE = """\
svg text { fill: var(--faint); font: 12px system-ui, sans-serif; }
svg .axis { stroke: var(--line); } svg polyline { fill: none; stroke-width: 2.2; stroke-linejoin: round; }
"""
PAGE_STYLE = (
    PALETTE
    + DRAWING_STYLE
    + """\
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 2rem 1.25rem 4rem; max-width: 68rem; background: var(--paper); color: var(--ink);
  font: 16px/1.55 system-ui, sans-serif; }
h1 { font-size: 1.7rem; margin: 0 0 .25rem; } h2 { font-size: 1.25rem; margin: 2.5rem 0 .5rem; }
h3 { font-size: 1rem; margin: 1rem 0 .25rem; }
p { max-width: 46rem; } figcaption { font-weight: 600; } .faint { color: var(--faint); } figure { margin: .5rem 0; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: .3rem .6rem; border-bottom: 1px solid var(--line); vertical-align: top; }
th:first-child, td:first-child { text-align: left; } th + th, td + td { white-space: nowrap; }
td.best { font-weight: 650; }
.wide { overflow-x: auto; }
pre { background: var(--panel); padding: .75rem; margin: .25rem 0; overflow-x: auto; white-space: pre-wrap;
  overflow-wrap: anywhere; border-radius: .4rem; font: 13px/1.45 ui-monospace, monospace; }
.beside { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fit, minmax(min(20rem, 100%), 1fr)); }
.beside > * { min-width: 0; }
ol.picks { padding-left: 1.6rem; } ol.picks li { margin: .3rem 0; }
ol.picks small { color: var(--faint); display: block; }
.again { opacity: .55; }
.finding { font-size: 1.05rem; border-left: .25rem solid var(--b); padding-left: .75rem; }
ol.picks li.own pre { border-left: .3rem solid var(--line); }
ol.picks li.a pre { border-color: var(--a); } ol.picks li.b pre { border-color: var(--b); }
details > summary { cursor: pointer; color: var(--faint); }
svg { width: 100%; height: auto; display: block; }
@media (max-width: 40rem) { body { padding: 1rem .75rem 3rem; } h1 { font-size: 1.4rem; } table { font-size: .8rem; }
  th, td { padding: .3rem .25rem; } th + th, td + td { white-space: normal; }
  td:first-child { overflow-wrap: anywhere; min-width: 6rem; } pre { padding: .5rem; }
  svg text { font-size: 13px; } }
"""
)


# Pixels between the names of two lines.
LABEL_LINE_HEIGHT = 15.0


@dataclass(frozen=True)
class Series:
    """One line of a chart."""

    name: str
    points: Sequence[tuple[float, float]]
    """(x, y) by increasing x; the line is interrupted where y is not finite."""
    colour: str = "b"
    """A colour of the page's palette, ``a`` to ``h``."""
    dashed: bool = False


def escape_html(text: object) -> str:
    """The text with HTML's special characters escaped.

    >>> escape_html("a < b")
    'a &lt; b'
    """
    return html.escape(str(text))


def html_page(title: str, body: Sequence[str]) -> str:
    """A whole page."""
    head = '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
    head += f"<title>{escape_html(title)}</title><style>{PAGE_STYLE}</style>"
    return f'<!doctype html>\n<html lang="en"><head>{head}</head>\n<body>\n' + "\n".join(body) + "\n</body></html>\n"


def html_table(head: Sequence[str], rows: Sequence[Sequence[str]], best: Sequence[int | None] = ()) -> str:
    """A table of text; ``best``: each row's column in bold, or None."""
    lines = ["<tr>" + "".join(f"<th>{escape_html(cell)}</th>" for cell in head) + "</tr>"]
    for place, row in enumerate(rows):
        bold = best[place] if place < len(best) else None
        cells = (
            f'<td class="best">{escape_html(c)}</td>' if at == bold else f"<td>{escape_html(c)}</td>"
            for at, c in enumerate(row)
        )
        lines.append("<tr>" + "".join(cells) + "</tr>")
    return '<div class="wide"><table>' + "\n".join(lines) + "</table></div>"


def side_by_side(*blocks: str) -> str:
    """Blocks side by side where there is room."""
    return '<div class="beside">' + "".join(f"<div>{block}</div>" for block in blocks) + "</div>"


def line_chart(
    series: Sequence[Series],
    *,
    title: str,
    x_name: str,
    y_name: str,
    from_zero: bool = False,
    log: bool = False,
    size: tuple[int, int] = (480, 240),
) -> str:
    """A line chart, with each line's name at its end. ``log``: x is logarithmic, and points with x ≤ 0 are left out."""
    if log:
        series = [replace(one, points=[(math.log10(x), y) for x, y in one.points if x > 0]) for one in series]
    points = [point for one in series for point in one.points if math.isfinite(point[1])]
    if not points:
        return ""
    frame = _Frame(points, size, from_zero, max(len(one.name) for one in series))
    feet = _log_ticks(frame) if log else [(value, f"{value:g}") for value in frame.feet]
    parts = [f'<svg viewBox="0 0 {size[0]} {size[1]}" role="img" aria-label="{escape_html(title)}">']
    for value in frame.ticks:
        y = frame.y(value)
        parts.append(f'<line class="axis" x1="{frame.left}" x2="{frame.right}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{frame.left - 6}" y="{y + 4:.1f}" text-anchor="end">{value:.3g}</text>')
    foot = f'y="{frame.bottom + 18}" text-anchor="middle"'
    parts += [f'<text x="{frame.x(value):.1f}" {foot}>{name}</text>' for value, name in feet]
    parts.append(f'<text x="{frame.right}" y="{size[1] - 4}" text-anchor="end">{escape_html(x_name)}</text>')
    parts.append(f'<text x="4" y="13">{escape_html(y_name)}</text>')
    parts += [_polyline(one, frame) for one in series]
    parts += _series_labels(series, frame)
    return f"<figure><figcaption>{escape_html(title)}</figcaption>{''.join(parts)}</svg></figure>"


def interval_chart(
    rows: Sequence[tuple[str, float, float, float, str]], *, title: str, x_name: str, width: int = 720
) -> str:
    """A chart of intervals: one row (name, value, low, high, colour) a line, with zero marked."""
    rows = [row for row in rows if all(math.isfinite(number) for number in row[1:4])]
    if not rows:
        return ""
    ends = [(end, 0.0) for row in rows for end in row[1:4]] + [(0.0, 0.0)]
    left, height = min(24 + 7 * max(len(row[0]) for row in rows), width // 2), 24 * len(rows) + 44
    frame = _Frame(ends, (width, height), from_zero=False, letters=0)
    frame.left, frame.right = left, width - 16
    parts = [f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape_html(title)}">']
    for value in frame.feet:
        x = f"{frame.x(value):.1f}"
        wide = ' style="stroke:var(--faint)"' if value == 0 else ""
        parts.append(f'<line class="axis" x1="{x}" x2="{x}" y1="4" y2="{height - 36}"{wide}/>')
        parts.append(f'<text x="{x}" y="{height - 20}" text-anchor="middle">{value:g}</text>')
    for place, (name, value, low, high, colour) in enumerate(rows):
        y, style = 20 + 24 * place, f"var(--{colour})"
        parts.append(f'<text x="{left - 12}" y="{y + 4}" text-anchor="end">{escape_html(name)}</text>')
        parts.append(f'<polyline points="{frame.x(low):.1f},{y} {frame.x(high):.1f},{y}" style="stroke:{style}"/>')
        parts.append(f'<circle cx="{frame.x(value):.1f}" cy="{y}" r="4" style="fill:{style}"/>')
    parts.append(f'<text x="{frame.right}" y="{height - 4}" text-anchor="end">{escape_html(x_name)}</text>')
    return f"<figure><figcaption>{escape_html(title)}</figcaption>{''.join(parts)}</svg></figure>"


@dataclass(frozen=True)
class Points:
    """Points of one kind in a plane."""

    name: str
    points: Sequence[tuple[float, float]]
    colour: str = "b"
    """A colour of the page's palette, ``a`` to ``h``."""
    radius: float = 2.5
    opacity: float = 0.7


def scatter_chart(kinds: Sequence[Points], *, title: str, size: tuple[int, int] = (720, 480)) -> str:
    """Points in a plane without axes, the first kind lowest, with a legend."""
    every = [point for kind in kinds for point in kind.points]
    if not every:
        return ""
    xs, ys = [x for x, _ in every], [y for _, y in every]
    foot, margin = 28, 12
    scale = min(
        (size[0] - 2 * margin) / max(max(xs) - min(xs), 1e-9),
        (size[1] - 2 * margin - foot) / max(max(ys) - min(ys), 1e-9),
    )
    middle = ((min(xs) + max(xs)) / 2, (min(ys) + max(ys)) / 2)
    parts = [f'<svg viewBox="0 0 {size[0]} {size[1]}" role="img" aria-label="{escape_html(title)}">']
    for kind in kinds:
        parts.append(f'<g style="fill:var(--{kind.colour});opacity:{kind.opacity:g}">')
        for x, y in kind.points:
            across, down = size[0] / 2 + (x - middle[0]) * scale, (size[1] - foot) / 2 - (y - middle[1]) * scale
            parts.append(f'<circle cx="{across:.1f}" cy="{down:.1f}" r="{kind.radius:g}"/>')
        parts.append("</g>")
    left = float(margin)
    for kind in kinds:
        parts.append(f'<circle cx="{left + 4:.1f}" cy="{size[1] - 12}" r="4" style="fill:var(--{kind.colour})"/>')
        parts.append(f'<text x="{left + 14:.1f}" y="{size[1] - 8}">{escape_html(kind.name)}</text>')
        left += 34 + 7 * len(kind.name)
    return f"<figure><figcaption>{escape_html(title)}</figcaption>{''.join(parts)}</svg></figure>"


def standalone_svg(drawn: str) -> str:
    """The SVG of a chart as a file of its own."""
    picture = drawn[drawn.index("<svg") : drawn.index("</svg>") + len("</svg>")]
    head, rest = picture.split(">", 1)
    return f'{head} xmlns="http://www.w3.org/2000/svg"><style>{PALETTE}{DRAWING_STYLE}</style>{rest}\n'


def _log_ticks(frame: _Frame) -> list[tuple[float, str]]:
    """Ticks at powers of ten, or at the ends if there are fewer than two powers between them."""
    low, high = frame.reach
    whole = list(range(math.ceil(low - 1e-9), math.floor(high + 1e-9) + 1))
    every = max(1, math.ceil(len(whole) / 8))
    feet: list[float] = [*whole[::every]] if len(whole) > 1 else [low, high]
    return [(at, f"{10**at:,.0f}" if 3 <= at < 9 else f"{10**at:.3g}") for at in feet]


def _polyline(one: Series, frame: _Frame) -> str:
    runs: list[list[str]] = [[]]
    for x, y in one.points:
        if math.isfinite(y):
            runs[-1].append(f"{frame.x(x):.1f},{frame.y(y):.1f}")
        elif runs[-1]:
            runs.append([])
    dash = ' stroke-dasharray="5 4"' if one.dashed else ""
    style = f'style="stroke:var(--{one.colour})"{dash}'
    return "".join(f'<polyline points="{" ".join(run)}" {style}/>' for run in runs if run)


def _series_labels(series: Sequence[Series], frame: _Frame) -> list[str]:
    """The names at the ends of the lines, moved apart where they would overlap."""
    ends = [(frame.y(last), one) for one in series if (last := _last_point(one)) is not None]
    ends.sort(key=lambda pair: pair[0])
    places: list[float] = []
    for y, _ in ends:
        places.append(max(y, places[-1] + LABEL_LINE_HEIGHT) if places else y)
    above = frame.bottom + LABEL_LINE_HEIGHT
    for at in reversed(range(len(places))):  # names below the picture push the others up
        above = places[at] = min(places[at], above - LABEL_LINE_HEIGHT)
    return [
        f'<text x="{frame.right + 6}" y="{y + 4:.1f}" style="fill:var(--{one.colour})">{escape_html(one.name)}</text>'
        for y, (_, one) in zip(places, ends, strict=True)
    ]


def _last_point(one: Series) -> float | None:
    return next((y for _, y in reversed(one.points) if math.isfinite(y)), None)


class _Frame:
    """The axes of a chart: numbers to pixels."""

    def __init__(
        self, points: Sequence[tuple[float, float]], size: tuple[int, int], from_zero: bool, letters: int
    ) -> None:
        room = min(max(128, 7 * letters + 14), size[0] // 2)  # pixels for names at the right
        self.left, self.right, self.top, self.bottom = 46, size[0] - room, 24, size[1] - 36
        xs, ys = [x for x, _ in points], [y for _, y in points]
        low, high = (0.0 if from_zero else min(ys)), max(ys)
        step = _tick_step((high - low) or abs(high) or 1.0, 5)
        self._low, self._high = math.floor(low / step) * step, math.ceil(high / step) * step
        if self._high == self._low:
            self._high += step
        self._x0, self._x1 = min(xs), max(max(xs), min(xs) + 1e-9)
        self.ticks = [self._low + step * at for at in range(round((self._high - self._low) / step) + 1)]
        foot = _tick_step(self._x1 - self._x0, 6)
        first = math.ceil(self._x0 / foot)
        self.feet = [foot * at for at in range(first, math.floor(self._x1 / foot + 1e-9) + 1)]

    @property
    def reach(self) -> tuple[float, float]:
        """The least and the largest x."""
        return self._x0, self._x1

    def x(self, value: float) -> float:
        return self.left + (value - self._x0) / (self._x1 - self._x0) * (self.right - self.left)

    def y(self, value: float) -> float:
        return self.bottom - (value - self._low) / (self._high - self._low) * (self.bottom - self.top)


def _tick_step(reach: float, count: int) -> float:
    """A tick distance for about ``count`` ticks within ``reach``: 1, 2 or 5 times a power of ten.

    >>> _tick_step(20, 5), _tick_step(0.7, 5)
    (5.0, 0.2)
    """
    raw = max(reach, 1e-9) / count
    power: float = 10.0 ** math.floor(math.log10(raw))
    return next(multiple * power for multiple in (1.0, 2.0, 5.0, 10.0) if multiple * power >= raw * (1 - 1e-9))
