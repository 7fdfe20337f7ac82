"""The door of reading: whatever holds texts becomes one `Source`."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from siftlm.errors import InvalidInput
from siftlm.memory.reading.beside import VectorFile
from siftlm.memory.reading.fields import Fields
from siftlm.memory.reading.jsonl import JsonLines
from siftlm.memory.reading.parts import Part, Reader
from siftlm.memory.reading.record import Source
from siftlm.types import Vectors

Corpus = str | os.PathLike[str] | Iterable[Any]


def open_source(
    corpus: Corpus,
    *,
    text: str = "text",
    meta: Sequence[str] | None = None,
    id: str | None = None,  # noqa: A002 — what the caller calls it
    vector: str | os.PathLike[str] | Vectors | None = None,
    format: str | None = None,  # noqa: A002
    split: str = "train",
    glob: str | None = None,
) -> Source:
    """An input as a `Source` of records."""
    beside = VectorFile(vector, None) if _is_array(vector) else None
    fields = Fields(text, id, vector if isinstance(vector, str) and beside is None else None, meta)
    settings = {"text": text, "meta": meta, "id": id, "vector": None if vector is None else str(vector)}
    parts: list[Part] = [JsonLines(Path(corpus))]
    return Reader(parts, fields, beside, settings)


def _is_array(vector: Any) -> bool:
    return isinstance(vector, (np.ndarray, os.PathLike)) or (isinstance(vector, str) and vector.endswith(".npy"))
