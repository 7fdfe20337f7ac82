"""Passages of long texts: windows of tokens that end where the text has a natural break."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from siftlm.embedding.protocol import Embedder
from siftlm.errors import InvalidInput, setting
from siftlm.memory.reading.columns import DocumentBatch
from siftlm.types import IntArray

# Where to cut, best first; the next passage may begin at any place within the white space.
_BREAK_PATTERNS = tuple(
    re.compile(pattern)
    for pattern in (
        r"(?P<cut>\n[^\S\n]*\n\s*)",  # blank line
        r"(?P<cut>\n\s*)",  # end of a line
        r"(?:[.!?…][\"'”’)\]]*(?=\s)|[。！？])(?P<cut>\s*)",  # end of a sentence
        r"(?P<cut>\s+)",  # end of a word
    )
)
# Characters of texts whose tokens are held at a time.
WINDOW_CHARACTERS = 1 << 18
# Characters of a token: a longer word, such as a file of hexadecimal digits may be, counts as several.
MAX_TOKEN_CHARACTERS = 256
# Characters around a place that are read to judge it.
_CONTEXT_CHARACTERS = 16


@dataclass(frozen=True)
class PassageSpan:
    """A passage of a text, ``text[start:end]``, in characters."""

    start: int
    end: int


@dataclass(frozen=True, eq=False)
class PassageBatch:
    """The passages of a batch of documents, one document after the other."""

    texts: Sequence[str]
    starts: Sequence[int]
    """Where each begins in its document, in characters."""
    counts: Sequence[int] | None = None
    """How many passages each document has; None where all have one."""

    @property
    def owners(self) -> IntArray:
        """The document of each passage, by its position in the batch."""
        if self.counts is None:
            return np.arange(len(self.texts))
        return np.repeat(np.arange(len(self.counts)), self.counts)


def cut_documents(documents: DocumentBatch, embedder: Embedder, size: int, overlap: int) -> PassageBatch:
    """The documents cut into passages; those that come with their vectors are whole.

    A text has no more tokens than characters, so short ones are not counted.
    """
    texts, known = documents.texts, documents.known
    stripped = list(map(str.strip, texts))
    starts = [0] * len(texts)
    if stripped != texts:
        starts = [len(text) - len(text.lstrip()) for text in texts]
    long = [at for at in np.flatnonzero(~known).tolist() if len(texts[at]) > size]
    if not long:
        return PassageBatch(stripped, starts)
    spans = dict(_spans_of([(at, texts[at]) for at in long], embedder, size, overlap))
    parts: list[str] = []
    places: list[int] = []
    counts = [1] * len(texts)
    for at, text in enumerate(texts):
        if at in spans:
            cut = spans.pop(at)
            parts += [text[span.start : span.end] for span in cut]
            places += [span.start for span in cut]
            counts[at] = len(cut)
        else:
            parts.append(stripped[at])
            places.append(starts[at])
    return PassageBatch(parts, places, counts)


def _spans_of(
    texts: Sequence[tuple[int, str]], embedder: Embedder, size: int, overlap: int
) -> Iterator[tuple[int, list[PassageSpan]]]:
    """The passages of each text. Tokens are held of so many characters at a time, in one text or in several."""
    group: list[tuple[int, str]] = []
    characters = 0
    for at, text in texts:
        if group and characters + len(text) > WINDOW_CHARACTERS:
            yield from _spans_together(group, embedder, size, overlap)
            group, characters = [], 0
        if len(text) > WINDOW_CHARACTERS:
            yield at, list(_spans_by_windows(text, embedder, size, overlap))
        else:
            group.append((at, text))
            characters += len(text)
    yield from _spans_together(group, embedder, size, overlap)


def _spans_together(
    texts: Sequence[tuple[int, str]], embedder: Embedder, size: int, overlap: int
) -> Iterator[tuple[int, list[PassageSpan]]]:
    found = embedder.tokens([text for _, text in texts]) if texts else []
    for (at, text), tokens in zip(texts, found, strict=True):
        yield at, split_passages(text, tokens, size=size, overlap=overlap)


def _spans_by_windows(text: str, embedder: Embedder, size: int, overlap: int) -> Iterator[PassageSpan]:
    """The passages of a long text, window by window; each window begins where the next passage does."""
    begin = covered = 0
    characters = WINDOW_CHARACTERS
    while begin < len(text):
        window = text[begin : begin + characters]
        splitter = _PassageSplitter(window, _short_tokens(embedder.tokens([window])[0]), size, overlap)
        last = begin + characters >= len(text)
        for span in splitter.spans(covered - begin, last=last):
            yield PassageSpan(begin + span.start, begin + span.end)
        if last:
            return
        if not splitter.rest:
            characters *= 2  # too few tokens for a passage and what may follow it
        covered = max(covered, begin + splitter.covered)
        begin += splitter.rest


def split_passages(text: str, tokens: IntArray, *, size: int, overlap: int) -> list[PassageSpan]:
    """Cut a text into passages of at most ``size`` tokens, of which neighbours share at most ``overlap``.

    ``tokens`` is (t, 2), where each token starts and ends (`siftlm.embedding.Embedder.tokens`). A cut is moved back, by
    a quarter of a passage at most, to a blank line, the end of a line, of a sentence or of a word, whichever of these
    comes first in this list. Passages begin and end with a character that is no white space, each ends further on than
    the one before, and together they hold every such character of the text, those between tokens as well.

    Where less than a quarter of ``size`` would be left over for the last passage, the cut before it moves back further.
    Of the overlap at least half is kept, so that a passage can begin at a break as well. Only a single character that
    is itself more than ``size`` tokens exceeds ``size``.

    >>> text = "One sentence here. Another sentence there."
    >>> words = np.array([[m.start(), m.end()] for m in re.finditer(r"\\w+|[.]", text)])
    >>> [text[span.start : span.end] for span in split_passages(text, words, size=5, overlap=0)]
    ['One sentence here.', 'Another sentence there.']
    """
    if size < 1 or not 0 <= overlap < size:
        raise InvalidInput(
            f"{setting('size', size)} and {setting('overlap', overlap)}: size must be at least 1, overlap from "
            f"0 to size - 1"
        )
    whole = _strip_span(text, 0, len(text))
    if whole is None:
        return []
    tokens = _short_tokens(tokens)
    if len(tokens) <= size:
        return [whole]
    return list(_PassageSplitter(text, tokens, size, overlap).spans())


def _short_tokens(tokens: IntArray) -> IntArray:
    """(t, 2) the tokens, of which those that are far too long are cut: a word without end must not be one passage."""
    tokens = np.asarray(tokens, dtype=np.int64).reshape(-1, 2)
    lengths = tokens[:, 1] - tokens[:, 0]
    if not len(tokens) or lengths.max() <= MAX_TOKEN_CHARACTERS:
        return tokens
    pieces = np.maximum(-(-lengths // MAX_TOKEN_CHARACTERS), 1)
    within = np.arange(pieces.sum()) - np.repeat(np.cumsum(pieces) - pieces, pieces)
    starts = np.repeat(tokens[:, 0], pieces) + within * MAX_TOKEN_CHARACTERS
    ends = np.minimum(starts + MAX_TOKEN_CHARACTERS, np.repeat(tokens[:, 1], pieces))
    return np.stack([starts, ends], axis=1)


class _PassageSplitter:
    """A text whose tokens are grouped into units between which it can be cut.

    A unit runs from the start of its first token to the start of the next unit, so that units hold the whole text. It
    is one token, except where several tokens share a character, as the bytes of an emoji do.
    """

    def __init__(self, text: str, tokens: IntArray, size: int, overlap: int) -> None:
        self._text, self._size, self._overlap = text, size, overlap
        # Characters before the next passage, and in passages, when `spans` ends.
        self.rest = self.covered = 0
        starts = np.clip(np.maximum.accumulate(tokens[:, 0]), 0, len(text))
        ends = np.clip(np.maximum.accumulate(tokens[:, 1]), 0, len(text))
        inner = np.flatnonzero(starts[1:] >= ends[:-1]) + 1
        # Unit u holds tokens cuts[u] to cuts[u + 1] and characters places[u] to places[u + 1].
        self._cuts = np.concatenate(([0], inner, [len(tokens)]))
        self._places = np.concatenate(([0], starts[inner], [len(text)]))
        self._units = len(inner) + 1

    def spans(self, covered_characters: int = 0, *, last: bool = True) -> Iterator[PassageSpan]:
        """One passage after the other; ``covered`` units are in the passages so far.

        Where this is not the last window of a text, it ends before what follows the window could matter.
        """
        begin = self._past_blank(0)
        covered = int(np.searchsorted(self._places[:-1], covered_characters)) if covered_characters > 0 else 0
        total, enough = int(self._cuts[-1]), 2 * self._size + self._overlap
        while begin < self._units and (last or total - self._cuts[begin] >= enough):
            end = self._end(begin, covered)
            span = _strip_span(self._text, int(self._places[begin]), int(self._places[end]))
            while end > begin and self._blank(end - 1):
                end -= 1
            rest = self._past_blank(max(end, covered))
            if end > covered and span is not None:
                yield span
                covered = end
                begin = min(rest, self._past_blank(self._next_begin(begin, end)))
            else:
                begin = rest
            self.rest, self.covered = int(self._places[begin]), int(self._places[covered])
            if rest == self._units:
                break

    def _end(self, begin: int, covered: int) -> int:
        """The unit before which the window from ``begin`` on is cut."""
        first, total = int(self._cuts[begin]), int(self._cuts[-1])
        last = self._unit_up_to(first + self._size)
        if last == self._units:
            return last
        shortest = max(self._size // 4 - self._overlap, 0)
        if total - self._cuts[last] < shortest:
            last = self._unit_up_to(total - shortest)
        last = max(last, begin + 1)
        earliest = max(self._unit_from(int(self._cuts[last]) - self._size // 4), begin + 1, covered + 1)
        return self._best(earliest, last, latest=True) if earliest < last else last

    def _next_begin(self, begin: int, end: int) -> int:
        """Up to ``overlap`` tokens before the cut, at a natural break if there is one in the first half of these."""
        earliest = max(self._unit_from(int(self._cuts[end]) - self._overlap), begin + 1)
        latest = self._unit_up_to(int(self._cuts[end]) - (self._overlap + 1) // 2)
        return self._best(earliest, latest, latest=False) if earliest < latest else earliest

    def _best(self, low: int, high: int, *, latest: bool) -> int:
        """The unit from ``low`` to ``high`` that begins at the best break, or the one furthest on the wished side."""
        start, stop = int(self._places[low]), int(self._places[high])
        # What makes a place a break may stand on either side of it.
        for pattern in _BREAK_PATTERNS:
            best = None
            for match in pattern.finditer(self._text, max(start - _CONTEXT_CHARACTERS, 0), stop + _CONTEXT_CHARACTERS):
                unit = min(int(np.searchsorted(self._places, match.end("cut"), side="right")) - 1, high)
                if low <= unit and self._places[unit] >= match.start("cut"):
                    best = unit
                    if not latest:
                        break
            if best is not None:
                return best
        return high if latest else low

    def _unit_up_to(self, token: int) -> int:
        return int(np.searchsorted(self._cuts, token, side="right")) - 1

    def _unit_from(self, token: int) -> int:
        return int(np.searchsorted(self._cuts, token, side="left"))

    def _blank(self, unit: int) -> bool:
        return not self._text[self._places[unit] : self._places[unit + 1]].strip()

    def _past_blank(self, unit: int) -> int:
        while unit < self._units and self._blank(unit):
            unit += 1
        return unit


def _strip_span(text: str, start: int, end: int) -> PassageSpan | None:
    """The part of ``text[start:end]`` without the white space around it."""
    part = text[start:end]
    inside = part.strip()
    if not inside:
        return None
    start += len(part) - len(part.lstrip())
    return PassageSpan(start, start + len(inside))
