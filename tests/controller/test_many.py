"""Many prompts at once give what each gives alone, whatever the others are, and leave no trace."""

from __future__ import annotations

import copy
import math
from functools import partial

import pytest

pytest.importorskip("peft")

import peft
import torch

from controller import tiny
from controller.many_texts import PROMPTS, SETS, TEXTS, controller, facts, one_at_a_time
from siftlm.controller import Controller
from siftlm.errors import Conflict, InvalidInput, SiftlmError

# The bar is 4 decimals of bits per byte; what is different here is only the order of summation.
CLOSE = {"rel": 1e-5, "abs": 1e-5}


def looks(many, watch, owners) -> list[float]:
    """What is watched for these prompts: the loss of a text, what a function says, or nothing."""
    seen = []
    for owner in owners:
        one = watch[owner]
        if isinstance(one, str):
            [likelihood] = many.likelihoods([(one, "")], owners=[owner])
            seen.append(likelihood.nats_per_token)
        else:
            seen.append(math.inf if one is None else one())
    return seen


def compare(control: Controller, sets=SETS, *, watch=None, **settings) -> list:
    """Learn together and alone, score together and alone; the traces of together."""
    pairs = [(prompt, "") for prompt in PROMPTS[: len(sets)]]
    with control.tuning_many(len(sets), **settings) as many:
        traces = many.learn(sets, watch=None if watch is None else partial(looks, many, watch))
        together = many.likelihoods(pairs)
    alone = one_at_a_time(control, sets, lambda place: control.likelihood(PROMPTS[place]), watch=watch, **settings)
    base = [control.likelihood(prompt).bits_per_byte for prompt, _ in pairs]
    for trace, score, (expected, scored), before in zip(traces, together, alone, base, strict=True):
        assert facts(trace) == facts(expected)
        assert trace.losses == pytest.approx(expected.losses, nan_ok=True, **CLOSE)
        assert [s.norm for s in trace.steps] == pytest.approx([s.norm for s in expected.steps], nan_ok=True, rel=1e-3)
        assert score.bits_per_byte == pytest.approx(scored.bits_per_byte, **CLOSE)
        assert trace.kept == 0 or abs(score.bits_per_byte - before) > 1e-4, "nothing was learned, so nothing is shown"
    return traces


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_together_as_alone(name):
    compare(controller(name))


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(tiny.ARCHITECTURES))
def test_together_as_alone_in_every_architecture(name):
    compare(controller(name), clip=1.0, decay=0.1)


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [
        {"clip": 0.5},
        {"decay": 0.5, "betas": (0.8, 0.9), "epsilon": 1e-4},
        {"order": "reversed", "passes": 2},
        {"windows": 3, "window": 20},
        {"completion": "the "},
        {"tokens": 60},
        {"repeats": "grouped", "reuse": 2, "clip": 0.5},
        {"repeats": "grouped", "reuse": 3, "tokens": 100},
        {"repeats": "scaled"},
        {"checkpointing": True},
        {"seconds": 1e-9},
    ],
    ids=str,
)
def test_every_setting(settings):
    twice = [texts + texts[:2] + texts[:1] for texts in SETS]
    compare(controller(), twice, **settings)


@pytest.mark.slow
def test_a_watch_ends_and_takes_the_best_state():
    control = controller(rate=5e-2)
    watch = [PROMPTS[0], None, PROMPTS[2], lambda: 1.0]
    traces = compare(control, [texts * 3 for texts in SETS], watch=watch, watch_every=2, patience=3)
    assert traces[1].ended == "done"
    assert traces[3].ended == "worse"
    assert traces[3].kept == 0
    assert len({trace.kept for trace in traces}) > 2, "too alike to show that each is watched for itself"


def test_who_leaves_does_not_disturb_the_others():
    control = controller()
    with control.tuning_many(1) as many:
        (alone,) = many.learn([TEXTS])
        score = many.likelihoods([(PROMPTS[0], "")])[0]
    with control.tuning_many(4) as many:
        traces = many.learn([[TEXTS[3]], TEXTS, [], ["", TEXTS[0]]])
        together = many.likelihoods([(PROMPTS[0], "")] * 4)
    assert [trace.ended for trace in traces] == ["done", "done", "nothing", "done"]
    assert [len(trace.steps) for trace in traces] == [1, len(TEXTS), 0, 1]
    assert traces[1].losses == pytest.approx(alone.losses, **CLOSE)
    assert together[1].nats == pytest.approx(score.nats, **CLOSE)
    assert together[2].nats == pytest.approx(control.likelihood(PROMPTS[0]).nats, **CLOSE)


def test_who_diverges_is_the_base_model_and_the_others_go_on():
    control = controller()
    sets = [TEXTS[:2], [TEXTS[0], TEXTS[3], TEXTS[1]], TEXTS[4:]]
    highest = [max(trace.losses) for trace, _ in one_at_a_time(control, sets)]
    # Between the highest of all losses, which is another text's for each prompt, and those of the other two prompts.
    worst, second = sorted(highest)[:-3:-1]
    limit = (worst + second) / 2
    traces = compare(control, sets, explode=limit / math.log(tiny.VOCABULARY))
    assert sorted(trace.ended for trace in traces) == ["diverged", "done", "done"]
    assert traces[highest.index(worst)].kept == 0


@pytest.mark.slow
def test_a_rate_beyond_numbers_ends_as_alone():
    traces = compare(controller(rate=1e30))
    assert {trace.ended for trace in traces} == {"diverged"}


@pytest.mark.slow
def test_permuting_the_prompts_permutes_what_comes_out():
    control = controller("gpt2")
    order = [2, 0, 3, 1]
    with control.tuning_many(4) as many:
        straight = many.learn(SETS), many.likelihoods([(prompt, "") for prompt in PROMPTS])
    with control.tuning_many(4) as many:
        permuted = (
            many.learn([SETS[place] for place in order]),
            many.likelihoods([(PROMPTS[place], "") for place in order]),
        )
    for at, place in enumerate(order):
        assert permuted[0][at].losses == pytest.approx(straight[0][place].losses, **CLOSE)
        assert permuted[1][at].nats == pytest.approx(straight[1][place].nats, **CLOSE)


@pytest.mark.slow
def test_learning_twice_goes_on_where_it_was():
    control = controller()
    with control.tuning_many(2) as many:
        first, second = many.learn([TEXTS[:2], TEXTS[:1]]), many.learn([TEXTS[2:4], TEXTS[1:4]])
    for place, cut in enumerate((2, 1)):
        with control.tuning() as tuner:
            losses = tuner.learn(TEXTS[:cut]).losses + tuner.learn(TEXTS[cut:4]).losses
        assert first[place].losses + second[place].losses == pytest.approx(losses, **CLOSE)


def test_after_hears_of_every_step_and_may_score():
    control = controller()
    heard: dict[int, list] = {0: [], 1: []}

    def after(steps):
        for owner, step in steps.items():
            heard[owner].append((step, many.likelihoods([(PROMPTS[0], "")], owners=[owner])[0].nats))

    with control.tuning_many(2) as many:
        traces = many.learn([TEXTS[:3], TEXTS[3:5]], after=after)
    assert [tuple(step for step, _ in heard[owner]) for owner in (0, 1)] == [trace.steps for trace in traces]
    with control.tuning() as tuner:
        nats = []
        tuner.learn(TEXTS[:3], after=lambda step: nats.append(control.likelihood(PROMPTS[0]).nats))
    assert [nats for _, nats in heard[0]] == pytest.approx(nats, **CLOSE)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(tiny.ARCHITECTURES))
@pytest.mark.parametrize(
    "sampling",
    [{}, {"temperature": 1.0, "seed": 4}, {"temperature": 0.7, "top_p": 0.8}, {"stop": ["e", "\n"], "temperature": 1}],
    ids=str,
)
def test_what_is_generated_is_what_each_makes_alone(name, sampling):
    control = controller(name, rate=2e-2)
    contexts = [[], [TEXTS[3]], [], [TEXTS[0], TEXTS[1]]]
    with control.tuning_many(4) as many:
        many.learn(SETS)
        together = many.generate(PROMPTS, max_new_tokens=16, texts=contexts, **sampling)
    alone = one_at_a_time(
        control,
        SETS,
        lambda place: control.generate(PROMPTS[place], max_new_tokens=16, texts=contexts[place], **sampling),
    )
    assert together == [made for _, made in alone]
    assert len({made.text for made in together}) > 1


def test_generating_with_few_rows():
    control = controller("gpt2")
    with control.tuning_many(2) as many:
        many.learn([TEXTS[:2], TEXTS[2:4]])
        made = many.generate([PROMPTS[1], PROMPTS[0], PROMPTS[0]], owners=[1, 0, 1], max_new_tokens=6)
    (_, first), (_, second) = one_at_a_time(
        control,
        [TEXTS[:2], TEXTS[2:4]],
        lambda place: [control.generate(prompt, max_new_tokens=6) for prompt in PROMPTS[:2]],
    )
    assert made == [second[1], first[0], second[0]]


@pytest.mark.slow
def test_long_texts_with_contexts_and_several_owners():
    control = controller()
    long = " ".join(TEXTS)
    pairs = [(long, ""), (long, PROMPTS[0]), ("", ""), (PROMPTS[1], long)]
    texts = [[], [TEXTS[0]], [], [TEXTS[1], TEXTS[2]]]
    with control.tuning_many(2) as many:
        many.learn([TEXTS[:2], TEXTS[2:4]])
        found = many.likelihoods(pairs, owners=[1, 0, 1, 1], texts=texts)
    alone = one_at_a_time(
        control,
        [TEXTS[:2], TEXTS[2:4]],
        lambda _: [
            control.likelihood(text, after=after, texts=own) for (text, after), own in zip(pairs, texts, strict=True)
        ],
    )
    for row, owner in enumerate([1, 0, 1, 1]):
        expected = alone[owner][1][row]
        assert (found[row].tokens, found[row].bytes) == (expected.tokens, expected.bytes)
        assert found[row].nats == pytest.approx(expected.nats, **CLOSE)


@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing:FutureWarning")  # PEFT reads an older name
def test_a_saved_adapter_is_that_of_the_single_engine(tmp_path):
    control = controller("gpt2")
    sets = [TEXTS[:2], TEXTS[2:4]]
    with control.tuning_many(2) as many:
        many.learn(sets)
        many.save_adapter(1, tmp_path / "many")
        scores = many.likelihoods([(PROMPTS[0], "")] * 2)
        many.learn([TEXTS[2:], TEXTS[2:]])  # saving has not broken anything off
    with control.tuning() as tuner:
        tuner.learn(sets[1])
        control.save_adapter(tmp_path / "one")
    assert (tmp_path / "many/adapter_config.json").read_text() == (tmp_path / "one/adapter_config.json").read_text()
    plain = peft.PeftModel.from_pretrained(copy.deepcopy(control.model), tmp_path / "many")
    read = Controller(plain.merge_and_unload(), tiny.tokenizer(), device="cpu")
    assert read.likelihood(PROMPTS[0]).nats == pytest.approx(scores[1].nats, **CLOSE)
    assert scores[0].nats != pytest.approx(scores[1].nats, **CLOSE)


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("fault", [None, ValueError, KeyboardInterrupt])
def test_nothing_is_left_behind(untouched, fault, checkpointing):
    control = controller("gpt2", checkpointing=checkpointing)
    control.model.train()
    _ = control.engine
    check = untouched(control.model)

    def after(steps):
        raise fault

    def work():
        with control.tuning_many(2) as many:
            many.learn([TEXTS[:2], TEXTS[2:4]], after=after if fault else None)

    if fault is None:
        work()
    else:
        with pytest.raises(fault):
            work()
    check()
    with control.tuning():  # and it is free again
        pass


def test_the_controller_itself_stays_the_base_model():
    control = controller()
    before = control.likelihood(PROMPTS[0]).nats
    with control.tuning_many(1) as many:
        many.learn([TEXTS])
        assert control.likelihood(PROMPTS[0]).nats == before
        assert many.likelihoods([(PROMPTS[0], "")])[0].nats != before
        with pytest.raises(Conflict, match="tuned already"), control.tuning():
            pass
        with pytest.raises(SiftlmError, match="save_adapter"):
            control.save_adapter("nowhere")


def test_what_cannot_be_done_is_said():
    control = controller()
    for settings, said in (({"dropout": 0.1}, "dropout=0.1"), ({"compile": True}, "compile=True")):
        with pytest.raises(Conflict, match=said), control.tuning_many(2, **settings):
            pass
    with pytest.raises(InvalidInput, match="count"), control.tuning_many(0):
        pass
    with control.tuning_many(2) as many:
        with pytest.raises(InvalidInput, match="list of lists"):
            many.learn(["a", "b"])
        with pytest.raises(InvalidInput, match="texts must have an entry for each of 2 prompts, got 1"):
            many.learn([["a"]])
        with pytest.raises(InvalidInput, match="watch must be a function of prompts"):
            many.learn([["a"], ["b"]], watch=["a", None])
        with pytest.raises(InvalidInput, match="watch must return a number for each of 2 prompts, got 1"):
            many.learn([["a"], ["b"]], watch=lambda _: [1.0])
        with pytest.raises(InvalidInput, match="owners= says"):
            many.likelihoods([("a", "")])
        with pytest.raises(InvalidInput, match="each of owners must be a whole number from 0 to 1, got 2"):
            many.generate(["a"], owners=[2])


def test_the_random_state_is_not_touched_for_other_threads_may_draw():
    control = controller()
    _ = control.engine
    torch.manual_seed(7)
    before = torch.get_rng_state()
    with control.tuning_many(len(SETS)) as many:
        many.learn(SETS)
        many.generate(PROMPTS[: len(SETS)], temperature=0.9, max_new_tokens=3)
        assert torch.equal(torch.get_rng_state(), before)
        torch.rand(1)
        drawn = torch.get_rng_state()
    assert torch.equal(torch.get_rng_state(), drawn), "what another thread drew meanwhile was taken back"


@pytest.mark.gpu
@pytest.mark.slow
def test_together_as_alone_on_a_gpu():
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    compare(controller("llama", device="cuda"), clip=1.0, checkpointing=True)
