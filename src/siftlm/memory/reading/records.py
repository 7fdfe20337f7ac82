"""Numbered records, good or bad, and the sources that deliver them."""

from __future__ import annotations

import hashlib
import os
import re
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

import numpy as np

from siftlm.errors import InvalidInput
from siftlm.memory import durability, manifest
from siftlm.memory.reading.fields import FieldMapping, UnusableRecord, usable_vector
from siftlm.types import Document, Vectors


@dataclass(frozen=True)
class Record:
    """One record of an input: a document, or the problem with it."""

    number: int
    """Counted from 0 through the whole input, bad ones included, so that a reader can go on after any."""
    where: str
    """``file:line``, or what serves as that."""
    document: Document | None
    problem: str | None = None
    """Why there is no document."""
    position: int = 0
    """How much of the input was read, in the unit of ``Source.size``."""


class Source(Protocol):
    """An input that can be read from any record on, again and again, in the same order."""

    @property
    def name(self) -> str:
        """The path or the data set, for people."""

    @property
    def size(self) -> int | None:
        """The size in the unit of `Record.position`, where that is known without reading it."""

    @property
    def unit(self) -> str:
        """The unit of size and position: ``bytes``, ``files``, ``records``."""

    def identity(self) -> dict[str, Any]:
        """Whatever distinguishes this input from others, and from itself after a change; JSON can hold it."""

    def read(self, start: int = 0) -> Iterator[Record]:
        """The records from number ``start`` on; memory use does not grow with the input."""


@dataclass(frozen=True)
class RawRecord:
    """One record as it was read, before its text is looked for."""

    where: str
    value: Any = None
    """A mapping of fields, a text or a `Document`."""
    problem: str | None = None
    """Why there is no value."""
    position: int = 0


@dataclass
class SkipCounter:
    """The rows that are still to be skipped; a part counts them down."""

    left: int

    def one(self) -> bool:
        """Whether this row is to be skipped."""
        if not self.left:
            return False
        self.left -= 1
        return True

    def block(self, rows: int) -> bool:
        """Whether this whole block of rows is to be skipped."""
        if self.left < rows:
            return False
        self.left -= rows
        return True


class SourcePart(Protocol):
    """One file, folder, data set or iterable of a source."""

    @property
    def name(self) -> str:
        """The part's name, for people."""

    @property
    def size(self) -> int | None:
        """The size in the unit of `RawRecord.position`."""

    @property
    def unit(self) -> str:
        """The unit of size and position."""

    def identity(self) -> dict[str, Any]:
        """The `Source.identity` of this part, without the names of the fields."""

    def rows(self, skip: SkipCounter) -> Iterator[RawRecord]:
        """All rows in order, without the first ``skip.left``, which are skipped as cheaply as possible."""


class RecordReader:
    """The `Source` of every kind of input: its parts one after the other, as numbered records."""

    def __init__(
        self, parts: Sequence[SourcePart], fields: FieldMapping, beside: VectorFile | None, settings: Mapping[str, Any]
    ):
        self._parts, self._fields, self._beside, self._settings = parts, fields, beside, dict(settings)
        # Sizes can only be added up where all are known and count the same thing; else whole parts are counted.
        self._alike = all(part.size is not None and part.unit == parts[0].unit for part in parts)

    @property
    def name(self) -> str:
        first = self._parts[0].name
        return first if len(self._parts) == 1 else f"{first} and {len(self._parts) - 1} more"

    @property
    def size(self) -> int | None:
        if len(self._parts) == 1:
            return self._parts[0].size
        return sum(part.size or 0 for part in self._parts) if self._alike else len(self._parts)

    @property
    def unit(self) -> str:
        return self._parts[0].unit if self._alike or len(self._parts) == 1 else "inputs"

    def identity(self) -> dict[str, Any]:
        identity = {"parts": [part.identity() for part in self._parts], "settings": self._settings}
        return identity if self._beside is None else {**identity, "vectors": self._beside.identity()}

    def read(self, start: int = 0) -> Iterator[Record]:
        if start < 0:
            raise InvalidInput(f"start={start}: records are counted from 0")
        return self._records(start)

    def _records(self, start: int) -> Iterator[Record]:
        # The first vector of the input sets the width, wherever reading begins.
        width = self._first_width() if start and self._fields.vector is not None else None
        number, skip, unchecked = start, SkipCounter(start), start == 0
        for before, part in self._offsets():
            for row in part.rows(skip):
                if unchecked and isinstance(row.value, Mapping):
                    self._fields.check_present(row.value, row.where)
                    unchecked = False
                record = self._record(number, row, before, width)
                if width is None and record.document is not None and record.document.vector is not None:
                    width = len(record.document.vector)
                yield record
                number += 1
        if self._beside is not None and not skip.left:
            self._beside.check_end(number)

    def _record(self, number: int, row: RawRecord, before: int, width: int | None) -> Record:
        position = before + (row.position if self._alike or len(self._parts) == 1 else 0)
        if row.problem is not None:
            return Record(number, row.where, None, row.problem, position)
        try:
            document = self._fields.document(row.value, width)
            if self._beside is not None:
                document = Document(document.text, document.meta, document.id, self._beside.vector(number))
        except UnusableRecord as unusable:
            return Record(number, row.where, None, str(unusable), position)
        return Record(number, row.where, document, None, position)

    def _offsets(self) -> Iterator[tuple[int, SourcePart]]:
        before = 0
        for part in self._parts:
            yield before, part
            before += (part.size or 0) if self._alike else 1

    def _first_width(self) -> int | None:
        for record in self._records(0):
            if record.document is not None and record.document.vector is not None:
                return len(record.document.vector)
        return None


class ReadAhead:
    """A source that is read only once, after its first records were: these come again, and then the rest."""

    def __init__(self, source: Source) -> None:
        self._source, self._rest = source, source.read()
        self._first: deque[Record] = deque()

    def first(self) -> Iterator[Record]:
        """The records from the front, which are kept to come again."""
        for record in self._rest:
            self._first.append(record)
            yield record

    @property
    def name(self) -> str:
        return self._source.name

    @property
    def size(self) -> int | None:
        return self._source.size

    @property
    def unit(self) -> str:
        return self._source.unit

    def identity(self) -> dict[str, Any]:
        return self._source.identity()

    def read(self, start: int = 0) -> Iterator[Record]:
        """The records from number ``start`` on, each given out for the last time."""
        while self._first:
            record = self._first.popleft()
            if record.number >= start:
                yield record
        yield from (record for record in self._rest if record.number >= start)


# Folders whose files nobody means by the texts of a folder.
_SKIPPED_FOLDERS = frozenset({"__pycache__", "node_modules"})
# A memory's folder holds one of these and a folder of data from the beginning of its creation on.
_MEMORY_FILES = {durability.LOCK_FILE, manifest.MANIFEST_FILE}


@dataclass(frozen=True)
class FolderFile:
    """A file of a folder."""

    path: Path
    name: str
    """The path below the folder, with slashes."""
    bytes: int
    mtime_ns: int


def walk_files(folder: Path, glob: str | None = None) -> Iterator[FolderFile]:
    """The files below a folder, one folder at a time and sorted by name.

    Hidden ones are left out. Links to files are followed, those to folders are not, since they may lead in a circle.
    """
    pattern = None if glob is None else re.compile(_glob_regex(glob))
    for file in _walk_folder(folder, ""):
        if pattern is None or pattern.fullmatch(file.name):
            yield file


def file_identity(path: Path) -> dict[str, Any]:
    """The identity of a file, which changes when the file does."""
    status = path.stat()
    return {"path": str(path.resolve()), "bytes": status.st_size, "mtime_ns": status.st_mtime_ns}


def folder_identity(folder: Path, glob: str | None = None) -> dict[str, Any]:
    """The identity of a folder, which changes when a file is changed, added, removed or renamed."""
    digest, files, size = hashlib.sha256(), 0, 0
    for file in walk_files(folder, glob):
        line = f"{file.name}\0{file.bytes}\0{file.mtime_ns}\n"
        digest.update(line.encode("utf-8", "surrogateescape"))
        files, size = files + 1, size + file.bytes
    return {"path": str(folder.resolve()), "files": files, "bytes": size, "listing": digest.hexdigest()}


def printable_path(path: str | os.PathLike[str]) -> str:
    """A path that can be printed and stored, whatever bytes are in its name."""
    return os.fspath(path).encode("utf-8", "backslashreplace").decode("utf-8")


def _walk_folder(folder: Path, prefix: str) -> Iterator[FolderFile]:
    try:
        with os.scandir(folder) as listing:
            entries = sorted(listing, key=lambda entry: entry.name)
    except OSError as error:
        raise InvalidInput(f"{printable_path(folder)} cannot be listed: {error.strerror or error}") from error
    for entry in entries:
        if entry.name.startswith(".") or entry.name in _SKIPPED_FOLDERS:
            continue
        if entry.is_dir(follow_symlinks=False):
            if _is_memory(entry.path):
                continue  # such as the one that this folder is being read into
            yield from _walk_folder(Path(entry.path), f"{prefix}{entry.name}/")
        elif entry.is_file():
            status = entry.stat()
            yield FolderFile(Path(entry.path), prefix + entry.name, status.st_size, status.st_mtime_ns)


def _is_memory(folder: str) -> bool:
    """Whether this is the folder of a memory."""
    names = set(os.listdir(folder))
    return bool(names & _MEMORY_FILES) and any(manifest.GENERATION_NAME.fullmatch(name) for name in names)


def _glob_regex(glob: str) -> str:
    r"""A glob as a regular expression: ``*`` stays within a name, ``**/`` is any folders, and a pattern without a
    slash is for the file's own name.

    >>> [bool(re.fullmatch(_glob_regex("*.md"), name)) for name in ("a.md", "b/c/a.md", "a.md.txt")]
    [True, True, False]
    >>> [bool(re.fullmatch(_glob_regex("src/**/*.py"), name)) for name in ("src/a.py", "src/b/c/a.py", "a.py")]
    [True, True, False]
    """
    pattern = glob if "/" in glob else f"**/{glob}"
    pieces = re.split(r"(\*\*/|\*\*|\*|\?|\[!?\]?[^\]]*\])", str(PurePosixPath(pattern)))
    known = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    return "(?s:" + "".join(known.get(piece) or _regex_literal(piece) for piece in pieces) + ")"


def _regex_literal(piece: str) -> str:
    if len(piece) > 2 and piece[0] == "[" and piece[-1] == "]":
        negated = piece[1] == "!"
        inside = piece[2 if negated else 1 : -1].replace("\\", "\\\\").replace("[", "\\[").replace("^", "\\^")
        return f"[{'^' if negated else ''}{inside}]"
    return re.escape(piece)


class VectorFile:
    """An array of (n, d) numbers; a file of it is mapped, not loaded."""

    def __init__(self, vectors: str | os.PathLike[str] | Vectors, folder: Path | None) -> None:
        self._path = None if isinstance(vectors, np.ndarray) else _find_vector_file(Path(vectors), folder)
        self.name = "the array of vectors" if self._path is None else str(self._path)
        self._array: Vectors = vectors if isinstance(vectors, np.ndarray) else self._map()
        if self._array.ndim != 2 or self._array.dtype.kind not in "fiu":
            held = f"shape {self._array.shape} of {self._array.dtype}"
            raise InvalidInput(f"{self.name} has {held}; one row of numbers for each record is needed")

    def identity(self) -> dict[str, Any]:
        """Whatever distinguishes this array from others."""
        shape = list(self._array.shape)
        if self._path is None:
            return {"path": None, "shape": shape}
        status = self._path.stat()
        return {"path": str(self._path.resolve()), "bytes": status.st_size, "mtime_ns": status.st_mtime_ns}

    def vector(self, number: int) -> Vectors:
        """The vector of record ``number``; a copy, since the file may be unmapped before the record is used."""
        if number >= len(self._array):
            raise InvalidInput(f"{self.name} has {len(self._array)} rows, the corpus has more records than that")
        return usable_vector(np.array(self._array[number]))

    def check_end(self, records: int) -> None:
        """Raise where vectors are left over: then vectors and records do not belong together."""
        if records < len(self._array):
            raise InvalidInput(f"{self.name} has {len(self._array)} rows, the corpus only {records} records")

    def _map(self) -> Vectors:
        try:
            array: Vectors = np.load(str(self._path), mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise InvalidInput(f"{self._path} cannot be read as a .npy array: {error}") from error
        return array


def _find_vector_file(path: Path, folder: Path | None) -> Path:
    for place in (path, *([folder / path] if folder is not None else [])):
        if place.is_file():
            return place
    raise InvalidInput(f"there is no file {path} with vectors")
