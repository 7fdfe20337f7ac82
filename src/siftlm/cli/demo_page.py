"""The page of ``siftlm demo``, with the table and the findings that the terminal shows as well."""

from __future__ import annotations

import statistics
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from siftlm import __version__
from siftlm.evaluation import html
from siftlm.evaluation.html import Series, escape_html

if TYPE_CHECKING:
    from siftlm.cli.demo import DemoCase, DemoRun
    from siftlm.controller import Controller

HEAD = ("text", "base", "in context", "nearest", "SIFT", "SIFT, % of base")
NAMES = {"nearest": "nearest neighbour", "sift": "SIFT"}
COLOURS = {"nearest": "a", "sift": "b"}
LEGEND = (
    "Bits per byte of the second halves; the best of each row is bold. “In context”: SIFT's selection is put before "
    "the prompt, without tuning."
)
BELOW = (
    "Below, each text in detail. A coloured edge marks a passage that only one of the two methods selected. "
    "Continuations are sampled at temperature 0.8 with a fixed seed, from a model of a few million parameters: look at "
    "its style, not at its knowledge."
)
# Smaller differences count as none.
SMALLEST_DIFFERENCE = 0.005
# How many picks the page lists before the fold, and how much of each.
LISTED_PICKS, PICK_CHARACTERS = 4, 200
ABOUT = (
    "Each text below is held out of the memory. Its first half is the prompt: texts are selected for it from the "
    "memory, and the model takes one gradient step on each. The second half is scored in bits per byte; lower is "
    "better. After each text the model is restored bit for bit."
)


def row(case: DemoCase) -> tuple[str, ...]:
    """The table's row of a text."""
    last = [case.runs[method].bits[-1] for method in ("nearest", "sift")]
    figures = [case.base, case.context, *last]
    return (f"{case.kind}: {case.name}"[:44], *(f"{x:.3f}" for x in figures), f"{100 * last[1] / case.base:.1f}")


def means(cases: Sequence[DemoCase]) -> tuple[str, ...]:
    """The table's row of means."""
    columns = [
        [case.base for case in cases],
        [case.context for case in cases],
        [case.runs["nearest"].bits[-1] for case in cases],
        [case.runs["sift"].bits[-1] for case in cases],
    ]
    share = statistics.fmean(100 * case.runs["sift"].bits[-1] / case.base for case in cases)
    return ("mean", *(f"{statistics.fmean(column):.3f}" for column in columns), f"{share:.1f}")


def write(cases: Sequence[DemoCase], file: Path, model: Controller, *, passages: int, n: int, seconds: float) -> Path:
    """Write the page, and return its path."""
    about = (
        f"siftlm {__version__}, {model.name} with {model.parameters:,} parameters, a memory of "
        f"{passages:,} passages; {n} texts per prompt, one gradient step on each; {seconds:.0f} seconds."
    )
    body = [
        "<h1>A model fine-tuned for every prompt</h1>",
        f'<p class="faint">{escape_html(about)} Made by <code>siftlm demo</code>.</p>',
        f"<p>{ABOUT}</p>",
        *(f"<p class='finding'>{escape_html(finding)}</p>" for finding in findings(cases)),
        html.html_table(HEAD, [row(case) for case in cases] + [means(cases)], [_best(case) for case in cases]),
        f'<p class="faint">{LEGEND}</p>',
        _overview(cases),
        f'<p class="faint">{BELOW}</p>',
    ]
    for case in cases:
        body += _case(case)
    file.write_text(html.html_page("siftlm: a model fine-tuned for every prompt", body), encoding="utf-8")
    return file


def findings(cases: Sequence[DemoCase]) -> list[str]:
    """The findings of a run, in words."""
    last = {method: [case.runs[method].bits[-1] / case.base for case in cases] for method in NAMES}
    names = [f"{case.kind} ({case.name})" for case in cases]
    helped = [name for name, share in zip(names, last["sift"], strict=True) if share < 1 - SMALLEST_DIFFERENCE]
    hurt = [name for name, share in zip(names, last["sift"], strict=True) if share > 1 + SMALLEST_DIFFERENCE]
    first = f"Fine-tuning on SIFT's texts helped on {len(helped)} of {len(cases)}"
    first += f": {_joined(helped)}" if helped else ""
    first += f". It made the model worse on {_joined(hurt)}." if hurt else ", and hurt on none."
    ahead = sum(one < other - SMALLEST_DIFFERENCE for one, other in zip(last["sift"], last["nearest"], strict=True))
    behind = sum(one > other + SMALLEST_DIFFERENCE for one, other in zip(last["sift"], last["nearest"], strict=True))
    mean = {method: 100 * statistics.fmean(shares) for method, shares in last.items()}
    left = {method: statistics.fmean(100 * case.runs[method].uncertainty[-1] for case in cases) for method in NAMES}
    second = f"SIFT against nearest neighbour: ahead on {ahead}, behind on {behind} of {len(cases)}"
    second += f"; on average {mean['sift']:.1f} % of the base model's bits per byte against {mean['nearest']:.1f} %, "
    second += f"with {left['sift']:.0f} % of the uncertainty left against {left['nearest']:.0f} %. "
    return [
        first,
        second + f"{len(cases)} texts illustrate the method; they are far too few for a significant difference.",
    ]


def _joined(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _best(case: DemoCase) -> int:
    figures = [case.base, case.context, *(case.runs[method].bits[-1] for method in ("nearest", "sift"))]
    return 1 + figures.index(min(figures))


def _overview(cases: Sequence[DemoCase]) -> str:
    bits, left = [], []
    for method, name in NAMES.items():
        runs = [(case.runs[method], case.base) for case in cases]
        steps = min(len(run.bits) for run, _ in runs)
        relative = [statistics.fmean(100 * run.bits[step] / base for run, base in runs) for step in range(steps)]
        bits.append(Series(name, list(enumerate(relative)), COLOURS[method]))
        picks = min(len(run.uncertainty) for run, _ in runs)
        uncertainty = [statistics.fmean(100 * run.uncertainty[pick] for run, _ in runs) for pick in range(picks)]
        left.append(Series(name, list(enumerate(uncertainty)), COLOURS[method]))
    return html.side_by_side(
        html.line_chart(bits, title="Bits per byte, mean of all texts", x_name="steps", y_name="% of base"),
        html.line_chart(left, title="Uncertainty left, mean of all texts", x_name="picks", y_name="%", from_zero=True),
    )


def _case(case: DemoCase) -> list[str]:
    bits = [Series(NAMES[method], list(enumerate(run.bits)), COLOURS[method]) for method, run in case.runs.items()]
    steps = len(case.runs["sift"].bits) - 1
    bits.append(Series("in context", [(0, case.context), (steps, case.context)], "d", dashed=True))
    left = [
        Series(NAMES[method], [(at, 100 * value) for at, value in enumerate(run.uncertainty)], COLOURS[method])
        for method, run in case.runs.items()
    ]
    chosen = {method: {hit.row for hit in run.found.hits} if run.found else set() for method, run in case.runs.items()}
    alone = {method: rows.difference(*(chosen[m] for m in chosen if m != method)) for method, rows in chosen.items()}
    return [
        f"<h2>{escape_html(case.kind)}: {escape_html(case.name)}</h2>",
        html.side_by_side(
            html.line_chart(bits, title="Bits per byte of the second half", x_name="steps", y_name="bits per byte"),
            html.line_chart(
                left, title="Uncertainty left about the prompt", x_name="picks", y_name="%", from_zero=True
            ),
        ),
        "<h3>End of the prompt</h3>",
        f"<pre>{escape_html(_end(case.prompt))}</pre>",
        html.side_by_side(
            f"<h3>Continuation by the base model</h3><pre>{escape_html(case.continuation)}</pre>",
            f"<h3>Continuation after fine-tuning</h3><pre>{escape_html(case.runs['sift'].continuation)}</pre>",
            f"<h3>True continuation</h3><pre>{escape_html(case.scored[:140])} …</pre>",
        ),
        html.side_by_side(*(_picks(run, alone[method]) for method, run in case.runs.items())),
    ]


def _picks(run: DemoRun, alone: set[int]) -> str:
    """A list of picks, partly folded; those that only this method selected have a coloured edge."""
    hits = run.found.hits if run.found else ()
    seen: set[int] = set()
    items = []
    for rank, hit in enumerate(hits, start=1):
        kind = "again" if hit.row in seen else f"own {COLOURS[run.method]}" if hit.row in alone else ""
        seen.add(hit.row)
        about = f"{hit.meta.get('name', '')}; cosine {hit.score:.2f}, {100 * run.uncertainty[rank]:.0f} % left"
        items.append(
            f'<li class="{kind}"><pre>{escape_html(_short(hit.text))}</pre><small>{escape_html(about)}</small></li>'
        )
    head = f"<h3>{escape_html(NAMES[run.method])}: {escape_html(pick_counts(len(hits), len(seen), len(alone)))}</h3>"
    first = f'<ol class="picks">{"".join(items[:LISTED_PICKS])}</ol>'
    if len(items) <= LISTED_PICKS:
        return head + first
    rest = f'<ol class="picks" start="{LISTED_PICKS + 1}">{"".join(items[LISTED_PICKS:])}</ol>'
    return f"{head}{first}<details><summary>and {len(items) - LISTED_PICKS} more</summary>{rest}</details>"


def pick_counts(picks: int, different: int, alone: int) -> str:
    """The number of picks in words; a text may be picked more than once.

    >>> pick_counts(20, 20, 12), pick_counts(20, 13, 4)
    ('20 texts, 12 selected only here', '20 picks of 13 texts, 4 selected only here')
    """
    texts = f"{picks} texts" if different == picks else f"{picks} picks of {different} texts"
    return f"{texts}, {alone} selected only here"


def _end(prompt: str, most: int = 300) -> str:
    return prompt if len(prompt) <= most else "… " + prompt[-most:].lstrip()


def _short(passage: str) -> str:
    lines = [line for line in passage.expandtabs(4).splitlines() if line.strip()]
    kept = textwrap.dedent("\n".join(lines[:5]))[:PICK_CHARACTERS].rstrip()
    return kept if len(lines) <= 5 and len(kept) == len(textwrap.dedent("\n".join(lines)).rstrip()) else f"{kept} …"
