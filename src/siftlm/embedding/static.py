"""The static embedder: a vector for each of 27,623 word pieces, shipped with siftlm, beside hashed words; numpy alone.

A text's vector has two parts. The first is a weighted sum of the rows of a table that was distilled from a sentence
model, so that "photograph" is near "camera"; rare pieces weigh more. The second is `siftlm.embedding.hashing`, which
knows names and numbers that the table does not. The inner product of two texts is

    (1 - words) · cosine by the table + words · cosine by hashing

`static_vector` is the definition, one text at a time; `siftlm.embedding.batches` reads many texts at
once, to the same bits. ``data/README.md`` says where the table comes from, and ``examples/static_table.py`` makes it.
"""

from __future__ import annotations

import math
import unicodedata
import zipfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property, lru_cache
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from siftlm.embedding.hashing import (
    FEW_CHARACTERS,
    MAX_CACHED_WORDS,
    HashingEmbedder,
    are_few,
    damped,
    hashed_words,
    word_hash,
    word_spans,
)
from siftlm.embedding.protocol import fingerprint
from siftlm.errors import Damaged
from siftlm.types import FloatArray, IntArray, Vectors
from siftlm.validation import fraction, list_of_texts, whole_number

if TYPE_CHECKING:
    from siftlm.embedding.batches import StaticBatches

TABLE_FILE = Path(__file__).parent.parent / "data" / "static.npz"
TABLE_WIDTH = 256
# Rises whenever the same text would get another vector; the table is one reason.
STATIC_VERSION = 1

# Shorter texts are read one by one where no words are hashed: adding pieces up is soon done.
FEW_CHARACTERS_OF_PIECES = 1500

# WordPiece: longer words are unknown, and a piece that continues a word is marked.
MAX_WORD_LENGTH = 100
CONTINUES = "##"
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
        if not are_few(texts, FEW_CHARACTERS if self._words else FEW_CHARACTERS_OF_PIECES):
            return self._batches.embed(texts)
        vectors: Vectors = np.empty((len(texts), self.width), dtype=np.float32)
        for row, text in enumerate(texts):
            vectors[row] = static_vector(text, self._words, self._hashing.width)
        return vectors

    def tokens(self, texts: Sequence[str]) -> list[IntArray]:
        """Words and single punctuation characters."""
        return word_spans(list_of_texts("texts", texts))

    @cached_property
    def _batches(self) -> StaticBatches:
        from siftlm.embedding.batches import StaticBatches

        return StaticBatches(self._words, self._hashing.width)


# --- the definition


def static_vector(text: str, words: float, words_width: int) -> Vectors:
    """(width,) the vector of a text: the table's part and, unless ``words`` is 0, hashed words at that share."""
    # 1. Σ weight · (1 + log count) · row over the distinct pieces. All factors are whole, the dampened count in 256ths:
    #    the sum is the same in any order and on every machine.
    table = shipped_table()
    counts = Counter(table.tokenizer.numbers(text))
    pieces = np.fromiter(counts, np.int64, len(counts))
    factors = np.array([damped(count) for count in counts.values()], dtype=np.float64)
    sums: FloatArray = (factors * table.weights[pieces]) @ table.rows[pieces].astype(np.float64)
    # 2. At unit length, beside the words.
    meaning: Vectors = (sums / (math.sqrt(float(sums @ sums)) or 1.0)).astype(np.float32)
    if words:
        # Where the table knows nothing, the words are all there is.
        share = np.float32(words if meaning.any() else 1.0)
        hashed = hashed_words(text, words_width).astype(np.float32)
        return np.concatenate([np.sqrt(1 - share) * meaning, np.sqrt(share) * hashed])
    # A text without a known piece must still have a direction.
    if not meaning.any() and text.strip():
        meaning[word_hash("".join(text.split())) % TABLE_WIDTH] = 1.0
    return meaning


class WordPiece:
    """The uncased WordPiece tokenizer of BERT: words, and the longest pieces of each from its start on.

    >>> WordPiece(["un", "##seen", "tide", "!"]).numbers("Unseen Tide! 水")
    [0, 1, 2, 3]
    """

    def __init__(self, pieces: Sequence[str]) -> None:
        mark = len(CONTINUES)
        # The pieces that begin a word, and those that continue one.
        self.begin = {piece: number for number, piece in enumerate(pieces)}
        self.continues = {piece[mark:]: number for number, piece in enumerate(pieces) if piece.startswith(CONTINUES)}
        self._longest = max(map(len, pieces), default=0)
        self._is_ascii = all(map(str.isascii, pieces))
        self._characters = _Characters()
        self._known_pieces = lru_cache(MAX_CACHED_WORDS)(self._split)

    def numbers(self, text: str) -> list[int]:
        """The numbers of the pieces of a text; a word that no pieces make up has none."""
        if not text.isascii():
            text = unicodedata.normalize("NFD", text)
        words = (word for word in text.translate(self._characters).split() if len(word) <= MAX_WORD_LENGTH)
        return list(chain.from_iterable(map(self._known_pieces, words)))

    def _split(self, word: str) -> list[int]:
        if self._is_ascii and not word.isascii():
            return []
        found: list[int] = []
        start, size, known = 0, len(word), self.begin
        while start < size:
            for end in range(min(size, start + self._longest), start, -1):
                if (number := known.get(word[start:end])) is not None:
                    break
            else:
                return []
            found.append(number)
            start, known = end, self.continues
        return found


class _Characters(dict[int, str]):
    """What BERT makes of each character of a decomposed text: lower case, set apart, a space, or nothing."""

    def __missing__(self, code: int) -> str:
        self[code] = normalized = _normalized(code)
        return normalized


def is_wordpiece_space(character: str) -> bool:
    """Whether BERT's tokenizer separates words there."""
    return character in "\t\n\r" or unicodedata.category(character) in {"Zs", "Zl", "Zp"}


def is_wordpiece_sign(character: str) -> bool:
    """Whether BERT's tokenizer makes a word of the character alone, ideographs aside."""
    category = unicodedata.category(character)
    return category.startswith("P") or (character.isascii() and not character.isalnum() and category != "Cc")


def _normalized(code: int) -> str:
    character = chr(code)
    if is_wordpiece_space(character):
        return " "
    if unicodedata.category(character) in {"Cc", "Cf", "Co", "Cs", "Mn"} or character == "\ufffd":
        return ""
    if is_wordpiece_sign(character) or any(first <= code <= last for first, last in IDEOGRAPHS):
        return f" {character} "
    return character.lower()


@dataclass(frozen=True)
class PieceTable:
    """Word pieces with their rows (n, width) and their weights (n,), all whole numbers."""

    tokenizer: WordPiece
    rows: npt.NDArray[np.int8]
    weights: npt.NDArray[np.uint8]


@cache
def shipped_table() -> PieceTable:
    """The table that comes with siftlm, read once in a process."""
    try:
        with TABLE_FILE.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
            # By columns on disk, which compress better.
            rows, weights, pieces = np.ascontiguousarray(file["columns"].T), file["weights"], file["pieces"]
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise Damaged(f"the table of the static embedder cannot be read: {error}; install siftlm again") from error
    return PieceTable(WordPiece(pieces.tobytes().decode("ascii").split("\n")), rows, weights)
