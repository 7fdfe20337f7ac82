"""`report`: runs as verdicts, tables and figures; `write`: a report as files.

made = report(["runs/a"], against="nn")
made.sentences                       which methods are better than nn
write(made, "runs/a/report")
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from siftlm.errors import Unwritable, setting
from siftlm.evaluation import comparison, costs, figures, html, predictiveness, tables
from siftlm.evaluation.comparison import BETTER, WORSE, Difference
from siftlm.evaluation.figures import MAX_DRAWN_LINES, Chart
from siftlm.evaluation.labels import BASE_METHOD, INTERPOLATION_METHOD, describe_question, method_name
from siftlm.evaluation.protocol import domain_weights
from siftlm.evaluation.results import Results, gather, on_common_texts
from siftlm.evaluation.statistics import Draws
from siftlm.evaluation.tables import Table
from siftlm.memory import durability


@dataclass(frozen=True, eq=False)
class Report:
    """Results as verdicts, tables and figures."""

    results: Results
    differences: tuple[Difference, ...]
    """Each method's difference to the reference."""
    about: tuple[str, ...]
    """The run in words, and what was left out."""
    sections: tuple[tuple[str, tuple[Table | Chart, ...]], ...]
    """Headings with their tables and figures."""

    @property
    def sentences(self) -> list[str]:
        """The verdicts in words."""
        return [one.sentence() for one in self.differences]

    @property
    def main(self) -> Table:
        """The table by domain: in % of base, or in bits per byte where there is only the base model."""
        first = self.sections[0][1][0]
        return first if isinstance(first, Table) else first.table()


def report(
    runs: Sequence[str | os.PathLike[str]],
    *,
    against: str | None = None,
    methods: Sequence[str] | None = None,
    weights: str | Mapping[str, float] | None = None,
) -> Report:
    """The report of some runs.

    Args:
        runs: folders of runs of one model and protocol. The tables are those of the first run's memory; other memories
            are compared with it in a table of their own.
        against: the reference; by default ``nn`` if the runs have it, else ``base``.
        methods: report only these and the reference.
        weights: for a weighted mean over domains: ``"pile"``, or a file or mapping {domain: weight}.
    """
    named = None if methods is None else [*methods, *([against] if against else [])]
    memories = gather(runs, named)
    return compose_report(memories[0], memories, against=against, weights=weights)


def compose_report(
    results: Results,
    memories: Sequence[Results] = (),
    *,
    against: str | None = None,
    weights: str | Mapping[str, float] | None = None,
) -> Report:
    """A report of results; ``memories``: the results of several memories, to be compared."""
    shares = None if weights is None else domain_weights(weights, results.names)
    versus = comparison.reference_method(results, against)
    draws = results.draws()
    differences = tuple(
        comparison.difference(results, name, versus, draws, shares) for name in results.methods if name != versus
    )
    note = caption(results)
    sections = (
        ("Bits per byte", _comparison_parts(results, draws, differences, note, shares)),
        ("By number of steps", (*_curve_parts(results, note), comparison.steps_table(results, versus, draws, note))),
        ("Settings", _settings_parts(results, memories, note)),
        ("Uncertainty", _uncertainty_parts(results, draws, note)),
        ("Picks and costs", _cost_parts(results, note)),
    )
    kept = tuple((head, tuple(one for one in parts if one is not None)) for head, parts in sections)
    return Report(
        results, differences, _describe_run(results, shares), tuple((head, parts) for head, parts in kept if parts)
    )


def caption(results: Results, memory: str | None = None) -> str:
    """The end of every caption; ``memory``: in place of the results' own."""
    words = describe_question(results.question)
    corpus = f" of {words['corpus']}" if "corpus" in words else ""
    return (
        f"Protocol {words['protocol']}; {_count(len(results.texts), 'text')} in {_count(len(results.names), 'domain')}"
        f"{corpus}; n = {words['n']}; {words['model']}; memory: {memory or words['memory']}."
    )


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def _describe_run(results: Results, weights: Mapping[str, float] | None) -> tuple[str, ...]:
    lines = [caption(results)]
    if results.left_out:
        lines.append(f"{_count(results.left_out, 'text')} left out, without a result of some method so far.")
    if any(method_name(name) == INTERPOLATION_METHOD for name in results.methods):
        lines.append("For each text, interpolation uses the weight that is best on all other texts.")
    for name in results.others:
        broken = int((~np.isfinite(results.tuned(name))).sum())
        if broken:
            lines.append(f"{name}: {_count(broken, 'result')} not finite; means over them are not shown.")
    lines += _shortage_notes(results)
    if weights is not None:
        without = [name for name, weight in weights.items() if not weight]
        lines += [f"Domains without a weight, left out of the weighted mean: {', '.join(without)}."] if without else []
    if describe_question(results.question)["copies"] == "exclude":
        lines.append("Passages that leak the scored text were excluded from every search.")
    return tuple(lines)


def _shortage_notes(results: Results) -> list[str]:
    """Methods that chose fewer texts than n: their later points repeat the last state."""
    n = int((results.question.get("protocol") or {}).get("n", 0))
    lines = []
    for name in results.others:
        taken = [len(one.rows) for one in results.measured[name] if one.rows and len(one.rows) < n]
        if taken:
            least = min(taken)
            lines.append(
                f"{name}: fewer texts than n = {n} were chosen for {_count(len(taken), 'text')} (at least {least}); "
                "points beyond the last step show the state after it."
            )
    return lines


SectionParts = tuple[Table | Chart | None, ...]


def _comparison_parts(
    results: Results, draws: Draws, differences: Sequence[Difference], note: str, weights: Mapping[str, float] | None
) -> SectionParts:
    absolute = comparison.absolute_table(results, draws, note, weights)
    if not results.others:
        return (absolute,)
    return (
        comparison.percent_table(results, draws, note, weights),
        comparison.difference_table(results, differences, draws, note),
        absolute,
        comparison.domain_table(differences, note),
        comparison.context_table(results, draws, note, weights),
    )


def _curve_parts(results: Results, note: str) -> SectionParts:
    charts = (
        figures.against_steps(results, note),
        figures.against_tokens(results, note),
        figures.against_seconds(results, note),
    )
    return tuple(chart if chart.lines else None for chart in charts)


def _settings_parts(results: Results, memories: Sequence[Results], note: str) -> SectionParts:
    chart, same = figures.over_noise(results, note), on_common_texts(memories)
    if not same:
        return (chart,)
    several = caption(same[0], "several")
    return chart, figures.over_memory(same, several), comparison.memories_table(same, same[0].draws(), several)


def _uncertainty_parts(results: Results, draws: Draws, note: str) -> SectionParts:
    return (
        predictiveness.correlation_table(results, note),
        predictiveness.uncertainty_chart(results, note),
        predictiveness.stopping_table(results, draws, note),
    )


def _cost_parts(results: Results, note: str) -> SectionParts:
    return (
        costs.picks_table(results, note),
        costs.multiplicity_table(results, note),
        costs.costs_table(results, note),
    )


# The file that lists the report's other files, one a line.
WRITTEN_FILES_LIST = ".written"
REPORT_FILE_PATTERN = re.compile(r"report\.(html|md)|(tables|figures|texts)/[^/\\]+\.(csv|tex|svg|html)")
REPORT_TITLE = "The gain of tuning for each text"
# More verdicts on methods with settings are folded.
MAX_UNFOLDED_VERDICTS = 3


def write(report: Report, into: str | os.PathLike[str], texts: Mapping[str, str] | None = None) -> list[Path]:
    """Write a report's files; returns their paths, the page first.

    Args:
        report: the report.
        into: the folder. Files of an earlier report that this one does not write are removed.
        texts: pages of single texts, from `siftlm.evaluation.passages.passage_pages`.
    """
    folder = Path(into)
    contents: dict[str, str] = {"report.html": report_to_html(report), "report.md": report_to_markdown(report)}
    if picture := _differences(report):
        contents["figures/differences.svg"] = html.standalone_svg(picture)
    for _, parts in report.sections:
        for part in parts:
            table: Table | None
            if isinstance(part, Chart):
                contents[f"figures/{part.name}.csv"] = tables.to_csv(part.table())
                if picture := _draw_svg(part, report):
                    contents[f"figures/{part.name}.svg"] = html.standalone_svg(picture)
                table = part.wide()
            else:
                table = part
            if table is not None:
                contents[f"tables/{table.name}.csv"] = tables.to_csv(table)
                contents[f"tables/{table.name}.tex"] = tables.to_latex(table)
    contents |= texts or {}
    earlier = _earlier_files(folder)
    files = write_files(contents, folder)
    with durability.translate_write_errors(folder):
        for name in earlier - contents.keys():
            (folder / name).unlink(missing_ok=True)
        (folder / WRITTEN_FILES_LIST).write_bytes("".join(f"{name}\n" for name in sorted(contents)).encode())
    return files


def _earlier_files(folder: Path) -> set[str]:
    """The files of the report before; names that lead out of the folder are ignored."""
    try:
        names = (folder / WRITTEN_FILES_LIST).read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError):
        return set()
    return {name for name in names if REPORT_FILE_PATTERN.fullmatch(name)}


def write_files(files: Mapping[str, str], folder: Path) -> list[Path]:
    """Write files below a folder, without fsync: a report can be made again after a power cut."""
    if folder.exists() and not folder.is_dir():
        raise Unwritable(f"{folder}: is a file, and a report is a folder; give {setting('into')} another name")
    with durability.translate_write_errors(folder):
        for name, content in files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content.encode())
    return [folder / name for name in files]


def report_to_markdown(report: Report) -> str:
    """The report as one Markdown document; figures are images with a link to their points."""
    lines = [f"# {REPORT_TITLE}", "", *report.about, ""]
    lines += [f"- {sentence}" for sentence in report.sentences]
    lines += ["", "![Differences with intervals](figures/differences.svg)"] if _differences(report) else []
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
    """The report as one HTML page that needs no other file."""
    body = [f"<h1>{REPORT_TITLE}</h1>"]
    body += [f'<p class="faint">{html.escape_html(line)}</p>' for line in report.about]
    body += _findings(report)
    for head, parts in report.sections:
        body.append(f"<h2>{html.escape_html(head)}</h2>")
        body += [_draw_chart(part, report) if isinstance(part, Chart) else tables.to_html(part) for part in parts]
    return html.html_page(f"siftlm: {REPORT_TITLE.lower()}", body)


def _findings(report: Report) -> list[str]:
    """The verdicts; those on methods with settings are folded if they are many."""
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
    """The picture of all differences but the base model's, whose scale would hide the others."""
    some = [one for one in report.differences if one.method != BASE_METHOD]
    if not some:
        return ""
    colours = {BETTER: "e", WORSE: "f"}
    rows = [(one.method, one.mean.value, one.mean.low, one.mean.high, colours.get(one.verdict, "d")) for one in some]
    title = f"Difference to {some[0].against}: green is better, red is worse, grey is not significant"
    return html.interval_chart(rows, title=title, x_name="% of base, with 95 % intervals")


def _draw_chart(chart: Chart, report: Report) -> str:
    more = len(chart.lines) - MAX_DRAWN_LINES
    rest = f" {more} more lines are in figures/{chart.name}.csv." if more > 0 else ""
    return f'{_draw_svg(chart, report)}<p class="faint">{html.escape_html(chart.caption + rest)}</p>'


def _draw_svg(chart: Chart, report: Report) -> str:
    charts = [part for _, parts in report.sections for part in parts if isinstance(part, Chart)]
    return figures.draw(chart, dict.fromkeys(name for one in charts for name in figures.drawn_lines(one.lines)))
