"""Tables of selections and search results, and two blocks side by side."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from rich import box
from rich.cells import cell_len
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from siftlm.cli.charts import bar
from siftlm.cli.terminal import Terminal, clip_start, indented, one_line, table

if TYPE_CHECKING:
    from siftlm.memory import Found, Hit
    from siftlm.types import Selection

BAR_COLUMNS = 12
SOURCE_COLUMNS = 28
TEXT_COLUMNS = 30  # the least for a text beside the numbers; with fewer it goes below them
SNIPPET_COLUMNS = 100  # the most for a text where the screen sets no limit
SIDE_BY_SIDE_COLUMNS = 90
WIDEST_COMPARISON = 160
EXCERPT_LINES = 3  # of each text in a comparison
INDENT = 5
# Metadata fields that name the origin of a passage, in order of preference.
ORIGINS = ("path", "file", "filename", "source", "url", "title", "name", "dataset", "pile_set_name")
STOPPED = {
    "adaptive": "stopped by --adaptive: one more step is not worth it",
    "until": "stopped by --until: the uncertainty is low enough",
    "min_gain": "stopped by --min-gain: the next gain is too small",
    "min_growth": "stopped by --min-growth: one more pick would add too little to what these tell",
    "budget": "stopped by --budget",
    "exhausted": "stopped: no candidates left",
}


# --- one table of picks


@dataclass(frozen=True)
class PickTable:
    """The picks of one selection, column by column."""

    numbers: dict[str, list[str]]
    """Title -> a number for each pick."""
    uncertainty: Sequence[float]
    """Before the first pick and after each; empty or NaN if the method reports none."""
    texts: Sequence[str] | None = None
    sources: Sequence[str] | None = None
    words: Collection[str] = ()
    """Words of the prompt, in bold in the texts."""

    def parts(self, terminal: Terminal, *, full: bool = False) -> list[RenderableType]:
        """A table if the texts fit beside the numbers; else each text below its numbers."""
        numbers = sum(2 + max(map(len, [title, *column])) for title, column in self.numbers.items())
        traced = len(self.uncertainty) > 0 and self.uncertainty[0] == self.uncertainty[0]
        sources = [clip_start(terminal.spell(one), SOURCE_COLUMNS) for one in self.sources or ()]
        fixed = numbers + (BAR_COLUMNS + 10 if traced else 0)
        fixed += 2 + max(map(cell_len, sources), default=0) if any(sources) else 0
        needed = fixed + (TEXT_COLUMNS if self.texts is not None else 0)
        if full or (terminal.fixed and terminal.width < needed):
            return self._stacked(terminal, traced=traced, full=full)
        rows = table()
        for title in self.numbers:
            rows.add_column(title, justify="right", no_wrap=True)
        if traced:
            rows.add_column("uncertainty left", no_wrap=True)
        if any(sources):
            rows.add_column("source", no_wrap=True, style="green")
        if self.texts is not None:
            rows.add_column("text", max_width=SNIPPET_COLUMNS)
        if traced:
            rows.add_row(*[""] * len(self.numbers), self._left(0, BAR_COLUMNS, terminal))
        for at, cells in enumerate(zip(*self.numbers.values(), strict=True)):
            row: list[RenderableType] = list(cells)
            row += [self._left(at + 1, BAR_COLUMNS, terminal)] if traced else []
            row += [Text(sources[at])] if any(sources) else []
            row += [terminal.line(self.texts[at], words=self.words)] if self.texts is not None else []
            rows.add_row(*row)
        return [rows]

    def _stacked(self, terminal: Terminal, *, traced: bool, full: bool) -> list[RenderableType]:
        widths = {title: max(map(len, [title, *column])) for title, column in self.numbers.items()}
        titles = "  ".join(title.rjust(widths[title]) for title in self.numbers)
        length = BAR_COLUMNS if not terminal.fixed or terminal.width >= len(titles) + BAR_COLUMNS + 10 else 0
        parts: list[RenderableType] = [Text(titles + ("  uncertainty left" if length else "  left") * traced, "dim")]
        if traced:
            parts.append(Text.assemble(" " * (len(titles) + 2), self._left(0, length, terminal)))
        for at in range(len(next(iter(self.numbers.values())))):
            line = Text("  ".join(column[at].rjust(widths[title]) for title, column in self.numbers.items()))
            if traced:
                line.append("  ").append_text(self._left(at + 1, length, terminal))
            parts.append(line)
            parts += self._below(at, terminal, full=full)
        return parts

    def _below(self, at: int, terminal: Terminal, *, full: bool) -> list[RenderableType]:
        """The source and the text of a pick, below its numbers."""
        parts: list[RenderableType] = []
        if self.sources is not None and self.sources[at]:
            source = clip_start(terminal.spell(self.sources[at]), max(SOURCE_COLUMNS, terminal.width - INDENT))
            parts.append(indented(Text(source, "green"), INDENT))
        if self.texts is None:
            return parts
        if full:
            return [*parts, terminal.verbatim(self.texts[at], self.words, indent=INDENT), ""]
        return [*parts, indented(terminal.line(self.texts[at], words=self.words), INDENT)]

    def _left(self, at: int, length: int, terminal: Terminal) -> Text:
        """The uncertainty after this many picks, as a number and a bar."""
        initial, left = float(self.uncertainty[0]), float(self.uncertainty[at])
        number = Text(f"{left:>7.4f}")
        fraction = left / initial if initial > 0 else 0.0
        return number.append(" " + bar(fraction, length, terminal), "cyan") if length else number


def selection_record(selection: Selection, texts: Sequence[str] | None, *, explain: bool) -> dict[str, Any]:
    """``Selection.to_dict()`` with the picked texts, if there are any, and with the explanation if ``explain``."""
    record = selection.to_dict()
    if texts is not None:
        record["texts"] = [texts[int(index)] for index in selection.indices]
    if explain:
        why = asdict(selection.explain())
        record["explanation"] = {name: why[name].tolist() for name in ("relevance", "overlap", "served")}
    return record


def selection_parts(
    selection: Selection, texts: Sequence[str] | None, size: int, terminal: Terminal, *, explain: bool
) -> list[RenderableType]:
    """A heading, then a line for each pick."""
    numbers = {
        "pick": [str(at + 1) for at in range(len(selection))],
        "index": [str(index) for index in selection.indices],
        "gain": [f"{gain:.4g}" for gain in selection.gains],
    }
    if explain:
        why = selection.explain()
        numbers["relevance"] = [f"{value:.3f}" for value in why.relevance]
        numbers["overlap"] = [f"{value:.3f}" for value in why.overlap]
        if len(set(why.served.tolist())) > 1:
            numbers["target"] = [str(target) for target in why.served]
    picked = None if texts is None else [texts[int(index)] for index in selection.indices]
    rows = PickTable(numbers, selection.uncertainty.tolist(), picked)
    return [_heading(selection, f"{size:,} candidates"), "", *rows.parts(terminal)]


def found_parts(found: Found, prompt: str | None, terminal: Terminal, *, full: bool) -> list[RenderableType]:
    """A heading, then a line or the whole passage for each pick."""
    numbers = {
        "pick": [str(at + 1) for at in range(len(found))],
        **{title: [f"{score:.3f}" for score in column] for title, column in found.score_columns.items()},
        "gain": [f"{hit.gain:.4g}" for hit in found],
    }
    rows = PickTable(
        numbers,
        found.selection.uncertainty.tolist(),
        [hit.text for hit in found],
        [origin(hit) for hit in found],
        keywords(prompt),
    )
    duration = f"{1000 * sum(found.seconds.values()):,.0f} ms"
    heading = f"{_heading(found.selection, f'{found.considered:,} passages')}; {duration}"
    return [heading, "", *rows.parts(terminal, full=full)]


def _heading(selection: Selection, considered: str) -> str:
    repeats = len(selection) - len(selection.distinct)
    heading = f"{selection.method}, λ = {selection.noise:g}: {len(selection)} of {considered}"
    heading += f", {repeats} of them repeated" if repeats else ""
    return heading if selection.stopped == "n" else f"{heading}; {STOPPED.get(selection.stopped, selection.stopped)}"


# --- side by side


def side_by_side(left: Sequence[RenderableType], right: Sequence[RenderableType], width: int) -> list[RenderableType]:
    """Two blocks with their rows aligned; below each other if the screen is too narrow."""
    if width < SIDE_BY_SIDE_COLUMNS:
        return [*left, "", *right]
    columns = Table(box=box.MINIMAL, show_header=False, show_edge=False, padding=0, border_style="dim")
    column = column_width(width)
    columns.add_column(width=column + 1)
    columns.add_column(width=column)
    blank = [""] * abs(len(left) - len(right))
    for one, other in zip([*left, *blank], [*right, *blank], strict=False):
        columns.add_row(one, Padding(other, (0, 0, 0, 1)))
    return [columns]


def column_width(width: int) -> int:
    """The columns of each of two blocks side by side."""
    return (width - 3) // 2 if width >= SIDE_BY_SIDE_COLUMNS else width


def comparison_parts(
    nearest: Found, found: Found, prompt: str | None, terminal: Terminal, *, full: bool
) -> list[RenderableType]:
    """The nearest neighbours and the other method's picks, side by side."""
    width = min(terminal.width, WIDEST_COMPARISON)
    shared = {hit.row for hit in nearest} & {hit.row for hit in found}
    name = f"{found.selection.method}, λ = {found.selection.noise:g}"
    left = _block("nearest neighbour", nearest, "yellow", shared, terminal, column_width(width), full=full)
    right = _block(name, found, "cyan", shared, terminal, column_width(width), full=full)
    head: list[RenderableType] = [terminal.prose(prompt, "bold"), ""] if prompt else []
    return [*head, *side_by_side(left, right, width), "", *_verdict(nearest, found, shared, terminal)]


def _block(
    name: str, found: Found, colour: str, shared: set[int], terminal: Terminal, column: int, *, full: bool
) -> list[RenderableType]:
    """The name, then each pick: rank, score and source on a line, and some lines of its text."""
    rows: list[RenderableType] = [terminal.line(name, f"bold {colour}")]
    digits = len(str(len(found)))
    for at, hit in enumerate(found, start=1):
        mark = terminal.pick("·", "=") if hit.row in shared else " "
        first = f"{at:>{digits}} {mark} "
        source = clip_start(terminal.spell(origin(hit)), column - len(first) - 7)
        room = column - len(first)
        text = terminal.prose(hit.text) if full else terminal.excerpt(hit.text, room, EXCERPT_LINES)
        text.stylize("" if hit.row in shared else colour)
        head = Text(f"{first}{hit.score:.3f}  {source}".rstrip(), "dim", no_wrap=True, overflow="ellipsis")
        rows.append(Group(head, indented(text, len(first))))
    return rows


def _verdict(nearest: Found, found: Found, shared: set[int], terminal: Terminal) -> list[RenderableType]:
    """Counts that compare the two."""
    name = found.selection.method
    lines: list[RenderableType] = [f"{terminal.pick('·', '=')} picked by both: {len(shared)} of {len(found)}."]
    left = [float(one.selection.uncertainty[-1]) for one in (nearest, found)]
    if all(value == value for value in left):
        initial = float(found.selection.uncertainty[0])
        lines.append(f"uncertainty left of {initial:.4f}: nearest {left[0]:.4f}, {name} {left[1]:.4f}.")
    documents = [len({hit.document for hit in one}) for one in (nearest, found)]
    return [*lines, f"different documents: nearest {documents[0]}, {name} {documents[1]}."]


def origin(hit: Hit) -> str:
    """The origin of a passage, from its document's metadata, and which part of the document it is."""
    name = next((hit.meta[name] for name in ORIGINS if isinstance(hit.meta.get(name), str) and hit.meta[name]), hit.id)
    part = f"{hit.part + 1}/{hit.parts}" if hit.parts > 1 else ""
    return one_line(" ".join(filter(None, (name, part))))


def keywords(prompt: str | None) -> frozenset[str]:
    """The words of a prompt that may explain a match, in lower case.

    >>> sorted(keywords("How are lists sorted by the Key?"))
    ['key', 'lists', 'sorted']
    """
    from siftlm.memory.keywords import STOP_WORDS

    words: Sequence[str] = re.findall(r"\w+", (prompt or "").casefold())
    return frozenset(word for word in words if len(word) > 2 and word not in STOP_WORDS)
