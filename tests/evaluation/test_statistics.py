"""Intervals hold what they promise, and figures are what a plain loop gives."""

from __future__ import annotations

import math

import numpy as np
import pytest

from siftlm.errors import InvalidInput
from siftlm.evaluation.statistics import (
    Draws,
    Mean,
    bits_per_byte,
    less,
    mean,
    of_domain,
    over_domains,
    percent_of_base,
    rank_correlation,
)

DOMAINS = ["a"] * 5 + ["b"] * 3 + ["c"] * 4


@pytest.fixture
def texts():
    """tuned, base and size of twelve texts."""
    generator = np.random.default_rng(5)
    base = generator.uniform(1, 2, 12)
    return base * generator.uniform(0.7, 1.1, 12), base, generator.integers(100, 3000, 12).astype(float)


def test_percent_of_base_is_what_a_plain_loop_gives(texts):
    tuned, base, size = texts
    draws = Draws.of(DOMAINS)
    figure = percent_of_base(tuned, base, size)
    shares = []
    for domain in "abc":
        bits = before = 0.0
        for place, one in enumerate(DOMAINS):
            if one == domain:
                bits += tuned[place] * size[place]
                before += base[place] * size[place]
        shares.append(100 * bits / before)
        assert of_domain(figure, draws, domain).value == pytest.approx(shares[-1], abs=1e-9)
    assert over_domains(figure, draws).value == pytest.approx(sum(shares) / 3)
    weighted = over_domains(figure, draws, {"a": 3.0, "c": 1.0, "elsewhere": 9.0})
    assert weighted.value == pytest.approx((3 * shares[0] + shares[2]) / 4)
    bits, sizes = tuned[5:8] @ size[5:8], size[5:8].sum()
    assert of_domain(bits_per_byte(tuned, size), draws, "b").value == pytest.approx(bits / sizes)


def test_a_single_text_has_no_interval(texts):
    tuned, base, size = texts
    figure = percent_of_base(tuned, base, size)
    draws = Draws.of(["a", *"b" * 11])
    one, two, whole = of_domain(figure, draws, "a"), of_domain(figure, draws, "b"), over_domains(figure, draws)
    assert math.isfinite(one.value)
    assert math.isnan(one.low)
    assert math.isnan(one.high)
    assert one.sign == 0
    assert one.to_dict() == {"mean": round(one.value, 3), "interval": None}
    assert two.low < two.value < two.high
    assert whole.low < whole.value < whole.high
    assert math.isnan(over_domains(figure, draws, {"a": 1.0}).low)
    assert math.isnan(over_domains(figure, Draws.of([f"d{at}" for at in range(12)])).high)


def test_the_resamples_are_what_a_plain_loop_gives(texts):
    tuned, base, size = texts
    draws = Draws.of(DOMAINS, resamples=50)
    again = []
    for row in range(50):
        shares = []
        for domain in "abc":
            at = draws.drawn[domain][row].tolist()
            assert {DOMAINS[place] for place in at} == {domain}
            assert len(at) == DOMAINS.count(domain)
            shares.append(100 * sum(tuned[p] * size[p] for p in at) / sum(base[p] * size[p] for p in at))
        again.append(sum(shares) / 3)
    found = over_domains(percent_of_base(tuned, base, size), draws)
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(again, [0.025, 0.975])))


def test_identical_methods_differ_by_exactly_nothing(texts):
    tuned, base, size = texts
    draws = Draws.of(DOMAINS)
    one, other = percent_of_base(tuned, base, size), percent_of_base(tuned.copy(), base, size)
    assert over_domains(less(one, other), draws) == Mean(0.0, 0.0, 0.0)
    assert over_domains(less(one, other), draws).sign == 0


def test_a_difference_is_paired(texts):
    tuned, base, size = texts
    draws = Draws.of(DOMAINS)
    better = percent_of_base(tuned - 0.01 * base, base, size)  # by one point on every text
    found = over_domains(less(better, percent_of_base(tuned, base, size)), draws)
    assert (found.low, found.value, found.high) == pytest.approx((-1, -1, -1))
    assert found.sign == -1
    alone = over_domains(better, draws)
    assert alone.high - alone.low > 1


def test_a_domain_has_the_same_interval_whatever_else_there_is(texts):
    tuned, base, size = texts
    few = Draws.of(DOMAINS[:5])
    all_of_them = Draws.of(DOMAINS)
    assert of_domain(percent_of_base(tuned[:5], base[:5], size[:5]), few, "a") == of_domain(
        percent_of_base(tuned, base, size), all_of_them, "a"
    )
    assert of_domain(percent_of_base(tuned, base, size), Draws.of(DOMAINS, seed=1), "a") != of_domain(
        percent_of_base(tuned, base, size), all_of_them, "a"
    )


def test_the_sign_needs_the_whole_interval_on_one_side():
    assert Mean(-1.0, -2.0, -0.1).sign == -1
    assert Mean(-1.0, -2.0, 0.0).sign == 0
    assert Mean(1.0, 0.1, 2.0).sign == 1


def test_rank_correlation():
    assert rank_correlation([1, 2, 3, 4], [4, 3, 2, 1]) == -1
    # By hand: ranks 0, 1.5, 1.5, 3 and 0, 2, 1, 3.
    assert rank_correlation([1, 2, 2, 9], [1, 3, 2, 4]) == pytest.approx(4.5 / np.sqrt(4.5 * 5))
    assert rank_correlation([1, 1], [1, 2]) is None


def test_figures_of_nothing_are_refused():
    with pytest.raises(InvalidInput, match="no values"):
        mean([])
    draws = Draws.of(["a", "b"])
    with pytest.raises(InvalidInput, match="none above zero for any of the domains a, b"):
        over_domains(bits_per_byte(np.ones(2), np.ones(2)), draws, {"c": 1.0})


@pytest.mark.slow
@pytest.mark.parametrize(("each", "least", "most"), [(10, 0.87, 0.95), (40, 0.915, 0.975)])
def test_intervals_hold_the_truth_about_as_often_as_they_say(each, least, most):
    # 95 %, less what the bootstrap of few values is short of, within three standard errors of 600 rounds.
    generator = np.random.default_rng(0)
    held = {"mean": 0, "percent": 0}
    rounds, count = 600, 2 * each
    for seed in range(rounds):
        found = mean(generator.exponential(1.0, count), seed)
        held["mean"] += found.low <= 1.0 <= found.high
        base, size = generator.uniform(1, 2, count), generator.uniform(500, 1500, count)
        share = np.repeat([0.8, 0.9], each) + generator.normal(0, 0.1, count)
        draws = Draws.of(["a"] * each + ["b"] * each, seed, resamples=500)
        figure = over_domains(percent_of_base(base * share, base, size), draws)
        held["percent"] += figure.low <= 85 <= figure.high
    assert least <= held["percent"] / rounds <= most
    # Values this skewed cost two more in a hundred.
    assert least - 0.02 <= held["mean"] / rounds <= most
