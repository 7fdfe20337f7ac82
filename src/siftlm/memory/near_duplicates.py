"""Near-duplicates: MinHash over shingles of five words, and copies of a prompt."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from siftlm.embedding.hashing import splitmix64, word_hash
from siftlm.types import BoolArray, FloatArray, IntArray
from siftlm.validation import number, whole_number

SHINGLE_WORDS = 5
MINHASH_VALUES = 128
_TEXTS_PER_BLOCK = 256
_MIN_RECALL = 0.98

# Scripts without spaces count letter by letter: Thai, Lao, kana and Han.
_UNSPACED = "\u0e00-\u0eff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\U00020000-\U0003ffff"
_WORD = re.compile(rf"[{_UNSPACED}]|[^\W_{_UNSPACED}]+")
# The same for ASCII, several times faster.
_ASCII_FOLD = {at: chr(at).lower() if chr(at).isalnum() else " " for at in range(128)}

Hashes = npt.NDArray[np.uint64]


@dataclass(frozen=True, eq=False)
class Shingles:
    """The shingles of several texts, one text after the other, repeats included."""

    values: Hashes
    """(m,) hashes that are the same on every machine."""
    starts: IntArray
    """(n + 1,) where the shingles of each text begin; every text has at least one."""


def shingles(texts: Sequence[str]) -> Shingles:
    """Every run of five words. A shorter text is one shingle, equal only to that of a text of the same words."""
    split = [_shingle_words(text) for text in texts]
    lengths = np.array([len(words) for words in split], dtype=np.int64)
    together = [word for words in split for word in words]
    if not together:
        return Shingles(np.empty(0, dtype=np.uint64), np.zeros(1, dtype=np.int64))
    known = _WordNumbers()
    numbers = np.fromiter(map(known.__getitem__, together), dtype=np.int64, count=len(together))
    hashed = np.array([word_hash(word) for word in known], dtype=np.uint64)[numbers]
    runs = np.zeros(len(hashed) - SHINGLE_WORDS + 1, dtype=np.uint64)
    for offset, factor in enumerate(_random_stream(0, SHINGLE_WORDS)):
        runs += hashed[offset : offset + len(runs)] * factor
    whole = np.ones(len(runs), dtype=bool)
    borders = np.cumsum(lengths)[:-1]
    whole[(borders[:, None] - np.arange(1, SHINGLE_WORDS)).ravel()] = False
    return Shingles(splitmix64(runs[whole]), np.concatenate([[0], np.cumsum(lengths - SHINGLE_WORDS + 1)]))


def similarity(a: str, b: str) -> float:
    """The share of their distinct shingles that both have.

    >>> similarity("The cat sat on the mat, purring.", "the cat sat on the mat. Purring!")
    1.0
    >>> similarity("One, two, three, four, five, six", "one two three four five seven")
    0.3333333333333333
    """
    both_texts = shingles([a, b])
    first, second = np.split(both_texts.values, both_texts.starts[1:2])
    both = len(np.intersect1d(first, second))
    return both / (len(np.unique(first)) + len(np.unique(second)) - both)


class Near:
    """Keys by which near-duplicates find each other: texts that share a key are candidates.

    >>> near = Near(0.8)
    >>> (near.count, near.rows)
    (11, 11)
    >>> [round(near.chance(s), 2) for s in (0.5, 0.6, 0.7, 0.8, 0.9, 1.0)]
    [0.01, 0.04, 0.2, 0.63, 0.98, 1.0]
    """

    def __init__(self, threshold: float = 0.8, seed: int = 0) -> None:
        self.threshold = number("threshold", threshold, above=0, most=1)
        self.seed = whole_number("seed", seed, least=0, most=2**63 - 1)
        self.rows = _rows_per_band(self.threshold)
        self.count = MINHASH_VALUES // self.rows
        """b, the number of keys a text has."""
        stream = _random_stream(self.seed + 1, 2 * MINHASH_VALUES)
        self._factors, self._shifts = stream[:MINHASH_VALUES] | np.uint64(1), stream[MINHASH_VALUES:]
        self._weights = _random_stream(self.seed + 2, self.rows)

    def bands(self, texts: Sequence[str]) -> IntArray:
        """(n, b) keys of 64 bits, the same on every machine; a band's keys never equal another band's but by chance."""
        parts = [self._bands(texts[at : at + _TEXTS_PER_BLOCK]) for at in range(0, len(texts), _TEXTS_PER_BLOCK)]
        return np.concatenate(parts) if parts else np.empty((0, self.count), dtype=np.int64)

    def chance(self, similarity: float) -> float:
        """How probably two texts of this similarity share a key."""
        return float(_match_probability(similarity, self.rows))

    def similarity(self, a: str, b: str) -> float:
        """`similarity`."""
        return similarity(a, b)

    def _bands(self, texts: Sequence[str]) -> IntArray:
        runs = shingles(texts)
        used = self.count * self.rows
        smallest = np.empty((len(texts), used), dtype=np.uint64)
        permuted = np.empty_like(runs.values)
        for at in range(used):
            np.multiply(runs.values, self._factors[at], out=permuted)
            permuted += self._shifts[at]
            np.minimum.reduceat(permuted, runs.starts[:-1], out=smallest[:, at])
        # Mixed before they are added up, so that a band is more than a sum of its values.
        bundles = (splitmix64(smallest).reshape(len(texts), self.count, self.rows) * self._weights).sum(axis=2)
        return splitmix64(bundles + np.arange(self.count, dtype=np.uint64)).view(np.int64)


def _match_probability(similarity: Any, rows: int) -> Any:
    return 1 - (1 - similarity**rows) ** (MINHASH_VALUES // rows)


def _rows_per_band(threshold: float) -> int:
    """The most rows of a band with which nearly all pairs well above the threshold are still found.

    More rows find less of everything. "Well above" is a tenth, or halfway to identical where there is no room.
    """
    above = min(threshold + 0.1, (threshold + 1) / 2)
    return max(
        rows for rows in range(1, MINHASH_VALUES + 1) if rows == 1 or _match_probability(above, rows) >= _MIN_RECALL
    )


def _shingle_words(text: str) -> list[str]:
    """At least five words, filled up with what no text holds as a word."""
    if text.isascii():
        words = text.translate(_ASCII_FOLD).split()
    else:
        words = _WORD.findall(unicodedata.normalize("NFKC", text).casefold())
    words = words or ["\0" + text.strip()]
    return words + [""] * (SHINGLE_WORDS - len(words))


class _WordNumbers(dict[str, int]):
    """Numbers words in the order of their first use."""

    def __missing__(self, word: str) -> int:
        self[word] = position = len(self)
        return position


def _random_stream(seed: int, count: int) -> Hashes:
    """Random numbers that no version of numpy changes (splitmix64)."""
    start = splitmix64(np.array([seed], dtype=np.uint64))
    return splitmix64(start + np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15))


COPY_THRESHOLD = 0.8


def copy_mask(prompt: str, texts: Sequence[str], threshold: float = COPY_THRESHOLD) -> BoolArray:
    """(len(texts),) which of them share at least ``threshold`` of either side's runs of five words with the prompt.

    See `Originals.shares`. A text or a prompt of fewer than five words is a copy only of the very same words.

    >>> prompt = "Four score and seven years ago our fathers brought forth a new nation"
    >>> copy_mask(prompt, ["score, and seven years ago our fathers", "Our fathers.", "He said: " + prompt]).tolist()
    [True, False, True]
    """
    number("threshold", threshold, above=0, most=1)
    answer: BoolArray = Originals([prompt]).shares(texts) >= threshold
    return answer


class Originals:
    """Texts of which others may be copies.

    >>> Originals(["one two three four five six", "a b c d e"]).shares(["Zero one two three four five", "A, B: c d e!"])
    array([0.5, 1. ])
    """

    def __init__(self, texts: Sequence[str]) -> None:
        runs = shingles(texts)
        lengths = np.diff(runs.starts)
        owners = np.repeat(np.arange(len(texts)), lengths)
        order = np.lexsort((owners, runs.values))
        values, owners = runs.values[order], owners[order]
        new = np.ones(len(values), dtype=bool)
        new[1:] = (values[1:] != values[:-1]) | (owners[1:] != owners[:-1])
        # Each run of each text once, with how often the text has it.
        first = np.flatnonzero(new)
        self._values, self._owners = values[first], owners[first]
        self._times = np.diff(np.append(first, len(values)))
        self._lengths, self._count = lengths, len(texts)

    def shares(self, texts: Sequence[str]) -> FloatArray:
        """(len(texts),) the largest share of runs of five words that a text has in common with one of the originals.

        Counted is the larger of the share of the text's runs that the original has too, and of the original's that the
        text has. So a passage cut out of an original is a copy, and so is a document that holds one. Case, punctuation
        and spaces do not count.
        """
        answer = np.zeros(len(texts))
        if not len(texts) or not self._count:
            return answer
        runs = shingles(texts)
        lengths = np.diff(runs.starts)
        low = np.searchsorted(self._values, runs.values, side="left")
        hit = np.flatnonzero(self._values[np.minimum(low, len(self._values) - 1)] == runs.values)
        low = low[hit]
        found = np.searchsorted(self._values, runs.values[hit], side="right") - low
        # A row for each run of a text and each original that has it too.
        place = np.repeat(low - np.cumsum(found) + found, found) + np.arange(found.sum())
        reader = np.repeat(np.repeat(np.arange(len(texts)), lengths)[hit], found)
        pairs, at = np.unique(reader * self._count + self._owners[place], return_inverse=True)
        text, original = pairs // self._count, pairs % self._count
        of_text = np.bincount(at, minlength=len(pairs)) / lengths[text]
        # A run of the original counts once for a text, however often the text repeats it.
        once = np.unique(reader * len(self._values) + place, return_index=True)[1]
        of_original = np.bincount(at[once], self._times[place[once]], minlength=len(pairs)) / self._lengths[original]
        np.maximum.at(answer, text, np.maximum(of_text, of_original))
        return answer
