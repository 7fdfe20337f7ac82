"""The promises of `LocalModel.score_choices`: one tuning for a question, each choice scored before and after it."""

from __future__ import annotations

import json
import math
import random
from functools import partial

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("peft")

from controller import many_texts  # noqa: E402
from siftlm import ChoiceScores, LocalModel, Memory  # noqa: E402
from siftlm.errors import InvalidInput, UnknownName  # noqa: E402
from siftlm.memory import Searcher  # noqa: E402
from siftlm.results import ScoredChoice  # noqa: E402
from siftlm.types import Likelihood, Trace  # noqa: E402

COLOURS = ("red", "green", "blue")
CORPUS = [f"Q: what colour is lamp {place}?\nA: {COLOURS[place % 3]}" for place in range(12)]
PROMPT = "Q: what colour is lamp 20?\nA:"
CHOICES = [f" {colour}" for colour in COLOURS] + [" no colour that anybody has a word for"]
QUESTIONS = [(PROMPT, CHOICES), ("Q: what colour is the sea?\nA:", [" blue", " grey"])]
ENGINES = {"full": {"rank": None}, "lora": {"rank": 4}}


@pytest.fixture(scope="module")
def memory(tmp_path_factory):
    with Memory.create(tmp_path_factory.mktemp("choices") / "memory") as memory:
        memory.add(CORPUS)
        yield memory


@pytest.fixture(scope="module")
def controllers():
    return {engine: many_texts.controller(engine=engine, **settings) for engine, settings in ENGINES.items()}


@pytest.fixture(params=ENGINES)
def any_engine(request, controllers, memory):
    return LocalModel(controllers[request.param], memory, n=3, completion="\nA:", precision="float32")


@pytest.fixture
def full(controllers, memory):
    return LocalModel(controllers["full"], memory, n=3, completion="\nA:", precision="float32")


def nats(scores, which="tuned"):
    return [getattr(one, which).nats for one in scores.choices]


def close(values):
    return pytest.approx(values, rel=1e-5)


def made(*choices):
    """Scores of choices (text, base nats, tuned nats)."""
    scored = (
        ScoredChoice(text, *(Likelihood(own, len(text.split()), len(text)) for own in both)) for text, *both in choices
    )
    return ChoiceScores(tuple(scored), None, Trace((), "done", 2))


# --- what is scored


@pytest.mark.slow
@pytest.mark.parametrize("use", ["weights", "context", "both"])
def test_a_choice_has_the_likelihood_of_the_continuation_that_it_is(any_engine, use):
    points = [] if use == "context" else [0, 1, 2]
    scores = any_engine.score_choices(PROMPT, CHOICES, n=2, use=use, at=points)
    assert [one.text for one in scores.choices] == CHOICES
    for place, choice in enumerate(CHOICES):
        alone = any_engine.score((PROMPT, choice), n=2, use=use, at=points)
        assert scores.choices[place].base.nats == close(alone.base_likelihood.nats)
        assert scores.choices[place].tuned.nats == close(alone.likelihood.nats)
        assert [one[place].bits_per_byte for _, one in scores.curve] == close([bits for _, bits in alone.curve])
    assert [steps for steps, _ in scores.curve] == points


@pytest.mark.parametrize("use", ["weights", "context", "both"])
def test_the_model_is_tuned_once_and_all_choices_are_scored_in_one_call(full, monkeypatch, use):
    calls = []
    run, tuning, likelihoods = Searcher.run, full.controller.tuning, full.controller.likelihoods
    monkeypatch.setattr(Memory, "run", lambda self, request: calls.append("select") or run(self, request))
    monkeypatch.setattr(full.controller, "tuning", lambda **how: calls.append("tune") or tuning(**how))
    monkeypatch.setattr(
        full.controller, "likelihoods", lambda pairs, **how: calls.append(len(pairs)) or likelihoods(pairs, **how)
    )
    full.score_choices(PROMPT, CHOICES, use=use)
    expected = ["select", len(CHOICES), "tune", len(CHOICES)]
    assert calls == [one for one in expected if use != "context" or one != "tune"]


def test_texts_in_context_stand_before_every_choice(full):
    scores = full.score_choices(PROMPT, CHOICES, n=2, use="context")
    expected = [full.controller.likelihood(one, after=PROMPT, texts=scores.found.texts).nats for one in CHOICES]
    assert nats(scores) == close(expected)
    assert (scores.trace.ended, scores.trace.steps) == ("done", ())


def test_the_order_of_the_choices_changes_no_score(full):
    scores = full.score_choices(PROMPT, CHOICES)
    places = list(range(len(CHOICES)))
    for seed in range(3):
        random.Random(seed).shuffle(places)
        again = full.score_choices(PROMPT, [CHOICES[place] for place in places])
        assert nats(again) == close([nats(scores)[place] for place in places])
        assert (again.best, again.base_best) == (scores.best, scores.base_best)


@pytest.mark.slow
@pytest.mark.parametrize("colour", COLOURS)
def test_a_choice_that_the_texts_answer_with_becomes_the_best(controllers, tmp_path, colour):
    with Memory.create(tmp_path / "memory") as memory:
        memory.add([f"Q: what colour is thing {place}?\nA: {colour}" for place in range(5)])
        model = LocalModel(controllers["full"], memory, n=5, passes=4, rate=0.01, completion="\nA:")
        assert model.score_choices(PROMPT, CHOICES).best == f" {colour}"


# --- many


@pytest.mark.slow
def test_many_questions_have_the_scores_that_each_has_alone(any_engine):
    reports = []
    together = any_engine.score_choices_many(QUESTIONS, at=[1], progress=reports.append)
    assert reports[-1].finished
    for (prompt, choices), scores in zip(QUESTIONS, together, strict=True):
        alone = any_engine.score_choices(prompt, choices, at=[1])
        assert [hit.row for hit in scores.found] == [hit.row for hit in alone.found]
        assert (nats(scores, "base"), nats(scores)) == (close(nats(alone, "base")), close(nats(alone)))
        assert [one.nats for one in scores.curve[0][1]] == close([one.nats for one in alone.curve[0][1]])
    assert any_engine.score_choices_many([]) == []


# --- nothing is left behind


def test_after_a_call_the_model_is_what_it_was_bit_for_bit(any_engine):
    call = partial(any_engine.score_choices, PROMPT, CHOICES)
    first = call()  # an adapter is there from the first call on
    before = {name: tensor.clone() for name, tensor in any_engine.controller.model.state_dict().items()}
    assert nats(call()) == nats(first)
    after = any_engine.controller.model.state_dict()
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())


def test_a_diverged_model_is_the_base_model(full):
    scores = full.score_choices(PROMPT, CHOICES, rate=1e6, n=5)
    assert (scores.trace.ended, nats(scores)) == ("diverged", nats(scores, "base"))


# --- the result


def test_the_best_choice_has_the_highest_likelihood_in_all_or_per_byte():
    scores = made((" yes", 1.0, 4.0), (" no", 2.0, 3.0), (" certainly not", 9.0, 5.0))
    assert (scores.base_best, scores.best) == (" yes", " no")
    assert (scores.base_best_per_byte, scores.best_per_byte) == (" yes", " certainly not")


def test_of_choices_that_are_equally_likely_the_first_is_the_best():
    assert made((" a", 2.0, 1.0), (" b", 2.0, 1.0)).best == " a"


def test_scores_can_be_written_and_printed(full):
    scores = full.score_choices(PROMPT, CHOICES, at=[1])
    saved = json.loads(json.dumps(scores.to_dict(), allow_nan=False))
    assert (saved["best"], saved["base_best"]) == (scores.best, scores.base_best)
    first = saved["choices"][0]
    assert (first["text"], first["bytes"]) == (CHOICES[0], len(CHOICES[0]))
    assert first["tuned"]["log_likelihood"] == -scores.choices[0].tuned.nats
    assert first["tuned"]["nats_per_byte"] == pytest.approx(scores.choices[0].tuned.nats / len(CHOICES[0]))
    assert saved["curve"] == [[1, [-one.nats for one in scores.curve[0][1]]]]
    assert scores.seconds.keys() == {"select", "tune", "score"}
    lines = str(scores).splitlines()
    assert len(lines) == 1 + len(CHOICES)
    assert all(repr(choice) in line for choice, line in zip(CHOICES, lines[1:], strict=True))
    assert made((" a", math.inf, 1.0), (" b", 2.0, 1.0)).choices[0].to_dict()["base"]["log_likelihood"] is None


# --- errors


@pytest.mark.parametrize(
    ("choices", "words"),
    [
        ([], r"choices must be two or more texts, got \[\]"),
        ([" yes"], r"choices must be two or more texts, got \[' yes'\]; score\(\(prompt, continuation\)\)"),
        ([" yes", " no", " yes"], "choices has ' yes' twice"),
        ([" yes", ""], "choice 1 is empty"),
        ([" ", " no"], "choice 0 is empty"),
        (" yes", "choices must be a list of str, got str"),
        (None, "choices must be a list of str, got NoneType"),
        ([" yes", 3], r"choices\[1\] must be a str, got int"),
    ],
    ids=str,
)
def test_wrong_choices_are_named_before_anything_is_tuned(full, monkeypatch, choices, words):
    monkeypatch.setattr(full.controller, "tuning", lambda **_: pytest.fail("tuned"))
    with pytest.raises(InvalidInput, match=words):
        full.score_choices(PROMPT, choices)
    with pytest.raises(InvalidInput, match="question 1"):
        full.score_choices_many([QUESTIONS[0], (PROMPT, choices)])


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda model: model.score_choices(" ", CHOICES), InvalidInput, "the prompt is empty"),
        (lambda model: model.score_choices(PROMPT, CHOICES, method="shift"), UnknownName, "did you mean 'sift'"),
        (lambda model: model.score_choices(PROMPT, CHOICES, at="1"), InvalidInput, "at must be a list"),
        (lambda model: model.score_choices(PROMPT, CHOICES, watch=True), UnknownName, "unknown setting 'watch'"),
        (lambda model: model.score_choices(PROMPT, CHOICES, mode="split"), UnknownName, "unknown setting 'mode'"),
        (lambda model: model.score_choices_many(PROMPT), InvalidInput, "questions must be a list, got str"),
        (lambda model: model.score_choices_many([PROMPT]), InvalidInput, "question 0 must be a pair"),
        (lambda model: model.score_choices_many([("", CHOICES)]), InvalidInput, "the prompt of question 0 is empty"),
        (lambda model: model.score_choices_many(QUESTIONS, batch=0), InvalidInput, "batch must be a whole number"),
    ],
)
def test_a_wrong_call_is_an_error_before_anything_is_tuned(full, monkeypatch, call, error, words):
    monkeypatch.setattr(full.controller, "tuning", lambda **_: pytest.fail("tuned"))
    with pytest.raises(error, match=words):
        call(full)
