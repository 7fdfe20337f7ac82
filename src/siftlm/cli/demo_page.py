"""The output of ``siftlm demo``: sentences and figures, on the terminal and on a page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import RenderableType
from rich.text import Text

from siftlm import __version__
from siftlm.cli import demo_picks
from siftlm.cli.demo import PASSES, USES, FactAnswer, FactsOutcome, QuestionRun
from siftlm.cli.demo_picks import MARKS, NEAREST, SIFT, ExampleComparison, ExamplePicks
from siftlm.cli.terminal import Terminal, indented, table
from siftlm.evaluation import html
from siftlm.evaluation.html import Series, escape_html

if TYPE_CHECKING:
    from siftlm.cli.demo import HarmedText
    from siftlm.controller import Controller

FIGURES_HEAD = ("", "exact answers", "bits per byte", "facts among the texts", "seconds")
LEGEND = (
    "Exact: the greedy answer is the expected one, letter for letter. Bits per byte: of the expected answer; lower is "
    "better. Facts among the texts: those of the questions that a selected sentence states."
)
WIDEST_COLUMNS = 110
COLOURS = {"nearest": "a", "sift": "b"}


def about_facts(model: str, parameters: int, passages: int, questions: int, n: int) -> str:
    """What the questions are about."""
    return (
        f"{passages:,} sentences state facts of this Python's standard library, each in five wordings. {questions} "
        f"questions ask for three facts each, in a wording that is in no sentence. For each, {n} sentences are "
        f"selected, and {Path(model).name} ({parameters:,} parameters) reads them or goes over them {PASSES} times; "
        "then it answers."
    )


def figures(outcome: FactsOutcome, use: str) -> tuple[str, ...]:
    """The table's row of a use."""
    exact, answers, bits, facts = outcome.figures(use)
    told = f"{facts} of {answers}" if use != "base" else ""
    return (USES[use][0], f"{exact} of {answers}", f"{bits:.2f}", told, f"{outcome.seconds[use]:.1f}")


def fact_findings(outcome: FactsOutcome) -> list[str]:
    """The findings of the questions, in words."""
    exact = {use: outcome.figures(use)[0] for use in outcome.runs}
    bits = {use: outcome.figures(use)[2] for use in outcome.runs}
    facts = {use: outcome.figures(use)[3] for use in outcome.runs}
    answers = outcome.figures("base")[1]
    learned = f"Tuned on SIFT's sentences, the model gives {exact['sift']} of {answers} answers exactly"
    learned += f" ({exact['base']} before, {exact['context']} with the same sentences in context, {exact['nearest']} "
    learned += f"tuned on nearest neighbour's), at {bits['sift']:.2f} bits per byte ({bits['base']:.2f} before, "
    learned += f"{bits['context']:.2f} in context, {bits['nearest']:.2f} nearest neighbour)."
    chosen = [run.choice.use for run in outcome.runs["auto"] if run.choice is not None]
    counts = ", ".join(f"{use} for {chosen.count(use)}" for use in dict.fromkeys(chosen))
    return [
        learned,
        f"SIFT's sentences state {facts['sift']} of the {answers} facts, nearest neighbour's {facts['nearest']}.",
        f'use="auto" chose {counts or "nothing"} of {len(chosen)} questions: {exact["auto"]} of {answers} exact.',
    ]


def about_harmed(harmed: HarmedText) -> str:
    """What the text is that is better not learned."""
    steps, rate = len(harmed.tuned.trace.steps), harmed.tuned.trace.settings["rate"]
    return (
        f"{harmed.name}: code of Python's own library, held out of a memory of more of it. Its first half is the "
        f"prompt; {steps} passages are selected and learned at a rate of {rate:g}. The text and "
        "the rate were picked as a case in which that harms siftlm-tiny. Bits per byte of the second half, always "
        'tuned and with use="auto", where held-out passages decide:'
    )


def harmed_findings(harmed: HarmedText) -> list[str]:
    """The scores of that text, and why ``auto`` did what it did."""
    harms = harmed.tuned.tuned > harmed.tuned.base
    effect = "Tuning harms this text." if harms else "Tuning does not harm this text."
    verb = "declined" if harmed.use == "none" else f"chose {harmed.use}"
    return [
        f"base {harmed.tuned.base:.3f}, tuned {harmed.tuned.tuned:.3f}, auto {harmed.auto.tuned:.3f}.",
        f"{effect} auto {verb}: {harmed.auto.trace.choice}.",
    ]


# --- the terminal


@dataclass(eq=False)
class DemoResult:
    """Everything that a run of the demo found."""

    example: ExampleComparison
    facts: FactsOutcome
    harmed: HarmedText
    model: str
    parameters: int
    passages: int
    n: int
    seconds: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """A JSON record."""
        return {
            "model": self.model,
            "parameters": self.parameters,
            "passages": self.passages,
            "n": self.n,
            "seconds": self.seconds,
            "picks": self.example.to_dict(),
            "facts": self.facts.to_dict(),
            "harmed": self.harmed.to_dict(),
        }


class DemoScreen:
    """The printed results."""

    def __init__(self, terminal: Terminal, *, quiet: bool) -> None:
        self._terminal, self._quiet = terminal, quiet
        self._width = min(terminal.width, WIDEST_COLUMNS)

    def print(self, *parts: RenderableType) -> None:
        """Print paragraphs and other renderables."""
        if not self._quiet:
            self._terminal.show(*parts, width=self._width)

    def example(self, comparison: demo_picks.ExampleComparison) -> None:
        """Print the selection without a model."""
        self.print(*demo_picks.example_parts(comparison, self._terminal, self._width), "")

    def facts_begin(self, model: Controller, passages: int, questions: int, n: int) -> None:
        """Print what the questions are about."""
        self.print(self._terminal.rule("A model that learns the facts a question asks for"), "")
        self.print(about_facts(model.name, model.parameters, passages, questions, n))

    def facts(self, outcome: FactsOutcome) -> None:
        """Print each question's answers, and the figures of all."""
        for place, question in enumerate(outcome.questions):
            rows = table(header=False)
            rows.add_column(no_wrap=True, overflow="ellipsis", ratio=2)
            for _ in question.facts:
                rows.add_column(no_wrap=True, overflow="ellipsis", ratio=3)
            rows.width = self._width - 2
            rows.add_row("expected", *(self._indented(fact.text) for fact in question.facts), style="bold")
            for use, runs in outcome.runs.items():
                name, colour = USES[use]
                cells = [self._answer(answer) for answer in runs[place].answers]
                rows.add_row(Text(name, colour), *cells)
            self.print("", self._terminal.prose(question.prompt, "bold"), indented(rows))
        summary = table()
        for at, title in enumerate(FIGURES_HEAD):
            summary.add_column(title, justify="right" if at else "left", overflow="fold")
        for use in outcome.runs:
            summary.add_row(*figures(outcome, use), style=USES[use][1])
        self.print("", summary, "", *fact_findings(outcome), self._terminal.prose(LEGEND, "dim"), "")

    def harmed(self, harmed: HarmedText) -> None:
        """Print the text that is better not learned, and why."""
        self.print(self._terminal.rule("When not to learn"), "", about_harmed(harmed), "", *harmed_findings(harmed))

    def _answer(self, answer: FactAnswer) -> Text:
        if not answer.exact:
            return self._indented(answer.text)
        return self._terminal.line(f"{self._terminal.pick('✓', '+')} {answer.text}", "green")

    def _indented(self, text: str) -> Text:
        line = self._terminal.line(text)
        return Text("  ", no_wrap=True, overflow="ellipsis").append_text(line)


# --- the page


def write(result: DemoResult, file: Path) -> Path:
    """Write the page, and return its path."""
    outcome = result.facts
    about = f"siftlm {__version__}, {result.model} with {result.parameters:,} parameters; {result.seconds:.0f} seconds."
    facts = about_facts(result.model, result.parameters, result.passages, len(outcome.questions), result.n)
    rows = [figures(outcome, use) for use in outcome.runs]
    body = [
        "<h1>A model fine-tuned for every prompt</h1>",
        f'<p class="faint">{escape_html(about)} Made by <code>siftlm demo</code>.</p>',
        *_example(result.example),
        "<h2>A model that learns the facts a question asks for</h2>",
        f"<p>{escape_html(facts)}</p>",
        *_findings(fact_findings(outcome)),
        html.html_table(FIGURES_HEAD, rows),
        f'<p class="faint">{escape_html(LEGEND)}</p>',
        html.line_chart(
            [Series(USES[use][0], _mean_uncertainty(outcome.runs[use]), colour) for use, colour in COLOURS.items()],
            title="Uncertainty left, mean of all questions",
            x_name="picks",
            y_name="%",
            from_zero=True,
        ),
    ]
    for place, question in enumerate(outcome.questions):
        body += _question(outcome, place, question.prompt)
    body += [
        "<h2>When not to learn</h2>",
        f"<p>{escape_html(about_harmed(result.harmed))}</p>",
        *_findings(harmed_findings(result.harmed)),
        f"<pre>{escape_html(result.harmed.text)}</pre>",
    ]
    file.write_text(html.html_page("siftlm: a model fine-tuned for every prompt", body), encoding="utf-8")
    return file


def _findings(sentences: Sequence[str]) -> list[str]:
    return [f"<p class='finding'>{escape_html(one)}</p>" for one in sentences]


def _example(comparison: ExampleComparison) -> list[str]:
    both = ((NEAREST, comparison.nearest, "a"), (SIFT, comparison.sift, "b"))
    left = [Series(name, _percent(picks.uncertainty.tolist()), colour) for name, picks, colour in both]
    legend = ", ".join(f"{mark} {meaning}" for mark, _, _, meaning in MARKS.values())
    return [
        f"<h2>{escape_html(comparison.example.title)}</h2>",
        f"<pre>{escape_html(comparison.example.prompt)}</pre>",
        html.side_by_side(*(_picked(name, picks) for name, picks, _ in both)),
        f'<p class="faint">{escape_html(legend)}</p>',
        html.line_chart(left, title="Uncertainty left about the prompt", x_name="picks", y_name="%", from_zero=True),
        *_findings(demo_picks.findings(comparison)),
    ]


def _picked(name: str, picks: ExamplePicks) -> str:
    items = [
        f"<li>{MARKS[kind][0]} {escape_html(text)}</li>" for text, kind in zip(picks.texts, picks.kinds, strict=True)
    ]
    return f'<h3>{name}</h3><ol class="picks">{"".join(items)}</ol>'


def _question(outcome: FactsOutcome, place: int, prompt: str) -> list[str]:
    facts = outcome.questions[place].facts
    rows: list[tuple[str, ...]] = [("expected", *(fact.text for fact in facts))]
    for use, runs in outcome.runs.items():
        cells = (("✓ " if answer.exact else "") + answer.text for answer in runs[place].answers)
        rows.append((USES[use][0], *cells))
    texts = (_texts(USES[use][0], outcome.runs[use][place]) for use in ("nearest", "sift"))
    reason = outcome.runs["auto"][place].choice
    return [
        f"<h3>{escape_html(prompt)}</h3>",
        html.html_table(("", *(fact.name for fact in facts)), rows),
        f'<p class="faint">auto: {escape_html(reason)}</p>' if reason is not None else "",
        f"<details><summary>the selected sentences</summary>{html.side_by_side(*texts)}</details>",
    ]


def _texts(name: str, run: QuestionRun) -> str:
    texts = run.found.texts if run.found is not None else []
    items = "".join(f"<li>{escape_html(text)}</li>" for text in texts)
    return f'<h3>{escape_html(name)}</h3><ol class="picks">{items}</ol>'


def _percent(shares: Sequence[float]) -> list[tuple[float, float]]:
    return [(float(at), 100 * value) for at, value in enumerate(shares)]


def _mean_uncertainty(runs: Sequence[QuestionRun]) -> list[tuple[float, float]]:
    curves = [run.uncertainty for run in runs]
    picks = min(map(len, curves))
    return _percent([sum(curve[pick] for curve in curves) / len(curves) for pick in range(picks)])
