"""The hashing embedder is a fixed function of the text, and a useful one."""

from __future__ import annotations

import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedding.texts import any_texts, assert_same_bits, passage
from siftlm.embedding import batches, hashing, words
from siftlm.embedding.batches import HashingBatches
from siftlm.embedding.hashing import HashingEmbedder
from siftlm.errors import InvalidInput

# --- many texts at once and one by one, bit for bit


def one_by_one(texts, width=64):
    return [hashing.hashed_words(text, width).astype(np.float32) for text in texts]


@given(st.lists(any_texts, max_size=6), st.sampled_from([1, 2, 7, 64]))
def test_a_batch_is_its_texts_one_by_one_bit_for_bit(batch, width):
    found = HashingBatches(width).embed(batch)
    assert found.shape == (len(batch), width)
    for row, expected in zip(found, one_by_one(batch, width), strict=True):
        assert_same_bits(row, expected)


@given(st.lists(any_texts, max_size=6), st.sampled_from([0, 3, 256]))
def test_an_embedder_has_the_same_bits_either_way(batch, characters):
    with patch.object(hashing, "FEW_CHARACTERS", characters):
        found = HashingEmbedder(width=64).embed(batch)
    assert found.shape == (len(batch), 64)
    for row, expected in zip(found, one_by_one(batch), strict=True):
        assert_same_bits(row, expected)


@pytest.mark.parametrize(
    ("batch", "at_once"),
    [(["a" * 64] * 4, False), (["a" * 64] * 3 + ["a" * 65], True), (["a"] * 5, True), ([], False)],
)
def test_few_short_texts_are_read_one_by_one(batch, at_once):
    with patch.object(HashingBatches, "embed", autospec=True, side_effect=HashingBatches.embed) as embed:
        HashingEmbedder(width=64).embed(batch)
    assert embed.called == at_once


def test_a_query_loads_nothing_of_batches():
    script = (
        "import sys; from siftlm.embedding import embedder\n"
        "for name in ('hashing', 'static'): embedder(name).embed(['a query'])\n"
        "print([name for name in sys.modules if name in ('siftlm.embedding.batches', 'siftlm.embedding.words')])"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert run.stdout == "[]\n"


@given(st.randoms(use_true_random=False), st.integers(1, 400), st.integers(1, 60))
def test_chunks_and_forgetting_and_order_change_nothing(random, characters, known):
    batch = [passage(random) for _ in range(8)]
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(words, "CHUNK_CHARACTERS", characters)
        patched.setattr(words, "MAX_CACHED_WORDS", known)
        made = HashingBatches(64)
        first = made.embed(batch)
        assert_same_bits(made.embed(batch[::-1]), first[::-1])
    for row, expected in zip(first, one_by_one(batch), strict=True):
        assert_same_bits(row, expected)


@pytest.mark.slow
@pytest.mark.parametrize("length", [16, 17, 32, 33, 101, 6400, 6401, 12_800, 12_801, 30_000])
def test_long_words_are_the_same_too(length):
    batch = ["ab" * length, "水" * length, "ab" * length + " tide"]
    for row, expected in zip(HashingBatches(64).embed(batch), one_by_one(batch), strict=True):
        assert_same_bits(row, expected)


def test_damped_counts_are_those_of_each():
    counts = np.arange(1, 20_000)
    assert hashing.damped_counts(counts).tolist() == [hashing.damped(count) for count in counts.tolist()]


@pytest.mark.slow
def test_every_character_is_a_word_a_sign_or_a_space_as_the_pattern_says():
    batch = [f"a{chr(code)}b {chr(code)}" for code in range(0x110000)]
    found = words.locate(batch)
    expected = [hashing.WORD_OR_SIGN.findall(text) for text in batch]
    assert found.counts.tolist() == list(map(len, expected))
    spans = zip(found.starts.tolist(), found.ends.tolist(), strict=True)
    joined = [found.data[start:end].decode("utf-8", "surrogatepass") for start, end in spans]
    assert joined == [word for one in expected for word in one]


# --- the same everywhere and always


# A change of these needs another VERSION: vectors on people's disks were made this way.
PINNED = [-0.0253286, -0.3546004, 0.1899645, 0.2152931, -0.0126643, 0.1519716, 0.8120983, 0.3292718]


def test_the_values_are_pinned():
    vector = HashingEmbedder(width=8).embed(["The quick brown fox jumps over the lazy dog."])[0]
    np.testing.assert_allclose(vector, PINNED, atol=1e-6)


def test_the_fingerprint_is_pinned():
    assert HashingEmbedder(width=512).fingerprint == "hashing:081d83266d7b749183541376"
    assert HashingEmbedder(width=256).fingerprint != HashingEmbedder(width=512).fingerprint


def test_python_s_own_hash_plays_no_part():
    script = (
        "from siftlm.embedding import embedder; print(embedder('hashing').embed(['some words, and words']).tobytes())"
    )
    runs = [
        subprocess.run(
            [sys.executable, "-c", script], capture_output=True, check=True, env={"PYTHONHASHSEED": seed}
        ).stdout
        for seed in ("1", "2")
    ]
    assert runs[0] == runs[1] != b""


def test_an_interrupted_call_leaves_nothing_half_known():
    made = HashingBatches(64)
    with (
        patch.object(batches.HashedFeatures, "learn", side_effect=KeyboardInterrupt),
        pytest.raises(KeyboardInterrupt),
    ):
        made.embed(["ebb and flow"])
    assert_same_bits(made.embed(["the tide and the ebb"])[0], one_by_one(["the tide and the ebb"])[0])


def test_forgetting_words_and_working_in_chunks_change_nothing(monkeypatch):
    batch = [" ".join(f"word{place * step}" for place in range(40)) for step in range(20)]
    whole = HashingEmbedder(width=64).embed(batch)
    monkeypatch.setattr(words, "CHUNK_CHARACTERS", 300)
    monkeypatch.setattr(words, "MAX_CACHED_WORDS", 50)
    forgetful = HashingEmbedder(width=64)
    np.testing.assert_array_equal(forgetful.embed(batch), whole)
    np.testing.assert_array_equal(forgetful.embed(batch[::-1]), whole[::-1])


# --- what it is good for


@given(any_texts, st.sampled_from([1, 2, 512]))
def test_whatever_is_not_space_has_unit_length(text, width):
    length = np.linalg.norm(HashingEmbedder(width=width).embed([text])[0])
    assert length == pytest.approx(1.0 if text.strip() else 0.0, abs=1e-5)


@pytest.mark.parametrize(
    ("text", "near", "far"),
    [
        ("the index was rebuilt", "rebuilding indexes", "a storm at sea"),
        ("a misspeled sentence", "a misspelled sentence", "a sentence of others"),
        ("def load_model(path):", "model = load_model(folder)", "The path was steep, and they rested."),
        ("dog bites man", "DOG BITES MAN", "man bites dog"),
        ("cafe\u0301 au lait", "café au lait", "cafe"),
    ],
)
def test_what_is_alike_is_near(text, near, far):
    vectors = HashingEmbedder().embed([text, near, far])
    assert vectors[0] @ vectors[1] > vectors[0] @ vectors[2] + 0.01


def test_a_word_said_often_does_not_drown_the_others():
    vectors = HashingEmbedder().embed(["tide " * 1000 + "harbour", "harbour", "tide"])
    assert vectors[0] @ vectors[1] > 0.1
    assert vectors[0] @ vectors[2] < 0.999


@pytest.mark.parametrize("width", [0, -1, 2.5, "512", True])
def test_a_width_that_is_none(width):
    with pytest.raises(InvalidInput, match="width must be a whole number ≥ 1"):
        HashingEmbedder(width=width)


@pytest.mark.slow
@pytest.mark.parametrize("shared", [HashingEmbedder(width=64), HashingBatches(64)], ids=["one by one", "at once"])
def test_threads_share_an_embedder_and_get_what_one_thread_gets(shared):
    texts = [[f"word{n * 7 % 1000} and word{n * thread % 997} of text {n}" for n in range(400)] for thread in range(8)]
    expected = [HashingEmbedder(width=64).embed(own) for own in texts]
    # Few words are kept, so they are forgotten and learned all the time.
    with patch.object(words, "MAX_CACHED_WORDS", 300), ThreadPoolExecutor(8) as pool:
        for _ in range(2):
            pieces = [pool.submit(lambda own=own: [shared.embed([text])[0] for text in own]) for own in texts]
            for piece, vectors in zip(pieces, expected, strict=True):
                np.testing.assert_array_equal(np.array(piece.result()), vectors)


def test_an_embedder_can_be_pickled():
    embedder = HashingEmbedder(width=64)
    embedder.embed(["a word or two"] * 9)
    again = pickle.loads(pickle.dumps(embedder))
    np.testing.assert_array_equal(again.embed(["other words"] * 9), embedder.embed(["other words"] * 9))
    assert again.fingerprint == embedder.fingerprint
