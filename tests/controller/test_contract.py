"""What every engine does on every architecture: it learns, it answers, and nothing is left of it."""

from __future__ import annotations

import itertools

import pytest

torch = pytest.importorskip("torch")
peft = pytest.importorskip("peft")

from controller import tiny  # noqa: E402
from siftlm.controller import Controller  # noqa: E402

A = ["the quick brown fox jumps over the lazy dog", "rain fell on the harbour", "the quick brown fox jumps again"]
B = ["def add(a, b): return a + b", "def multiply(a, b): return a * b"]
TEXT = "the quick brown fox jumps over the harbour"


def full(model):
    return "full", 1e-2


def lora(model):
    return "lora", 1e-2


def another(model):
    """IA3 or LoHa, by turns: both are PEFT's, and neither is anything like LoRA."""
    layers = [n for n, m in model.named_modules() if type(m).__name__ in ("Linear", "Conv1D") and "head" not in n]
    turned = type(model).__name__.startswith("GPT2")
    if turned or len(type(model).__name__) % 2:
        return peft.IA3Config(target_modules=layers, feedforward_modules=[], fan_in_fan_out=turned), 0.1
    return peft.LoHaConfig(r=4, alpha=8, target_modules=layers), 2e-2


CASES = [
    pytest.param(name, engine, marks=() if name == "llama" and engine is not another else pytest.mark.slow)
    for name, engine in itertools.product(tiny.ARCHITECTURES, (full, lora, another))
]


def controller(name, engine, **settings):
    model = tiny.model(name)
    kind, rate = engine(model)
    return Controller(model, tiny.tokenizer(), engine=kind, **{"rate": rate, "precision": "float32", **settings})


@pytest.mark.parametrize(("name", "engine"), CASES)
def test_it_learns_answers_and_forgets(name, engine, untouched):
    one = controller(name, engine)
    check = untouched(one.model)
    before, said = one.likelihood(TEXT), one.generate("the quick", max_new_tokens=4)
    with one.tuning() as tuner:
        trace = tuner.learn(A * 2)
        assert one.likelihood(TEXT).nats < before.nats - 1
        assert one.generate("the quick", max_new_tokens=4).tokens >= 1
    assert (trace.ended, trace.kept, len(trace.steps)) == ("done", 6, 6)
    assert all(second < first for first, second in zip(trace.losses[:3], trace.losses[3:], strict=True))
    check()
    assert one.likelihood(TEXT) == before
    assert one.generate("the quick", max_new_tokens=4) == said

    # The second prompt knows nothing of the first.
    alone = controller(name, engine)
    with one.tuning() as tuner:
        second, score = tuner.learn(B), one.likelihood(TEXT)
    with alone.tuning() as tuner:
        only, score_alone = tuner.learn(B), alone.likelihood(TEXT)
    assert [(step.loss, step.norm) for step in second.steps] == [(step.loss, step.norm) for step in only.steps]
    assert score == score_alone
    check()


@pytest.mark.parametrize("engine", [full, lora])
def test_what_the_caller_had_set_is_back_afterwards(engine, untouched):
    """Frozen weights, gradients, train mode, dropout rates, random state."""
    one = controller("gpt2", engine)
    model = one.model
    model.train()
    model.transformer.h[0].eval()
    model.transformer.wte.weight.requires_grad_(False)
    model.transformer.ln_f.weight.grad = torch.ones_like(model.transformer.ln_f.weight)
    check = untouched(model)
    with one.tuning(dropout=0.3) as tuner:
        tuner.learn(A)
        one.likelihood(TEXT)
        one.generate("a", max_new_tokens=2, temperature=1.0)
    check()
    one.likelihood(TEXT)
    one.generate("a", max_new_tokens=2, temperature=1.0)
    check()


def test_tuned_is_a_plain_model_that_answers_without_dropout():
    one = controller("gpt2", full, dropout=0.5)
    ids = torch.tensor([tiny.tokenizer()("some text")["input_ids"]])
    with one.tuning() as tuner:
        tuner.learn(A)
        assert not any(module.training for module in one.model.modules())
        with torch.no_grad():
            assert torch.equal(one.model(ids).logits, one.model(ids).logits)


@pytest.mark.parametrize("engine", [full, lora])
def test_buffers_that_the_model_changes_by_itself_are_put_back(engine, untouched):
    """Rotary frequencies that depend on the length of what is read."""
    rope = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0, "original_max_position_embeddings": 16}
    model = tiny.model("llama", rope_parameters=rope)
    one = Controller(model, tiny.tokenizer(), engine=engine(model)[0], rate=1e-2, precision="float32")
    check = untouched(model)
    with one.tuning() as tuner:
        tuner.learn(["a much longer text than sixteen bytes of it, so that frequencies change", "short"])
    check()
