"""The static embedder: BERT's tokenizer, a table that understands words, and hashing beside it."""

from __future__ import annotations

import hashlib
import pickle
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedding.texts import any_texts, assert_same_bits, passage
from siftlm import sample
from siftlm.embedding import HashingEmbedder, batches, embedder, static, words
from siftlm.embedding.batches import StaticBatches
from siftlm.embedding.static import TABLE_FILE, TABLE_WIDTH, StaticEmbedder, WordPiece, shipped_table, static_vector
from siftlm.errors import Damaged, InvalidInput, UnknownName
from siftlm.memory import Memory

ODD = [
    "",
    " \t\r\n",
    "naïve café, CAFE\u0301 Ångström ǅ İstanbul ΣΊΣΥΦΟΣ straße ﬁne",
    "snake_case CamelCase don't e.g. 3.14 $5 a+b=c C:\\temp <tag/> @user #1",
    "日本語のテキスト 水 한국어 नमस्ते العربية עברית ไทย русский",
    "😀👩‍👩‍👧 \u202eabc\u200b zero\u00a0width\u3000spaces\x85 bell\x07 nul\x00 \ufffd ≠ ½ ²",
    "a" * 100 + " " + "a" * 101 + " antidisestablishmentarianism asyncio.gather",
    "[UNK] [CLS] [MASK] ##ing",
]


def pieces() -> list[str]:
    with np.load(TABLE_FILE) as file:
        return file["pieces"].tobytes().decode("ascii").split("\n")


# --- the tokenizer


@pytest.fixture(scope="module")
def published():
    """The numbers of a text by the library that BERT's tokenizer is in, with the pieces of the table."""
    tokenizers = pytest.importorskip("tokenizers")
    known = {piece: number for number, piece in enumerate(pieces())}
    unknown = len(known)
    made = tokenizers.Tokenizer(tokenizers.models.WordPiece({**known, "[UNK]": unknown}, unk_token="[UNK]"))
    made.normalizer = tokenizers.normalizers.BertNormalizer(lowercase=True)
    made.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    return lambda text: [number for number in made.encode(text).ids if number != unknown]


def test_the_tokenizer_is_the_published_one(published):
    numbers = shipped_table().tokenizer.numbers
    some = [*ODD, *(document.text for number, document in enumerate(sample.documents()) if number % 40 == 0)]
    assert len(some) > 80
    for text in some:
        assert numbers(text) == published(text)


# Later characters are unknown to the Unicode tables of one or the other.
@given(
    st.text(st.characters(max_codepoint=0x2FF), max_size=40) | st.text("aZé .-_'Σσςİ水ち\u0301\u200b\n", max_size=20)
)
def test_the_tokenizer_is_the_published_one_on_any_text(published, text):
    assert shipped_table().tokenizer.numbers(text) == published(text)


def test_the_longest_piece_wins_and_a_word_is_known_as_a_whole_or_not_at_all():
    numbers = WordPiece(["tide", "tid", "##e", "##s", "ti", "q"]).numbers
    assert numbers("tides TIDE tid ties") == [0, 3, 0, 1, 4, 2, 3]
    assert numbers("tidex qx x") == []


@given(st.lists(st.text("abeginrstzéA09_.", min_size=1, max_size=18), max_size=30), st.sampled_from([0, 100]))
def test_pieces_of_many_words_are_those_of_each(some, many):
    tokenizer = shipped_table().tokenizer
    with patch.object(batches, "MANY_WORDS", many):
        numbers, lengths = batches._shipped_search().numbers_of_words(some)
    assert numbers.tolist() == [number for word in some for number in tokenizer.numbers(word)]
    assert lengths.tolist() == [len(tokenizer.numbers(word)) for word in some]


# --- the vectors


@given(st.lists(any_texts, max_size=6), st.sampled_from([0, 0.4, 1]))
def test_a_batch_is_its_texts_one_by_one_bit_for_bit(batch, share):
    found = StaticBatches(share, 32).embed(batch)
    assert len(found) == len(batch)
    for row, text in zip(found, batch, strict=True):
        assert_same_bits(row, static_vector(text, share, 32))


@given(st.lists(any_texts, max_size=6), st.sampled_from([0, 0.4]), st.sampled_from([0, 3, 256]))
def test_an_embedder_has_the_same_bits_either_way(batch, share, characters):
    with patch.multiple(static, FEW_CHARACTERS=characters, FEW_CHARACTERS_OF_PIECES=characters):
        found = StaticEmbedder(words=share, words_width=32).embed(batch)
    assert len(found) == len(batch)
    for row, text in zip(found, batch, strict=True):
        assert_same_bits(row, static_vector(text, share, 32))


@pytest.mark.parametrize(("share", "length"), [(0.4, 64), (0, 375)])
def test_few_short_texts_are_read_one_by_one(share, length):
    made = StaticEmbedder(words=share, words_width=32)
    with patch.object(StaticBatches, "embed", autospec=True, side_effect=StaticBatches.embed) as embed:
        made.embed(["a" * length] * 4)
        assert not embed.called
        made.embed(["a" * length] * 3 + ["a" * (length + 1)])
    assert embed.called


def test_passages_are_the_same_bit_for_bit():
    batch = [*ODD, *(document.text for number, document in enumerate(sample.documents()) if number % 10 == 0)]
    for row, text in zip(StaticBatches(0, 32).embed(batch), batch, strict=True):
        assert_same_bits(row, static_vector(text, 0, 32))


def test_a_text_of_all_pieces_is_added_up_in_exact_parts():
    text = " ".join(pieces()) + " tide" * 5000
    assert_same_bits(StaticBatches(0, 32).embed(["tide", text])[1], static_vector(text, 0, 32))


@pytest.mark.slow
def test_every_character_has_the_pieces_that_it_has_within_a_text():
    batch = [f"a{chr(code)}b {chr(code)}" for code in range(0x110000)]
    tokenizer = shipped_table().tokenizer
    for chunk in words.WordReader(batches.KnownPieces()).read(batch):
        counted = batches._piece_counts(chunk, chunk.known[0])
        found = sorted(zip(counted.rows.tolist(), counted.pieces.tolist(), counted.counts.tolist(), strict=True))
        numbers = (Counter(tokenizer.numbers(text)) for text in batch[chunk.start : chunk.end])
        assert found == sorted((row, piece, count) for row, own in enumerate(numbers) for piece, count in own.items())


@given(st.randoms(use_true_random=False), st.integers(1, 400), st.integers(1, 60))
def test_chunks_and_forgetting_and_order_change_nothing(random, characters, known):
    batch = [passage(random) for _ in range(8)]
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(words, "CHUNK_CHARACTERS", characters)
        patched.setattr(words, "MAX_CACHED_WORDS", known)
        made = StaticBatches(0.4, 32)
        first = made.embed(batch)
        assert_same_bits(made.embed(batch[::-1]), first[::-1])
    for row, text in zip(first, batch, strict=True):
        assert_same_bits(row, static_vector(text, 0.4, 32))


def test_all_words_is_hashing():
    hashed = HashingEmbedder(width=64).embed(["the tide"])[0]
    found = StaticEmbedder(words=1, words_width=64).embed(["the tide"])[0]
    np.testing.assert_allclose(found, np.concatenate([np.zeros(TABLE_WIDTH), hashed]), atol=1e-6)


@given(any_texts, st.sampled_from([0, 0.4, 1]))
def test_whatever_is_not_space_has_unit_length(text, share):
    length = np.linalg.norm(StaticEmbedder(words=share, words_width=32).embed([text])[0])
    assert length == pytest.approx(1.0 if text.strip() else 0.0, abs=1e-5)


@pytest.mark.parametrize(
    ("text", "near", "far"),
    [
        ("the doctor saw a patient", "medicine and hospitals", "the sailor saw a whale"),
        ("boats", "ships at sea", "coats"),
        ("The movie was awful.", "a terrible film", "The weather was awful."),
    ],
)
def test_the_table_knows_what_is_near_without_a_word_in_common(text, near, far):
    vectors = embedder("static", words=0).embed([text, near, far])
    assert vectors[0] @ vectors[1] > vectors[0] @ vectors[2] + 0.02


@pytest.mark.slow
@pytest.mark.parametrize(
    ("question", "source"),
    [("How does asyncio.gather handle exceptions?", "asyncio"), ("Find the smallest elements of a heap", "heapq")],
)
def test_questions_find_what_they_ask_about(question, source):
    # Hashing alone finds school mathematics, by the words that all questions share.
    documents = list(sample.documents())
    made = embedder("static")
    similar = made.embed([document.text for document in documents]) @ made.embed([question])[0]
    assert documents[int(similar.argmax())].meta["source"] == source


def test_a_text_that_the_table_cannot_read_is_known_by_its_words():
    first, same, other = embedder("static").embed(["русский язык", "русский Язык", "другой народ"])
    assert first @ same > 0.99
    assert first @ other < 0.3
    assert not first[:TABLE_WIDTH].any()


# --- the same everywhere and always

# A change of these needs another STATIC_VERSION: vectors on people's disks were made this way.
TABLE_DIGEST = "bedc5d1d527591f2e64b580fa9de67befba24e76e054d1a35f5ae509798333fc"
PINNED = [-0.0330718, 0.1377121, 0.0784777, 0.0943034]


def test_the_table_is_pinned():
    with np.load(TABLE_FILE) as file:
        arrays = [file[name] for name in ("columns", "weights", "pieces")]
    assert arrays[0].shape == (TABLE_WIDTH, len(pieces())) == (TABLE_WIDTH, len(arrays[1]))
    assert hashlib.sha256(b"".join(array.tobytes() for array in arrays)).hexdigest() == TABLE_DIGEST
    assert TABLE_FILE.stat().st_size < 4_500_000


def test_the_values_and_the_fingerprint_are_pinned():
    vector = StaticEmbedder(words=0).embed(["The quick brown fox jumps over the lazy dog."])[0]
    np.testing.assert_allclose(vector[:4], PINNED, atol=1e-6)
    assert StaticEmbedder().fingerprint == "static:bd66b8dc778ac4c70b442e5e"


def test_settings_that_change_vectors_change_the_fingerprint():
    made = [
        StaticEmbedder(),
        StaticEmbedder(words=0),
        StaticEmbedder(words=0.5),
        StaticEmbedder(words_width=256),
    ]
    assert [one.width for one in made] == [768, 256, 768, 512]
    assert len({one.fingerprint for one in made}) == len(made)
    assert StaticEmbedder(words=0, words_width=9).fingerprint == made[1].fingerprint
    for one in made:
        again = embedder(one.name, **one.settings)
        assert again.fingerprint == one.fingerprint
        assert again.embed(["tide"]).shape == (1, one.width)


def test_an_embedder_can_be_pickled_without_its_table():
    made = StaticEmbedder(words_width=64)
    made.embed(["a word or two"] * 9)
    packed = pickle.dumps(made)
    assert len(packed) < 2000
    again = pickle.loads(packed)
    np.testing.assert_array_equal(again.embed(["other words"] * 9), made.embed(["other words"] * 9))
    assert again.fingerprint == made.fingerprint


@pytest.mark.slow
@pytest.mark.parametrize(
    "shared", [StaticEmbedder(words_width=32), StaticBatches(0.4, 32)], ids=["one by one", "at once"]
)
def test_threads_share_an_embedder_and_get_what_one_thread_gets(shared):
    texts = [[f"word{n * 7 % 1000} and tide{n * thread % 97} of {n}" for n in range(200)] for thread in range(8)]
    expected = [StaticEmbedder(words_width=32).embed(own) for own in texts]
    # Few words are kept, so they are forgotten and learned all the time.
    with patch.object(words, "MAX_CACHED_WORDS", 50), ThreadPoolExecutor(8) as pool:
        jobs = [pool.submit(lambda own=own: [shared.embed([text])[0] for text in own]) for own in texts]
        for job, vectors in zip(jobs, expected, strict=True):
            np.testing.assert_array_equal(np.array(job.result()), vectors)


# --- with the rest


def test_a_memory_keeps_it_and_finds_by_it(tmp_path):
    passages = ["Boats rest in the harbour.", "The oven is too hot for bread.", "A melody in three parts."]
    Memory.build(passages, tmp_path / "memory", embedder="static", progress=False).close()
    with Memory.open(tmp_path / "memory") as memory:
        assert memory.embedder.name == "static"
        assert memory.search("ships at sea", 1, method="nearest")[0].text == passages[0]


def test_long_documents_are_cut_by_words():
    assert StaticEmbedder().tokens(["Oh no!"])[0].tolist() == [[0, 2], [3, 5], [5, 6]]


def test_what_is_wrong_is_said(tmp_path, monkeypatch):
    with pytest.raises(InvalidInput, match="words must be a number from 0 to 1"):
        embedder("static", words=1.5)
    with pytest.raises(InvalidInput, match="words_width must be a whole number ≥ 1"):
        embedder("static", words_width=0)
    with pytest.raises(UnknownName, match="did you mean 'words'"):
        embedder("static", word=0.5)
    for content in (None, b"none", TABLE_FILE.read_bytes()[:5000]):
        if content is not None:
            (tmp_path / "static.npz").write_bytes(content)
        monkeypatch.setattr(static, "TABLE_FILE", tmp_path / "static.npz")
        with pytest.raises(Damaged, match="table of the static embedder cannot be read"):
            static.shipped_table.__wrapped__()
