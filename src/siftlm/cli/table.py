"""A selection as lines for a person, or as one record for a program."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from siftlm.cli.drawing import Terminal, bar, clip, one_line

if TYPE_CHECKING:
    from siftlm.types import Explanation, Selection

BAR = 16
TEXT = 24  # columns that a text should have before the bar is drawn beside it
SNIPPET = 80
WHY = {
    "n": "as many as asked for",
    "adaptive": "stopped: one more would not have paid (--adaptive)",
    "until": "stopped: sure enough (--until)",
    "min_gain": "stopped: the next would have told too little (--min-gain)",
    "budget": "stopped: the budget is spent",
    "exhausted": "stopped: nothing left that may be picked",
}


def record(selection: Selection, texts: Sequence[str] | None, *, explain: bool) -> dict[str, Any]:
    """``Selection.to_dict()``, with the picked texts and the explanation if they were asked for."""
    found = selection.to_dict()
    if texts is not None:
        found["texts"] = [texts[int(index)] for index in selection.indices]
    if explain:
        why = asdict(selection.explain())
        found["explanation"] = {name: why[name].tolist() for name in ("relevance", "overlap", "served")}
    return found


def rows(
    selection: Selection, texts: Sequence[str] | None, size: int, terminal: Terminal, *, explain: bool
) -> list[str]:
    """A head line, then a line a pick."""
    traced = len(selection.uncertainty) > 0 and bool(selection.uncertainty[0] == selection.uncertainty[0])
    why = selection.explain() if explain else None
    several = why is not None and len(set(why.served.tolist())) > 1
    repeats = len(selection) - len(selection.distinct)
    head = f"{selection.method}, λ = {selection.noise:g}: {len(selection)} of {size:,} candidates"
    head += f", {repeats} of them again" if repeats else ""
    head += f"; {WHY.get(selection.stopped, selection.stopped)}"
    titles = f"{'pick':>4} {'index':>8} {'gain':>10}"
    titles += (f" {'relevance':>9} {'overlap':>7}" + (f" {'target':>6}" if several else "")) if why is not None else ""
    room = terminal.width - len(titles) - 10 - (TEXT + 2 if texts is not None else 0) if terminal.fixed else BAR
    length = max(0, min(BAR, room)) if room >= 8 else 0  # of the bar; a stump would say nothing
    title = "uncertainty left" if length else "left"
    titles += f"  {title:<{7 + (1 + length if length else 0)}}" if traced else ""
    beside = texts is not None and (not terminal.fixed or terminal.width - len(titles) - 2 >= TEXT // 2)
    lines = [head, "", terminal.paint(titles + ("  text" if beside else ""), "dim")]
    if traced:
        before = " " * titles.index(title) + _left(selection, 0, length, terminal)
        lines.append(before.rstrip())
    for at in range(len(selection)):
        lines.append(_row(selection, at, why, terminal, length, several=several, traced=traced))
        if texts is not None:
            lines[-1] += _snippet(texts[int(selection.indices[at])], len(titles), terminal)
        lines[-1] = lines[-1].rstrip()
    return lines


def _row(
    selection: Selection,
    at: int,
    why: Explanation | None,
    terminal: Terminal,
    length: int,
    *,
    several: bool,
    traced: bool,
) -> str:
    row = f"{at + 1:>4} {selection.indices[at]:>8} {selection.gains[at]:>10.4g}"
    if why is not None:
        row += f" {why.relevance[at]:>9.3f} {why.overlap[at]:>7.3f}" + (f" {why.served[at]:>6}" if several else "")
    return row + (f"  {_left(selection, at + 1, length, terminal)}" if traced else "")


def _left(selection: Selection, at: int, length: int, terminal: Terminal) -> str:
    first, now = float(selection.uncertainty[0]), float(selection.uncertainty[at])
    drawn = terminal.paint(bar(now / first if first > 0 else 0.0, length, terminal), "cyan")
    return f"{now:>7.4f} {drawn}" if length else f"{now:>7.4f}"


def _snippet(text: str, used: int, terminal: Terminal) -> str:
    room = terminal.width - used - 2 if terminal.fixed else SNIPPET
    dots = terminal.pick("…", "...")
    if room < TEXT // 2:  # a narrow screen: the text gets a line of its own
        return "\n     " + clip(one_line(text), max(TEXT // 2, terminal.width - 5), dots)
    return "  " + clip(one_line(text), min(room, SNIPPET), dots)
