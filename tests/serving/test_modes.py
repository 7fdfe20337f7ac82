"""Names of models."""

from __future__ import annotations

import pytest

pytest.importorskip("peft")

from controller import tiny
from siftlm.controller import Controller
from siftlm.local import LocalModel
from siftlm.memory import Memory
from siftlm.serving.modes import ADAPTIVE, DECIDE, Modes
from siftlm.serving.refusals import BadRequest, Unknown


@pytest.fixture(scope="module")
def modes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("modes")
    controller = Controller(tiny.model("llama"), tiny.tokenizer(), engine="lora", rank=2)
    with Memory.create(folder / "docs") as docs, Memory.create(folder / "wiki") as wiki:
        docs.add(["one text", "another text"])
        wiki.add(["a third text"])
        models = {"docs": LocalModel(controller, docs), "wiki": LocalModel(controller, wiki)}
        yield Modes("somebody/tiny", models)


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
        ("tiny:context-10", None, "context-10", "docs", {"method": "sift", "use": "context", "n": 10}),
        ("tiny:auto", None, "auto", "docs", {"adaptive": ADAPTIVE, "decide": DECIDE}),
        ("tiny:sift-5@wiki", None, "sift-5", "wiki", {"method": "sift", "n": 5}),
        ("tiny", {"n": 3}, "sift-3", "docs", {"method": "sift", "n": 3}),
        ("tiny:sift-50", {"n": 3, "noise": 0.1, "memory": "wiki"}, "sift-3", "wiki",
         {"method": "sift", "n": 3, "noise": 0.1}),
        ("tiny:hullft-6", None, "hullft-6", "docs", {"method": "hullft", "n": 6}),
    ],
)  # fmt: skip
def test_a_name_says_how_to_learn(modes, name, extra, mode, memory, settings):
    found = modes.parse(name, extra)
    assert (found.name, found.memory, dict(found.settings)) == (mode, memory, settings)


def test_a_mode_says_what_it_goes_by(modes):
    assert modes.goes_by(modes.parse("tiny")) == {}
    plain = modes.goes_by(modes.parse("tiny:sift-5@wiki"))
    assert {name: plain[name] for name in ("memory", "method", "n", "noise", "replacement")} == {
        "memory": "wiki", "method": "sift", "n": 5, "noise": 1.0, "replacement": False,
    }  # fmt: skip
    assert modes.goes_by(modes.parse("tiny:sift-5", {"noise": 3.0}))["noise"] == 3.0
    calibrated = LocalModel(modes._models["wiki"].controller, modes._models["wiki"].memory, noise=7.0)
    chosen = Modes("tiny", {"wiki": calibrated})
    assert chosen.goes_by(chosen.parse("tiny:auto"))["noise"] == 7.0


def test_every_name_that_is_offered_is_understood(modes):
    names = modes.names()
    assert names[0] == "tiny"
    assert "tiny:nn-50@wiki" in names
    assert len({repr(modes.parse(name)) for name in names}) == len(names)
    assert modes.names(["wiki"]) == ["tiny", *(name for name in names if name.endswith("@wiki"))]


@pytest.mark.parametrize(
    ("name", "extra", "kind", "said"),
    [
        ("huge", None, Unknown, "does not exist; there are tiny"),
        ("tiny:Sift!", None, Unknown, "does not exist"),
        ("tiny:sift-9999", None, BadRequest, "from 1 to 200, got 9999"),
        ("tiny:shift-5", None, ValueError, "did you mean 'sift'"),
        ("tiny:sift-5@docks", None, Unknown, "no memory 'docks'"),
        ("tiny:sift-5", {"checkpointing": True}, BadRequest, "not a setting of a request"),
        ("tiny:sift-5", {"features": "gradients"}, BadRequest, "not a setting of a request"),
        ("tiny:sift-5", {"n": True}, BadRequest, "whole number from 1"),
        ("tiny:sift-5", {"rate": -1}, ValueError, "rate"),
        ("tiny:base", {"n": 3, "method": "base"}, BadRequest, "the mode is base"),
    ],
)
def test_what_is_wrong_is_said(modes, name, extra, kind, said):
    with pytest.raises(kind, match=said):
        modes.parse(name, extra)
