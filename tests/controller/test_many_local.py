"""A local model for many texts says of each what it says of it alone."""

from __future__ import annotations

import math
import re

import pytest

pytest.importorskip("peft")

from controller.many_texts import PROMPTS, controller, facts
from siftlm import LocalModel, Memory
from siftlm.errors import InvalidInput, UnknownName

CORPUS = [
    f"{what} {where} {when}."
    for what in ("The tide comes in", "Rain falls", "def add(a, b): return", "7 * 8 = 56")
    for where in ("at the harbour", "on the hill", "below the town")
    for when in ("at six", "in the morning, before the ships leave")
]
TEXTS = [
    "Rain falls on the harbour and the hill before the ships leave at six.",
    "def mul(a, b): return a * b",
    "The tide comes in, and rain falls on the town below.",
]


@pytest.fixture(scope="module")
def memory(tmp_path_factory):
    made = Memory.create(tmp_path_factory.mktemp("many") / "memory")
    made.add(CORPUS)
    yield made
    made.close()


def model(memory, **settings) -> LocalModel:
    engine = {name: settings.pop(name) for name in ("engine", "rank") if name in settings}
    return LocalModel(controller(**engine), memory, n=4, **settings)


def compare(local: LocalModel, **settings) -> list:
    together = local.score_many(TEXTS, progress=False, **settings)
    for text, score in zip(TEXTS, together, strict=True):
        alone = local.score(text, **settings)
        assert [hit.row for hit in score.found] == [hit.row for hit in alone.found]
        assert facts(score.trace) == facts(alone.trace)
        assert score.base == pytest.approx(alone.base, rel=1e-5)
        assert score.tuned == pytest.approx(alone.tuned, rel=1e-5)
        assert [step for step, _ in score.curve] == [step for step, _ in alone.curve]
        assert [bits for _, bits in score.curve] == pytest.approx([bits for _, bits in alone.curve], rel=1e-5)
        assert (score.mode, score.likelihood.bytes) == (alone.mode, alone.likelihood.bytes)
        assert score.seconds.keys() == alone.seconds.keys()
        assert all(seconds >= 0 for seconds in score.seconds.values())
    return together


@pytest.mark.slow
def test_scores(memory):
    scores = compare(model(memory), at=[0, 1, 3])
    assert len({score.tuned for score in scores}) == 3
    assert all(score.tuned != score.base for score in scores)


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [
        {"mode": "transductive"},
        {"use": "both", "at": [1, 2]},
        {"use": "context"},
        {"decide": 0.6},
        {"decide": lambda found: "tide" in found.texts[0]},
        {"use": "auto", "watch_every": 1},
        {"use": "auto", "at": [1, 4], "rate": 0.05, "watch_every": 2},
        {"n": 2, "method": "nearest"},
        {"tokens": 60},
        {"dropout": 0.1},
    ],
    ids=lambda known: re.sub(" at 0x[0-9a-f]+", "", str(known)),  # the same in every process
)
def test_scores_whatever_is_asked_for(memory, settings):
    compare(model(memory), **settings)


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["lora", "full"])
def test_points_on_the_way_read_the_texts_that_the_end_reads(memory, engine):
    local = model(memory, engine=engine, rank=4 if engine == "lora" else None)
    alone = [local.score(text, use="both", n=2, at=[1, 2]) for text in TEXTS]
    for score in [*alone, *local.score_many(TEXTS, use="both", n=2, at=[1, 2], progress=False)]:
        assert dict(score.curve)[2] == pytest.approx(score.tuned, rel=1e-6)


@pytest.mark.slow
def test_all_weights_are_tuned_one_after_the_other(memory):
    compare(model(memory, engine="full", rank=None), at=[2])


@pytest.mark.slow
def test_some_are_declined(memory):
    scores = compare(model(memory), decide=lambda found: "return" not in found.texts[0])
    assert {score.trace.ended for score in scores} == {"declined", "done"}


def test_batches_do_not_show(memory):
    local = model(memory)
    reports = []
    whole = local.score_many(TEXTS, batch=3, progress=reports.append)
    halved = local.score_many(TEXTS, batch=2, progress=False)
    assert [score.tuned for score in halved] == pytest.approx([score.tuned for score in whole], rel=1e-5)
    assert (reports[-1].finished, reports[-1].done, reports[-1].total) == (True, 3, 3)
    assert local.score_many([]) == []


def test_answers(memory):
    local = model(memory)
    together = local.generate_many(PROMPTS[:2], max_new_tokens=5, progress=False)
    for prompt, answer in zip(PROMPTS, together, strict=False):
        alone = local.generate(prompt, max_new_tokens=5)
        assert (answer.text, answer.tokens, answer.stopped) == (alone.text, alone.tokens, alone.stopped)
        assert facts(answer.trace) == facts(alone.trace)
        assert answer.seconds.keys() == alone.seconds.keys()


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["lora", "full"])
@pytest.mark.parametrize("use", ["weights", "context", "both", "auto"])
def test_answers_whatever_is_asked_for(memory, engine, use):
    local = model(memory, engine=engine, rank=4 if engine == "lora" else None)
    how = {"max_new_tokens": 8, "temperature": 0.8, "seed": 2, "stop": ["e"], "use": use}
    together = local.generate_many(PROMPTS, progress=False, **how)
    assert [answer.text for answer in together] == [local.generate(prompt, **how).text for prompt in PROMPTS]


def test_what_is_wrong_is_named(memory):
    local = model(memory)
    with pytest.raises(InvalidInput, match="text 1 is empty"):
        local.score_many(["two words", " "])
    with pytest.raises(InvalidInput, match="texts must be a list"):
        local.score_many("two words")
    with pytest.raises(InvalidInput, match="batch must be a whole number"):
        local.score_many(TEXTS, batch=0)
    with pytest.raises(InvalidInput, match="max_new_tokens"):
        local.generate_many(PROMPTS, max_new_tokens=math.inf)
    with pytest.raises(UnknownName, match="unknown setting 'watch'"):
        local.score_many(TEXTS, watch=True)
