"""The hashing embedder, which needs numpy alone: the hashes of words, of pairs of words and of parts of words.

`hashed_words` is the definition, one text and one word at a time. `siftlm.embedding.batches` reads many texts at once,
to the same bits.
"""

from __future__ import annotations

import hashlib
import math
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Sequence
from functools import cache, cached_property, lru_cache
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from siftlm.embedding.protocol import fingerprint
from siftlm.types import FloatArray, IntArray, Vectors
from siftlm.validation import list_of_texts, whole_number

if TYPE_CHECKING:
    from siftlm.embedding.batches import HashingBatches

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
# The n-grams of longer words weigh less than a half, which is rounded to nothing.
MAX_NGRAM_WORD_LENGTH = 2 * NGRAMS_WEIGHT**2 + 1
PAIR_FACTOR, NGRAM_FACTOR = 0x9E3779B97F4A7C15, 31

# Few and short texts are read one by one: the steps that many texts share would take longer.
FEW_TEXTS, FEW_CHARACTERS = 4, 256
# Words, and pairs of words, whose features are known between texts, and the length of such words.
MAX_CACHED_WORDS, MAX_CACHED_LENGTH = 1 << 13, 64

Hashes = npt.NDArray[np.uint64]
MASK, TOP_BIT = (1 << 64) - 1, 1 << 63


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
        if not are_few(texts, FEW_CHARACTERS):
            return self._batches.embed(texts)
        vectors: Vectors = np.empty((len(texts), self.width), dtype=np.float32)
        for row, text in enumerate(texts):
            vectors[row] = hashed_words(text, self.width)
        return vectors

    def tokens(self, texts: Sequence[str]) -> list[IntArray]:
        """Words and single punctuation characters."""
        return word_spans(list_of_texts("texts", texts))

    @cached_property
    def _batches(self) -> HashingBatches:
        from siftlm.embedding.batches import HashingBatches

        return HashingBatches(self.width)


def are_few(texts: list[str], characters: int) -> bool:
    """Whether texts of together at most so many characters are few enough to be read one by one."""
    return len(texts) <= FEW_TEXTS and sum(map(len, texts)) <= characters


# --- the definition


def hashed_words(text: str, width: int) -> FloatArray:
    """(width,) the vector of a text: the weights of its features, added up in buckets, at unit length."""
    words = WORD_OR_SIGN.findall(plain_text(text))
    sums: defaultdict[int, int] = defaultdict(int)
    for word, count in Counter(words).items():
        times = damped(count)
        for hashed, weight in word_features(word):
            sums[hashed % width] += times * weight
    for (first, second), count in Counter(pairwise(words)).items():
        hashed, weight = pair_feature(first, second)
        sums[hashed % width] += damped(count) * weight
    vector = np.zeros(width)
    vector[list(sums)] = list(sums.values())
    # Of whole numbers, so that this sum has no order.
    length = math.sqrt(vector @ vector)
    if length:
        vector /= length
    elif words:
        # Opposite signs may cancel; a text with any words must still have a direction.
        vector[word_hash("".join(words)) % width] = 1.0
    return vector


class Feature(NamedTuple):
    """Its hash, whose low bits choose the bucket, and its weight, whose sign comes from the top bit."""

    hashed: int
    weight: int


def _feature(hashed: int, weight: int) -> Feature:
    return Feature(hashed, weight if hashed < TOP_BIT else -weight)


@lru_cache(MAX_CACHED_WORDS)
def pair_feature(first: str, second: str) -> Feature:
    """The feature of two words side by side, made of the hashes of both."""
    hashes = word_features(first)[0].hashed * PAIR_FACTOR + word_features(second)[0].hashed
    return _feature(mixed(hashes & MASK), PAIR_WEIGHT)


def word_features(word: str) -> tuple[Feature, ...]:
    """The feature of a word, and after it those of its n-grams."""
    return _known_word_features(word) if len(word) <= MAX_CACHED_LENGTH else _word_features(word)


def _word_features(word: str) -> tuple[Feature, ...]:
    ngrams = _ngram_hashes(word)
    weight = round(NGRAMS_WEIGHT / math.sqrt(len(ngrams))) if ngrams else 0
    return _feature(word_hash(word), WORD_WEIGHT), *(_feature(ngram, weight) for ngram in ngrams)


_known_word_features = lru_cache(MAX_CACHED_WORDS)(_word_features)


def _ngram_hashes(word: str) -> list[int]:
    """Those of all character n-grams of a long word, its two ends marked."""
    found: list[int] = []
    if len(word) >= MIN_NGRAM_WORD_LENGTH:
        letters = [ord(letter) for letter in f"<{word}>"]
        for length in NGRAM_LENGTHS:
            for start in range(len(letters) - length + 1):
                hashed = length
                for letter in letters[start : start + length]:
                    hashed = mixed((hashed * NGRAM_FACTOR + letter) & MASK)
                found.append(hashed)
    return found


def plain_text(text: str) -> str:
    """The text in lower case and composed."""
    text = text.lower()
    return text if text.isascii() else unicodedata.normalize("NFC", text)


@cache
def damped(count: int) -> int:
    """1 + log count, in 256ths so that weights stay whole."""
    return round(256 * (1 + math.log(count)))


def word_hash(word: str) -> int:
    """64 bits of a word, the same on every machine."""
    return int.from_bytes(word_digest(word), "little")


def word_digest(word: str) -> bytes:
    """The same as bytes, the lowest first."""
    return hashlib.blake2b(word.encode("utf-8", "surrogatepass"), digest_size=8).digest()


def mixed(number: int) -> int:
    """The finishing step of splitmix64: every bit of the input reaches every bit of the output."""
    number = ((number ^ (number >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    number = ((number ^ (number >> 27)) * 0x94D049BB133111EB) & MASK
    return number ^ (number >> 31)


# --- the same for many words, in arrays


def splitmix64(hashes: Hashes) -> Hashes:
    """`mixed` of each number of an array."""
    hashes = (hashes ^ (hashes >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    hashes = (hashes ^ (hashes >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return hashes ^ (hashes >> np.uint64(31))


def ngram_hashes(words: list[str]) -> tuple[IntArray, Hashes]:
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
            hashed = splitmix64(hashed * np.uint64(NGRAM_FACTOR) + letters[shift : shift + count])
        inside = owner[:count] == owner[length - 1 :]
        owners.append(owner[:count][inside])
        hashes.append(hashed[inside])
    return np.concatenate(owners), np.concatenate(hashes)


def buckets_and_signs(hashes: Hashes, width: int) -> tuple[IntArray, IntArray]:
    """The bucket comes from the low bits, the sign from the top one."""
    buckets = (hashes - hashes // np.uint64(width) * np.uint64(width)).astype(np.int64)
    return buckets, 1 - 2 * (hashes >> np.uint64(63)).astype(np.int64)


@cache
def _damped_small() -> IntArray:
    return _damped(np.arange(1, 1 << 12))


def _damped(counts: IntArray) -> IntArray:
    damped: IntArray = np.rint(256 * (1 + np.log(counts))).astype(np.int64)
    return damped


def damped_counts(counts: IntArray) -> IntArray:
    """`damped` of each of an array of counts, from 1 on."""
    table = _damped_small()
    return table.take(counts - 1) if len(counts) == 0 or counts.max() <= len(table) else _damped(counts)
