"""The words of many texts at once, numbered by a vocabulary of the words seen lately; numpy alone.

A word is a word or any other character that is no space. Texts are joined into one array of UTF-8 bytes, a table says
what each byte belongs to, and a word of up to 16 bytes is found by its bytes in a hash table: Python looks only at
words that are new.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from siftlm.embedding.hashing import WORD_OR_SIGN, Hashes, plain_text
from siftlm.embedding.static import is_wordpiece_sign, is_wordpiece_space
from siftlm.types import IntArray

# Characters and texts that are read together, and words and their bytes that are known between such chunks.
CHUNK_CHARACTERS, CHUNK_TEXTS = 1 << 18, 1 << 10
MAX_CACHED_WORDS, MAX_CACHED_BYTES = 1 << 16, 1 << 20

Bytes = npt.NDArray[np.uint8]
Numbers = npt.NDArray[np.uint32]


# --- what a byte of a text belongs to

# A word; the first byte of a sign, and its other bytes; what WordPiece attaches to the word before or after it, or
# leaves out. Both of a sign or space and WordPiece's joint: a word, for WordPiece, goes on across it.
WORD, SIGN, REST, JOINT = 1, 2, 4, 8
UNKNOWN, LEAD, CONTINUATION = 64, 64, 128
# No byte of UTF-8: it stands between two texts.
END = b"\xff"
# Words, in bytes, that the hash table holds; the characters of longer ones are looked at by Python.
MAX_HASHED_BYTES = 16
LOW_BYTES: Hashes = np.array([(1 << 8 * kept) - 1 for kept in range(9)], np.uint64)


def _kind(code: int) -> int:
    character = chr(code)
    if is_wordpiece_space(character):
        return 0
    if re.match(r"\w", character):
        return WORD
    sign = SIGN if WORD_OR_SIGN.match(character) else 0
    return sign if is_wordpiece_sign(character) else sign | JOINT


@cache
def _kinds_of_bytes() -> bytes:
    return bytes([_kind(code) if code < 128 else CONTINUATION if code < 192 else LEAD for code in range(255)] + [0])


@cache
def _kinds_of_characters() -> Bytes:
    """Filled where texts have such characters."""
    return np.full(0x110000, UNKNOWN, np.uint8)


def _set_kinds_beyond_ascii(kinds: Bytes, codes: Bytes) -> None:
    first = np.flatnonzero(kinds == LEAD)
    lead = codes[first]
    sizes = 2 + (lead >= 0xE0).astype(np.int64) + (lead >= 0xF0)
    characters = (lead & (0x7F >> sizes)).astype(np.int64)
    for place in (1, 2, 3):
        among = np.flatnonzero(sizes > place)
        characters[among] = characters[among] << 6 | codes[first[among] + place] & 0x3F
    table = _kinds_of_characters()
    found = table[characters]
    if (found == UNKNOWN).any():
        for character in set(characters[found == UNKNOWN].tolist()):
            table[character] = _kind(character)
        found = table[characters]
    kinds[first] = found
    rest = (found & (WORD | JOINT)) | (found & SIGN) << 1
    for place in (1, 2, 3):
        among = np.flatnonzero(sizes > place)
        kinds[first[among] + place] = rest[among]


class Located(NamedTuple):
    """Where the words of some texts are, in bytes."""

    data: bytes
    starts: IntArray
    ends: IntArray
    counts: IntArray
    """(n,) words of each text."""
    kinds: Bytes


def locate(texts: Sequence[str]) -> Located:
    """The words of texts, which are in lower case or need not be.

    >>> found = locate(["oh no!", "é"])
    >>> [found.data[start:end].decode() for start, end in zip(found.starts, found.ends)], found.counts.tolist()
    (['oh', 'no', '!', 'é'], [3, 1])
    """
    joined = END.join([text.encode("utf-8", "surrogatepass") for text in texts])
    # Zeros, so that eight bytes can be read from the start of any word on and eight after those.
    data = END + joined + END + bytes(MAX_HASHED_BYTES)
    codes = np.frombuffer(data, np.uint8)
    kinds = np.frombuffer(bytearray(data.translate(_kinds_of_bytes())), np.uint8)[: len(joined) + 2]
    if kinds.max() >= LEAD:
        _set_kinds_beyond_ascii(kinds, codes)
    before, here = kinds[:-1], kinds[1:]
    starts = ((here & (~before & WORD | SIGN)) != 0).nonzero()[0] + 1
    ends = (((before & WORD | (before | before << 1) & REST) & ~here) != 0).nonzero()[0] + 1
    bounds = starts.searchsorted((codes == 0xFF).nonzero()[0])
    counts: IntArray = bounds[1:] - bounds[:-1]
    return Located(data, starts, ends, counts[: len(texts)], kinds)


# --- the words seen lately


def _keys(data: bytes, starts: IntArray, lengths: IntArray) -> tuple[Hashes, Hashes]:
    """The first eight bytes of words, and the eight after those; zeros beyond their end."""
    eights = np.ndarray((len(data) - 7,), "<u8", data, strides=(1,))
    first = eights[starts] & LOW_BYTES.take(np.minimum(lengths, 8))
    second = np.zeros(len(first), np.uint64)
    long = np.flatnonzero(lengths > 8)
    second[long] = eights[starts[long] + 8] & LOW_BYTES.take(np.minimum(lengths[long] - 8, 8))
    return first, second


class Vocabulary:
    """Numbers of words, from 1 on; a hash table with linear probing, whose keys are the words' first 16 bytes.

    >>> vocabulary, found = Vocabulary(), locate(["tide and rain and tide"])
    >>> vocabulary.numbers(found).tolist(), vocabulary.new
    ([1, 2, 3, 2, 1], [b'', b'tide', b'and', b'rain'])
    """

    def __init__(self) -> None:
        self.new: list[bytes] = [b""]
        self.size, self.size_bytes = 1, 0
        self._long: dict[bytes, int] = {}
        # Twice eight bytes for each number. No word has those of number 0, as 0xFF is no byte of UTF-8.
        self._columns = (Growing(np.uint64), Growing(np.uint64))
        self._keys = [column.append(np.array([~np.uint64(0)])) for column in self._columns]
        self._slots: npt.NDArray[np.int32] = np.zeros(1 << 10, np.int32)

    def numbers(self, found: Located) -> IntArray:
        """The numbers of words; new words are learned first."""
        lengths = found.ends - found.starts
        first, second = _keys(found.data, found.starts, lengths)
        numbers = self._find(first, second)
        numbers[lengths > MAX_HASHED_BYTES] = 0
        unknown = np.flatnonzero(numbers == 0)
        if len(unknown):
            spans = zip(found.starts[unknown].tolist(), found.ends[unknown].tolist(), strict=True)
            words = [found.data[start:end] for start, end in spans]
            numbers[unknown] = self._learn(words, first[unknown], second[unknown])
        return numbers

    def find(self, data: bytes, starts: IntArray, lengths: IntArray) -> IntArray:
        """The numbers of words of up to 16 bytes, and 0 for those that are not known."""
        return self._find(*_keys(data, starts, lengths))

    def _learn(self, words: list[bytes], first: Hashes, second: Hashes) -> IntArray:
        known = self._long
        new = {word: place for place, word in enumerate(words) if word not in known}
        numbers = dict(zip(new, range(self.size, self.size + len(new)), strict=True))
        known.update((word, number) for word, number in numbers.items() if len(word) > MAX_HASHED_BYTES)
        places = np.fromiter(new.values(), np.int64, len(new))
        pairs = zip(self._columns, (first, second), strict=True)
        self._keys = [column.append(keys[places]) for column, keys in pairs]
        self.new.extend(new)
        self.size += len(new)
        self.size_bytes += sum(map(len, new))
        hashed = np.array([number for word, number in numbers.items() if len(word) <= MAX_HASHED_BYTES], np.int64)
        if 3 * self.size > len(self._slots):
            self._slots = np.zeros(1 << (6 * self.size).bit_length(), np.int32)
            is_hashed = np.ones(self.size, bool)
            is_hashed[[0, *known.values()]] = False
            hashed = np.flatnonzero(is_hashed)
        self._insert(hashed)
        return np.array([numbers[word] if word in numbers else known[word] for word in words], np.int64)

    def _homes(self, first: Hashes, second: Hashes) -> IntArray:
        mixed = first * np.uint64(0x9E3779B97F4A7C15)
        mixed += second * np.uint64(0xC2B2AE3D27D4EB4F)
        homes: IntArray = (mixed >> np.uint64(65 - len(self._slots).bit_length())).astype(np.int64)
        return homes

    def _find(self, first: Hashes, second: Hashes) -> IntArray:
        """The numbers, and 0 for words that are not known."""
        firsts, seconds = self._keys
        slots = self._homes(first, second)
        numbers = self._slots.take(slots).astype(np.int64)
        wrong = np.flatnonzero((firsts.take(numbers) != first) | (seconds.take(numbers) != second))
        while len(wrong):
            wrong = wrong[numbers[wrong] != 0]
            slots[wrong] = (slots[wrong] + 1) & (len(self._slots) - 1)
            numbers[wrong] = self._slots[slots[wrong]]
            differ = (firsts[numbers[wrong]] != first[wrong]) | (seconds[numbers[wrong]] != second[wrong])
            wrong = wrong[differ]
        return numbers

    def _insert(self, numbers: IntArray) -> None:
        firsts, seconds = self._keys
        slots = self._homes(firsts[numbers], seconds[numbers])
        while len(numbers):
            free = self._slots[slots] == 0
            self._slots[slots[free]] = numbers[free]
            # Of several words for a free slot one has it now.
            left = self._slots[slots] != numbers
            numbers, slots = numbers[left], (slots[left] + 1) & (len(self._slots) - 1)


# --- chunk after chunk


class KnownWords(Protocol):
    """What an embedder knows of the words of a vocabulary, number by number."""

    needs_joined: bool
    """Whether it asks for `Chunk.joined`."""

    def learn(self, words: list[str]) -> Any:
        """Arrays of all words, after those of ``words``, the newest ones, were added."""

    def forget(self) -> None:
        """Start again with an empty vocabulary."""


class JoinedRun(NamedTuple):
    """Words that are one to WordPiece: where, among the words of a chunk, and the characters."""

    text: int
    start: int
    end: int
    characters: str


class WordCounts(NamedTuple):
    """(m,) the different words of each text, text after text, and how often they occur there."""

    rows: IntArray
    words: IntArray
    counts: IntArray


class Chunk(NamedTuple):
    """Some texts, one after the other, and their words."""

    start: int
    end: int
    rows: Numbers
    """(t,) which text, counted from ``start``, each word is of."""
    words: Numbers
    """(t,) their numbers."""
    bits: int
    """Numbers of words have no more."""
    counted: WordCounts
    joined: list[JoinedRun]
    """Empty where nobody needs it."""
    known: list[Any]
    """What `KnownWords.learn` returned, one for each."""


class WordReader:
    """Reads texts in chunks of bounded size; threads may share it."""

    def __init__(self, *known: KnownWords) -> None:
        self._known, self._needs_joined = known, any(one.needs_joined for one in known)
        self._vocabulary = Vocabulary()
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[Any, ...]:
        """For another process, which learns the words again."""
        return (WordReader, self._known)

    def read(self, texts: list[str]) -> Iterator[Chunk]:
        """All texts, some at a time, each with whatever is known of its words."""
        start = size = 0
        for end, text in enumerate(texts, start=1):
            size += len(text)
            is_full = end - start == CHUNK_TEXTS or end == len(texts)
            if is_full or size + len(texts[end]) > CHUNK_CHARACTERS:
                yield self._chunk(texts, start, end)
                start, size = end, 0

    def _chunk(self, texts: list[str], start: int, end: int) -> Chunk:
        counts, parts, joined, before = np.zeros(end - start, np.int64), list[Numbers](), list[JoinedRun](), 0
        with self._lock:
            vocabulary, is_kept = self._vocabulary, False
            try:
                # A long text is read part by part, and all its words are known until it has been read.
                is_long = len(texts[start]) > CHUNK_CHARACTERS
                for part in _parts(texts[start]) if is_long else [texts[start:end]]:
                    found = locate([plain_text(text) for text in part])
                    counts += found.counts
                    parts.append(vocabulary.numbers(found).astype(np.uint32))
                    runs = _joined(found) if self._needs_joined else []
                    joined += [run._replace(start=run.start + before, end=run.end + before) for run in runs]
                    before += len(parts[-1])
                    new, vocabulary.new = [word.decode("utf-8", "surrogatepass") for word in vocabulary.new], []
                    known = [one.learn(new) for one in self._known]
                is_kept = vocabulary.size <= MAX_CACHED_WORDS and vocabulary.size_bytes <= MAX_CACHED_BYTES
            finally:
                # Also when it was interrupted: some may know words that others do not.
                if not is_kept:
                    self._vocabulary = Vocabulary()
                    for one in self._known:
                        one.forget()
            bits = vocabulary.size.bit_length()
        words = parts[0] if len(parts) == 1 else np.concatenate(parts)
        rows = np.repeat(np.arange(end - start, dtype=np.uint32), counts)
        return Chunk(start, end, rows, words, bits, _word_counts(rows, words, bits), joined, known)


# Where a long text may be cut: neither a change to lower case nor a composition looks across.
CUT = re.compile("[ \t\n\r\u3000-\u3002\uff0c]")


def _parts(text: str) -> Iterator[list[str]]:
    start = 0
    while len(text) - start > CHUNK_CHARACTERS and (cut := CUT.search(text, start + CHUNK_CHARACTERS)):
        yield [text[start : cut.start()]]
        start = cut.start()
    yield [text[start:]]


def _word_counts(rows: Numbers, words: Numbers, bits: int) -> WordCounts:
    # Half as many bits are sorted in half the time.
    is_narrow = len(rows) == 0 or (int(rows[-1]) + 1) << bits <= 1 << 32
    keys: npt.NDArray[Any] = rows.astype(np.uint32 if is_narrow else np.uint64)
    np.left_shift(keys, keys.dtype.type(bits), out=keys)
    np.bitwise_or(keys, words, out=keys)
    found, counts = distinct(keys)
    pairs: IntArray = found.astype(np.int64)
    return WordCounts(pairs >> bits, pairs & ((1 << bits) - 1), counts)


def _joined(found: Located) -> list[JoinedRun]:
    """The runs of words and joints with a joint that has a neighbour."""
    joints = np.flatnonzero(found.kinds >= JOINT)
    if not len(joints):
        return []
    attached = (found.kinds & (WORD | JOINT)) != 0
    edges = np.flatnonzero(attached[1:] != attached[:-1]) + 1
    runs = np.unique(np.searchsorted(edges, joints, side="right"))
    starts, ends = edges[runs - 1], edges[runs]
    firsts, lasts = np.searchsorted(found.starts, starts), np.searchsorted(found.starts, ends)
    # A sign alone joins nothing, and neither do spaces.
    kept = lasts > firsts
    starts, ends, firsts, lasts = starts[kept], ends[kept], firsts[kept], lasts[kept]
    kept = (found.kinds[starts] & SIGN == 0) | (found.ends[firsts] != ends)
    starts, ends, firsts, lasts = starts[kept], ends[kept], firsts[kept], lasts[kept]
    texts = np.searchsorted(np.cumsum(found.counts), firsts, side="right")
    columns = (column.tolist() for column in (texts, firsts, lasts, starts, ends))
    return [
        JoinedRun(text, first, last, found.data[start:end].decode("utf-8", "surrogatepass"))
        for text, first, last, start, end in zip(*columns, strict=True)
    ]


# --- counts and ranges of whole numbers in arrays, and arrays that grow


class Distinct(NamedTuple):
    """Ascending keys, and how often each occurs."""

    keys: npt.NDArray[Any]
    counts: IntArray


def distinct(keys: npt.NDArray[Any]) -> Distinct:
    """The different keys; sorts the array itself."""
    keys.sort()
    starts = run_starts(keys)
    counts = np.empty(len(starts), np.int64)
    np.subtract(starts[1:], starts[:-1], out=counts[:-1])
    counts[-1:] = len(keys) - starts[-1:]
    return Distinct(keys[starts], counts)


def run_starts(keys: npt.NDArray[Any]) -> IntArray:
    """Where a key is another one than the key before.

    >>> run_starts(np.array([3, 3, 5, 7, 7])).tolist()
    [0, 2, 3]
    """
    is_first = np.ones(len(keys), bool)
    np.not_equal(keys[1:], keys[:-1], out=is_first[1:])
    return is_first.nonzero()[0]


def ranges(starts: IntArray, lengths: IntArray) -> IntArray:
    """Whole numbers counted up from each start.

    >>> ranges(np.array([5, 0]), np.array([2, 3])).tolist()
    [5, 6, 0, 1, 2]
    """
    ends = lengths.cumsum()
    counted: IntArray = (starts - ends + lengths).repeat(lengths)
    counted += np.arange(len(counted))
    return counted


class Growing:
    """An array that is appended to. What others took of it stays as it was."""

    def __init__(self, dtype: npt.DTypeLike, *shape: int) -> None:
        self._filled, self._space = 0, np.zeros((0, *shape), dtype)

    @property
    def array(self) -> npt.NDArray[Any]:
        return self._space[: self._filled]

    def append(self, rows: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """The array with more rows."""
        filled = self._filled + len(rows)
        if filled > len(self._space):
            space = np.zeros((filled + filled // 2, *self._space.shape[1:]), self._space.dtype)
            space[: self._filled] = self.array
            self._space = space
        self._space[self._filled : filled] = rows
        self._filled = filled
        return self.array
