"""Tables say in every format what their cells hold; figures of them are those of plain loops."""

from __future__ import annotations

import csv
import io
import math
import os
import random
import shutil
import subprocess

import numpy as np
import pytest

from evaluation.invented import question, records
from siftlm.errors import Conflict, InvalidInput, UnknownName
from siftlm.evaluation import comparison, costs, protocol, results, tables
from siftlm.evaluation.statistics import Mean
from siftlm.evaluation.tables import Column, Table


def of(found, methods=None):
    return results.results_from_records(found, question(), methods)


def cell(table, row, column):
    names = table.head
    return next(line for line in table.rows if line[0] == row)[names.index(column)]


def made(*rows, best=()):
    columns = (Column("name"), Column("figure", interval=True, signed=True))
    return Table("t", "A title", "A caption.", columns, rows, best)


# --- the formats


def test_markdown_holds_the_cells_and_no_markup_of_names():
    text = tables.to_markdown(made(("a|b*", Mean(-1.04, -2, 0.5)), ("c", None), best=((0, 1),)))
    assert "| a\\|b\\* | **−1.0 \\[−2.0, +0.5\\]** |" in text
    assert "| c | – |" in text
    assert text.startswith("### A title\n")
    assert "A caption." in text


def test_csv_gives_the_ends_of_intervals_columns_of_their_own():
    text = tables.to_csv(made(("a,b", Mean(1.23456789, 1, math.nan)), ("c", None)))
    assert list(csv.reader(io.StringIO(text))) == [
        ["name", "figure", "figure low", "figure high"],
        ["a,b", "1.23457", "1", ""],
        ["c", "", "", ""],
    ]


def test_latex_escapes_what_latex_would_read():
    text = tables.to_latex(made(("a_b & 5 % {c}~^\\", Mean(0.5, 0.25, 1)), best=((0, 1),)))
    row = r"a\_b \& 5 \% \{c\}\textasciitilde{}\textasciicircum{}\textbackslash{} & \textbf{+0.5 [+0.2, +1.0]} \\"
    assert row in text
    assert text.count(r"\toprule") == text.count(r"\midrule") == text.count(r"\bottomrule") == 1
    assert r"\begin{tabular}{lr}" in text


def test_latex_takes_no_cell_for_the_argument_of_the_row_before():
    text = tables.to_latex(made(("[a]|b", 1.0), ("*c", 2.0), ("d*", Mean(1, 0, 2))))
    rows = text.split("\\midrule\n")[1].splitlines()
    assert rows[:3] == [r"{}[a]\textbar{}b & +1.0 \\", r"{}*c & +2.0 \\", r"d* & +1.0 [0.0, +2.0] \\"]


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="needs pdflatex")
def test_latex_reads_every_table_and_none_is_wider_than_the_page(tmp_path):
    columns = tuple(Column(f"method {at}") for at in range(30))
    wide = Table("wide", "Wide", "<~^\\_%&#$|{}−λασ×≤–", columns, (("<~^\\_%&#$|{}−λασ×≤–", *[1.0] * 29),))
    texts = [tables.to_latex(made(("[a]", Mean(1.0, 0.5, 2.0)))), tables.to_latex(wide)]
    head = r"\documentclass{article}\usepackage{booktabs,graphicx}\begin{document}"
    page = "\n".join([head, *texts, r"\end{document}"])
    (tmp_path / "page.tex").write_text(page)
    done = subprocess.run(
        ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "page.tex"],
        cwd=tmp_path,
        env={**os.environ, "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:]
    assert "Overfull" not in done.stdout
    assert "Missing character" not in done.stdout


def test_html_is_safe_and_bold_where_it_is_best():
    text = tables.to_html(made(("<b>", 1.0), ("c", 2.0), best=((1, 1),)))
    assert "&lt;b&gt;" in text
    assert "<b>" not in text
    assert '<td class="best">+2.0</td>' in text


@pytest.mark.parametrize("width", [20, 33, 200, None])
def test_lines_keep_to_the_width_and_lose_no_column(width):
    columns = (Column("domain"), *(Column(f"method{at}") for at in range(6)))
    lines = tables.to_lines(Table("t", "", "", columns, (("prose", *(10.0 * at for at in range(6))),)), width)
    assert all(len(line) <= (width or 10**6) for line in lines)
    words = " ".join(lines).split()
    assert all(f"method{at}" in words and f"{10.0 * at:.1f}" in words for at in range(6))
    assert words.count("prose") == sum(line.startswith("domain") for line in lines)


def test_the_least_is_best_and_only_below_the_bound():
    rows = [("a", 3.0, 2.0), ("b", Mean(1, 0, 2), 2.0), ("c", math.nan, None)]
    assert tables.lowest_cells(rows, [1, 2]) == ((0, 2), (1, 1))
    assert tables.lowest_cells(rows, [1, 2], below=2) == ((1, 1),)


# --- the figures


def test_percent_and_absolute_are_those_of_loops():
    found = records(("base", "nn", "sift"), ("code", "math", "prose"), 4)
    it = of(random.Random(1).sample(found, len(found)))
    percent = comparison.percent_table(it, it.draws(), "")
    absolute = comparison.absolute_table(it, it.draws(), "")
    for method in ("nn", "sift"):
        every_percent, every_absolute = [], []
        for domain in ("code", "math", "prose"):
            tuned = before = size = 0.0
            for record in found:
                if record["domain"] == domain and record["method"] == method:
                    tuned += record["curve"][-1][1] * record["bytes"]
                    before += record["base"] * record["bytes"]
                    size += record["bytes"]
            assert cell(percent, domain, method).value == pytest.approx(100 * tuned / before)
            assert cell(absolute, domain, method).value == pytest.approx(tuned / size)
            assert cell(absolute, domain, "base").value == pytest.approx(before / size)
            assert cell(absolute, domain, "bytes") == size
            every_percent.append(100 * tuned / before)
            every_absolute.append(tuned / size)
        assert cell(percent, "all", method).value == pytest.approx(sum(every_percent) / 3)
        assert cell(absolute, "all", method).value == pytest.approx(sum(every_absolute) / 3)
    assert [row[-1] for row in percent.rows] == [4, 4, 4, 12]


def test_a_weighted_mean_is_weighted():
    it = of(records(domains=("Github", "ArXiv", "else")))
    given = protocol.domain_weights("pile", it.names)
    table = comparison.percent_table(it, it.draws(), "", given)
    expected = (7.59 * cell(table, "Github", "nn").value + 8.96 * cell(table, "ArXiv", "nn").value) / (7.59 + 8.96)
    assert cell(table, "weighted", "nn").value == pytest.approx(expected)


def test_the_pile_is_whole():
    assert len(protocol.PILE_WEIGHTS) == 22
    assert sum(protocol.PILE_WEIGHTS.values()) == pytest.approx(100, abs=0.05)


@pytest.mark.parametrize(
    ("given", "said"),
    [({"a": -1.0}, "'a' is -1.0"), ({"z": 1.0}, "none of the domains"), ("missing.json", "no such file")],
)
def test_bad_weights(given, said):
    with pytest.raises(InvalidInput, match=said):
        protocol.domain_weights(given, ["a", "b"])


def test_differences_are_paired():
    found = records(("base", "nn", "sift"), per_domain=8, gain={"nn": 0.1, "sift": 0.3})
    it = of(found)
    one = comparison.difference(it, "sift", "nn", it.draws())
    tuned = {(r["text"], r["method"]): r["curve"][-1][1] for r in found}
    wins = [tuned[text, "sift"] < tuned[text, "nn"] for text in it.texts]
    assert one.texts_won == pytest.approx(np.mean(wins))
    percent = comparison.percent_table(it, it.draws(), "")
    assert one.mean.value == pytest.approx(cell(percent, "all", "sift").value - cell(percent, "all", "nn").value)
    assert one.mean.low < one.mean.value < one.mean.high < 0
    assert one.verdict == "better"
    assert one.won == 2
    back = comparison.difference(it, "nn", "sift", it.draws())
    assert back.verdict == "worse"
    assert back.won == 0
    assert back.mean.value == pytest.approx(-one.mean.value)
    assert "nn is worse than sift" in back.sentence()


def test_differences_on_the_way_are_those_of_loops():
    some = records(("base", "nn", "sift", "late"), ("code", "math"), 6)
    for one in some:
        if one["method"] == "late":
            one["curve"] = [point for point in one["curve"] if point[0] != 2]
    found = of(some)
    table = comparison.steps_table(found, "nn", found.draws(), "")
    assert table.head == ["steps:", "1", "2", "5", "10"]
    assert [row[0] for row in table.rows] == ["late", "sift"]
    bits = {(one["text"], one["method"]): dict(one["curve"]) for one in some}
    means = []
    for domain in ("code", "math"):
        known = [one for one in some if one["method"] == "base" and one["domain"] == domain]
        whole = sum(one["base"] * one["bytes"] for one in known)
        gaps = [(bits[one["text"], "sift"][2] - bits[one["text"], "nn"][2]) * one["bytes"] for one in known]
        means.append(100 * sum(gaps) / whole)
    assert cell(table, "sift", "2").value == pytest.approx(np.mean(means))
    assert cell(table, "late", "2") is None
    end = comparison.difference(found, "sift", "nn", found.draws()).mean
    assert cell(table, "sift", "10") == end
    assert comparison.steps_table(found, "base", found.draws(), "") is None
    assert comparison.steps_table(of(some, ["nn"]), "nn", found.draws(), "") is None


def test_equal_methods_have_no_significant_difference():
    found = records(per_domain=8)
    it = of([*found, *({**one, "method": "twin"} for one in found if one["method"] == "nn")])
    one = comparison.difference(it, "twin", "nn", it.draws())
    assert (one.mean, one.verdict, one.texts_won) == (Mean(0, 0, 0), "no significant difference", 0.5)


def test_few_texts_decide_nothing():
    it = of(records(per_domain=comparison.MIN_TEXTS_PER_DOMAIN - 1, gain={"nn": 0.0, "sift": 0.5}))
    one = comparison.difference(it, "sift", "nn", it.draws())
    assert one.mean.high < 0
    assert one.verdict == "inconclusive"
    assert "too few texts" in one.sentence()


def test_only_common_texts_are_compared():
    found = records(per_domain=6)
    fewer = [one for one in found if (one["text"], one["method"]) not in {("code-000", "nn"), ("prose-003", "sift")}]
    it = of(fewer)
    assert it.left_out == 2
    assert len(it.texts) == 10
    assert not {"code-000", "prose-003"} & set(it.texts)
    assert of(fewer, ["nn"]).left_out == 1


def test_without_records_of_the_base_model_it_is_known_from_the_others():
    with_it, without = of(records()), of([one for one in records() if one["method"] != "base"])
    assert without.methods == with_it.methods
    assert np.array_equal(without.base, with_it.base)


def test_what_cannot_be_compared_is_refused():
    found = records()
    with pytest.raises(InvalidInput, match="base=None is no number"):
        of([{**found[0], "base": None}, *found[1:]])
    with pytest.raises(Conflict, match="different models"):
        of([*found[:-1], {**found[-1], "base": 2 * found[-1]["base"]}])
    with pytest.raises(Conflict, match="rate=1 and with rate=2"):
        of([{**one, "settings": {"rate": 1 + at % 2}} for at, one in enumerate(found)])
    with pytest.raises(UnknownName, match="did you mean 'sift'"):
        of(found, ["shift"])
    with pytest.raises(InvalidInput, match="no text has a result of each"):
        of([one for one in found if (one["domain"] == "code") == (one["method"] == "nn")])


# --- what was picked


def test_repeats_are_counted():
    found = [{**one, "rows": [7, 7, 7, 1, 2], "copies": 2} for one in records(("nn",), per_domain=2)]
    found[0]["rows"] = [1, 2, 3, 4, 5]
    it = of(found)
    table = costs.picks_table(it, "")
    values = dict(zip(table.head, next(row for row in table.rows if row[0] == "nn"), strict=True))
    assert values["picks"] == 5
    assert values["distinct"] == pytest.approx((5 + 3 * 3) / 4)
    assert values["repeated picks, %"] == pytest.approx(100 * 6 / 20)
    assert values["texts with repeats, %"] == 75
    assert values["leaks"] == 8
    assert values["texts with leaks"] == 4
    often = costs.multiplicity_table(it, "")
    assert often.head == ["method", "1×", "2×", "3×"]
    assert often.rows[0] == ("nn", (5 + 3 * 2) / 4, 0, 3 / 4)


def test_costs_are_means_over_texts():
    found = records()
    table = costs.costs_table(of(found), "")
    seconds = [one["seconds"] for one in found if one["method"] == "sift"]
    select, tune = (np.mean([one[part] for one in seconds]) for part in ("select", "tune"))
    assert cell(table, "sift", "select, s") == pytest.approx(select)
    assert cell(table, "sift", "selection, %") == pytest.approx(100 * select / (select + tune))


def test_learning_is_compared_with_the_context():
    it = of(records(("base", "context", "sift"), per_domain=6, gain={"context": 0.0, "sift": 0.3}))
    (row,) = comparison.context_table(it, it.draws(), "").rows
    assert row[0] == "sift − context"
    assert row[-1] == "better"
