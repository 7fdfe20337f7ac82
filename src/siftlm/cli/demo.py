"""``siftlm demo``: a memory, a selection, a model that learns from it, an answer; and a page that shows it all."""

from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from siftlm.cli import demo_picks, watching
from siftlm.cli.charting import Curve, chart
from siftlm.cli.drawing import Terminal, bar, clip, one_line, pad, printable, wrap

if TYPE_CHECKING:
    from collections.abc import Sequence

    from siftlm.cli.demo_local import Case, Run

EPILOG = """\
examples:
  siftlm demo                      the whole thing, offline, in a minute; writes siftlm-demo/report.html
  siftlm demo --texts 4 -n 30      more held-out texts of each kind, more steps on each
  siftlm demo --model ./my-model   with a model of your own
  siftlm demo picks                selection alone, on two small examples: needs numpy and nothing else
  siftlm demo --json | jq '.[].sift.bits[-1]'
  NO_COLOR=1 siftlm demo           without colour

The memory is made on this machine: Python's own library, its language reference, and school mathematics. The texts
that are scored are not in it. The model, siftlm-tiny, has seven million parameters: look at the differences, not at
its wisdom.
"""
NAMES = ("picks", *demo_picks.NAMES)
# What the demo's memory is searched with; found by `siftlm calibrate` on this memory.
SETTINGS: dict[str, Any] = {"noise": 1.0}
NEAREST, SIFT = "nearest neighbour", "SIFT"
LOOK = {"nearest": (NEAREST, "yellow", "○", "o"), "sift": (SIFT, "cyan", "●", "*")}
WIDEST = 110
HEIGHT = 7
# Columns from which on a chart has its names beside it, and may move.
LIVE = 60
# Picks of each method that are listed.
LISTED = 3


def add(commands: Any) -> None:
    """Declare the command."""
    parser = commands.add_parser(
        "demo",
        help="see a model learn for a prompt, from nearest neighbours and from SIFT",
        description="Build a memory, select, tune, answer, and compare; offline, in a minute.",
        epilog=EPILOG,
    )
    parser.add_argument(
        "name",
        nargs="?",
        choices=NAMES,
        metavar="NAME",
        help="picks: selection alone, or one of its examples: jordan, coffee",
    )
    parser.add_argument("--into", default="siftlm-demo", metavar="FOLDER", help="where the memory and the report go")
    parser.add_argument("--model", default="siftlm-tiny", metavar="M", help="default: siftlm-tiny, which comes along")
    parser.add_argument("-n", type=_whole, default=20, metavar="N", help="texts to learn from (default: 20)")
    parser.add_argument("--texts", type=_whole, default=2, metavar="N", help="of each kind (default: 2)")
    parser.add_argument("--seed", type=int, default=0, help="which held-out texts")
    parser.add_argument("--json", action="store_true", help="print what was computed as JSON")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Compute, print while computing, and write the page."""
    if arguments.name is not None:
        return demo_picks.run(arguments)
    from siftlm.extras import load

    for library in ("torch", "transformers"):  # before anything is built; `siftlm demo picks` needs neither
        load(library, "tune")
    folder = _writable(Path(arguments.into))
    try:
        return _run(arguments, folder)
    except KeyboardInterrupt:
        if sys.stderr is not None:
            kept = "" if (folder / "memory").exists() else "half "
            again = "the next demo uses it" if not kept else "the next demo begins it anew"
            print(f"\nsiftlm: interrupted; the {kept}memory stays in {folder}, and {again}", file=sys.stderr)
        return 130


def _run(arguments: argparse.Namespace, folder: Path) -> int:
    from siftlm.cli import demo_local, demo_report
    from siftlm.controller import Controller
    from siftlm.local import LocalModel

    began = time.monotonic()
    stage = _Stage(Terminal.of(sys.stdout), arguments.n, quiet=arguments.json)
    # What can be wrong with the command line is found out before anything takes time.
    controller = Controller(arguments.model)
    documents = demo_local.held_out(arguments.texts, arguments.seed)
    stage.say("A memory of Python's library, its reference and school mathematics", title=True)
    with demo_local.open_memory(folder / "memory", watching.reporter(quiet=arguments.json)) as memory:
        passages = len(memory)
        stage.say(f"{passages:,} passages in {folder / 'memory'}; the texts below are in none of them.")
        model = LocalModel(controller, memory, **SETTINGS)
        stage.say(
            f"{controller.name}: {controller.parameters:,} parameters. The first half of each text is the prompt: for "
            f"it {arguments.n} texts are selected, and the model takes one step on each. Then: how many bits does it "
            "need for a byte of the second half? Fewer is better."
        )
        cases = []
        for number, document in enumerate(documents, start=1):
            stage.open(f"{number}/{len(documents)} {document.meta['kind']}: {document.meta['name']}")
            case = demo_local.learn(model, document, arguments.n, stage.draw)
            stage.close(case)
            cases.append(case)
    seconds = time.monotonic() - began
    page = demo_report.write(
        cases, folder / "report.html", controller, passages=passages, n=arguments.n, seconds=seconds
    )
    if arguments.json:
        print(json.dumps([case.to_dict() for case in cases], indent=1))
        return 0
    stage.table(cases)
    stage.say(f"{seconds:.0f} seconds in all. With pictures and every text: {page}")
    return 0


def _whole(given: str) -> int:
    if not given.isdecimal() or int(given) < 1:
        raise argparse.ArgumentTypeError(f"{given!r} is no whole number above 0")
    return int(given)


def _writable(folder: Path) -> Path:
    """The folder, made if need be: that nothing can be written there is said now, not a minute later."""
    from siftlm.errors import InvalidInput

    if folder.exists() and not folder.is_dir():
        raise InvalidInput(f"--into {folder}: that is a file; name a folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise InvalidInput(f"--into {folder}: nothing can be written there: {error.strerror or error}") from error
    return folder


class _Stage:
    """The terminal: a chart that moves where there is a screen, and plain text where there is none."""

    def __init__(self, terminal: Terminal, steps: int, *, quiet: bool) -> None:
        self._terminal, self._steps, self._quiet = terminal, steps, quiet
        self._width = min(terminal.width, WIDEST)
        self._live = terminal.fixed and terminal.unicode and self._width >= LIVE and not quiet
        self._drawn = 0

    def say(self, text: str, *, title: bool = False) -> None:
        """A paragraph."""
        if not self._quiet:
            for line in wrap(text, self._width):
                self._print(self._terminal.paint(line, "bold") if title else line)

    def open(self, title: str) -> None:
        """A new text."""
        if not self._quiet:
            rule = self._terminal.pick("─", "-")
            head = f"{rule * 2} {clip(title, self._width - 6)} "
            self._print("\n" + self._terminal.paint(head + rule * max(0, self._width - len(head)), "bold"))
        self._drawn = 0

    def draw(self, case: Case, _run: Run) -> None:
        """After a step: the same lines again, further on."""
        if self._live:
            self._over(self._chart(case))

    def close(self, case: Case) -> None:
        """What came of it."""
        if self._quiet:
            return
        self._over(self._chart(case))
        for line in self._texts(case):
            self._print(line)

    def table(self, cases: list[Case]) -> None:
        """Bits per byte of all texts."""
        from siftlm.cli.demo_report import HEAD, findings, means, row

        self._print("")
        rows = [HEAD, *(row(case) for case in cases), means(cases)]
        if self._width < LIVE:  # base and context stand above, with each text
            rows = [(line[0], *line[3:]) for line in rows]
            rows[0] = (*rows[0][:-1], "% of base")
        wide = [max(len(line[at]) for line in rows) for at in range(len(rows[0]))]
        wide[0] = max(10, min(wide[0], self._width - 1 - sum(wide[1:]) - 2 * len(wide[1:])))
        for place, line in enumerate(rows):
            name = pad(clip(line[0], wide[0], self._terminal.pick("…", "...")), wide[0])
            cells = [name, *(cell.rjust(size) for cell, size in zip(line[1:], wide[1:], strict=True))]
            shown = "  ".join(cells)
            self._print(self._terminal.paint(shown, "bold") if place in (0, len(rows) - 1) else shown)
        self._print("")
        for finding in findings(cases):
            self.say(finding)
        self._print("")

    # --- inside

    def _chart(self, case: Case) -> list[str]:
        curves = []
        for method, run in case.runs.items():
            name, colour, mark, plain = LOOK[method]
            share = [100 * bits / case.base for bits in run.bits]
            share += [math.nan] * (self._steps + 1 - len(share))  # so that the curve has somewhere to grow
            curves.append(Curve(name if self._width >= LIVE else "", share, colour, mark, plain))
        known = [value for curve in curves for value in curve.values if math.isfinite(value)]
        # No axis from zero: a few per cent are to be seen. But never so close that noise looks like a mountain.
        low, top = 10 * math.floor(min([90.0, *known]) / 10), 10 * math.ceil(max([100.0, *known]) / 10)
        signs = "  ".join(
            self._terminal.paint(f"{self._terminal.pick(mark, plain)} {name}", colour)
            for name, colour, mark, plain in (LOOK[method] for method in case.runs)
        )
        title = "bits per byte, in % of the base model's" if self._width >= LIVE else "bits per byte, % of base"
        lines = (
            [self._terminal.paint(title, "dim"), signs]
            if self._width < LIVE
            else [self._terminal.paint(title, "dim") + "   " + signs]
        )
        return lines + chart(
            curves,
            self._terminal,
            width=max(10, min(56, self._width - (40 if self._width >= LIVE else 18))),
            height=HEIGHT,
            x_name="steps",
            low=low,
            top=top,
            shown="{:.1f} %".format,
        )

    def _texts(self, case: Case) -> list[str]:
        runs = case.runs
        found = [f"base {case.base:.3f}", f"SIFT's texts in the context instead {case.context:.3f}"]
        found += [f"{LOOK[method][0]} {run.bits[-1]:.3f}" for method, run in runs.items()]
        lines = ["", *wrap("bits per byte: " + ", ".join(found), self._width)]
        for method, run in runs.items():
            lines += self._picks(method, run, [other for name, other in runs.items() if name != method])
        ask = one_line(case.prompt)[-60:]
        quoted = (
            ("prompt", f"… {ask}"),
            ("before", case.continuation),
            ("after", runs["sift"].continuation),
            ("truth", case.scored[:200]),
        )
        lines.append("")
        for name, said in quoted:
            lines += wrap(clip(one_line(said), 2 * (self._width - 10)), self._width, first=f"{name:<9}", rest=" " * 9)
        return lines

    def _picks(self, method: str, run: Run, others: Sequence[Run]) -> list[str]:
        """The first few, with what was left to know after each, and after the last."""
        from siftlm.cli.demo_report import picked

        name, colour, _, _ = LOOK[method]
        hits = run.found.hits if run.found else ()
        theirs = {hit.row for other in others if other.found for hit in other.found.hits}
        mine = {hit.row for hit in hits}
        head = f"{name}: {picked(len(hits), len(mine), len(mine - theirs))} (+). Uncertainty left after each:"
        lines = [self._terminal.paint(line, "bold", colour) for line in wrap(head, self._width)]
        for place, hit in enumerate(hits, start=1):
            if LISTED < place < len(hits):
                continue
            left = run.uncertainty[place]
            drawn = self._terminal.paint(bar(left, 10, self._terminal), colour)
            sign = " " if hit.row in theirs else self._terminal.paint("+", "bold")
            room = self._width - 25
            lines.append(f"{place:>3}. {drawn} {left:>4.0%} {sign} {clip(one_line(hit.text), max(10, room))}")
        return lines

    def _over(self, lines: list[str]) -> None:
        back = f"\x1b[{self._drawn}A" if self._drawn else ""
        clear = "\x1b[K" if self._live else ""
        self._print(back + "\n".join(line + clear for line in lines))
        self._drawn = len(lines) if self._live else 0

    def _print(self, text: str) -> None:
        print(printable(text, sys.stdout), flush=True)
