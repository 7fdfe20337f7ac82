"""Consistent reads of a memory, from any number of threads."""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import threading
import weakref
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from siftlm.errors import Damaged, InvalidInput, setting
from siftlm.memory import ann, database, keywords, manifest, scan, vectors
from siftlm.memory.filter_sql import SqlCondition
from siftlm.memory.filters import Expression
from siftlm.memory.manifest import Manifest
from siftlm.memory.store import Listed, Neighbours, Passage
from siftlm.types import BoolArray, FloatArray, IntArray, Vectors

# Filters whose rows are kept between searches of an unchanged memory.
CACHED_FILTERS = 16


@dataclass
class SnapshotView:
    """The state of a memory between two changes, kept from search to search."""

    version: int
    rows: int
    form: vectors.VectorFormat
    stored: Vectors
    """The mapped vectors, as they are stored."""
    last_dead: int
    """The newest deletion that ``alive`` knows."""
    alive: BoolArray | None
    """(rows,) or None while nothing was deleted."""
    index: ann.LazyAnnIndex
    """The index of this generation."""
    allowed: OrderedDict[str, BoolArray] = field(default_factory=OrderedDict)
    """Filter -> (rows,) which passages meet it."""
    ready: Vectors | None = None
    """int8 only: all vectors decoded, once somebody asked for everything."""


def refresh_view(
    view: SnapshotView | None, manifest: Manifest, memory: Path, connection: sqlite3.Connection
) -> SnapshotView:
    """The view of this moment: ``view``, of the same manifest, where nothing has changed, else with what is new."""
    state = database.read_state(connection)
    version, rows = state["version"], state["rows"]
    folder = manifest.folder(memory)
    form = vectors.VectorFormat(manifest.storage, manifest.width) if view is None else view.form
    path = folder / form.file_name
    if view is not None and view.version == version:
        with contextlib.suppress(FileNotFoundError):  # what is mapped stays readable where only the name is gone
            vectors.check_file_length(path, form, rows)
        return view
    stored = vectors.map_vectors(path, form, rows)
    last, alive = (0, None) if view is None else (view.last_dead, view.alive)
    dead = connection.execute("SELECT seq, row FROM dead WHERE seq > ? ORDER BY seq", (last,)).fetchall()
    if dead or alive is not None:
        mask = np.ones(rows, dtype=np.bool_)
        if alive is not None:
            mask[: len(alive)] = alive
        if dead:
            if not all(isinstance(row, int) and 0 <= row < rows for _, row in dead):
                raise Damaged(f"{folder / database.DATABASE_FILE}: names rows that were never written")
            mask[[row for _, row in dead]], last = False, dead[-1][0]
        alive = mask
    index = ann.LazyAnnIndex(folder, manifest) if view is None else view.index
    return SnapshotView(version, rows, form, stored, last, alive, index)


@dataclass(frozen=True, eq=False)
class Snapshot:
    """A `Store` over one moment of a memory, inside a read transaction."""

    manifest: Manifest
    view: SnapshotView
    connection: sqlite3.Connection = field(repr=False)
    use_index: bool = True

    @property
    def width(self) -> int:
        """d."""
        return self.manifest.width

    @property
    def exact(self) -> bool:
        """Whether a search sees every vector, as a scan and some indexes do."""
        index = self.view.index.current(self.view.rows) if self.use_index else None
        return index is None or index.exact

    def __len__(self) -> int:
        alive = self.view.alive
        return self.view.rows if alive is None else int(np.count_nonzero(alive))

    # --- vectors

    def nearest(self, queries: Vectors, k: int, where: Expression | None = None) -> list[Neighbours]:
        """The k best rows of each query: from the index, if there is one that may be used, else by a scan."""
        allowed = self.view.alive if where is None else self.allowed(where)
        index = self.view.index.current(self.view.rows) if self.use_index else None
        if index is None:
            return scan.nearest(self.view.stored, self.view.form, queries, k, allowed)
        return ann.nearest(index, self.view.stored, self.view.form, queries, k, allowed)

    def scanning(self) -> Snapshot:
        """The same moment, searched without the index."""
        return replace(self, use_index=False)

    def vectors(self, ids: IntArray) -> Vectors:
        """(len(ids), d) float32."""
        return self.view.form.decode(self.view.stored[np.asarray(ids, dtype=np.int64)])

    def everything(self) -> Vectors:
        """All rows (rows, d), dead ones included: mapped where they are float32, elsewhere decoded once and kept."""
        if self.manifest.storage == "float32":
            return self.view.stored
        if self.view.ready is None:
            ready = np.empty((self.view.rows, self.width), dtype=np.float32)
            for first in range(0, self.view.rows, vectors.BLOCK_ROWS):
                ready[first : first + vectors.BLOCK_ROWS] = self.view.form.decode(
                    self.view.stored[first : first + vectors.BLOCK_ROWS]
                )
            self.view.ready = ready
        return self.view.ready

    def allowed(self, where: Expression | None) -> BoolArray | None:
        """(rows,) which passages are alive and meet the filter; None if that is all of them."""
        alive = self.view.alive
        if where is None:
            return alive
        key = str(where)
        cached = self.view.allowed.get(key)
        if cached is not None:
            with contextlib.suppress(KeyError):  # another thread may have dropped it meanwhile
                self.view.allowed.move_to_end(key)
            return cached
        sql = where.sql()
        statement = (
            f"SELECT DISTINCT row FROM places WHERE document IN (SELECT id FROM documents WHERE {sql.condition})"
        )
        rows = np.fromiter((row for (row,) in self.connection.execute(statement, sql.parameters)), dtype=np.int64)
        mask = np.zeros(self.view.rows, dtype=np.bool_)
        if len(rows):
            self._check_written(rows.min(), rows.max())
        mask[rows] = True
        if alive is not None:
            mask &= alive
        self.view.allowed[key] = mask
        with contextlib.suppress(KeyError):
            while len(self.view.allowed) > CACHED_FILTERS:
                self.view.allowed.popitem(last=False)
        return mask

    def count(self, where: Expression | None, without: IntArray) -> int:
        """How many are alive and meet the filter, those of ``without`` not counted."""
        allowed, known = self.allowed(where), without[without < self.view.rows]
        if allowed is None:
            return self.view.rows - len(known)
        return int(np.count_nonzero(allowed)) - int(np.count_nonzero(allowed[known]))

    # --- texts

    def inputs(self) -> dict[str, str]:
        """The recipe and the name of each input that was read, or begun."""
        return dict(self.connection.execute("SELECT recipe, name FROM inputs"))

    def words(self, text: str, k: int, where: Expression | None = None) -> Neighbours:
        """The k best rows by BM25 over the rarest words of a text, best first, with these scores."""
        terms = self._query_terms(text)
        allowed = self.allowed(where) if where is not None else None
        ranking: list[tuple[int, float]] = []
        statement = "SELECT rowid, -rank FROM words WHERE words MATCH ? ORDER BY rank, rowid"
        limit = "" if allowed is not None else f" LIMIT {min(k, self.view.rows):d}"
        for row, score in self.connection.execute(statement + limit, (keywords.match_any(terms),)) if terms else ():
            self._check_written(row, row)
            if allowed is None or allowed[row]:
                ranking.append((row, score))
                if len(ranking) == k:
                    break
        return Neighbours(
            np.array([row for row, _ in ranking], dtype=np.int64), np.array([score for _, score in ranking], np.float64)
        )

    def term_scores(self, text: str, ids: IntArray) -> FloatArray:
        """(len(ids), T) what each of these words adds to the BM25 of each row."""
        terms, place = self._query_terms(text), {int(row): at for at, row in enumerate(ids)}
        scores = np.zeros((len(place), len(terms)))
        # The plus keeps SQLite from a search for each row.
        statement = "SELECT rowid, -rank FROM words WHERE words MATCH ? AND +rowid IN (SELECT value FROM json_each(?))"
        rows = json.dumps(list(place))
        for column, term in enumerate(terms):
            for row, score in self.connection.execute(statement, (keywords.match_any([term]), rows)):
                scores[place[row], column] = score
        return scores

    def _query_terms(self, text: str) -> list[str]:
        if not self.manifest.full_text:
            raise InvalidInput(
                f"this memory was built with {setting('full_text', False)} and cannot be searched by words"
            )
        tokenizer = self.manifest.tokenizer
        return keywords.query_terms(text, self._document_frequency, len(self), tokenizer=tokenizer)

    def _document_frequency(self, terms: list[str]) -> dict[str, int]:
        statement = "SELECT term, doc FROM vocabulary WHERE term = ?"
        rows = (self.connection.execute(statement, (term,)).fetchone() for term in terms)
        return {row[0]: row[1] for row in rows if row is not None}

    def texts(self, ids: Sequence[int]) -> list[str]:
        """The texts of rows, in their order."""
        rows = [int(row) for row in ids]
        texts = dict(database.select_in(self.connection, "SELECT row, text FROM passages WHERE row IN ({})", rows))
        try:
            return [texts[row] for row in rows]
        except KeyError as error:
            raise _missing_text(error) from None

    def rows_of(self, document: int) -> list[tuple[int, int, bool]]:
        """(row, start, near) of each passage of a document, in order; ``near``: its text was only nearly this."""
        statement = "SELECT row, start, near FROM places WHERE document = ? ORDER BY part"
        return [(row, start, bool(near)) for row, start, near in self.connection.execute(statement, (document,))]

    def passages(self, ids: Sequence[int], where: Expression | None = None) -> list[Passage]:
        """The passages of rows, in their order."""
        rows, select = list(dict.fromkeys(int(row) for row in ids)), partial(database.select_in, self.connection)
        # 1) The texts, and how often each was given.
        texts = dict(select("SELECT row, text FROM passages WHERE row IN ({})", rows))
        copies = dict(select("SELECT row, COUNT(*) FROM places WHERE row IN ({}) GROUP BY row", rows))
        # 2) For each the first document that holds it and meets the filter.
        sql = SqlCondition("1", []) if where is None else where.sql()
        statement = (
            "SELECT row, document, part, start, key, meta FROM places JOIN documents ON id = document "
            f"WHERE row IN ({{}}) AND ({sql.condition}) ORDER BY near, document, part"
        )
        homes: dict[int, tuple[Any, ...]] = {}
        for row, *home in select(statement, rows, sql.parameters):
            homes.setdefault(row, tuple(home))
        # 3) Into how many passages these documents were cut.
        documents = list(dict.fromkeys(document for document, *_ in homes.values()))
        statement = "SELECT document, MAX(part) + 1 FROM places WHERE document IN ({}) GROUP BY document"
        parts = dict(select(statement, documents))
        passages: dict[int, Passage] = {}
        try:
            for row in rows:
                document, part, start, key, meta = homes[row]
                known = {} if meta is None else self._meta(meta, document)
                passages[row] = Passage(texts[row], known, key, document, part, parts[document], start, copies[row])
        except KeyError as error:
            raise _missing_text(error) from None
        return [passages[int(row)] for row in ids]

    def documents(self, after: int = -1, limit: int = 100, *, letters: int = 200) -> list[Listed]:
        """The documents with the next numbers, in ascending order."""
        passages = "SELECT COUNT(*) FROM places WHERE document = documents.id"
        begins = (
            "SELECT substr(text, 1, ?) FROM places JOIN passages USING (row) WHERE document = documents.id "
            "ORDER BY part LIMIT 1"
        )
        rows = self.connection.execute(
            f"SELECT id, key, meta, ({begins}), ({passages}) FROM documents WHERE id > ? ORDER BY id LIMIT ?",
            (letters, after, limit),
        )
        return [
            Listed(number, key, {} if meta is None else self._meta(meta, number), text or "", parts)
            for number, key, meta, text, parts in rows
        ]

    def _meta(self, text: str, document: int) -> dict[str, Any]:
        try:
            meta: dict[str, Any] = json.loads(text)
        except ValueError as error:
            raise Damaged(
                f"{database.DATABASE_FILE}: the metadata of document {document} is no JSON: {error}"
            ) from error
        return meta

    def _check_written(self, first: int, last: int) -> None:
        if first < 0 or last >= self.view.rows:
            raise Damaged(f"{database.DATABASE_FILE}: names rows that were never written; siftlm verify says more")


def _missing_text(error: KeyError) -> Damaged:
    return Damaged(f"{database.DATABASE_FILE}: row {error} has a vector and no text; siftlm verify says more")


# Attempts to open the data, which a compaction may move meanwhile; twice in a row is already unlikely.
SNAPSHOT_ATTEMPTS = 5


class SnapshotPool:
    """Gives snapshots of one memory to any number of threads."""

    def __init__(self, memory: Path) -> None:
        self._memory = memory
        self._manifest, self._stamp = manifest.read_manifest(memory), (0, 0, 0)
        self._seen: tuple[Manifest, SnapshotView] | None = None
        self._own = threading.local()
        self._all: list[tuple[threading.Thread, sqlite3.Connection]] = []
        self._lock = threading.Lock()
        # sqlite3 complains about connections that nobody closed.
        self._process = os.getpid()
        weakref.finalize(self, _close_connections, self._all, self._process)

    @property
    def manifest(self) -> Manifest:
        """The manifest as it is on disk now."""
        try:
            status = (self._memory / manifest.MANIFEST_FILE).stat()
        except FileNotFoundError:
            manifest.read_manifest(self._memory)  # which says what is there instead
            raise
        stamp = (status.st_ino, status.st_mtime_ns, status.st_size)
        with self._lock:
            if stamp != self._stamp:
                self._manifest, self._stamp = manifest.read_manifest(self._memory), stamp
            return self._manifest

    @contextlib.contextmanager
    def snapshot(self) -> Iterator[Snapshot]:
        """The memory at this moment, unchanged until the end of the block."""
        outer: Snapshot | None = getattr(self._own, "snapshot", None)
        if outer is not None and self._own.process == os.getpid():
            yield outer  # a connection has one moment at a time
            return
        snapshot = self._begin()
        own = self._own
        own.snapshot = snapshot
        try:
            with database.translate_database_errors(snapshot.manifest.folder(self._memory) / database.DATABASE_FILE):
                yield snapshot
        finally:
            own.snapshot = None
            if snapshot.connection.in_transaction:
                with contextlib.suppress(sqlite3.Error):  # of a damaged file: the error of reading it matters more
                    snapshot.connection.execute("ROLLBACK")

    def _begin(self) -> Snapshot:
        """A snapshot of the generation that counts, which a compaction may replace while its files are opened."""
        attempts = SNAPSHOT_ATTEMPTS
        while True:
            current, attempts = self.manifest, attempts - 1
            try:
                connection = self._connection(current)
                with database.translate_database_errors(current.folder(self._memory) / database.DATABASE_FILE):
                    connection.execute("BEGIN")
                    try:
                        seen = self._seen
                        # A manifest that was read anew may be that of another memory in the old one's place.
                        known = seen[1] if seen is not None and seen[0] is current else None
                        view = refresh_view(known, current, self._memory, connection)
                    except BaseException:
                        connection.execute("ROLLBACK")
                        raise
                self._seen = (current, view)
                return Snapshot(current, view, connection)
            except Damaged:
                if not attempts or self.manifest.generation == current.generation:
                    raise

    def close(self) -> None:
        """Close all files; the next snapshot opens them again."""
        with self._lock:
            _close_connections(self._all, os.getpid())
            self._all.clear()
            self._own, self._seen = threading.local(), None

    def _connection(self, current: Manifest) -> sqlite3.Connection:
        """This thread's own connection to the database of a generation."""
        own, folder, process = self._own, current.folder(self._memory), os.getpid()
        stamp = database.connect_immutable(folder)
        # A connection must not be taken through a fork: its locks belong to the parent.
        is_mine = getattr(own, "process", None) == process
        if is_mine and own.manifest is current and own.stamp == stamp:
            connection: sqlite3.Connection = own.connection
            return connection
        old, own.manifest = own.connection if is_mine else None, None
        with self._lock:
            # Those of threads that have ended go as well, or a server would run out of files. After a fork all other
            # threads seem to have ended, but their connections are the parent's.
            forked = self._process != process
            gone = [one for thread, one in self._all if one is old or not (forked or thread.is_alive())]
            self._all[:] = [(thread, one) for thread, one in self._all if not any(one is other for other in gone)]
        for one in gone:
            one.close()
        own.connection = connection = database.connect_reader(folder)
        own.manifest, own.process, own.stamp = current, process, stamp
        with self._lock:
            self._all.append((threading.current_thread(), connection))
        return connection


def _close_connections(connections: list[tuple[threading.Thread, sqlite3.Connection]], process: int) -> None:
    for _, connection in connections if process == os.getpid() else ():
        with contextlib.suppress(sqlite3.Error):
            connection.close()
