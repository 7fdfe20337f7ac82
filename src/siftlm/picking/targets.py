"""The targets of a choice: examples of the task, as texts or as vectors."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from siftlm.embedding.protocol import Embedder
from siftlm.errors import BadRecord, Conflict, InvalidInput, setting
from siftlm.memory.near_duplicates import Originals
from siftlm.memory.reading.fields import UnusableRecord
from siftlm.memory.vectors import embed_checked, unit_rows
from siftlm.picking.options import target_label
from siftlm.picking.pools import open_pool, vector_rows
from siftlm.picking.records import record_text
from siftlm.selection import Method
from siftlm.types import Vectors


@dataclass(frozen=True, eq=False)
class Targets:
    """The targets, each with a vector; the texts may be unknown."""

    vectors: Vectors
    """(m, d) of unit length."""
    texts: Sequence[str] | None
    sources: Sequence[str]
    """``file:line`` of each, or its row."""
    labels: Sequence[object] = ()
    """A label of each, where an option of the method names their field."""

    def __len__(self) -> int:
        return len(self.vectors)

    @property
    def digest(self) -> str:
        """Equal for the same vectors and texts."""
        digest = hashlib.sha256(np.ascontiguousarray(self.vectors).tobytes())
        for text in self.texts or ():
            digest.update(f"{len(text)}:{text}".encode())
        return digest.hexdigest()

    def originals(self) -> Originals | None:
        """The texts of which records may be copies."""
        return None if self.texts is None else Originals(self.texts)


def read_targets(
    targets: Any,
    vectors: Any,
    *,
    fields: Sequence[str] | None,
    embedder: Embedder | None,
    method: Method,
    label: str | None = None,
    **reading: Any,
) -> Targets:
    """The targets in whatever a pool can be, and their vectors: given, or made by the embedder.

    There may be none for a method that needs none. ``label``: the field of a label of each.
    """
    labels: list[object] = []
    if label is not None and targets is None and vectors is not None:
        raise Conflict(f"{setting('options')} name the field {label!r} of targets, of which only vectors are given")
    texts, sources = ([], []) if targets is None else target_texts("targets", targets, fields, label, labels, **reading)
    if targets is None and vectors is None:
        if not method.targeted:
            return Targets(np.zeros((0, 0), dtype=np.float32), None, ())
        raise InvalidInput(f"there are no targets: pass {setting('targets')}, or {setting('target_vectors')}")
    if vectors is None:
        if embedder is None:
            raise Conflict(
                f"{setting('vectors')} of the pool are given, so the targets need vectors of the same kind: pass "
                f"{setting('target_vectors')}, or {setting('embedder')}, the model that made them"
            )
        made = embed_checked(embedder, texts, embedder.width, as_query=True)
    else:
        made = np.asarray(vector_rows("target_vectors", vectors))
        if not len(made):
            raise InvalidInput(f"{setting('target_vectors')} is empty")
        if targets is not None and len(made) != len(texts):
            raise InvalidInput(f"{setting('target_vectors')} has {len(made)} rows for {len(texts)} targets")
        sources = sources or [f"row {at}" for at in range(len(made))]
    unit = unit_rows(made)
    if (wrong := np.isnan(unit).any(axis=1)).any():
        at = int(np.argmax(wrong))
        raise BadRecord(f"{sources[at]}: the vector of this target is zero or not finite")
    return Targets(unit, texts or None, sources, labels)


def target_texts(
    name: str,
    targets: Any,
    fields: Sequence[str] | None,
    label: str | None = None,
    labels: list[object] | None = None,
    **reading: Any,
) -> tuple[list[str], list[str]]:
    """The texts of targets and where they stand; ``name`` is the setting that holds them.

    ``labels`` gets what each has in the field ``label``.
    """
    pool = open_pool(name, targets, **reading)
    texts, sources = [], []
    for block in pool.blocks():
        for record, source in zip(block.records, block.sources, strict=True):
            try:
                texts.append(record_text(record, fields))
            except UnusableRecord as error:
                raise BadRecord(f"{source}: this target cannot be used: {error}") from error
            sources.append(source)
            if label is not None and labels is not None:
                labels.append(target_label(record, label, source))
    if not texts:
        raise InvalidInput(f"{pool.name}: holds no target")
    return texts, sources
