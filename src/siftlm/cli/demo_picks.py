"""``siftlm demo picks``: nearest neighbours and SIFT side by side on two small examples; numpy alone."""

from __future__ import annotations

import argparse
import json
import sys
from typing import TYPE_CHECKING

from siftlm.cli.charting import Curve, chart
from siftlm.cli.drawing import Styled, Terminal, beside, printable, wrap

if TYPE_CHECKING:
    from siftlm.cli.example import Comparison, Picked

NAMES = ("jordan", "coffee")
# Of each kind of pick: sign, the same in ASCII, colours.
SIGNS: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "new": ("✓", "+", ("green",)),
    "again": ("=", "=", ("yellow",)),
    "beside": ("·", ".", ("dim",)),
}
NEAREST, SIFT = "nearest neighbour", "SIFT"
SIDE_BY_SIDE = 84  # columns from which on two blocks of text fit beside each other
WIDEST = 120


def run(arguments: argparse.Namespace) -> int:
    """Compute and print."""
    from siftlm.cli.example import compare

    found = [compare(name) for name in NAMES if arguments.name in ("picks", name)]
    if arguments.json:
        print(json.dumps([comparison.to_dict() for comparison in found], indent=1))
        return 0
    terminal = Terminal.of(sys.stdout)
    width = min(terminal.width, WIDEST)
    lines = []
    for comparison in found:
        lines += [*_example(comparison, terminal, width), ""]
    lines += _closing(terminal)
    print(printable("\n".join(lines), sys.stdout))
    return 0


def _example(comparison: Comparison, terminal: Terminal, width: int) -> list[str]:
    example = comparison.example
    rule = terminal.pick("─", "-")
    title = f"{rule * 2} {example.title} "
    lines = [terminal.paint(title + rule * max(0, width - len(title)), "bold"), ""]
    lines += [terminal.paint(line, "bold") for line in wrap(example.prompt, width, first="  ", rest="  ")]
    noise = terminal.pick("λ", "lambda")
    about = f"{len(example.texts)} texts, {len(comparison.sift.texts)} picks, {noise} = {comparison.noise:g}, "
    about += "where `siftlm spread` says to start."
    lines += [terminal.paint(line, "dim") for line in wrap(about, width, first="  ", rest="  ")]
    lines += ["", *_picks(comparison, terminal, width), "", *_legend(terminal, width)]
    lines += ["", *_chart(comparison, terminal, width), ""]
    findings = _findings(comparison, noise)
    return lines + [line for text in findings for line in wrap(text, width, first="  ", rest="    ")]


def _legend(terminal: Terminal, width: int) -> list[str]:
    """What the signs mean: in one line where there is room."""
    entries = [
        terminal.paint(f"{terminal.pick(*SIGNS[kind][:2])} {meaning}", *SIGNS[kind][2])
        for kind, meaning in (
            ("new", "a fact that was asked for"),
            ("again", "told again"),
            ("beside", "not asked for"),
        )
    ]
    return ["  " + "   ".join(entries)] if width >= 64 else [f"  {entry}" for entry in entries]


def _picks(comparison: Comparison, terminal: Terminal, width: int) -> list[str]:
    """Both methods' picks: beside each other where there is room."""
    wide = width >= SIDE_BY_SIDE
    column = (width - 2 - 3) // 2 if wide else width - 2
    blocks = [
        _block(name, picked, colour, column, terminal)
        for name, picked, colour in ((NEAREST, comparison.nearest, "yellow"), (SIFT, comparison.sift, "cyan"))
    ]
    if wide:
        # Each pick starts in the same line on both sides.
        left: list[Styled] = []
        right: list[Styled] = []
        for one, other in zip(*blocks, strict=True):
            height = max(len(one), len(other))
            left += one + [("", ())] * (height - len(one))
            right += other + [("", ())] * (height - len(other))
        return [f"  {line}" for line in beside(left, right, column, terminal)]
    first, second = ([f"  {terminal.paint(*_flat(line))}" for entry in block for line in entry] for block in blocks)
    return [*first, "", *second]


def _flat(line: Styled) -> tuple[str, ...]:
    return (line[0], *line[1])


def _block(name: str, picked: Picked, colour: str, column: int, terminal: Terminal) -> list[list[Styled]]:
    """The name, then the lines of each pick."""
    entries: list[list[Styled]] = [[(name, ("bold", colour))]]
    for at, (text, kind) in enumerate(zip(picked.texts, picked.kinds, strict=True), start=1):
        fine, plain, colours = SIGNS[kind]
        number = f"{at:>{len(str(len(picked.texts)))}} {terminal.pick(fine, plain)} "
        entries.append([(line, colours) for line in wrap(text, column, first=number, rest=" " * len(number))])
    return entries


def _chart(comparison: Comparison, terminal: Terminal, width: int) -> list[str]:
    nearest, sift = comparison.nearest.uncertainty.tolist(), comparison.sift.uncertainty.tolist()
    curves = [Curve(NEAREST, nearest, "yellow", "○", "o"), Curve(SIFT, sift, "cyan", "●", "*")]
    signs = [terminal.paint(terminal.pick(c.mark, c.plain_mark) + " " + c.name, c.colour) for c in curves]
    room = width - 2 - 6 - len(NEAREST) - 7
    lines = [terminal.paint("uncertainty left about the prompt", "bold") + "   " + "   ".join(signs)]
    if width < 2 + 33 + 3 + 19 + 3 + 6:  # a narrow terminal: the names stand above alone
        lines = [terminal.paint("uncertainty left", "bold"), "   ".join(signs)]
        curves = [Curve("", c.values, c.colour, c.mark, c.plain_mark) for c in curves]
        room = width - 2 - 6 - 6
    return [f"  {line}" for line in [*lines, *chart(curves, terminal, width=min(room, 56), x_name="picks")]]


def _findings(comparison: Comparison, noise: str) -> list[str]:
    """What the run has shown, for better or worse."""
    nearest, sift, facts = comparison.nearest, comparison.sift, len(comparison.example.asked)
    picks = len(sift.texts)
    lines = [
        f"{NEAREST}: {nearest.found} of {facts} facts in {picks} picks; {SIFT}: {sift.found} of {facts}.",
        *(
            f"Not found by {name}: {', '.join(p.missing)}."
            for name, p in ((NEAREST, nearest), (SIFT, sift))
            if p.missing
        ),
        f"All {facts} are there after {_after(nearest)} picks of {NEAREST}, {_after(sift)} of {SIFT}.",
    ]
    found = sorted({count for _, count in comparison.by_noise})
    tried = ", ".join(f"{other:g}" for other, _ in comparison.by_noise)
    always = " each time" if len(found) == 1 else ""
    counts = f"{found[0]}" if len(found) == 1 else f"{found[0]} to {found[-1]}"
    return [*lines, f"{SIFT} with {noise} = {tried}: {counts} of {facts}{always}."]


def _after(picked: Picked) -> str:
    return "no number of" if picked.complete_after is None else str(picked.complete_after)


def _closing(terminal: Terminal) -> list[str]:
    own = "siftlm select --candidates vectors.npy --query q.npy -n 8"
    return ["Now with your own vectors:", f"  {terminal.paint(own, 'cyan')}"]
