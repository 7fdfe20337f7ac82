"""The records of the corpus, and the file they ship in."""

from __future__ import annotations

import json
import lzma
import platform
from collections.abc import Iterable, Iterator
from typing import Any

from benchmarks.sample_corpus import corpus

from siftlm.types import Document

LICENCE = "code and prose: Copyright (c) 2001-2023 Python Software Foundation, LICENSE-Python.txt; rest: Apache-2.0"
# For text; a reader needs the dictionary's 8 MiB. An xz file holds no time and no name.
FILTERS = [{"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME, "lc": 4, "pb": 0, "dict_size": 2**23}]


def records() -> Iterator[dict[str, str]]:
    """Yield what is held out, so that prompts are read without the rest, and then the documents in their order.

    A record's ``part`` is ``prompt``, ``held-out`` (too short or no function in it: shipped because licences want to
    stay whole), ``small`` or ``full``.
    """
    for document in corpus.held_out():
        yield _record("prompt" if corpus.is_prompt(document) else "held-out", document)
    small = {document.id for document in corpus.documents(size="small")}
    for document in corpus.documents(size="full"):
        yield _record("small" if document.id in small else "full", document)


def _record(part: str, document: Document) -> dict[str, str]:
    return {"part": part, "id": str(document.id), **document.meta, "text": document.text}


def lines(found: Iterable[dict[str, str]]) -> bytes:
    """Write JSON lines; the first says what the others are."""
    kept = list(found)
    head: dict[str, Any] = {
        "format": 1,
        "python": platform.python_version(),
        "licence": LICENCE,
        "records": len(kept),
    }
    return "".join(f"{json.dumps(one, ensure_ascii=False)}\n" for one in [head, *kept]).encode()


def compressed(text: bytes) -> bytes:
    """Compress to a stream with a checksum, the same from the same text and liblzma."""
    return lzma.compress(text, format=lzma.FORMAT_XZ, check=lzma.CHECK_CRC64, filters=FILTERS)
