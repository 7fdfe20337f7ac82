"""Files that are one text each: prose, Markdown, web pages, source code."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from siftlm.memory.reading.listing import FolderFile, file_identity, folder_identity, printable_path, walk_files
from siftlm.memory.reading.parts import RawRecord, SkipCounter
from siftlm.memory.reading.stream import BrokenStream, ByteStream
from siftlm.memory.reading.webpage import extract_page
from siftlm.types import Document

COMPRESSED_SUFFIXES = frozenset({".gz", ".zst"})
_HTML_SUFFIXES = frozenset({".html", ".htm", ".xhtml"})
LANGUAGE_BY_SUFFIX = {
    ".bash": "shell",
    ".c": "c",
    ".cc": "c++",
    ".clj": "clojure",
    ".cpp": "c++",
    ".cs": "c#",
    ".css": "css",
    ".cu": "cuda",
    ".dart": "dart",
    ".el": "lisp",
    ".erl": "erlang",
    ".ex": "elixir",
    ".f90": "fortran",
    ".go": "go",
    ".h": "c",
    ".hpp": "c++",
    ".hs": "haskell",
    ".htm": "html",
    ".html": "html",
    ".java": "java",
    ".jl": "julia",
    ".js": "javascript",
    ".jsx": "javascript",
    ".kt": "kotlin",
    ".lisp": "lisp",
    ".lua": "lua",
    ".m": "objective-c",
    ".markdown": "markdown",
    ".md": "markdown",
    ".ml": "ocaml",
    ".php": "php",
    ".pl": "perl",
    ".proto": "protobuf",
    ".py": "python",
    ".pyi": "python",
    ".r": "r",
    ".rb": "ruby",
    ".rs": "rust",
    ".rst": "restructuredtext",
    ".scala": "scala",
    ".scm": "scheme",
    ".sh": "shell",
    ".sql": "sql",
    ".swift": "swift",
    ".tex": "latex",
    ".toml": "toml",
    ".ts": "typescript",
    ".tsx": "typescript",
    ".txt": "text",
    ".xhtml": "html",
    ".xml": "xml",
    ".yaml": "yaml",
    ".yml": "yaml",
    ".zig": "zig",
}


class TextFile:
    """A file that is one text."""

    unit = "bytes"

    def __init__(self, path: Path, largest: int) -> None:
        self._path, self._largest = path, largest
        self.name = printable_path(path)
        self.size = path.stat().st_size

    def identity(self) -> dict[str, Any]:
        return {"kind": "text", **file_identity(self._path)}

    def rows(self, skip: SkipCounter) -> Iterator[RawRecord]:
        if not skip.one():
            yield text_row(self._path, self._path.name, self._largest, self.size)


class TextFolder:
    """A folder with a text in each file."""

    unit = "files"

    def __init__(self, path: Path, glob: str | None, largest: int) -> None:
        self._path, self._glob, self._largest = path, glob, largest
        self.name = printable_path(path)
        self.size = sum(1 for _ in self._files())

    def identity(self) -> dict[str, Any]:
        return {"kind": "texts", **folder_identity(self._path, self._glob)}

    def rows(self, skip: SkipCounter) -> Iterator[RawRecord]:
        for number, file in enumerate(self._files(), 1):
            if not skip.one():
                yield text_row(file.path, file.name, self._largest, number)

    def _files(self) -> Iterator[FolderFile]:
        """Those with anything in them: an empty one, such as many an ``__init__.py``, is as little a fault as a blank
        line in a file of lines."""
        return (file for file in walk_files(self._path, self._glob) if file.bytes)


def suffix_of(name: str) -> str:
    """The last suffix in small letters, or the one before where that only says how the file is packed.

    >>> suffix_of("a.tar"), suffix_of("b/corpus.JSONL.zst"), suffix_of("Makefile")
    ('.tar', '.jsonl', '')
    """
    path = PurePosixPath(name)
    suffix = path.suffix.lower()
    return PurePosixPath(path.stem).suffix.lower() if suffix in COMPRESSED_SUFFIXES else suffix


def text_row(path: Path, name: str, largest: int, position: int) -> RawRecord:
    """A file as one text; ``name`` is what its metadata call it."""
    where = printable_path(path)
    try:
        text = _file_text(path, largest)
    except BrokenStream as broken:
        return RawRecord(where, problem=f"{printable_path(path.name)} {broken}", position=position)
    suffix = suffix_of(name)
    meta = {"path": name, "suffix": suffix}
    if suffix in LANGUAGE_BY_SUFFIX:
        meta["language"] = LANGUAGE_BY_SUFFIX[suffix]
    if suffix in _HTML_SUFFIXES:
        try:
            read = extract_page(text)
        except AssertionError as error:  # what html.parser raises at some malformed declarations
            return RawRecord(
                where, problem=f"{printable_path(path.name)} cannot be read as HTML: {error}", position=position
            )
        text = read.text
        if read.title is not None:
            meta["title"] = read.title
    return RawRecord(where, Document(text, meta), None, position)


def _file_text(path: Path, largest: int) -> str:
    pieces, size = [], 0
    for piece in ByteStream(path).pieces():
        size += len(piece)
        if size > largest:
            raise BrokenStream(f"is larger than {largest:,} bytes, the largest single text that is read (largest=)")
        if b"\0" in piece:
            raise BrokenStream("is no text: it holds zero bytes")
        pieces.append(piece)
    try:
        # As universal newlines do: a text is the same whichever system wrote it.
        return b"".join(pieces).decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        raise BrokenStream(f"is not UTF-8 at byte {error.start + 1}") from error
