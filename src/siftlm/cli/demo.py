"""``siftlm demo``: selection, fine-tuning, scores and continuations for held-out texts, and a page of the results."""

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
from siftlm.validation import whole_number

if TYPE_CHECKING:
    from siftlm.local import LocalModel
    from siftlm.memory import Found, Memory
    from siftlm.progress import Report
    from siftlm.types import Document

EPILOG = """\
examples:
  siftlm demo                      offline, in a minute; writes siftlm-demo/report.html
  siftlm demo --texts 4 -n 30      more held-out texts of each kind, more steps on each
  siftlm demo --model ./my-model   with another model
  siftlm demo picks                selection only, on two small examples, without a model
  siftlm demo --json | jq '.[].sift.bits[-1]'
  NO_COLOR=1 siftlm demo           without colour

The memory holds texts that ship with siftlm: Python's standard library, its language reference, and school
mathematics. The texts that are scored are held out of it. The model, siftlm-tiny, has seven million parameters: look
at the differences between methods, not at its knowledge.
"""
NAMES = ("picks", *demo_picks.EXAMPLES)
# From `siftlm calibrate` on the demo's memory.
SETTINGS: dict[str, Any] = {"noise": 1.0}
METHODS = ("nearest", "sift")
# Characters of a held-out text; half of them are the prompt.
TEXT_CHARACTERS = 1600
CONTINUATION_TOKENS = 32
# Sampled with a fixed seed, since so small a model repeats itself under greedy decoding.
SAMPLING: dict[str, Any] = {"temperature": 0.8, "top_p": 0.9, "seed": 0}
LOOKS = {"nearest": ("nearest neighbour", "yellow", "○", "o"), "sift": ("SIFT", "cyan", "●", "*")}
WIDEST_COLUMNS = 110
CHART_LINES = 7
# The fewest columns for a live chart.
LIVE_COLUMNS = 60
LISTED_PICKS = 3


def add(commands: Any) -> None:
    """Declare the command."""
    parser = flags.command(
        commands, "demo", run, "fine-tune a model for six held-out texts, offline, in a minute", EPILOG
    )
    part = Flag(
        "name",
        "NAME",
        str,
        "picks: selection only, on two examples; jordan, coffee: one of them",
        more={"nargs": "?", "choices": NAMES},
    )
    flags.declare(
        parser,
        part,
        Flag("--into", "FOLDER", str, "folder of the memory and the report (default: siftlm-demo)", "siftlm-demo"),
        Flag(
            "--model",
            "M",
            str,
            f"a folder or a name on the Hugging Face Hub (default: {flags.DEFAULT_MODEL})",
            flags.DEFAULT_MODEL,
        ),
        Flag("-n", "N", flags.whole(1), "number of texts to select (default: 20)", 20),
        Flag("--texts", "N", flags.whole(1), "number of held-out texts of each kind (default: 2)", 2),
        flags.SEED.described("random seed of the held-out texts (default: 0)", default=0),
        flags.JSON.described("print the results as JSON"),
    )


def run(arguments: argparse.Namespace) -> int:
    """Run the demo, print its results, and write the page."""
    if arguments.name is not None:
        return demo_picks.run(arguments)
    from siftlm.extras import load

    whole_number("seed", arguments.seed, least=0)
    for library in ("torch", "transformers"):  # checked first; `siftlm demo picks` needs neither
        load(library, "tune")
    folder = _writable(Path(arguments.into))
    try:
        return _run(arguments, folder)
    except KeyboardInterrupt:
        if sys.stderr is not None:
            print(file=sys.stderr)
        built = (folder / "memory").exists()
        note(f"interrupted; the next demo {'reuses' if built else 'rebuilds'} the memory in {folder}")
        raise


def _run(arguments: argparse.Namespace, folder: Path) -> int:
    from siftlm.cli import demo_page
    from siftlm.controller import Controller
    from siftlm.local import LocalModel

    start = time.monotonic()
    screen = DemoScreen(Terminal.of(sys.stdout), arguments.n, quiet=arguments.json)
    # Errors of the command line are found before anything takes time.
    controller = Controller(arguments.model)
    documents = _held_out(arguments.texts, arguments.seed)
    screen.print(Text("A memory of Python's standard library, its language reference and school mathematics", "bold"))
    with progress_line(quiet=arguments.json) as report:
        memory = _open_memory(folder / "memory", report)
    with memory:
        passages = len(memory)
        screen.print(f"{passages:,} passages in {folder / 'memory'}; the texts below are held out of it.")
        model = LocalModel(controller, memory, **SETTINGS)
        screen.print(
            f"{controller.name}: {controller.parameters:,} parameters. The first half of each text is the prompt: "
            f"{arguments.n} texts are selected for it, and the model takes one gradient step on each. The second half "
            "is scored in bits per byte; lower is better."
        )
        cases = []
        for number, document in enumerate(documents, start=1):
            screen.begin(f"{number}/{len(documents)} {document.meta['kind']}: {document.meta['name']}")
            case = _run_case(model, document, arguments.n, screen.step)
            screen.finish(case)
            cases.append(case)
    seconds = time.monotonic() - start
    page = demo_page.write(cases, folder / "report.html", controller, passages=passages, n=arguments.n, seconds=seconds)
    if arguments.json:
        print_json([case.to_dict() for case in cases], indent=1)
        return 0
    screen.table(cases)
    screen.print(f"{seconds:.0f} seconds. Figures and all texts: {page}")
    return 0


def _writable(folder: Path) -> Path:
    """The folder, created if necessary; an error if it is not writable."""
    if folder.exists() and not folder.is_dir():
        raise InvalidInput(f"--into {folder}: is a file, not a folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise InvalidInput(f"--into {folder}: not writable: {error.strerror or error}") from error
    return folder


# --- results


@dataclass(eq=False)
class DemoRun:
    """One method on one prompt; updated after each step."""

    method: str
    bits: list[float]
    """Bits per byte of the second half, before the first step and after each."""
    found: Found | None = None
    continuation: str = ""
    seconds: float = 0.0
    """Of selection and tuning, without the scoring after each step."""

    @property
    def uncertainty(self) -> list[float]:
        """The uncertainty before the first pick and after each, relative to the first."""
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
    """Bits per byte of the base model."""
    continuation: str
    """The base model's."""
    context: float = float("nan")
    """Bits per byte with SIFT's picks in context instead."""
    runs: dict[str, DemoRun] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """A JSON record; NaN becomes None."""
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
    """The sample memory; built the first time, and renamed when complete."""
    from siftlm import sample
    from siftlm.memory import Memory

    if not folder.exists():
        part = folder.with_name(f"{folder.name}.part")
        if part.exists():
            shutil.rmtree(part)  # of an interrupted demo
        Memory.build(sample.documents(), into=part, progress=progress).close()
        part.rename(folder)
    return Memory.open(folder)


def _held_out(count: int, seed: int) -> list[Document]:
    """``count`` held-out texts of each kind."""
    from siftlm import sample

    try:
        return [text for kind in sample.KINDS for text in sample.prompts(kind, count=count, seed=seed)]
    except InvalidInput as error:
        raise InvalidInput(str(error).replace("count=", "--texts ")) from error


def _run_case(model: LocalModel, document: Document, n: int, after: Callable[[DemoCase, DemoRun], None]) -> DemoCase:
    """One text: base model, nearest neighbour, SIFT, and SIFT's picks in context. ``after`` is called at each step."""
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

        def record_step(_step: Any, run: DemoRun = run) -> None:
            run.bits.append(bits())
            after(case, run)

        with model.learned(prompt, n=n, method=method, after=record_step) as tuned:
            run.found = tuned.found
            run.seconds = sum(tuned.found.seconds.values()) + sum(s.seconds for s in tuned.trace.steps)
            run.continuation = controller.generate(prompt, max_new_tokens=CONTINUATION_TOKENS, **SAMPLING).text
    picks = case.runs["sift"].found
    case.context = bits(tuple(picks.texts)) if picks else float("nan")
    return case


# --- output


class DemoScreen:
    """A live chart on a terminal, and plain text elsewhere."""

    def __init__(self, terminal: Terminal, steps: int, *, quiet: bool) -> None:
        self._terminal, self._steps, self._quiet = terminal, steps, quiet
        self._width = min(terminal.width, WIDEST_COLUMNS)
        self._wide = self._width >= LIVE_COLUMNS
        self._live = terminal.fixed and terminal.unicode and self._wide and not quiet
        self._drawn = 0

    def print(self, *parts: RenderableType) -> None:
        """Print paragraphs and other renderables."""
        if not self._quiet:
            self._terminal.show(*parts, width=self._width)

    def begin(self, title: str) -> None:
        """Begin a text."""
        self.print("", self._terminal.rule(title))
        self._drawn = 0

    def step(self, case: DemoCase, _run: DemoRun) -> None:
        """Redraw the chart after a step."""
        if self._live:
            self._draw_over(self.chart(case))

    def finish(self, case: DemoCase) -> None:
        """Print the chart, the picks and the continuations of a text."""
        if not self._quiet:
            self._draw_over(self.chart(case))
            self.print(*self._case_parts(case))

    def table(self, cases: list[DemoCase]) -> None:
        """Print the bits per byte of all texts, and the findings."""
        from siftlm.cli.demo_page import HEAD, findings, means, row

        # A narrow screen has no room for base and context, which are above with each text.
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
            share += [math.nan] * (self._steps + 1 - len(share))  # reserves room for the steps to come
            curves.append(Curve(name, share, colour, mark, plain))
        points = [value for curve in curves for value in curve.values if math.isfinite(value)]
        # The axis does not begin at zero, to show a few per cent, but spans at least 10 to keep noise small.
        low, top = 10 * math.floor(min([90.0, *points]) / 10), 10 * math.ceil(max([100.0, *points]) / 10)
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
        bits = [f"base {case.base:.3f}", f"SIFT's texts in context instead {case.context:.3f}"]
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
        """The first few picks and the last, with the uncertainty left after each."""
        from siftlm.cli.demo_page import pick_counts

        name, colour, _, _ = LOOKS[method]
        hits = run.found.hits if run.found else ()
        other_rows = {hit.row for other in others if other.found for hit in other.found.hits}
        rows_picked = {hit.row for hit in hits}
        unique = len(rows_picked - other_rows)
        head = f"{name}: {pick_counts(len(hits), len(rows_picked), unique)} (+). Uncertainty left after each:"
        rows = Table.grid(padding=(0, 1, 0, 0))
        for place, hit in enumerate(hits, start=1):
            if LISTED_PICKS < place < len(hits):
                continue
            left = run.uncertainty[place]
            drawn = Text(bar(left, 10, self._terminal), colour)
            mark = Text(" " if hit.row in other_rows else "+", "bold")
            text = self._terminal.line(hit.text)
            rows.add_row(Text(f"{place:>3}."), drawn, Text(f"{left:>4.0%}"), mark, text)
        for column in rows.columns[:-1]:
            column.no_wrap = True
        return [self._terminal.prose(head, f"bold {colour}"), rows]

    def _draw_over(self, part: RenderableType) -> None:
        lines = self._terminal.render(part, width=self._width).split("\n")
        back, clear = (f"\x1b[{self._drawn}A" if self._drawn else "", "\x1b[K") if self._live else ("", "")
        print(back + "\n".join(line + clear for line in lines), flush=True)
        self._drawn = len(lines) if self._live else 0
