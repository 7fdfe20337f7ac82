"""The page that ``siftlm demo`` writes, and the table that it prints."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from siftlm import __version__
from siftlm.evaluation import pages
from siftlm.evaluation.pages import Series, text

if TYPE_CHECKING:
    from siftlm.cli.demo_local import Case, Run
    from siftlm.local import LocalModel

HEAD = ("text", "base", "in context", "nearest", "SIFT", "SIFT, % of base")
NAMES = {"nearest": "nearest neighbour", "sift": "SIFT"}
COLOURS = {"nearest": "a", "sift": "b"}
ABOUT = (
    "Each text below was held out of the memory. Its first half is the prompt: for it, texts are selected from the "
    "memory, and the model takes one step on each. How many bits does it then need for a byte of the second half, "
    "which it has not seen? Fewer is better. After each text the model is itself again, bit for bit."
)


def row(case: Case) -> tuple[str, ...]:
    """A line of the table."""
    last = [case.runs[method].bits[-1] for method in ("nearest", "sift")]
    figures = [case.base, case.context, *last]
    return (f"{case.kind}: {case.name}"[:44], *(f"{x:.3f}" for x in figures), f"{100 * last[1] / case.base:.1f}")


def means(cases: Sequence[Case]) -> tuple[str, ...]:
    """The last line."""
    columns = [
        [case.base for case in cases],
        [case.context for case in cases],
        [case.runs["nearest"].bits[-1] for case in cases],
        [case.runs["sift"].bits[-1] for case in cases],
    ]
    share = statistics.fmean(100 * case.runs["sift"].bits[-1] / case.base for case in cases)
    return ("mean", *(f"{statistics.fmean(column):.3f}" for column in columns), f"{share:.1f}")


def write(cases: Sequence[Case], file: Path, model: LocalModel, *, passages: int, n: int, seconds: float) -> Path:
    """The page; returns where it is."""
    about = (
        f"siftlm {__version__}, {model.controller.name} with {model.controller.parameters:,} parameters, a memory of "
        f"{passages:,} passages; {n} texts for each prompt, one gradient step on each; {seconds:.0f} seconds."
    )
    body = [
        "<h1>A model that learns for every prompt</h1>",
        f'<p class="faint">{text(about)} Made by <code>siftlm demo</code>.</p>',
        f"<p>{ABOUT}</p>",
        pages.table(HEAD, [row(case) for case in cases] + [means(cases)], [_best(case) for case in cases]),
        _overview(cases),
    ]
    for case in cases:
        body += _case(case)
    file.write_text(pages.page("siftlm: a model that learns for every prompt", body), encoding="utf-8")
    return file


def _best(case: Case) -> int:
    figures = [case.base, case.context, *(case.runs[method].bits[-1] for method in ("nearest", "sift"))]
    return 1 + figures.index(min(figures))


def _overview(cases: Sequence[Case]) -> str:
    series = []
    for method in NAMES:
        steps = min(len(case.runs[method].bits) for case in cases)
        mean = [
            (step, statistics.fmean(100 * case.runs[method].bits[step] / case.base for case in cases))
            for step in range(steps)
        ]
        series.append(Series(NAMES[method], mean, COLOURS[method]))
    return pages.chart(
        series, title="The mean over all texts, in % of the base model", x_name="steps", y_name="% of base"
    )


def _case(case: Case) -> list[str]:
    bits = [Series(NAMES[method], list(enumerate(run.bits)), COLOURS[method]) for method, run in case.runs.items()]
    steps = len(case.runs["sift"].bits) - 1
    bits.append(Series("in context", [(0, case.context), (steps, case.context)], "d", dashed=True))
    left = [
        Series(NAMES[method], list(enumerate(run.uncertainty)), COLOURS[method]) for method, run in case.runs.items()
    ]
    return [
        f"<h2>{text(case.kind)}: {text(case.name)}</h2>",
        pages.beside(
            pages.chart(bits, title="What the second half costs", x_name="steps", y_name="bits per byte"),
            pages.chart(
                left, title="Uncertainty left about the prompt", x_name="picks", y_name="share", from_zero=True
            ),
        ),
        pages.beside(*(_picks(run) for run in case.runs.values())),
        "<h3>Prompt</h3>",
        f"<pre>{text(case.prompt)}</pre>",
        pages.beside(
            f"<h3>Before</h3><pre>{text(case.continuation)}</pre>",
            f"<h3>After, with SIFT</h3><pre>{text(case.runs['sift'].continuation)}</pre>",
            f"<h3>How it really goes on</h3><pre>{text(case.scored[:200])}</pre>",
        ),
    ]


def _picks(run: Run, shown: int = 8) -> str:
    """The first picks; one that was picked before is faint."""
    hits = run.found.hits if run.found else ()
    seen: set[int] = set()
    items = []
    for place, hit in enumerate(hits[:shown], start=1):
        again = ' class="again"' if hit.row in seen else ""
        seen.add(hit.row)
        about = f"cosine {hit.score:.2f}, {run.uncertainty[place]:.0%} left, from {hit.meta.get('name', '')}"
        items.append(f"<li{again}><pre>{text(_short(hit.text))}</pre><small>{text(about)}</small></li>")
    more = len(hits) - shown
    tail = f'<p class="faint">and {more} more</p>' if more > 0 else ""
    return f"<h3>{text(NAMES[run.method])} learned from</h3><ol class='picks'>{''.join(items)}</ol>{tail}"


def _short(passage: str, most: int = 240) -> str:
    return passage if len(passage) <= most else passage[:most].rstrip() + " …"
