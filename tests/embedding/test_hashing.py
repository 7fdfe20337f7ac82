"""The hashing embedder is a fixed function of the text, and a useful one."""

from __future__ import annotations

import hashlib
import itertools
import math
import pickle
import subprocess
import sys
import unicodedata
from concurrent.futures import ThreadPoolExecutor
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from siftlm.embedding import hashing
from siftlm.embedding.hashing import WORD_OR_SIGN, HashingEmbedder
from siftlm.errors import InvalidInput

texts = st.text(st.characters(), max_size=40)
MASK = (1 << 64) - 1


# --- the slow, obvious reference


def mixed(number: int) -> int:
    number = ((number ^ (number >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    number = ((number ^ (number >> 27)) * 0x94D049BB133111EB) & MASK
    return number ^ (number >> 31)


def named(word: str) -> int:
    return int.from_bytes(hashlib.blake2b(word.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")


def pieces(word: str) -> list[int]:
    found, marked = [], f"<{word}>"
    for length in (4, 5) if len(word) >= 4 else ():
        for start in range(len(marked) - length + 1):
            number = length
            for letter in marked[start : start + length]:
                number = mixed((number * 31 + ord(letter)) & MASK)
            found.append(number)
    return found


def reference(text: str, width: int) -> np.ndarray:
    folded = text.lower() if text.isascii() else unicodedata.normalize("NFC", text.lower())
    words = WORD_OR_SIGN.findall(folded)
    sums = [0] * width

    def add(number: int, weight: int) -> None:
        sums[number % width] += weight if number >> 63 == 0 else -weight

    def damped(count: int) -> int:
        return round(256 * (1 + math.log(count)))

    for word in set(words):
        weight = damped(words.count(word))
        add(named(word), 64 * weight)
        for number in pieces(word):
            add(number, round(80 / math.sqrt(len(pieces(word)))) * weight)
    pairs = list(itertools.pairwise(words))
    for first, second in set(pairs):
        number = mixed((named(first) * 0x9E3779B97F4A7C15 + named(second)) & MASK)
        add(number, 16 * damped(pairs.count((first, second))))
    if words and not any(sums):
        sums[named("".join(words)) % width] = 1
    length = math.sqrt(sum(value * value for value in sums))
    return np.array([value / max(length, 1.0) for value in sums], dtype=np.float32)


@given(texts, st.sampled_from([1, 2, 7, 64]))
def test_it_is_the_obvious_reference(text, width):
    np.testing.assert_allclose(HashingEmbedder(width=width).embed([text])[0], reference(text, width), atol=1e-6)


@given(st.text("ab .", max_size=12))
def test_it_is_the_reference_when_everything_repeats(text):
    np.testing.assert_allclose(HashingEmbedder(width=8).embed([text])[0], reference(text, 8), atol=1e-6)


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


@given(st.lists(texts, max_size=6))
def test_a_batch_is_its_texts_one_by_one_bit_for_bit(batch):
    embedder = HashingEmbedder(width=32)
    single = [HashingEmbedder(width=32).embed([text]) for text in batch]
    np.testing.assert_array_equal(embedder.embed(batch), np.concatenate([np.zeros((0, 32)), *single]))


def test_forgetting_words_and_working_in_chunks_change_nothing(monkeypatch):
    batch = [" ".join(f"word{place * step}" for place in range(40)) for step in range(20)]
    whole = HashingEmbedder(width=64).embed(batch)
    monkeypatch.setattr(hashing, "CHUNK_CHARACTERS", 300)
    monkeypatch.setattr(hashing, "MAX_CACHED_WORDS", 50)
    forgetful = HashingEmbedder(width=64)
    np.testing.assert_array_equal(forgetful.embed(batch), whole)
    np.testing.assert_array_equal(forgetful.embed(batch[::-1]), whole[::-1])


# --- what it is good for


@given(texts, st.sampled_from([1, 2, 512]))
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
def test_threads_share_an_embedder_and_get_what_one_thread_gets():
    # Few words fit into the memory of an embedder this small, so it forgets and learns all the time.
    texts = [[f"word{n * 7 % 1000} and word{n * thread % 997} of text {n}" for n in range(400)] for thread in range(8)]
    expected = [HashingEmbedder(width=64).embed(own) for own in texts]
    shared = HashingEmbedder(width=64)
    with patch.object(hashing, "MAX_CACHED_WORDS", 300), ThreadPoolExecutor(8) as pool:
        for _ in range(2):
            pieces = [pool.submit(lambda own=own: [shared.embed([text])[0] for text in own]) for own in texts]
            for piece, vectors in zip(pieces, expected, strict=True):
                np.testing.assert_array_equal(np.array(piece.result()), vectors)


def test_an_embedder_can_be_pickled():
    embedder = HashingEmbedder(width=64)
    embedder.embed(["a word or two"])
    again = pickle.loads(pickle.dumps(embedder))
    np.testing.assert_array_equal(again.embed(["other words"]), embedder.embed(["other words"]))
    assert again.fingerprint == embedder.fingerprint
