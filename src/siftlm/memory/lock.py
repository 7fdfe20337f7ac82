"""One writer at a time: a lock that the operating system lets go of whatever happens to its holder."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import socket
import sys
import time
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import IO

from siftlm.errors import Locked

LOCK_FILE = "writer.lock"
# Between two tries, in seconds.
RETRY_SECONDS = 0.05


@contextlib.contextmanager
def writer_lock(folder: Path, doing: str, *, wait: float = 0.0, name: str = LOCK_FILE) -> Iterator[None]:
    """Hold the folder's lock, or raise `Locked` with the words of whoever holds it.

    Args:
        folder: of the memory.
        doing: what for, told to others who try.
        wait: so many seconds before giving up.
        name: of the file that is locked.
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
    words = json.dumps({"process": os.getpid(), "host": socket.gethostname(), "doing": doing, "since": since})
    # On a full disk the lock still holds; it only cannot say who we are. Not through the file's buffer, which would
    # try again when it is closed.
    with contextlib.suppress(OSError):
        os.ftruncate(file.fileno(), 0)
        os.write(file.fileno(), words.encode())


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
            file.seek(2**30)  # beyond what is written: Windows locks ranges, and others must read our words
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
