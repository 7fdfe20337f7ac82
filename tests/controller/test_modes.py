"""torch's modes belong to the caller: a controller works inside any of them, in any order, and leaves none behind."""

from __future__ import annotations

import itertools
import math
from contextlib import nullcontext
from functools import lru_cache

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("peft")

from controller import tiny  # noqa: E402
from siftlm.controller import Controller  # noqa: E402
from siftlm.errors import InvalidInput  # noqa: E402

TEXTS = ["the quick brown fox", "rain fell", "ships wait"]
OTHER = "something else"
MODES = {
    "inference": lambda: torch.inference_mode(),
    "no_grad": torch.no_grad,
    "grad off": lambda: torch.set_grad_enabled(False),
    "none": nullcontext,
}


def controller(engine, name="llama"):
    return Controller(tiny.model(name), tiny.tokenizer(), engine=engine, rate=1e-2, precision="float32")


def alone(one):
    with one.tuning(watch_every=1) as tuner:
        trace = tuner.learn(TEXTS, watch=lambda: one.likelihood(OTHER).nats_per_token)
        return trace.losses, one.likelihood(OTHER), one.generate("rain", max_new_tokens=2).text


def many(one):
    with one.tuning_many(2, watch_every=1, repeats="grouped", reuse=2) as tuner:

        def watch(owners):
            seen = tuner.likelihoods([(OTHER, "")] * len(owners), owners=owners)
            return [math.inf if owner else one.nats for owner, one in zip(owners, seen, strict=True)]

        traces = tuner.learn([TEXTS, [*TEXTS[:1] * 2, TEXTS[1]]], watch=watch)
        made = [one.text for one in tuner.generate(["rain", "ships"], max_new_tokens=2)]
        return [trace.losses for trace in traces], tuner.likelihoods([(OTHER, ""), (OTHER, "")]), made


def untuned(one):
    return one.likelihood(OTHER), one.generate("rain", max_new_tokens=2).text


WORK = {"full": [alone, untuned], "lora": [alone, many, untuned]}


@lru_cache
def expected(engine, work):
    """What comes of it without any mode."""
    return work(controller(engine))


@pytest.mark.parametrize("engine", WORK)
def test_first_inside_and_then_outside(engine, untouched):
    one = controller(engine)
    check = untouched(one.model)
    works = WORK[engine][:-1]
    with torch.inference_mode():
        for work in works:
            work(one)
    for work in works:
        assert work(one) == expected(engine, work)
    check()


@pytest.mark.slow
@pytest.mark.parametrize("engine", WORK)
@pytest.mark.parametrize("first", MODES)
def test_whichever_mode_comes_first(engine, first, untouched):
    """Also one inside, one outside, and one inside again."""
    one = controller(engine)
    check = untouched(one.model)
    others = [mode for mode in MODES if mode != first]
    for mode, work in itertools.product([first, *others, first], WORK[engine]):
        alone_in_no_mode = expected(engine, work)
        with MODES[mode]():
            assert work(one) == alone_in_no_mode, (mode, work.__name__)
        check()
    assert torch.is_grad_enabled()


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["full", "lora"])
def test_a_mode_inside_the_block(engine):
    one = controller(engine)
    with torch.inference_mode():
        assert alone(one) == expected(engine, alone)
        with one.tuning() as tuner:
            assert torch.is_inference_mode_enabled()
            with torch.inference_mode(False):
                assert tuner.learn(TEXTS).losses == expected(engine, alone)[0]
            one.engine.rewind()
            assert one.likelihood(OTHER) != expected(engine, alone)[1]


def test_a_buffer_that_was_made_in_inference_mode_is_put_back(untouched):
    one = controller("full")
    with torch.inference_mode():
        one.model.register_buffer("kept", torch.ones(3))
    check = untouched(one.model)
    with one.tuning() as tuner:
        tuner.learn(TEXTS)
        with torch.inference_mode():
            one.model.kept.zero_()
    check()


def test_a_model_that_was_made_in_inference_mode_is_refused():
    with torch.inference_mode():
        one = controller("full")
    with pytest.raises(InvalidInput, match="inference_mode"), one.tuning():
        pass


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["full", "lora"])
def test_a_model_by_name_that_is_opened_in_inference_mode_learns(engine):
    with torch.inference_mode():
        one = Controller("siftlm-tiny", engine=engine, precision="float32", device="cpu")
        with one.tuning() as tuner:
            first = tuner.learn(TEXTS[:1]).losses
    with one.tuning() as tuner:
        assert tuner.learn(TEXTS[:1]).losses == first
