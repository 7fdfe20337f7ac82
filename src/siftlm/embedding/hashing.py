"""The hashing embedder, which needs numpy alone: the hashes of words, of pairs of words and of parts of words."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from siftlm.embedding.counting import Growing, damped, distinct, ranges
from siftlm.embedding.protocol import fingerprint
from siftlm.embedding.words import WORD_OR_SIGN, Chunk, Hashes, WordReader, plain_text, word_spans
from siftlm.types import FloatArray, IntArray, Vectors
from siftlm.validation import list_of_texts, whole_number

# Rises whenever the same text would get another vector.
HASHING_VERSION = 1

# The weights of a word, of all its n-grams together, and of a pair of words; whole numbers. Short words are the
# frequent ones and say the least about the subject, so only longer words count by their n-grams as well.
WORD_WEIGHT, NGRAMS_WEIGHT, PAIR_WEIGHT = 64, 80, 16
NGRAM_LENGTHS = (4, 5)
MIN_NGRAM_WORD_LENGTH = 4
# Those of words beyond this length weigh less than a half, which is rounded to nothing.
MAX_NGRAM_WORD_LENGTH = 2 * NGRAMS_WEIGHT**2 + 1

# Features of a word lie in blocks of so many, the last one filled up with features of no weight.
BLOCK_FEATURES = 4
# Words or pairs of words whose features are added together.
WORDS_TOGETHER = 1 << 16


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
        self._reader = WordReader(HashedFeatures(self.width))

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
        vectors: Vectors = np.empty((len(texts), self.width), dtype=np.float32)
        for chunk in self._reader.read(texts):
            [features] = chunk.known
            vectors[chunk.start : chunk.end] = unit_sums(chunk, features, texts)
        return vectors

    def tokens(self, texts: Sequence[str]) -> list[IntArray]:
        """Words and single punctuation characters."""
        return word_spans(list_of_texts("texts", texts))


class Features(NamedTuple):
    """Of all known words: their hashes, and where their blocks of features begin and how many there are."""

    width: int
    hashes: Hashes
    starts: IntArray
    blocks: IntArray
    buckets: npt.NDArray[np.int64]
    """(blocks, BLOCK_FEATURES) the bucket of each feature, and its weight below."""
    weights: npt.NDArray[np.float32]


class HashedFeatures:
    """The features of the words of a vocabulary, which a `WordReader` keeps."""

    needs_joined = False

    def __init__(self, width: int) -> None:
        self.width = width
        self.forget()

    def __reduce__(self) -> tuple[Any, ...]:
        return (HashedFeatures, (self.width,))

    def forget(self) -> None:
        """Start again without words."""
        self._words = (Growing(np.uint64), Growing(np.int64), Growing(np.int64))
        self._blocks = (Growing(np.int64, BLOCK_FEATURES), Growing(np.float32, BLOCK_FEATURES))
        self._features = Features(self.width, *(column.array for column in (*self._words, *self._blocks)))

    def learn(self, words: list[str]) -> Features:
        """The features of all words, after those of new ones were added."""
        if words:
            hashes = np.frombuffer(b"".join(map(_digest, words)), "<u8").astype(np.uint64)
            owners, ngrams = _ngram_hashes(words)
            counts = np.bincount(owners, minlength=len(words))
            share = np.rint(NGRAMS_WEIGHT / np.sqrt(np.maximum(counts, 1)))
            buckets, signs = _buckets_and_signs(np.concatenate([hashes, ngrams]), self.width)
            weights = signs * np.concatenate([np.full(len(words), WORD_WEIGHT), share[owners]])
            # Each word's features lie together: the word itself, then its n-grams.
            order = np.argsort(np.concatenate([np.arange(len(words)), owners]), kind="stable")
            blocks = -(-(counts + 1) // BLOCK_FEATURES)
            firsts = np.cumsum(blocks) - blocks
            places = ranges(firsts * BLOCK_FEATURES, counts + 1)
            filled = (np.zeros(blocks.sum() * BLOCK_FEATURES, np.int64), np.zeros(blocks.sum() * BLOCK_FEATURES))
            filled[0][places], filled[1][places] = buckets[order], weights[order]
            firsts += len(self._blocks[0].array)
            for column, rows in zip(self._words, (hashes, firsts, blocks), strict=True):
                column.append(rows)
            for column, rows in zip(self._blocks, filled, strict=True):
                column.append(rows.reshape(-1, BLOCK_FEATURES))
            self._features = Features(self.width, *(column.array for column in (*self._words, *self._blocks)))
        return self._features


def unit_sums(chunk: Chunk, features: Features, texts: Sequence[str]) -> FloatArray:
    """(n, width) the vectors of the texts of a chunk."""
    # 1. The sums of the weights of all features; they are whole numbers, which have no order.
    n = chunk.end - chunk.start
    size, added = n * features.width, chain(_word_features(chunk, features), _pair_features(chunk, features))
    some = next(added, NO_FEATURES)
    flat = np.bincount(some.places, some.weights, size)
    for some in added:
        flat += np.bincount(some.places, some.weights, size)
    sums: FloatArray = flat.reshape(n, -1).astype(np.float64, copy=False)
    # 2. Opposite signs may cancel; a text with any words must still have a direction.
    lengths = np.sqrt(np.einsum("nd,nd->n", sums, sums))
    for row in np.flatnonzero(lengths == 0).tolist():
        lengths[row] = 1.0
        if words := WORD_OR_SIGN.findall(plain_text(texts[chunk.start + row])):
            sums[row, word_hash("".join(words)) % features.width] = 1.0
    # 3. Unit length.
    unit: FloatArray = np.divide(sums, lengths[:, None], out=sums)
    return unit


class _Weighted(NamedTuple):
    """Features: their places among all buckets of all texts, and their weights."""

    places: IntArray
    weights: npt.NDArray[np.float32]


NO_FEATURES = _Weighted(np.zeros(0, np.int64), np.zeros(0, np.float32))


def _word_features(chunk: Chunk, features: Features) -> Iterator[_Weighted]:
    for start in range(0, len(chunk.counted.words), WORDS_TOGETHER):
        rows, words, counts = (column[start : start + WORDS_TOGETHER] for column in chunk.counted)
        lengths = features.blocks.take(words)
        blocks, owners = ranges(features.starts.take(words), lengths), np.repeat(np.arange(len(words)), lengths)
        places = features.buckets.take(blocks, axis=0)
        places += (rows * features.width).take(owners)[:, None]
        # Products of a word's weight and its damped count are exact in float32.
        weights = features.weights.take(blocks, axis=0)
        weights *= damped(counts).astype(np.float32).take(owners)[:, None]
        yield _Weighted(places.ravel(), weights.ravel())


def _pair_features(chunk: Chunk, features: Features) -> Iterator[_Weighted]:
    """Each pair of neighbours has one feature, made of the hashes of both."""
    rows, words, bits = chunk.rows, chunk.words, np.uint64(chunk.bits)
    keys = rows[:-1].astype(np.uint64)
    for neighbours in (words[:-1], words[1:]):
        keys <<= bits
        keys |= neighbours
    if len(rows) and rows[-1]:
        keys = keys[rows[:-1] == rows[1:]]
    keys, counts = distinct(keys)
    mask = np.uint64((1 << chunk.bits) - 1)
    for start in range(0, len(keys), WORDS_TOGETHER):
        some = keys[start : start + WORDS_TOGETHER]
        first = features.hashes.take((some >> bits & mask).astype(np.int64))
        second = features.hashes.take((some & mask).astype(np.int64))
        buckets, signs = _buckets_and_signs(splitmix64(first * np.uint64(0x9E3779B97F4A7C15) + second), features.width)
        owners = (some >> bits >> bits).astype(np.int64)
        weights = signs * (PAIR_WEIGHT * damped(counts[start : start + WORDS_TOGETHER]))
        yield _Weighted(owners * features.width + buckets, weights.astype(np.float32))


def _ngram_hashes(words: list[str]) -> tuple[IntArray, Hashes]:
    """The owner and the hash of every character n-gram of every long word, its two ends marked."""
    long = [number for number, word in enumerate(words) if MIN_NGRAM_WORD_LENGTH <= len(word) <= MAX_NGRAM_WORD_LENGTH]
    marked = "".join(f"<{words[number]}>" for number in long)
    letters = np.frombuffer(marked.encode("utf-32-le", "surrogatepass"), np.uint32).astype(np.uint64)
    owner = np.repeat(np.array(long, np.int64), [len(words[number]) + 2 for number in long])
    owners, hashes = [], []
    for length in NGRAM_LENGTHS:
        count = max(len(letters) - length + 1, 0)
        hashed: Hashes = np.full(count, length, np.uint64)
        for shift in range(length):
            hashed = splitmix64(hashed * np.uint64(31) + letters[shift : shift + count])
        inside = owner[:count] == owner[length - 1 :]
        owners.append(owner[:count][inside])
        hashes.append(hashed[inside])
    return np.concatenate(owners), np.concatenate(hashes)


def word_hash(word: str) -> int:
    """64 bits of a word, the same on every machine."""
    return int.from_bytes(_digest(word), "little")


def _digest(word: str) -> bytes:
    return hashlib.blake2b(word.encode("utf-8", "surrogatepass"), digest_size=8).digest()


def splitmix64(hashes: Hashes) -> Hashes:
    """The finishing step of splitmix64: every bit of the input reaches every bit of the output."""
    hashes = (hashes ^ (hashes >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    hashes = (hashes ^ (hashes >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return hashes ^ (hashes >> np.uint64(31))


def _buckets_and_signs(hashes: Hashes, width: int) -> tuple[IntArray, IntArray]:
    """The bucket comes from the low bits, the sign from the top one."""
    buckets = (hashes - hashes // np.uint64(width) * np.uint64(width)).astype(np.int64)
    return buckets, 1 - 2 * (hashes >> np.uint64(63)).astype(np.int64)
