"""What a disk still holds after the power went: what was flushed, under the names that were flushed, and no more.

The harshest disk that keeps its promises: file contents that were not flushed are lost, new names are lost until
their folder was flushed, removed files are gone at once. To a `Disk`, SQLite's own files hold what they hold: SQLite
flushes them in C, out of Python's sight. A `Recording` sees SQLite's writes and flushes too, in a process of its own.
"""

from __future__ import annotations

import os
import random
import shutil
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import NamedTuple
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


# --- with SQLite's own writes

HEAD = struct.Struct("<QQIIII")


class Event(NamedTuple):
    """What a process did to the disk, as recorder.c says it."""

    what: str
    """``c`` a file was created or opened, ``d`` a folder was made, ``u`` one of both removed, ``r`` renamed, ``w``
    written, ``t`` cut, and ``s`` flushed."""
    number: int
    at: int
    path: str
    content: bytes


@dataclass
class _File:
    """A file that is in use, with what was flushed of it and what was changed since."""

    flushed: bytearray = field(default_factory=bytearray)
    changes: list[Event] = field(default_factory=list)

    def content(self, draw: random.Random | None) -> bytes:
        """What is left of it: of the changes since the last flush nothing, or some of them."""
        content = bytearray(self.flushed)
        for change in self.changes if draw is not None else ():
            if draw is not None and draw.random() < 0.5:
                _change(content, change)
        return bytes(content)

    def flush(self) -> None:
        for change in self.changes:
            _change(self.flushed, change)
        self.changes = []


def _change(content: bytearray, change: Event) -> None:
    size = change.at if change.what == "t" else max(len(content), change.at + len(change.content))
    content[:] = content[:size] + bytes(max(0, size - len(content)))
    content[change.at : change.at + len(change.content)] = change.content


class Recording:
    """The changes below a folder by a program of Python, and what a disk holds of them if the power goes in between."""

    def __init__(self, recorder: Path, folder: Path, program: str, *arguments: str) -> None:
        self.folder = folder
        self._before = {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        self._folders = [str(path) for path in folder.rglob("*") if path.is_dir()]
        self._numbers = {path: os.stat(path).st_ino for path in self._before}
        log = folder.with_name(folder.name + ".log")
        env = {
            **os.environ,
            "LD_PRELOAD": str(recorder),
            "RECORD_FOLDER": str(folder),
            "RECORD_LOG": str(log),
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": os.pathsep.join(sys.path),
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        ran = subprocess.run([sys.executable, "-c", program, *arguments], env=env, capture_output=True, text=True)
        assert not ran.returncode, ran.stderr
        self.events = list(_events(log.read_bytes()))
        log.unlink()

    def image(self, count: int, into: Path, draw: random.Random | None = None) -> Path:
        """The folder after ``count`` events and a loss of power.

        Nothing that was not flushed is left; or, with a ``draw``, every name and about half of the other changes.
        """
        names, flushed = self._replayed(count)
        if draw is not None:
            flushed = names
        into.mkdir()
        for path, file in sorted(flushed.items()):
            place = into / Path(path).relative_to(self.folder)
            if not place.parent.exists():
                continue  # of a folder whose own name was lost
            if file is None:
                place.mkdir()
            elif not path.endswith("-shm"):  # which is no file but memory that processes share
                place.write_bytes(file.content(draw))
        return into

    def _replayed(self, count: int) -> tuple[dict[str, _File | None], dict[str, _File | None]]:
        """Names now and names that were flushed, with their files; None is a folder."""
        names: dict[str, _File | None] = dict.fromkeys(self._folders)
        names |= {path: _File(bytearray(content)) for path, content in self._before.items()}
        numbers = {self._numbers[path]: names[path] for path in self._before}
        flushed = dict(names)
        for event in self.events[:count]:
            path = event.path
            if event.what == "c":
                if names.get(path) is None or numbers.get(event.number) is not names[path]:
                    numbers[event.number] = names[path] = _File()
            elif event.what == "d":
                names[path] = None
            elif event.what == "u":
                names.pop(path, None)
            elif event.what == "r":
                names[event.content.decode()] = names.pop(path)
            elif event.what == "s" and (path == str(self.folder) or names.get(path, event) is None):
                inside = {name for name in flushed.keys() | names.keys() if os.path.dirname(name) == path}
                for name in inside:
                    flushed.pop(name, None)
                flushed |= {name: names[name] for name in inside if name in names}
            elif (file := numbers.get(event.number)) is not None:
                if event.what == "s":
                    file.flush()
                else:
                    file.changes.append(event)
        return names, flushed


def _events(log: bytes) -> Iterator[Event]:
    at = 0
    while at < len(log):
        number, offset, what, path, content, _ = HEAD.unpack_from(log, at)
        at += HEAD.size
        yield Event(chr(what), number, offset, log[at : at + path].decode(), log[at + path : at + path + content])
        at += path + content


@cache
def recorder(folder: Path) -> Path | None:
    """recorder.c as a library in this folder; None where there is no compiler, or another system than Linux."""
    compiler = shutil.which("cc")
    if compiler is None or not sys.platform.startswith("linux"):
        return None
    made, source = folder / "recorder.so", Path(__file__).with_name("recorder.c")
    ran = subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", made, source, "-ldl"], capture_output=True)
    return None if ran.returncode else made
