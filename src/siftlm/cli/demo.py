"""``siftlm demo``: a memory, a selection, a model that learns from it, an answer; and a page that shows it all."""

from __future__ import annotations

import argparse
import math
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from siftlm.cli import arguments as flags
from siftlm.cli import demo_picks
from siftlm.cli.arguments import Flag
from siftlm.cli.charts import Curve, bar, titled_chart
from siftlm.cli.terminal import Terminal, finite, note, one_line, print_json, progress_line, table
from siftlm.errors import InvalidInput

if TYPE_CHECKING:
    from siftlm.local import LocalModel
    from siftlm.memory import Found, Memory
    from siftlm.progress import Report
    from siftlm.types import Document

EPILOG = """\
examples:
  siftlm demo                      the whole thing, offline, in a minute; writes siftlm-demo/report.html
  siftlm demo --texts 4 -n 30      more held-out texts of each kind, more steps on each
  siftlm demo --model ./my-model   with a model of your own
  siftlm demo picks                selection alone, on two small examples: needs no model
  siftlm demo --json | jq '.[].sift.bits[-1]'
  NO_COLOR=1 siftlm demo           without colour

The memory is made of texts that ship with siftlm: Python's standard library, its language reference, and school
mathematics. The texts that are scored are not in it. The model, siftlm-tiny, has seven million parameters: look at the
differences, not at its knowledge.
"""
NAMES = ("picks", *demo_picks.EXAMPLES)
# What the demo's memory is searched with; found by `siftlm calibrate` on this memory.
SETTINGS: dict[str, Any] = {"noise": 1.0}
METHODS = ("nearest", "sift")
# Of a held-out text: half of it is the prompt.
TEXT_CHARACTERS = 1600
CONTINUATION_TOKENS = 32
# Drawn, always with the same seed: so small a model repeats itself when it takes the likeliest token each time.
SAMPLING: dict[str, Any] = {"temperature": 0.8, "top_p": 0.9, "seed": 0}
LOOKS = {"nearest": ("nearest neighbour", "yellow", "○", "o"), "sift": ("SIFT", "cyan", "●", "*")}
WIDEST_COLUMNS = 110
CHART_LINES = 7
# Columns from which the chart may move.
LIVE_COLUMNS = 60
LISTED_PICKS = 3
_above_zero = flags.checked(flags.digits, lambda value: value > 0, "no whole number above 0")


def add(commands: Any) -> None:
    """Declare the command."""
    parser = flags.command(commands, "demo", run, "see a model learn for a prompt, offline, in a minute", EPILOG)
    part = Flag(
        "name",
        "NAME",
        str,
        "picks: selection alone, or one of its examples: jordan, coffee",
        more={"nargs": "?", "choices": NAMES},
    )
    flags.declare(
        parser,
        part,
        Flag("--into", "FOLDER", str, "where the memory and the report go", "siftlm-demo"),
        Flag("--model", "M", str, f"default: {flags.DEFAULT_MODEL}, which ships with siftlm", flags.DEFAULT_MODEL),
        Flag("-n", "N", _above_zero, "texts to learn from (default: 20)", 20),
        Flag("--texts", "N", _above_zero, "held-out texts of each kind (default: 2)", 2),
        flags.SEED.but("of the choice of held-out texts", default=0),
        flags.JSON.but("print what was computed as JSON"),
    )


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
        whole = (folder / "memory").exists()
        if sys.stderr is not None:
            print(file=sys.stderr)
        note(
            f"interrupted; the {'' if whole else 'half '}memory stays in {folder}, and the next demo "
            + ("uses it" if whole else "begins it anew")
        )
        raise


def _run(arguments: argparse.Namespace, folder: Path) -> int:
    from siftlm.cli import demo_page
    from siftlm.controller import Controller
    from siftlm.local import LocalModel

    began = time.monotonic()
    screen = DemoScreen(Terminal.of(sys.stdout), arguments.n, quiet=arguments.json)
    # What can be wrong with the command line is found out before anything takes time.
    controller = Controller(arguments.model)
    documents = _held_out(arguments.texts, arguments.seed)
    screen.print(Text("A memory of Python's library, its reference and school mathematics", "bold"))
    with progress_line(quiet=arguments.json) as report:
        memory = _open_memory(folder / "memory", report)
    with memory:
        passages = len(memory)
        screen.print(f"{passages:,} passages in {folder / 'memory'}; the texts below are in none of them.")
        model = LocalModel(controller, memory, **SETTINGS)
        screen.print(
            f"{controller.name}: {controller.parameters:,} parameters. The first half of each text is the prompt: for "
            f"it {arguments.n} texts are selected, and the model takes one step on each. Then: how many bits does it "
            "need for a byte of the second half? Fewer is better."
        )
        cases = []
        for number, document in enumerate(documents, start=1):
            screen.begin(f"{number}/{len(documents)} {document.meta['kind']}: {document.meta['name']}")
            case = _learn(model, document, arguments.n, screen.step)
            screen.finish(case)
            cases.append(case)
    took = time.monotonic() - began
    page = demo_page.write(cases, folder / "report.html", controller, passages=passages, n=arguments.n, seconds=took)
    if arguments.json:
        print_json([case.to_dict() for case in cases], indent=1)
        return 0
    screen.table(cases)
    screen.print(f"{took:.0f} seconds in all. With pictures and every text: {page}")
    return 0


def _writable(folder: Path) -> Path:
    """The folder, created if need be; an error now, not a minute later, if nothing can be written there."""
    if folder.exists() and not folder.is_dir():
        raise InvalidInput(f"--into {folder}: that is a file; name a folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise InvalidInput(f"--into {folder}: nothing can be written there: {error.strerror or error}") from error
    return folder


# --- what is computed


@dataclass(eq=False)
class DemoRun:
    """One method on one prompt; grows while the model learns."""

    method: str
    bits: list[float]
    """Bits per byte of the second half, before the first step and after each."""
    found: Found | None = None
    continuation: str = ""
    seconds: float = 0.0
    """Of selecting and tuning, without the scores after each step."""

    @property
    def uncertainty(self) -> list[float]:
        """In the share of what there was before the first pick."""
        if self.found is None:
            return []
        left = self.found.selection.uncertainty
        return [float(value / left[0]) for value in left]


@dataclass(eq=False)
class DemoCase:
    """One held-out text."""

    kind: str
    name: str
    prompt: str
    scored: str
    base: float
    """Bits per byte before anything was learned."""
    continuation: str
    """By the base model."""
    context: float = float("nan")
    """Bits per byte with SIFT's picks in the context instead."""
    runs: dict[str, DemoRun] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Ready for ``json.dumps``; what is no number becomes None."""
        return {
            "kind": self.kind,
            "name": self.name,
            "prompt": self.prompt,
            "base": self.base,
            "context": finite(self.context),
            "continuation": self.continuation,
            **{
                run.method: {
                    "bits": [finite(bits) for bits in run.bits],
                    "uncertainty": run.uncertainty,
                    "seconds": run.seconds,
                    "continuation": run.continuation,
                    "picks": run.found.to_dict()["hits"] if run.found else [],
                }
                for run in self.runs.values()
            },
        }


def _open_memory(folder: Path, progress: Report) -> Memory:
    """The sample memory: built the first time, under another name until it is whole."""
    from siftlm import sample
    from siftlm.memory import Memory

    if not folder.exists():
        part = folder.with_name(f"{folder.name}.part")
        if part.exists():
            shutil.rmtree(part)  # of a demo that was stopped
        Memory.build(sample.documents(), into=part, progress=progress).close()
        part.rename(folder)
    return Memory.open(folder)


def _held_out(count: int, seed: int) -> list[Document]:
    """``count`` texts of each kind that are not in the memory."""
    from siftlm import sample

    try:
        return [text for kind in sample.KINDS for text in sample.prompts(kind, count=count, seed=seed)]
    except InvalidInput as error:
        raise InvalidInput(str(error).replace("count=", "--texts ")) from error


def _learn(model: LocalModel, document: Document, n: int, watch: Callable[[DemoCase, DemoRun], None]) -> DemoCase:
    """One text: base, nearest neighbour, SIFT, and SIFT's picks in the context. ``watch`` sees every step."""
    from siftlm.call import split_in_half

    prompt, scored = split_in_half(document.text[:TEXT_CHARACTERS])
    controller = model.controller

    def bits(texts: tuple[str, ...] = ()) -> float:
        return controller.likelihood(scored, after=prompt, texts=texts).bits_per_byte

    base = bits()
    before = controller.generate(prompt, max_new_tokens=CONTINUATION_TOKENS, **SAMPLING).text
    case = DemoCase(str(document.meta["kind"]), str(document.meta["name"]), prompt, scored, base, before)
    for method in METHODS:
        run = case.runs[method] = DemoRun(method, [base])

        def stepped(_step: Any, run: DemoRun = run) -> None:
            run.bits.append(bits())
            watch(case, run)

        with model.learned(prompt, n=n, method=method, after=stepped) as learned:
            run.found = learned.found
            run.seconds = sum(learned.found.seconds.values()) + sum(s.seconds for s in learned.trace.steps)
            run.continuation = controller.generate(prompt, max_new_tokens=CONTINUATION_TOKENS, **SAMPLING).text
    picks = case.runs["sift"].found
    case.context = bits(tuple(picks.texts)) if picks else float("nan")
    return case


# --- what is printed


class DemoScreen:
    """A chart that moves where there is a screen, and plain text where there is none."""

    def __init__(self, terminal: Terminal, steps: int, *, quiet: bool) -> None:
        self._terminal, self._steps, self._quiet = terminal, steps, quiet
        self._width = min(terminal.width, WIDEST_COLUMNS)
        self._wide = self._width >= LIVE_COLUMNS
        self._live = terminal.fixed and terminal.unicode and self._wide and not quiet
        self._drawn = 0

    def print(self, *parts: RenderableType) -> None:
        """Paragraphs, or whatever else rich can lay out."""
        if not self._quiet:
            self._terminal.show(*parts, width=self._width)

    def begin(self, title: str) -> None:
        """A new text."""
        self.print("", self._terminal.rule(title))
        self._drawn = 0

    def step(self, case: DemoCase, _run: DemoRun) -> None:
        """The chart again after a step, over the one before it."""
        if self._live:
            self._draw_over(self.chart(case))

    def finish(self, case: DemoCase) -> None:
        """The chart, the picks and the continuations."""
        if not self._quiet:
            self._draw_over(self.chart(case))
            self.print(*self._case_parts(case))

    def table(self, cases: list[DemoCase]) -> None:
        """Bits per byte of all texts, and what that shows."""
        from siftlm.cli.demo_page import HEAD, findings, means, row

        # Where there is little room, base and context stand above alone, with each text.
        kept = slice(1, None) if self._wide else slice(3, None)
        rows = table()
        rows.add_column(HEAD[0], min_width=10)
        for title in HEAD[kept]:
            rows.add_column(title if self._wide or title != HEAD[-1] else "% of base", justify="right", no_wrap=True)
        lines = [row(case) for case in cases]
        for name, *figures in (*lines, means(cases)):
            style = "bold" if name == "mean" else ""
            cells = (name, *figures)[kept]
            rows.add_row(self._terminal.line(name), *cells, style=style)
        self.print("", rows, "", *findings(cases), "")

    def chart(self, case: DemoCase) -> RenderableType:
        """Bits per byte of the second half after each step."""
        curves = []
        for method, run in case.runs.items():
            name, colour, mark, plain = LOOKS[method]
            share = [100 * bits / case.base for bits in run.bits]
            share += [math.nan] * (self._steps + 1 - len(share))  # so that the curve has somewhere to grow
            curves.append(Curve(name, share, colour, mark, plain))
        known = [value for curve in curves for value in curve.values if math.isfinite(value)]
        # No axis from zero: a few per cent are to be seen. But never so close that noise looks like a mountain.
        low, top = 10 * math.floor(min([90.0, *known]) / 10), 10 * math.ceil(max([100.0, *known]) / 10)
        return titled_chart(
            "bits per byte, % of base",
            curves,
            self._terminal,
            width=self._width,
            height=CHART_LINES,
            x_name="steps",
            low=low,
            top=top,
            label="{:.1f} %".format,
        )

    def _case_parts(self, case: DemoCase) -> list[RenderableType]:
        runs = case.runs
        bits = [f"base {case.base:.3f}", f"SIFT's texts in the context instead {case.context:.3f}"]
        bits += [f"{LOOKS[method][0]} {run.bits[-1]:.3f}" for method, run in runs.items()]
        parts: list[RenderableType] = ["", "bits per byte: " + ", ".join(bits)]
        for method, run in runs.items():
            others = (other for name, other in runs.items() if name != method)
            parts += self._pick_parts(method, run, others)
        quoted = (
            ("prompt", f"… {one_line(case.prompt)[-60:]}"),
            ("before", case.continuation),
            ("after", runs["sift"].continuation),
            ("truth", case.scored[:200]),
        )
        rows = Table.grid(padding=(0, 2, 0, 0))
        rows.add_column(min_width=7, no_wrap=True)
        for name, text in quoted:
            rows.add_row(name, self._terminal.excerpt(text, self._width - 10, 2))
        return [*parts, "", rows]

    def _pick_parts(self, method: str, run: DemoRun, others: Iterable[DemoRun]) -> list[RenderableType]:
        """The first few, with what was left to know after each, and after the last."""
        from siftlm.cli.demo_page import pick_counts

        name, colour, _, _ = LOOKS[method]
        hits = run.found.hits if run.found else ()
        theirs = {hit.row for other in others if other.found for hit in other.found.hits}
        mine = {hit.row for hit in hits}
        head = f"{name}: {pick_counts(len(hits), len(mine), len(mine - theirs))} (+). Uncertainty left after each:"
        rows = Table.grid(padding=(0, 1, 0, 0))
        for place, hit in enumerate(hits, start=1):
            if LISTED_PICKS < place < len(hits):
                continue
            left = run.uncertainty[place]
            drawn = Text(bar(left, 10, self._terminal), colour)
            alone = Text(" " if hit.row in theirs else "+", "bold")
            text = self._terminal.line(hit.text)
            rows.add_row(Text(f"{place:>3}."), drawn, Text(f"{left:>4.0%}"), alone, text)
        for column in rows.columns[:-1]:
            column.no_wrap = True
        return [self._terminal.prose(head, f"bold {colour}"), rows]

    def _draw_over(self, part: RenderableType) -> None:
        lines = self._terminal.render(part, width=self._width).split("\n")
        back, clear = (f"\x1b[{self._drawn}A" if self._drawn else "", "\x1b[K") if self._live else ("", "")
        print(back + "\n".join(line + clear for line in lines), flush=True)
        self._drawn = len(lines) if self._live else 0
