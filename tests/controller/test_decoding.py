"""Rows that are continued together say what each would have said alone, whoever joins and leaves meanwhile."""

from __future__ import annotations

import pytest
import torch
import transformers
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from controller import tiny
from effort import examples
from siftlm.controller import BatchDecoder, Controller, DecodingRow, Detokenizer, SamplingParams
from siftlm.controller.tokens import text_token_ids

TEXTS = ["the cat sat on the mat", "a dog", "every good boy does fine in the end", "x = y + 1"]


def controller(name="llama", **how):
    return Controller(tiny.model(name), tiny.tokenizer(), engine="lora", rank=2, rate=0.05, **how)


def read(own, text):
    return tuple(text_token_ids(own.tokenizer, text))


def row_of(ids, *, owner=0, most, temperature=0.0, echo=False, **how):
    return DecodingRow(ids, owner, SamplingParams(max_tokens=most, temperature=temperature, **how), echo)


def finished(decoding: BatchDecoder, rows, joining=()):
    """row -> its tokens; one more row joins before each of the first steps."""
    made: dict[int, list[int]] = {id(row): [] for row in [*rows, *joining]}
    joining = list(joining)

    def take(drawn):
        for row, one in drawn:
            made[id(row)].append(one.id)

    take(decoding.join(rows))
    while len(decoding) or joining:
        if joining:
            take(decoding.join([joining.pop(0)]))
        take(decoding.step())
    return made


def alone(many, make):
    row = make()
    return finished(many.decoder(), [row])[id(row)]


@pytest.mark.slow
@pytest.mark.parametrize("name", list(tiny.ARCHITECTURES))
def test_together_and_alone_are_the_same_in_every_architecture(name):
    own = controller(name)
    with own.tuning_many(3) as many:
        many.learn([[TEXTS[0]] * 3, [TEXTS[1]] * 2, [TEXTS[3]]])
        makers = [
            lambda at=at: row_of(read(own, TEXTS[at]), owner=at % 3, most=5 + 3 * at, seed=at, temperature=at % 2 * 0.7)
            for at in range(4)
        ]
        apart = [alone(many, make) for make in makers]
        rows = [make() for make in makers]
        together = finished(many.decoder(), rows[:2], joining=rows[2:])
    assert [together[id(row)] for row in rows] == apart
    assert [len(one) for one in apart] == [5, 8, 11, 14]


def test_a_recurrent_model_reads_every_row_for_itself():
    """Its states cannot be padded, merged or cut as keys and values can."""
    shape = {"vocab_size": tiny.VOCABULARY, "hidden_size": 16, "state_size": 4, "num_hidden_layers": 2}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = transformers.MambaForCausalLM(transformers.MambaConfig(**shape)).eval()
    own = Controller(model, tiny.tokenizer(), context=tiny.CONTEXT)
    decoder = BatchDecoder(model, own.budget)
    rows = [row_of(read(own, text), most=4 + 2 * place) for place, text in enumerate(TEXTS)]
    together = finished(decoder, rows[:2], joining=rows[2:])
    for row, text in zip(rows, TEXTS, strict=True):
        again = row_of(row.ids, most=row.sampling.max_tokens)
        assert together[id(row)] == finished(BatchDecoder(model, own.budget), [again])[id(again)]
        assert own.tokenizer.decode(together[id(row)], skip_special_tokens=True).startswith(
            own.generate(text, max_new_tokens=row.sampling.max_tokens).text
        )


@settings(deadline=None, max_examples=examples(15), suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(1, 9), st.integers(0, 2)), min_size=1, max_size=5))
def test_whoever_joins_and_whenever(asked):
    own = controller()
    with own.tuning_many(3) as many:
        many.learn([[TEXTS[0]], [TEXTS[1]] * 2, []])
        rows = [row_of(read(own, TEXTS[text]), owner=owner, most=most) for text, most, owner in asked]
        together = finished(many.decoder(), rows[:1], joining=rows[1:])
        for row, (text, most, owner) in zip(rows, asked, strict=True):
            assert together[id(row)] == alone(
                many, lambda t=text, m=most, o=owner: row_of(read(own, TEXTS[t]), owner=o, most=m)
            )


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_the_base_model_and_the_learned_one_say_what_generate_says(temperature):
    own = controller("gpt2")
    how = {"max_new_tokens": 12, "temperature": temperature, "top_p": 0.9, "seed": 3}
    with own.tuning_many(2) as many:
        many.learn([[TEXTS[2]] * 4, []])
        expected = [one.text for one in many.generate([TEXTS[0], TEXTS[0]], **how)]
        rows = [
            row_of(read(own, TEXTS[0]), owner=owner, most=12, temperature=temperature, top_p=0.9, seed=3)
            for owner in range(2)
        ]
        made = finished(many.decoder(), rows)
    ends = own.tokenizer.eos_token_id
    said = []
    for row in rows:
        ids = made[id(row)]
        ids = ids[: ids.index(ends)] if ends in ids else ids
        spelling = Detokenizer(own.tokenizer, row.ids)
        said.append("".join(spelling.add(token) for token in ids) + spelling.flush())
    assert said == expected
    assert said[0] != said[1]
    assert said[1] == own.generate(TEXTS[0], **how).text


def test_logprobs_are_those_of_one_pass_over_everything():
    own = controller()
    with own.tuning_many(2) as many:
        many.learn([[TEXTS[0]] * 3, []])
        row = row_of(read(own, TEXTS[0]), owner=0, most=6, top=2, echo=True)
        long = row_of(read(own, TEXTS[2]), owner=1, most=2)
        decoding = many.decoder()
        drawn = [one for who, one in decoding.join([row, long]) if who is row]
        while len(decoding):
            drawn += [one for who, one in decoding.step() if who is row]
        ids = [*row.ids, *(one.id for one in drawn)]
        with many.rows([0]), torch.inference_mode():
            scores = torch.log_softmax(own.model(input_ids=torch.tensor([ids])).logits[0].float(), dim=-1)
    known = [*row.read, *drawn]
    assert [one.id for one in known] == ids[1:]
    for place, one in enumerate(known):
        assert one.logprob == pytest.approx(float(scores[place, ids[place + 1]]), abs=1e-5)
        likely = dict(one.top)
        assert likely[one.id] == one.logprob
        assert max(likely, key=likely.get) == int(scores[place].argmax())
        assert 2 <= len(likely) <= 3


def test_only_read():
    own = controller()
    with own.tuning_many(1) as many:
        decoding = many.decoder()
        start = own.tokenizer.bos_token_id
        row = row_of((start, *read(own, TEXTS[0])), owner=0, most=0, top=0, echo=True)
        assert decoding.join([row]) == []
        assert len(decoding) == 0
        assert [one.id for one in row.read] == list(row.ids[1:])
        nats = -sum(one.logprob for one in row.read)
        assert nats == pytest.approx(own.likelihood(TEXTS[0]).nats, rel=1e-5)


def test_who_leaves_is_not_continued():
    own = controller()
    with own.tuning_many(1) as many:
        decoding = many.decoder()
        rows = [row_of(read(own, text), owner=0, most=9) for text in TEXTS[:3]]
        decoding.join(rows)
        decoding.leave([rows[2]])
        while len(decoding):
            decoding.step()
        assert [row.made for row in rows] == [9, 9, 1]
        decoding.leave(rows)


@settings(deadline=None, max_examples=examples(50))
@given(st.text(min_size=1, max_size=20), st.integers(0, 10))
def test_spelling_says_every_character_once(text, cut):
    tokenizer = tiny.tokenizer()
    ids = text_token_ids(tokenizer, text)
    spelling = Detokenizer(tokenizer)
    pieces = [spelling.add(token) for token in ids] + [spelling.flush()]
    assert "".join(pieces) == tokenizer.decode(ids, skip_special_tokens=True)
    behind = Detokenizer(tokenizer, ids[:cut])
    later = "".join([behind.add(token) for token in ids[cut:]] + [behind.flush()])
    if "\ufffd" not in tokenizer.decode(ids[:cut]):
        assert tokenizer.decode(ids[:cut], skip_special_tokens=True) + later == tokenizer.decode(
            ids, skip_special_tokens=True
        )
