"""The rules alone: which index they choose from an array of scores."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from siftlm import select
from siftlm.errors import Conflict, InvalidInput
from siftlm.selection import Limits, NumpyIndex, Stopping, select_from
from siftlm.selection.numerics import Ties
from siftlm.selection.rules import NO_PICK, PickRules

scores = st.lists(st.floats(-1e6, 1e6, allow_subnormal=False), min_size=1, max_size=20).map(np.array)


def equal_if_named_alike(names: str) -> Ties:
    """Candidates with the same letter are the same vector."""
    letters = np.array(list(names))
    return Ties(1e-9, 1e-3, lambda index, others: letters[others] == letters[index])


def rules_of(size: int, **settings: Any) -> PickRules:
    all_different = "".join(chr(200 + i) for i in range(size))
    return PickRules(size, **{"cap": None, "ties": equal_if_named_alike(all_different), **settings})


@given(scores)
def test_the_best_or_one_that_ties(gains: np.ndarray) -> None:
    index = rules_of(len(gains)).choose(gains)
    assert gains[index] >= gains.max() - 1e-5 * abs(gains.max())


@given(scores, st.integers(1, 5))
def test_equal_scores_go_to_the_smaller_index(gains: np.ndarray, copies: int) -> None:
    index = rules_of(len(gains) * copies).choose(np.tile(gains, copies))
    assert index < len(gains)


def test_extremes() -> None:
    assert rules_of(3).choose(np.array([1.0, np.inf, np.inf])) == 1
    assert rules_of(3).choose(np.array([-np.inf, -np.inf, -1e300])) == 2
    assert rules_of(2).choose(np.array([-2.0, -2.0])) == 0
    assert rules_of(2).choose(np.zeros(2)) == 0
    assert rules_of(3).choose(np.array([-1e-300, 0.0, 0.0])) in (0, 1)
    with pytest.raises(InvalidInput, match="candidate 1 is NaN"):
        rules_of(3).choose(np.array([5.0, np.nan, 7.0]))


def test_what_is_forbidden_may_be_nan() -> None:
    rules = rules_of(3, blocked=np.array([False, True, False]))
    assert rules.choose(np.array([5.0, np.nan, 7.0])) == 2


def test_everything_forbidden() -> None:
    assert rules_of(2, blocked=np.ones(2, bool)).choose(np.array([1.0, 2.0])) == NO_PICK
    assert rules_of(2, blocked=np.ones(2, bool)).choose(np.array([np.inf, np.inf])) == NO_PICK


def test_scores_are_not_changed() -> None:
    gains = np.array([1.0, 3.0, 2.0])
    rules = rules_of(3, blocked=np.array([False, True, False]), prior=np.ones(3) * 2, costs=np.ones(3) * 3)
    assert rules.choose(gains) == 2
    assert gains.tolist() == [1, 3, 2]


def test_a_cap_counts() -> None:
    rules = rules_of(2, cap=2)
    for expected in (1, 1, 0, 0, NO_PICK):
        index = rules.choose(np.array([1.0, 2.0]))
        assert index == expected
        if index != NO_PICK:
            rules.record(index)


def test_a_source_counts_for_all_of_its_items() -> None:
    rules = rules_of(4, sources=np.array([0, 0, 1, 1]), source_cap=2)
    taken = []
    while (index := rules.choose(np.array([4.0, 3.0, 2.0, 1.0]))) != NO_PICK:
        rules.record(index)
        taken.append(index)
    assert taken == [0, 0, 2, 2]


def test_the_budget_is_never_exceeded_and_cheaper_ones_fill_it() -> None:
    rules = rules_of(3, cap=1, costs=np.array([5.0, 3.0, 1.0]), budget=6.0)
    taken = []
    while (index := rules.choose(np.array([50.0, 9.0, 1.0]))) != NO_PICK:
        rules.record(index)
        taken.append(index)
    assert taken == [0, 2]
    assert rules.out_of_budget


def test_a_budget_that_is_spent_to_the_last_is_no_accident() -> None:
    """Tenths do not add up in binary, and yet three of them are 0.3."""
    picked = select(np.ones(3), np.eye(3), costs=[0.1, 0.1, 0.1], budget=0.3, replacement=False)
    assert len(picked) == 3


def test_out_of_budget_only_if_something_is_left_to_buy() -> None:
    rules = rules_of(2, cap=1, costs=np.array([1.0, 1.0]), budget=2.0)
    for index in (0, 1):
        rules.record(index)
    assert rules.choose(np.ones(2)) == NO_PICK
    assert not rules.out_of_budget


# --- equal texts


def test_equal_texts_tie_within_magnified_rounding_and_others_do_not() -> None:
    gains = np.array([0.9995, 0.9995, 1.0, 0.5])
    assert rules_of(4, ties=equal_if_named_alike("abcd")).choose(gains) == 2
    assert rules_of(4, ties=equal_if_named_alike("abbd")).choose(gains) == 1
    assert rules_of(4, ties=equal_if_named_alike("aaad")).choose(gains) == 0
    assert rules_of(4, ties=equal_if_named_alike("abcc")).choose(gains) == 2


@pytest.mark.parametrize(("name", "better"), [("prior", 1.0005), ("costs", 0.9995)])
def test_equal_texts_of_different_weight_are_different(name: str, better: float) -> None:
    weights = np.array([1.0, 1.0, better])
    rules = rules_of(3, ties=equal_if_named_alike("aaa"), **{name: weights})
    assert rules.choose(np.ones(3)) == 2
    assert rules_of(3, ties=equal_if_named_alike("aaa"), **{name: np.ones(3)}).choose(np.ones(3)) == 0


# --- the rules as values


def test_limits_are_printed_and_compared_by_what_is_set() -> None:
    assert repr(Limits()) == "Limits()"
    assert repr(Limits(replacement=2, exclude=[1])) == "Limits(replacement=2, exclude=[1])"
    assert Limits(exclude=np.array([1, 2])) == Limits(exclude=[1, 2])
    assert Limits(exclude=[1]) != Limits(exclude=[1, 2])
    assert Limits(replacement=True) != Limits(replacement=1)
    assert Limits(exclude=[1]) != Limits(exclude=[1], replacement=False)
    assert Limits() != Stopping()
    assert Stopping(until=0.5) == Stopping(until=0.5) != Stopping()


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"limits": 3}, InvalidInput, r"limits must be Limits\(…\), got 3"),
        ({"stopping": Limits()}, InvalidInput, r"stopping must be Stopping\(…\), got Limits\(\)"),
        ({"limits": Limits(replacement=False), "replacement": True}, Conflict, "replacement is set twice"),
        ({"stopping": Stopping(until=0.1), "until": 0.2}, Conflict, "until is set twice"),
        ({"stopping": Stopping(until=0.1), "at_least": -1}, InvalidInput, "at_least must be"),
    ],
)
def test_rules_that_do_not_fit(settings: dict[str, Any], error: type[InvalidInput], message: str) -> None:
    with pytest.raises(error, match=message):
        select(np.ones(3), np.eye(3), 2, **settings)


def test_keywords_complete_ready_made_rules() -> None:
    picked = select(
        np.ones(3), np.eye(3), 2, limits=Limits(replacement=False), exclude=[0], stopping=Stopping(), until=0
    )
    assert picked.indices.tolist() == [1, 2]


def test_an_index_has_no_costs_and_no_sources() -> None:
    index = NumpyIndex(np.eye(3))
    assert select_from(np.ones(3), index, 2, limits=Limits(exclude=[0]), until=0.0).indices.tolist() == [1, 2]
    with pytest.raises(Conflict, match="costs needs candidates"):
        select_from(np.ones(3), index, 2, costs=np.ones(3))
    with pytest.raises(TypeError, match="unexpected keyword argument 'kernel'"):
        select_from(np.ones(3), index, 2, kernel=None)
