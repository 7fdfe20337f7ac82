"""Whatever goes wrong while a model is tuned: it is the base model afterwards, and the next prompt learns as ever."""

from __future__ import annotations

import math

import pytest

torch = pytest.importorskip("torch")
peft = pytest.importorskip("peft")

from controller import tiny  # noqa: E402
from siftlm.controller import Controller  # noqa: E402
from siftlm.errors import Conflict, InvalidInput, SiftlmError  # noqa: E402

TEXTS = ["the quick brown fox jumps over the lazy dog", "rain fell on the harbour", "a third text"]
OTHER = "something else to look at"


class Fault(Exception):
    """Nothing in the library raises or catches it."""


@pytest.fixture(params=["full", "lora"])
def one(request):
    return Controller(tiny.model("gpt2"), tiny.tokenizer(), engine=request.param, rate=1e-2, precision="float32")


@pytest.fixture
def forgotten(one, untouched):
    """Call it at the end: nothing is left, and the next prompt learns what it would have learned on a fresh model."""
    check, before = untouched(one.model), one.likelihood(OTHER)
    fresh = Controller(
        tiny.model("gpt2"), tiny.tokenizer(), engine=one._engine_choice[0], rate=1e-2, precision="float32"
    )

    def checked():
        check()
        assert one.likelihood(OTHER) == before
        with one.tuning() as tuner, fresh.tuning() as expected:
            assert tuner.learn(TEXTS).losses == expected.learn(TEXTS).losses
            assert one.likelihood(OTHER) == fresh.likelihood(OTHER)
        check()

    return checked


def test_an_exception_in_the_block(one, forgotten):
    with pytest.raises(Fault), one.tuning() as tuner:
        raise Fault(tuner.learn(TEXTS))
    forgotten()


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.slow
def test_an_exception_in_the_middle_of_backward(one, forgotten, checkpointing):
    def fail(gradient):
        raise Fault

    def prepare():
        weight = next(p for name, p in one.model.named_parameters() if "h.0" in name and p.requires_grad)
        handles.append(weight.register_hook(fail))

    handles = []
    with pytest.raises(Fault):
        learn(one, prepare, dropout=0.1, checkpointing=checkpointing)
    handles[0].remove()
    forgotten()


def learn(one, prepare, **settings):
    """One step, then ``prepare``, then more steps."""
    with one.tuning(**settings) as tuner:
        tuner.learn(TEXTS[:1])
        prepare()
        tuner.learn(TEXTS)


@pytest.mark.parametrize("where", ["watch", "after"])
@pytest.mark.slow
def test_an_exception_in_what_the_caller_gave(one, forgotten, where):
    calls = []

    def fail(*step):
        calls.append(step)
        if len(calls) > 1:
            raise Fault
        return 1.0

    with pytest.raises(Fault), one.tuning(watch_every=1) as tuner:
        tuner.learn(TEXTS, **{where: fail})
    forgotten()


# Where memory runs out: what is called there, and at which call.
PLACES = {
    "forward": ("torch.nn.functional.cross_entropy", 2),
    "backward": ("torch.Tensor.backward", 2),
    "norm": ("torch.nn.utils.get_total_norm", 2),
    "the last look": ("torch._foreach_norm", 1),
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.slow
def test_out_of_memory(one, forgotten, monkeypatch, place):
    with pytest.raises(torch.OutOfMemoryError), monkeypatch.context() as patch:
        learn(one, lambda: fail_at(patch, *PLACES[place]))
    forgotten()


@pytest.mark.parametrize("at", [1, 2, 3, 8])
@pytest.mark.slow
def test_out_of_memory_while_the_moments_are_made(one, forgotten, monkeypatch, at):
    with pytest.raises(torch.OutOfMemoryError), monkeypatch.context() as patch, one.tuning() as tuner:
        tuner.learn(TEXTS, after=None, watch=lambda: fail_at(patch, "torch.zeros_like", at) or 1.0)
    forgotten()


@pytest.mark.parametrize("at", [1, 2, 5, 12])
@pytest.mark.slow
def test_out_of_memory_while_the_copies_are_made(one, forgotten, monkeypatch, at):
    """Before the first step of the first prompt: of the weights, or of the adapter while it is put in."""
    fail_at(monkeypatch, "torch.Tensor.clone", at)
    with pytest.raises(torch.OutOfMemoryError):
        learn(one, lambda: None)
    monkeypatch.undo()
    forgotten()


def fail_at(patch, path, number):
    """Let a call of torch run out of memory, the ``number``-th one from now."""
    owner = torch
    *parents, name = path.split(".")[1:]
    for parent in parents:
        owner = getattr(owner, parent)
    real, calls = getattr(owner, name), []

    def call(*args, **kwargs):
        calls.append(1)
        if len(calls) == number:
            raise torch.OutOfMemoryError("CUDA out of memory (a test)")
        return real(*args, **kwargs)

    patch.setattr(owner, name, call)


# --- losses that are no numbers, or numbers of a model that has gone wild


def test_a_loss_that_is_no_number(one, forgotten):
    def poison(module, given, output):
        return (output[0] * math.nan, *output[1:]) if isinstance(output, tuple) else output * math.nan

    with one.tuning() as tuner:
        assert tuner.learn(TEXTS[:1]).ended == "done"
        handle = one.model.transformer.h[1].register_forward_hook(poison)
        trace = tuner.learn(TEXTS)
        handle.remove()
        assert (trace.ended, trace.kept, len(trace.steps)) == ("diverged", 0, 1)
        assert math.isnan(trace.losses[0])
        assert trace.to_dict()["steps"][0]["loss"] is None
        base = one.likelihood(OTHER)
    assert one.likelihood(OTHER) == base
    forgotten()


@pytest.mark.slow
def test_a_gradient_that_is_no_number_with_a_loss_that_is(one, forgotten):
    with one.tuning() as tuner:
        weight = next(p for p in one.model.parameters() if p.requires_grad)
        handle = weight.register_hook(lambda gradient: gradient * math.nan)
        trace = tuner.learn(TEXTS)
        handle.remove()
        assert (trace.ended, trace.kept) == ("diverged", 0)
        assert math.isfinite(trace.losses[0])
        tuned = one.likelihood(OTHER)
    assert one.likelihood(OTHER) == tuned
    forgotten()


@pytest.mark.slow
def test_a_base_model_with_a_poisoned_weight():
    model = tiny.model("llama")
    with torch.no_grad():
        model.model.layers[0].mlp.up_proj.weight[0, 0] = math.nan
    one = Controller(model, tiny.tokenizer(), engine="full", precision="float32")
    with one.tuning() as tuner:
        assert tuner.learn(TEXTS).ended == "diverged"
    assert math.isnan(float(model.model.layers[0].mlp.up_proj.weight.detach()[0, 0]))


def explosive(engine):
    """Its logits have no bounds, as those of a frozen head behind a norm would have."""
    targets = {"targets": ["lm_head"]} if engine == "lora" else {}
    return Controller(tiny.model("qwen3"), tiny.tokenizer(), engine=engine, precision="float32", **targets)


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("rate", [1e3, 1e30])
@pytest.mark.parametrize("engine", ["full", "lora"])
@pytest.mark.slow
def test_an_exploding_loss(engine, rate, count, untouched):
    """Also when the step that led there was the last."""
    one = explosive(engine)
    check, before = untouched(one.model), one.likelihood(OTHER)
    with one.tuning(rate=rate) as tuner:
        trace = tuner.learn(TEXTS[:count])
        assert (trace.ended, trace.kept) == ("diverged", 0)
        assert one.likelihood(OTHER) == before
    check()


@pytest.mark.parametrize("engine", ["full", "lora"])
@pytest.mark.slow
def test_an_exploding_loss_while_somebody_watches(engine, untouched):
    one = explosive(engine)
    check, before = untouched(one.model), one.likelihood(OTHER)
    with one.tuning(rate=1e3, watch_every=5) as tuner:
        trace = tuner.learn(TEXTS[:1], watch=lambda: one.likelihood(OTHER).nats_per_token)
        assert (trace.ended, trace.kept) == ("worse", 0)
        assert one.likelihood(OTHER) == before
    check()


# --- blocks in blocks


def test_a_block_in_a_block_is_refused_and_harms_neither(one, forgotten):
    with one.tuning() as tuner:
        first = tuner.learn(TEXTS)
        inside = one.likelihood(OTHER)
        with pytest.raises(Conflict, match="tuned already"), one.tuning():
            pass
        assert one.likelihood(OTHER) == inside
    assert first.ended == "done"
    forgotten()


@pytest.mark.slow
def test_two_models_may_be_tuned_at_once_and_left_in_any_order(one, forgotten):
    other = Controller(tiny.model("llama"), tiny.tokenizer(), engine="full", rate=1e-2, precision="float32")
    with one.tuning() as tuner:
        tuner.learn(TEXTS)
        with other.tuning() as second:
            second.learn(TEXTS)
            tuner.learn(TEXTS)
    forgotten()


def test_an_adapter_is_saved_inside_the_block_only(one, tmp_path):
    with pytest.raises(SiftlmError, match=r"inside the block|no adapter"):
        one.save_adapter(tmp_path)


# --- adapters that cannot be put in


def config_of(kind):
    return {
        "no such layer": peft.LoraConfig(target_modules=["nowhere"]),
        "a layer without weights": peft.LoraConfig(target_modules=["c_attn", "attn"]),
        "begins by changing the base": peft.LoraConfig(
            r=2, target_modules=["c_attn"], init_lora_weights="pissa", fan_in_fan_out=True
        ),
        "trains the base as well": peft.LoraConfig(target_modules=["c_attn"], bias="all", fan_in_fan_out=True),
        "a prompt": peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2),
    }[kind]


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("no such layer", "nowhere"),
        ("a layer without weights", "GPT2Attention"),
        ("begins by changing the base", "pissa"),
        ("trains the base as well", "bias='all'"),
        ("a prompt", "prompt"),
    ],
)
def test_an_adapter_that_does_not_fit_is_refused_and_leaves_nothing(kind, message, untouched):
    one = Controller(tiny.model("gpt2"), tiny.tokenizer(), engine=config_of(kind), rate=1e-3, precision="float32")
    check = untouched(one.model)
    for _ in range(2):
        with pytest.raises(InvalidInput, match=message), one.tuning():
            pass
        check()
