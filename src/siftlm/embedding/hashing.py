"""Tokens without a tokenizer: words, and whatever else is no space, one character at a time."""

from __future__ import annotations

import hashlib
import re
import threading
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt

from siftlm.embedding.protocol import fingerprint
from siftlm.types import FloatArray, IntArray, Vectors
from siftlm.validation import list_of_texts, whole_number

WORD_OR_SIGN = re.compile(r"\w+|[^\w\s]")


def word_spans(texts: list[str]) -> list[IntArray]:
    """For each text, (t, 2): where its words and signs start and end.

    >>> word_spans(["Oh no!"])[0].tolist()
    [[0, 2], [3, 5], [5, 6]]
    """
    spans = ([match.span() for match in WORD_OR_SIGN.finditer(text)] for text in texts)
    return [np.array(found, dtype=np.int64).reshape(-1, 2) for found in spans]


# Counted up whenever the same text would get another vector.
HASHING_VERSION = 1

# The weights of a word, of all its n-grams together, and of a pair of words; whole numbers. Short words are the
# frequent ones and say the least about the subject, so only longer words count by their n-grams as well.
WORD_WEIGHT, NGRAMS_WEIGHT, PAIR_WEIGHT = 64, 80, 16
NGRAM_LENGTHS = (4, 5)
MIN_NGRAM_WORD_LENGTH = 4

# Texts are worked on in chunks of about so many characters, and so many words are remembered between chunks.
CHUNK_CHARACTERS = 1 << 20
MAX_CACHED_WORDS = 1 << 17

Hashes = npt.NDArray[np.uint64]


class HashingEmbedder:
    """Signed feature hashing of words, word pairs and character n-grams; numpy alone.

    >>> vectors = HashingEmbedder(width=512).embed(["a red apple", "red apples", "rain in Bergen"])
    >>> bool(vectors[0] @ vectors[1] > vectors[0] @ vectors[2])
    True
    """

    name = "hashing"
    max_tokens = None

    def __init__(self, *, width: int = 512) -> None:
        self.width = whole_number("width", width)
        self._words = _WordCache(self.width)
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        """What travels to another process: neither the lock nor the words, which are soon learned again."""
        return {name: value for name, value in vars(self).items() if name not in ("_lock", "_words")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._words, self._lock = _WordCache(self.width), threading.Lock()

    @property
    def settings(self) -> dict[str, Any]:
        return {"width": self.width}

    @property
    def fingerprint(self) -> str:
        return fingerprint("hashing", {"version": HASHING_VERSION, "width": self.width})

    def embed(self, texts: Sequence[str], *, as_query: bool = False) -> Vectors:
        """(n, width) of unit length; zero for a text of nothing but space. Questions are treated as passages are."""
        del as_query
        texts = list_of_texts("texts", texts)
        vectors = np.zeros((len(texts), self.width), dtype=np.float32)
        for start, end in _text_chunks(texts):
            with self._lock:  # the words learned are shared between threads
                vectors[start:end] = self._embed_chunk(texts[start:end])
        return vectors

    def tokens(self, texts: Sequence[str]) -> list[IntArray]:
        """Words and single punctuation characters."""
        return word_spans(list_of_texts("texts", texts))

    def _embed_chunk(self, texts: list[str]) -> Vectors:
        words = [WORD_OR_SIGN.findall(_casefolded(text)) for text in texts]
        numbers = self._words.numbers(words)
        rows = np.repeat(np.arange(len(texts)), [len(found) for found in words])
        sums = self._sum_of_words(rows, numbers, len(texts)) + self._sum_of_pairs(rows, numbers, len(texts))
        # Opposite signs may cancel; a text that says anything must still be somewhere.
        for row in np.flatnonzero(~sums.any(axis=1)):
            if words[row]:
                sums[row, word_hash("".join(words[row])) % self.width] = 1.0
        lengths = np.sqrt(np.einsum("nd,nd->n", sums, sums))
        vectors: Vectors = (sums / np.maximum(lengths, 1.0)[:, None]).astype(np.float32)
        return vectors

    def _sum_of_words(self, rows: IntArray, numbers: IntArray, n: int) -> FloatArray:
        memory = self._words
        keys, counts = np.unique(rows * len(memory) + numbers, return_counts=True)
        rows, numbers = np.divmod(keys, len(memory))
        lengths = memory.ends[numbers] - memory.starts[numbers]
        which = np.repeat(np.arange(len(numbers)), lengths)
        # Positions of all features of all words: each word's start, then counting up.
        within = np.arange(len(which)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        features = memory.starts[numbers][which] + within
        weights = memory.weights[features] * _damped_counts(counts)[which]
        return self._added_up(rows[which], memory.places[features], weights, n)

    def _sum_of_pairs(self, rows: IntArray, numbers: IntArray, n: int) -> FloatArray:
        memory, known = self._words, len(self._words)
        same = rows[:-1] == rows[1:]
        keys = (rows[:-1][same] * known + numbers[:-1][same]) * known + numbers[1:][same]
        keys, counts = np.unique(keys, return_counts=True)
        rest, second = np.divmod(keys, known)
        rows, first = np.divmod(rest, known)
        hashes = _splitmix64(memory.hashes[first] * np.uint64(0x9E3779B97F4A7C15) + memory.hashes[second])
        weights = _signs(hashes) * PAIR_WEIGHT * _damped_counts(counts)
        return self._added_up(rows, _buckets(hashes, self.width), weights, n)

    def _added_up(self, rows: IntArray, places: IntArray, weights: IntArray, n: int) -> FloatArray:
        sums = np.bincount(rows * self.width + places, weights.astype(np.float64), n * self.width)
        return sums.astype(np.float64, copy=False).reshape(n, self.width)


@dataclass
class _WordCache:
    """Every word seen lately: its hash, and where it and its pieces are added, with what weight."""

    width: int

    def __post_init__(self) -> None:
        self.forget()

    def __len__(self) -> int:
        return len(self._number)

    def forget(self) -> None:
        self._number: dict[str, int] = {}
        self.hashes: Hashes = np.empty(0, np.uint64)
        nothing: IntArray = np.empty(0, np.int64)
        self.starts = self.ends = self.places = self.weights = nothing

    def numbers(self, texts: list[list[str]]) -> IntArray:
        """The words' numbers, text after text; new words are learned first."""
        distinct = set().union(*texts) if texts else set()
        new = [word for word in distinct if word not in self._number]
        if new and len(self) + len(new) > MAX_CACHED_WORDS:
            self.forget()
            new = list(distinct)
        if new:
            self._learn(new)
        found = map(self._number.__getitem__, chain.from_iterable(texts))
        return np.fromiter(found, np.int64, sum(map(len, texts)))

    def _learn(self, words: list[str]) -> None:
        self._number.update(zip(words, range(len(self), len(self) + len(words)), strict=True))
        hashes = np.array([word_hash(word) for word in words], np.uint64)
        owners, pieces = _ngram_hashes(words)
        counts = np.bincount(owners, minlength=len(words))
        share = NGRAMS_WEIGHT / np.sqrt(np.maximum(counts, 1))

        owners = np.concatenate([np.arange(len(words)), owners])
        features = np.concatenate([hashes, pieces])
        weights = np.rint(np.concatenate([np.full(len(words), WORD_WEIGHT), share[owners[len(words) :]]])).astype(
            np.int64
        )
        order = np.argsort(owners, kind="stable")
        ends = len(self.places) + np.cumsum(counts + 1)

        self.hashes = np.concatenate([self.hashes, hashes])
        self.starts = np.concatenate([self.starts, ends - counts - 1])
        self.ends = np.concatenate([self.ends, ends])
        self.places = np.concatenate([self.places, _buckets(features, self.width)[order]])
        self.weights = np.concatenate([self.weights, (weights * _signs(features))[order]])


def _ngram_hashes(words: list[str]) -> tuple[IntArray, Hashes]:
    """Whose and which: the hash of every character n-gram of every long word, its two ends marked."""
    long = [place for place, word in enumerate(words) if len(word) >= MIN_NGRAM_WORD_LENGTH]
    marked = "".join(f"<{words[place]}>" for place in long)
    letters = np.frombuffer(marked.encode("utf-32-le", "surrogatepass"), np.uint32).astype(np.uint64)
    owner = np.repeat(np.array(long, np.int64), [len(words[place]) + 2 for place in long])
    owners, hashes = [], []
    for length in NGRAM_LENGTHS:
        count = max(len(letters) - length + 1, 0)
        hashed: Hashes = np.full(count, length, np.uint64)
        for shift in range(length):
            hashed = _splitmix64(hashed * np.uint64(31) + letters[shift : shift + count])
        inside = owner[:count] == owner[length - 1 :]
        owners.append(owner[:count][inside])
        hashes.append(hashed[inside])
    return np.concatenate(owners), np.concatenate(hashes)


def _text_chunks(texts: list[str]) -> Iterator[tuple[int, int]]:
    start = size = 0
    for place, text in enumerate(texts):
        size += len(text)
        if size >= CHUNK_CHARACTERS:
            yield start, place + 1
            start, size = place + 1, 0
    if start < len(texts):
        yield start, len(texts)


def _casefolded(text: str) -> str:
    return text.lower() if text.isascii() else unicodedata.normalize("NFC", text.lower())


def _damped_counts(counts: IntArray) -> IntArray:
    # In 256ths, so that weights stay whole.
    damped: IntArray = np.rint(256 * (1 + np.log(counts))).astype(np.int64)
    return damped


def word_hash(word: str) -> int:
    """The same on every machine."""
    return int.from_bytes(hashlib.blake2b(word.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")


def _splitmix64(hashes: Hashes) -> Hashes:
    """The finishing step of splitmix64: every bit of the input reaches every bit of the output."""
    hashes = (hashes ^ (hashes >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    hashes = (hashes ^ (hashes >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return hashes ^ (hashes >> np.uint64(31))


def _buckets(hashes: Hashes, width: int) -> IntArray:
    return (hashes % np.uint64(width)).astype(np.int64)


def _signs(hashes: Hashes) -> IntArray:
    # The top bit: the place is made from the low ones.
    return 1 - 2 * (hashes >> np.uint64(63)).astype(np.int64)
