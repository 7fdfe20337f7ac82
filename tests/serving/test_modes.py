"""Names of models."""

from __future__ import annotations

import pytest

from controller import tiny
from siftlm.controller import Controller
from siftlm.errors import InvalidInput
from siftlm.local import LocalModel
from siftlm.memory import Memory
from siftlm.selection import methods
from siftlm.serving import ModeParser
from siftlm.serving.errors import BadRequest, NotFound
from siftlm.serving.modes import setting_error


@pytest.fixture(scope="module")
def modes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("modes")
    controller = Controller(tiny.model("llama"), tiny.tokenizer(), engine="lora", rank=2)
    with Memory.create(folder / "docs") as docs, Memory.create(folder / "wiki") as wiki:
        docs.add(["one text", "another text"])
        wiki.add(["a third text"])
        models = {"docs": LocalModel(controller, docs), "wiki": LocalModel(controller, wiki)}
        yield ModeParser("somebody/tiny", models)


@pytest.mark.parametrize(
    ("name", "extra", "mode", "memory", "settings"),
    [
        ("tiny", None, "base", None, {}),
        ("tiny:base", None, "base", None, {}),
        ("somebody/tiny", {}, "base", None, {}),
        ("tiny:sift-50", None, "sift-50", "docs", {"method": "sift", "n": 50}),
        ("tiny:sift", None, "sift", "docs", {"method": "sift"}),
        ("tiny:nn-7", None, "nn-7", "docs", {"method": "nearest", "n": 7}),
        ("tiny:nn-f-7", None, "nn-f-7", "docs", {"method": "nn-f", "n": 7}),
        ("tiny:context-10", None, "context-10", "docs", {"use": "context", "n": 10}),
        ("tiny:auto", None, "auto", "docs", {"use": "auto"}),
        ("tiny", {"method": "auto", "n": 4}, "auto-4", "docs", {"use": "auto", "n": 4}),
        ("tiny:auto", {"use": "weights"}, "auto", "docs", {"use": "weights"}),
        ("tiny:sift-5@wiki", None, "sift-5", "wiki", {"method": "sift", "n": 5}),
        ("tiny", {"n": 3}, "auto-3", "docs", {"use": "auto", "n": 3}),
        (
            "tiny:sift-50",
            {"n": 3, "noise": 0.1, "memory": "wiki"},
            "sift-3",
            "wiki",
            {"method": "sift", "n": 3, "noise": 0.1},
        ),
        ("tiny:k-means++-2", None, "k-means++-2", "docs", {"method": "k-means++", "n": 2}),
        ("tiny:hullft-6", None, "hullft-6", "docs", {"method": "hullft", "n": 6}),
    ],
)
def test_a_name_says_how_to_learn(modes, name, extra, mode, memory, settings):
    found = modes.parse(name, extra)
    assert (found.name, found.memory, dict(found.settings)) == (mode, memory, settings)


def test_a_mode_says_what_it_goes_by(modes):
    assert modes.effective_settings(modes.parse("tiny")) == {}
    plain = modes.effective_settings(modes.parse("tiny:sift-5@wiki"))
    assert {name: plain[name] for name in ("memory", "method", "n", "noise", "replacement")} == {
        "memory": "wiki",
        "method": "sift",
        "n": 5,
        "noise": 1.0,
        "replacement": False,
    }
    assert modes.effective_settings(modes.parse("tiny:sift-5", {"noise": 3.0}))["noise"] == 3.0
    calibrated = LocalModel(modes._models["wiki"].controller, modes._models["wiki"].memory, noise=7.0)
    chosen = ModeParser("tiny", {"wiki": calibrated})
    assert chosen.effective_settings(chosen.parse("tiny:auto"))["noise"] == 7.0


def test_every_name_that_is_offered_is_understood(modes):
    names = modes.names()
    assert names[0] == "tiny"
    assert "tiny:nn-50@wiki" in names
    assert len({repr(modes.parse(name)) for name in names}) == len(names)
    assert modes.names(["wiki"]) == ["tiny", *(name for name in names if name.endswith("@wiki"))]


@pytest.mark.parametrize(
    ("name", "extra", "kind", "said"),
    [
        ("huge", None, NotFound, "does not exist; available are tiny"),
        ("tiny:Sift!", None, NotFound, "does not exist"),
        ("tiny:sift-9999", None, BadRequest, "from 1 to 200, got 9999"),
        ("tiny:shift-5", None, ValueError, "did you mean 'sift'"),
        ("tiny:sift-5@docks", None, NotFound, "no memory 'docks'"),
        ("tiny:sift-5", {"checkpointing": True}, BadRequest, "not a setting of a request"),
        ("tiny:sift-5", {"features": "gradients"}, BadRequest, "not a setting of a request"),
        ("tiny:sift-5", {"n": True}, BadRequest, "whole number from 1"),
        ("tiny:sift-5", {"rate": -1}, ValueError, "rate"),
        ("tiny:sift-5", {"noise": -1}, ValueError, "noise must be a number > 0, got -1"),
        ("tiny:sift-5", {"noise": "low"}, ValueError, "noise must be a number > 0, got 'low'"),
        ("tiny:sift-5", {"k": 0}, BadRequest, "k must be a whole number from 1"),
        ("tiny:sift-5", {"kernel": "cosy"}, ValueError, "unknown kernel 'cosy'"),
        ("tiny:sift-5", {"adaptive": 0}, ValueError, "adaptive"),
        ("tiny:sift-5", {"until": 2}, ValueError, "until"),
        ("tiny:sift-5", {"min_gain": -1}, ValueError, "min_gain"),
        ("tiny:sift-5", {"replacement": "often"}, ValueError, "replacement must be"),
        ("tiny:sift-5", {"per_document": 0}, ValueError, "per_document must be a whole number ≥ 1"),
        ("tiny:sift-5", {"candidates": "luck"}, ValueError, "vectors, words, both"),
        ("tiny:sift-5", {"where": 5}, ValueError, "where: expected a dict"),
        ("tiny:sift-5", {"where": "source ="}, ValueError, "where, column 9"),
        ("tiny:base", {"n": 3, "method": "base"}, BadRequest, "no effect on the base model"),
    ],
)
def test_what_is_wrong_is_said(modes, name, extra, kind, said):
    with pytest.raises(kind, match=said):
        modes.parse(name, extra)


def test_where_a_method_needs_more_than_a_prompt_those_are_named_that_do_not(modes):
    needy = {"eig", "information-density", "least-confidence", "max-entropy", "min-margin"}
    for method in methods():
        if method not in needy:
            assert modes.parse(f"tiny:{method}-2").name == f"{method}-2"
            continue
        with pytest.raises(BadRequest, match="no request can send; available are ") as caught:
            modes.parse("tiny", {"method": method, "n": 2})
        available = str(caught.value).partition("available are ")[2].split(", ")
        assert set(available) == {*methods(), "hullft"} - needy


def test_a_wrong_setting_is_not_blamed_on_the_method(modes):
    with pytest.raises(InvalidInput, match="noise must be a number > 0") as caught:
        modes.parse("tiny:sift-5", {"noise": 0})
    error = setting_error(caught.value, {"noise": 0})
    assert (error.param, error.code) == ("siftlm.noise", "invalid_value")
    assert str(error) == "siftlm.noise must be a number > 0, got 0"
    assert setting_error(caught.value, {}, "model").param == "model", "it comes from the model's name"


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ({"noise": -1}, "noise must be a number > 0"),
        ({"k": 0}, "k must be a whole number ≥ 1"),
        ({"where": 5}, "where"),
        ({"n": 0}, "n must"),
        ({"k": None, "per_document": 2}, "per_document"),
        ({"features": "gradients", "k": None}, "features are computed"),
        ({"features": "gradients", "noise": -1}, "noise must be a number > 0"),
        ({"budget": 5}, "budget needs costs"),
    ],
)
def test_a_wrong_default_is_refused_before_anybody_asks(modes, setting, said):
    wiki = modes._models["wiki"]
    with pytest.raises(InvalidInput, match=said):
        LocalModel(wiki.controller, wiki.memory, **setting)
