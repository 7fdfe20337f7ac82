"""Verification: every text, document, position and vector of a memory is compared with what was written."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple

from siftlm.embedding.lexical import LEXICAL
from siftlm.errors import Damaged, Locked, SiftlmError, Unwritable
from siftlm.memory import ann, database, manifest, vectors, writer
from siftlm.memory.create import FITTED_FOLDER, fitted_embedder
from siftlm.memory.manifest import Manifest
from siftlm.memory.near_duplicates import Near
from siftlm.progress import Meter, Report

# Problems of one kind that are named; the rest is counted.
MAX_NAMED_PROBLEMS = 5
READ_BATCH_ROWS = 2000


@dataclass(frozen=True)
class Verification:
    """What was verified, and what is wrong."""

    checked: dict[str, int]
    """How many ``passages``, ``characters``, ``documents`` and ``vectors``; what damage hides is absent."""
    problems: tuple[str, ...]
    """Each names the file, and what in it."""
    notes: tuple[str, ...]
    """Harmless things worth knowing, such as what an interrupted writer left behind."""

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems


def verify(memory: Path, report: Report | None = None) -> Verification:
    """Verify a memory. Other processes may go on reading and writing meanwhile."""
    look = _ProblemCollector(memory, report)
    try:
        known = manifest.read_manifest(memory)
    except Damaged as error:
        look.problem(str(error))
        return look.result()
    folder = known.folder(memory)
    path = folder / database.DATABASE_FILE
    try:
        connection = database.connect_reader(folder)
    except (Damaged, sqlite3.Error) as error:
        look.problem(str(error) if isinstance(error, Damaged) else f"{path}: {error}")
        return look.result()
    try:
        connection.execute("BEGIN")
        data = _MemoryData(known, folder, path, connection)
        for check in (_structure, _rows, _vectors, _passages, _documents, _bands, _inputs, _index, _embedder):
            look.attempt(check, data)
        connection.execute("COMMIT")
    except sqlite3.Error as error:
        look.problem(f"{path}: {error}")
    finally:
        connection.close()
    _words(look, known, folder)
    _leftovers(look, known)
    return look.result()


class _MemoryData(NamedTuple):
    """The data under verification."""

    known: Manifest
    folder: Path
    path: Path
    """The path of the database."""
    connection: sqlite3.Connection


class _ProblemCollector:
    """Collects problems, notes and counts."""

    def __init__(self, memory: Path, report: Report | None) -> None:
        self.memory, self.report = memory, report
        self.checked: dict[str, int] = {}
        self._problems: list[str] = []
        self._notes: list[str] = []

    def problem(self, words: str) -> None:
        self._problems.append(words)

    def problems(self, path: Path, messages: list[str], what: str) -> None:
        """Add several problems of one kind."""
        for words in messages[:MAX_NAMED_PROBLEMS]:
            self.problem(f"{path}: {words}")
        if len(messages) > MAX_NAMED_PROBLEMS:
            self.problem(f"{path}: {len(messages) - MAX_NAMED_PROBLEMS:,} more {what}")

    def note(self, words: str) -> None:
        self._notes.append(words)

    def attempt(self, check: Callable[[_ProblemCollector, _MemoryData], None], data: _MemoryData) -> None:
        """Run a check, which a damaged database may stop; the others go on."""
        try:
            check(self, data)
        except SiftlmError as error:
            self.problem(str(error))
        except (sqlite3.Error, ValueError, TypeError, LookupError, OverflowError) as error:
            self.problem(f"{data.path}: {error}")

    def result(self) -> Verification:
        return Verification(self.checked, tuple(dict.fromkeys(self._problems)), tuple(self._notes))


def _structure(look: _ProblemCollector, data: _MemoryData) -> None:
    """SQLite's own check: pages, indexes, order."""
    answers = [row[0] for row in data.connection.execute("PRAGMA integrity_check(10)")]
    if answers != ["ok"]:
        look.problems(data.path, [str(answer) for answer in answers], "complaints of SQLite")
    database.read_state(data.connection)  # which has a checksum of its own


def _rows(look: _ProblemCollector, data: _MemoryData) -> None:
    """Each row is a passage or dead, and there are as many as were counted."""
    path, state = data.path, database.read_state(data.connection)

    def count(statement: str) -> int:
        return int(data.connection.execute(statement).fetchone()[0])

    live, dead = count("SELECT COUNT(*) FROM passages"), count("SELECT COUNT(*) FROM dead")
    beyond = count(f"SELECT COUNT(*) FROM passages WHERE row < 0 OR row >= {state['rows']:d}")
    beyond += count(f"SELECT COUNT(*) FROM dead WHERE row < 0 OR row >= {state['rows']:d}")
    both = count("SELECT COUNT(*) FROM dead JOIN passages USING (row)")
    if live + dead != state["rows"] or beyond or both:
        look.problem(
            f"{path}: {live:,} passages and {dead:,} deleted rows don't make up the {state['rows']:,} rows counted"
        )
    if dead != state["dead"]:
        look.problem(f"{path}: {dead:,} deleted rows, and {state['dead']:,} were counted")
    homeless = "SELECT row FROM passages WHERE row NOT IN (SELECT row FROM places WHERE near = 0)"
    look.problems(
        path, [f"row {row} stands in no document" for (row,) in data.connection.execute(homeless)], "such rows"
    )
    if count("SELECT COALESCE(MAX(id), -1) FROM documents") >= state["next_document"]:
        look.problem(f"{path}: documents are numbered beyond what was counted")


def _vectors(look: _ProblemCollector, data: _MemoryData) -> None:
    """Every byte of every row, against the checksum of the block it was appended with."""
    form = vectors.VectorFormat(data.known.storage, data.known.width)
    path, rows = data.folder / form.file_name, database.read_state(data.connection)["rows"]
    blocks = data.connection.execute("SELECT first, rows, checksum FROM blocks ORDER BY first").fetchall()
    expected = 0
    for first, count, _ in blocks:
        if first != expected:
            look.problem(f"{data.path}: rows {expected:,} to {first:,} have no checksum")
        expected = first + count
    if expected != rows:
        look.problem(f"{data.path}: {rows:,} rows were counted, and {expected:,} have checksums")
    try:
        stored = vectors.map_vectors(path, form, rows)
    except Damaged as error:
        look.problem(str(error))
        return
    meter = Meter("vectors", "rows", look.report, rows)
    for first, count, checksum in blocks:
        if vectors.rows_checksum(stored[first : first + count]) != checksum:
            look.problem(f"{path}: rows {first:,} to {first + count - 1:,} are not what was written")
        meter.at(first + count)
    meter.finish()
    look.checked["vectors"] = rows
    extra = path.stat().st_size - rows * form.row_bytes
    if extra:
        look.note(f"{path}: {extra:,} bytes of an interrupted write at the end; the next writer cuts them off")


def _passages(look: _ProblemCollector, data: _MemoryData) -> None:
    """Every text, against its digest."""
    wrong, total, size = [], 0, 0
    meter = Meter("texts", "passages", look.report)
    for row, digest, text in data.connection.execute("SELECT row, digest, text FROM passages ORDER BY row"):
        total, size = total + 1, size + len(text)
        if database.text_digest(text) != digest:
            wrong.append(f"the text of row {row} is not what was written")
        meter.at(total)
    meter.finish()
    look.checked.update(passages=total, characters=size)
    look.problems(data.path, wrong, "such texts")


def _documents(look: _ProblemCollector, data: _MemoryData) -> None:
    """Every document, its metadata and where its passages stand, against its digest."""
    wrong, total = [], 0
    statement = (
        "SELECT documents.id, documents.key, documents.meta, documents.digest, places.part, places.start, places.near, "
        "passages.digest FROM documents LEFT JOIN places ON places.document = documents.id "
        "LEFT JOIN passages ON passages.row = places.row ORDER BY documents.id, places.part"
    )
    for number, parts in _group_rows(data.connection.execute(statement)):
        total += 1
        _, key, meta, digest = parts[0][:4]
        held = [database.PassagePosition(*part[5:]) for part in parts if part[4] is not None]
        broken = not held or any(place.digest is None for place in held)
        if broken or database.record_digest(key, meta, held) != digest:
            wrong.append(f"document {number} is not what was written")
        elif meta is not None:
            json.loads(meta)
    look.checked["documents"] = total
    look.problems(data.path, wrong, "such documents")
    stray = "SELECT DISTINCT document FROM places WHERE document NOT IN (SELECT id FROM documents)"
    lost = [f"document {number} has passages and no record" for (number,) in data.connection.execute(stray)]
    look.problems(data.path, lost, "such documents")


def _group_rows(rows: Iterator[tuple[Any, ...]]) -> Iterator[tuple[int, list[tuple[Any, ...]]]]:
    for number, group in groupby(rows, key=itemgetter(0)):
        yield number, list(group)


def _bands(look: _ProblemCollector, data: _MemoryData) -> None:
    """The keys by which near-duplicates are found, made again from the texts."""
    if data.known.near_duplicates is None:
        return
    near, wrong = Near(data.known.near_duplicates), []
    cursor = data.connection.execute("SELECT row, text FROM passages ORDER BY row")
    total = 0
    while some := cursor.fetchmany(READ_BATCH_ROWS):
        keys = near.bands([text for _, text in some]).tolist()
        for (row, _), own in zip(some, keys, strict=True):
            total += len(set(own))
            statement = "SELECT key FROM bands WHERE key IN ({}) AND row = ?"
            if len(list(database.select_in(data.connection, statement, own, [row]))) != len(set(own)):
                wrong.append(f"the near-duplicate keys of row {row} are not what was written")
    if data.connection.execute("SELECT COUNT(*) FROM bands").fetchone()[0] != total:
        wrong.append("there are near-duplicate keys of rows that are gone")
    look.problems(data.path, wrong, "such rows")


def _inputs(look: _ProblemCollector, data: _MemoryData) -> None:
    """How far each input was read, against its digest; an unfinished one is worth a note."""
    columns = "recipe, name, next, finished, documents, bad, complaints, digest"
    for row in data.connection.execute(f"SELECT {columns} FROM inputs"):
        if database.input_digest(*row[:7]) != row[7]:
            look.problem(f"{data.path}: what is noted of input {row[1]!r} is not what was written")
        elif not row[3]:
            look.note(f"{row[1]}: was read up to record {row[2]:,} and not to its end; the same build goes on there")


def _index(look: _ProblemCollector, data: _MemoryData) -> None:
    """Every byte of the index, if there is one. Searches scan where it is damaged."""
    state = ann.index_state(data.folder, data.known, database.read_state(data.connection)["rows"], thorough=True)
    if state is None or not state.damaged:
        return
    unfinished = not (data.folder / ann.INDEX_DESCRIPTION_FILE).exists()
    (look.note if unfinished else look.problem)(str(state.problem))


def _embedder(look: _ProblemCollector, data: _MemoryData) -> None:
    """Every byte of an embedder that was fitted for the memory."""
    if data.known.embedder != LEXICAL:
        return
    fitted = fitted_embedder(look.memory)
    if not fitted.is_intact() or fitted.fingerprint != data.known.fingerprint:
        look.problem(f"{look.memory / FITTED_FOLDER}: the embedder is not what was written")


def _words(look: _ProblemCollector, known: Manifest, folder: Path) -> None:
    """FTS5's own check, which needs a writer."""
    if not known.full_text:
        return
    path = folder / database.DATABASE_FILE
    try:
        with writer.open_writer(look.memory, "verify") as writing:
            if writing.folder != folder:
                return
            writing.connection.execute("BEGIN IMMEDIATE")
            try:
                writing.connection.execute("INSERT INTO words (words, rank) VALUES ('integrity-check', 1)")
            finally:
                writing.connection.execute("ROLLBACK")
    except Locked:
        look.note(f"{path}: the full-text index was not checked, because another process is writing")
    except Unwritable:
        look.note(f"{path}: the full-text index was not checked, because the folder cannot be written to")
    except Damaged as error:
        if str(path) in str(error):
            look.problem(str(error))
        else:  # another file keeps us from writing, and was named already
            look.note(f"{path}: the full-text index was not checked, because of that damage")
    except sqlite3.Error as error:
        look.problem(f"{path}: the full-text index does not match the texts: {error}")


def _leftovers(look: _ProblemCollector, known: Manifest) -> None:
    for name in writer.stray_generations(look.memory, known):
        look.note(f"{look.memory / name}: was left by an interrupted compaction; the next writer removes it")
