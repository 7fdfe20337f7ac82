"""Settings of a search as an object: the same as keywords, equal, printed, saved and loaded."""

from __future__ import annotations

import inspect
import json
import re
from typing import Any

import numpy as np
import pytest

import siftlm
from siftlm import Memory, Search, kernels
from siftlm.errors import Conflict, InvalidInput, UnknownName
from siftlm.memory.request import RESIDUAL_SETTINGS, SEARCH_SETTINGS, search_request

TEXTS = [f"{what} {where}" for what in ("rain fell", "the fox ran", "oil burned") for where in ("at sea", "on land")]
PROMPT = "the fox and the rain"
# A value other than the default for every field.
CHANGED: dict[str, Any] = {
    "k": 3,
    "candidates": "both",
    "opposites": True,
    "where": {"i": {"<": 5}},
    "residual": True,
    "without_copies": 0.5,
    "per_document": 1,
    "exclude": [0, 2],
    "exact": True,
    "noise": 0.3,
    "kernel": "power:2",
    "normalize": False,
    "replacement": 2,
    "known": ["rain fell"],
    "sources": ["a", "a", "b", "b", "a", "b"],
    "source_cap": 2,
    "costs": [1.0, 2.0, 1.0, 2.0, 1.0, 2.0],
    "budget": 3.0,
    "prior": "relevance:2",
    "adaptive": 0.5,
    "until": 0.3,
    "min_gain": 0.1,
    "min_growth": 0.03,
    "at_least": 2,
    "seed": 3,
    "certify": True,
    "max_norm": 1.0,
}
# What a field needs beside it.
BESIDE: dict[str, dict[str, Any]] = {
    "certify": {"residual": True},
    "max_norm": {"residual": True},
    "sources": {"source_cap": 2},
    "source_cap": {"sources": CHANGED["sources"]},
    "budget": {"costs": CHANGED["costs"]},
}


@pytest.fixture(scope="module")
def memory(tmp_path_factory):
    with Memory.create(tmp_path_factory.mktemp("request") / "memory") as memory:
        memory.add(TEXTS, [{"i": i} for i in range(len(TEXTS))])
        yield memory


def settings_of(name: str) -> dict[str, Any]:
    return {name: CHANGED[name], **BESIDE.get(name, {})}


def facts(found) -> list[Any]:
    return [[(hit.row, hit.score, hit.gain, hit.uncertainty) for hit in found], found.selection.stopped]


def test_every_field_is_tried_here():
    assert list(CHANGED) == Search.names()


@pytest.mark.parametrize("name", CHANGED)
def test_a_search_is_the_same_by_keywords_and_by_an_object(memory, name):
    settings = settings_of(name)
    by_keywords = memory.search(PROMPT, 3, **settings)
    assert facts(memory.search(PROMPT, 3, search=Search(**settings))) == facts(by_keywords)
    [many] = memory.search_many([PROMPT], 3, search=Search(**settings))
    assert facts(many) == facts(by_keywords)
    memory.check(3, search=Search(**settings))


@pytest.mark.parametrize("name", CHANGED)
def test_settings_are_equal_printed_saved_and_loaded(name):
    settings = settings_of(name)
    search = Search(**settings)
    assert search != Search()
    assert search == Search(**settings)
    assert search.chosen().keys() == settings.keys()
    assert repr(search).startswith("Search(")
    assert set(re.findall(r"(\w+)=", repr(search))) >= settings.keys()
    assert Search.from_dict(json.loads(json.dumps(search.to_dict()))) == search


def test_defaults_are_not_printed_and_what_is_missing_when_loaded_has_them():
    assert repr(Search()) == "Search()"
    assert Search.from_dict({}) == Search()
    assert Search().chosen() == {}


def test_arrays_are_compared_by_their_values():
    assert Search(exclude=np.array([1, 2])) == Search(exclude=[1, 2])
    assert Search(exclude=np.array([1, 2])) != Search(exclude=[1, 3])
    assert len({Search(exclude=np.array([1, 2])), Search(exclude=[1, 2])}) == 1
    assert Search(known=np.eye(2)).to_dict()["known"] == [[1.0, 0.0], [0.0, 1.0]]


def test_a_kernel_is_written_by_its_name_if_it_has_one():
    assert Search(kernel=kernels.power(3)) == Search(kernel="power:3")
    assert Search(kernel=kernels.power(3)).to_dict()["kernel"] == "power:3"
    with pytest.raises(InvalidInput, match="kernel cannot be written down"):
        Search(kernel=lambda x, y: x @ y.T).to_dict()


def test_keywords_win_over_an_object(memory):
    assert len(memory.search(PROMPT, 6, search=Search(k=2))) == 2
    assert len(memory.search(PROMPT, 6, search=Search(k=2), k=4)) == 4
    request = search_request(3, "sift", {"noise": 0.1}, search=Search(noise=0.5, k=9))
    assert (request.search.noise, request.search.k) == (0.1, 9)


@pytest.mark.parametrize(
    ("settings", "error", "words"),
    [
        ({"nois": 1}, UnknownName, "unknown setting 'nois'; did you mean 'noise'"),
        ({"balance": 0.5}, UnknownName, "unknown setting 'balance'"),
        ({"k": 0}, InvalidInput, "k must be a whole number"),
        ({"noise": None}, InvalidInput, "noise must be a number > 0"),
        ({"certify": True}, Conflict, "certify and max_norm need residual=True"),
        ({"k": None, "per_document": 2}, Conflict, "per_document needs a number of candidates"),
        ({"residual": True, "kernel": "linear"}, Conflict, "residual=True does not go with kernel"),
        ({"where": "year >"}, InvalidInput, "year >"),
        ({"search": {"k": 3}}, InvalidInput, r"search must be Search\(…\), got {'k': 3}"),
    ],
    ids=str,
)
def test_what_is_wrong_is_named_by_search_search_many_and_check_alike(memory, settings, error, words):
    for call in (lambda: memory.search(PROMPT, **settings), lambda: memory.search_many([PROMPT], **settings)):
        with pytest.raises(error, match=words):
            call()
    with pytest.raises(error, match=words):
        memory.check(**settings)


def test_the_methods_own_options_are_keywords_of_that_method_alone(memory):
    assert len(memory.search(PROMPT, 2, method="mmr", balance=0.5)) == 2
    with pytest.raises(UnknownName, match="unknown setting 'balance'"):
        memory.search(PROMPT, 2, balance=0.5)


def test_the_fields_are_what_a_search_and_a_selection_take():
    by_selection = set(Search.names()) - SEARCH_SETTINGS
    accepted = set()
    for name in sorted(by_selection - {"certify", "max_norm"}):
        settings = {"prior": kernels.relevance(), "kernel": kernels.power(2), "known": np.eye(2, 3)}.get(
            name, CHANGED[name]
        )
        beside = {key: value for key, value in BESIDE.get(name, {}).items() if key != "residual"}
        siftlm.select(np.ones(3), np.eye(6, 3) + 0.1, 1, **{**beside, name: settings})
        accepted.add(name)
    assert accepted | {"certify", "max_norm"} == by_selection
    assert by_selection > RESIDUAL_SETTINGS
    described = inspect.getdoc(Memory.search) or ""
    assert [name for name in Search.names() if f"``{name}" not in described] == []


# --- fields that exclude each other, or would do nothing


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"budget": 3}, "budget needs costs"),
        ({"source_cap": 2}, "sources and source_cap go together"),
        ({"sources": "abc", "source_cap": 1}, "sources must be a list of labels"),
        ({"known": 3}, "known must be a text, texts, or vectors"),
        ({"known": ["a", 3]}, "known must be a text, texts, or vectors|known is not an array"),
        ({"prior": 3}, "prior must be a name"),
        ({"kernel": 3}, "kernel must be a name"),
        ({"certify": "yes", "residual": True}, "certify must be a whole number"),
        ({"residual": True, "candidates": "words"}, "candidates='words' needs a limited k, and excludes residual=True"),
        ({"residual": True, "k": None}, "residual=True needs a limited k"),
        ({"residual": True, "per_document": 1}, "excludes per_document"),
        ({"exact": True, "candidates": "words"}, "exact=True compares vectors, and has no effect"),
        ({"opposites": True, "candidates": "both"}, "opposites=True compares vectors, and has no effect"),
    ],
    ids=str,
)
def test_what_does_not_fit_is_refused_when_the_search_is_made(memory, settings, words):
    with pytest.raises(InvalidInput, match=words) as caught:
        Search(**settings)
    assert set(caught.value.settings) & set(settings)
    with pytest.raises(InvalidInput):
        memory.search(PROMPT, 2, **settings)


def test_opposites_are_for_methods_that_see_no_signs(memory):
    assert len(memory.search(PROMPT, 2, opposites=True)) == 2
    for call in (memory.search, lambda _, n, **how: memory.check(n, **how)):
        with pytest.raises(Conflict, match="opposites=True has no effect on method='mmr'"):
            call(PROMPT, 2, method="mmr", opposites=True)


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"method": "shift"}, "method"),
        ({"method": 3}, "method"),
        ({"kernel": "powr:4"}, "kernel"),
        ({"kernel": "power:x"}, "kernel"),
        ({"prior": "relevance:x"}, "prior"),
        ({"costs": [1, 0, 1, 1, 1, 1]}, "costs"),
        ({"exclude": [-1]}, "exclude"),
        ({"where": {"year": {"<>": 1}}}, "where"),
        ({"where": 3}, "where"),
    ],
    ids=str,
)
def test_the_error_carries_the_setting(memory, settings, name):
    with pytest.raises(InvalidInput) as caught:
        memory.search(PROMPT, 2, **settings)
    assert name in caught.value.settings


@pytest.mark.parametrize("nothing", [[], (), np.empty((0, 3))], ids=repr)
def test_an_empty_list_of_what_is_known_is_nothing(memory, nothing):
    assert facts(memory.search(PROMPT, 2, known=nothing)) == facts(memory.search(PROMPT, 2))
    memory.check(2, known=nothing)
