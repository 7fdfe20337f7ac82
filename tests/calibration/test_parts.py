"""The parts of calibration, each against something slower or known."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as some

from siftlm.calibration.calibrate import RATE_FACTOR, _race_rates
from siftlm.calibration.evidence import MIN_SLOPE, PRIOR_LINE, _does_tuning_help, _enough_steps, fit_line
from siftlm.calibration.held_out import MIN_TEXTS, _bit_reversed, _join_passages
from siftlm.calibration.race import WINNER_PROBABILITY, race
from siftlm.evaluation.corpus import Text
from siftlm.evaluation.methods import parse_method
from siftlm.evaluation.protocol import Protocol
from siftlm.evaluation.statistics import mean, rank_correlation, sign_flip_probability
from siftlm.memory import Memory


class Known:
    """Trials whose results are known: label -> a function of the text's number, in % of base after the last step."""

    def __init__(self, results, count=20, seconds=1.0):
        self.texts = [Text(str(at), f"text {at}", "held out") for at in range(count)]
        self.protocol = Protocol("split", n=4, at=(2,))
        self._results, self._each, self.used = results, seconds, {}

    def measure(self, labels, text):
        self.used |= {(text.id, label): self._results(label, int(text.id)) for label in labels}

    def percents(self, label, texts):
        return np.array([[100.0, self.used[one.id, label]] for one in texts])

    @property
    def seconds(self):
        return self._each * len(self.used)


# --- the race


def test_what_is_clearly_behind_drops_out_early_and_the_better_one_wins():
    generator = np.random.default_rng(0)
    noise = generator.normal(0, 1, 20)
    trials = Known(lambda label, at: {"first": 80, "better": 70, "worse": 95}[label] + noise[at])
    outcome = race(trials, "method", ["first", "better", "worse"], float("inf"))
    texts = {one.label: len(one.percents) for one in outcome.standings}
    assert texts == {"first": 20, "better": 20, "worse": MIN_TEXTS}
    assert outcome.winner == "better"
    assert [one.steps for one in outcome.standings] == [4, 4, 4]


def test_the_first_is_never_dropped_and_a_race_that_nobody_can_win_any_more_ends():
    trials = Known(lambda label, at: {"first": 80, "worse": 95}[label] + at % 2)
    outcome = race(trials, "method", ["first", "worse"], float("inf"))
    assert outcome.winner == "first"
    assert len(outcome.texts) == MIN_TEXTS
    assert len(race(trials, "method", ["first", "worse"], float("inf"), alone=9).texts) == 9
    trials = Known(lambda label, at: {"first": 80, "better": 70}[label] + at % 2)
    assert len(race(trials, "method", ["first", "better"], float("inf")).texts) == 20


def test_time_ends_a_race_but_not_before_a_few_texts():
    for until, texts in ((0.0, MIN_TEXTS), (2 * 9.0, 9), (2 * 9.0 - 1, 9), (1000.0, 20)):
        trials = Known(lambda label, at: at)
        assert len(race(trials, "method", ["first", "same"], until).texts) == texts


def test_equals_seldom_win():
    generator = np.random.default_rng(1)
    won = 0
    for _ in range(400):
        values = generator.normal(90, 10, (4, 12))
        trials = Known(lambda label, at, values=values: values[int(label), at], count=12)
        won += race(trials, "method", ["0", "1", "2", "3"], float("inf")).winner != "0"
    assert won / 400 < WINNER_PROBABILITY + 3 * np.sqrt(WINNER_PROBABILITY / 400)


@pytest.mark.parametrize(("best", "races"), [(1e-3, 1), (3e-3, 2), (9e-3, 3), (1.1e-4, 3)])
def test_rates_go_on_while_the_best_is_at_the_end(best, races):
    def percent(label, at):
        return 50 + 10 * abs(np.log(parse_method(label).settings["rate"] / best)) + at % 3

    found = _race_rates(Known(percent), "nearest", [1e-3, 3e-3, 3.3e-4], float("inf"), MIN_TEXTS, further=True)
    rate = parse_method(found[-1].winner).settings["rate"]
    assert max(rate / best, best / rate) < RATE_FACTOR**0.51
    assert len(found) == races
    assert len(_race_rates(Known(percent), "nearest", [1e-3, 3e-3], float("inf"), MIN_TEXTS, further=False)) == 1


# --- verdicts


def test_the_least_number_of_steps_that_keeps_nearly_all_of_the_gain():
    assert _enough_steps(np.array([95.0, 90.0, 80.4, 80.0])) == 2
    assert _enough_steps(np.array([95.0, 90.0, 85.0, 80.0])) == 3
    assert _enough_steps(np.array([99.0, 101.0, 103.0])) == 0
    assert _enough_steps(np.array([103.0, 101.0, 102.0])) == 1


def test_whether_tuning_helps_needs_enough_texts():
    assert _does_tuning_help(np.full(6, 80.0)) == "helps"
    assert _does_tuning_help(np.full(5, 80.0)) == "unclear"
    assert _does_tuning_help(np.array([80.0, 120.0] * 5)) == "unclear"
    assert _does_tuning_help(np.full(6, 120.0)) == "harms"


def test_the_line_goes_from_what_other_memories_have_to_what_this_one_shows():
    generator = np.random.default_rng(4)
    expected = generator.uniform(0, 60, 200)
    gained = 20 + 0.3 * expected + generator.normal(0, 5, 200)
    assert fit_line(expected, gained) == pytest.approx((20, 0.3), abs=2)
    assert fit_line(expected[:0], gained[:0]) == PRIOR_LINE
    few = fit_line(expected[:4], gained[:4])
    assert PRIOR_LINE[0] < few[0] < 25
    assert fit_line(np.linspace(0, 50, 100), np.linspace(50, 0, 100))[1] == MIN_SLOPE  # more is never worse


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


@given(some.lists(some.integers(-5, 5), min_size=1, max_size=8))
def test_sign_flips_are_counted_one_by_one(differences):
    sums = [sum(signs) for signs in itertools.product(*((one, -one) for one in differences))]
    expected = np.mean([one <= sum(differences) for one in sums])
    assert sign_flip_probability(differences) == pytest.approx(expected)


def test_drawn_sign_flips_are_like_all_of_them():
    differences = np.random.default_rng(3).normal(-0.3, 1, 12)
    exact = sign_flip_probability(differences)
    drawn = sign_flip_probability([*differences, 0.0])  # whose sign changes nothing
    assert drawn == pytest.approx(exact, abs=0.02)


def test_an_interval_mostly_holds_the_truth():
    generator = np.random.default_rng(0)
    held = sum((m := mean(generator.normal(size=30), seed)).low < 0 < m.high for seed in range(60))
    assert held >= 52
    assert mean([3.0, 5.0]).value == 4
