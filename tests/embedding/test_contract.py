"""What every embedder promises."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from effort import examples
from siftlm.embedding import embedder
from siftlm.errors import InvalidInput

pytestmark = pytest.mark.slow

sentences = pytest.param("sentences", marks=pytest.mark.slow)
WITH_PREFIXES = ["bert", "roberta", "gpt2", "llama", sentences]
WITH_MODEL = [*WITH_PREFIXES, "gradients"]
WITHOUT_MODEL = ["hashing", "static"]
KINDS = [*WITHOUT_MODEL, *WITH_MODEL]
WEIRD = [
    "The quick fox",
    "",
    " \t\r\n",
    "rain " * 200,
    "one\r\ntwo\x00three",
    "😀👩‍👩‍👧 e\u0301 नमस्ते \u202eabc",
    "lone \ud800 half",
    "!",
    "日本語のテキスト",
]


@pytest.fixture
def made(request, models):
    return embedder(name_of(request.param, models))


def name_of(kind: str, models) -> str:
    if kind in WITHOUT_MODEL:
        return kind
    if kind == "gradients":
        return f"gradients:{models('llama')}"
    return f"states:{models(kind)}" if kind in {"gpt2", "llama"} else str(models(kind))


every = pytest.mark.parametrize("made", KINDS, indirect=True)
with_model = pytest.mark.parametrize("made", WITH_MODEL, indirect=True)
with_prefixes = pytest.mark.parametrize("made", WITH_PREFIXES, indirect=True)


@every
def test_vectors_are_float32_and_finite(made):
    vectors = made.embed(WEIRD)
    assert vectors.shape == (len(WEIRD), made.width)
    assert vectors.dtype == np.float32
    assert np.isfinite(vectors).all()
    saying_something = [bool(text.strip()) for text in WEIRD]
    assert vectors[saying_something].any(axis=1).all()


@every
def test_nothing_gives_an_empty_array(made):
    assert made.embed([]).shape == (0, made.width)
    assert made.embed([], as_query=True).dtype == np.float32
    assert made.tokens([]) == []


@every
def test_a_batch_is_its_texts_one_by_one_in_their_order(made):
    alone = np.concatenate([made.embed([text]) for text in WEIRD])
    np.testing.assert_allclose(made.embed(WEIRD), alone, atol=1e-5)
    np.testing.assert_allclose(made.embed(WEIRD[::-1]), alone[::-1], atol=1e-5)


@every
@pytest.mark.parametrize("budget", [1, 50])
def test_the_size_of_batches_changes_nothing(made, budget, request):
    if made.name in WITHOUT_MODEL:
        pytest.skip(f"{made.name} has no batches")
    small = embedder(made.name, batch_tokens=budget, **made.settings)
    np.testing.assert_allclose(small.embed(WEIRD), made.embed(WEIRD), atol=1e-5)
    assert small.fingerprint == made.fingerprint


@every
def test_name_and_settings_make_it_again(made):
    again = embedder(made.name, **json.loads(json.dumps(made.settings)))
    assert (again.name, again.settings) == (made.name, made.settings)
    assert (again.fingerprint, again.width, again.max_tokens) == (made.fingerprint, made.width, made.max_tokens)
    np.testing.assert_array_equal(again.embed(WEIRD), made.embed(WEIRD))


@every
def test_an_embedder_is_returned_as_it_is(made):
    assert embedder(made) is made


@every
@pytest.mark.parametrize("texts", ["one text", b"bytes", ["fine", None], [1]])
def test_what_is_no_text_is_named(made, texts):
    for method in (made.embed, made.tokens):
        with pytest.raises(InvalidInput, match=r"texts"):
            method(texts)


@every
@settings(max_examples=examples(25), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(texts=st.lists(st.text(st.characters(), max_size=30) | st.sampled_from(WEIRD), max_size=3))
def test_tokens_lie_in_order_within_the_text(made, texts):
    found = made.tokens(texts)
    assert len(found) == len(texts)
    for text, spans in zip(texts, found, strict=True):
        assert spans.shape == (len(spans), 2)
        assert spans.dtype == np.int64
        assert (spans[:, 0] < spans[:, 1]).all()
        assert (np.diff(spans[:, 0]) >= 0).all()
        assert (spans >= 0).all()
        assert (spans <= len(text)).all()


@every
def test_tokens_cover_plain_words(made):
    text = "The quick brown fox\njumps over the lazy dog"
    seen = np.zeros(len(text), dtype=bool)
    for start, end in made.tokens([text])[0]:
        seen[start:end] = True
    assert all(seen[place] or letter.isspace() for place, letter in enumerate(text))


@with_model
def test_tokens_know_no_limit_and_no_warning(made, capfd, caplog):
    assert len(made.tokens(["rain " * 500])[0]) >= 500
    assert capfd.readouterr() == ("", "")
    assert not caplog.records


@with_model
def test_tokens_of_spaces_are_counted(made):
    text = "def f():\n        return\t\t1"
    read = len(made._ready().tokenizer(text, add_special_tokens=False)["input_ids"])
    assert len(made.tokens([text])[0]) == read


@with_model
def test_what_lies_beyond_the_limit_is_not_read(made):
    text = "rain fell on the harbour while ships waited " * 20
    cut = text[: made.tokens([text])[0][made.max_tokens - 1, 1]]
    longer = text[: made.tokens([text])[0][made.max_tokens, 1]]
    shorter = text[: made.tokens([text])[0][made.max_tokens - 2, 1]]
    whole, equal, also_equal, other = made.embed([text, cut, longer, shorter])
    np.testing.assert_allclose(equal, whole, atol=1e-5)
    np.testing.assert_allclose(also_equal, whole, atol=1e-5)
    assert np.abs(other - whole).max() > 1e-4


@with_model
def test_a_lower_limit_is_kept_and_is_another_embedder(made):
    short = embedder(made.name, max_tokens=3)
    assert short.max_tokens == 3
    assert short.fingerprint != made.fingerprint
    text = "the tide and the harbour"
    cut = text[: short.tokens([text])[0][2, 1]]
    np.testing.assert_allclose(short.embed([text]), made.embed([cut]), atol=1e-5)
    assert np.abs(short.embed([text]) - made.embed([text])).max() > 1e-4


@with_model
def test_naming_the_limit_that_is_there_is_the_same_embedder(made):
    assert embedder(made.name, max_tokens=made.max_tokens).fingerprint == made.fingerprint


@with_model
@pytest.mark.parametrize("limit", [10_000, 0, "8"])
def test_a_limit_that_cannot_be_is_named(made, limit):
    with pytest.raises(InvalidInput, match="max_tokens"):
        embedder(made.name, max_tokens=limit).embed(["text"])


@with_prefixes
def test_prefixes_are_read_and_are_part_of_the_fingerprint(made):
    prefixed = embedder(made.name, query_prefix="query: ", passage_prefix="passage: ")
    np.testing.assert_allclose(prefixed.embed(["the tide"]), made.embed(["passage: the tide"]), atol=1e-5)
    np.testing.assert_allclose(prefixed.embed(["the tide"], as_query=True), made.embed(["query: the tide"]), atol=1e-5)
    assert prefixed.max_tokens < made.max_tokens
    assert prefixed.fingerprint != made.fingerprint
    swapped = embedder(made.name, query_prefix="passage: ", passage_prefix="query: ")
    assert swapped.fingerprint != prefixed.fingerprint


@with_model
def test_half_precision_is_near_and_the_same_embedder(made):
    half = embedder(made.name, precision="bfloat16")
    assert half.fingerprint == made.fingerprint
    exact, near = made.embed(WEIRD[:1]), half.embed(WEIRD[:1])
    assert near.dtype == np.float32
    assert 0 < np.abs(exact - near).max() < 0.05 * np.abs(exact).max()


@with_model
def test_the_random_generator_is_left_alone(made):
    import torch

    before = torch.random.get_rng_state()
    embedder(made.name, max_tokens=5).embed(["text"])
    assert torch.equal(torch.random.get_rng_state(), before)
