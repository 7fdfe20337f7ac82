"""The static embedder: a vector for each of 27,623 word pieces, shipped with siftlm, beside hashed words; numpy alone.

A text's vector has two parts. The first is a weighted sum of the rows of a table that was distilled from a sentence
model, so that "photograph" is near "camera"; rare pieces weigh more. The second is `siftlm.embedding.hashing`, which
knows names and numbers that the table does not. The inner product of two texts is

    (1 - words) · cosine by the table + words · cosine by hashing

``data/README.md`` says where the table comes from, and ``examples/static_table.py`` makes it.
"""

from __future__ import annotations

import math
import unicodedata
import zipfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from siftlm.embedding.hashing import MAX_CACHED_WORDS, HashingEmbedder, word_hash, word_spans
from siftlm.embedding.protocol import fingerprint
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
        meaning = np.zeros((len(texts), TABLE_WIDTH), dtype=np.float32)
        for row, text in enumerate(texts):
            meaning[row] = _unit(shipped_table().row_sum(text))
        if not self._words:
            # A text without a known piece must still have a direction.
            for unknown in np.flatnonzero(~meaning.any(axis=1)):
                if texts[unknown].strip():
                    meaning[unknown, word_hash("".join(texts[unknown].split())) % TABLE_WIDTH] = 1.0
            return meaning
        hashed = self._hashing.embed(texts)
        # Where the table knows nothing, the words are all there is.
        share = np.where(meaning.any(axis=1), self._words, 1.0)[:, None].astype(np.float32)
        vectors: Vectors = np.concatenate([np.sqrt(1 - share) * meaning, np.sqrt(share) * hashed], axis=1)
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
        self._number = {piece: number for number, piece in enumerate(pieces)}
        self._characters = _Characters()
        self._known: dict[str, tuple[int, ...]] = {}

    def numbers(self, text: str) -> list[int]:
        """The numbers of the pieces of a text; a word that no pieces make up has none."""
        if not text.isascii():
            text = unicodedata.normalize("NFD", text)
        return list(chain.from_iterable(map(self._pieces, text.translate(self._characters).split())))

    def _pieces(self, word: str) -> tuple[int, ...]:
        known = self._known
        if word not in known:
            if len(known) >= MAX_CACHED_WORDS:  # threads that still read the old one are not disturbed
                self._known = {}
            known[word] = self._split(word)
        return known[word]

    def _split(self, word: str) -> tuple[int, ...]:
        found: list[int] = []
        start = 0
        while start < len(word) <= MAX_WORD_LENGTH:
            mark = CONTINUES if start else ""
            ends = range(len(word), start, -1)
            end = next((end for end in ends if mark + word[start:end] in self._number), None)
            if end is None:
                return ()
            found.append(self._number[mark + word[start:end]])
            start = end
        return tuple(found)


class _Characters(dict[int, str]):
    """What BERT makes of each character of a decomposed text: lower case, set apart, a space, or nothing."""

    def __missing__(self, code: int) -> str:
        self[code] = normalized = _normalized(code)
        return normalized


def _normalized(code: int) -> str:
    character = chr(code)
    category = unicodedata.category(character)
    if character in "\t\n\r" or category in {"Zs", "Zl", "Zp"}:
        return " "
    if category in {"Cc", "Cf", "Co", "Cs", "Mn"} or character == "\ufffd":
        return ""
    ascii_sign = character.isascii() and not character.isalnum()
    if ascii_sign or category.startswith("P") or any(first <= code <= last for first, last in IDEOGRAPHS):
        return f" {character} "
    return character.lower()


@dataclass(frozen=True)
class PieceTable:
    """Word pieces with their rows (n, width) and their weights (n,), all whole numbers."""

    tokenizer: WordPiece
    rows: npt.NDArray[np.int8]
    weights: npt.NDArray[np.uint8]

    def row_sum(self, text: str) -> FloatArray:
        """(width,) Σ weight · (1 + log count) · row over the distinct pieces of a text.

        All factors are whole, the dampened count in 256ths: the sum is the same in any order and on every machine.
        """
        counts = Counter(self.tokenizer.numbers(text))
        pieces = np.fromiter(counts, np.int64, len(counts))
        damped = np.array([_damped(count) for count in counts.values()], dtype=np.float64)
        total: FloatArray = (damped * self.weights[pieces]) @ self.rows[pieces].astype(np.float64)
        return total


@cache
def _damped(count: int) -> int:
    return round(256 * (1 + math.log(count)))


def _unit(sums: FloatArray) -> FloatArray:
    length = math.sqrt(float(sums @ sums))
    unit: FloatArray = sums / (length or 1.0)
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
    return PieceTable(WordPiece(pieces.tobytes().decode("ascii").split("\n")), rows, weights)
