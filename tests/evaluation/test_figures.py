"""Curves of a report: their points are those of plain loops."""

from __future__ import annotations

import itertools
import math
import re
from xml.etree import ElementTree

import numpy as np
import pytest

from evaluation.invented import POINTS, question, records
from siftlm.evaluation import Measured, figures, html, predictiveness, results, statistics

DOMAINS = ("code", "prose")


def of(found, **changes):
    return results.results_from_records(found, question(**changes))


def macro(found, method, value):
    """The mean over domains of 100 · Σ bits after / Σ bits before; ``value``: record -> bits per byte."""
    shares = []
    for domain in DOMAINS:
        some = [one for one in found if (one["domain"], one["method"]) == (domain, method)]
        after = sum(value(one) * one["bytes"] for one in some)
        shares.append(100 * after / sum(one["base"] * one["bytes"] for one in some))
    return sum(shares) / len(shares)


def test_steps_tokens_and_seconds_are_those_of_loops():
    found = records()
    it = of(found)
    steps, tokens, seconds = (
        make(it, "") for make in (figures.against_steps, figures.against_tokens, figures.against_seconds)
    )
    for chart in (steps, tokens, seconds):
        assert set(chart.lines) == {"nn", "sift"}
    some = [one for one in found if one["method"] == "sift"]
    for at, point in enumerate((0, *POINTS)):
        value = macro(found, "sift", lambda one, at=at: one["curve"][at][1])
        learned = np.mean([sum(one["learned"][:point]) for one in some])
        spent = np.mean(
            [
                one["seconds"]["select"] + one["seconds"]["tune"] * sum(one["learned"][:point]) / sum(one["learned"])
                for one in some
            ]
        )
        assert steps.lines["sift"][at] == pytest.approx((point, value))
        assert tokens.lines["sift"][at] == pytest.approx((learned, value))
        assert seconds.lines["sift"][at] == pytest.approx((spent if point else 0, value))
    assert steps.lines["sift"][0][1] == pytest.approx(100)


def test_the_context_learns_nothing_and_has_no_tokens():
    it = of(records(("base", "context", "sift")))
    assert "context" in figures.against_steps(it, "").lines
    assert "context" not in figures.against_tokens(it, "").lines
    assert "context" not in figures.against_seconds(it, "").lines


def test_noise_groups_what_differs_in_nothing_else():
    methods = ("nn", "sift", "sift+noise=0.1", "sift+k=50+noise=0.1", "sift+noise=10+k=50", "mmr+noise=2")
    found = records(methods)
    chart = figures.over_noise(of(found), "")
    assert {name: [x for x, _ in line] for name, line in chart.lines.items()} == {
        "sift": [0.1, figures.DEFAULT_NOISE],
        "sift+k=50": [0.1, 10.0],
    }
    expected = macro(found, "sift+noise=0.1", lambda one: one["curve"][-1][1])
    assert dict(chart.lines["sift"])[0.1] == pytest.approx(expected)
    assert figures.over_noise(of(records(("nn", "sift"))), "") is None


def test_memories_of_several_sizes():
    found = records()
    it = [of(found, memory={"passages": size, "embedder": "hashing"}) for size in (1000, 10, 100)]
    chart = figures.over_memory(results.on_common_texts(it), "")
    assert [x for x, _ in chart.lines["sift"]] == [10, 100, 1000]
    assert chart.log
    assert figures.over_memory(results.on_common_texts(it[:1] * 2), "") is None


def test_a_chart_as_a_table_has_all_its_points():
    chart = figures.against_steps(of(records()), "")
    assert len(chart.table().rows) == 2 * (1 + len(POINTS))
    wide = chart.wide()
    assert wide.head[1:] == ["0", *map(str, POINTS)]
    assert wide.rows[0][1:] == tuple(y for _, y in chart.lines["nn"])


# --- uncertainty


def test_correlation_is_spearmans():
    found = records(("sift",), per_domain=4)
    for rank, one in enumerate(found):  # the more is left, the less is gained
        one["uncertainty"] = [2.0, *[1.0] * 9, 0.1 * (rank + 1)]
        one["curve"] = [[0, one["base"]], [10, one["base"] * (0.5 + rank / 100)]]
    (row,) = predictiveness.correlation_table(of(found), "").rows
    left = np.mean([100 * one["uncertainty"][-1] / 2 for one in found])
    assert row[:2] == ("sift", pytest.approx(left))
    assert (row[3].value, row[4]) == (1.0, 1.0)
    for rank, one in enumerate(found):
        one["uncertainty"][-1] = 0.1 * (8 - rank)
    (row,) = predictiveness.correlation_table(of(found), "").rows
    assert (row[3].value, row[4]) == (-1.0, -1.0)


@pytest.mark.parametrize("true", [0.0, 0.6])
def test_the_interval_of_a_correlation_holds_it_as_often_as_it_says(true):
    rng, held = np.random.default_rng(0), 0
    for _ in range(300):
        x = rng.normal(size=40)
        y = true * x + math.sqrt(1 - true**2) * rng.normal(size=40)
        found = statistics.correlation_interval(statistics.rank_correlation(x, y), 40)
        held += found.low <= 6 / math.pi * math.asin(true / 2) <= found.high  # Spearman's of a normal distribution
    assert 0.91 <= held / 300 <= 0.985
    three = statistics.correlation_interval(1.0, 3)
    assert (three.low, three.high) == (-1, 1)


def test_the_curve_of_uncertainty_begins_at_all_of_it():
    found = records(("sift",))
    (line,) = predictiveness.uncertainty_chart(of(found), "").lines.values()
    assert line[0] == (0, 100)
    three = [np.mean([100 * one["uncertainty"][3] for one in found if one["domain"] == name]) for name in DOMAINS]
    assert line[3] == (3, pytest.approx(np.mean(three)))


@pytest.mark.parametrize("alpha", [0.05, 0.2, 0.3, 0.5, 5.0])
def test_the_stop_is_the_published_rule(alpha):
    for record in records(("sift",)):
        one = Measured.of(record)
        expected = len(one.rows)
        for n in range(2, len(one.rows) + 1):  # the first pick is always kept
            if one.uncertainty[n] ** 0.5 > 1 / (alpha * n):
                expected = n - 1
                break
        assert predictiveness.adaptive_stop(one.uncertainty, alpha) == expected


def test_the_adaptive_stop_is_compared_at_equal_steps():
    found = records(("sift",), per_domain=6)
    it = of(found)
    table = predictiveness.stopping_table(it, it.draws(), "")
    assert len(table.rows) > 3
    for alpha, steps, adaptive, fixed, gap, _ in table.rows:
        stops = {one["text"]: predictiveness.adaptive_stop(one["uncertainty"], float(alpha)) for one in found}
        assert steps == pytest.approx(np.mean(list(stops.values())))

        def at(one, where):
            xs, ys = zip(*one["curve"], strict=True)
            return np.interp(where, xs, ys)

        assert adaptive.value == pytest.approx(macro(found, "sift", lambda one, s=stops: at(one, s[one["text"]])))
        assert fixed.value == pytest.approx(macro(found, "sift", lambda one, s=steps: at(one, s)))
        assert gap.value == pytest.approx(adaptive.value - fixed.value)
        assert 1 <= steps < POINTS[-1]


def test_the_rule_is_not_tried_where_steps_are_not_picks():
    found = [{**one, "settings": {"order": "reversed"}} for one in records(("sift",))]
    assert predictiveness.stopping_method(of(found)) is None
    assert predictiveness.stopping_method(of(records(("sift",)))) == "sift"
    assert predictiveness.stopping_method(of(records(("nn",)))) is None


# --- pictures


def test_factors_are_equally_far_apart_on_a_logarithmic_axis():
    series = [html.Series("s", [(0.01, 3.0), (0.1, 2.0), (1.0, 1.0), (1000.0, 1.5)])]
    drawn = html.line_chart(series, title="t", x_name="x", y_name="y", log=True)
    (points,) = re.findall(r'<polyline points="([^"]*)"', drawn)
    xs = [float(point.split(",")[0]) for point in points.split()]
    assert xs[1] - xs[0] == pytest.approx(xs[2] - xs[1], abs=0.2)
    assert xs[3] - xs[2] == pytest.approx(3 * (xs[1] - xs[0]), abs=0.2)
    feet = {
        name: float(x) for x, name in re.findall(r'<text x="([\d.]+)" y="\d+" text-anchor="middle">([^<]+)<', drawn)
    }
    assert feet["0.01"] == xs[0]
    assert feet["1,000"] == xs[3]


def test_a_picture_of_its_own_is_whole_and_has_its_colours():
    drawn = html.line_chart([html.Series("<s>", [(0, 1), (1, 2)])], title="a & b", x_name="x", y_name="y")
    root = ElementTree.fromstring(html.standalone_svg(drawn))
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert "--b:" in root[0].text
    assert "prefers-color-scheme: dark" in root[0].text
    assert [one.text for one in root.iter("{http://www.w3.org/2000/svg}text")][-1] == "<s>"


def test_a_picture_shows_as_many_lines_as_can_be_told_apart():
    lines = {f"m+noise={at}": ((0.0, 1.0), (1.0, float(at))) for at in range(12)}
    shown = figures.drawn_lines({**lines, "plain": ((0.0, 1.0), (1.0, 99.0))})
    assert list(shown) == [*(f"m+noise={at}" for at in range(figures.MAX_DRAWN_LINES - 1)), "plain"]
    for names in (["nn", "sift", "mmr", "dpp", "hull"], [f"m{at}" for at in range(figures.MAX_DRAWN_LINES)]):
        assert len({figures.colour_of(name, names) for name in names}) == len(names)


def test_names_stay_apart_and_within_the_picture():
    series = [html.Series(f"m{at}", [(0, 100.0), (1, 50.0 + at / 100)]) for at in range(8)]
    drawn = html.line_chart(series, title="t", x_name="x", y_name="y", size=(720, 320))
    places = sorted(float(y) for y in re.findall(r'y="([\d.]+)" style="fill', drawn))
    assert all(later - earlier >= 14.9 for earlier, later in itertools.pairwise(places))
    assert 4 < places[0] < places[-1] <= 320 - 36 + 4


def test_intervals_are_drawn_where_they_are():
    rows = [("a", -2.0, -3.0, -1.0, "e"), ("b", 1.0, -1.0, 3.0, "d"), ("c", math.nan, math.nan, math.nan, "d")]
    drawn = html.interval_chart(rows, title="t", x_name="x")
    lines = [[float(pair.split(",")[0]) for pair in one.split()] for one in re.findall(r'points="([^"]*)"', drawn)]
    dots = [float(x) for x in re.findall(r'<circle cx="([\d.]+)"', drawn)]
    assert len(lines) == len(dots) == 2
    scale = (dots[1] - dots[0]) / 3
    for (low, high), dot, row in zip(lines, dots, rows, strict=False):
        assert high - dot == pytest.approx(scale * (row[3] - row[1]), abs=0.2)
        assert dot - low == pytest.approx(scale * (row[1] - row[2]), abs=0.2)
    (zero,) = re.findall(r'x1="([\d.]+)" x2="[\d.]+" y1="4" y2="\d+" style', drawn)
    assert float(zero) == pytest.approx(dots[0] + 2 * scale, abs=0.2)
    assert html.interval_chart(rows[2:], title="t", x_name="x") == ""
