"""Durable writes: fsync, atomic replacement, and the lock of the one writer."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import socket
import sqlite3
import sys
import time
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import IO

from siftlm.errors import Locked, Unwritable

# Errors of the operating system, and messages of SQLite, where a write is refused.
REFUSED_ERRNOS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO)
REFUSAL_MESSAGES = ("disk is full", "disk I/O error", "readonly database", "unable to open", "read-only")


@contextlib.contextmanager
def translate_write_errors(what: Path) -> Iterator[None]:
    """Turn the system's errors about a refused write into `Unwritable`."""
    try:
        yield
    except Unwritable:
        raise
    except sqlite3.OperationalError as error:
        if any(words in str(error) for words in REFUSAL_MESSAGES):
            raise Unwritable(f"{what}: cannot be written: {error}; what was there before is unchanged") from error
        raise
    except OSError as error:
        # Ours are OSErrors too, and say more already; and an input or a model may fail to be read meanwhile.
        if not (error.errno in REFUSED_ERRNOS or _concerns_path(what, error.filename)):
            raise
        reason = error.strerror or str(error)
        raise Unwritable(f"{what}: cannot be written: {reason}; what was there before is unchanged") from error


def _concerns_path(what: Path, name: object) -> bool:
    """Whether this is a file of the memory, or a folder around it."""
    if not isinstance(name, (str, os.PathLike)):
        return False
    whole, path = what.absolute(), Path(os.fspath(name)).absolute()
    return path.is_relative_to(whole) or whole.is_relative_to(path)


def atomic_replace(path: Path, content: bytes) -> None:
    """Write ``content`` to ``path``, whole or not at all, whatever happens meanwhile."""
    new = path.with_name(path.name + ".new")
    with open(new, "wb") as file:
        file.write(content)
        sync_file(file)
    os.replace(new, path)
    sync_folder(path.parent)


def sync_file(file: IO[bytes]) -> None:
    """Flush a file to the disk."""
    file.flush()
    os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Flush the names in a folder to the disk."""
    if os.name == "nt":  # Windows cannot, and need not
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


LOCK_FILE = "writer.lock"
# Seconds between two attempts to lock.
RETRY_SECONDS = 0.05


@contextlib.contextmanager
def writer_lock(folder: Path, doing: str, *, wait: float = 0.0, name: str = LOCK_FILE) -> Iterator[None]:
    """Hold the folder's lock, or raise `Locked` with a description of the process that holds it.

    Args:
        folder: the memory's folder.
        doing: the purpose, shown to other processes that try.
        wait: seconds before giving up.
        name: the file that is locked.
    """
    path = folder / name
    with open(path, "a+", encoding="utf-8") as file:
        until = time.monotonic() + wait
        while not _try_lock(file):
            if time.monotonic() >= until:
                raise Locked(
                    f"{folder}: {_describe_holder(file)}; one process writes at a time: wait for it, or end it"
                )
            time.sleep(RETRY_SECONDS)
        try:
            _write_holder(file, doing)
            yield
        finally:
            # The file stays: removing it would let a third process lock a file that nobody else sees.
            with contextlib.suppress(OSError):
                os.ftruncate(file.fileno(), 0)
            _unlock(file)


def _write_holder(file: IO[str], doing: str) -> None:
    since = datetime.now(timezone.utc).isoformat(timespec="seconds")
    holder = json.dumps({"process": os.getpid(), "host": socket.gethostname(), "doing": doing, "since": since})
    # On a full disk the lock still holds, without a description. Not through the file's buffer, which would try again
    # when it is closed.
    with contextlib.suppress(OSError):
        os.ftruncate(file.fileno(), 0)
        os.write(file.fileno(), holder.encode())


def _describe_holder(file: IO[str]) -> str:
    try:
        file.seek(0)
        held = json.loads(file.read())
        return f"process {held['process']} on {held['host']} is writing ({held['doing']}, since {held['since']})"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process is writing"


if sys.platform == "win32":
    import msvcrt

    def _try_lock(file: IO[str]) -> bool:
        try:
            file.seek(2**30)  # beyond the text: Windows locks ranges, and others must be able to read it
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True

    def _unlock(file: IO[str]) -> None:
        file.seek(2**30)
        msvcrt.locking(file.fileno(), msvcrt.LK_UNLCK, 1)

else:
    import fcntl

    def _try_lock(file: IO[str]) -> bool:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EWOULDBLOCK, errno.EACCES, errno.EAGAIN):
                return False
            raise
        return True

    def _unlock(file: IO[str]) -> None:
        fcntl.flock(file, fcntl.LOCK_UN)
