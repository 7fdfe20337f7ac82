"""A published procedure under one word, and which of several settings wins."""

from __future__ import annotations

import json
from collections import Counter
from types import SimpleNamespace

import pytest

import siftlm
from cli.fakes import FakeController
from siftlm.cli import main
from siftlm.errors import Conflict, UnknownName
from siftlm.recipes import RECIPES, find, merged

PROMPT = "tea is brewed with hot water, and lists are sorted by a key"
TEXTS = [
    PROMPT,
    *(
        f"{what} {how} {when}"
        for what in ("tea", "a list", "the key")
        for how in ("is hot", "is sorted")
        for when in ("today", "by water")
    ),
]
HULLFT = {"method": "hull", "repeats": "grouped", "reuse": 2}
FOR_SIFT = {
    "method": "sift",
    "n": 3,
    "rate": 0.5,
    "noise": 0.3,
    "kernel": "power:4",
    "k": 5,
    "adaptive": 9.0,
    "decide": 0.9,
}


class Fake(FakeController):
    """With an engine that has a name."""

    engine = SimpleNamespace(name="full")


@pytest.fixture
def memory(tmp_path):
    return siftlm.Memory.build(TEXTS, tmp_path / "memory")


def local(memory, **settings):
    return siftlm.LocalModel(Fake("m"), memory, **settings)


def of(settings, names):
    return {name: settings[name] for name in names if name in settings}


def test_the_word_stands_for_what_was_published(memory):
    model = local(memory, n=6)
    by_word, by_name = model.score(PROMPT, method="hullft"), model.score(PROMPT, **HULLFT)
    assert by_word.found.selection.to_dict() == by_name.found.selection.to_dict()
    assert by_word.trace.settings == {**by_name.trace.settings, "recipe": "hullft"}
    assert by_word.found.selection.method == "hull"
    assert max(Counter(by_word.found.texts).values()) > 1
    assert "recipe" not in model.score(PROMPT).trace.settings
    assert (by_word.trace.settings["repeats"], by_word.trace.settings["reuse"]) == ("grouped", 2)
    assert json.loads(json.dumps(by_word.to_dict()))["trace"]["settings"]["recipe"] == "hullft"


def test_many_and_answers_and_refusals_say_it_too(memory):
    model = local(memory, n=4, method="hullft")
    assert [one.trace.settings["recipe"] for one in model.score_many([PROMPT, TEXTS[1]])] == ["hullft"] * 2
    assert [one.trace.settings["recipe"] for one in model.generate_many([PROMPT])] == ["hullft"]
    assert model.generate(PROMPT).trace.settings["recipe"] == "hullft"
    for one in (model.score(PROMPT, decide=1.0), *model.score_many([PROMPT], decide=1.0)):
        assert (one.trace.ended, one.trace.settings["recipe"]) == ("declined", "hullft")


def test_what_was_given_by_name_wins_wherever_it_stands(memory):
    assert of(local(memory).settings(method="hullft", reuse=1), HULLFT) == {**HULLFT, "method": "hullft", "reuse": 1}
    assert local(memory, reuse=3, repeats="grouped").settings(method="hullft")["reuse"] == 3
    assert local(memory, method="hullft").settings(reuse=4)["reuse"] == 4
    with pytest.raises(Conflict, match="repeats='grouped'"):
        local(memory, repeats="scaled").settings(method="hullft")


def test_another_method_takes_the_recipe_back(memory):
    model = local(memory, method="hullft", rate=0.1)
    assert of(model.settings(), [*HULLFT, "rate"]) == {**HULLFT, "method": "hullft", "rate": 0.1}
    assert of(model.settings(method="mmr"), HULLFT) == {"method": "mmr", "repeats": "steps", "reuse": 1}
    assert model.score(PROMPT, method="mmr", n=2).trace.settings.get("recipe") is None


def test_what_is_in_force_can_be_given_back(memory):
    model = local(memory)
    known = {**model.settings(method="hullft", n=4), "rate": 0.1}
    assert model.settings(**known) == known


def test_calibration_of_another_method_says_only_how_to_learn(memory):
    memory.note_calibration("m", {"settings": FOR_SIFT})
    model = local(memory)
    for name in ("hullft", "mmr"):
        known = model.settings(method=name)
        assert of(known, FOR_SIFT) == {"method": name, "n": 3, "rate": 0.5, "decide": None, "noise": 1.0}
    assert model.settings(method="hullft")["reuse"] == 2
    assert model.score(PROMPT, method="hullft").trace.ended == "done"
    # The method that was calibrated, named or not, has all of it.
    for known in (model.settings(), model.settings(method="sift")):
        assert of(known, ("n", "rate", "noise", "k", "adaptive", "decide")) == of(
            FOR_SIFT, ("n", "rate", "noise", "k", "adaptive", "decide")
        )
    assert of(local(memory, method="hullft", noise=0.2).settings(), FOR_SIFT)["noise"] == 0.2


def test_a_calibration_for_all_weights_is_none_for_adapters(memory, caplog):
    adapters = Fake("m")
    adapters.adapters = True
    for made_with in ("full", "lora"):
        memory.note_calibration("m", {"settings": FOR_SIFT, "model": {"engine": {"engine": made_with}}})
        for controller, engine, rate in ((Fake("m"), "full", 3e-4), (adapters, "lora", 1e-3)):
            caplog.clear()
            known = siftlm.LocalModel(controller, memory).settings()
            usual = {"n": 50, "rate": rate, "noise": 1.0}
            chosen = {"n": 3, "rate": 0.5, "noise": 0.3}
            assert of(known, usual) == (chosen if engine == made_with else usual)
            assert (f"siftlm calibrate MEMORY --engine {engine}" in caplog.text) == (engine != made_with)


def test_what_calibration_chose_for_tuning_yields_to_a_recipe():
    calibrated = {"method": "nearest", "rate": 1e-3, "repeats": "steps"}
    assert merged(calibrated, {}, {"method": "hullft"}) == ({**HULLFT, "rate": 1e-3}, "hullft")
    assert merged(calibrated, {}, {}) == (calibrated, None)


def test_wrong_names_are_told_the_words_as_well(memory):
    with pytest.raises(UnknownName, match="did you mean 'hullft'"):
        local(memory, method="hulft")
    with pytest.raises(UnknownName, match="unknown method None"):
        local(memory).settings(method=None)
    assert all(find(word).name == recipe["method"] for word, recipe in RECIPES.items())


def test_a_setting_that_contradicts_a_recipe_is_told_what_the_recipe_implies(memory):
    words = "reuse=2 comes from the recipe 'hullft': leave out repeats='steps', or choose another reuse"
    with pytest.raises(Conflict, match=words) as caught:
        local(memory).settings(method="hullft", repeats="steps")
    assert caught.value.settings[:2] == ("reuse", "repeats")
    with pytest.raises(Conflict, match=words):
        local(memory, repeats="steps").settings(method="hullft")
    with pytest.raises(Conflict, match="reuse=3 needs repeats='grouped'") as caught:
        local(memory).settings(method="hullft", repeats="steps", reuse=3)
    assert "recipe" not in str(caught.value)
    assert local(memory).settings(method="hullft", repeats="steps", reuse=1)["repeats"] == "steps"


def test_the_command_line_takes_the_word(memory, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("siftlm.local.Controller", FakeController)
    monkeypatch.chdir(tmp_path)

    def said(*words):
        assert main([*words, "--json", "--model", "m", "-n", "4"]) == 0
        return json.loads(capsys.readouterr().out)

    scores = said("score", "memory", PROMPT, "--method", "hullft", "--compare", "hull,sift")["scores"]
    assert list(scores) == ["hull", "sift", "hullft"]
    told = {name: of(one["trace"]["settings"], ("recipe", "repeats", "reuse")) for name, one in scores.items()}
    assert told["hullft"] == {"recipe": "hullft", "repeats": "grouped", "reuse": 2}
    assert told["hull"] == told["sift"] == {"repeats": "steps", "reuse": 1}
    record = said("score", "memory", PROMPT, "--compare", "hullft", "--set", "reuse=3", "--set", "repeats=grouped")
    assert of(record["scores"]["hullft"]["trace"]["settings"], ("recipe", "reuse")) == {"recipe": "hullft", "reuse": 3}
    assert said("generate", "memory", PROMPT, "--method", "hullft")["trace"]["settings"]["recipe"] == "hullft"


@pytest.mark.slow
def test_a_real_model_computes_every_other_gradient_of_a_text_alone_and_together(tmp_path):
    pytest.importorskip("peft")
    from controller.many_texts import controller

    memory = siftlm.Memory.build(TEXTS, tmp_path / "memory")
    model = siftlm.LocalModel(controller(), memory, n=8, method="hullft")
    together = model.score_many([PROMPT, TEXTS[2]])
    for text, score in zip([PROMPT, TEXTS[2]], together, strict=True):
        alone = model.score(text)
        steps = [(step.text, step.reused) for step in alone.steps]
        assert [(step.text, step.reused) for step in score.steps] == steps
        assert score.tuned == pytest.approx(alone.tuned, rel=1e-5)
        counts = Counter(alone.found.texts)
        assert sum(reused for _, reused in steps) == sum(count // 2 for count in counts.values()) > 0
