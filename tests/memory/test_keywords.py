"""Words for the full-text index: any prompt is a harmless question that finds what it should; merging rankings."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from effort import examples
from siftlm.errors import InvalidInput
from siftlm.memory.keywords import (
    SPACED,
    TOKENIZERS,
    UNSPACED,
    WORDS_SHARE,
    WordFeatures,
    fused_scores,
    match_any,
    query_terms,
    spaced,
    terms,
)

PASSAGES = [
    "the cat and the dog",
    "the café near the sea",
    "the NOT gate AND the OR gate",
    'the rocket 🚀 took off; it\'s "fast"',
    "東京の天気",
    "the Straße in ÅNGSTRÖM",
    "the naïve user_name wrote c++ code",
    "the dog sleeps",
    "the cat sleeps",
    "the sea",
]
CREATE = f'CREATE VIRTUAL TABLE words USING fts5(text, tokenize="{TOKENIZERS[SPACED].fts5}")'


@pytest.fixture(scope="module")
def index() -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(":memory:")) as database:
        database.execute(CREATE)
        database.execute("CREATE VIRTUAL TABLE vocabulary USING fts5vocab('words', 'row')")
        rows = [(number, spaced(text)) for number, text in enumerate(PASSAGES)]
        database.executemany("INSERT INTO words (rowid, text) VALUES (?, ?)", rows)
        yield database


def frequency(index: sqlite3.Connection, wanted: list[str]) -> dict[str, int]:
    known = dict(index.execute("SELECT term, doc FROM vocabulary"))
    return {term: known[term] for term in wanted if term in known}


def found(index: sqlite3.Connection, prompt: str, most: int = 32) -> list[int]:
    wanted = query_terms(prompt, lambda some: frequency(index, some), len(PASSAGES), most)
    if not wanted:
        return []
    query = "SELECT rowid FROM words WHERE words MATCH ? ORDER BY rowid"
    return [row for (row,) in index.execute(query, (match_any(wanted),))]


@pytest.mark.parametrize(
    ("prompt", "rows"),
    [
        ("Which cat?", [0, 8]),
        ("CAFE", [1]),
        ("cafe\u0301", [1]),
        ("NEAR(sea, 2)", [1, 9]),
        ("near*", [1]),
        ("NOT", [2]),
        ("gate AND cat", [0, 2, 8]),
        ('"fast"', [3]),
        ('it"s', [3]),
        ("🚀 rocket 🚀", [3]),
        ("🚀", []),
        ("東京", [4]),
        ("天気", [4]),
        ("京都", [4]),
        ("angstrom STRASSE straße", [5]),
        ("user_name", [6]),
        ("C++", [6]),
        ("text:dog", [0, 7]),
        ("-dog ^sleeps {dog}", [0, 7, 8]),
        ("the", [0, 1, 2, 3, 5, 6, 7, 8, 9]),
        ("the sea", [1, 9]),
        ("nothing known here", []),
        ("", []),
        ("?! \0 \ud800", []),
    ],
)
def test_what_a_prompt_finds(index, prompt, rows):
    assert found(index, prompt) == rows


@given(st.text(st.sampled_from("catdogNEARANDORNOT \"'*()^-+:{}🚀é東京\0"), max_size=30))
def test_no_prompt_is_a_mistake(index, prompt):
    every = frequency(index, terms(prompt))
    rows = found(index, prompt)
    if not every:
        assert rows == []
    else:
        limit = min(3, max(every.values())) if min(every.values()) <= 3 else max(every.values())
        wanted = {term for term, count in every.items() if count <= limit}
        assert rows == [n for n, text in enumerate(PASSAGES) if wanted & set(terms(text))]


@pytest.mark.slow
@settings(max_examples=examples(30))
@given(st.text(st.sampled_from("aZÉßıİΣςé\u0301東京🚀٣ⅫǅᏣក\u00ad\u0b3e'\"*_ \0"), max_size=12))
def test_each_word_of_a_text_finds_the_text(text):
    with closing(sqlite3.connect(":memory:")) as database:
        database.execute(CREATE)
        database.execute("INSERT INTO words VALUES (?)", (spaced(text),))
        for term in terms(text):
            assert query_terms(term, lambda wanted: dict.fromkeys(wanted, 1), 10)[-1:] == [term]
            query = "SELECT count(*) FROM words WHERE words MATCH ?"
            assert database.execute(query, (match_any([term]),)).fetchone() == (1,)


def test_the_rarest_words_come_first_and_common_ones_only_alone():
    counts = {"a": 31, "b": 30, "c": 2, "d": 2, "e": 5}
    assert query_terms("a b c d e f", lambda _: counts, 100) == ["c", "d", "e", "b"]
    assert query_terms("a b c d e f", lambda _: counts, 100, most=2) == ["c", "d"]
    assert query_terms("a f", lambda _: counts, 100) == ["a"]
    assert query_terms("f g", lambda _: counts, 100) == []
    with pytest.raises(InvalidInput, match="most"):
        query_terms("a", lambda _: counts, 100, most=0)


def test_words_are_asked_for_once_each_and_in_order():
    asked = []

    def remember(wanted: list[str]) -> dict[str, int]:
        asked.append(wanted)
        return {}

    assert query_terms("To be, or not to BE", remember, 10) == []
    assert asked == [["to", "be", "or", "not"]]


SIGNS = "がかー々・、。東京都の天気中国กรุงเทที่ฯ ๆກຂໄ់ក្រုမြန်𠮷aé1 \n"


@given(st.text(st.sampled_from(SIGNS), max_size=20))
def test_spaces_between_signs_lose_nothing_of_a_text(text):
    # What is between the runs stays; each run becomes its signs and their pairs.
    assert set("".join(spaced(text).split())) == set("".join(text.split()))
    assert spaced(spaced("")) == ""
    for before, after in pairwise(text):
        if before in "東京都天気中国" and after in "東京都天気中国":
            assert {before, after, before + after} <= set(terms(text))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("私は東京の大学で日本語を勉強しています", ["東京", "大学", "日本語", "勉強"]),
        ("北京是中华人民共和国的首都", ["北京", "首都", "人民"]),
        ("กรุงเทพมหานครเป็นเมืองหลวงของประเทศไทย", ["เมืองหลวง", "ประเทศ", "ไทย"]),
    ],
)
def test_words_are_found_inside_a_run(text, words):
    for word in words:
        assert set(terms(word)) <= set(terms(text))
    assert not set(terms(words[0], UNSPACED)) <= set(terms(text, UNSPACED)), "which FTS5 alone does not find"


SCORES = st.lists(st.floats(0, 30, width=16), min_size=3, max_size=3)


@given(st.lists(st.tuples(st.floats(-1, 1), st.floats(0, 40)), max_size=8))
def test_scores_are_fused_as_defined(pairs):
    cosines, words = (np.array([pair[at] for pair in pairs]) for at in (0, 1))
    best = max((word for _, word in pairs), default=0) or 1
    expected = [(1 - WORDS_SHARE) * cosine + WORDS_SHARE * (word / best) for cosine, word in pairs]
    np.testing.assert_allclose(fused_scores(cosines, words), expected, atol=1e-15)


@given(st.lists(SCORES, min_size=1, max_size=6))
def test_features_multiply_to_the_score_by_words(rows):
    parts = np.array(rows)
    features = WordFeatures.of(parts)
    whole = parts.sum(axis=1)
    np.testing.assert_allclose(features.passages @ features.prompt, whole / (whole.max() or 1), atol=1e-9)
    assert features.prompt @ features.prompt >= (1 - 1e-9 if parts.any() else 0)
    assert (np.linalg.norm(features.passages, axis=1) <= 1 + 1e-9).all()
    prompts, vectors = np.array([[0.6, 0.8]]), np.tile([1.0, 0.0], (len(rows), 1))
    mixed = features.passages_beside(vectors) @ features.prompt_beside(prompts).T
    np.testing.assert_allclose(mixed[:, 0], fused_scores(vectors @ prompts[0], whole), atol=1e-6)
