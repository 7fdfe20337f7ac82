"""Held-out texts: those of the caller, or some of the memory's own, each without what would leak it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from siftlm.call import split_text
from siftlm.errors import InvalidInput, setting
from siftlm.evaluation.corpus import Text, text_id
from siftlm.evaluation.protocol import Protocol
from siftlm.memory import Memory
from siftlm.memory.searcher import Searcher
from siftlm.memory.snapshot import Snapshot
from siftlm.memory.vectors import embed_checked

# Characters of a drawn text: enough to embed one half and score the other, few enough to be fast.
MIN_CHARACTERS, MAX_CHARACTERS = 100, 1500
# With fewer texts no setting could be told from another.
MIN_TEXTS = 4
# Passages that are tried before a part of the memory is skipped.
MAX_DRAWS_PER_PART = 20
# All of them weigh the same.
DOMAIN = "held out"


def texts_of_caller(memory: Searcher, texts: Sequence[str], protocol: Protocol) -> list[Text]:
    """The caller's texts; one that the protocol cannot use is an error."""
    if isinstance(texts, str) or len(texts) < MIN_TEXTS:
        count = "one str" if isinstance(texts, str) else str(len(texts))
        raise InvalidInput(
            f"{setting('texts')} must have at least {MIN_TEXTS} texts, got {count}; with fewer, chance decides"
        )
    for at, text in enumerate(texts):
        split_text(f"text {at}", text, protocol.name)
    made = [Text(text_id(text), text, DOMAIN) for text in texts]
    for at, directed in enumerate(_have_direction(memory, made, protocol)):
        if not directed:
            prompt = protocol.parts(made[at].text).prompt
            raise InvalidInput(f"text {at}: its prompt {prompt[:40]!r} has no direction: its vector is zero")
    return list({one.id: one for one in made}.values())


def draw_from_memory(memory: Memory, count: int, seed: int, protocol: Protocol) -> list[Text]:
    """A text from each of ``count`` equal parts of the memory, ordered so that every prefix is spread over it.

    The rows of its own document are excluded from its searches.
    """
    generator = np.random.default_rng(seed)
    rows = memory.rows()
    drawn: dict[int, Text] = {}
    with memory.snapshot() as snapshot:
        for part in _bit_reversed(np.array_split(rows, min(count, max(1, len(rows))))):
            for row in generator.permutation(part)[:MAX_DRAWS_PER_PART].tolist():
                document = snapshot.passages([row])[0].document
                text = None if document in drawn else _text_at(snapshot, row, document, protocol)
                if text is not None:
                    drawn[document] = text
                    break
    texts = list({one.id: one for one in drawn.values()}.values())
    usable = [one for one, directed in zip(texts, _have_direction(memory, texts, protocol), strict=True) if directed]
    if len(usable) < MIN_TEXTS:
        raise InvalidInput(
            f"{memory.path}: only {len(usable)} documents of {MIN_CHARACTERS} characters or more can be held "
            f"out, and at least {MIN_TEXTS} are needed: pass representative prompts with {setting('texts')}"
        )
    return usable


def _text_at(snapshot: Snapshot, row: int, document: int, protocol: Protocol) -> Text | None:
    """The text around a passage, with its document's rows; None if the text is unusable."""
    places = snapshot.rows_of(document)
    # A near-copy is stored with the original's text.
    if any(near for _, _, near in places):
        return None
    at = [place for place, _, _ in places].index(row)
    text = _join_passages(snapshot, places[at : at + 1 + MAX_CHARACTERS // MIN_CHARACTERS])
    while at and len(text) < MAX_CHARACTERS:
        at -= 1
        text = _join_passages(snapshot, places[at : at + 1 + MAX_CHARACTERS // MIN_CHARACTERS])
    text = text[:MAX_CHARACTERS]
    if len(text) < MIN_CHARACTERS or not protocol.fits(text):
        return None
    return Text(text_id(text), text, DOMAIN, tuple(place for place, _, _ in places))


def _join_passages(snapshot: Snapshot, places: Sequence[tuple[int, int, bool]]) -> str:
    """The text of consecutive passages, which overlap, or between which only white space is missing."""
    text, end = "", places[0][1]
    for (_, start, _), part in zip(places, snapshot.texts([row for row, _, _ in places]), strict=True):
        if start >= end:
            text += ("\n" if text and start > end else "") + part
        else:
            text += part[end - start :]
        end = max(end, start + len(part))
    return text


def _bit_reversed(pieces: Sequence[npt.NDArray[np.int64]]) -> list[npt.NDArray[np.int64]]:
    """The pieces in bit-reversed order: the first, the middle, the quarters, …"""
    bits = max(1, (len(pieces) - 1).bit_length())
    order = sorted(range(len(pieces)), key=lambda at: int(f"{at:0{bits}b}"[::-1], 2))
    return [pieces[at] for at in order]


def _have_direction(memory: Searcher, texts: Sequence[Text], protocol: Protocol) -> list[bool]:
    """Can the memory search for the prompt of each text?"""
    if not texts:
        return []
    prompts = [protocol.parts(one.text).prompt for one in texts]
    vectors = embed_checked(memory.embedder, prompts, memory.width, as_query=True)
    return [bool(np.isfinite(vector).all() and vector.any()) for vector in vectors]
