"""Writing so that a crash leaves the old or the new, and saying plainly when the disk refuses."""

from __future__ import annotations

import contextlib
import errno
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from siftlm.errors import Unwritable

# What the operating system says, and what SQLite does, where a write is refused.
REFUSED_ERRNOS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO)
REFUSAL_MESSAGES = ("disk is full", "disk I/O error", "readonly database", "unable to open", "read-only")


@contextlib.contextmanager
def translate_write_errors(what: Path) -> Iterator[None]:
    """Turn whatever the system says of a refused write into `Unwritable`."""
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
    """Is this file the memory's, or a folder that it would stand in?"""
    if not isinstance(name, (str, os.PathLike)):
        return False
    whole, path = what.absolute(), Path(os.fspath(name)).absolute()
    return path.is_relative_to(whole) or whole.is_relative_to(path)


def atomic_replace(path: Path, content: bytes) -> None:
    """Put ``content`` into ``path``, whole or not at all, whatever happens meanwhile."""
    new = path.with_name(path.name + ".new")
    with open(new, "wb") as file:
        file.write(content)
        sync_file(file)
    os.replace(new, path)
    sync_folder(path.parent)


def sync_file(file: IO[bytes]) -> None:
    """Make what was written as lasting as the disk can."""
    file.flush()
    os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Make the names in a folder as lasting as the files' contents."""
    if os.name == "nt":  # Windows has no such thing, and needs none
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
