"""Maintenance of a memory: compaction, and an overview of its contents."""

from __future__ import annotations

import contextlib
import json
import shutil
import sqlite3
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from siftlm.errors import Damaged
from siftlm.memory import ann, database, durability, keywords, manifest, vectors
from siftlm.memory.ann import IndexState
from siftlm.memory.filters import Condition
from siftlm.memory.manifest import Manifest
from siftlm.memory.writer import Writer, open_writer
from siftlm.progress import Meter, Report
from siftlm.types import IntArray


@dataclass(frozen=True)
class Compacted:
    """The result of a compaction."""

    passages: int
    """Passages in the memory now."""
    dropped_rows: int
    """Deleted rows whose vectors were removed."""
    before_bytes: int
    after_bytes: int


def compact(memory: Path, report: Report | None = None, *, wait: float = 0.0) -> Compacted:
    """Copy everything that is alive into a new generation, and make that count. Documents keep their numbers."""
    with open_writer(memory, "compact", wait=wait) as writer:
        before = _folder_bytes(writer.folder)
        counters = database.read_state(writer.connection)
        if not counters["dead"] and not counters["removed"]:
            return Compacted(counters["rows"], 0, before, before)
        # The words are indexed anew in any case, so an older index becomes one of today's.
        new = replace(writer.manifest.next_generation(), tokenizer=keywords.SPACED)
        folder = new.folder(memory)
        shutil.rmtree(folder, ignore_errors=True)  # of a compaction that was killed
        try:
            passages = _copy_generation(writer, new, folder, report)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        manifest.write_manifest(memory, new)
        # The old generation is removed when the writer closes.
        return Compacted(passages, counters["dead"], before, _folder_bytes(folder))


def _copy_generation(writer: Writer, new: Manifest, folder: Path, report: Report | None) -> int:
    folder.mkdir()
    database.create_database(folder, full_text=new.full_text)
    rows = np.fromiter((row for (row,) in writer.connection.execute("SELECT row FROM passages ORDER BY row")), np.int64)
    meter = Meter("compacting", "passages", report, len(rows))
    blocks = _copy_vectors(writer, folder, rows, meter)
    _copy_texts(writer, folder, rows, blocks)
    fresh = database.connect_writer(folder)
    try:
        if new.full_text:
            fresh.execute("INSERT INTO words (words) VALUES ('rebuild')")
        fresh.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    finally:
        fresh.close()
    durability.sync_folder(folder)
    durability.sync_folder(folder.parent)
    meter.finish()
    return len(rows)


def _copy_vectors(writer: Writer, folder: Path, rows: IntArray, meter: Meter) -> list[tuple[int, int, int]]:
    """Copy the vectors as they are stored, so that nothing is rounded twice; returns the new blocks."""
    stored = vectors.map_vectors(writer.folder / writer.form.file_name, writer.form, writer.rows)
    blocks = []
    with open(folder / writer.form.file_name, "xb") as file:
        for start in range(0, len(rows), vectors.BLOCK_ROWS):
            block = stored[rows[start : start + vectors.BLOCK_ROWS]]
            file.write(vectors.row_bytes_view(block))
            blocks.append((start, len(block), vectors.rows_checksum(block)))
            meter.at(start + len(block))
        durability.sync_file(file)
    return blocks


def _copy_texts(writer: Writer, folder: Path, rows: IntArray, blocks: list[tuple[int, int, int]]) -> None:
    run = writer.connection.execute
    run("ATTACH DATABASE ? AS fresh", (str(folder / database.DATABASE_FILE),))
    try:
        run("PRAGMA fresh.synchronous = FULL")
        run("BEGIN IMMEDIATE")
        run("CREATE TEMP TABLE IF NOT EXISTS moved (old INTEGER PRIMARY KEY, new INTEGER NOT NULL)")
        run("DELETE FROM moved")
        moved = zip(rows.tolist(), range(len(rows)), strict=True)
        writer.connection.executemany("INSERT INTO moved VALUES (?, ?)", moved)
        run("INSERT INTO fresh.documents SELECT * FROM main.documents ORDER BY id")
        run(
            "INSERT INTO fresh.passages SELECT new, digest, text FROM main.passages "
            "JOIN moved ON old = row ORDER BY new"
        )
        run(
            "INSERT INTO fresh.places SELECT document, part, new, start, near FROM main.places "
            "JOIN moved ON old = row ORDER BY document, part"
        )
        run("INSERT INTO fresh.bands SELECT key, new FROM main.bands JOIN moved ON old = row ORDER BY key, new")
        run("INSERT INTO fresh.inputs SELECT * FROM main.inputs")
        writer.connection.executemany("INSERT INTO fresh.blocks VALUES (?, ?, ?)", blocks)
        _copy_counters(writer.connection, len(rows))
        run("COMMIT")
    except BaseException:
        if writer.connection.in_transaction:
            run("ROLLBACK")
        raise
    finally:
        run("DETACH DATABASE fresh")


def _copy_counters(connection: sqlite3.Connection, rows: int) -> None:
    counters = database.read_state(connection) | {"rows": rows, "dead": 0, "removed": 0}
    counters["version"] += 1
    database.write_state(connection, counters, "fresh.state")


def _folder_bytes(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.iterdir() if file.is_file())


# Documents whose metadata are read, spread evenly over all.
SAMPLED_DOCUMENTS = 200
# Values of a field that are shown.
EXAMPLES_PER_FIELD = 3


@dataclass(frozen=True)
class Input:
    """A corpus that was read in, or begun."""

    name: str
    documents: int
    """Documents that could be used."""
    bad: int
    """Records that could not be used."""
    finished: bool
    complaints: tuple[str, ...] = ()
    """The first bad records: where they are, and what is wrong."""


@dataclass(frozen=True)
class Field:
    """A field of the documents' metadata, as it was found in a sample."""

    name: str
    """The name as a filter spells it."""
    documents: int
    """Documents of the sample that have it."""
    examples: tuple[Any, ...]
    """Its most frequent values."""


@dataclass(frozen=True)
class Info:
    """An overview of a memory, as `siftlm.Memory.info` gives it."""

    path: str
    passages: int
    """Different texts, each stored and embedded once."""
    documents: int
    duplicates: int
    """Passages that were added again, and were not stored again."""
    near_duplicates: int
    """Passages that were nearly there already, where near-duplicates are looked for."""
    deleted: int
    """Rows whose text was deleted; their vectors leave the disk with the next compaction."""
    embedder: str
    embedder_settings: dict[str, Any]
    fingerprint: str
    """The embedder's fingerprint: only vectors of the same embedder can be compared."""
    width: int
    storage: str
    metric: str
    passage_tokens: int
    overlap: int
    full_text: bool
    near_duplicates_from: float | None
    """The similarity from which texts count as nearly equal; None where only equal ones do."""
    generation: int
    format: int
    created: str
    made_by: str
    calibration: dict[str, dict[str, Any]]
    """Model -> the settings that were found best for it."""
    files: dict[str, int]
    """Name within the folder -> bytes."""
    inputs: tuple[Input, ...]
    index: IndexState | None
    """The state of the FAISS index, if there is one."""
    sampled: int
    """Documents whose metadata were read."""
    fields: tuple[Field, ...]

    @property
    def bytes(self) -> int:
        """The size of all files together."""
        return sum(self.files.values())

    def to_dict(self) -> dict[str, Any]:
        """Ready for ``json.dumps``."""
        return {**asdict(self), "bytes": self.bytes}


def collect_info(memory: Path) -> Info:
    """The overview of a memory at this moment."""
    known = manifest.read_manifest(memory)
    try:
        connection = database.connect_reader(known.folder(memory))
    except Damaged:
        moved = manifest.read_manifest(memory)
        if moved.generation == known.generation:
            raise
        # A compaction has just moved the data.
        known, connection = moved, database.connect_reader(moved.folder(memory))
    with (
        contextlib.closing(connection),
        database.translate_database_errors(known.folder(memory) / database.DATABASE_FILE),
    ):
        connection.execute("BEGIN")
        counts = _counts(connection)
        inputs = _inputs(connection)
        state = database.read_state(connection)
        sampled, fields = _fields(connection, state["next_document"])
        connection.execute("COMMIT")
    return Info(
        path=str(memory),
        **counts,
        embedder=known.embedder,
        embedder_settings=known.embedder_settings,
        fingerprint=known.fingerprint,
        width=known.width,
        storage=known.storage,
        metric=known.metric,
        passage_tokens=known.passage_tokens,
        overlap=known.overlap,
        full_text=known.full_text,
        near_duplicates_from=known.near_duplicates,
        generation=known.generation,
        format=known.format,
        created=known.created,
        made_by=known.made_by,
        calibration={name: dict(record.get("settings", {})) for name, record in known.calibration.items()},
        files=_files(memory),
        inputs=inputs,
        index=ann.index_state(known.folder(memory), known, state["rows"]),
        sampled=sampled,
        fields=fields,
    )


def _counts(connection: sqlite3.Connection) -> dict[str, int]:
    places, near = connection.execute("SELECT COUNT(*), COALESCE(SUM(near), 0) FROM places").fetchone()
    documents, passages, deleted = (
        connection.execute(f"SELECT COUNT(*) FROM {table}").fetchone()[0] for table in ("documents", "passages", "dead")
    )
    return {
        "passages": passages,
        "documents": documents,
        "duplicates": places - near - passages,
        "near_duplicates": near,
        "deleted": deleted,
    }


def _files(memory: Path) -> dict[str, int]:
    sizes = {}
    for file in sorted(memory.rglob("*")):
        with contextlib.suppress(FileNotFoundError):  # a journal that a writer took away meanwhile
            if file.is_file() and file.name != durability.LOCK_FILE:
                sizes[file.relative_to(memory).as_posix()] = file.stat().st_size
    return sizes


def _inputs(connection: sqlite3.Connection) -> tuple[Input, ...]:
    rows = connection.execute("SELECT name, documents, bad, finished, complaints FROM inputs ORDER BY rowid")
    return tuple(
        Input(name, documents, bad, bool(finished), tuple(json.loads(complaints)))
        for name, documents, bad, finished, complaints in rows
    )


def _fields(connection: sqlite3.Connection, documents: int) -> tuple[int, tuple[Field, ...]]:
    """How many documents were read, and the fields of their metadata, the most frequent first."""
    values_of: dict[str, Counter[str]] = {}
    sample = list(_sample_metadata(connection, documents))
    for meta in sample:
        for name, value in _flat_fields(json.loads(meta) if meta else {}):
            values_of.setdefault(name, Counter())[json.dumps(value, ensure_ascii=False)] += 1
    fields = [
        Field(name, values.total(), tuple(json.loads(value) for value, _ in values.most_common(EXAMPLES_PER_FIELD)))
        for name, values in values_of.items()
    ]
    return len(sample), tuple(sorted(fields, key=lambda field: -field.documents))


def _sample_metadata(connection: sqlite3.Connection, documents: int) -> Iterator[str | None]:
    """The metadata of documents spread over all numbers; where one was deleted, of the next."""
    last = -1
    for at in range(min(SAMPLED_DOCUMENTS, documents)):
        number = max(last + 1, at * documents // min(SAMPLED_DOCUMENTS, documents))
        row = connection.execute("SELECT id, meta FROM documents WHERE id >= ? LIMIT 1", (number,)).fetchone()
        if row is None:
            return
        last = row[0]
        yield row[1]


def _flat_fields(meta: Mapping[str, Any], above: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    """Each field's name, spelled so that a filter understands it, and its value."""
    for key, value in meta.items():
        path = (*above, key)
        if isinstance(value, Mapping) and value:
            yield from _flat_fields(value, path)
        else:
            yield str(Condition(path, "exists", True)).removeprefix("exists "), value
