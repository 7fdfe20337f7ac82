"""The engine alone: what it says is what a model alone would say, whoever else is there, and nothing is lost."""

from __future__ import annotations

import ctypes
import os
import queue
import threading
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from controller import tiny
from effort import examples
from siftlm.controller import Controller, SamplingParams
from siftlm.controller.tokens import text_token_ids
from siftlm.local import LocalModel
from siftlm.memory import Memory
from siftlm.serving import Job, Mode, ServingEngine, events
from siftlm.serving import scheduler as serving_engine
from siftlm.serving.errors import DeadlineExceeded, QueueFull, ShuttingDown
from siftlm.serving.scheduler import trim_memory

TEXTS = [
    f"{animal} {verb} the {thing}"
    for animal in ("cat", "dog", "cow")
    for verb in ("eats", "sees", "fears")
    for thing in ("moon", "grass", "wolf")
]
PROMPTS = ["the cat eats", "a dog and the moon", "cows fear", "grass grows", "the wolf sees the moon"]
SIFT = {"method": "sift", "n": 3, "rate": 0.02}
BASE = Mode("base", None, {})


def mode(**changes):
    settings = {**SIFT, **changes}
    if settings.get("use") == "context":  # where nothing is tuned, a rate is an error
        del settings["rate"]
    return Mode("sift-3", "docs", settings)


@pytest.fixture(scope="module")
def memory(tmp_path_factory):
    with Memory.create(tmp_path_factory.mktemp("memories") / "docs") as made:
        made.add(TEXTS)
        yield made


def controller():
    return Controller(tiny.model("llama"), tiny.tokenizer(), engine="lora", rank=2, precision="float32")


@pytest.fixture
def engine(memory):
    made = ServingEngine(controller(), {"docs": memory}, slots=2, queue=32)
    yield made
    made.close(grace=20)


class Heard:
    """All events of one job."""

    def __init__(self, engine, job):
        self.events, self.waiting = [], queue.Queue()
        self.ticket = engine.submit(job, self.waiting.put)

    def all(self, seconds=120):
        while not (self.events and isinstance(self.events[-1], (events.Finished, events.Failed))):
            self.events.append(self.waiting.get(timeout=seconds))
        return self.events

    def of(self, kind):
        return [event for event in self.all() if isinstance(event, kind)]

    def text(self, choice=0):
        (failed,) = self.of(events.Failed) or [None]
        assert failed is None, failed
        return "".join(event.text for event in self.of(events.ChoiceDelta) if event.choice == choice)


def job(engine, prompt, mode=BASE, *, most=8, **how):
    own = {name: how.pop(name) for name in ("choices", "echo", "deadline", "caller") if name in how}
    sampling = SamplingParams(**{"max_tokens": most, "temperature": 0.0, **how})
    return Job(tuple(text_token_ids(engine.controller.tokenizer, prompt)), prompt, mode, sampling, **own)


def said_alone(memory, prompt, mode, most=8, **how):
    """By a model of its own that does nothing else."""
    own = controller()
    if mode.memory is None:
        return own.generate(prompt, max_new_tokens=most, **how).text
    # A mode that does not say otherwise tunes the weights, where `generate` would look whether that helps.
    settings = {"use": "weights", **mode.settings}
    return LocalModel(own, memory, **settings).generate(prompt, max_new_tokens=most, **how).text


def test_events_come_in_their_order(engine):
    heard = Heard(engine, job(engine, PROMPTS[0], mode(), most=2))
    kinds = [type(event).__name__ for event in heard.all()]
    assert kinds == ["Selected", *["Stepped"] * 3, "Tuned", "ChoiceDelta", "ChoiceDelta", "ChoiceEnded", "Finished"]
    assert [(event.taken, event.planned) for event in heard.of(events.Stepped)] == [(1, 3), (2, 3), (3, 3)]
    assert set(heard.all()[-1].seconds) == {"queue", "select", "learn", "generate"}


@pytest.mark.slow
def test_base_learned_and_context_say_what_each_says_alone(engine, memory):
    ways = [BASE, mode(), mode(n=5), mode(use="context", n=2), mode(use="both", n=2)]
    heard = [Heard(engine, job(engine, prompt, way)) for prompt in PROMPTS for way in ways]
    expected = [said_alone(memory, prompt, way) for prompt in PROMPTS for way in ways]
    assert [one.text() for one in heard] == expected
    assert len(set(expected)) > len(PROMPTS)


@pytest.mark.slow
@settings(deadline=None, max_examples=examples(10), suppress_health_check=list(HealthCheck))
@given(
    st.lists(
        st.tuples(st.sampled_from(PROMPTS), st.sampled_from([1, 3, 4]), st.sampled_from([0.0, 0.9]), st.integers(0, 3)),
        min_size=1,
        max_size=8,
    )
)
def test_nobody_notices_the_others(memory, asked):
    engine = ServingEngine(controller(), {"docs": memory}, slots=3, queue=32)
    try:
        heard = [
            Heard(engine, job(engine, prompt, mode(n=n), temperature=heat, seed=seed))
            for prompt, n, heat, seed in asked
        ]
        for one, (prompt, n, heat, seed) in zip(heard, asked, strict=True):
            assert one.text() == said_alone(memory, prompt, mode(n=n), temperature=heat, seed=seed)
    finally:
        engine.close()


def test_the_same_again_costs_no_learning(engine):
    first = Heard(engine, job(engine, PROMPTS[0], mode()))
    first.all()
    again = Heard(engine, job(engine, PROMPTS[0], mode()))
    assert again.text() == first.text()
    assert again.of(events.Stepped) == []
    assert again.of(events.Selected)[0].cached
    assert again.of(events.Tuned)[0].trace is first.of(events.Tuned)[0].trace
    assert engine.state.cached == 1
    other = Heard(engine, job(engine, PROMPTS[0], mode(rate=0.03)))
    assert len(other.of(events.Stepped)) == 3


def test_the_same_at_once_is_learned_once(engine):
    heard = [Heard(engine, job(engine, PROMPTS[1], mode())) for _ in range(5)]
    assert len({one.text() for one in heard}) == 1
    assert sum(len(one.of(events.Stepped)) == 3 for one in heard) >= 1
    assert engine.state.cached == 1


def test_what_does_not_fit_into_the_cache_is_learned_again(memory):
    engine = ServingEngine(controller(), {"docs": memory}, slots=2, cache=1)
    try:
        heard = [Heard(engine, job(engine, PROMPTS[0], mode())) for _ in range(3)]
        assert len({one.text() for one in heard}) == 1
        later = Heard(engine, job(engine, PROMPTS[0], mode()))
        assert later.text() == heard[0].text()
        assert len(later.of(events.Stepped)) == 3
        assert engine.state.cached == 0
    finally:
        engine.close()


def test_what_is_deleted_has_no_effect_any_more(tmp_path):
    with Memory.create(tmp_path / "docs") as memory:
        memory.add(TEXTS, ids=[str(n) for n in range(len(TEXTS))])
        engine = ServingEngine(controller(), {"docs": memory}, slots=1)
        try:
            before = Heard(engine, job(engine, PROMPTS[0], mode()))
            hit = before.of(events.Selected)[0].found[0]
            before.all()
            memory.delete({"@id": hit.id})
            after = Heard(engine, job(engine, PROMPTS[0], mode()))
            assert hit.text not in after.of(events.Selected)[0].found.texts
            assert len(after.of(events.Stepped)) == 3
            assert engine.state.cached == 1
        finally:
            engine.close()


@pytest.mark.slow
def test_choices_draw_from_seeds_of_their_own(engine, memory):
    heard = Heard(engine, job(engine, PROMPTS[0], mode(), choices=3, temperature=1.0, seed=5))
    said = [heard.text(choice) for choice in range(3)]
    assert said == [said_alone(memory, PROMPTS[0], mode(), temperature=1.0, seed=5 + n) for n in range(3)]
    assert len(set(said)) > 1


def test_stop_texts_end_and_are_not_said(engine, memory):
    whole = said_alone(memory, PROMPTS[0], BASE, most=12)
    stop = whole[3:5]
    heard = Heard(engine, job(engine, PROMPTS[0], most=12, stop=(stop,)))
    assert heard.text() == whole[: whole.index(stop)]
    assert heard.of(events.ChoiceEnded)[0].reason == "stop"


def test_echo_says_how_likely_the_prompt_was(engine):
    own = engine.controller
    ids = (0, *text_token_ids(own.tokenizer, PROMPTS[0]))
    for way in (BASE, mode(), mode(use="context")):
        asked = Job(ids, PROMPTS[0], way, SamplingParams(max_tokens=0, top=1), echo=True)
        (read,) = Heard(engine, asked).of(events.PromptRead)
        assert [token.id for token in read.tokens] == list(ids)
        assert "".join(token.text for token in read.tokens) == PROMPTS[0]
        assert read.tokens[0].logprob is None
        if way is BASE:
            nats = -sum(token.logprob for token in read.tokens[1:])
            base = nats
            assert nats == pytest.approx(controller().likelihood(PROMPTS[0]).nats, rel=1e-5)
        else:
            assert -sum(token.logprob for token in read.tokens[1:]) != pytest.approx(base)
        assert all(token.logprob in [known[2] for known in token.top] for token in read.tokens[1:])


def test_a_full_queue_refuses_and_loses_nobody(memory):
    engine = ServingEngine(controller(), {"docs": memory}, slots=1, queue=2)

    def asked(n):
        try:
            return Heard(engine, job(engine, f"{PROMPTS[0]} {n}", mode()))
        except QueueFull as error:
            return error

    try:
        answers = [asked(n) for n in range(40)]
        refused = [one for one in answers if isinstance(one, QueueFull)]
        assert refused
        assert all(one.retry_after >= 1 for one in refused)
        assert all(one.of(events.Finished) for one in answers if isinstance(one, Heard))
    finally:
        engine.close()


def test_who_hangs_up_is_not_worked_for(engine):
    long = [Heard(engine, job(engine, prompt, mode(n=20, passes=20))) for prompt in PROMPTS[:4]]
    while not any(isinstance(event, events.Stepped) for event in long[0].events):
        long[0].events.append(long[0].waiting.get(timeout=60))
    for one in long:
        one.ticket.cancel()
    assert Heard(engine, job(engine, PROMPTS[0], mode())).text()
    assert engine.state.cached == 1
    time.sleep(0.05)
    for one in long:
        assert not any(isinstance(event, events.Tuned) for event in [*one.events, *list(one.waiting.queue)])


def test_what_one_has_learned_is_not_told_to_another(engine):
    said = {}
    for caller in ("ann", "bob", "ann"):
        heard = Heard(engine, job(engine, PROMPTS[0], mode(), caller=caller))
        said.setdefault(caller, []).append(
            (heard.of(events.Selected)[0].cached, len(heard.of(events.Stepped)), heard.text())
        )
    assert [one[:2] for one in said["ann"]] == [(False, 3), (True, 0)]
    assert [one[:2] for one in said["bob"]] == [(False, 3)]
    assert len({text for each in said.values() for *_, text in each}) == 1


def test_time_runs_out(engine):
    late = Heard(engine, job(engine, PROMPTS[0], mode(), deadline=time.monotonic() - 1))
    assert isinstance(late.all()[-1].error, DeadlineExceeded)
    soon = Heard(engine, job(engine, PROMPTS[0], mode(n=20, passes=50), deadline=time.monotonic() + 0.3))
    assert isinstance(soon.all()[-1].error, DeadlineExceeded)
    assert Heard(engine, job(engine, PROMPTS[0])).text()


@pytest.mark.slow
def test_what_was_accepted_is_finished_at_the_end(memory):
    engine = ServingEngine(controller(), {"docs": memory}, slots=1)
    heard = [Heard(engine, job(engine, prompt, mode())) for prompt in PROMPTS]
    closing = threading.Thread(target=engine.close)
    closing.start()
    assert [one.text() for one in heard] == [said_alone(memory, prompt, mode()) for prompt in PROMPTS]
    closing.join(60)
    with pytest.raises(ShuttingDown):
        engine.submit(job(engine, PROMPTS[0]), print)


@pytest.mark.slow
def test_memory_is_given_back_once_when_there_is_nothing_to_do(memory, monkeypatch):
    given = queue.Queue()
    monkeypatch.setattr(serving_engine, "trim_memory", lambda: given.put("back"))
    monkeypatch.setattr(serving_engine, "IDLE_TRIM_SECONDS", 0.05)
    engine = ServingEngine(controller(), {"docs": memory}, slots=1)
    try:
        # The second has been learned already, and the last is said in a single turn: they count as work all the same.
        for how, most in ((mode(), 8), (mode(), 1), (BASE, 1)):
            Heard(engine, job(engine, PROMPTS[0], how, most=most)).all()
            assert given.get(timeout=60) == "back"
            time.sleep(0.2)
            assert given.empty(), "there was nothing more to give"
    finally:
        engine.close()


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="not glibc")
def test_what_was_free_is_the_systems_again():
    blocks = [bytearray(100_000) for _ in range(3000)]
    keeps = blocks[::300]  # which would hold the rest in place
    full = resident()
    del blocks
    assert trim_memory()
    assert resident() < full - 200 * 2**20
    assert len(keeps) == 10


def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")


def test_grace_ends(memory):
    engine = ServingEngine(controller(), {"docs": memory}, slots=1)
    heard = Heard(engine, job(engine, PROMPTS[0], mode(n=20, passes=500)))
    engine.close(grace=0.2)
    assert isinstance(heard.all()[-1].error, ShuttingDown)


@pytest.mark.slow
def test_a_failure_ends_those_it_meets_and_nobody_else(engine, memory, monkeypatch):
    forward = engine.controller.model.forward
    broken = threading.Event()

    def failing(*args, **more):
        if broken.is_set():
            raise MemoryError("no room")
        return forward(*args, **more)

    monkeypatch.setattr(engine.controller.model, "forward", failing)
    expected = said_alone(memory, PROMPTS[0], mode())
    broken.set()
    met = Heard(engine, job(engine, PROMPTS[0], mode()))
    assert isinstance(met.all()[-1].error, MemoryError)
    broken.clear()
    assert Heard(engine, job(engine, PROMPTS[0], mode())).text() == expected


def test_who_stood_between_learning_and_speaking_hears_of_a_failure(engine, monkeypatch):
    """Admitted in the same turn in which others' learning fails."""
    long = Heard(engine, job(engine, PROMPTS[0], mode(n=20, passes=20)))
    long.events.append(long.waiting.get(timeout=60))
    held, failing = threading.Event(), engine._tuning.round

    def broken():
        held.wait(60)
        if engine._inside[-1].job.mode is BASE:
            raise MemoryError("no room")
        return failing()

    monkeypatch.setattr(engine._tuning, "round", broken)
    short = Heard(engine, job(engine, PROMPTS[1]))
    held.set()
    for heard in (long, short):
        assert isinstance(heard.all()[-1].error, MemoryError)
    assert Heard(engine, job(engine, PROMPTS[1])).text()


@pytest.mark.slow
@pytest.mark.parametrize("temperature", [1e-6, 1e-38, 1e-300])
def test_one_odd_request_is_not_the_others_end(engine, memory, temperature):
    heard = Heard(engine, job(engine, PROMPTS[0], mode(), most=30))
    odd = Heard(engine, job(engine, PROMPTS[1], temperature=temperature))
    assert odd.text() == said_alone(memory, PROMPTS[1], BASE)
    assert heard.text() == said_alone(memory, PROMPTS[0], mode(), most=30)


@pytest.mark.slow
def test_what_changed_while_it_was_learned_is_not_kept(tmp_path):
    with Memory.create(tmp_path / "docs") as memory:
        memory.add(TEXTS)
        engine = ServingEngine(controller(), {"docs": memory}, slots=1)
        try:
            heard = Heard(engine, job(engine, PROMPTS[0], mode(n=20, passes=5)))
            heard.events.append(heard.waiting.get(timeout=60))
            memory.add(["something else"])
            assert heard.of(events.Finished)
            assert engine.state.cached == 0
        finally:
            engine.close()


def test_calls_wait_in_a_queue_that_ends(memory):
    engine = ServingEngine(controller(), {"docs": memory}, slots=1, queue=2)
    try:
        held = threading.Event()
        first = engine.call(lambda: held.wait(60))
        waiting = []
        with pytest.raises(QueueFull):
            waiting.extend(engine.call(lambda n=n: n) for n in range(5))
        held.set()
        assert first.result(60)
        assert [one.result(60) for one in waiting] == list(range(len(waiting)))
    finally:
        engine.close()


@pytest.mark.slow
def test_calls_run_between_steps(engine):
    heard = Heard(engine, job(engine, PROMPTS[0], mode(n=20, passes=3)))
    assert engine.call(lambda: threading.current_thread().name).result(60) == "siftlm-engine"
    with pytest.raises(ZeroDivisionError):
        engine.call(lambda: 1 // 0).result(60)
    assert heard.text()


def test_the_model_is_itself_again(memory):
    from controller import traces

    own = controller()
    before = traces.of(own.model)
    engine = ServingEngine(own, {"docs": memory}, slots=2)
    Heard(engine, job(engine, PROMPTS[0], mode())).all()
    engine.close()
    assert traces.differences(before, traces.of(own.model)) == {}


def test_all_weights_cannot_be_shared(memory):
    with pytest.raises(ValueError, match="engine='lora'"):
        ServingEngine(Controller(tiny.model("llama"), tiny.tokenizer()), {"docs": memory})
