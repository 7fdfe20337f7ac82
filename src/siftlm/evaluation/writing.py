"""A report on disk: report.md, report.html, tables and figures of their own. The same records give the same bytes."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from siftlm.errors import Unwritable
from siftlm.evaluation import pages, tables
from siftlm.evaluation.comparison import BETTER, WORSE
from siftlm.evaluation.figures import Chart, Line
from siftlm.evaluation.labels import BASE_METHOD
from siftlm.evaluation.pages import Series
from siftlm.evaluation.report import Report
from siftlm.evaluation.tables import Table
from siftlm.memory import durability

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
        made["figures/differences.svg"] = pages.standalone_svg(picture)
    for _, parts in report.sections:
        for part in parts:
            table: Table | None
            if isinstance(part, Chart):
                made[f"figures/{part.name}.csv"] = tables.to_csv(part.table())
                if picture := _draw_svg(part, report):
                    made[f"figures/{part.name}.svg"] = pages.standalone_svg(picture)
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
    body += [f'<p class="faint">{pages.escape_html(line)}</p>' for line in report.about]
    body += _findings(report)
    for head, parts in report.sections:
        body.append(f"<h2>{pages.escape_html(head)}</h2>")
        body += [_draw_chart(part, report) if isinstance(part, Chart) else tables.to_html(part) for part in parts]
    return pages.html_page(f"siftlm: {REPORT_TITLE.lower()}", body)


def _findings(report: Report) -> list[str]:
    """The verdicts: those on methods with settings of their own, if they are many, behind a word."""
    plain = [one.sentence() for one in report.differences if "+" not in one.method]
    rest = [one.sentence() for one in report.differences if "+" in one.method]
    if len(rest) <= MAX_UNFOLDED_VERDICTS:
        plain, rest = report.sentences, []
    body = [f'<p class="finding">{pages.escape_html(sentence)}</p>' for sentence in plain]
    if rest:
        items = "".join(f"<li>{pages.escape_html(sentence)}</li>" for sentence in rest)
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
    return pages.interval_chart(rows, title=title, x_name="% of base, with 95 % intervals")


def _draw_chart(chart: Chart, report: Report) -> str:
    more = len(chart.lines) - MAX_DRAWN_LINES
    rest = f" {more} more lines are in figures/{chart.name}.csv." if more > 0 else ""
    return f'{_draw_svg(chart, report)}<p class="faint">{pages.escape_html(chart.caption + rest)}</p>'


def _draw_svg(chart: Chart, report: Report) -> str:
    # All lines of all pictures, in the order in which they first come: a line has one colour everywhere.
    charts = [part for _, parts in report.sections for part in parts if isinstance(part, Chart)]
    among = list(dict.fromkeys(name for one in charts for name in drawn_lines(one.lines)))
    series = [
        Series(name, line, colour_of(name, among), dashed="+" in name)
        for name, line in drawn_lines(chart.lines).items()
    ]
    size = (720, 320)
    return pages.line_chart(
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
