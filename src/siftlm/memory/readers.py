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
from siftlm.memory.snapshot import Snapshot, View, refreshed

# A compaction may move the data while we look for them; twice in a row is already unlikely.
TRIES = 5


class Readers:
    """Gives snapshots of one memory to any number of threads."""

    def __init__(self, memory: Path) -> None:
        self._memory = memory
        self._manifest = manifest.read(memory)
        self._stamp = self._stamp_now()
        self._view: View | None = None
        self._own = threading.local()
        self._all: list[sqlite3.Connection] = []
        self._lock = threading.Lock()
        # sqlite3 complains about connections that nobody closed.
        weakref.finalize(self, _close_all, self._all, os.getpid())

    @property
    def manifest(self) -> Manifest:
        """As it is on disk now."""
        stamp = self._stamp_now()
        with self._lock:
            if stamp != self._stamp:
                self._manifest, self._stamp = manifest.read(self._memory), stamp
            return self._manifest

    @contextlib.contextmanager
    def snapshot(self) -> Iterator[Snapshot]:
        """The memory at this moment, unchanged until the end of the block."""
        for attempt in range(TRIES):
            current = self.manifest
            try:
                connection = self._connection(current.generation)
                break
            except Damaged:
                if attempt == TRIES - 1 or self.manifest.generation == current.generation:
                    raise
        path = current.folder(self._memory) / database.NAME
        with database.damage_named(path):
            connection.execute("BEGIN")
            try:
                view = refreshed(self._view, current, self._memory, connection)
                self._view = view
                yield Snapshot(current, connection, view)
            finally:
                connection.execute("COMMIT")

    def close(self) -> None:
        """Let go of all files; the next snapshot opens them again."""
        with self._lock:
            _close_all(self._all, os.getpid())
            self._all.clear()
            self._own, self._view = threading.local(), None

    def _connection(self, generation: int) -> sqlite3.Connection:
        own = self._own
        # A connection must not be taken through a fork: its locks belong to the parent.
        if getattr(own, "key", None) != (generation, os.getpid()):
            old = getattr(own, "connection", None)
            own.key = None
            if old is not None and own.process == os.getpid():
                with self._lock:
                    self._all.remove(old)
                old.close()
            own.connection = database.reader(self._manifest.folder(self._memory))
            own.key, own.process = (generation, os.getpid()), os.getpid()
            with self._lock:
                self._all.append(own.connection)
        connection: sqlite3.Connection = own.connection
        return connection

    def _stamp_now(self) -> tuple[int, int, int]:
        try:
            found = (self._memory / manifest.NAME).stat()
        except FileNotFoundError:
            manifest.read(self._memory)  # which says what is there instead
            raise
        return found.st_ino, found.st_mtime_ns, found.st_size


def _close_all(connections: list[sqlite3.Connection], process: int) -> None:
    for connection in connections if process == os.getpid() else ():
        with contextlib.suppress(sqlite3.Error):
            connection.close()
