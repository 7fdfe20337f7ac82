"""Pages in one file: safe text, charts whose lines are where their numbers say."""

from __future__ import annotations

import itertools
import math
import re
from xml.etree import ElementTree

import pytest

from siftlm.evaluation import html
from siftlm.evaluation.html import Series


def polylines(svg: str) -> list[list[tuple[float, float]]]:
    found = re.findall(r'<polyline points="([^"]*)"', svg)
    return [[(float(x), float(y)) for x, y in (point.split(",") for point in one.split())] for one in found]


def test_text_cannot_become_markup():
    wild = "<script>alert('x')</script> & \"y\""
    for made in (
        html.escape_html(wild),
        html.html_table([wild], [[wild]]),
        html.html_page(wild, []),
        html.line_chart([Series(wild, [(0, 1), (1, 2)])], title=wild, x_name=wild, y_name=wild),
    ):
        assert "<script" not in made
        assert "&lt;script&gt;" in made


def test_a_table_sets_the_best_in_bold():
    made = html.html_table(["a", "b"], [["1", "2"], ["3", "4"]], best=[1])
    assert made.count('class="best"') == 1
    assert '<td class="best">2</td>' in made


def test_lower_values_are_drawn_lower_and_on_their_ticks():
    made = html.line_chart([Series("s", [(0, 1.0), (1, 0.5), (2, 0.0)])], title="t", x_name="x", y_name="y")
    (line,) = polylines(made)
    assert [y for _, y in line] == sorted(y for _, y in line)
    assert [x for x, _ in line] == sorted(x for x, _ in line)
    ticks = {float(y) for y in re.findall(r'class="axis"[^>]*y1="([\d.]+)"', made)}
    assert {line[0][1], line[-1][1]} <= ticks


def test_from_zero_gives_the_axis_its_zero():
    series = [Series("s", [(0, 100.0), (1, 90.0)])]
    labels = [
        re.findall(
            r'text-anchor="end">([^<]*)<', html.line_chart(series, title="", x_name="x", y_name="y", from_zero=zero)
        )
        for zero in (True, False)
    ]
    assert "0" in labels[0]
    assert "0" not in labels[1]


def test_a_line_is_broken_where_there_is_no_number():
    made = html.line_chart([Series("s", [(0, 1), (1, math.nan), (2, 1), (3, 2)])], title="", x_name="", y_name="")
    assert [len(line) for line in polylines(made)] == [1, 2]
    assert "nan" not in made


def test_names_of_lines_that_end_together_do_not_overlap():
    made = html.line_chart([Series(name, [(0, 0), (1, 1)]) for name in "abc"], title="", x_name="", y_name="")
    places = sorted(float(y) for y in re.findall(r'y="([\d.]+)" style="fill', made))
    assert len(places) == 3
    assert all(below - above >= 15 for above, below in itertools.pairwise(places))


@pytest.mark.parametrize("points", [[(0, 1.0)], [(0, 0.0), (1, 0.0)], [(0, 1e-9), (1, 1e9)], [(5, -3.0), (6, -2.0)]])
def test_odd_ranges_stay_inside_the_picture(points):
    made = html.line_chart([Series("s", points)], title="", x_name="", y_name="", size=(400, 200))
    for x, y in (point for line in polylines(made) for point in line):
        assert 0 <= x <= 400
        assert 0 <= y <= 200


def test_nothing_to_draw():
    assert html.line_chart([], title="", x_name="", y_name="") == ""
    assert html.line_chart([Series("s", [(0, math.nan)])], title="", x_name="", y_name="") == ""


def test_a_page_is_well_formed_and_needs_nothing_from_elsewhere():
    body = [
        html.side_by_side("<p>a</p>", html.line_chart([Series("s", [(0, 1), (1, 2)])], title="t", x_name="", y_name=""))
    ]
    made = html.html_page("title", body)
    assert made.startswith("<!doctype html>")
    assert not re.search(r"https?:|src=|@import|url\(", made)
    ElementTree.fromstring(re.sub(r"<style>.*?</style>", "", "".join(re.findall(r"<body>.*</body>", made, re.DOTALL))))
