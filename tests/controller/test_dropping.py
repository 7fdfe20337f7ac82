"""Dropout, checkpointing, precision: how a step is computed, and that it is over when the step is."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("peft")

from controller import tiny  # noqa: E402
from siftlm.controller import Controller  # noqa: E402
from siftlm.errors import InvalidInput  # noqa: E402

TEXTS = ["the quick brown fox jumps over the lazy dog", "rain fell on the harbour", "a third text"]


def controller(name="gpt2", engine="full", **settings):
    settings = {"rate": 1e-3, "precision": "float32", **settings}
    return Controller(tiny.model(name), tiny.tokenizer(), engine=engine, **settings)


def losses(one, **settings):
    with one.tuning(**settings) as tuner:
        return tuner.learn(TEXTS).losses


# Dropout is in the configuration of these; some have layers for it, some only numbers.
DROPPING = ["gpt2", *(pytest.param(name, marks=pytest.mark.slow) for name in ("gpt_neox", "llama", "phi", "opt"))]


@pytest.mark.parametrize("engine", ["full", "lora"])
@pytest.mark.parametrize("name", DROPPING)
def test_checkpointing_changes_nothing_but_the_memory(name, engine, untouched, monkeypatch):
    one = controller(name, engine)
    plain = losses(one)
    calls = []
    checkpoint = torch.utils.checkpoint.checkpoint
    module = __import__("transformers.modeling_utils", fromlist=["checkpoint"])
    monkeypatch.setattr(module, "checkpoint", lambda *a, **k: calls.append(1) or checkpoint(*a, **k))
    check = untouched(one.model)
    assert losses(one, checkpointing=True) == pytest.approx(plain, abs=1e-6)
    assert len(calls) == len(TEXTS) * 2, "two layers, one pass of each text"
    check()
    assert losses(one) == plain
    assert len(calls) == len(TEXTS) * 2


def test_checkpointing_that_the_caller_had_on_stays_on(untouched):
    one = controller("llama")
    switch = getattr(one.model, "activation_checkpointing_enable", None) or one.model.gradient_checkpointing_enable
    switch()
    one.model.train()
    check = untouched(one.model)
    for checkpointing in (True, False):
        losses(one, checkpointing=checkpointing)
        check()


@pytest.mark.parametrize("name", DROPPING)
def test_dropout_is_reproducible_and_as_strong_as_was_said(name, untouched):
    one = controller(name)
    check = untouched(one.model)
    dropped = losses(one, dropout=0.5, seed=1)
    check()
    torch.rand(3)
    assert losses(one, dropout=0.5, seed=1) == dropped
    assert losses(one, dropout=0.5, seed=2) != dropped
    assert losses(one, dropout=0.0) != dropped
    fresh = controller(name)
    fresh.model.train()  # with the rates of its configuration, which do not count
    assert losses(fresh, dropout=0.5, seed=1) == dropped
    assert losses(fresh, dropout=0.0) == losses(one)


def test_dropout_is_in_adapters_as_well():
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(r=4, target_modules=["q_proj"], lora_dropout=0.1, init_lora_weights=False)
    one = controller("qwen3", config)  # which has no dropout of its own
    assert losses(one, dropout=0.5, seed=1) != losses(one, dropout=0.5, seed=2)
    assert losses(one, seed=1) == losses(one, seed=2)


@pytest.mark.parametrize("engine", ["full", "lora"])
def test_bfloat16_steps_are_near_and_leave_nothing(engine, untouched):
    one = controller("llama", engine)
    check = untouched(one.model)
    exact = losses(one)
    rough = losses(one, precision="bfloat16")
    assert rough != exact
    assert rough == pytest.approx(exact, rel=0.02)
    check()


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("engine", ["full", "lora", "ia3", "loha"])
def test_weights_in_bfloat16_are_put_back(engine, precision, untouched):
    peft = pytest.importorskip("peft")
    kinds = {
        "ia3": peft.IA3Config(target_modules=["k_proj", "down_proj"], feedforward_modules=["down_proj"]),
        "loha": peft.LoHaConfig(r=4, alpha=8, target_modules=["o_proj", "down_proj"]),
    }
    one = Controller(
        tiny.model("llama").to(torch.bfloat16),
        tiny.tokenizer(),
        engine=kinds.get(engine, engine),
        rate=1e-2,
        precision=precision,
    )
    check, before = untouched(one.model), one.likelihood(TEXTS[0])
    with one.tuning() as tuner:
        trace = tuner.learn(TEXTS[:1] * 8)
        assert one.likelihood(TEXTS[0]).nats < before.nats
    assert trace.losses[-1] < trace.losses[0]
    check()


def test_a_model_that_cannot_be_checkpointed_says_so(untouched, monkeypatch):
    one = controller("llama")
    monkeypatch.setattr(type(one.model), "supports_gradient_checkpointing", False)
    check = untouched(one.model)
    with pytest.raises(InvalidInput, match="checkpointing"), one.tuning(checkpointing=True) as tuner:
        tuner.learn(TEXTS)
    check()


def test_the_caller_may_be_in_inference_mode():
    one = controller("llama")
    plain = losses(one)
    with torch.inference_mode():
        assert losses(one) == plain
    with torch.no_grad():
        assert losses(one) == plain
