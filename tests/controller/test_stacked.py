"""What may be stacked, and which rows go through the model together."""

from __future__ import annotations

import itertools

import pytest

pytest.importorskip("peft")

import peft
import torch

from controller import tiny
from controller.many_texts import PROMPTS, SETS, TEXTS, controller
from siftlm.controller.forward import BatchBudget, batch_budget, batches
from siftlm.errors import Conflict

LENGTHS = [[], [5], [7, 7, 7], [200, 10, 11, 190], [3, 90, 4, 88, 1, 60], [31, 32, 30, 1, 2, 64, 64]]


def cost(cut, lengths, room) -> float:
    return sum(room.overhead + len(batch) * max(lengths[place] for place in batch) for batch in cut)


def every_cut(lengths, room):
    """All ways to cut the rows, sorted by length, into batches that there is room for."""
    order = sorted(range(len(lengths)), key=lambda at: -lengths[at])
    for cuts in itertools.product([False, True], repeat=max(0, len(order) - 1)):
        ends = [at + 1 for at, cut in enumerate(cuts) if cut] + [len(order)]
        cut = [order[begin:end] for begin, end in zip([0, *ends], ends, strict=False)]
        if all(len(b) <= room.rows and (len(b) == 1 or len(b) * lengths[b[0]] <= room.tokens) for b in cut):
            yield cut


@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
@pytest.mark.parametrize(
    "room", [BatchBudget(1000, 8, 48), BatchBudget(100, 8, 0), BatchBudget(120, 2, 10), BatchBudget(10, 8, 5)], ids=str
)
def test_batches_are_the_cheapest_that_fit(lengths, room):
    found = batches(lengths, room)
    assert sorted(place for batch in found for place in batch) == list(range(len(lengths)))
    if lengths:
        cuts = list(every_cut(lengths, room))
        assert sorted(map(sorted, found)) in [sorted(map(sorted, cut)) for cut in cuts] or len(set(lengths)) < len(
            lengths
        )
        assert cost(found, lengths, room) == min(cost(cut, lengths, room) for cut in cuts)


def test_there_is_room_for_one_row_at_least():
    assert batch_budget(torch.device("cpu"), 10**12, 10**12) == BatchBudget(
        1, 1, batch_budget(torch.device("cpu"), 2, 2).overhead
    )
    assert batch_budget(torch.device("cpu"), 50_000, 10**6).tokens > 1000


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", ["gpt2", "opt"])
def test_one_prompt_is_the_engine_of_one(name, precision):
    """In half precision, too: it is rounded in the same places."""
    control = controller(name, precision=precision)
    with control.tuning_many(1) as many:
        (together,) = many.learn([TEXTS])
    with control.tuning() as tuner:
        alone = tuner.learn(TEXTS)
    assert together.losses == pytest.approx(alone.losses, abs=1e-5)
    assert together.losses[0] != together.losses[-1]


@pytest.mark.slow
@pytest.mark.parametrize("tokens", [1, 70, 200])
def test_small_room_changes_nothing(monkeypatch, tokens):
    control = controller()

    def learned():
        with control.tuning_many(4) as many:
            traces = many.learn(SETS)
            scores = many.likelihoods([(prompt, "") for prompt in PROMPTS])
            made = many.generate(PROMPTS, max_new_tokens=5)
        return [loss for trace in traces for loss in trace.losses] + [score.nats for score in scores], made

    numbers, made = learned()
    monkeypatch.setattr("siftlm.controller.batch_tuner.batch_budget", lambda *_: BatchBudget(tokens, 3, 0))
    assert learned()[0] == pytest.approx(numbers, rel=1e-5)
    assert learned()[1] == made


@pytest.mark.parametrize(
    ("name", "config", "said"),
    [
        ("llama", {"target_modules": ["q_proj"], "use_dora": True}, "variant of LoRA"),
        ("gpt2", {"target_modules": ["c_attn"], "lora_bias": True, "fan_in_fan_out": True}, "more than A and B"),
        ("mistral", {"target_modules": ["q_proj", "embed_tokens"]}, "no LoRA on a linear layer"),
    ],
)
def test_what_is_more_than_lora_is_refused(name, config, said):
    control = controller(name, engine=peft.LoraConfig(r=2, task_type="CAUSAL_LM", **config), rank=None)
    with pytest.raises(Conflict, match=said), control.tuning_many(2):
        pass
    with control.tuning() as tuner:  # while one at a time it goes
        assert tuner.learn(TEXTS[:1]).ended == "done"


def test_other_engines_are_refused(untouched):
    for engine in ("full", peft.IA3Config(target_modules=["q_proj"], feedforward_modules=[])):
        control = controller(engine=engine, rank=None)
        check = untouched(control.model)
        with pytest.raises(Conflict, match="has not got"), control.tuning_many(2):
            pass
        check()


@pytest.mark.slow
def test_ranks_and_scales_of_their_own():
    """Layers with another rank and α, chosen by name, and the scale of rsLoRA."""
    config = peft.LoraConfig(
        r=4,
        lora_alpha=8,
        target_modules=["q_proj", "down_proj"],
        rank_pattern={"q_proj": 2},
        use_rslora=True,
        alpha_pattern={"down_proj": 3},
        task_type="CAUSAL_LM",
    )
    control = controller(engine=config, rank=None)
    with control.tuning_many(2) as many:
        together = many.learn([TEXTS, TEXTS[::-1]])
    for trace, texts in zip(together, (TEXTS, TEXTS[::-1]), strict=True):
        with control.tuning() as tuner:
            assert trace.losses == pytest.approx(tuner.learn(texts).losses, abs=1e-5)


def test_mixed_tokens_are_refused():
    """A layer that reads an array in which the rows cannot be told apart, as the experts of a mixture do."""
    control = controller()
    layer = control.model.model.layers[0].mlp
    forward = layer.forward
    layer.forward = lambda x: forward(x.flatten(0, 1)[:-1])
    with pytest.raises(Conflict, match="reads tokens of several prompts mixed"), control.tuning_many(2) as many:
        many.learn([[TEXTS[0]], [TEXTS[1]]])
    del layer.forward
    assert control.likelihood(TEXTS[0]).nats > 0


@pytest.mark.slow
def test_half_precision_learns_about_the_same():
    control = controller(precision="bfloat16")
    with control.tuning_many(4) as many:
        traces = many.learn(SETS)
    for trace, texts in zip(traces, SETS, strict=True):
        with control.tuning() as tuner:
            assert trace.losses == pytest.approx(tuner.learn(texts).losses, rel=0.02)


@pytest.mark.slow
def test_weights_in_half_precision():
    """The base is bfloat16, the adapters are float32, as in the engine of one."""
    control = controller()
    model = tiny.model("llama").to(torch.bfloat16)
    control = type(control)(model, tiny.tokenizer(), engine="lora", rank=4, rate=5e-3, precision="float32")
    with control.tuning_many(2) as many:
        traces = many.learn(SETS[:2])
    for trace, texts in zip(traces, SETS, strict=False):
        with control.tuning() as tuner:
            assert trace.losses == pytest.approx(tuner.learn(texts).losses, rel=0.02)
