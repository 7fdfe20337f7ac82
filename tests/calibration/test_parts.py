"""The parts of calibration, each against something slower or known."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as some

from siftlm.calibration.grid import Grid, Setting, default_setting, make_grid, nearest_setting, sift_settings
from siftlm.calibration.search import HalvingSchedule, affordable_schedule
from siftlm.calibration.stopping import (
    MIN_RULE_TEXTS,
    fit_adaptive_rule,
    fit_decide_rule,
    percent_at,
    uncertainty_gain_correlation,
)
from siftlm.calibration.trials import Trial, _bit_reversed, _join_passages, last_point_within
from siftlm.evaluation.predictiveness import adaptive_stop
from siftlm.evaluation.protocol import score_points
from siftlm.evaluation.statistics import mean, rank_correlation
from siftlm.memory import Memory


def run(text, percents, uncertainty, *, points=(1, 2, 5, 10)):
    """On one text; ``percents`` of base at the points."""
    curve = {point: percent / 50 for point, percent in zip(points, percents, strict=True)}
    return Trial(
        nearest_setting(1e-3), text, points[-1], 2.0, curve, tuple(uncertainty), tuple(range(len(uncertainty) - 1)), {}
    )


# --- planning


@given(some.integers(2, 60), some.integers(1, 3), some.integers(1, 30), some.integers(0, 1), some.floats(0, 500))
def test_a_plan_fits_and_takes_all_texts_that_fit(settings, keep, most, always, runs):
    found = affordable_schedule(settings, keep, most, always, runs)
    if found is None:
        return
    assert settings <= keep or found.runs(always) <= runs
    assert found.texts <= most
    if found.settings == settings and found.texts < most:
        assert HalvingSchedule(settings, found.texts + 1, keep, most).runs(always) > runs


@given(some.integers(2, 60), some.integers(1, 3), some.integers(1, 8), some.integers(1, 30), some.integers(0, 1))
def test_the_cost_of_a_plan_is_that_of_carrying_it_out(settings, keep, texts, most, always):
    rungs = HalvingSchedule(settings, texts, keep, most)
    done = set()
    for size, count in rungs.each():
        done |= set(itertools.product(range(size), range(count)))
        done |= set(itertools.product(["always"] * always, range(count)))
    assert rungs.runs(always) == len(done)


# --- the grid


def test_the_plausible_settings_come_first():
    grid = make_grid(3e-4, 10_000, rates=None, noises=None, kernel_names=None, ks=None)
    found = sift_settings(3e-4, grid, {"linear": 0.75, "power:4": 0.1, "centred": 0.3})
    assert found[0] == default_setting(3e-4)
    assert (found[1].kernel, found[1].noise, found[1].k) == ("power:4", 0.1, 200)
    assert len(found) == len(set(found)) == 45
    assert grid.rates[0] == 3e-4


def test_of_the_k_beyond_all_passages_one_is_enough():
    def ks(passages):
        return make_grid(1e-3, passages, rates=None, noises=None, kernel_names=None, ks=None).ks

    assert (ks(30), ks(150), ks(200), ks(5000), ks(None)) == (
        (50,),
        (50, 200),
        (50, 200),
        (50, 200, 1000),
        (50, 200, 1000),
    )
    assert make_grid(1e-3, 30, rates=None, noises=None, kernel_names=None, ks=(1000, 9)).ks == (1000, 9)


def test_settings_are_those_of_the_method():
    assert nearest_setting(1e-3).settings() == {"method": "nearest", "rate": 1e-3}
    assert default_setting(1e-3).settings() == {
        "method": "sift",
        "rate": 1e-3,
        "noise": 1.0,
        "kernel": "linear",
        "k": 200,
    }
    assert nearest_setting(1e-3).search(300)["k"] == 300
    assert "replacement" not in Setting("sift", 1e-3, 0.1, "power:4").search(5)
    assert isinstance(Grid((1.0,), (1.0,), ("linear",), (1,)).rates, tuple)


def test_points_on_the_way():
    assert score_points(50) == (1, 2, 5, 10, 20, 50)
    assert score_points(7) == (1, 2, 5, 7)
    assert (
        last_point_within(50, 10),
        last_point_within(7, 10),
        last_point_within(15, 20),
        last_point_within(1, 10),
    ) == (10, 7, 15, 1)


# --- texts


@pytest.mark.parametrize("count", [1, 5, 8, 13])
def test_every_beginning_is_spread(count):
    order = [int(piece[0]) for piece in _bit_reversed([np.array([at]) for at in range(count)])]
    assert sorted(order) == list(range(count))
    for size in range(2, count + 1):
        gaps = np.diff(sorted(order[:size]))
        assert gaps.max() <= 2 * -(-count // (1 << (size.bit_length() - 1)))


def test_a_document_is_put_together_from_its_passages(tmp_path):
    text = "\n\n".join(f"Paragraph {at} has some words, and they are {at * 7} and {at * 11}." for at in range(40))
    with Memory.create(tmp_path / "m", passage_tokens=30, overlap=8) as memory:
        memory.add(["another document", text])
        with memory.snapshot() as snapshot:
            places = snapshot.rows_of(snapshot.passages([5])[0].document)
            assert len(places) > 10
            assert "".join(_join_passages(snapshot, places).split()) == "".join(text.split())


# --- deciding


def test_the_adaptive_stop_is_that_of_a_search(tmp_path):
    texts = [f"word{at % 7} other{at % 5} third{at}" for at in range(40)]
    with Memory.create(tmp_path / "m") as memory:
        memory.add(texts)
        full = memory.search("word1 other2 third9", 10, method="sift")
        one = run(0, [90] * 4, full.selection.uncertainty.tolist())
        kept = set()
        for alpha in np.geomspace(0.05, 5, 25):
            found = memory.search("word1 other2 third9", 10, method="sift", adaptive=float(alpha))
            assert adaptive_stop(one.uncertainty, float(alpha)) == len(found)
            kept.add(len(found))
    assert len(kept) > 3


def certain(text):
    """Learns more and more, and is soon sure."""
    return run(text, [95, 90, 80, 70], [1.0, *(0.2 / n**2.5 for n in range(1, 11))])


def lost(text):
    """Is hurt by what it learns, and stays unsure."""
    return run(text, [101, 104, 110, 125], [1.0, *([0.98] * 10)])


def test_a_stop_is_found_where_the_unsure_are_hurt():
    runs = [certain(0), lost(1)] * MIN_RULE_TEXTS
    rule = fit_adaptive_rule(runs, 10)
    assert rule.helps
    assert {adaptive_stop(one.uncertainty, rule.value) for one in runs[::2]} == {10}
    assert max(adaptive_stop(one.uncertainty, rule.value) for one in runs[1::2]) <= 2
    assert rule.steps < 10
    assert rule.percent == pytest.approx(
        np.mean([percent_at(one, adaptive_stop(one.uncertainty, rule.value)) for one in runs])
    )


def test_no_stop_where_all_gain_to_the_end():
    rule = fit_adaptive_rule([certain(at) for at in range(MIN_RULE_TEXTS)], 10)
    assert rule is None or not rule.helps
    assert fit_adaptive_rule([certain(0), lost(1)], 10) is None  # too few to believe anything


def test_a_threshold_is_found_below_which_tuning_hurts():
    runs = [certain(0), lost(1)] * MIN_RULE_TEXTS
    rule = fit_decide_rule(runs, [10] * len(runs))
    assert rule.helps
    assert 0.02 < rule.value <= 1 - 0.2 / 10**2.5
    assert rule.percent == pytest.approx((70 + 100) / 2)
    assert rule.plain == pytest.approx((70 + 125) / 2)
    assert rule.steps == 5
    assert fit_decide_rule([certain(at) for at in range(MIN_RULE_TEXTS)], [10] * MIN_RULE_TEXTS) is None


def test_a_rule_that_chance_made_does_not_help():
    generator = np.random.default_rng(0)
    helped = 0
    for _ in range(20):
        runs = [
            run(at, generator.normal(100, 10, 4), [1.0, *np.sort(generator.uniform(0.1, 1, 10))[::-1]])
            for at in range(12)
        ]
        rule = fit_decide_rule(runs, [10] * 12)
        helped += rule is not None and rule.percent < rule.plain
        assert rule is None or rule.left_out >= rule.percent - 1e-9
    assert helped > 5  # on the texts that made it, that is; so those left out are asked


def test_between_two_points_is_a_line():
    one = run(0, [90, 80, 50, 40], [1.0] * 11)
    assert [percent_at(one, n) for n in (0, 1, 2, 3, 5, 10)] == pytest.approx([100, 90, 80, 70, 50, 40])


# --- statistics


@given(some.lists(some.tuples(some.integers(0, 5), some.integers(0, 5)), min_size=2, max_size=12))
def test_rank_correlation_is_pearsons_of_mean_ranks(pairs):
    x, y = zip(*pairs, strict=True)

    def ranks(values):
        ordered = sorted(values)
        return [np.mean([at for at, other in enumerate(ordered) if other == value]) for value in values]

    if len(set(x)) == 1 or len(set(y)) == 1:
        assert rank_correlation(x, y) is None
    else:
        assert rank_correlation(x, y) == pytest.approx(np.corrcoef(ranks(x), ranks(y))[0, 1], abs=1e-9)


def test_an_interval_mostly_holds_the_truth():
    generator = np.random.default_rng(0)
    held = sum((m := mean(generator.normal(size=30), seed)).low < 0 < m.high for seed in range(60))
    assert held >= 52
    assert mean([3.0, 5.0]).value == 4


def test_correlation_sees_that_the_sure_gain():
    assert uncertainty_gain_correlation([certain(0), certain(1), lost(2), lost(3)], 10) == pytest.approx(1.0)
