"""The vectors of `hashing` and `static` for many texts at once: those of their definitions, to the last bit.

What a word adds to a vector is found once and then known, in arrays that a `siftlm.embedding.words.WordReader` keeps
beside the words' numbers; a chunk of texts is then a few sums over these arrays.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from siftlm.embedding.hashing import (
    NGRAMS_WEIGHT,
    PAIR_FACTOR,
    PAIR_WEIGHT,
    WORD_OR_SIGN,
    WORD_WEIGHT,
    Hashes,
    buckets_and_signs,
    damped_counts,
    ngram_hashes,
    plain_text,
    splitmix64,
    word_digest,
    word_hash,
)
from siftlm.embedding.static import TABLE_WIDTH, WordPiece, shipped_table
from siftlm.embedding.words import (
    END,
    MAX_HASHED_BYTES,
    Chunk,
    Growing,
    Vocabulary,
    WordReader,
    distinct,
    locate,
    ranges,
    run_starts,
)
from siftlm.types import FloatArray, IntArray, Vectors

# Features of a word lie in blocks of so many, the last one filled up with features of no weight.
BLOCK_FEATURES = 4
# Words or pairs of words whose features are added together.
WORDS_TOGETHER = 1 << 16
# Fewer words are split one by one.
MANY_WORDS = 100


class HashingBatches:
    """`siftlm.embedding.hashing.hashed_words` of many texts."""

    def __init__(self, width: int) -> None:
        self._width, self._reader = width, WordReader(HashedFeatures(width))

    def embed(self, texts: list[str]) -> Vectors:
        """(n, width)"""
        vectors: Vectors = np.empty((len(texts), self._width), dtype=np.float32)
        for chunk in self._reader.read(texts):
            [features] = chunk.known
            vectors[chunk.start : chunk.end] = _unit_sums(chunk, features, texts)
        return vectors


class StaticBatches:
    """`siftlm.embedding.static.static_vector` of many texts."""

    def __init__(self, words: float, words_width: int) -> None:
        self._words, self._width = words, TABLE_WIDTH + (words_width if words else 0)
        self._reader = WordReader(KnownPieces(), *([HashedFeatures(words_width)] if words else []))

    def embed(self, texts: list[str]) -> Vectors:
        """(n, width)"""
        vectors: Vectors = np.empty((len(texts), self._width), dtype=np.float32)
        for chunk in self._reader.read(texts):
            some = vectors[chunk.start : chunk.end]
            pieces, *features = chunk.known
            some[:, :TABLE_WIDTH] = _unit_rows(_row_sums(_piece_counts(chunk, pieces), len(some)))
            unknown = ~some[:, :TABLE_WIDTH].any(axis=1)
            if features:
                # Where the table knows nothing, the words are all there is.
                share = np.where(unknown, 1.0, self._words)[:, None].astype(np.float32)
                some[:, :TABLE_WIDTH] *= np.sqrt(1 - share)
                some[:, TABLE_WIDTH:] = _unit_sums(chunk, features[0], texts)
                some[:, TABLE_WIDTH:] *= np.sqrt(share)
                continue
            # A text without a known piece must still have a direction.
            for row in np.flatnonzero(unknown):
                if words := "".join(texts[chunk.start + row].split()):
                    some[row, word_hash(words) % TABLE_WIDTH] = 1.0
        return vectors


# --- hashed words


class Features(NamedTuple):
    """Of all known words: their hashes, and where their blocks of features begin and how many there are."""

    width: int
    hashes: Hashes
    starts: IntArray
    blocks: IntArray
    buckets: npt.NDArray[np.int32]
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
        self._blocks = (Growing(np.int32, BLOCK_FEATURES), Growing(np.float32, BLOCK_FEATURES))
        self._features = Features(self.width, *(column.array for column in (*self._words, *self._blocks)))

    def learn(self, words: list[str]) -> Features:
        """The features of all words, after those of new ones were added."""
        if words:
            hashes = np.frombuffer(b"".join(map(word_digest, words)), "<u8").astype(np.uint64)
            owners, ngrams = ngram_hashes(words)
            counts = np.bincount(owners, minlength=len(words))
            share = np.rint(NGRAMS_WEIGHT / np.sqrt(np.maximum(counts, 1)))
            buckets, signs = buckets_and_signs(np.concatenate([hashes, ngrams]), self.width)
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


def _unit_sums(chunk: Chunk, features: Features, texts: Sequence[str]) -> FloatArray:
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
        places = features.buckets.take(blocks, axis=0) + (rows * features.width).take(owners)[:, None]
        # Products of a word's weight and its damped count are exact in float32.
        weights = features.weights.take(blocks, axis=0)
        weights *= damped_counts(counts).astype(np.float32).take(owners)[:, None]
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
        buckets, signs = buckets_and_signs(splitmix64(first * np.uint64(PAIR_FACTOR) + second), features.width)
        owners = (some >> bits >> bits).astype(np.int64)
        weights = signs * (PAIR_WEIGHT * damped_counts(counts[start : start + WORDS_TOGETHER]))
        yield _Weighted(owners * features.width + buckets, weights.astype(np.float32))


# --- the pieces of words


class PieceSearch:
    """The pieces of many words, by a hash table of all pieces."""

    def __init__(self, tokenizer: WordPiece) -> None:
        self._tokenizer = tokenizer
        self._beginnings, self._continuations = (_Longest(pieces) for pieces in (tokenizer.begin, tokenizer.continues))

    def numbers_of_words(self, words: list[str]) -> tuple[IntArray, IntArray]:
        """The numbers of the pieces of words, word after word, and how many pieces each word has.

        >>> PieceSearch(WordPiece(["un", "##seen", "tide"])).numbers_of_words(["unseen", "rain", "tide"])[1].tolist()
        [2, 0, 1]
        """
        # A long word costs a look at all its beginnings, and few words as many steps as many.
        short = [
            at for at, word in enumerate(words) if word.isascii() and word.isalnum() and len(word) <= MAX_HASHED_BYTES
        ]
        if len(short) < MANY_WORDS:
            short = []
        many = self._search_many([words[at].lower() for at in short])
        others = sorted(set(range(len(words))).difference(short))
        found = [self._tokenizer.numbers(words[at]) for at in others]
        pieces = np.array([*chain.from_iterable(found), *many.pieces.tolist()], np.int64)
        owners = np.repeat(np.array(others, np.int64), np.fromiter(map(len, found), np.int64, len(found)))
        owners = np.concatenate([owners, np.array(short, np.int64)[many.words]])
        return pieces[np.argsort(owners, kind="stable")], np.bincount(owners, minlength=len(words))

    def _search_many(self, words: list[str]) -> _WordsAndPieces:
        data = END.join([word.encode("ascii") for word in words]) + bytes(MAX_HASHED_BYTES)
        lengths = np.fromiter(map(len, words), np.int64, len(words))
        starts = np.cumsum(lengths + 1) - lengths - 1
        left, is_known = np.arange(len(words)), np.ones(len(words), bool)
        rounds = [_WordsAndPieces(left[:0], left[:0])]
        while len(left):
            search = self._beginnings if len(rounds) == 1 else self._continuations
            pieces, longest = search.find(data, starts[left], lengths[left])
            # A word is known as a whole or not at all.
            is_known[left[longest == 0]] = False
            rounds.append(_WordsAndPieces(left, pieces))
            starts[left] += longest
            lengths[left] -= longest
            left = left[(longest > 0) & (lengths[left] > 0)]
        owners, numbers = (np.concatenate(columns) for columns in zip(*rounds, strict=True))
        kept = is_known[owners]
        return _WordsAndPieces(owners[kept], numbers[kept])


class _WordsAndPieces(NamedTuple):
    """A word in each, and one of its pieces; those of a word in order."""

    words: IntArray
    pieces: IntArray


class _Longest:
    """Finds, of all beginnings of each of many words, the longest that is a piece."""

    def __init__(self, numbers: dict[str, int]) -> None:
        short = [piece for piece in numbers if piece.isalnum() and len(piece.encode()) <= MAX_HASHED_BYTES]
        self._numbers = np.array([-1, *(numbers[piece] for piece in short)])
        self._vocabulary = Vocabulary()
        self._vocabulary.numbers(locate(short))

    def find(self, data: bytes, starts: IntArray, lengths: IntArray) -> tuple[IntArray, IntArray]:
        """The pieces, and their lengths; -1 and 0 where there is none."""
        sizes = ranges(np.ones(len(starts), np.int64), lengths)
        found = self._vocabulary.find(data, np.repeat(starts, lengths), sizes)
        firsts = np.cumsum(lengths) - lengths
        longest = np.maximum.reduceat(np.where(found > 0, sizes, 0), firsts)
        return self._numbers[np.where(longest > 0, found[firsts + longest - 1], 0)], longest


@cache
def _shipped_search() -> PieceSearch:
    return PieceSearch(shipped_table().tokenizer)


class Pieces(NamedTuple):
    """Of all known words: where their pieces begin, how many there are, and the numbers of the pieces."""

    starts: IntArray
    lengths: IntArray
    numbers: IntArray


class KnownPieces:
    """The word pieces of the words of a vocabulary, which a `WordReader` keeps."""

    needs_joined = True

    def __init__(self) -> None:
        self.forget()

    def __reduce__(self) -> tuple[Any, ...]:
        return (KnownPieces, ())

    def forget(self) -> None:
        """Start again without words."""
        self._starts, self._lengths, self._numbers = (Growing(np.int64) for _ in range(3))
        self._pieces = Pieces(self._starts.array, self._lengths.array, self._numbers.array)

    def learn(self, words: list[str]) -> Pieces:
        """The pieces of all words, after those of new ones were added."""
        if words:
            numbers, lengths = _shipped_search().numbers_of_words(words)
            starts = len(self._pieces.numbers) + np.cumsum(lengths) - lengths
            columns = ((self._starts, starts), (self._lengths, lengths), (self._numbers, numbers))
            self._pieces = Pieces(*(column.append(rows) for column, rows in columns))
        return self._pieces


class PieceCounts(NamedTuple):
    """(p,) the different pieces of each text, text after text, and how often they occur there."""

    rows: IntArray
    pieces: IntArray
    counts: IntArray


# Bits of a piece's number and of a count in a key that is sorted.
PIECE_BITS, COUNT_BITS = 16, 32


def _piece_counts(chunk: Chunk, pieces: Pieces) -> PieceCounts:
    # 1. The pieces of a text are those of its words,
    keys = [_piece_keys(*chunk.counted, pieces)]
    # 2. unless WordPiece sees one word where there are several: then that one's, and theirs no more.
    if chunk.joined:
        texts = np.array([run.text for run in chunk.joined])
        lengths = np.array([run.end - run.start for run in chunk.joined])
        split = chunk.words[ranges(np.array([run.start for run in chunk.joined]), lengths)].astype(np.int64)
        keys.append(_piece_keys(np.repeat(texts, lengths), split, np.full(len(split), -1), pieces))
        whole = KnownPieces().learn([run.characters for run in chunk.joined])
        keys.append(_piece_keys(texts, np.arange(len(texts)), np.ones(len(texts), np.int64), whole))
    # 3. Words share pieces.
    together = np.concatenate(keys)
    together.sort()
    found = together >> COUNT_BITS
    firsts = run_starts(found)
    # The low bits, with their sign.
    counts = np.add.reduceat(together.astype(np.int32), firsts, dtype=np.int64) if len(firsts) else firsts
    kept = counts != 0
    found = found[firsts][kept]
    return PieceCounts(found >> PIECE_BITS, found & ((1 << PIECE_BITS) - 1), counts[kept])


def _piece_keys(rows: IntArray, words: IntArray, counts: IntArray, pieces: Pieces) -> IntArray:
    """A text, a piece and a count in each; a count may be negative."""
    lengths = pieces.lengths.take(words)
    numbers = pieces.numbers.take(ranges(pieces.starts.take(words), lengths))
    keys = np.repeat(rows << PIECE_BITS + COUNT_BITS | counts & ((1 << COUNT_BITS) - 1), lengths)
    keys |= numbers << COUNT_BITS
    return keys


# --- the sums of their rows


# Whole numbers below this are exact in float32, in any order of their sum.
EXACT_FLOAT32 = 1 << 24
# A factor of a row is split into so many low bits and the rest, so that sums of both stay below.
LOW_BITS = 10
# The highest damped count: of a piece in a text of four thousand million pieces.
MAX_DAMPED = 6000
# Rows that are read together.
ROWS_TOGETHER = 1 << 9


@cache
def _exact_rows() -> int:
    """The sum of so many rows is exact in float32, whatever half of their factors they are multiplied by."""
    rows, weights = shipped_table().rows, shipped_table().weights
    factor = max(1 << LOW_BITS, MAX_DAMPED * int(weights.max()) >> LOW_BITS)
    return EXACT_FLOAT32 // (factor * max(int(rows.max()), -int(rows.min())))


def _row_sums(counted: PieceCounts, n: int) -> FloatArray:
    """(n, width) The sums of rows in `static_vector`, of each of n texts."""
    table, exact_rows = shipped_table(), _exact_rows()
    width = table.rows.shape[1]
    factors = damped_counts(counted.counts) * table.weights.take(counted.pieces)
    split = np.empty((2, len(factors)), np.float32)
    split[0], split[1] = factors >> LOW_BITS, factors & ((1 << LOW_BITS) - 1)
    # 1. A text with very many pieces is added up in parts, each of which is exact.
    lengths = np.bincount(counted.rows, minlength=n)
    parts = -(-lengths // exact_rows)
    owners = np.repeat(np.arange(n), parts)
    within = ranges(np.zeros(n, np.int64), parts)
    starts = (np.cumsum(lengths) - lengths)[owners] + within * exact_rows
    ends = np.minimum(starts + exact_rows, np.cumsum(lengths)[owners])
    # 2. The sums of both halves of the factors.
    halves = np.empty((len(owners), 2, width), np.float32)
    taken = np.empty((min(max(ROWS_TOGETHER, exact_rows), len(factors)), width), np.int8)
    rows = np.empty(taken.shape, np.float32)
    first = last = 0
    for part, start, end in zip(halves, starts.tolist(), ends.tolist(), strict=True):
        if end > last:
            first, last = start, min(start + len(rows), len(counted.pieces))
            # With a mode, nothing is copied once more.
            table.rows.take(counted.pieces[first:last], axis=0, out=taken[: last - first], mode="clip")
            rows[: last - first] = taken[: last - first]
        np.dot(split[:, start:end], rows[start - first : end - first], out=part)
    # 3. The halves together, and the parts of each text.
    exact: FloatArray = halves[:, 0].astype(np.float64)
    exact *= 1 << LOW_BITS
    exact += halves[:, 1]
    if len(owners) == n and parts.all():
        return exact
    sums = np.zeros((n, width))
    for number in range(parts.max(initial=0)):
        some = np.flatnonzero(within == number)
        sums[owners[some]] += exact[some]
    return sums


def _unit_rows(sums: FloatArray) -> FloatArray:
    # By the same product for one row as for many, whose order of additions is that of a product of two vectors.
    lengths = np.sqrt(np.matmul(sums[:, None, :], sums[:, :, None])[:, 0])
    unit: FloatArray = sums / np.where(lengths > 0, lengths, 1.0)
    return unit
