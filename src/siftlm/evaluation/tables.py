"""`Table`, written as text for a terminal, Markdown, HTML, CSV and LaTeX.

In CSV the ends of intervals have columns of their own; the other formats show intervals in columns that ask for it.
"""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from siftlm.evaluation import html
from siftlm.evaluation.statistics import Mean

Cell = str | int | float | Mean | None
MINUS_SIGN = "−"
EMPTY_CELL = "–"


@dataclass(frozen=True)
class Column:
    """A column's name and number format."""

    name: str
    digits: int = 1
    interval: bool = False
    """Show intervals in all formats; CSV always has them."""
    signed: bool = False
    """Write a plus before numbers above zero."""


@dataclass(frozen=True)
class Table:
    """Rows of cells under columns."""

    name: str
    """The name of its files, without a suffix."""
    title: str
    caption: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    best: tuple[tuple[int, int], ...] = ()
    """(row, column) of the cells in bold, at most one a row."""

    def written(self) -> list[list[str]]:
        """The cells as text."""
        return [
            [format_cell(cell, column) for cell, column in zip(row, self.columns, strict=True)] for row in self.rows
        ]

    @property
    def head(self) -> list[str]:
        """The names of the columns."""
        return [column.name for column in self.columns]


def format_cell(cell: Cell, column: Column) -> str:
    """A cell as text.

    >>> format_cell(Mean(-1.04, -1.8, -0.4), Column("", interval=True, signed=True))
    '−1.0 [−1.8, −0.4]'
    >>> format_cell(Mean(0.4, 0.04, 0.7), Column("", interval=True))
    '0.40 [0.04, 0.70]'
    >>> format_cell(1234567, Column("")), format_cell(None, Column("")), format_cell(0.5, Column("", signed=True))
    ('1,234,567', '–', '+0.5')
    """
    if cell is None:
        return EMPTY_CELL
    if isinstance(cell, str):
        return cell
    if isinstance(cell, int):
        return f"{cell:,}".replace("-", MINUS_SIGN)
    value = cell.value if isinstance(cell, Mean) else cell
    if isinstance(cell, Mean) and column.interval and cell.sign:
        # An end that is not zero must not be rounded to zero: the verdict depends on it.
        nearest = min(abs(cell.low), abs(cell.high))
        column = replace(column, digits=next((d for d in range(column.digits, 4) if round(nearest, d)), 4))
    text = _format_number(value, column)
    if isinstance(cell, Mean) and column.interval and math.isfinite(value):
        finite = math.isfinite(cell.low + cell.high)
        text += (
            f" [{_format_number(cell.low, column)}, {_format_number(cell.high, column)}]"
            if finite
            else f" [{EMPTY_CELL}]"
        )
    return text


def _format_number(value: float, column: Column) -> str:
    if not math.isfinite(value):
        return EMPTY_CELL
    text = f"{value:.{column.digits}f}"
    if float(text) == 0:
        return text.removeprefix("-")
    return ("+" + text if column.signed and value > 0 else text).replace("-", MINUS_SIGN)


def to_markdown(table: Table) -> str:
    """The table in Markdown, with its title and caption."""
    bold = set(table.best)
    lines = ["| " + " | ".join(_escape_markdown(name) for name in table.head) + " |"]
    lines.append("|" + "|".join("---" if at == 0 else "---:" for at in range(len(table.columns))) + "|")
    for at, row in enumerate(table.written()):
        cells = (
            f"**{_escape_markdown(c)}**" if (at, place) in bold else _escape_markdown(c) for place, c in enumerate(row)
        )
        lines.append("| " + " | ".join(cells) + " |")
    return f"### {table.title}\n\n" + "\n".join(lines) + f"\n\n{_escape_markdown(table.caption)}\n"


def _escape_markdown(text: str) -> str:
    """Text without Markdown markup."""
    return re.sub(r"([\\|*_`<\[\]])", r"\\\1", " ".join(text.split()))


def to_html(table: Table) -> str:
    """The table as HTML, with its title and caption, for `siftlm.evaluation.html.html_page`."""
    columns = dict(table.best)
    best = [columns.get(at) for at in range(len(table.rows))]
    return (
        f"<h3>{html.escape_html(table.title)}</h3>{html.html_table(table.head, table.written(), best)}"
        f'<p class="faint">{html.escape_html(table.caption)}</p>'
    )


def to_csv(table: Table) -> str:
    """The table as CSV, with all significant digits, and the ends of intervals in columns of their own."""
    spread = [any(isinstance(row[at], Mean) for row in table.rows) for at in range(len(table.columns))]
    output = io.StringIO()
    writer = csv.writer(output, lineterminator="\n")
    head: list[str] = []
    for column, wide in zip(table.columns, spread, strict=True):
        head += [column.name, f"{column.name} low", f"{column.name} high"] if wide else [column.name]
    writer.writerow(head)
    for row in table.rows:
        cells: list[str] = []
        for cell, wide in zip(row, spread, strict=True):
            cells += _csv_cell(cell, wide)
        writer.writerow(cells)
    return output.getvalue()


def _csv_cell(cell: Cell, wide: bool) -> list[str]:
    if isinstance(cell, Mean):
        return [_rounded_digits(cell.value), _rounded_digits(cell.low), _rounded_digits(cell.high)]
    one = "" if cell is None else _rounded_digits(cell) if isinstance(cell, float) else str(cell)
    return [one, "", ""] if wide else [one]


def _rounded_digits(value: float) -> str:
    """A number at six digits: further ones differ between processors."""
    return f"{value:.6g}" if math.isfinite(value) else ""


LATEX_ESCAPES = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "λ": r"$\lambda$",
    "α": r"$\alpha$",
    "σ": r"$\sigma$",
    "−": "$-$",
    "–": "--",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "×": r"$\times$",
    "≤": r"$\le$",
    "|": r"\textbar{}",
}


def to_latex(table: Table) -> str:
    """The table in LaTeX, for ``\\usepackage{booktabs,graphicx}``; one wider than the page is scaled down."""
    bold = set(table.best)
    lines = [
        r"\begin{table}",
        r"\centering",
        r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%",
        r"\begin{tabular}{l" + "r" * (len(table.columns) - 1) + "}",
        r"\toprule",
        " & ".join(_escape_latex(name) for name in table.head) + r" \\",
        r"\midrule",
    ]
    for at, row in enumerate(table.written()):
        cells = (
            rf"\textbf{{{_escape_latex(c)}}}" if (at, place) in bold else _escape_latex(c)
            for place, c in enumerate(row)
        )
        line = " & ".join(cells) + r" \\"
        # LaTeX would read these two as an argument of the row end before.
        lines.append(f"{{}}{line}" if line.startswith(("[", "*")) else line)
    caption = _escape_latex(f"{table.title}. {table.caption}")
    lines += [r"\bottomrule", r"\end{tabular}}", rf"\caption{{{caption}}}", rf"\label{{tab:{table.name}}}"]
    return "\n".join([*lines, r"\end{table}"]) + "\n"


def _escape_latex(text: str) -> str:
    return "".join(LATEX_ESCAPES.get(letter, letter) for letter in " ".join(text.split()))


def to_lines(table: Table, width: int | None = None) -> list[str]:
    """The table for a terminal; columns beyond ``width`` go into blocks below, each with the first column."""
    cells = [table.head, *table.written()]
    widths = [max(len(row[at]) for row in cells) for at in range(len(table.columns))]
    blocks: list[list[int]] = [[]]
    used = widths[0]
    for at in range(1, len(widths)):
        if width is not None and blocks[-1] and used + 2 + widths[at] > width:
            blocks.append([])
            used = widths[0]
        blocks[-1].append(at)
        used += 2 + widths[at]
    lines: list[str] = []
    for block in blocks:
        lines += [""] if lines else []
        lines += [row[0].ljust(widths[0]) + "".join("  " + row[at].rjust(widths[at]) for at in block) for row in cells]
    return lines


def lowest_cells(
    rows: Sequence[Sequence[Cell]], columns: Sequence[int], below: float = math.inf
) -> tuple[tuple[int, int], ...]:
    """(row, column) of the lowest figure of each row among some columns, if it is below a bound."""
    cells = []
    for at, row in enumerate(rows):
        values = {place: _cell_value(row[place]) for place in columns}
        best = min(values, key=lambda place: values[place], default=None)
        if best is not None and values[best] < below:
            cells.append((at, best))
    return tuple(cells)


def _cell_value(cell: Cell) -> float:
    value = cell.value if isinstance(cell, Mean) else cell
    return float(value) if isinstance(value, (int, float)) and math.isfinite(value) else math.inf
