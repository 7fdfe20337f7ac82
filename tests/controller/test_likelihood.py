"""Scores against plain double precision, one window at a time, cut as lm-evaluation-harness documents it."""

from __future__ import annotations

import math

import hypothesis
import hypothesis.strategies as st
import pytest

from effort import examples

torch = pytest.importorskip("torch")
pytest.importorskip("peft")

from controller import oracle, tiny  # noqa: E402
from siftlm.controller import Controller  # noqa: E402
from siftlm.controller.tokens import spans_of  # noqa: E402
from siftlm.errors import InvalidInput  # noqa: E402

LETTERS = (
    "the quick brown fox jumps over the lazy dog and rain falls on the harbour while ships wait for the tide. " * 3
)


@pytest.fixture(scope="module")
def one():
    return Controller(tiny.model("llama"), tiny.tokenizer())


def tokens(text, kind="plain"):
    return tiny.tokenizer(kind)(text, add_special_tokens=False)["input_ids"]


def by_hand(one, windows):
    return sum(oracle.nats(one.model, read, predicted) for read, predicted in windows)


@pytest.mark.parametrize("length", [0, 1, 2, 31, 62, 63, 64, 65, 66, 127, 128, 129, 192, 200])
def test_rolling_windows_as_in_the_harness(one, length):
    text = LETTERS[:length]
    expected = by_hand(one, oracle.rolling(tokens(text), 0, tiny.CONTEXT))
    found = one.likelihood(text)
    assert (found.tokens, found.bytes) == (length, length)
    assert found.nats == pytest.approx(expected, rel=1e-5)
    if length:
        assert found.bits_per_byte == pytest.approx(oracle.bits_per_byte(expected, text), rel=1e-5)
    else:
        assert math.isnan(found.bits_per_byte)


@hypothesis.settings(max_examples=examples(40))
@hypothesis.given(st.integers(0, 60), st.integers(2, 9))
def test_windows_are_those_of_the_harness(length, size):
    ids = list(range(1, length + 1))
    found = [(list(span.ids[:-1]), list(span.ids[-span.scored :])) for span in spans_of(ids, size, start=0)]
    assert found == list(oracle.rolling(ids, 0, size))


@hypothesis.settings(max_examples=examples(60))
@hypothesis.given(
    st.integers(0, 40), st.integers(0, 12), st.integers(0, 5), st.integers(8, 20), st.sampled_from([None, 0])
)
def test_every_token_is_scored_once_and_no_more_is_read_than_fits(length, before, fixed, size, start):
    ids = list(range(1000, 1000 + length))
    head = list(range(500, 500 + before))
    front = list(range(100, 100 + fixed))
    spans = spans_of(ids, size, start=start, before=head, fixed=front)
    scored = [token for span in spans for token in span.ids[len(span.ids) - span.scored :]]
    alone = start is None and not before and not fixed
    assert scored == ids[1:] if alone else scored == ids
    for span in spans:
        assert 1 <= len(span.ids) - 1 <= size
        assert list(span.ids[:fixed]) == front
        own = span.ids[fixed:]
        whole = ([0] if start == 0 else []) + head + ids
        assert any(tuple(whole[at : at + len(own)]) == own for at in range(len(whole))), "consecutive"
    if len(spans) > 1 and not fixed:
        assert len(spans[-1].ids) - 1 == size, "the last window reaches back as far as it can"


@pytest.mark.parametrize("before", [0, 1, 20, 31, 32, 33, 64, 100])
def test_what_comes_before_is_read_and_not_scored(one, before):
    text, after = LETTERS[:20], LETTERS[50 : 50 + before]
    half = tiny.CONTEXT // 2
    given = tokens(after)[-half:]
    given = given if len(given) == half else [0, *given]
    ids = tokens(text)
    expected = by_hand(one, [(given + ids[:-1], ids)])
    found = one.likelihood(text, after=after)
    assert (found.tokens, found.bytes) == (20, 20)
    assert found.nats == pytest.approx(expected, rel=1e-5)


def test_a_long_text_after_another(one):
    text, after = LETTERS[:100], LETTERS[100:110]
    ids, size = tokens(text), tiny.CONTEXT
    stream = [0, *tokens(after), *ids]
    first = size - 11 + 1
    windows = [(stream[:size], ids[:first]), (stream[-1 - size : -1], ids[first:])]
    assert one.likelihood(text, after=after).nats == pytest.approx(by_hand(one, windows), rel=1e-5)


def test_texts_in_the_context_come_first_and_the_first_ones_stay(one):
    text = LETTERS[:10]
    ids = tokens(text)
    for texts in (["first", "second"], ["first", "first", "second"]):  # nothing is heard twice
        front = [0, *tokens("first\n\nsecond\n\n")]
        assert one.context_of(texts) == front
        expected = by_hand(one, [(front + ids[:-1], ids)])
        assert one.likelihood(text, texts=texts).nats == pytest.approx(expected, rel=1e-5)
    assert one.context_of(["first", LETTERS]) == [0, *tokens("first\n\n" + LETTERS)][: tiny.CONTEXT // 2]
    front = one.context_of([LETTERS])
    given = tokens("and then")
    expected = by_hand(one, [([*front, *given, *ids[:-1]], ids)])
    assert one.likelihood(text, after="and then", texts=[LETTERS]).nats == pytest.approx(expected, rel=1e-5)


def test_a_text_longer_than_what_the_context_leaves(one):
    front = one.context_of([LETTERS])
    room = tiny.CONTEXT - len(front)
    ids = tokens(LETTERS[:80])
    windows = [(front + ids[:room], ids[: room + 1])]
    done = room + 1
    while done < len(ids):
        end = min(done + room, len(ids))
        windows.append((front + ids[end - 1 - room : end - 1], ids[done:end]))
        done = end
    found = one.likelihood(LETTERS[:80], texts=[LETTERS])
    assert found.tokens == 80
    assert found.nats == pytest.approx(by_hand(one, windows), rel=1e-5)


def test_many_are_each_what_they_are_alone(one):
    pairs = [(LETTERS[:length], LETTERS[:before]) for length in (0, 1, 40, 64, 90) for before in (0, 7)]
    together = one.likelihoods(pairs)
    for (text, after), found in zip(pairs, together, strict=True):
        alone = one.likelihood(text, after=after)
        assert (found.tokens, found.bytes) == (alone.tokens, alone.bytes)
        assert found.nats == pytest.approx(alone.nats, rel=1e-5, abs=1e-9)
    assert one.likelihoods([]) == []


# --- bytes


STRANGE = ["é", "naïve café", "日本語のテキスト", "🦊 and 🐶", "a\u0301 combined", "\r\n\ttabs\x00 and nul"]


@pytest.mark.parametrize("text", STRANGE)
def test_bytes_are_those_of_utf8(one, text):
    found = one.likelihood(text)
    assert found.tokens == found.bytes == len(text.encode())


def test_a_lone_surrogate_counts_as_what_is_read_for_it(one):
    found = one.likelihood("a\ud800b")
    assert found == one.likelihood("a?b")
    assert found.bytes == 3


@pytest.mark.parametrize("text", ["a", "", *STRANGE, "\ud800b"])
def test_without_special_tokens_the_first_token_is_not_scored_nor_its_bytes(text):
    one = Controller(tiny.model("llama"), tiny.tokenizer("bare"))
    ids = tokens(text.replace("\ud800", "?"), "bare")
    found = one.likelihood(text)
    size = max(len(ids) - 1, 0)
    assert found.tokens == size
    assert found.bytes == size, "each token is a byte, also where the first is a part of a letter"
    assert found.nats == pytest.approx(oracle.nats(one.model, ids[:-1], ids[1:]) if size else 0.0, rel=1e-5)


@pytest.mark.parametrize("length", [63, 64, 65, 66, 130])
def test_without_special_tokens_windows_begin_with_the_text(length):
    one = Controller(tiny.model("llama"), tiny.tokenizer("bare"))
    ids = tokens(LETTERS[:length], "bare")
    windows = oracle.rolling(ids[1:], ids[0], tiny.CONTEXT)
    assert one.likelihood(LETTERS[:length]).nats == pytest.approx(by_hand(one, windows), rel=1e-5)


def test_a_tokenizer_that_begins_every_text_begins_it_once():
    one = Controller(tiny.model("llama"), tiny.tokenizer("begins"))
    ids = tokens("some text", "begins")
    assert one.likelihood("some text").nats == pytest.approx(oracle.nats(one.model, [1, *ids[:-1]], ids), rel=1e-5)
    with one.tuning(rate=1e-4, precision="float32") as tuner:
        first = tuner.learn(["some text"])
    assert first.losses[0] == pytest.approx(oracle.nats(one.model, [1, *ids[:-1]], ids) / len(ids), rel=1e-5)
    assert first.steps[0].tokens == len(ids)


@pytest.mark.parametrize("size", [5, 17, 64])
def test_a_smaller_context_can_be_asked_for(size):
    one = Controller(tiny.model("gpt2"), tiny.tokenizer(), context=size)
    text = LETTERS[:100]
    expected = by_hand(one, oracle.rolling(tokens(text), 0, size))
    assert one.likelihood(text).nats == pytest.approx(expected, rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", tiny.ARCHITECTURES)
def test_in_every_architecture_also_beside_longer_texts(name):
    """Padding on the right and a window that slides change nothing."""
    one = Controller(tiny.model(name), tiny.tokenizer())
    texts = [LETTERS[:length] for length in (60, 58, 57, 150, 30, 3)]
    for text, found in zip(texts, one.likelihoods([(text, "") for text in texts]), strict=True):
        expected = by_hand(one, oracle.rolling(tokens(text), 0, tiny.CONTEXT))
        assert found.nats == pytest.approx(expected, rel=2e-5)


# --- wrong input


@pytest.mark.parametrize(
    "ask",
    [
        lambda one: one.likelihood(3),
        lambda one: one.likelihood("text", after=None),
        lambda one: one.likelihood("text", texts=[3]),
        lambda one: one.likelihood("text", texts="a text that is no list"),
        lambda one: one.generate("text", texts="a text that is no list", max_new_tokens=3),
        lambda one: one.generate(b"text", max_new_tokens=3),
    ],
)
def test_what_is_no_text_is_refused(one, ask):
    with pytest.raises(InvalidInput, match=r"str|list"):
        ask(one)
