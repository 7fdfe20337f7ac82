"""Words for the full-text index: any prompt is a harmless question that finds what it should; merging rankings."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from effort import examples
from siftlm.errors import InvalidInput
from siftlm.memory.keywords import FTS5_TOKENIZER, match_query, reciprocal_rank_fusion, terms

PASSAGES = [
    "the cat and the dog",
    "the café near the sea",
    "the NOT gate AND the OR gate",
    'the rocket 🚀 took off; it\'s "fast"',
    "東京 の 天気",
    "the Straße in ÅNGSTRÖM",
    "the naïve user_name wrote c++ code",
    "the dog sleeps",
    "the cat sleeps",
    "the sea",
]


@pytest.fixture(scope="module")
def index() -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(":memory:")) as database:
        database.execute(f"CREATE VIRTUAL TABLE words USING fts5(text, tokenize='{FTS5_TOKENIZER}')")
        database.execute("CREATE VIRTUAL TABLE vocabulary USING fts5vocab('words', 'row')")
        rows = list(enumerate(PASSAGES))
        database.executemany("INSERT INTO words (rowid, text) VALUES (?, ?)", rows)
        yield database


def frequency(index: sqlite3.Connection, wanted: list[str]) -> dict[str, int]:
    known = dict(index.execute("SELECT term, doc FROM vocabulary"))
    return {term: known[term] for term in wanted if term in known}


def found(index: sqlite3.Connection, prompt: str, most: int = 32) -> list[int]:
    match = match_query(prompt, lambda wanted: frequency(index, wanted), len(PASSAGES), most)
    if match is None:
        return []
    query = "SELECT rowid FROM words WHERE words MATCH ? ORDER BY rowid"
    return [row for (row,) in index.execute(query, (match,))]


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
        database.execute(f"CREATE VIRTUAL TABLE words USING fts5(text, tokenize='{FTS5_TOKENIZER}')")
        database.execute("INSERT INTO words VALUES (?)", (text,))
        for term in terms(text):
            match = match_query(term, lambda wanted: dict.fromkeys(wanted, 1), 10)
            assert match is not None
            assert database.execute("SELECT count(*) FROM words WHERE words MATCH ?", (match,)).fetchone() == (1,)


def test_the_rarest_words_come_first_and_common_ones_only_alone():
    counts = {"a": 31, "b": 30, "c": 2, "d": 2, "e": 5}
    assert match_query("a b c d e f", lambda _: counts, 100) == '"c" OR "d" OR "e" OR "b"'
    assert match_query("a b c d e f", lambda _: counts, 100, most=2) == '"c" OR "d"'
    assert match_query("a f", lambda _: counts, 100) == '"a"'
    assert match_query("f g", lambda _: counts, 100) is None
    with pytest.raises(InvalidInput, match="most"):
        match_query("a", lambda _: counts, 100, most=0)


def test_words_are_asked_for_once_each_and_in_order():
    asked = []

    def remember(wanted: list[str]) -> dict[str, int]:
        asked.append(wanted)
        return {}

    assert match_query("To be, or not to BE", remember, 10) is None
    assert asked == [["to", "be", "or", "not"]]


RANKINGS = st.lists(st.lists(st.integers(0, 12), unique=True, max_size=8), max_size=4)


def fused(rankings: list[list[int]], k: int, constant: int) -> list[int]:
    """The definition, in exact numbers."""
    sums: dict[int, Fraction] = {}
    best: dict[int, int] = {}
    for ranking in rankings:
        for rank, one in enumerate(ranking, start=1):
            sums[one] = sums.get(one, Fraction(0)) + Fraction(1, constant + rank)
            best[one] = min(best.get(one, rank), rank)
    return sorted(sums, key=lambda one: (-sums[one], best[one], one))[:k]


@given(RANKINGS, st.integers(0, 15), st.sampled_from([0, 1, 60]))
def test_rankings_are_merged_as_defined(rankings, k, constant):
    arrays = [np.array(ranking, dtype=np.int64) for ranking in rankings]
    answer = reciprocal_rank_fusion(arrays, k, constant)
    assert answer.dtype == np.int64
    assert answer.tolist() == fused(rankings, k, constant)
    np.testing.assert_array_equal(reciprocal_rank_fusion(arrays[::-1], k, constant), answer)


def test_a_ranking_cannot_be_cut_to_less_than_nothing():
    with pytest.raises(InvalidInput, match="must be a whole number ≥ 0, got -1"):
        reciprocal_rank_fusion([np.array([1])], -1)
