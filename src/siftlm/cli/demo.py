"""``siftlm demo``: a memory, a selection, a model that learns from it, an answer; and a page that shows it all."""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from siftlm.cli import demo_picks, watching
from siftlm.cli.drawing import Curve, Terminal, chart, clip, one_line, printable, wrap

if TYPE_CHECKING:
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


def add(commands: Any) -> None:
    """Declare the command."""
    parser = commands.add_parser(
        "demo",
        help="see a model learn for a prompt, from nearest neighbours and from SIFT",
        description="Build a memory, select, tune, answer, and compare; offline, in a minute.",
        epilog=EPILOG,
    )
    parser.add_argument("name", nargs="?", choices=NAMES, metavar="NAME",
                        help="picks: selection alone, or one of its examples: jordan, coffee")  # fmt: skip
    parser.add_argument("--into", default="siftlm-demo", metavar="FOLDER", help="where the memory and the report go")
    parser.add_argument("--model", default="siftlm-tiny", metavar="M", help="default: siftlm-tiny, which comes along")
    parser.add_argument("-n", type=int, default=20, metavar="N", help="texts to learn from (default: 20)")
    parser.add_argument("--texts", type=int, default=2, metavar="N", help="of each kind (default: 2)")
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
    from siftlm.cli import demo_local, demo_report
    from siftlm.local import LocalModel

    began = time.monotonic()
    folder = Path(arguments.into)
    folder.mkdir(parents=True, exist_ok=True)
    stage = _Stage(Terminal.of(sys.stdout), quiet=arguments.json)
    stage.say("A memory of Python's library, its reference and school mathematics", title=True)
    documents = demo_local.held_out(arguments.texts, arguments.seed)
    with demo_local.open_memory(folder / "memory", watching.reporter(quiet=arguments.json)) as memory:
        passages = len(memory)
        stage.say(f"{passages:,} passages in {folder / 'memory'}; the texts below are in none of them.")
        model = LocalModel(arguments.model, memory, **SETTINGS)
        stage.say(f"{model.controller.name}: {model.controller.parameters:,} parameters. {arguments.n} texts are "
                  "selected for each prompt, and the model takes one step on each.")  # fmt: skip
        cases = []
        for number, document in enumerate(documents, start=1):
            stage.open(f"{number}/{len(documents)} {document.meta['kind']}: {document.meta['name']}")
            case = demo_local.learn(model, document, arguments.n, stage.draw)
            stage.close(case)
            cases.append(case)
    if arguments.json:
        print(json.dumps([case.to_dict() for case in cases], indent=1))
        return 0
    page = demo_report.write(
        cases, folder / "report.html", model, passages=passages, n=arguments.n, seconds=time.monotonic() - began
    )
    stage.table(cases)
    stage.say(f"{time.monotonic() - began:.0f} seconds in all. With pictures and every text: {page}")
    return 0


class _Stage:
    """The terminal: a chart that moves where there is a screen, and plain text where there is none."""

    def __init__(self, terminal: Terminal, *, quiet: bool) -> None:
        self._terminal, self._quiet = terminal, quiet
        self._width = min(terminal.width, WIDEST)
        self._live = terminal.fixed and terminal.unicode and not quiet
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
        from siftlm.cli.demo_report import HEAD, means, row

        self._print("")
        rows = [HEAD, *(row(case) for case in cases), means(cases)]
        wide = [max(len(line[at]) for line in rows) for at in range(len(HEAD))]
        for place, line in enumerate(rows):
            cells = [line[0].ljust(wide[0]), *(cell.rjust(size) for cell, size in zip(line[1:], wide[1:], strict=True))]
            shown = "  ".join(cells)
            self._print(self._terminal.paint(shown, "bold") if place in (0, len(rows) - 1) else shown)
        self._print("")

    # --- inside

    def _chart(self, case: Case) -> list[str]:
        curves = []
        for method, run in case.runs.items():
            name, colour, mark, plain = LOOK[method]
            fallen = [bits / case.base for bits in run.bits]
            curves.append(Curve(name, fallen, colour, mark, plain))
        lines = [self._terminal.paint("bits per byte, in shares of the base model's", "dim")]
        return lines + chart(
            curves, self._terminal, width=max(16, min(56, self._width - 40)), height=HEIGHT, x_name="steps"
        )

    def _texts(self, case: Case) -> list[str]:
        runs = case.runs
        found = [f"base {case.base:.3f}", f"in context {case.context:.3f}"]
        found += [f"{LOOK[method][0]} {run.bits[-1]:.3f}" for method, run in runs.items()]
        lines = ["", "bits per byte: " + ", ".join(found)]
        for method, run in runs.items():
            lines.append(self._terminal.paint(f"{LOOK[method][0]} learned from", "bold", LOOK[method][1]))
            hits = run.found.hits if run.found else ()
            for place, hit in enumerate(hits[:4], start=1):
                left = run.uncertainty[place]
                lines.append(clip(f"  {place}. {left:>4.0%} left  {one_line(hit.text)}", self._width - 1))
        ask = one_line(case.prompt)[-60:]
        lines += ["", *wrap(f"… {ask}", self._width, first="prompt   ", rest="         ")]
        lines += wrap(case.continuation, self._width, first="before   ", rest="         ")
        lines += wrap(runs["sift"].continuation, self._width, first="after    ", rest="         ")
        lines += wrap(case.scored[:120], self._width, first="truth    ", rest="         ")
        return lines

    def _over(self, lines: list[str]) -> None:
        back = f"\x1b[{self._drawn}A" if self._drawn else ""
        clear = "\x1b[K" if self._live else ""
        self._print(back + "\n".join(line + clear for line in lines))
        self._drawn = len(lines) if self._live else 0

    def _print(self, text: str) -> None:
        print(printable(text, sys.stdout), flush=True)
