"""Settings have one spelling: command line and server take fields of `Search` and `Tuning`, and nothing else.

All objects that hold settings are made, compared, printed, written and read in the same way.
"""

from __future__ import annotations

import copy
import json
import pickle
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

import siftlm
from siftlm import Search, Tuning
from siftlm.call import LOCAL_SETTINGS, SELECTION_SEED
from siftlm.cli import arguments
from siftlm.errors import InvalidInput, UnknownName
from siftlm.selection import Limits, Stopping

KNOWN = {*Search.names(), *Tuning.names(), *LOCAL_SETTINGS}
KINDS = (Search, Tuning, Limits, Stopping)
# Values of many types, with one that needs a copy for each kind of field that can hold one.
HOLDING: list[tuple[type[Any], dict[str, Any]]] = [
    (Search, {"where": {"year": {">=": 2000, "in": [1, 2]}}}),
    (Search, {"exclude": [3, 1]}),
    (Search, {"exclude": range(1, 3)}),
    (Search, {"exclude": np.array([3, 1])}),
    (Search, {"known": [np.ones(2), np.zeros(2)]}),
    (Search, {"known": ["a", "b"]}),
    (Search, {"sources": ["a", "b"], "source_cap": 1, "costs": [1.0, 2.0], "budget": 2}),
    (Search, {"kernel": "power:2", "prior": "relevance:2"}),
    (Search, {"prior": np.ones(3)}),
    (Tuning, {"betas": [0.5, 0.9]}),
    (Limits, {"exclude": np.array([True, False])}),
    (Limits, {"sources": ["a", "b"], "source_cap": 1}),
    (Limits, {"costs": np.ones(2, np.float32), "budget": np.float32(1.5), "replacement": np.int64(2)}),
    (Stopping, {"adaptive": np.float64(0.5), "at_least": np.int64(0)}),
]
# What a new user hands over by mistake.
WRONG: list[Any] = [
    *(True, "x", b"x", 3, -1, 0, 1.5, float("nan"), float("inf"), 10**400, -(10**30), [], {}, [1], ["a"], (1, 2)),
    *(np.float32(0.5), np.int64(2), np.bool_(True), np.array(2), np.array([1.0]), np.array([]), np.ones((2, 2))),
    *(object(), Fraction(1, 2), {1: 2}, {"a": 1}, [[1], [1, 2]]),
]
BESIDE: dict[str, dict[str, Any]] = {
    **{name: {"costs": [1.0], name: 1} for name in ("costs", "budget")},
    **{name: {"sources": ["a"], "source_cap": 1} for name in ("sources", "source_cap")},
    **{name: {"residual": True} for name in ("certify", "max_norm")},
    "reuse": {"repeats": "grouped"},
}


def test_no_name_is_a_setting_of_two_things_but_the_seed():
    assert set(Search.names()) & set(Tuning.names()) == {"seed"}
    assert not {*LOCAL_SETTINGS, SELECTION_SEED} & {*Search.names(), *Tuning.names()}
    assert all(name.isidentifier() for name in (*KNOWN, SELECTION_SEED))


def test_the_command_line_takes_fields_of_the_dataclasses():
    assert set(arguments.SEARCH_NAMES) <= {*Search.names(), *LOCAL_SETTINGS}
    assert list(arguments.TUNING_NAMES) == Tuning.names()


def test_the_server_takes_fields_of_the_dataclasses():
    pytest.importorskip("fastapi")
    from siftlm.serving.modes import REQUEST_SETTINGS

    assert set(REQUEST_SETTINGS) <= KNOWN


# --- one behaviour of all


@pytest.mark.parametrize(("kind", "settings"), HOLDING, ids=str)
def test_settings_are_equal_printed_hashed_written_and_read(kind, settings):
    made = kind(**settings)
    assert made == kind(**copy.deepcopy(settings)) == made.with_({}) == pickle.loads(pickle.dumps(made))
    assert made != kind()
    written = json.dumps(made.to_dict(), allow_nan=False)
    assert kind.from_dict(json.loads(written)) == made
    assert len({made, kind.from_dict(json.loads(written)), kind()}) == 2
    assert all(f"{name}=" in repr(made) for name in settings)


@pytest.mark.parametrize(("kind", "settings"), HOLDING, ids=str)
def test_settings_share_nothing_that_can_change(kind, settings):
    given = copy.deepcopy(settings)
    made = kind(**given)
    before = made.to_dict()
    for value in (*given.values(), *made.to_dict().values()):
        spoil(value)
    assert json.dumps(made.to_dict()) == json.dumps(before)
    assert made == kind(**settings)


def spoil(value: Any) -> None:
    """Change everything in it that can change."""
    if isinstance(value, np.ndarray):
        value[...] = 0
    elif isinstance(value, dict):
        for one in list(value.values()):
            spoil(one)
        value.clear()
    elif isinstance(value, list):
        for one in value:
            spoil(one)
        value.append("more")


@pytest.mark.parametrize("kind", [siftlm.Search, siftlm.Tuning, Limits, Stopping])
def test_fields_are_given_by_name_alone(kind):
    with pytest.raises(TypeError, match="positional"):
        kind(1)


def test_numbers_are_stored_as_pythons():
    made = Tuning(rate=np.float32(0.5), passes=np.int64(2), compile=np.bool_(True), decay=Fraction(1, 2))
    assert [type(value) for value in made.chosen().values()] == [float, float, int, bool]
    search = Search(noise=np.float64(0.5), k=np.int32(3), replacement=np.bool_(False), seed=np.uint8(1))
    assert [type(value) for value in search.chosen().values()] == [int, float, bool, int]


def test_a_filter_is_equal_to_what_is_read_of_it():
    for where in ({"a": (1, 2)}, {"a": {"in": (1, 2)}}):
        search = Search(where=where)
        assert Search.from_dict(json.loads(json.dumps(search.to_dict()))) == search
    assert Search(where={"a": True}) != Search(where={"a": 1})
    assert Search(where={"a": 1}) != Search(where={"b": 1})


def test_what_is_infinite_is_told_to_be_finite():
    for rate in (float("inf"), float("nan"), np.float32("inf")):
        with pytest.raises(InvalidInput, match=r"^rate must be a finite number > 0, got (inf|nan)"):
            Tuning(rate=rate)


def test_only_a_word_has_a_nearest_name():
    with pytest.raises(UnknownName, match=r"^unknown order None\. Known: picked, reversed$"):
        Tuning(order=None)  # type: ignore[arg-type]
    with pytest.raises(UnknownName) as caught:
        siftlm.select([1.0], [[1.0]], method=None)  # type: ignore[arg-type]
    assert "did you mean" not in str(caught.value)


def test_without_end_is_not_once():
    assert Search(replacement=True) != Search(replacement=1)
    assert Search(exclude=[1]) == Search(exclude=(1,)) == Search(exclude=np.array([1]))


@pytest.mark.parametrize(
    ("kind", "name", "message"),
    [
        (Search, "noize", "unknown setting 'noize'; did you mean 'noise'"),
        (Search, "filter", "unknown setting 'filter'"),
        (Tuning, "pases", "unknown setting of tuning 'pases'; did you mean 'passes'"),
        (Limits, "exlude", "unknown limit 'exlude'; did you mean 'exclude'"),
        (Stopping, "untill", "unknown stopping rule 'untill'; did you mean 'until'"),
    ],
)
def test_an_unknown_name_is_answered_with_the_nearest(kind, name, message):
    for make in (lambda: kind(**{name: 1}), lambda: kind().with_({name: 1}), lambda: kind.from_dict({name: 1})):
        with pytest.raises(UnknownName, match=message):
            make()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("saved", [None, 3, "k=3", [("k", 3)], {3: 1}], ids=str)
def test_what_is_read_is_a_dict(kind, saved):
    with pytest.raises(InvalidInput, match=r"a dict of settings by name|must be str"):
        kind.from_dict(saved)


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind in KINDS for name in kind.names()])
def test_whatever_is_handed_over_is_taken_or_refused_by_name(kind, name):
    for value in WRONG:
        try:
            made = kind(**{**BESIDE.get(name, {}), name: value})
        except InvalidInput as error:
            assert name in error.settings, (value, error)  # noqa: PT017
            continue
        assert hash(made) == hash(made.with_({}))
        assert kind.from_dict(json.loads(json.dumps(made.to_dict()))) == made
