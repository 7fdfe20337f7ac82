"""What a search found, as lines for a person: a table, whole passages, or two searches beside each other."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from siftlm.cli.drawing import (
    Styled,
    Terminal,
    bar,
    beside,
    clip,
    emphasized,
    one_line,
    pad,
    paragraphs,
    width_of,
    wrap,
)
from siftlm.cli.table import WHY

if TYPE_CHECKING:
    from siftlm.memory import Found, Hit

TITLES = f"{'pick':>4} {'score':>6} {'gain':>8} {'left':>7}"
BAR = 10
SOURCE = 28  # columns for where a passage comes from
TEXT = 40  # columns that a text should have beside the numbers; with fewer it stands below them
SNIPPET = 100  # columns of a text, where no screen sets a limit
INDENT = " " * 5
SIDE_BY_SIDE = 96
LINES = 3  # of each text in a comparison
# Metadata that say where a passage comes from, the best first.
ORIGINS = ("path", "file", "filename", "source", "url", "title", "name", "dataset", "pile_set_name")
# Frequent words say nothing about why a passage was found.
COMMON = frozenset(
    re.findall(
        r"\w+",
        "about and are because been but can could did does for from had has have how into its may more most not one "
        "only other our out over should some such than that the their them then there these they this those was were "
        "what when where which who why will with would you your",
    )
)


def rows(found: Found, prompt: str | None, terminal: Terminal, *, full: bool) -> list[str]:
    """A head, then for each pick a line, or its whole passage."""
    origins = [terminal.spell(origin(hit)) for hit in found]
    widest = min(SOURCE, max(width_of(one) for one in origins))
    used = len(TITLES) + 1 + BAR + (2 + widest if widest else 0)
    stacked = full or (terminal.fixed and terminal.width - used - 2 < TEXT)
    length = BAR if not terminal.fixed or terminal.width > len(TITLES) + BAR else 0
    titles = TITLES + " " * (1 + length)
    lines = [*wrap(terminal.spell(_head(found)), terminal.limit), ""]
    heads = "" if stacked else (f"  {pad('source', widest)}" if widest else "") + "  text"
    lines += [terminal.paint(titles + heads, "dim"), (" " * 21 + _left(found, 0, length, terminal)).rstrip()]
    words = telling(prompt)
    for at, (hit, source) in enumerate(zip(found, origins, strict=True)):
        numbers = f"{at + 1:>4} {hit.score:>6.3f} {hit.gain:>8.4g}{_left(found, at + 1, length, terminal)}"
        if stacked:
            lines += _stacked(hit, numbers, source, len(titles), words, terminal, full=full)
        else:
            lines.append(_row(hit, numbers, source, widest, len(titles), words, terminal))
    return lines


def _head(found: Found) -> str:
    chosen = found.selection
    head = f"{chosen.method}, λ = {chosen.noise:g}: {len(found)} of {found.considered:,} passages"
    repeats = len(chosen) - len(chosen.distinct)
    head += f", {repeats} of them again" if repeats else ""
    return f"{head}; {WHY.get(chosen.stopped, chosen.stopped)}; {1000 * sum(found.seconds.values()):,.0f} ms"


def _left(found: Found, at: int, length: int, terminal: Terminal) -> str:
    """The uncertainty after so many picks, as a number and a bar."""
    first, now = float(found.selection.uncertainty[0]), float(found.selection.uncertainty[at])
    drawn = " " + terminal.paint(bar(now / first if first > 0 else 0.0, length, terminal), "cyan") if length else ""
    return f" {now:>7.4f}{drawn}" if now == now else " " * (8 + (1 + length if length else 0))


def _row(hit: Hit, numbers: str, source: str, widest: int, used: int, words: frozenset[str], terminal: Terminal) -> str:
    dots = terminal.pick("…", "...")
    if widest:
        numbers += "  " + terminal.paint(pad(ending(source, widest, dots), widest), "green")
        used += 2 + widest
    room = min(SNIPPET, terminal.width - used - 2) if terminal.fixed else SNIPPET
    return (numbers + "  " + emphasized(clip(one_line(terminal.spell(hit.text)), room, dots), words, terminal)).rstrip()


def _stacked(
    hit: Hit, numbers: str, source: str, used: int, words: frozenset[str], terminal: Terminal, *, full: bool
) -> list[str]:
    """The numbers, and below them the text."""
    dots = terminal.pick("…", "...")
    room = max(10, terminal.width - len(INDENT))
    lines = [numbers.rstrip()]
    if source and (not terminal.fixed or terminal.width - used - 2 >= min(width_of(source), SOURCE)):
        shown = ending(source, max(SOURCE, terminal.width - used - 2), dots)
        lines[0] = f"{numbers}  {terminal.paint(shown, 'green')}"
    elif source:
        lines.append(INDENT + terminal.paint(ending(source, room, dots), "green"))
    if not full:
        return [*lines, INDENT + emphasized(clip(one_line(terminal.spell(hit.text)), room, dots), words, terminal)]
    text = paragraphs(terminal.spell(hit.text), room if terminal.fixed else None)
    return [*lines, *((INDENT + emphasized(line, words, terminal)).rstrip() for line in text), ""]


def compared(nearest: Found, found: Found, prompt: str | None, terminal: Terminal, *, full: bool) -> list[str]:
    """The nearest neighbours and the other method's picks: beside each other where there is room."""
    width = min(terminal.width, 160)
    wide = width >= SIDE_BY_SIDE
    column = (width - 3) // 2 if wide else width
    both = {hit.row for hit in nearest} & {hit.row for hit in found}
    left, right = (
        _column(name, one, colour, column, both, terminal, full=full)
        for name, one, colour in (("nearest neighbour", nearest, "yellow"), (_named(found), found, "cyan"))
    )
    lines = [terminal.paint(line, "bold") for line in wrap(terminal.spell(prompt), width)] + [""] if prompt else []
    if wide:
        lines += beside(*_level(left, right), column, terminal)
    else:
        for block in (left, right):
            lines += [terminal.paint(text, *colours) for entry in block for text, colours in entry] + [""]
        lines.pop()
    return [*lines, "", *(line for said in _verdict(nearest, found, both, terminal) for line in wrap(said, width))]


def _named(found: Found) -> str:
    return f"{found.selection.method}, λ = {found.selection.noise:g}"


def _column(
    name: str, found: Found, colour: str, width: int, both: set[int], terminal: Terminal, *, full: bool
) -> list[list[Styled]]:
    """The name, then the lines of each pick."""
    entries: list[list[Styled]] = [[(clip(terminal.spell(name), width, terminal.pick("…", "...")), ("bold", colour))]]
    digits = len(str(len(found)))
    for at, hit in enumerate(found, start=1):
        sign = terminal.pick("·", "=") if hit.row in both else " "
        first = f"{at:>{digits}} {sign} "
        source = ending(terminal.spell(origin(hit)), width - len(first) - 7, terminal.pick("…", "..."))
        own: list[Styled] = [(f"{first}{hit.score:.3f}  {source}".rstrip(), ("dim",))]
        text = wrap(terminal.spell(hit.text), width, first=" " * len(first), rest=" " * len(first))
        if not full and len(text) > LINES:
            dots = terminal.pick("…", "...")
            text = [*text[: LINES - 1], clip(text[LINES - 1], width - len(dots), "") + dots]
        entries.append(own + [(line, () if hit.row in both else (colour,)) for line in text])
    return entries


def _level(left: list[list[Styled]], right: list[list[Styled]]) -> tuple[list[Styled], list[Styled]]:
    """Both columns, filled up so that each pick begins in the same line on both sides."""
    columns: tuple[list[Styled], list[Styled]] = ([], [])
    for at in range(max(len(left), len(right))):
        pair = [block[at] if at < len(block) else [] for block in (left, right)]
        height = max(len(entry) for entry in pair)
        for column, entry in zip(columns, pair, strict=True):
            column += entry + [("", ())] * (height - len(entry))
    return columns


def _verdict(nearest: Found, found: Found, both: set[int], terminal: Terminal) -> list[str]:
    """What can be counted; which is better, the reader says."""
    name = found.selection.method
    sign = terminal.pick("·", "=")
    lines = [f"{sign} in both: {len(both)} of {len(found)}."]
    left = [float(one.selection.uncertainty[-1]) for one in (nearest, found)]
    if all(value == value for value in left):
        first = float(found.selection.uncertainty[0])
        lines.append(f"uncertainty left of {first:.4f}: nearest {left[0]:.4f}, {name} {left[1]:.4f}.")
    documents = [len({hit.document for hit in one}) for one in (nearest, found)]
    return [*lines, f"different documents: nearest {documents[0]}, {name} {documents[1]}."]


def origin(hit: Hit) -> str:
    """Where a passage comes from, as far as its document's metadata say; and which part of the document it is."""
    named = next((hit.meta[name] for name in ORIGINS if isinstance(hit.meta.get(name), str) and hit.meta[name]), hit.id)
    part = f"{hit.part + 1}/{hit.parts}" if hit.parts > 1 else ""
    return one_line(" ".join(filter(None, (named, part))))


def ending(text: str, width: int, dots: str) -> str:
    """At most ``width`` columns, the last ones: that is where paths differ."""
    if width_of(text) <= width:
        return text
    kept = text
    while kept and width_of(kept) > max(0, width - width_of(dots)):
        kept = kept[1:]
    return dots[: max(0, width)] + kept


def telling(prompt: str | None) -> frozenset[str]:
    """The words of a prompt that may say why a passage was found, in lower case.

    >>> sorted(telling("How are lists sorted by the Key?"))
    ['key', 'lists', 'sorted']
    """
    words: Sequence[str] = re.findall(r"\w+", (prompt or "").casefold())
    return frozenset(word for word in words if len(word) > 2 and word not in COMMON)
