"""The baselines, each against a plain loop; none of them sees what it must not see."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest

from evaluation.cases import known
from siftlm.errors import Conflict, InvalidInput
from siftlm.evaluation import Measured, Protocol, Text, evaluate, records_of
from siftlm.evaluation.baselines import at_chosen_weight, held_out_weights, token_frequencies
from siftlm.local import LocalModel
from siftlm.memory import Memory

HEAD = "The keeper wrote down how much oil the lamp had burned. "
TAIL = "At dawn the lamp was put out, and the keeper slept; oil was brought by boat. " * 3
TEXT = Text("t0", HEAD * 3 + TAIL, "a")
PREFIX = Protocol("prefix", n=4, prefix=200)


def record(text, nats, weights=(0.0, 0.1)):
    return {
        "text": text,
        "method": "interpolation",
        "base": 2.0,
        "bytes": 10,
        "curve": [[0, 2.0], [5, 1.9]],
        "extra": {"weights": list(weights), "nats": nats},
    }


# --- the weight of interpolation


def test_the_weight_of_a_text_is_never_chosen_on_it():
    generator = np.random.default_rng(0)
    records = [record(str(n), generator.uniform(1, 2, 2).tolist()) for n in range(9)]
    chosen = held_out_weights(records)
    for place, one in enumerate(records):
        others = [other["extra"]["nats"] for other in records if other is not one]
        totals = [sum(nats[weight] for nats in others) for weight in range(2)]
        assert chosen[one["text"]] == (0.0, 0.1)[totals.index(min(totals))]
        # Whatever the text itself says changes nothing for it.
        changed = [*records[:place], record(one["text"], [1e6, -1e6]), *records[place + 1 :]]
        assert held_out_weights(changed)[one["text"]] == chosen[one["text"]]


def test_records_at_the_chosen_weight():
    rows = [record("a", [9.0, 1.0]), record("b", [3.0, 2.0]), record("c", [2.0, 4.0])]
    found = at_chosen_weight(rows)
    assert [one["extra"]["chosen"] for one in found] == [0.0, 0.1, 0.1]
    assert [one["curve"][-1] for one in found] == [[5, nats / math.log(2) / 10] for nats in (9.0, 2.0, 4.0)]
    assert rows[0]["curve"] == [[0, 2.0], [5, 1.9]], "what is given stays as it is"
    assert held_out_weights(rows[:1]) == {"a": 0.1}
    assert held_out_weights([]) == {}
    with pytest.raises(InvalidInput, match="different weights"):
        held_out_weights([rows[0], record("b", [1.0], (0.5,))])


def test_frequencies_of_all_tokens_sum_to_one():
    shares = token_frequencies([[3, 3, 1], [0]], np.arange(7), 7)
    assert shares.sum() == pytest.approx(1)
    assert shares[3] > shares[1] == shares[0] > shares[2] > 0
    assert token_frequencies([], np.arange(7), 7).tolist() == pytest.approx([1 / 7] * 7)


# --- with a model


@pytest.fixture(scope="module")
def controller():
    pytest.importorskip("transformers")
    from siftlm.controller import Controller

    return Controller("siftlm-tiny", context=64)


@pytest.fixture(scope="module")
def memory(tmp_path_factory):
    with Memory.create(tmp_path_factory.mktemp("ways") / "memory") as made:
        made.add([f"The lamp of station {n} burned {n} pints of oil before dawn, wrote the keeper." for n in range(12)])
        made.add(["At dawn the keeper slept. " * 40])  # longer than the context
        yield made


@pytest.fixture
def local(controller, memory):
    return LocalModel(controller, memory, precision="float32")


def measured(local, tmp_path, method, texts=(TEXT,), **protocol):
    folder = tmp_path / f"{method} {protocol}".replace("/", "")
    evaluate(local, texts, [method], into=folder, protocol=Protocol(**{"n": 4, **protocol}), progress=False)
    return [Measured.of(one) for one in records_of(folder)]


def twin(controller):
    """The model itself, to be changed."""
    return copy.deepcopy(controller.model).eval()


def nats_of(model, ids, scored):
    """Of the last ``scored`` of these tokens, one after the other."""
    import torch

    with torch.no_grad():
        rows = torch.log_softmax(model(input_ids=torch.tensor([ids])).logits[0].double(), dim=-1)
    return [-float(rows[at - 1, ids[at]]) for at in range(len(ids) - scored, len(ids))]


def stepped(model, optimiser, ids, clip=None):
    import torch

    optimiser.zero_grad()
    logits = model(input_ids=torch.tensor([ids])).logits[0, :-1]
    loss = torch.nn.functional.cross_entropy(logits, torch.tensor(ids[1:]))
    loss.backward()
    if clip is not None:
        torch.nn.utils.clip_grad_norm_(model.parameters(), clip)
    optimiser.step()


def bits_of_rest(model, controller, text):
    """Bits per byte of what follows the prompt."""
    parts = PREFIX.parts(text)
    before = controller.tokenizer(parts.before, add_special_tokens=False)["input_ids"][-32:]
    ids = controller.tokenizer(parts.scored, add_special_tokens=False)["input_ids"]
    assert len(before) == 32, "half of the context is full of what was read before"
    total = 0.0
    from siftlm.controller.tokens import spans_of

    for span in spans_of(ids, controller.context, start=None, before=before):
        total += sum(nats_of(model, list(span.ids), span.scored))
    return total / math.log(2) / len(parts.scored.encode())


@pytest.mark.slow
def test_dynamic_evaluation_of_a_whole_text_is_what_a_plain_loop_gives(controller, local, tmp_path):
    import torch

    tokenizer, text = controller.tokenizer, TEXT.text[:200]
    [found] = measured(local, tmp_path, "dynamic+rate=1e-4+window=10", [Text("t", text, "a")], name="transductive")
    model = twin(controller)
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0.0)
    start = tokenizer.bos_token_id if isinstance(tokenizer.bos_token_id, int) else tokenizer.eos_token_id
    ids = [start, *tokenizer(text, add_special_tokens=False)["input_ids"]]
    assert 30 < len(ids) <= 65
    total = []
    for begin in range(1, len(ids), 10):
        window = ids[begin : begin + 10]
        total.append(sum(nats_of(model, ids[: begin + 10], len(window))))
        again = tokenizer(tokenizer.decode(window), add_special_tokens=False)["input_ids"]
        if len(again) > 1:
            stepped(model, optimiser, again)
    assert found.extra["windows"] == pytest.approx(total, rel=1e-4)
    assert found.tuned == pytest.approx(sum(total) / math.log(2) / len(text), rel=1e-4)
    assert found.tuned == pytest.approx(sum(found.extra["windows"]) / math.log(2) / found.bytes, rel=1e-6)


@pytest.mark.slow
def test_dynamic_evaluation_scores_before_it_learns(local, tmp_path):
    # In one context, for where a later one begins depends on the length.
    texts = [Text("t0", HEAD * 2, "a"), Text("t1", HEAD * 2 + "Quartz vexed jumbling wolves.", "a")]
    one, other = measured(local, tmp_path, "dynamic+window=8+rate=1e-3", texts, name="transductive")
    assert one.tokens < other.tokens <= 64
    same = one.tokens // 8
    assert same >= 3
    assert one.extra["windows"][:same] == other.extra["windows"][:same]
    # What was learned on the way is seen in the windows, from the second one on.
    [still] = measured(local, tmp_path, "dynamic+window=8+rate=1e-30", texts[:1], name="transductive")
    assert still.extra["windows"][0] == one.extra["windows"][0]
    assert still.extra["windows"][1] != one.extra["windows"][1]


@pytest.mark.slow
@pytest.mark.parametrize(("window", "letters"), [(2, 150), (16, 400), (64, 400)])
def test_dynamic_evaluation_that_learns_nothing_is_the_base_model(local, tmp_path, window, letters):
    text = Text("t", TEXT.text[:letters], "a")
    [found] = measured(local, tmp_path, f"dynamic+rate=1e-30+window={window}", [text], name="transductive")
    assert found.tuned == pytest.approx(found.base, rel=1e-6)
    assert len(found.extra["windows"]) >= found.tokens / window


@pytest.mark.slow
def test_dynamic_evaluation_of_the_rest_learns_from_the_prompt_alone(controller, local, tmp_path):
    import torch

    other = Text("t1", f"{PREFIX.parts(TEXT.text).prompt} of something else, to be sure", "a")
    assert PREFIX.parts(other.text).prompt == PREFIX.parts(TEXT.text).prompt
    one, two = measured(
        local, tmp_path, "dynamic+rate=1e-4+window=20+passes=2", [TEXT, other], name="prefix", prefix=200
    )
    assert one.losses == two.losses
    assert one.learned == two.learned
    model = twin(controller)
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0.0)
    ids = controller.tokenizer(PREFIX.parts(TEXT.text).prompt, add_special_tokens=False)["input_ids"]
    windows = [ids[start : start + 20] for start in range(0, len(ids), 20)]
    for _ in range(2):
        for window in windows:
            if len(window) > 1:
                stepped(model, optimiser, window)
    assert one.kept == len(one.learned) == 2 * sum(len(window) > 1 for window in windows)
    assert one.base == pytest.approx(bits_of_rest(controller.model, controller, TEXT.text), rel=1e-5)
    assert one.tuned == pytest.approx(bits_of_rest(model, controller, TEXT.text), rel=1e-4)


@pytest.mark.slow
def test_interpolation_is_what_a_plain_loop_gives(controller, local, tmp_path):
    [found] = measured(local, tmp_path, "interpolation", name="transductive", n=3)
    texts = local.memory.texts(found.rows)
    tokenizer, vocabulary = controller.tokenizer, controller.model.get_output_embeddings().weight.shape[0]
    read = [token for text in texts for token in tokenizer(text, add_special_tokens=False)["input_ids"]]
    from siftlm.controller.tokens import spans_of, start_token

    ids = tokenizer(TEXT.text, add_special_tokens=False)["input_ids"]
    for weight, nats in zip(found.extra["weights"], found.extra["nats"], strict=True):
        total = 0.0
        for span in spans_of(ids, controller.context, start=start_token(tokenizer)):
            surprises = nats_of(controller.model, list(span.ids), span.scored)
            for token, surprise in zip(span.ids[-span.scored :], surprises, strict=True):
                share = (read.count(token) + 1 / vocabulary) / (len(read) + 1)
                total -= math.log((1 - weight) * math.exp(-surprise) + weight * share)
        assert nats == pytest.approx(total, rel=1e-5)
        if weight == 0:
            assert nats / math.log(2) / found.bytes == pytest.approx(found.base, rel=1e-7)
        if weight == 0.1:
            assert nats / math.log(2) / found.bytes == pytest.approx(found.tuned, rel=1e-7)
    assert sorted(found.curve) == [0, 1, 2, 3]


@pytest.mark.slow
def test_tttlm_is_the_published_loop_with_its_leak(controller, memory, tmp_path):
    import torch

    local = LocalModel(controller, memory)
    texts = [TEXT, Text("t2", HEAD + TAIL + HEAD, "b"), Text("t1", TAIL + HEAD * 3, "a")]  # domains take turns
    before = {name: value.clone() for name, value in controller.model.state_dict().items()}
    found = measured(local, tmp_path, "tttlm", texts, name="transductive")
    assert all(torch.equal(value, before[name]) for name, value in controller.model.state_dict().items())
    assert [one.extra["order"] for one in found] == [0, 0, 1], "one optimiser for each domain"
    model, optimisers = twin(controller), {}
    assert not any(module.p for module in model.modules() if isinstance(module, torch.nn.Dropout))
    leaked = []
    for text, one in zip(texts, found, strict=True):
        model.load_state_dict(before)
        if text.domain not in optimisers:
            optimisers[text.domain] = torch.optim.AdamW(model.parameters(), lr=2e-5, weight_decay=0.01)
        optimiser = optimisers[text.domain]
        near = memory.search(text.text, 4, method="nearest")
        assert one.rows == tuple(hit.row for hit in near)
        for hit in near:
            ids = controller.tokenizer(hit.text, add_special_tokens=False)["input_ids"]
            for start in range(0, len(ids), controller.context):
                if len(ids[start : start + controller.context]) > 1:
                    stepped(model, optimiser, ids[start : start + controller.context], clip=1.0)
        from siftlm.controller.tokens import spans_of, start_token

        ids = controller.tokenizer(text.text, add_special_tokens=False)["input_ids"]
        total = 0.0
        for span in spans_of(ids, controller.context, start=start_token(controller.tokenizer)):
            total += sum(nats_of(model, list(span.ids), span.scored))
        leaked.append(total / math.log(2) / one.bytes)
    assert [one.tuned for one in found] == pytest.approx(leaked, rel=1e-5)
    # The second text of a domain has another result where it is the first: that is the leak.
    [alone] = measured(local, tmp_path / "alone", "tttlm", texts[2:], name="transductive")
    assert alone.base == found[2].base
    assert abs(alone.tuned - found[2].tuned) > 1e-6


@pytest.mark.slow
def test_all_baselines_begin_at_the_same_base_and_leave_the_model_alone(local, tmp_path):
    methods = "base,dynamic,interpolation,tttlm,context,nn"
    for name in ("split", "transductive"):
        evaluate(local, [TEXT], methods, into=tmp_path / name, protocol=Protocol(name, n=3), progress=False)
        rows = [Measured.of(one) for one in known(tmp_path / name)]
        assert len(rows) == 6
        assert len({one.base for one in rows}) == 1
        assert all(one.curve[0] == one.base for one in rows)
        evaluate(
            local, [TEXT], "nn,base", into=tmp_path / f"{name} again", protocol=Protocol(name, n=3), progress=False
        )
        again = [Measured.of(one) for one in known(tmp_path / f"{name} again")]
        assert [one.curve for one in again] == [one.curve for one in (rows[0], rows[4])]


@pytest.mark.slow
def test_baselines_that_choose_from_an_empty_memory_leave_the_base_model(controller, tmp_path):
    empty = LocalModel(controller, Memory.create(tmp_path / "memory"))
    [found] = measured(empty, tmp_path, "tttlm", n=2)
    assert (found.tuned, found.ended) == (found.base, "nothing")
    [found] = measured(empty, tmp_path, "interpolation", n=2)
    assert found.extra["nats"][0] / math.log(2) / found.bytes == pytest.approx(found.base, rel=1e-7)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "said"),
    [
        ("dynamic+window=0", "window must be"),
        ("dynamic+window=65", "window must be"),
        ("dynamic+passes=0", "passes must be"),
        ("dynamic+rate=-1", "rate must be"),
        ("tttlm+rate=0", "rate must be"),
        ("tttlm+decay=-1", "decay must be"),
        ("tttlm+clip=0", "clip must be"),
    ],
)
def test_wrong_settings(local, tmp_path, method, said):
    with pytest.raises(InvalidInput, match=said):
        measured(local, tmp_path, method)


@pytest.mark.slow
def test_tttlm_has_no_adapters(memory, tmp_path):
    pytest.importorskip("peft")
    from siftlm.controller import Controller

    with pytest.raises(Conflict, match="engine='full'"):
        measured(LocalModel(Controller("siftlm-tiny", engine="lora"), memory), tmp_path, "tttlm")
