"""Plain references: both embedders that need numpy alone, one text and one word at a time, to the last bit."""

from __future__ import annotations

import hashlib
import itertools
import math
import re
import unicodedata
from collections import Counter
from functools import cache
from random import Random

import numpy as np
from hypothesis import strategies as st

from siftlm.embedding.static import IDEOGRAPHS, TABLE_FILE, TABLE_WIDTH

MASK = (1 << 64) - 1

# Texts of any characters, lone surrogates among them; of those that words, signs, spaces and WordPiece treat
# differently; of few words that come again; and of long words.
TRICKY = (
    "aZ09_ .-'\n\t\x00\x07\x0b\x0c\x1c\x7f\x85\xa0éßİıΣσςǅﬁ\u212a水ち한नि\u0301\u0323\u0338=≠→"
    "©€½²\u200b\u202e\ufeff\ufffd\u3000。\uff0c\ud800\udfff😀𝒜\U00020000"
)
WORDS = ["tide", "Tides", "the", "a_b", "don't", "re-reading", "20°C", "x" * 101]
any_texts = st.one_of(
    st.text(st.characters(), max_size=40),
    st.text(st.characters(exclude_categories=())),
    st.text(TRICKY, max_size=60),
    st.text("ab .", max_size=30),
    st.lists(st.sampled_from(WORDS), max_size=40).map(" ".join),
    st.text("abé水", min_size=5, max_size=30).map(lambda word: word * 9),
)


def passage(random: Random) -> str:
    """Up to 40 words, among them words that few or many passages have, in several scripts."""
    made = ["tide", "ebb and flow", f"w{random.randrange(40)}", "жизнь", "日本。語", "naïve", "a\x0cb", "7°C", "x" * 20]
    return random.choice([" ", "\n", "-"]).join(random.choices(made, k=random.randrange(40)))


def hashed(text: str, width: int) -> np.ndarray:
    """(width,) by `siftlm.embedding.HashingEmbedder`."""
    folded = text.lower() if text.isascii() else unicodedata.normalize("NFC", text.lower())
    words = re.findall(r"\w+|[^\w\s]", folded)
    sums = [0] * width

    def add(number: int, weight: int) -> None:
        sums[number % width] += weight if number >> 63 == 0 else -weight

    for word, count in Counter(words).items():
        add(named(word), 64 * damped(count))
        for number in ngrams(word):
            add(number, round(80 / math.sqrt(len(ngrams(word)))) * damped(count))
    for (first, second), count in Counter(itertools.pairwise(words)).items():
        add(mixed((named(first) * 0x9E3779B97F4A7C15 + named(second)) & MASK), 16 * damped(count))
    if words and not any(sums):
        sums[named("".join(words)) % width] = 1
    row = np.array([sums], dtype=np.float64)
    return (row / max(np.sqrt(np.einsum("nd,nd->n", row, row))[0], 1.0))[0].astype(np.float32)


def damped(count: int) -> int:
    return round(256 * (1 + math.log(count)))


def named(word: str) -> int:
    return int.from_bytes(hashlib.blake2b(word.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")


def mixed(number: int) -> int:
    number = ((number ^ (number >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    number = ((number ^ (number >> 27)) * 0x94D049BB133111EB) & MASK
    return number ^ (number >> 31)


@cache
def ngrams(word: str) -> list[int]:
    found, marked = [], f"<{word}>"
    for length in (4, 5) if len(word) >= 4 else ():
        for start in range(len(marked) - length + 1):
            number = length
            for letter in marked[start : start + length]:
                number = mixed((number * 31 + ord(letter)) & MASK)
            found.append(number)
    return found


def static(text: str, words: float = 0.4, words_width: int = 512) -> np.ndarray:
    """(width,) by `siftlm.embedding.StaticEmbedder`."""
    pieces, rows, weights = table()
    counts = Counter(piece for word in wordpiece_words(text) for piece in wordpieces(word, pieces))
    numbers = np.array([pieces[piece] for piece in counts], dtype=np.int64)
    factors = np.array([damped(count) for count in counts.values()], dtype=np.float64)
    sums = (factors * weights[numbers]) @ rows[numbers].astype(np.float64)
    meaning = (sums / (math.sqrt(float(sums @ sums)) or 1.0)).astype(np.float32)
    if not words:
        if not meaning.any() and text.strip():
            meaning[named("".join(text.split())) % TABLE_WIDTH] = 1.0
        return meaning
    share = np.float32(words if meaning.any() else 1.0)
    return np.concatenate([np.sqrt(1 - share) * meaning, np.sqrt(share) * hashed(text, words_width)])


@cache
def table() -> tuple[dict[str, int], np.ndarray, np.ndarray]:
    with np.load(TABLE_FILE) as file:
        names = file["pieces"].tobytes().decode("ascii").split("\n")
        rows = np.ascontiguousarray(file["columns"].T)
        return {name: number for number, name in enumerate(names)}, rows, file["weights"]


def wordpiece_words(text: str) -> list[str]:
    return "".join(map(bert_character, unicodedata.normalize("NFD", text))).split()


@cache
def bert_character(character: str) -> str:
    category = unicodedata.category(character)
    if character in "\t\n\r" or category in {"Zs", "Zl", "Zp"}:
        return " "
    if category in {"Cc", "Cf", "Co", "Cs", "Mn"} or character == "\ufffd":
        return ""
    is_ascii_sign = character.isascii() and not character.isalnum()
    is_ideograph = any(first <= ord(character) <= last for first, last in IDEOGRAPHS)
    return f" {character} " if is_ascii_sign or is_ideograph or category.startswith("P") else character.lower()


def wordpieces(word: str, pieces: dict[str, int]) -> list[str]:
    found: list[str] = []
    start = 0
    while start < len(word) <= 100:
        mark = "##" if start else ""
        ends = (end for end in range(len(word), start, -1) if mark + word[start:end] in pieces)
        end = next(ends, None)
        if end is None:
            return []
        found.append(mark + word[start:end])
        start = end
    return found
