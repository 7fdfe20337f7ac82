"""Passages hold the whole text, keep to their size and end where the text does."""

import itertools
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from siftlm.errors import InvalidInput
from siftlm.memory import passages
from siftlm.memory.passages import PassageSpan, split_passages
from siftlm.memory.reading import DocumentBatch

WORDS = re.compile(r"\w+|[^\w\s]")
# As byte-level tokenizers do it: the space belongs to the word behind it, line feeds are tokens.
SPACED = re.compile(r" ?\w+|\n| ?[^\w\s]| ")

texts = st.lists(
    st.sampled_from(["a", "bc", "word", ".", "! ", "? ", " ", " ", "  ", "\n", "\n\n", "\n \n", "\t", "。", "é", "'"]),
    max_size=120,
).map("".join)
patterns = st.sampled_from([WORDS, SPACED])
sizes = st.integers(1, 24).flatmap(lambda size: st.tuples(st.just(size), st.integers(0, size - 1)))


def tokens_of(text, pattern=WORDS):
    return np.array([match.span() for match in pattern.finditer(text)], dtype=np.int64).reshape(-1, 2)


def held(tokens, span):
    """The numbers of the tokens that a passage holds a character of; those of white space do not count."""
    return {n for n, (start, end) in enumerate(tokens) if start < span.end and end > span.start}


def cut(text, size, overlap, pattern=WORDS):
    spans = split_passages(text, tokens_of(text, pattern), size=size, overlap=overlap)
    return [text[span.start : span.end] for span in spans]


@given(texts, sizes, patterns)
def test_every_passage_is_text_and_within_its_size(text, numbers, pattern):
    size, overlap = numbers
    tokens = tokens_of(text, pattern)
    for span in split_passages(text, tokens, size=size, overlap=overlap):
        passage = text[span.start : span.end]
        assert passage
        assert passage == passage.strip()
        assert len(held(tokens, span)) <= size


@given(texts, sizes, patterns)
def test_every_character_is_covered(text, numbers, pattern):
    size, overlap = numbers
    covered = np.zeros(len(text), dtype=bool)
    for span in split_passages(text, tokens_of(text, pattern), size=size, overlap=overlap):
        covered[span.start : span.end] = True
    assert all(covered[n] or character.isspace() for n, character in enumerate(text))


@given(texts, sizes, patterns)
def test_passages_progress_and_overlap_no_more_than_asked(text, numbers, pattern):
    size, overlap = numbers
    tokens = tokens_of(text, pattern)
    spans = split_passages(text, tokens, size=size, overlap=overlap)
    for earlier, later in itertools.pairwise(spans):
        assert earlier.start < later.start
        assert earlier.end < later.end
        assert len(held(tokens, earlier) & held(tokens, later)) <= overlap


@given(texts, patterns, st.integers(0, 5))
def test_a_text_that_fits_stays_whole(text, pattern, more):
    tokens = tokens_of(text, pattern)
    expected = [text.strip()] if text.strip() else []
    size = max(len(tokens) + more, 1)
    assert [text[s.start : s.end] for s in split_passages(text, tokens, size=size, overlap=0)] == expected


@given(st.integers(20, 60), st.integers(0, 15), st.integers(61, 400))
def test_no_last_passage_is_a_scrap(size, overlap, words):
    text = " ".join(["w"] * words)
    found = [len(passage.split()) for passage in cut(text, size, overlap)]
    assert min(found) >= size // 4


@given(texts, sizes, st.data())
def test_tokens_in_any_disorder_lose_nothing(text, numbers, data):
    """Whatever a tokenizer claims: empty tokens, several about one character, tokens past the end of the text."""
    size, overlap = numbers
    places = st.integers(0, len(text) + 3)
    spans = data.draw(st.lists(st.tuples(places, places).map(sorted), max_size=60))
    found = split_passages(text, np.array(sorted(spans), dtype=np.int64).reshape(-1, 2), size=size, overlap=overlap)
    covered = np.zeros(len(text), dtype=bool)
    for span in found:
        assert text[span.start : span.end].strip()
        covered[span.start : span.end] = True
    assert all(covered[n] or character.isspace() for n, character in enumerate(text))
    assert all(earlier.end < later.end for earlier, later in itertools.pairwise(found))


def test_tokens_about_one_character_stay_together():
    text = "a😀b"
    tokens = np.array([[0, 1], [1, 2], [1, 2], [1, 2], [2, 3]])
    assert [text[s.start : s.end] for s in split_passages(text, tokens, size=3, overlap=2)] == ["a", "😀", "b"]


@pytest.mark.parametrize(
    ("separators", "chosen"),
    [
        ([" ", "\n\n", "\n", ". "], "\n\n"),
        ([" ", "\n", ". ", " "], "\n"),
        ([" ", ". ", " ", " "], ". "),
        (["", ".) ", " ", " "], ".) "),
    ],
)
def test_the_best_break_of_the_last_quarter_is_taken(separators, chosen):
    """Sixteen words, of which the cut may leave four to the next passage."""
    words = [f"w{n}" for n in range(30)]
    between = [" "] * 29
    between[11:15] = separators
    text = "".join(word + gap for word, gap in zip(words, [*between, ""], strict=True))
    tokens = np.array([m.span() for m in re.finditer(r"w\d+", text)])
    first = split_passages(text, tokens, size=16, overlap=0)[0]
    assert text[first.end - len(chosen.rstrip()) :].startswith(chosen)


def test_words_of_several_tokens_are_not_cut():
    text = " ".join(["unbelievable"] * 40)
    pieces = np.array([m.span() for m in re.finditer(r"\w{3}", text)])
    found = split_passages(text, pieces, size=18, overlap=5)
    assert len(found) > 5
    assert {word for span in found for word in text[span.start : span.end].split()} == {"unbelievable"}


class RegexTokens:
    """Of an embedder only its tokens, and how many characters it was asked about at once."""

    def __init__(self):
        self.longest = 0

    def tokens(self, texts):
        self.longest = max(self.longest, sum(map(len, texts)))
        return [tokens_of(text) for text in texts]


PIECES = st.lists(st.sampled_from(["a", "bc", "no. ", " ", "\n", "\n\n", "? ", "é", "def ", "."]), max_size=80)


@given(
    st.tuples(PIECES, PIECES, st.integers(1, 12)).map(lambda two: "x" + "".join(two[0] + two[1] * two[2] + two[0])),
    st.integers(40, 60).flatmap(lambda size: st.tuples(st.just(size), st.integers(0, size // 2))),
    st.integers(100, 900),
)
def test_windows_of_a_long_text_give_the_passages_of_the_whole(text, numbers, window):
    size, overlap = numbers
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(passages, "WINDOW_CHARACTERS", window)
        documents = DocumentBatch(["short", text, "another"], [None] * 3, [None] * 3)
        found = passages.cut_documents(documents, RegexTokens(), size, overlap)
    spans = split_passages(text, tokens_of(text), size=size, overlap=overlap)
    assert list(found.texts) == ["short", *(text[span.start : span.end] for span in spans), "another"]
    assert list(found.starts) == [0, *(span.start for span in spans), 0]


def test_a_word_without_end_is_cut_and_never_held_as_a_whole():
    text, embedder = "0123456789abcdef" * 200_000, RegexTokens()
    found = passages.cut_documents(DocumentBatch([text], [None], [None]), embedder, 256, 32)
    assert max(map(len, found.texts)) <= 256 * passages.MAX_TOKEN_CHARACTERS
    assert sum(map(len, found.texts)) >= len(text)
    assert all(text.startswith(part, start) for part, start in zip(found.texts, found.starts, strict=True))
    assert embedder.longest < len(text) / 4


def test_an_empty_text_has_no_passages():
    assert split_passages("", tokens_of(""), size=4, overlap=1) == []
    assert split_passages(" \n ", tokens_of(" \n "), size=4, overlap=1) == []


def test_a_text_without_tokens_is_one_passage():
    assert split_passages(" ☃ ", np.zeros((0, 2), dtype=np.int64), size=4, overlap=1) == [PassageSpan(1, 2)]


@pytest.mark.parametrize(("size", "overlap"), [(0, 0), (4, 4), (4, -1)])
def test_impossible_sizes_are_refused(size, overlap):
    with pytest.raises(InvalidInput, match=f"size={size} and overlap={overlap}"):
        split_passages("a b", tokens_of("a b"), size=size, overlap=overlap)
