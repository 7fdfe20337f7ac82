"""Compaction: what lives is copied into the next generation, which then takes the old one's place.

Until the manifest names the new generation, the old one counts; from then on the new. What was deleted is in no
file of the new one, not even in the free pages of a database or the tombstones of an index.
"""

from __future__ import annotations

import shutil
import sqlite3
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from siftlm.memory import database, disk, manifest, vectors
from siftlm.memory.manifest import Manifest
from siftlm.memory.writer import Writer, open_writer
from siftlm.progress import Meter, Report
from siftlm.types import IntArray


@dataclass(frozen=True)
class Compacted:
    """What a compaction did."""

    passages: int
    """That are there now."""
    dropped_rows: int
    """Deleted rows whose vectors went."""
    before_bytes: int
    after_bytes: int


def compact(memory: Path, report: Report | None = None, *, wait: float = 0.0) -> Compacted:
    """Copy what lives, switch over, remove the rest. Rows get new numbers, documents keep theirs."""
    with open_writer(memory, "compact", wait=wait) as writer:
        before = _folder_bytes(writer.folder)
        counters = database.read_state(writer.connection)
        if not counters["dead"] and not counters["removed"]:
            return Compacted(counters["rows"], 0, before, before)
        new = writer.manifest.next_generation()
        folder = new.folder(memory)
        shutil.rmtree(folder, ignore_errors=True)  # of a compaction that was killed
        try:
            passages = _copy_generation(writer, new, folder, report)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        manifest.write_manifest(memory, new)
        # The old generation goes when the writer lets go of it.
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
    disk.sync_folder(folder)
    disk.sync_folder(folder.parent)
    meter.finish()
    return len(rows)


def _copy_vectors(writer: Writer, folder: Path, rows: IntArray, meter: Meter) -> list[tuple[int, int, int]]:
    """As they are stored: nothing is rounded twice."""
    stored = vectors.map_vectors(writer.folder / writer.form.file_name, writer.form, writer.rows)
    blocks = []
    with open(folder / writer.form.file_name, "xb") as file:
        for start in range(0, len(rows), vectors.BLOCK_ROWS):
            block = stored[rows[start : start + vectors.BLOCK_ROWS]]
            file.write(vectors.row_bytes_view(block))
            blocks.append((start, len(block), vectors.rows_checksum(block)))
            meter.at(start + len(block))
        disk.sync_file(file)
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
