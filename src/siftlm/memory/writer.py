"""The writer of a memory: everything that changes one goes through here, in transactions.

Vectors are on disk before the rows that name them are committed, and a commit is on disk before it is reported.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from siftlm.memory import database, durability, keywords, vectors
from siftlm.memory.manifest import GENERATION_NAME, Manifest, read_manifest
from siftlm.memory.near_duplicates import Near
from siftlm.memory.passages import PassageBatch
from siftlm.memory.reading.columns import DocumentBatch
from siftlm.types import Vectors

# Texts that are read together.
LOOKUP_BATCH_TEXTS = 2000
# Milliseconds that a checkpoint of the journal waits for readers; the next writer moves what stays in it.
CHECKPOINT_TIMEOUT_MS = 200


class Stands(NamedTuple):
    """What stands for each passage of a batch."""

    digests: Sequence[bytes]
    """The digest of the stored text."""
    nears: Sequence[int]
    """1 where that is only nearly the passage's text, else 0."""


@dataclass(frozen=True)
class Deleted:
    """The result of a deletion."""

    documents: int
    passages: int
    """Removed texts, which no document holds any more; a text that another document shares stays."""


class Writer:
    """The database and the file of vectors, open for one piece of work under the lock."""

    def __init__(self, memory: Path, manifest: Manifest, connection: sqlite3.Connection) -> None:
        self.memory, self.manifest, self.connection = memory, manifest, connection
        self.folder = manifest.folder(memory)
        keywords.add_prepare_function(connection, manifest.tokenizer)
        self.form = vectors.VectorFormat(manifest.storage, manifest.width)
        self.near = None if manifest.near_duplicates is None else Near(manifest.near_duplicates)
        self._state = database.read_state(connection)
        self._appender = vectors.VectorAppender(self.folder / self.form.file_name, self.form, self._state["rows"])

    @property
    def rows(self) -> int:
        """How many rows there are, dead ones included."""
        return self._state["rows"]

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """Commit the whole block, or nothing of it."""
        try:
            self.connection.execute("BEGIN IMMEDIATE")
            yield
            self._state["version"] += 1
            database.write_state(self.connection, self._state)
            self._appender.sync()
            self.connection.execute("COMMIT")
        except BaseException:
            with contextlib.suppress(sqlite3.Error):
                if self.connection.in_transaction:
                    self.connection.execute("ROLLBACK")
            self._restore_state()
            raise

    def _restore_state(self) -> None:
        """Read the state from the database: after an interrupt behind the commit, the rows count and must stay."""
        with contextlib.suppress(OSError):
            self._appender.close()
        with contextlib.suppress(OSError, sqlite3.Error):
            self._state = database.read_state(self.connection)
            self._appender = vectors.VectorAppender(self.folder / self.form.file_name, self.form, self._state["rows"])

    def known(self, digests: Sequence[bytes]) -> dict[bytes, int]:
        """The texts among these that are stored already: digest -> row."""
        statement = "SELECT digest, row FROM passages WHERE digest IN ({})"
        return dict(database.select_in(self.connection, statement, digests))

    def append(self, texts: Sequence[str], digests: Sequence[bytes], embedded: Vectors) -> range:
        """Append new passages with their unit vectors (n, d); returns their rows."""
        first = self._state["rows"]
        rows = range(first, first + len(texts))
        if not rows:
            return rows
        run, run_many = self.connection.execute, self.connection.executemany
        checksum = self._appender.append(embedded)
        run("INSERT INTO blocks VALUES (?, ?, ?)", (first, len(rows), checksum))
        run_many("INSERT INTO passages VALUES (?, ?, ?)", zip(rows, digests, texts, strict=True))
        if self.manifest.full_text:
            prepared = map(keywords.TOKENIZERS[self.manifest.tokenizer].prepare, texts)
            run_many("INSERT INTO words (rowid, text) VALUES (?, ?)", zip(rows, prepared, strict=True))
        self._state["rows"] += len(rows)
        return rows

    def place(self, documents: DocumentBatch, passages: PassageBatch, rows: Sequence[int], stands: Stands) -> None:
        """Write the documents, and for each of their passages the row that holds its text."""
        first = self._state["next_document"]
        numbers = range(first, first + len(documents))
        counts = passages.counts
        digests = database.record_digests(
            documents.keys, documents.metas, counts, passages.starts, stands.nears, stands.digests
        )
        run_many = self.connection.executemany
        run_many(
            "INSERT INTO documents VALUES (?, ?, ?, ?)",
            zip(numbers, documents.keys, documents.metas, digests, strict=True),
        )
        owners: Sequence[int] = numbers
        parts: Sequence[int] = [0] * len(rows)
        if counts is not None:
            owners = [number for number, count in zip(numbers, counts, strict=True) for _ in range(count)]
            parts = [part for count in counts for part in range(count)]
        run_many(
            "INSERT INTO places VALUES (?, ?, ?, ?, ?)",
            zip(owners, parts, rows, passages.starts, stands.nears, strict=True),
        )
        self._state["next_document"] += len(documents)

    def remember_bands(self, bands: Mapping[int, Sequence[int]]) -> None:
        """Write the keys under which near-duplicates of these rows are looked for."""
        pairs = [(key, row) for row, keys in bands.items() for key in keys]
        self.connection.executemany("INSERT OR IGNORE INTO bands VALUES (?, ?)", pairs)

    def banded(self, keys: Sequence[int]) -> Iterator[tuple[int, str]]:
        """The rows and texts that share one of these keys."""
        statement = "SELECT row, text FROM passages WHERE row IN (SELECT row FROM bands WHERE key IN ({}))"
        return database.select_in(self.connection, statement, keys)

    def input_progress(self, recipe: str) -> InputProgress:
        """How far this input was read before."""
        statement = "SELECT next, finished, documents, bad, complaints FROM inputs WHERE recipe = ?"
        row = self.connection.execute(statement, (recipe,)).fetchone()
        if row is None:
            return InputProgress()
        return InputProgress(row[0], bool(row[1]), row[2], row[3], tuple(json.loads(row[4])))

    def remember_input(self, recipe: str, name: str, progress: InputProgress) -> None:
        """Write how far an input was read, in the same transaction as its documents."""
        row = (
            recipe,
            name,
            progress.next,
            int(progress.finished),
            progress.documents,
            progress.bad,
            json.dumps(progress.complaints, ensure_ascii=False),
        )
        self.connection.execute(
            "INSERT OR REPLACE INTO inputs VALUES (?, ?, ?, ?, ?, ?, ?, ?)", (*row, database.input_digest(*row))
        )

    def delete(self, condition: str, parameters: Sequence[Any]) -> Deleted:
        """Remove the documents that meet a condition, and the passages that only they hold."""
        run = self.connection.execute
        run("CREATE TEMP TABLE IF NOT EXISTS going (id INTEGER PRIMARY KEY)")
        run("CREATE TEMP TABLE IF NOT EXISTS touched (row INTEGER PRIMARY KEY)")
        run("DELETE FROM going")
        run("DELETE FROM touched")
        run(f"INSERT INTO going SELECT id FROM documents WHERE {condition}", list(parameters))
        run("INSERT OR IGNORE INTO touched SELECT row FROM places WHERE document IN going")
        run("DELETE FROM places WHERE document IN going")
        documents = run("DELETE FROM documents WHERE id IN going").rowcount
        # A near-copy lives on the text of another: it must not keep that text alive.
        run("DELETE FROM touched WHERE row IN (SELECT row FROM places WHERE near = 0)")
        run("DELETE FROM going")
        run("INSERT OR IGNORE INTO going SELECT document FROM places WHERE row IN touched")
        run("DELETE FROM places WHERE row IN touched")
        placeless = "NOT EXISTS (SELECT 1 FROM places WHERE document = documents.id)"
        documents += run(f"DELETE FROM documents WHERE id IN going AND {placeless}").rowcount
        self._update_digests()
        passages = self._forget_passages()
        self._state["dead"] += passages
        self._state["removed"] += documents
        return Deleted(documents, passages)

    def _update_digests(self) -> None:
        """Update the digests of documents that lost a part and are still there."""
        going = [row[0] for row in self.connection.execute("SELECT id FROM documents WHERE id IN going")]
        for number in going:
            key, meta = self.connection.execute("SELECT key, meta FROM documents WHERE id = ?", (number,)).fetchone()
            held = self.connection.execute(
                "SELECT start, near, digest FROM places JOIN passages USING (row) WHERE document = ? ORDER BY part",
                (number,),
            )
            digest = database.record_digest(key, meta, (database.PassagePosition(*place) for place in held))
            self.connection.execute("UPDATE documents SET digest = ? WHERE id = ?", (digest, number))

    def _forget_passages(self) -> int:
        """Remove the touched rows from the passages and from the indexes over them."""
        run = self.connection.execute
        if self.manifest.full_text:
            text = f"{keywords.PREPARE_FUNCTION}(text)"
            statement = f"SELECT 'delete', row, {text} FROM passages WHERE row IN touched"
            run(f"INSERT INTO words (words, rowid, text) {statement}")
        if self.near is not None:
            self._forget_bands(self.near)
        run("INSERT INTO dead (row) SELECT row FROM touched ORDER BY row")
        return run("DELETE FROM passages WHERE row IN touched").rowcount

    def _forget_bands(self, near: Near) -> None:
        """Remove the keys of the touched rows, made anew from the texts: an index of rows would cost more."""
        gone = self.connection.execute("SELECT row, text FROM passages WHERE row IN touched")
        while some := gone.fetchmany(LOOKUP_BATCH_TEXTS):
            keys = near.bands([text for _, text in some]).tolist()
            pairs = [(key, row) for (row, _), own in zip(some, keys, strict=True) for key in own]
            self.connection.executemany("DELETE FROM bands WHERE key = ? AND row = ?", pairs)

    def close(self) -> None:
        """Close the files; what was committed moves from the journal into the database itself."""
        self._appender.close()
        with contextlib.suppress(sqlite3.Error):  # a reader may prevent it, which is harmless
            self.connection.execute(f"PRAGMA busy_timeout = {CHECKPOINT_TIMEOUT_MS}")
            self.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        self.connection.close()


@dataclass(frozen=True)
class InputProgress:
    """How far an input was read."""

    next: int = 0
    """The number of the first record that was not read."""
    finished: bool = False
    documents: int = 0
    bad: int = 0
    complaints: tuple[str, ...] = ()
    """The first few: where the records are, and what is wrong."""


@contextlib.contextmanager
def open_writer(memory: Path, doing: str, *, wait: float = 0.0) -> Iterator[Writer]:
    """The one writer of a memory, for a while.

    The manifest is read under the lock: another writer may have changed it meanwhile.
    """
    with durability.translate_write_errors(memory), durability.writer_lock(memory, doing, wait=wait):
        manifest = read_manifest(memory)
        folder = manifest.folder(memory)
        with database.translate_database_errors(folder / database.DATABASE_FILE):
            connection = database.connect_writer(folder)
            try:
                writer = Writer(memory, manifest, connection)
            except BaseException:
                connection.close()
                raise
            try:
                yield writer
            finally:
                writer.close()
                _remove_stray_generations(memory)


def stray_generations(memory: Path, manifest: Manifest) -> list[str]:
    """Folders of data that are not current: never finished, or replaced and not yet removed."""
    current = manifest.folder(memory).name
    names = (path.name for path in memory.iterdir() if path.is_dir())
    return sorted(name for name in names if GENERATION_NAME.fullmatch(name) and name != current)


def _remove_stray_generations(memory: Path) -> None:
    """Remove stray generations: deleted texts must not survive in a folder that nobody reads."""
    for name in stray_generations(memory, read_manifest(memory)):
        shutil.rmtree(memory / name, ignore_errors=True)
