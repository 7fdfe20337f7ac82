"""What a disk still holds after the power went: what was flushed, under the names that were flushed, and no more.

The harshest disk that keeps its promises: file contents that were not flushed are lost, new names are lost until
their folder was flushed, removed files are gone at once. SQLite's own files are taken to hold what they hold:
SQLite flushes them in C, out of our sight, and its order of flushes is its own promise.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch


class Disk:
    """Follows the flushes below a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._names: dict[str, dict[str, int]] = {}
        self._contents: dict[int, bytes] = {}
        # An open file keeps its number from being given to another.
        self._open: list[int] = []
        for place in [folder, *(path for path in folder.rglob("*") if path.is_dir())]:
            self._flushed_folder(str(place))
            for path in place.iterdir():
                if path.is_file():
                    self._flushed_file(str(path))

    @contextmanager
    def following(self) -> Iterator[None]:
        fsync = os.fsync

        def wrapped(descriptor: int) -> None:
            fsync(descriptor)
            place = os.readlink(f"/proc/self/fd/{descriptor}")
            if not Path(place).is_relative_to(self.folder):
                return
            if os.path.isdir(place):
                self._flushed_folder(place)
            else:
                self._flushed_file(place)

        try:
            with patch.object(os, "fsync", wrapped):
                yield
        finally:
            for descriptor in self._open:
                os.close(descriptor)

    def image(self, into: Path) -> Path:
        """The folder as it would be found after the power went now."""
        self._write(str(self.folder), into)
        return into

    def _flushed_folder(self, place: str) -> None:
        self._names[place] = {name: os.stat(os.path.join(place, name)).st_ino for name in os.listdir(place)}

    def _flushed_file(self, place: str) -> None:
        self._open.append(os.open(place, os.O_RDONLY))
        with open(place, "rb") as file:
            self._contents[os.fstat(file.fileno()).st_ino] = file.read()

    def _write(self, place: str, into: Path) -> None:
        into.mkdir()
        for name, number in self._names.get(place, {}).items():
            path, now = os.path.join(place, name), into / name
            if os.path.isdir(path):
                self._write(path, now)
            elif name == "texts.sqlite" and os.path.exists(path):
                shutil.copyfile(path, now)
            elif os.path.exists(path):
                now.write_bytes(self._contents.get(number, b""))
        if os.path.exists(os.path.join(place, "texts.sqlite-wal")):
            shutil.copyfile(os.path.join(place, "texts.sqlite-wal"), into / "texts.sqlite-wal")
