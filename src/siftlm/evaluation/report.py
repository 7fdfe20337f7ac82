"""A run as tables and figures.

found = report(["runs/a"], against="nn")
found.sentences                       who is better than whom, as far as the texts tell
write(found, "runs/a/report")         see `siftlm.evaluation.report`
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from siftlm.errors import Unwritable
from siftlm.evaluation import comparison, costs, figures, html, predictiveness, tables
from siftlm.evaluation.comparison import BETTER, WORSE, Difference
from siftlm.evaluation.figures import Chart, Line
from siftlm.evaluation.html import Series
from siftlm.evaluation.labels import BASE_METHOD, INTERPOLATION_METHOD, describe_question, method_name
from siftlm.evaluation.protocol import domain_weights
from siftlm.evaluation.results import Results, gather, on_common_texts
from siftlm.evaluation.statistics import Draws
from siftlm.evaluation.tables import Table
from siftlm.memory import durability


@dataclass(frozen=True, eq=False)
class Report:
    """All that is to be written."""

    results: Results
    differences: tuple[Difference, ...]
    """Each method against the reference."""
    about: tuple[str, ...]
    """What was measured, and what was left out."""
    sections: tuple[tuple[str, tuple[Table | Chart, ...]], ...]
    """Headings, and what stands below them."""

    @property
    def sentences(self) -> list[str]:
        """The verdicts in words."""
        return [one.sentence() for one in self.differences]

    @property
    def main(self) -> Table:
        """In % of base, by domain; in bits per byte where there is only the base model."""
        first = self.sections[0][1][0]
        return first if isinstance(first, Table) else first.table()


def report(
    runs: Sequence[str | os.PathLike[str]],
    *,
    against: str | None = None,
    methods: Sequence[str] | None = None,
    weights: str | Mapping[str, float] | None = None,
) -> Report:
    """Read runs and compare.

    Args:
        runs: folders of runs of one model and protocol. Tables are of the memory of the first; other memories are
            compared with it in a table of their own.
        against: the method that others are compared with; left out, ``nn`` if it is there, else ``base``.
        methods: only these, and the reference.
        weights: for a weighted mean over domains: ``"pile"``, or a file or mapping {domain: weight}.
    """
    wanted = None if methods is None else [*methods, *([against] if against else [])]
    memories = gather(runs, wanted)
    return compose_report(memories[0], memories, against=against, weights=weights)


def compose_report(
    found: Results,
    memories: Sequence[Results] = (),
    *,
    against: str | None = None,
    weights: str | Mapping[str, float] | None = None,
) -> Report:
    """A report of results; ``memories``: of several memories, for a comparison of these."""
    given = None if weights is None else domain_weights(weights, found.names)
    versus = comparison.reference_method(found, against)
    draws = found.draws()
    differences = tuple(
        comparison.difference(found, name, versus, draws, given) for name in found.methods if name != versus
    )
    note = caption(found)
    sections = (
        ("By domain", _domain_parts(found, draws, differences, note, given)),
        ("On the way", (*_curve_parts(found, note), comparison.steps_table(found, versus, draws, note))),
        ("Settings", _settings_parts(found, memories, note)),
        ("Uncertainty", _uncertainty_parts(found, draws, note)),
        ("What was picked, and what it cost", _cost_parts(found, draws, note, given)),
    )
    kept = tuple((head, tuple(one for one in parts if one is not None)) for head, parts in sections)
    return Report(
        found, differences, _describe_run(found, given), tuple((head, parts) for head, parts in kept if parts)
    )


def caption(found: Results, memory: str | None = None) -> str:
    """What stands below every table; ``memory``: in place of that of the results."""
    known = describe_question(found.question)
    corpus = f" of {known['corpus']}" if "corpus" in known else ""
    return (
        f"Protocol {known['protocol']}; {_count(len(found.texts), 'text')} in {_count(len(found.names), 'domain')}"
        f"{corpus}; n = {known['n']}; {known['model']}; memory: {memory or known['memory']}."
    )


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def _describe_run(found: Results, weights: Mapping[str, float] | None) -> tuple[str, ...]:
    lines = [caption(found)]
    if found.left_out:
        lines.append(f"{_count(found.left_out, 'text')} left out, for which some method has no result yet.")
    if any(method_name(name) == INTERPOLATION_METHOD for name in found.methods):
        lines.append("The weight of an interpolation is, for each text, the one that is best on all other texts.")
    for name in found.others:
        broken = int((~np.isfinite(found.tuned(name))).sum())
        if broken:
            lines.append(f"{name}: {_count(broken, 'result')} that are no number; its means over them are none either.")
    lines += _shortage_notes(found)
    if weights is not None:
        without = [name for name, weight in weights.items() if not weight]
        lines += [f"Without weight, and so not in the weighted mean: {', '.join(without)}."] if without else []
    if describe_question(found.question)["copies"] == "exclude":
        lines.append("Passages that give the scored text away were kept out of every search.")
    return tuple(lines)


def _shortage_notes(found: Results) -> list[str]:
    """Later points of these repeat an earlier one."""
    n = int((found.question.get("protocol") or {}).get("n", 0))
    lines = []
    for name in found.others:
        taken = [len(one.rows) for one in found.measured[name] if one.rows and len(one.rows) < n]
        if taken:
            least = min(taken)
            lines.append(
                f"{name}: fewer texts than n = {n} were chosen for {_count(len(taken), 'text')} (at least {least}); "
                "what is shown after more steps is what there was after the last."
            )
    return lines


SectionParts = tuple[Table | Chart | None, ...]


def _domain_parts(
    found: Results, draws: Draws, differences: Sequence[Difference], note: str, weights: Mapping[str, float] | None
) -> SectionParts:
    absolute = comparison.absolute_table(found, draws, note, weights)
    if not found.others:
        return (absolute,)
    return (
        comparison.percent_table(found, draws, note, weights),
        comparison.difference_table(found, differences, draws, note),
        absolute,
        comparison.domain_table(differences, note),
    )


def _curve_parts(found: Results, note: str) -> SectionParts:
    made = (
        figures.against_steps(found, note),
        figures.against_tokens(found, note),
        figures.against_seconds(found, note),
    )
    return tuple(chart if chart.lines else None for chart in made)


def _settings_parts(found: Results, memories: Sequence[Results], note: str) -> SectionParts:
    same = on_common_texts(memories)
    draws = same[0].draws() if same else None
    return (
        figures.over_noise(found, note),
        figures.over_memory(same, caption(same[0], "several")) if same else None,
        costs.memories_table(same, draws, caption(same[0], "several")) if draws else None,
    )


def _uncertainty_parts(found: Results, draws: Draws, note: str) -> SectionParts:
    return (
        predictiveness.correlation_table(found, note),
        predictiveness.uncertainty_chart(found, note),
        predictiveness.stopping_table(found, draws, note),
    )


def _cost_parts(found: Results, draws: Draws, note: str, weights: Mapping[str, float] | None) -> SectionParts:
    return (
        costs.context_table(found, draws, note, weights),
        costs.picks_table(found, note),
        costs.multiplicity_table(found, note),
        costs.costs_table(found, note),
    )


# The names of what a report has written, one a line.
WRITTEN_FILES_LIST = ".written"
REPORT_FILE_PATTERN = re.compile(r"report\.(html|md)|(tables|figures|texts)/[^/\\]+\.(csv|tex|svg|html)")
REPORT_TITLE = "What learning for each text is worth"
# More lines in one picture cannot be told apart; CSV has them all.
MAX_DRAWN_LINES = 8
# So many verdicts on methods with settings are read at once.
MAX_UNFOLDED_VERDICTS = 3
METHOD_COLOURS = {"nn": "a", "nearest": "a", "sift": "b", "context": "d"}
SPARE_COLOURS = "cefghdab"


def write(report: Report, into: str | os.PathLike[str], texts: Mapping[str, str] | None = None) -> list[Path]:
    """Write all of it; returns the files, the page first.

    Args:
        report: what to write.
        into: the folder. What an earlier report wrote there, and this one does not, is taken away.
        texts: pages of single texts, as `siftlm.evaluation.passages.passage_pages` makes them.
    """
    folder = Path(into)
    made: dict[str, str] = {"report.html": report_to_html(report), "report.md": report_to_markdown(report)}
    if picture := _differences(report):
        made["figures/differences.svg"] = html.standalone_svg(picture)
    for _, parts in report.sections:
        for part in parts:
            table: Table | None
            if isinstance(part, Chart):
                made[f"figures/{part.name}.csv"] = tables.to_csv(part.table())
                if picture := _draw_svg(part, report):
                    made[f"figures/{part.name}.svg"] = html.standalone_svg(picture)
                table = part.wide()
            else:
                table = part
            if table is not None:
                made[f"tables/{table.name}.csv"] = tables.to_csv(table)
                made[f"tables/{table.name}.tex"] = tables.to_latex(table)
    made |= texts or {}
    earlier = _earlier_files(folder)
    files = write_files(made, folder)
    with durability.translate_write_errors(folder):
        for name in earlier - made.keys():
            (folder / name).unlink(missing_ok=True)
        (folder / WRITTEN_FILES_LIST).write_bytes("".join(f"{name}\n" for name in sorted(made)).encode())
    return files


def _earlier_files(folder: Path) -> set[str]:
    """By the report before; names that lead out of the folder are nobody's."""
    try:
        names = (folder / WRITTEN_FILES_LIST).read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError):
        return set()
    return {name for name in names if REPORT_FILE_PATTERN.fullmatch(name)}


def write_files(files: Mapping[str, str], folder: Path) -> list[Path]:
    """Write files below a folder. They can be made again, so nothing is done to make them outlast a power cut."""
    if folder.exists() and not folder.is_dir():
        raise Unwritable(f"{folder}: is a file, and a report is a folder; give --out another name")
    with durability.translate_write_errors(folder):
        for name, content in files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content.encode())
    return [folder / name for name in files]


def report_to_markdown(report: Report) -> str:
    """One document; a figure is a link to its numbers."""
    lines = [f"# {REPORT_TITLE}", "", *report.about, ""]
    lines += [f"- {sentence}" for sentence in report.sentences]
    lines += ["", "![Differences with their intervals](figures/differences.svg)"] if _differences(report) else []
    for head, parts in report.sections:
        lines += ["", f"## {head}", ""]
        for part in parts:
            lines.append(_chart_in_markdown(part, report) if isinstance(part, Chart) else tables.to_markdown(part))
    return "\n".join(lines).rstrip() + "\n"


def _chart_in_markdown(chart: Chart, report: Report) -> str:
    table = chart.wide()
    numbers = f"### {chart.title}\n\n{chart.caption}\n" if table is None else tables.to_markdown(table)
    file = f"figures/{chart.name}.csv"
    picture = f"![{chart.title}](figures/{chart.name}.svg)\n" if _draw_svg(chart, report) else ""
    return f"{numbers}\nAll points: [{file}]({file}).\n\n{picture}"


def report_to_html(report: Report) -> str:
    """One page that needs nothing else."""
    body = [f"<h1>{REPORT_TITLE}</h1>"]
    body += [f'<p class="faint">{html.escape_html(line)}</p>' for line in report.about]
    body += _findings(report)
    for head, parts in report.sections:
        body.append(f"<h2>{html.escape_html(head)}</h2>")
        body += [_draw_chart(part, report) if isinstance(part, Chart) else tables.to_html(part) for part in parts]
    return html.html_page(f"siftlm: {REPORT_TITLE.lower()}", body)


def _findings(report: Report) -> list[str]:
    """The verdicts: those on methods with settings of their own, if they are many, behind a word."""
    plain = [one.sentence() for one in report.differences if "+" not in one.method]
    rest = [one.sentence() for one in report.differences if "+" in one.method]
    if len(rest) <= MAX_UNFOLDED_VERDICTS:
        plain, rest = report.sentences, []
    body = [f'<p class="finding">{html.escape_html(sentence)}</p>' for sentence in plain]
    if rest:
        items = "".join(f"<li>{html.escape_html(sentence)}</li>" for sentence in rest)
        body.append(f"<details><summary>and {len(rest)} with other settings</summary><ul>{items}</ul></details>")
    return [*body, _differences(report)]


def _differences(report: Report) -> str:
    """Each method against the reference, without the base model, which would push all others together."""
    some = [one for one in report.differences if one.method != BASE_METHOD]
    if not some:
        return ""
    colours = {BETTER: "e", WORSE: "f"}
    rows = [(one.method, one.mean.value, one.mean.low, one.mean.high, colours.get(one.verdict, "d")) for one in some]
    title = f"Each method less {some[0].against}: green is better, red is worse, grey is not told apart"
    return html.interval_chart(rows, title=title, x_name="% of base, with 95 % intervals")


def _draw_chart(chart: Chart, report: Report) -> str:
    more = len(chart.lines) - MAX_DRAWN_LINES
    rest = f" {more} more lines are in figures/{chart.name}.csv." if more > 0 else ""
    return f'{_draw_svg(chart, report)}<p class="faint">{html.escape_html(chart.caption + rest)}</p>'


def _draw_svg(chart: Chart, report: Report) -> str:
    # All lines of all pictures, in the order in which they first come: a line has one colour everywhere.
    charts = [part for _, parts in report.sections for part in parts if isinstance(part, Chart)]
    among = list(dict.fromkeys(name for one in charts for name in drawn_lines(one.lines)))
    series = [
        Series(name, line, colour_of(name, among), dashed="+" in name)
        for name, line in drawn_lines(chart.lines).items()
    ]
    size = (720, 320)
    return html.line_chart(
        series, title=chart.title, x_name=chart.x_name, y_name=chart.y_name, log=chart.log, size=size
    )


def colour_of(method: str, among: Iterable[str]) -> str:
    """The same in every picture for the methods that most reports have; for the others those that are left.

    >>> colour_of("sift", ["nn", "mmr", "sift"]), colour_of("mmr", ["nn", "mmr", "sift"])
    ('b', 'c')
    """
    names = list(among)
    if method in METHOD_COLOURS:
        return METHOD_COLOURS[method]
    free = [colour for colour in SPARE_COLOURS if colour not in {METHOD_COLOURS.get(name) for name in names}]
    return free[[name for name in names if name not in METHOD_COLOURS].index(method) % len(free)]


def drawn_lines(lines: Mapping[str, Line]) -> dict[str, Line]:
    """As many as can be told apart: SIFT and what it is mostly compared with, methods without settings, then those
    that end lowest."""

    def rank(name: str) -> tuple[bool, bool, float, str]:
        end = lines[name][-1][1]
        return name not in METHOD_COLOURS, "+" in name, end if math.isfinite(end) else math.inf, name

    order = sorted(lines, key=rank)[:MAX_DRAWN_LINES]
    return {name: line for name, line in lines.items() if name in order}
