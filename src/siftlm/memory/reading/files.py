"""Files and folders of a corpus: their listing, and the identity by which they are known again."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from siftlm.errors import InvalidInput
from siftlm.memory import durability, manifest

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
