"""Which text is learned when, until when, and which state is kept."""

from __future__ import annotations

import math
from types import SimpleNamespace

import hypothesis
import hypothesis.strategies as st
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("peft")

from controller import oracle, tiny  # noqa: E402
from siftlm.controller import Controller, Tuning  # noqa: E402
from siftlm.controller.settings import plan_steps  # noqa: E402
from siftlm.errors import Conflict, InvalidInput, SiftlmError  # noqa: E402

TEXTS = ["the quick brown fox", "jumps over the lazy dog", "rain fell", "on the harbour while", "ships wait"]


@hypothesis.given(
    st.lists(st.sampled_from("abcd"), max_size=12),
    st.sampled_from(["picked", "reversed"]),
    st.sampled_from([("steps", 1), ("scaled", 1), ("grouped", 1), ("grouped", 2), ("grouped", 3)]),
    st.integers(1, 3),
)
def test_the_plan_is_what_the_manual_says(texts, order, repeats, passes):
    settings = Tuning(order=order, repeats=repeats[0], reuse=repeats[1], passes=passes)
    found = [(turn.text, turn.scale, turn.reuse) for turn in plan_steps(texts, settings)]
    assert found == oracle.turns(texts, order, *repeats, passes)


@pytest.fixture(scope="module")
def one():
    return Controller(tiny.model("llama"), tiny.tokenizer(), rate=1e-2, precision="float32")


def learned(one, texts, watch=None, **settings):
    with one.tuning(**settings) as tuner:
        return tuner.learn(texts, watch=watch)


# --- texts with nothing to learn


@pytest.mark.parametrize("texts", [[], [""], ["a"], ["", "a", ""]])
def test_nothing_to_learn(one, texts, untouched):
    check, before = untouched(one.model), one.likelihood(TEXTS[0])
    with one.tuning() as tuner:
        trace = tuner.learn(texts)
        assert (trace.ended, trace.kept, trace.steps) == ("nothing", 0, ())
        assert one.likelihood(TEXTS[0]) == before
    check()


def test_nothing_to_learn_while_somebody_watches(one):
    assert learned(one, [""], watch=lambda: 1.0).ended == "nothing"


def test_texts_without_content_take_no_turn(one):
    assert [step.text for step in learned(one, ["", TEXTS[0], "a", TEXTS[1]]).steps] == [1, 3]


def test_a_single_token_can_be_learned_where_the_tokenizer_begins_texts():
    one = Controller(tiny.model("llama"), tiny.tokenizer("begins"), rate=1e-2, precision="float32")
    trace = learned(one, ["a", ""])
    assert [(step.text, step.tokens) for step in trace.steps] == [(0, 1)]


def test_a_lone_surrogate_is_learned_as_what_stands_for_it(one):
    assert learned(one, ["a\ud800b c"]).losses == learned(one, ["a?b c"]).losses


@pytest.mark.parametrize("texts", ["a text", [3], [None], [["a"]], [b"a"]])
def test_what_is_no_list_of_texts_is_refused(one, texts, untouched):
    check = untouched(one.model)
    with pytest.raises(InvalidInput, match=r"str|list"):
        learned(one, texts)
    check()


# --- budgets


@pytest.mark.slow
@pytest.mark.parametrize("budget", [1, 18, 19, 40, 41, 1000])
def test_no_step_beyond_so_many_tokens(one, budget):
    trace = learned(one, TEXTS, tokens=budget)
    sizes = [len(text) - 1 for text in TEXTS]
    count = max(n for n in range(len(sizes) + 1) if sum(sizes[:n]) <= budget)
    assert len(trace.steps) == trace.kept == count
    assert trace.ended == ("done" if count == len(TEXTS) else "tokens")
    assert trace.losses == learned(one, TEXTS).losses[:count]


def test_no_step_after_so_many_seconds(one, monkeypatch):
    now = [0.0]
    monkeypatch.setattr("siftlm.controller.tuner.time", SimpleNamespace(monotonic=lambda: now[0]))
    with one.tuning(seconds=0.2) as tuner:
        trace = tuner.learn(TEXTS, after=lambda step: now.__setitem__(0, now[0] + 0.15))
    assert (trace.ended, len(trace.steps), trace.kept) == ("seconds", 2, 2)
    assert learned(one, TEXTS, seconds=60.0).ended == "done"


# --- watching


class Watch:
    """Says what it was told to, and remembers the weights of each moment."""

    def __init__(self, one, says):
        self._one, self._says, self.states = one, list(says), []

    def __call__(self):
        self.states.append([p.detach().clone() for p in self._one.model.parameters()])
        return self._says[len(self.states) - 1]


WATCHED = [
    # said at the beginning and after each second step (and after the last), patience, ended, kept, steps, best look
    ([5, 4, 3, 2], 2, "done", 5, 5, 3),
    ([5, 4, 4.5, 4.6], 2, "worse", 2, 5, 1),
    ([5, 4, 4.5, 3], 2, "done", 5, 5, 3),
    ([5, 4, 4.5], 1, "worse", 2, 4, 1),
    ([5, 6], 1, "worse", 0, 2, 0),
    ([5, 6, 7], 2, "worse", 0, 4, 0),
    ([5, 5, 5], 2, "worse", 0, 4, 0),
    ([5, float("nan"), 4, 4.5], 2, "worse", 4, 5, 2),
    ([5, 6, float("inf")], 2, "worse", 0, 4, 0),
]


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["full", "lora"])
@pytest.mark.parametrize(("says", "patience", "ended", "kept", "steps", "best"), WATCHED)
def test_the_best_state_is_taken(engine, says, patience, ended, kept, steps, best):
    one = Controller(tiny.model("llama"), tiny.tokenizer(), engine=engine, rate=1e-2, precision="float32")
    watch = Watch(one, says)
    with one.tuning(watch_every=2, patience=patience) as tuner:
        trace = tuner.learn(TEXTS, watch=watch)
        assert (trace.ended, trace.kept, len(trace.steps)) == (ended, kept, steps)
        assert len(watch.states) == len(says)
        for p, then in zip(one.model.parameters(), watch.states[best], strict=True):
            assert torch.equal(p, then)
    looks = [step.watched for step in trace.steps]
    assert [look is not None for look in looks] == [number % 2 == 0 for number in range(1, steps + 1)]


def test_the_best_state_is_that_of_as_many_steps(one):
    """Its score is what those steps alone give."""
    said = iter([5, 4, 3, 4, 4])
    with one.tuning(watch_every=1, patience=2) as tuner:
        trace = tuner.learn(TEXTS, watch=lambda: next(said))
        score = one.likelihood("the harbour")
    assert (trace.ended, trace.kept, len(trace.steps)) == ("worse", 2, 4)
    with one.tuning() as tuner:
        tuner.learn(TEXTS[:2])
        assert one.likelihood("the harbour") == score


def test_a_watch_that_says_nothing_is_not_heard():
    """A prompt of a single token has no loss; that is no reason to learn nothing."""
    one = Controller(tiny.model("llama"), tiny.tokenizer("bare"), rate=1e-2, precision="float32")
    trace = learned(one, TEXTS, watch=lambda: one.likelihood("a").nats_per_token, watch_every=1)
    assert (trace.ended, trace.kept) == ("done", 5)


def test_watching_ends_within_a_budget(one):
    said = iter([5, 4, 3])
    trace = learned(one, TEXTS, watch=lambda: next(said), watch_every=1, tokens=41)
    assert (trace.ended, trace.kept) == ("tokens", 2)


# --- settings


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rate": 0}, "rate"),
        ({"rate": float("nan")}, "rate"),
        ({"dropout": 1.0}, "dropout"),
        ({"clip": -1}, "clip"),
        ({"passes": 0}, "passes"),
        ({"window": 65}, "window"),
        ({"order": "last"}, "order"),
        ({"seed": "a"}, "seed"),
        ({"repeats": "steps", "reuse": 2}, "grouped"),
        ({"repeats": "grouped", "reuse": 2, "windows": 2}, "windows"),
        ({"betas": (0.9, 1.0)}, "betas"),
        ({"betas": 0.9}, "betas"),
        ({"betas": (0.9,)}, "betas"),
        ({"window": 1}, "window .* ≥ 2"),
        ({"completion": 3}, "completion .* got 3"),
        ({"completion": ""}, "completion"),
        ({"precision": "int8"}, "precision"),
        ({"speed": 1}, "speed"),
        ({"checkpointing": "no"}, "checkpointing"),
        ({"compile": 1}, "compile"),
        ({"tokens": 0}, "tokens"),
    ],
)
def test_wrong_settings_are_refused_by_name(one, settings, message, untouched):
    check = untouched(one.model)
    with pytest.raises(SiftlmError, match=message), one.tuning(**settings):
        pass
    check()


def test_everything_that_decided_is_recorded(one):
    with one.tuning(clip=1.0) as tuner:
        recorded = tuner.learn(TEXTS[:1]).settings
    assert recorded["rate"] == 1e-2
    assert (recorded["clip"], recorded["window"], recorded["precision"]) == (1.0, tiny.CONTEXT, "float32")
    assert (recorded["engine"], recorded["trained"]) == ("full", one.parameters)


@pytest.mark.parametrize(
    ("name", "targets", "most"),
    [
        ("llama", None, 32),
        ("gpt2", None, 64),
        ("opt", "all-linear", 32),
        ("llama", ["q_proj"], 16),
        ("llama", r".*\.(q|down)_proj", 32),
    ],
)
def test_a_rank_beyond_every_layer_is_refused_before_it_costs_anything(name, targets, most):
    one = Controller(tiny.model(name), tiny.tokenizer(), engine="lora", rank=100_000_000, targets=targets)
    with pytest.raises(InvalidInput, match=f"at most {most}, .* got 100000000"):
        _ = one.engine
    assert Controller(tiny.model(name), tiny.tokenizer(), engine="lora", rank=most, targets=targets).engine is not None


@pytest.mark.parametrize(
    "settings",
    [
        {"engine": "adam"},
        {"engine": 5},
        {"rank": 4},
        {"engine": "lora", "rank": 0},
        *({"engine": "lora", "alpha": alpha} for alpha in (-1, 0, math.inf, "2")),
    ],
)
def test_a_wrong_engine_is_refused_at_once(settings):
    with pytest.raises((InvalidInput, Conflict)):
        Controller(tiny.model("llama"), tiny.tokenizer(), **settings)
