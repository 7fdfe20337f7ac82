"""Every moment at which a write to a memory can go wrong, told one by one to whoever wants to make it go wrong.

The functions through which siftlm changes a disk are wrapped: writes of files, flushes, renames, removals, and the
statements of SQLite that change something. Before each and after each, and in the middle of a write, a callback is
told in words where we are; it may note it, look at the disk, raise, or kill the process.
"""

from __future__ import annotations

import builtins
import os
import signal
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

Act = Callable[[str], None]
CHANGES = ("BEGIN", "COMMIT", "INSERT", "DELETE", "UPDATE", "CREATE", "ATTACH", "DETACH", "PRAGMA WAL_CHECKPOINT")


@contextmanager
def watched(act: Act) -> Iterator[None]:
    """Tell ``act`` of every moment inside the block: ``before …``, ``amid …`` or ``after …``.

    What ``act`` does itself is not told to it.
    """
    act = _alone(act)

    def around(name: str) -> Callable[..., Any]:
        real = getattr(os, name)

        def wrapped(*args: Any, **named: Any) -> Any:
            words = f"{name} {_said(args[0])}"
            act(f"before {words}")
            found = real(*args, **named)
            act(f"after {words}")
            return found

        return wrapped

    class Connection(sqlite3.Connection):
        def execute(self, sql: str, *args: Any) -> sqlite3.Cursor:
            return self._around(super().execute, sql, *args)

        def executemany(self, sql: str, *args: Any) -> sqlite3.Cursor:
            return self._around(super().executemany, sql, *args)

        def _around(self, real: Callable[..., sqlite3.Cursor], sql: str, *args: Any) -> sqlite3.Cursor:
            if not sql.upper().startswith(CHANGES):
                return real(sql, *args)
            words = f"sql {' '.join(sql.split()[:3])}"
            act(f"before {words}")
            found = real(sql, *args)
            act(f"after {words}")
            return found

    real_open, real_connect = builtins.open, sqlite3.connect

    def open_watched(file: Any, mode: str = "r", *args: Any, **named: Any) -> Any:
        found = real_open(file, mode, *args, **named)
        return _Watched(found, act, Path(file).name) if "b" in mode and set(mode) & set("wax+") else found

    def connect(*args: Any, **named: Any) -> sqlite3.Connection:
        return real_connect(*args, **{"factory": Connection, **named})

    calls = {name: around(name) for name in ("fsync", "replace", "mkdir", "unlink", "rmdir")}
    with (
        patch.multiple(os, **calls),
        patch.object(builtins, "open", open_watched),
        patch.object(sqlite3, "connect", connect),
    ):
        yield


def _alone(act: Act) -> Act:
    inside = False

    def once(words: str) -> None:
        nonlocal inside
        if not inside:
            inside = True
            try:
                act(words)
            finally:
                inside = False

    return once


class _Watched:
    """A file whose writes have a middle."""

    def __init__(self, file: Any, act: Act, name: str) -> None:
        self._file, self._act, self._name = file, act, name

    def write(self, content: Any) -> int:
        content = memoryview(content)
        half = len(content) // 2
        self._act(f"before write {self._name}")
        self._file.write(content[:half])
        self._file.flush()
        self._act(f"amid write {self._name}")
        self._file.write(content[half:])
        self._act(f"after write {self._name}")
        return len(content)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def __enter__(self) -> _Watched:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()


def _said(place: Any) -> str:
    if isinstance(place, int):
        place = os.readlink(f"/proc/self/fd/{place}") if os.path.exists("/proc/self/fd") else place
    return os.path.basename(str(place))


class Count:
    """Lets all moments pass, and counts them."""

    def __init__(self) -> None:
        self.moments: list[str] = []

    def __call__(self, words: str) -> None:
        self.moments.append(words)


class At:
    """Does something at the n-th moment, counted from 0, and only there."""

    def __init__(self, n: int, do: Act) -> None:
        self.left, self._do = n, do

    def __call__(self, words: str) -> None:
        self.left -= 1
        if self.left == -1:
            self._do(words)


class From:
    """Does something at the n-th moment and at all later ones."""

    def __init__(self, n: int, do: Act) -> None:
        self.left, self._do = n, do

    def __call__(self, words: str) -> None:
        self.left -= 1
        if self.left < 0:
            self._do(words)


def kill(words: str) -> None:
    """As the power switch of a process: no handler runs."""
    os.kill(os.getpid(), signal.SIGKILL)


def full(words: str) -> None:
    """As a full disk: nothing more is taken, though removing still works."""
    when, what, *rest = words.split()
    if when == "after" or what in ("unlink", "rmdir") or rest[:1] in (["BEGIN"], ["DETACH"], ["DELETE"]):
        return
    if what == "sql":
        raise sqlite3.OperationalError("database or disk is full")
    raise OSError(28, "No space left on device")


def interrupt(words: str) -> None:
    """As Ctrl-C."""
    raise KeyboardInterrupt
