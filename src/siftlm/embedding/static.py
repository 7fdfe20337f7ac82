"""The static embedder: a vector for each of 27,623 word pieces, shipped with siftlm, beside hashed words; numpy alone.

A text's vector has two parts. The first is a weighted sum of the rows of a table that was distilled from a sentence
model, so that "photograph" is near "camera"; rare pieces weigh more. The second is `siftlm.embedding.hashing`, which
knows names and numbers that the table does not. The inner product of two texts is

    (1 - words) · cosine by the table + words · cosine by hashing

``data/README.md`` says where the table comes from, and ``examples/static_table.py`` makes it.
"""

from __future__ import annotations

import unicodedata
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from siftlm.embedding.counting import Growing, damped, ranges, run_starts
from siftlm.embedding.hashing import HashedFeatures, HashingEmbedder, unit_sums, word_hash
from siftlm.embedding.protocol import fingerprint
from siftlm.embedding.words import (
    END,
    MAX_HASHED_BYTES,
    Chunk,
    Vocabulary,
    WordReader,
    is_wordpiece_sign,
    is_wordpiece_space,
    locate,
    word_spans,
)
from siftlm.errors import Damaged
from siftlm.types import FloatArray, IntArray, Vectors
from siftlm.validation import fraction, list_of_texts, whole_number

TABLE_FILE = Path(__file__).parent.parent / "data" / "static.npz"
TABLE_WIDTH = 256
# Rises whenever the same text would get another vector; the table is one reason.
STATIC_VERSION = 1

# WordPiece: longer words are unknown, and a piece that continues a word is marked.
MAX_WORD_LENGTH = 100
CONTINUES = "##"
# Fewer words are split one by one.
MANY_WORDS = 100
# The ideographs, each of which is a word of its own.
IDEOGRAPHS = (
    (0x4E00, 0x9FFF),
    (0x3400, 0x4DBF),
    (0x20000, 0x2A6DF),
    (0x2A700, 0x2B73F),
    (0x2B740, 0x2B81F),
    (0x2B920, 0x2CEAF),
    (0xF900, 0xFAFF),
    (0x2F800, 0x2FA1F),
)


class StaticEmbedder:
    """A table of word pieces and hashed words, side by side; numpy alone.

    >>> photo, camera, train = StaticEmbedder().embed(["how to take photographs", "a new camera", "the train to York"])
    >>> bool(photo @ camera > photo @ train + 0.1)
    True
    """

    name = "static"
    max_tokens = None

    def __init__(self, *, words: float = 0.4, words_width: int = 512) -> None:
        self._words = fraction("words", words)
        self._hashing = HashingEmbedder(width=whole_number("words_width", words_width))
        self.width = TABLE_WIDTH + (self._hashing.width if self._words else 0)
        hashed = [HashedFeatures(self._hashing.width)] if self._words else []
        self._reader = WordReader(KnownPieces(), *hashed)

    @property
    def settings(self) -> dict[str, Any]:
        return {"words": self._words, "words_width": self._hashing.width}

    @property
    def fingerprint(self) -> str:
        hashing = self._hashing.fingerprint if self._words else None
        return fingerprint("static", {"version": STATIC_VERSION, "words": self._words, "hashing": hashing})

    def embed(self, texts: Sequence[str], *, as_query: bool = False) -> Vectors:
        """(n, width) of unit length; zero for a text of nothing but space. Questions are treated as passages are."""
        del as_query
        texts = list_of_texts("texts", texts)
        vectors: Vectors = np.empty((len(texts), self.width), dtype=np.float32)
        for chunk in self._reader.read(texts):
            some = vectors[chunk.start : chunk.end]
            pieces, *features = chunk.known
            some[:, :TABLE_WIDTH] = _unit_rows(shipped_table().row_sums(_piece_counts(chunk, pieces), len(some)))
            unknown = ~some[:, :TABLE_WIDTH].any(axis=1)
            if features:
                # Where the table knows nothing, the words are all there is.
                share = np.where(unknown, 1.0, self._words)[:, None].astype(np.float32)
                some[:, :TABLE_WIDTH] *= np.sqrt(1 - share)
                some[:, TABLE_WIDTH:] = unit_sums(chunk, features[0], texts)
                some[:, TABLE_WIDTH:] *= np.sqrt(share)
                continue
            # A text without a known piece must still have a direction.
            for row in np.flatnonzero(unknown):
                if words := "".join(texts[chunk.start + row].split()):
                    some[row, word_hash(words) % TABLE_WIDTH] = 1.0
        return vectors

    def tokens(self, texts: Sequence[str]) -> list[IntArray]:
        """Words and single punctuation characters."""
        return word_spans(list_of_texts("texts", texts))


class WordPiece:
    """The uncased WordPiece tokenizer of BERT: words, and the longest pieces of each from its start on.

    >>> WordPiece(["un", "##seen", "tide", "!"]).numbers("Unseen Tide! 水")
    [0, 1, 2, 3]
    """

    def __init__(self, pieces: Sequence[str]) -> None:
        mark = len(CONTINUES)
        # The pieces that begin a word, and those that continue one.
        self._begin = {piece: number for number, piece in enumerate(pieces)}
        self._continue = {piece[mark:]: number for number, piece in enumerate(pieces) if piece.startswith(CONTINUES)}
        self._longest = max(map(len, pieces), default=0)
        self._is_ascii = all(map(str.isascii, pieces))
        self._characters = _Characters()

    def numbers(self, text: str) -> list[int]:
        """The numbers of the pieces of a text; a word that no pieces make up has none."""
        if not text.isascii():
            text = unicodedata.normalize("NFD", text)
        return list(chain.from_iterable(map(self._split, text.translate(self._characters).split())))

    def numbers_of_words(self, words: list[str]) -> tuple[IntArray, IntArray]:
        """The numbers of the pieces of words, word after word, and how many pieces each word has.

        >>> WordPiece(["un", "##seen", "tide"]).numbers_of_words(["unseen", "rain", "tide"])[1].tolist()
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
        found = [self.numbers(words[at]) for at in others]
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
            search = self._searches[len(rounds) > 1]
            pieces, longest = search.longest(data, starts[left], lengths[left])
            # A word is known as a whole or not at all.
            is_known[left[longest == 0]] = False
            rounds.append(_WordsAndPieces(left, pieces))
            starts[left] += longest
            lengths[left] -= longest
            left = left[(longest > 0) & (lengths[left] > 0)]
        owners, numbers = (np.concatenate(columns) for columns in zip(*rounds, strict=True))
        kept = is_known[owners]
        return _WordsAndPieces(owners[kept], numbers[kept])

    @cached_property
    def _searches(self) -> tuple[_PieceSearch, _PieceSearch]:
        return _PieceSearch(self._begin), _PieceSearch(self._continue)

    def _split(self, word: str) -> list[int]:
        if len(word) > MAX_WORD_LENGTH or (self._is_ascii and not word.isascii()):
            return []
        found: list[int] = []
        start, size, known = 0, len(word), self._begin
        while start < size:
            for end in range(min(size, start + self._longest), start, -1):
                if (number := known.get(word[start:end])) is not None:
                    break
            else:
                return []
            found.append(number)
            start, known = end, self._continue
        return found


class _WordsAndPieces(NamedTuple):
    """A word in each, and one of its pieces; those of a word in order."""

    words: IntArray
    pieces: IntArray


class _PieceSearch:
    """Finds, of all beginnings of each of many words, the longest that is a piece."""

    def __init__(self, numbers: dict[str, int]) -> None:
        short = [piece for piece in numbers if piece.isalnum() and len(piece.encode()) <= MAX_HASHED_BYTES]
        self._numbers = np.array([-1, *(numbers[piece] for piece in short)])
        self._vocabulary = Vocabulary()
        self._vocabulary.numbers(locate(short))

    def longest(self, data: bytes, starts: IntArray, lengths: IntArray) -> tuple[IntArray, IntArray]:
        """The pieces, and their lengths; -1 and 0 where there is none."""
        sizes = ranges(np.ones(len(starts), np.int64), lengths)
        found = self._vocabulary.find(data, np.repeat(starts, lengths), sizes)
        firsts = np.cumsum(lengths) - lengths
        longest = np.maximum.reduceat(np.where(found > 0, sizes, 0), firsts)
        return self._numbers[np.where(longest > 0, found[firsts + longest - 1], 0)], longest


class _Characters(dict[int, str]):
    """What BERT makes of each character of a decomposed text: lower case, set apart, a space, or nothing."""

    def __missing__(self, code: int) -> str:
        self[code] = normalized = _normalized(code)
        return normalized


def _normalized(code: int) -> str:
    character = chr(code)
    if is_wordpiece_space(character):
        return " "
    if unicodedata.category(character) in {"Cc", "Cf", "Co", "Cs", "Mn"} or character == "\ufffd":
        return ""
    if is_wordpiece_sign(character) or any(first <= code <= last for first, last in IDEOGRAPHS):
        return f" {character} "
    return character.lower()


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
            numbers, lengths = shipped_table().tokenizer.numbers_of_words(words)
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


# Whole numbers below this are exact in float32, in any order of their sum.
EXACT_FLOAT32 = 1 << 24
# A factor of a row is split into so many low bits and the rest, so that sums of both stay below.
LOW_BITS = 10
# The highest damped count: of a piece in a text of four thousand million pieces.
MAX_DAMPED = 6000
# Rows that are read together.
ROWS_TOGETHER = 1 << 9


@dataclass(frozen=True)
class PieceTable:
    """Word pieces with their rows (n, width) and their weights (n,), all whole numbers."""

    tokenizer: WordPiece
    rows: npt.NDArray[np.int8]
    weights: npt.NDArray[np.uint8]
    exact_rows: int
    """The sum of so many rows is exact in float32, whatever half of their factors they are multiplied by."""

    def row_sums(self, counted: PieceCounts, n: int) -> FloatArray:
        """(n, width) Σ weight · (1 + log count) · row over the distinct pieces of each of n texts.

        All factors are whole, the dampened count in 256ths: the sum is the same in any order and on every machine.
        """
        width = self.rows.shape[1]
        factors = damped(counted.counts) * self.weights.take(counted.pieces)
        split = np.empty((2, len(factors)), np.float32)
        split[0], split[1] = factors >> LOW_BITS, factors & ((1 << LOW_BITS) - 1)
        # 1. A text with very many pieces is added up in parts, each of which is exact.
        lengths = np.bincount(counted.rows, minlength=n)
        parts = -(-lengths // self.exact_rows)
        owners = np.repeat(np.arange(n), parts)
        within = ranges(np.zeros(n, np.int64), parts)
        starts = (np.cumsum(lengths) - lengths)[owners] + within * self.exact_rows
        ends = np.minimum(starts + self.exact_rows, np.cumsum(lengths)[owners])
        # 2. The sums of both halves of the factors.
        halves = np.empty((len(owners), 2, width), np.float32)
        taken = np.empty((min(max(ROWS_TOGETHER, self.exact_rows), len(factors)), width), np.int8)
        rows = np.empty(taken.shape, np.float32)
        first = last = 0
        for part, start, end in zip(halves, starts.tolist(), ends.tolist(), strict=True):
            if end > last:
                first, last = start, min(start + len(rows), len(counted.pieces))
                # With a mode, nothing is copied once more.
                self.rows.take(counted.pieces[first:last], axis=0, out=taken[: last - first], mode="clip")
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


@cache
def shipped_table() -> PieceTable:
    """The table that comes with siftlm, read once in a process."""
    try:
        with TABLE_FILE.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
            # By columns on disk, which compress better.
            rows, weights, pieces = np.ascontiguousarray(file["columns"].T), file["weights"], file["pieces"]
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise Damaged(f"the table of the static embedder cannot be read: {error}; install siftlm again") from error
    factor = max(1 << LOW_BITS, MAX_DAMPED * int(weights.max()) >> LOW_BITS)
    exact_rows = EXACT_FLOAT32 // (factor * max(int(rows.max()), -int(rows.min())))
    return PieceTable(WordPiece(pieces.tobytes().decode("ascii").split("\n")), rows, weights, exact_rows)
