"""One pass over a pool: the vector of every usable record, and the figures that the choice needs of it."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from siftlm.embedding.hashing import word_spans
from siftlm.embedding.protocol import Embedder
from siftlm.errors import BadRecord, Conflict, InvalidInput, setting
from siftlm.memory.near_duplicates import Originals
from siftlm.memory.reading.fields import UnusableRecord, look_up
from siftlm.memory.vectors import embed_checked, unit_rows
from siftlm.picking.options import MethodOptions
from siftlm.picking.output import check_field
from siftlm.picking.pools import Pool, PoolBlock
from siftlm.picking.records import instead, number_in, record_text
from siftlm.picking.work import COMPLAINTS, PICKS_FILE, ROW, Embedded, Rows, WorkFolder
from siftlm.progress import Meter, Report
from siftlm.types import FloatArray, Vectors

# What is read is safe on the disk this often.
COMMIT_SECONDS = 2.0
COSTS = ("tokens", "characters")
# The label of records without the field that quotas go by.
NO_SOURCE = "(none)"
NO_DIRECTION = "its vector is zero or not finite: the embedder sees nothing in the text"


@dataclass(frozen=True, eq=False)
class Reading:
    """How the records of a pool are read."""

    text: Sequence[str] | None
    """The fields of the text; ``None`` for whatever form each record has."""
    embedder: Embedder | None
    """``None`` where the vectors are given."""
    vectors: Vectors | None
    """(records, d) given vectors, one for each record."""
    cost: str | None
    """``tokens``, ``characters`` or a field; ``None`` where costs do not matter."""
    source: str | None
    """The field that quotas go by."""
    quality: str | None
    """The field of weights."""
    originals: Originals | None
    """The targets, of which records may be copies."""
    bad: str
    """``fail`` at the first unusable record, or ``skip`` them."""
    options: MethodOptions | None = None
    """Those of the method, some of which may be fields of the records."""
    added: str | None = None
    """The field that is added to the records that are written, so that none may have it."""


def embed_pool(
    work: WorkFolder, pool: Pool, how: Reading, job: Mapping[str, Any], report: Report | None, *, restart: bool
) -> Embedded:
    """The pool, read and embedded: what is in the work folder already, completed."""
    if restart:
        work.clear()
    known, state = work.job(), work.read_state()
    if known.get("format") == job["format"]:
        if not state.records:  # a call that failed at its first records binds nobody
            work.clear()
            known = {}
        elif known["reading"].get("bad") == "fail":  # all so far were usable
            known = {**known, "reading": {**known["reading"], "bad": job["reading"]["bad"]}}
    if known:
        _check_same_reading(work.path, known, job)
    if {**known, "written": None} != {**job, "written": None}:
        work.clear(PICKS_FILE)
        if not known or (known["rows"] != job["rows"] and not state.complete):
            work.clear()
        work.write_job(job)
    same_rows = bool(known) and known["rows"] == job["rows"]
    if not (state.complete and same_rows):
        read_pool(work, pool, how, report, embed=not (state.complete and bool(known)))
    state = work.read_state()
    if not state.rows:
        why = f": {state.complaints[0]}" if state.complaints else ""
        raise InvalidInput(f"{pool.name}: holds no usable record{why}")
    return Embedded(work.vectors(), work.rows(), tuple(state.labels), state, work.options())


def _check_same_reading(path: Path, known: Mapping[str, Any], job: Mapping[str, Any]) -> None:
    """Raise where the work folder belongs to another pool, or to the pool before a change."""
    if known.get("format") != job["format"]:
        raise Conflict(f"{path}: was written by another version; {setting('restart', True)} begins anew")
    for name, value in job["reading"].items():
        if known["reading"].get(name) != value:
            what = f"another {setting(name)}"
            if name == "pool":
                what += ", or the same before a change (a file is known by its path, size and time of change)"
            raise Conflict(
                f"{path}: holds work that was begun with {what}; {setting('restart', True)} begins anew, and another "
                f"{setting('out')} keeps both"
            )


def read_pool(work: WorkFolder, pool: Pool, reading: Reading, report: Report | None, *, embed: bool = True) -> None:
    """Read the pool into the work folder, from where an earlier call stopped.

    ``embed=False``: the vectors are there already, and only the rows are made anew.
    """
    known = None
    if not embed:  # the same records, whatever else may be wrong with them now
        known = set(work.rows()["number"].tolist())
        work.begin_rows()
    state = work.open(with_vectors=embed)
    labels = {label: at for at, label in enumerate(state.labels)}
    meter = Meter("embedding" if embed and reading.vectors is None else "reading", pool.unit, report, total=pool.size)
    committed = time.monotonic()
    for block in pool.blocks(state.records):
        texts, places, problems = _texts_of(block, reading, known)
        for at in places:
            check_field(block.records[at], block.sources[at], reading.added)
        _note_problems(work, block, problems, reading.bad)
        vectors = None
        if embed:
            vectors = _vectors_of(block, places, texts, reading)
            texts, places, vectors, problems = _with_direction(texts, places, vectors)
            _note_problems(work, block, problems, reading.bad)
        own = reading.options
        options = own.values_of(block, places, reading.bad) if own is not None and own.fields else ()
        work.add(_rows_of(block, places, texts, reading, labels), vectors, options)
        state.records, state.labels = block.first + len(block.records), list(labels)
        meter.at(block.position)
        if time.monotonic() - committed >= COMMIT_SECONDS:
            work.commit()
            committed = time.monotonic()
    if reading.vectors is not None and len(reading.vectors) != state.records:
        raise InvalidInput(
            f"{setting('vectors')} has {len(reading.vectors):,} rows, {pool.name} has {state.records:,} records"
        )
    state.complete = True
    work.commit()
    work.close()
    meter.finish()


def _texts_of(
    block: PoolBlock, reading: Reading, known: set[int] | None
) -> tuple[list[str], list[int], dict[int, str]]:
    """The texts of the block, their places in it, and what is wrong with the other records."""
    texts: list[str] = []
    places: list[int] = []
    problems: dict[int, str] = {}
    for at, record in enumerate(block.records):
        try:
            text = record_text(record, reading.text)
        except UnusableRecord as error:
            problems[at] = str(error)
            continue
        if known is not None and block.first + at not in known:
            problems[at] = NO_DIRECTION
            continue
        texts.append(text)
        places.append(at)
    return texts, places, problems


def _vectors_of(block: PoolBlock, places: Sequence[int], texts: Sequence[str], reading: Reading) -> Vectors:
    """(len(texts), d), not yet of unit length."""
    if block.vectors is not None:
        return block.vectors[list(places)]
    if reading.vectors is not None:
        last = block.first + len(block.records)
        if last > len(reading.vectors):
            raise InvalidInput(
                f"{setting('vectors')} has {len(reading.vectors):,} rows, and the pool has more records than that"
            )
        given: Vectors = np.array(reading.vectors[block.first : last])[list(places)]
        return given
    if reading.embedder is None:
        raise RuntimeError("neither vectors nor an embedder")
    return embed_checked(reading.embedder, texts, reading.embedder.width)


def _with_direction(
    texts: list[str], places: list[int], vectors: Vectors
) -> tuple[list[str], list[int], Vectors, dict[int, str]]:
    """Unit vectors, and the records whose vector has no direction."""
    unit = unit_rows(vectors)
    good = ~np.isnan(unit).any(axis=1)
    if good.all():
        return texts, places, unit, {}
    problems = {places[at]: NO_DIRECTION for at in np.flatnonzero(~good)}
    kept = np.flatnonzero(good).tolist()
    return [texts[at] for at in kept], [places[at] for at in kept], unit[good], problems


def _note_problems(work: WorkFolder, block: PoolBlock, problems: Mapping[int, str], bad: str) -> None:
    """Count unusable records, or fail at the first."""
    for at in sorted(problems):
        complaint = f"{block.sources[at]}: {problems[at]}"
        if bad == "fail":
            raise BadRecord(f"{complaint}; {setting('bad', 'skip')} leaves such records out")
        work.state.unusable += 1
        if len(work.state.complaints) < COMPLAINTS:
            work.state.complaints.append(complaint)


def _rows_of(
    block: PoolBlock,
    places: Sequence[int],
    texts: Sequence[str],
    reading: Reading,
    labels: dict[str, int],
) -> Rows:
    """A row of `ROW` for each usable record. One that lacks a figure has NaN there."""
    rows = np.zeros(len(places), dtype=ROW)
    rows["number"] = [block.first + at for at in places]
    rows["digest"] = [text_digest(text) for text in texts]
    rows["cost"] = 0.0 if reading.cost is None else _costs(block, places, texts, reading)
    rows["quality"] = 1.0
    if reading.quality is not None:
        rows["quality"] = [_number(block, at, reading.quality, "quality", reading.bad) for at in places]
    if reading.source is not None:
        found = [source_label(block.records[at], reading.source) for at in places]
        rows["label"] = [labels.setdefault(label, len(labels)) for label in found]
    if reading.originals is not None:
        rows["copied"] = reading.originals.shares(texts)
    return rows


def text_digest(text: str) -> int:
    """64 bits that are the same for equal texts, and hardly ever for others."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def source_label(record: Any, field: str) -> str:
    """The source of a record as quotas name it.

    >>> source_label({"meta": {"source": "wiki"}}, "meta.source"), source_label({"year": 2020}, "year")
    ('wiki', '2020')
    """
    value = look_up(record, field, None) if isinstance(record, Mapping) else None
    if value is None and isinstance(record, Mapping) and isinstance(record.get("meta"), Mapping):
        value = look_up(record["meta"], field, None)
    return NO_SOURCE if value is None else str(value)


def _costs(block: PoolBlock, places: Sequence[int], texts: Sequence[str], reading: Reading) -> FloatArray:
    if reading.cost == "characters":
        return np.array([len(text) for text in texts], dtype=np.float64)
    if reading.cost == "tokens":
        spans = word_spans(list(texts)) if reading.embedder is None else reading.embedder.tokens(texts)
        return np.array([max(1, len(one)) for one in spans], dtype=np.float64)
    return np.array([_number(block, at, str(reading.cost), "cost", reading.bad) for at in places], dtype=np.float64)


def _number(block: PoolBlock, at: int, field: str, name: str, bad: str) -> float:
    """A number ≥ 0 (a cost: > 0) in a field of a record, or NaN for one that is left out."""
    record = block.records[at]
    value: Any = look_up(record, field, None) if isinstance(record, Mapping) else None
    number = number_in(value)
    if math.isfinite(number) and (number > 0 or (number == 0 and name != "cost")):
        return number
    if bad == "fail":
        must = "a number > 0" if name == "cost" else "a number ≥ 0"
        raise BadRecord(
            f"{block.sources[at]}: {field!r} ({setting(name)}) {instead(record, field, must)}; "
            f"{setting('bad', 'skip')} leaves such records out"
        )
    return float("nan")
