"""Connections for reading: one a thread, made anew when the memory has moved on to another generation."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
import weakref
from collections.abc import Iterator
from pathlib import Path

from siftlm.errors import Damaged
from siftlm.memory import database, manifest
from siftlm.memory.manifest import Manifest
from siftlm.memory.snapshot import Snapshot, SnapshotView, refresh_view

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
