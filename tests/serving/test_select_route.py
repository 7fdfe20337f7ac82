"""`/v1/select`: the very selection of the library, with reasons, and a picture that holds what was picked."""

from __future__ import annotations

import threading
from itertools import pairwise

import numpy as np
import pytest

from serving.fake_engine import FakeEngine, client
from siftlm.errors import BadRecord, Damaged, NotAMemory
from siftlm.memory import Memory
from siftlm.serving.routes.selection import routes

TEXTS = [
    f"{animal} live in the {place}"
    for animal in ("owls", "bears", "crabs", "mice")
    for place in ("forest", "river", "desert", "city", "cave")
]
PROMPT = "where do owls and bears live"


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    home = tmp_path_factory.mktemp("select")
    with Memory.create(home / "docs") as docs, Memory.create(home / "empty") as empty:
        docs.add(TEXTS, [{"n": n} for n in range(len(TEXTS))], ids=[f"t{n}" for n in range(len(TEXTS))])
        made = FakeEngine({"docs": docs, "empty": empty})
        yield made
        made.close()


@pytest.fixture(scope="module")
def ask(engine):
    own = client(engine, routes)

    def post(**body):
        return own.post("/v1/select", json={"input": PROMPT, **body})

    return post


def test_null_is_as_good_as_left_out(ask):
    answer = ask(siftlm={"k": None, "method": None, "n": 4})
    assert (answer.status_code, answer.json()["mode"]) == (200, "auto-4")
    assert answer.json()["hits"] == ask(siftlm={"n": 4}).json()["hits"]


def test_a_field_is_spelled_as_in_completions(ask):
    error = ask(siftlm={"noise": 0}).json()["error"]
    assert error["message"] == "siftlm.noise must be a number > 0, got 0"
    assert (error["param"], error["code"]) == ("siftlm.noise", "invalid_value")
    error = ask(siftlm={"method": "base"}).json()["error"]
    assert (error["param"], error["code"]) == ("siftlm.method", "invalid_value")


def test_it_is_the_selection_of_the_library(ask, engine):
    answer = ask(siftlm={"method": "sift", "n": 4, "noise": 0.1, "k": 12}).json()
    found = engine.memories["docs"].search(PROMPT, 4, noise=0.1, k=12)
    assert [hit["text"] for hit in answer["hits"]] == found.texts
    assert answer["hits"][0] == found.hits[0].to_dict()
    assert (answer["mode"], answer["memory"], answer["considered"]) == ("sift-4", "docs", 12)
    assert (answer["method"], answer["noise"], answer["stopped"]) == ("sift", 0.1, "n")
    np.testing.assert_allclose(answer["gains"], found.selection.gains)
    np.testing.assert_allclose(answer["uncertainty"], found.selection.uncertainty)
    assert {"embed", "search", "select", "read", "whole"} <= set(answer["seconds"])
    assert "plane" not in answer


@pytest.mark.parametrize("method", ["sift", "nearest"])
@pytest.mark.parametrize("candidates", ["words", "both"])
def test_words_count_as_in_the_library(ask, engine, candidates, method):
    answer = ask(siftlm={"method": method, "n": 4, "candidates": candidates}).json()
    found = engine.memories["docs"].search(PROMPT, 4, method=method, candidates=candidates)
    assert answer["hits"] == [hit.to_dict() for hit in found]
    assert all(hit["words_score"] > 0 for hit in answer["hits"])
    assert (answer["hits"][0]["fused_score"] is None) == (candidates == "words")


def test_each_pick_says_why_and_what_it_took(ask, engine):
    answer = ask(siftlm={"n": 5}).json()
    why = engine.memories["docs"].search(PROMPT, 5, method="auto").selection.explain()
    assert [one["relevance"] for one in answer["explanation"]] == pytest.approx(why.relevance.tolist())
    assert [one["overlap"] for one in answer["explanation"]] == pytest.approx(why.overlap.tolist())
    left = answer["uncertainty"]
    steps = answer["dynamics"]
    assert [step["took"] for step in steps] == pytest.approx([before - after for before, after in pairwise(left)])
    assert sum(step["share"] for step in steps) == pytest.approx(1 - steps[-1]["left"])
    assert all(step["took"] > 0 for step in steps)


@pytest.mark.parametrize(
    ("body", "mode", "count"),
    [
        ({}, "auto-10", 10),
        ({"model": "siftlm-tiny"}, "auto-10", 10),
        ({"model": "siftlm-tiny:nearest-3"}, "nearest-3", 3),
        ({"model": "siftlm-tiny:nearest-3", "siftlm": {"n": 2}}, "nearest-2", 2),
        ({"siftlm": {"method": "nearest", "n": 1}}, "nearest-1", 1),
        ({"siftlm": {"n": 3, "where": {"n": {"<": 2}}}}, "auto-3", 2),
        ({"siftlm": {"n": 3, "per_document": 10**30}}, "auto-3", 3),
    ],
)
def test_how_is_said_by_name_or_by_settings(ask, body, mode, count):
    answer = ask(**body).json()
    assert (answer["mode"], len(answer["hits"])) == (mode, count)


def test_the_picture_holds_the_nearest_and_the_picks(ask, engine):
    settings = {"n": 3, "k": 8, "candidates": "words", "where": {"n": {">=": 3}}}
    answer = ask(siftlm=settings, plane=True).json()
    picture, memory = answer["plane"], engine.memories["docs"]
    rows = [one["row"] for one in picture["candidates"]]
    assert picture["picks"] == [hit["row"] for hit in answer["hits"]]
    assert set(picture["picks"]) <= set(rows)
    assert len(rows) == len(set(rows)) == 8
    nearest = [hit.row for hit in memory.search(PROMPT, 8, method="nearest", where=settings["where"])]
    assert len(set(rows) & set(nearest)) >= 5
    assert [one["text"] for one in picture["candidates"]] == memory.texts(rows)
    score = {hit.row: hit.score for hit in memory.search(PROMPT, 20, method="nearest")}
    assert [one["score"] for one in picture["candidates"]] == pytest.approx([score[row] for row in rows], abs=1e-4)
    assert len(picture["prompt"]) == 2
    assert 0 < picture["shown"] <= 1
    assert ask(siftlm=settings, plane=True).json()["plane"] == picture


def test_a_text_that_was_picked_twice_is_one_point(ask):
    picture = ask(siftlm={"n": 3, "k": 3, "method": "nn-f"}, plane=True).json()["plane"]
    assert len(picture["picks"]) == 3
    assert len(set(picture["picks"])) == 1
    assert len(picture["candidates"]) == 3


def test_all_candidates_are_drawn_up_to_a_limit(ask, monkeypatch):
    answer = ask(siftlm={"n": 2, "k": 20}, plane=True).json()
    assert len(answer["plane"]["candidates"]) == 20
    monkeypatch.setattr("siftlm.serving.routes.selection.MAX_PLANE_CANDIDATES", 4)
    answer = ask(siftlm={"n": 2, "k": 20}, plane=True).json()
    assert len(answer["plane"]["candidates"]) == 4
    assert set(answer["plane"]["picks"]) <= {one["row"] for one in answer["plane"]["candidates"]}


def test_an_empty_memory_is_no_error(ask):
    answer = ask(siftlm={"memory": "empty"}, plane=True)
    assert answer.status_code == 200
    assert (answer.json()["hits"], answer.json()["explanation"], answer.json()["dynamics"]) == ([], [], [])
    assert (answer.json()["plane"]["candidates"], answer.json()["plane"]["picks"]) == ([], [])


def test_the_model_thread_does_it(ask, engine, monkeypatch):
    seen = []
    monkeypatch.setattr(
        engine.models["docs"], "select", lambda *_, **__: seen.append(threading.current_thread()) or 1 / 0
    )
    with pytest.raises(ZeroDivisionError):
        ask()
    assert seen[0].name.startswith("ThreadPoolExecutor")
    assert engine.calls > 0


@pytest.mark.parametrize(
    ("body", "status", "param"),
    [
        ({"input": " "}, 400, "input"),
        ({"siftlm": {"method": "base"}}, 400, "siftlm.method"),
        ({"siftlm": {"n": 1000}}, 400, "siftlm.n"),
        ({"siftlm": {"folder": "elsewhere"}}, 400, "siftlm.folder"),
        ({"siftlm": {"where": "n ="}}, 400, "siftlm.where"),
        ({"siftlm": {"memory": "else"}}, 404, "siftlm.memory"),
        ({"model": "gpt-9"}, 404, "model"),
        ({"model": "siftlm-tiny:shift-9"}, 400, "siftlm"),
        ({"input": 5}, 400, "input"),
        ({"input": None}, 400, "input"),
        ({"plane": "yes"}, 400, "plane"),
        ({"siftlm": {"memory": ["docs"]}}, 400, "siftlm.memory"),
        ({"siftlm": {"without_copies": 7}}, 400, "siftlm.without_copies"),
        ({"siftlm": {"method": "max-entropy"}}, 400, "siftlm.method"),
    ],
)
def test_what_is_wrong_is_said(ask, body, status, param):
    answer = ask(**body)
    assert answer.status_code == status, answer.json()
    assert answer.json()["error"].get("param") == param


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("n", 'n belongs under siftlm: send "siftlm": {"n": …}'),
        ("memory", 'memory belongs under siftlm: send "siftlm": {"memory": …}'),
        ("inputs", "unknown field 'inputs'; did you mean 'input'? Known: input, model, siftlm, plane; and under"),
        ("nosie", "unknown field 'nosie'; did you mean 'noise'? Known: "),
        ("zzz", "unknown field 'zzz'. Known: input"),
    ],
)
def test_an_unknown_field_is_refused(ask, name, message):
    for value in (3, None):
        answer = ask(**{name: value})
        error = answer.json()["error"]
        assert (answer.status_code, error["param"], error["code"]) == (400, name, "unsupported_parameter")
        assert error["message"].startswith(message)


def test_what_is_wrong_is_said_without_a_turn_of_the_model(ask, engine):
    before = engine.calls
    for wrong in ({"where": "n ="}, {"noise": -1}, {"k": 0}, {"method": "eig"}):
        assert ask(siftlm=wrong).status_code == 400
    assert engine.calls == before


@pytest.mark.parametrize("error", [NotAMemory, BadRecord, Damaged])
def test_errors_that_name_folders_are_not_passed_on(ask, engine, monkeypatch, error):
    monkeypatch.setattr(
        engine.models["docs"], "select", lambda *_, **__: (_ for _ in ()).throw(error("/var/lib/secret: holds none"))
    )
    answer = ask()
    assert (answer.status_code, answer.json()["error"]["code"]) == (500, "memory_fails")
    assert "secret" not in answer.text


def test_only_who_may_read_a_memory_learns_what_is_in_it(engine):
    reader = client(engine, routes, as_="reader")
    assert reader.post("/v1/select", json={"input": PROMPT}).status_code == 200
    assert reader.post("/v1/select", json={"input": PROMPT, "siftlm": {"memory": "empty"}}).status_code == 403
    assert client(engine, routes, as_="nobody").post("/v1/select", json={"input": PROMPT}).status_code == 401
