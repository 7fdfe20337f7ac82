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
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from siftlm.errors import Damaged, InvalidInput, setting
from siftlm.memory import ann, database, keywords, manifest, scan, vectors
from siftlm.memory.filter_sql import SqlCondition
from siftlm.memory.filters import Expression
from siftlm.memory.manifest import Manifest
from siftlm.memory.store import Listed, Neighbours, Passage
from siftlm.types import BoolArray, IntArray, Vectors

# Filters whose rows are remembered between searches of an unchanged memory.
CACHED_FILTERS = 16


@dataclass
class SnapshotView:
    """What stays the same between two changes of a memory, kept from search to search."""

    generation: int
    version: int
    rows: int
    stored: Vectors
    """The mapped vectors, as they are stored."""
    last_dead: int
    """The newest deletion that ``alive`` knows."""
    alive: BoolArray | None
    """(rows,) or None while nothing was deleted."""
    index: ann.LazyAnnIndex
    """Of this generation."""
    allowed: OrderedDict[str, BoolArray] = field(default_factory=OrderedDict)
    """Filter -> (rows,) which passages meet it."""
    ready: Vectors | None = None
    """int8 only: all vectors decoded, once somebody asked for everything."""


def refresh_view(
    view: SnapshotView | None, manifest: Manifest, memory: Path, connection: sqlite3.Connection
) -> SnapshotView:
    """The view of this moment: the old one if nothing has changed, else with what is new."""
    state = database.read_state(connection)
    version, rows = state["version"], state["rows"]
    same = view is not None and view.generation == manifest.generation
    form = vectors.VectorFormat(manifest.storage, manifest.width)
    path = manifest.folder(memory) / form.file_name
    if view is not None and same and view.version == version:
        with contextlib.suppress(FileNotFoundError):  # what is mapped stays readable where only the name is gone
            vectors.check_file_length(path, form, rows)
        return view
    stored = vectors.map_vectors(path, form, rows)
    last, alive = (view.last_dead, view.alive) if view is not None and same else (0, None)
    dead = connection.execute("SELECT seq, row FROM dead WHERE seq > ? ORDER BY seq", (last,)).fetchall()
    if dead or alive is not None:
        mask = np.ones(rows, dtype=np.bool_)
        if alive is not None:
            mask[: len(alive)] = alive
        if dead:
            if not all(isinstance(row, int) and 0 <= row < rows for _, row in dead):
                raise Damaged(f"{manifest.folder(memory) / database.DATABASE_FILE}: names rows that were never written")
            mask[[row for _, row in dead]], last = False, dead[-1][0]
        alive = mask
    index = view.index if view is not None and same else ann.LazyAnnIndex(manifest.folder(memory), manifest)
    return SnapshotView(manifest.generation, version, rows, stored, last, alive, index)


class Snapshot:
    """A `Store` over one moment of a memory, inside a read transaction."""

    def __init__(
        self, manifest: Manifest, connection: sqlite3.Connection, view: SnapshotView, *, use_index: bool = True
    ) -> None:
        self.manifest, self._connection, self.view, self._use_index = manifest, connection, view, use_index
        self._form = vectors.VectorFormat(manifest.storage, manifest.width)

    def end(self) -> None:
        """From now on nothing may be read from it."""
        if self._connection.in_transaction:
            with contextlib.suppress(sqlite3.Error):  # of a damaged file: what reading it said matters more
                self._connection.execute("ROLLBACK")

    @property
    def width(self) -> int:
        """d."""
        return self.manifest.width

    @property
    def exact(self) -> bool:
        """A scan sees every vector, and so do some indexes."""
        index = self._index()
        return index is None or index.exact

    def __len__(self) -> int:
        alive = self.view.alive
        return self.view.rows if alive is None else int(np.count_nonzero(alive))

    # --- vectors

    def nearest(self, queries: Vectors, k: int, where: Expression | None = None) -> list[Neighbours]:
        """The k best rows of each query: from the index, if there is one that may be used, else by a scan."""
        allowed, stored, index = self.allowed(where), self.view.stored, self._index()
        if index is None:
            return scan.nearest(stored, self._form, queries, k, allowed)
        return ann.nearest(index, stored, self._form, queries, k, allowed)

    def _index(self) -> ann.AnnIndex | None:
        return self.view.index.current(self.view.rows) if self._use_index else None

    def scanning(self) -> Snapshot:
        """The same moment, seen without the index."""
        return Snapshot(self.manifest, self._connection, self.view, use_index=False)

    def vectors(self, ids: IntArray) -> Vectors:
        """(len(ids), d) float32."""
        return self._form.decode(self.view.stored[np.asarray(ids, dtype=np.int64)])

    def everything(self) -> Vectors:
        """All rows (rows, d), dead ones included: mapped where the form allows, decoded where not."""
        if self.manifest.storage != "int8":
            return self.view.stored
        if self.view.ready is None:
            ready = np.empty((self.view.rows, self.width), dtype=np.float32)
            for first in range(0, self.view.rows, vectors.BLOCK_ROWS):
                ready[first : first + vectors.BLOCK_ROWS] = self._form.decode(
                    self.view.stored[first : first + vectors.BLOCK_ROWS]
                )
            self.view.ready = ready
        return self.view.ready

    def allowed(self, where: Expression | None) -> BoolArray | None:
        """(rows,) which passages live and meet the filter; None if that is all of them."""
        alive = self.view.alive
        if where is None:
            return alive
        key = str(where)
        remembered = self.view.allowed.get(key)
        if remembered is not None:
            with contextlib.suppress(KeyError):  # another thread may have dropped it meanwhile
                self.view.allowed.move_to_end(key)
            return remembered
        sql = where.sql()
        statement = (
            f"SELECT DISTINCT row FROM places WHERE document IN (SELECT id FROM documents WHERE {sql.condition})"
        )
        rows = np.fromiter((row for (row,) in self._connection.execute(statement, sql.parameters)), dtype=np.int64)
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
        """How many live and meet the filter, those named not counted."""
        allowed, known = self.allowed(where), without[without < self.view.rows]
        if allowed is None:
            return self.view.rows - len(known)
        return int(np.count_nonzero(allowed)) - int(np.count_nonzero(allowed[known]))

    # --- texts

    def inputs(self) -> dict[str, str]:
        """The recipe and the name of each input that was read, or begun."""
        return dict(self._connection.execute("SELECT recipe, name FROM inputs"))

    def words(self, text: str, k: int, where: Expression | None = None) -> IntArray:
        """The k best rows by BM25 over the rarest words of a text, best first."""
        if not self.manifest.full_text:
            raise InvalidInput(
                f"this memory was built with {setting('full_text', False)} and cannot be searched by words"
            )
        match = keywords.match_query(text, self._document_frequency, len(self))
        if match is None:
            return np.zeros(0, dtype=np.int64)
        allowed = self.allowed(where) if where is not None else None
        found: list[int] = []
        statement = "SELECT rowid FROM words WHERE words MATCH ? ORDER BY rank, rowid"
        limit = "" if allowed is not None else f" LIMIT {min(k, self.view.rows):d}"
        for (row,) in self._connection.execute(statement + limit, (match,)):
            self._check_written(row, row)
            if allowed is None or allowed[row]:
                found.append(row)
                if len(found) == k:
                    break
        return np.array(found, dtype=np.int64)

    def _document_frequency(self, terms: list[str]) -> dict[str, int]:
        statement = "SELECT term, doc FROM vocabulary WHERE term = ?"
        rows = (self._connection.execute(statement, (term,)).fetchone() for term in terms)
        return {row[0]: row[1] for row in rows if row is not None}

    def texts(self, ids: Sequence[int]) -> list[str]:
        """Of rows, in their order."""
        wanted = [int(row) for row in ids]
        statement = "SELECT row, text FROM passages WHERE row IN ({})"
        there = dict(database.select_in(self._connection, statement, wanted))
        self._check_there(wanted, there)
        return [there[row] for row in wanted]

    def rows_of(self, document: int) -> list[tuple[int, int, bool]]:
        """(row, start, near) of each passage of a document, in order; ``near``: its text was only nearly this."""
        statement = "SELECT row, start, near FROM places WHERE document = ? ORDER BY part"
        return [(row, start, bool(near)) for row, start, near in self._connection.execute(statement, (document,))]

    def passages(self, ids: Sequence[int], where: Expression | None = None) -> list[Passage]:
        """One for each row, in their order."""
        wanted = [int(row) for row in ids]
        distinct = list(dict.fromkeys(wanted))
        texts = dict(zip(distinct, self.texts(distinct), strict=True))
        copies = dict(self._of_places("row, COUNT(*)", distinct, "GROUP BY row"))
        homes = self._homes(distinct, where)
        self._check_there(wanted, homes)
        parts = self._parts([home[1] for home in homes.values()])
        return [self._passage(texts[row], homes[row], copies[row], parts) for row in wanted]

    def _homes(self, rows: Sequence[int], where: Expression | None) -> dict[int, tuple[Any, ...]]:
        """Row -> (row, document, part, start, key, meta) of the first document that holds it and meets the filter."""
        sql = SqlCondition("1", []) if where is None else where.sql()
        found: dict[int, tuple[Any, ...]] = {}
        for some in database.parameter_chunks(rows, 400):
            statement = (
                "SELECT row, document, part, start, key, meta FROM places JOIN documents ON id = document "
                f"WHERE row IN ({database.placeholders(len(some))}) AND ({sql.condition}) ORDER BY near, document, part"
            )
            for home in self._connection.execute(statement, [*some, *sql.parameters]):
                found.setdefault(home[0], home)
        return found

    def _of_places(self, what: str, rows: Sequence[int], rest: str) -> list[tuple[Any, ...]]:
        return list(database.select_in(self._connection, f"SELECT {what} FROM places WHERE row IN ({{}}) {rest}", rows))

    def _parts(self, documents: Sequence[int]) -> dict[int, int]:
        statement = "SELECT document, MAX(part) + 1 FROM places WHERE document IN ({}) GROUP BY document"
        return dict(database.select_in(self._connection, statement, list(dict.fromkeys(documents))))

    def _passage(self, text: str, home: tuple[Any, ...], copies: int, parts: dict[int, int]) -> Passage:
        _, document, part, start, key, meta = home
        return Passage(
            text=text,
            meta={} if meta is None else self._meta(meta, document),
            id=key,
            document=document,
            part=part,
            parts=parts[document],
            start=start,
            copies=copies,
        )

    def documents(self, after: int = -1, limit: int = 100, *, letters: int = 200) -> list[Listed]:
        """The documents with the next numbers, in ascending order."""
        passages = "SELECT COUNT(*) FROM places WHERE document = documents.id"
        begins = (
            "SELECT substr(text, 1, ?) FROM places JOIN passages USING (row) WHERE document = documents.id "
            "ORDER BY part LIMIT 1"
        )
        rows = self._connection.execute(
            f"SELECT id, key, meta, ({begins}), ({passages}) FROM documents WHERE id > ? ORDER BY id LIMIT ?",
            (letters, after, limit),
        )
        return [
            Listed(number, key, {} if meta is None else self._meta(meta, number), text or "", parts)
            for number, key, meta, text, parts in rows
        ]

    def _meta(self, text: str, document: int) -> dict[str, Any]:
        try:
            found: dict[str, Any] = json.loads(text)
        except ValueError as error:
            raise Damaged(
                f"{database.DATABASE_FILE}: the metadata of document {document} is no JSON: {error}"
            ) from error
        return found

    def _check_written(self, first: int, last: int) -> None:
        if first < 0 or last >= self.view.rows:
            raise Damaged(f"{database.DATABASE_FILE}: names rows that were never written; siftlm verify says more")

    def _check_there(self, wanted: Sequence[int], there: dict[int, Any]) -> None:
        missing = next((row for row in wanted if row not in there), None)
        if missing is not None:
            raise Damaged(f"{database.DATABASE_FILE}: row {missing} has a vector and no text; siftlm verify says more")


# A compaction may move the data while we look for them; twice in a row is already unlikely.
SNAPSHOT_ATTEMPTS = 5


class SnapshotPool:
    """Gives snapshots of one memory to any number of threads."""

    def __init__(self, memory: Path) -> None:
        self._memory = memory
        self._manifest = manifest.read_manifest(memory)
        self._stamp = self._stamp_now()
        self._seen: tuple[Manifest, SnapshotView] | None = None
        self._own = threading.local()
        self._all: list[tuple[threading.Thread, sqlite3.Connection]] = []
        self._lock = threading.Lock()
        # sqlite3 complains about connections that nobody closed.
        self._process = os.getpid()
        weakref.finalize(self, _close_connections, self._all, self._process)

    @property
    def manifest(self) -> Manifest:
        """As it is on disk now."""
        stamp = self._stamp_now()
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
        snapshot = self._begun()
        own = self._own
        own.snapshot = snapshot
        try:
            with database.translate_database_errors(snapshot.manifest.folder(self._memory) / database.DATABASE_FILE):
                yield snapshot
        finally:
            own.snapshot = None
            snapshot.end()

    def _begun(self) -> Snapshot:
        """Of the generation that counts, which a compaction may replace while we open its files."""
        for _ in range(SNAPSHOT_ATTEMPTS):
            current = self.manifest
            try:
                return self._snapshot_of(current)
            except Damaged:
                if self.manifest.generation == current.generation:
                    raise
        return self._snapshot_of(self.manifest)

    def _snapshot_of(self, current: Manifest) -> Snapshot:
        path = current.folder(self._memory) / database.DATABASE_FILE
        connection = self._connection(current)
        with database.translate_database_errors(path):
            connection.execute("BEGIN")
            try:
                seen = self._seen
                # A manifest that was read anew may be that of another memory in the old one's place.
                known = seen[1] if seen is not None and seen[0] is current else None
                view = refresh_view(known, current, self._memory, connection)
                self._seen = (current, view)
            except BaseException:
                connection.execute("ROLLBACK")
                raise
            return Snapshot(current, connection, view)

    def close(self) -> None:
        """Let go of all files; the next snapshot opens them again."""
        with self._lock:
            _close_connections(self._all, os.getpid())
            self._all.clear()
            self._own, self._seen = threading.local(), None

    def _connection(self, current: Manifest) -> sqlite3.Connection:
        own, folder = self._own, current.folder(self._memory)
        stamp = database.connect_immutable(folder)
        # A connection must not be taken through a fork: its locks belong to the parent.
        if getattr(own, "manifest", None) is not current or own.process != os.getpid() or own.stamp != stamp:
            old = getattr(own, "connection", None)
            own.manifest = None
            if old is not None and own.process == os.getpid():
                with self._lock:
                    self._all[:] = [(thread, one) for thread, one in self._all if one is not old]
                old.close()
            own.connection = database.connect_reader(folder)
            own.manifest, own.process, own.stamp = current, os.getpid(), stamp
            self._keep(own.connection)
        connection: sqlite3.Connection = own.connection
        return connection

    def _keep(self, connection: sqlite3.Connection) -> None:
        """Remember it for closing; and close those of threads that have ended, or a server would run out of files."""
        with self._lock:
            # After a fork all other threads seem to have ended, but their connections are the parent's.
            ended = [] if self._process != os.getpid() else [one for thread, one in self._all if not thread.is_alive()]
            self._all[:] = [(thread, one) for thread, one in self._all if not any(one is old for old in ended)]
            self._all.append((threading.current_thread(), connection))
        for old in ended:
            old.close()

    def _stamp_now(self) -> tuple[int, int, int]:
        try:
            found = (self._memory / manifest.MANIFEST_FILE).stat()
        except FileNotFoundError:
            manifest.read_manifest(self._memory)  # which says what is there instead
            raise
        return found.st_ino, found.st_mtime_ns, found.st_size


def _close_connections(connections: list[tuple[threading.Thread, sqlite3.Connection]], process: int) -> None:
    for _, connection in connections if process == os.getpid() else ():
        with contextlib.suppress(sqlite3.Error):
            connection.close()
