"""The hashing embedder, which needs numpy alone, and its tokens: words, and any other character that is no space."""

from __future__ import annotations

import hashlib
import re
import threading
import unicodedata
from collections.abc import Sequence
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt

from siftlm.embedding.protocol import fingerprint
from siftlm.types import FloatArray, IntArray, Vectors
from siftlm.validation import list_of_texts, whole_number

WORD_OR_SIGN = re.compile(r"\w+|[^\w\s]")


def word_spans(texts: list[str]) -> list[IntArray]:
    """For each text, (t, 2): where its words and other characters start and end.

    >>> word_spans(["Oh no!"])[0].tolist()
    [[0, 2], [3, 5], [5, 6]]
    """
    spans = ([match.span() for match in WORD_OR_SIGN.finditer(text)] for text in texts)
    return [np.array(own, dtype=np.int64).reshape(-1, 2) for own in spans]


# Rises whenever the same text would get another vector.
HASHING_VERSION = 1

# The weights of a word, of all its n-grams together, and of a pair of words; whole numbers. Short words are the
# frequent ones and say the least about the subject, so only longer words count by their n-grams as well.
WORD_WEIGHT, NGRAMS_WEIGHT, PAIR_WEIGHT = 64, 80, 16
NGRAM_LENGTHS = (4, 5)
MIN_NGRAM_WORD_LENGTH = 4

# Characters of a chunk of texts, and words that are cached between chunks.
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
        """The state for another process, without the lock and the cached words, which are soon learned again."""
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
        vectors: Vectors = np.zeros((len(texts), self.width), dtype=np.float32)
        start = size = 0
        for end, text in enumerate(texts, start=1):
            size += len(text)
            if size < CHUNK_CHARACTERS and end < len(texts):
                continue
            # 1. The words of a chunk of texts, and the sums of their features.
            lower = [text.lower() for text in texts[start:end]]
            plain = [text if text.isascii() else unicodedata.normalize("NFC", text) for text in lower]
            words = [WORD_OR_SIGN.findall(text) for text in plain]
            rows = np.repeat(np.arange(len(words)), [len(own) for own in words])
            with self._lock:  # the cached words are shared between threads
                sums = self._feature_sums(rows, self._words.numbers(words), len(words))
            # 2. Opposite signs may cancel; a text with any words must still have a direction.
            for row in np.flatnonzero(~sums.any(axis=1)):
                if words[row]:
                    sums[row, word_hash("".join(words[row])) % self.width] = 1.0
            # 3. Unit length.
            lengths = np.sqrt(np.einsum("nd,nd->n", sums, sums))
            vectors[start:end] = sums / np.maximum(lengths, 1.0)[:, None]
            start, size = end, 0
        return vectors

    def tokens(self, texts: Sequence[str]) -> list[IntArray]:
        """Words and single punctuation characters."""
        return word_spans(list_of_texts("texts", texts))

    def _feature_sums(self, rows: IntArray, numbers: IntArray, n: int) -> FloatArray:
        """(n, width) the weights of all features of each text; ``rows`` and ``numbers`` say whose words they are."""
        cache, known = self._words, len(self._words.hashes)
        # 1) The distinct words of each text, and the distinct pairs of neighbours, with their damped counts: in 256ths,
        # so that weights stay whole.
        word_keys, word_counts = np.unique(rows * known + numbers, return_counts=True)
        inside = rows[:-1] == rows[1:]
        pair_keys = (rows[:-1][inside] * known + numbers[:-1][inside]) * known + numbers[1:][inside]
        pair_keys, pair_counts = np.unique(pair_keys, return_counts=True)
        damped = np.rint(256 * (1 + np.log(np.concatenate([word_counts, pair_counts])))).astype(np.int64)
        # 2) A word has several features, its n-grams among them: from its start in the cache on, counting up.
        owners, words = np.divmod(word_keys, known)
        lengths = cache.ends[words] - cache.starts[words]
        which = np.repeat(np.arange(len(words)), lengths)
        within = np.arange(len(which)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        features = cache.starts[words][which] + within
        sums = np.bincount(
            owners[which] * self.width + cache.buckets[features],
            (cache.weights[features] * damped[which]).astype(np.float64),
            n * self.width,
        )
        # 3) A pair has one, made of the hashes of both.
        rest, second = np.divmod(pair_keys, known)
        owners, first = np.divmod(rest, known)
        hashes = splitmix64(cache.hashes[first] * np.uint64(0x9E3779B97F4A7C15) + cache.hashes[second])
        buckets, signs = _buckets_and_signs(hashes, self.width)
        weights = (signs * PAIR_WEIGHT * damped[len(word_keys) :]).astype(np.float64)
        sums += np.bincount(owners * self.width + buckets, weights, n * self.width)
        return sums.astype(np.float64, copy=False).reshape(n, self.width)


class _WordCache:
    """The words seen lately: their hashes, and the buckets and weights of their features."""

    def __init__(self, width: int) -> None:
        self._width = width
        self.forget()

    def forget(self) -> None:
        self._number: dict[str, int] = {}
        self.hashes: Hashes = np.empty(0, np.uint64)
        self.starts: IntArray = np.empty(0, np.int64)
        self.ends: IntArray = np.empty(0, np.int64)
        self.buckets: npt.NDArray[np.int32] = np.empty(0, np.int32)
        self.weights: npt.NDArray[np.int32] = np.empty(0, np.int32)

    def numbers(self, texts: list[list[str]]) -> IntArray:
        """The words' numbers, text after text; new words are learned first."""
        distinct = set().union(*texts) if texts else set()
        new = [word for word in distinct if word not in self._number]
        if new and len(self._number) + len(new) > MAX_CACHED_WORDS:
            self.forget()
            new = list(distinct)
        if new:
            self._learn(new)
        numbers = map(self._number.__getitem__, chain.from_iterable(texts))
        return np.fromiter(numbers, np.int64, sum(map(len, texts)))

    def _learn(self, words: list[str]) -> None:
        self._number.update(zip(words, range(len(self._number), len(self._number) + len(words)), strict=True))
        hashes = np.array([word_hash(word) for word in words], np.uint64)
        owners, ngrams = _ngram_hashes(words)
        counts = np.bincount(owners, minlength=len(words))
        share = NGRAMS_WEIGHT / np.sqrt(np.maximum(counts, 1))
        weights = np.rint(np.concatenate([np.full(len(words), WORD_WEIGHT), share[owners]])).astype(np.int64)
        buckets, signs = _buckets_and_signs(np.concatenate([hashes, ngrams]), self._width)
        # Each word's features lie together: the word itself, then its n-grams.
        order = np.argsort(np.concatenate([np.arange(len(words)), owners]), kind="stable")
        ends = len(self.buckets) + np.cumsum(counts + 1)

        self.hashes = np.concatenate([self.hashes, hashes])
        self.starts = np.concatenate([self.starts, ends - counts - 1])
        self.ends = np.concatenate([self.ends, ends])
        self.buckets = np.concatenate([self.buckets, buckets[order].astype(np.int32)])
        self.weights = np.concatenate([self.weights, (weights * signs)[order].astype(np.int32)])


def _ngram_hashes(words: list[str]) -> tuple[IntArray, Hashes]:
    """The owner and the hash of every character n-gram of every long word, its two ends marked."""
    long = [number for number, word in enumerate(words) if len(word) >= MIN_NGRAM_WORD_LENGTH]
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
    return int.from_bytes(hashlib.blake2b(word.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")


def splitmix64(hashes: Hashes) -> Hashes:
    """The finishing step of splitmix64: every bit of the input reaches every bit of the output."""
    hashes = (hashes ^ (hashes >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    hashes = (hashes ^ (hashes >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return hashes ^ (hashes >> np.uint64(31))


def _buckets_and_signs(hashes: Hashes, width: int) -> tuple[IntArray, IntArray]:
    """The bucket comes from the low bits, the sign from the top one."""
    buckets = (hashes % np.uint64(width)).astype(np.int64)
    return buckets, 1 - 2 * (hashes >> np.uint64(63)).astype(np.int64)
