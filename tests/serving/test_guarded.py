"""The mode ``auto`` of a server: held-out passages decide, and what is declined is answered by the base model."""

from __future__ import annotations

import queue

import pytest

from controller import tiny
from siftlm.controller import Controller, SamplingParams
from siftlm.controller.tokens import text_token_ids
from siftlm.local import LocalModel
from siftlm.memory import Memory
from siftlm.serving import Job, ModeParser, ServingEngine, events

ALIKE = [f"the tide comes in at {hour} and the tide goes out at {hour + 6}." for hour in range(4)]
NONSENSE = [f"{one}{two}{one} {two}{two}{one} " * 5 for one in "ZQXJVK" for two in "#@%&!"]
HELPS = {"n": 2, "rate": 0.05}
HARMS = {"n": 3, "rate": 1.0, "passes": 2, "explode": 1e9, "method": "random", "k": None}
PROMPTS = ["the tide comes in at", "and the tide goes out", "at 6 the tide"]


def controller():
    return Controller(tiny.model("llama"), tiny.tokenizer(), engine="lora", rank=4, precision="float32", device="cpu")


@pytest.fixture(scope="module")
def memories(tmp_path_factory):
    folder = tmp_path_factory.mktemp("memories")
    with Memory.create(folder / "alike") as alike, Memory.create(folder / "mixed") as mixed:
        alike.add([f"{text} {number}" for text in ALIKE for number in "12"])
        mixed.add([*ALIKE, *NONSENSE])
        with Memory.create(folder / "few") as few:
            few.add(ALIKE[:2])
            yield {"alike": alike, "mixed": mixed, "few": few}


OWN = {"alike": HELPS, "mixed": HARMS, "few": HELPS}


@pytest.fixture
def engine(memories):
    made = ServingEngine(controller(), memories, slots=4, queue=32)
    for name, own in OWN.items():
        made.models[name] = LocalModel(made.controller, memories[name], **own)
    yield made
    made.close(grace=20)


def ask(engine, memory, prompts, mode="auto"):
    """All events of requests that arrive together, as (text, what was tuned, was it cached, steps) each."""
    waiting = []
    for prompt in prompts:
        parsed = ModeParser("tiny", engine.models).parse(f"tiny:{mode}" + (f"@{memory}" if mode != "base" else ""))
        sampling = SamplingParams(max_tokens=8, temperature=0.0)
        job = Job(tuple(text_token_ids(engine.controller.tokenizer, prompt)), prompt, parsed, sampling)
        waiting.append(queue.Queue())
        engine.submit(job, waiting[-1].put)
    answers = []
    for one in waiting:
        seen = []
        while not (seen and isinstance(seen[-1], (events.Finished, events.Failed))):
            seen.append(one.get(timeout=120))
        assert isinstance(seen[-1], events.Finished), seen[-1]
        text = "".join(event.text for event in seen if isinstance(event, events.ChoiceDelta))
        [tuned] = [event for event in seen if isinstance(event, events.Tuned)] or [None]
        cached = any(isinstance(event, events.Selected) and event.cached for event in seen)
        answers.append((text, tuned, cached, sum(isinstance(event, events.Stepped) for event in seen)))
    return answers


def test_what_is_declined_is_answered_by_the_base_model_and_again_from_the_cache(engine):
    base = [controller().generate(prompt, max_new_tokens=8).text for prompt in PROMPTS]
    first, again = ask(engine, "mixed", PROMPTS), ask(engine, "mixed", PROMPTS)
    assert [text for text, *_ in first] == [text for text, *_ in again] == base
    for (_, tuned, cached, steps), (_, known, hit, none) in zip(first, again, strict=True):
        assert (tuned.trace.ended, tuned.trace.choice.use, tuned.context) == ("declined", "none", ())
        assert known.trace.to_dict() == tuned.trace.to_dict()
        assert (cached, hit, none) == (False, True, 0)
        assert steps > 0


@pytest.mark.parametrize("memory", ["alike", "few"])
def test_what_helps_is_learned_as_a_model_alone_learns_it(engine, memories, memory):
    alone = LocalModel(controller(), memories[memory], **OWN[memory])
    expected = [alone.generate(prompt, max_new_tokens=8) for prompt in PROMPTS]
    for _ in range(2):
        for (text, tuned, *_), own in zip(ask(engine, memory, PROMPTS), expected, strict=True):
            assert text == own.text
            assert (tuned.trace.ended, tuned.trace.kept) == (own.trace.ended, own.trace.kept)
            assert tuned.trace.choice.use == own.trace.choice.use == "weights"
            assert tuned.trace.choice.held_out == (3 if memory == "alike" else 0)


@pytest.mark.parametrize("use", ["context", "both"])
def test_what_is_read_is_read_again_from_the_cache(engine, memories, monkeypatch, use):
    monkeypatch.setattr("siftlm.guard.CONTEXT_CAUTION_PERCENT", -1000.0 if use == "context" else -20.0)
    monkeypatch.setattr("siftlm.guard.CONTEXT_SHARE", 0.0 if use == "both" else 1000.0)
    if use == "both":
        choice = "siftlm.guard.Guard.observe_context"
        monkeypatch.setattr(choice, lambda guard, use, _: guard.estimates.update({use: 1.0 if use == "both" else 90.0}))
    alone = LocalModel(controller(), memories["alike"], **OWN["alike"])
    expected = [alone.generate(prompt, max_new_tokens=8, use=use).text for prompt in PROMPTS] if use == "both" else []
    reader = LocalModel(controller(), memories["alike"], n=2)
    expected = expected or [reader.generate(prompt, max_new_tokens=8, use="context").text for prompt in PROMPTS]
    for _ in range(2):
        answers = ask(engine, "alike", PROMPTS)
        assert {tuned.trace.choice.use for _, tuned, *_ in answers} == {use}
        assert [text for text, *_ in answers] == expected
        assert all(len(tuned.context) == 2 for _, tuned, *_ in answers)
