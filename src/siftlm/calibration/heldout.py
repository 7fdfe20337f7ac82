"""Texts to try settings on: drawn from all over the memory, or given; and what of the memory would give them away."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from siftlm.errors import InvalidInput
from siftlm.evaluation.protocol import leaked_rows
from siftlm.local_asked import split_text
from siftlm.memory import Memory
from siftlm.memory.ingest import embed_checked
from siftlm.memory.searcher import Searcher
from siftlm.memory.snapshot import Snapshot
from siftlm.types import Vectors

# Characters of a text that is drawn: enough to embed one half and score the other, not so many that it takes long.
MIN_HELD_OUT_CHARACTERS, MAX_HELD_OUT_CHARACTERS = 100, 1500
# Fewer texts say nothing.
MIN_TEXTS = 4
# Passages that are tried before a part of the memory is given up.
MAX_DRAWS_PER_PART = 20


@dataclass(frozen=True, eq=False)
class HeldOut:
    """A text that a setting is tried on."""

    text: str
    prompt: str
    scored: str
    before: str
    """What is read before the scored part."""
    vector: Vectors
    """(d,) of the prompt."""
    exclude: tuple[int, ...] = ()
    """Rows of its own document."""
    document: int | None = None


def held_out_from_texts(memory: Searcher, texts: Sequence[str], mode: str) -> list[HeldOut]:
    """The caller's own."""
    if isinstance(texts, str) or len(texts) < MIN_TEXTS:
        count = "one str" if isinstance(texts, str) else str(len(texts))
        raise InvalidInput(
            f"texts must be a list of at least {MIN_TEXTS} texts, got {count}; with fewer, chance decides"
        )
    cut = [split_text(f"text {at}", text, mode) for at, text in enumerate(texts)]
    vectors = _prompt_vectors(memory, [prompt for prompt, _, _ in cut])
    for at, good in enumerate(_has_direction(vectors)):
        if not good:
            raise InvalidInput(f"text {at}: its prompt {cut[at][0][:40]!r} has no direction: its vector is zero")
    return [HeldOut(text, *cut[at], vectors[at]) for at, text in enumerate(texts)]


def draw_held_out(memory: Memory, count: int, seed: int, mode: str) -> list[HeldOut]:
    """One from each of ``count`` equal parts of the memory, in an order whose every beginning is spread over it."""
    generator = np.random.default_rng(seed)
    rows = memory.rows()
    found: list[tuple[str, list[int], int]] = []
    used: set[int] = set()
    with memory.snapshot() as snapshot:
        for part in _bit_reversed(np.array_split(rows, min(count, max(1, len(rows))))):
            for row in generator.permutation(part)[:MAX_DRAWS_PER_PART].tolist():
                one = _text_at(snapshot, row, used, mode)
                if one is not None:
                    found.append(one)
                    used.add(one[2])
                    break
    cut = [split_text("a passage", text, mode) for text, _, _ in found]
    vectors = _prompt_vectors(memory, [prompt for prompt, _, _ in cut])
    usable = [
        HeldOut(text, *cut[at], vectors[at], tuple(own), document)
        for at, (text, own, document) in enumerate(found)
        if _has_direction(vectors)[at]
    ]
    if len(usable) < MIN_TEXTS:
        raise InvalidInput(
            f"{memory.path}: only {len(usable)} documents of {MIN_HELD_OUT_CHARACTERS} characters or more can be held "
            f"out, and at least {MIN_TEXTS} are needed: give texts=…, of the kind that the prompts will be"
        )
    return usable


def excluded_rows(memory: Searcher, held: HeldOut) -> list[int]:
    """Rows that must not be learned from: the text's own document, and copies of the text or of either half."""
    return sorted({*held.exclude, *leaked_rows(memory, (held.prompt, held.scored), held.text)})


def _text_at(snapshot: Snapshot, row: int, used: set[int], mode: str) -> tuple[str, list[int], int] | None:
    """The text around a passage with the rows and the number of its document, if it will do."""
    document = snapshot.passages([row])[0].document
    places = snapshot.rows_of(document)
    # A near-copy was stored as the text that it nearly is.
    if document in used or any(near for _, _, near in places):
        return None
    at = [place for place, _, _ in places].index(row)
    text = _join_passages(snapshot, places[at : at + 1 + MAX_HELD_OUT_CHARACTERS // MIN_HELD_OUT_CHARACTERS])
    while at and len(text) < MAX_HELD_OUT_CHARACTERS:
        at -= 1
        text = _join_passages(snapshot, places[at : at + 1 + MAX_HELD_OUT_CHARACTERS // MIN_HELD_OUT_CHARACTERS])
    text = text[:MAX_HELD_OUT_CHARACTERS]
    if len(text) < MIN_HELD_OUT_CHARACTERS:
        return None
    try:
        split_text("a passage", text, mode)
    except InvalidInput:
        return None
    return text, [place for place, _, _ in places], document


def _join_passages(snapshot: Snapshot, places: Sequence[tuple[int, int, bool]]) -> str:
    """Passages overlap; between them at most white space is missing."""
    text, end = "", places[0][1]
    for (_, start, _), part in zip(places, snapshot.texts([row for row, _, _ in places]), strict=True):
        if start >= end:
            text += ("\n" if text and start > end else "") + part
        else:
            text += part[end - start :]
        end = max(end, start + len(part))
    return text


def _bit_reversed(pieces: Sequence[npt.NDArray[np.int64]]) -> list[npt.NDArray[np.int64]]:
    """In the order of the bits of their numbers, reversed: the first, the middle, the quarters, …"""
    bits = max(1, (len(pieces) - 1).bit_length())
    order = sorted(range(len(pieces)), key=lambda at: int(f"{at:0{bits}b}"[::-1], 2))
    return [pieces[at] for at in order]


def _prompt_vectors(memory: Searcher, texts: Sequence[str]) -> Vectors:
    if not texts:
        return np.zeros((0, memory.width), dtype=np.float32)
    return embed_checked(memory.embedder, texts, memory.width, as_query=True)


def _has_direction(vectors: Vectors) -> list[bool]:
    found: list[bool] = (np.isfinite(vectors).all(axis=1) & (np.abs(vectors).max(axis=1, initial=0) > 0)).tolist()
    return found
