"""Files that are one text each: prose, Markdown, web pages, source code."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from siftlm.memory.reading.listing import Listed, file_identity, folder_identity, shown, walk
from siftlm.memory.reading.parts import Row, Skip
from siftlm.memory.reading.stream import Broken, ByteStream
from siftlm.memory.reading.webpage import page
from siftlm.types import Document

PACKED = frozenset({".gz", ".zst"})
_PAGES = frozenset({".html", ".htm", ".xhtml"})
LANGUAGES = {
    ".bash": "shell", ".c": "c", ".cc": "c++", ".clj": "clojure", ".cpp": "c++", ".cs": "c#", ".css": "css",
    ".cu": "cuda", ".dart": "dart", ".el": "lisp", ".erl": "erlang", ".ex": "elixir", ".f90": "fortran",
    ".go": "go", ".h": "c", ".hpp": "c++", ".hs": "haskell", ".htm": "html", ".html": "html", ".java": "java",
    ".jl": "julia", ".js": "javascript", ".jsx": "javascript", ".kt": "kotlin", ".lisp": "lisp", ".lua": "lua",
    ".m": "objective-c", ".markdown": "markdown", ".md": "markdown", ".ml": "ocaml", ".php": "php", ".pl": "perl",
    ".proto": "protobuf", ".py": "python", ".pyi": "python", ".r": "r", ".rb": "ruby", ".rs": "rust",
    ".rst": "restructuredtext", ".scala": "scala", ".scm": "scheme", ".sh": "shell", ".sql": "sql",
    ".swift": "swift", ".tex": "latex", ".toml": "toml", ".ts": "typescript", ".tsx": "typescript", ".txt": "text",
    ".xhtml": "html", ".xml": "xml", ".yaml": "yaml", ".yml": "yaml", ".zig": "zig",
}  # fmt: skip


class TextFile:
    """A file that is one text."""

    unit = "bytes"

    def __init__(self, path: Path, largest: int) -> None:
        self._path, self._largest = path, largest
        self.name = shown(path)
        self.size = path.stat().st_size

    def identity(self) -> dict[str, Any]:
        return {"kind": "text", **file_identity(self._path)}

    def rows(self, skip: Skip) -> Iterator[Row]:
        if not skip.one():
            yield text_row(self._path, self._path.name, self._largest, self.size)


class TextFolder:
    """A folder with a text in each file."""

    unit = "files"

    def __init__(self, path: Path, glob: str | None, largest: int) -> None:
        self._path, self._glob, self._largest = path, glob, largest
        self.name = shown(path)
        self.size = sum(1 for _ in self._files())

    def identity(self) -> dict[str, Any]:
        return {"kind": "texts", **folder_identity(self._path, self._glob)}

    def rows(self, skip: Skip) -> Iterator[Row]:
        for number, file in enumerate(self._files(), 1):
            if not skip.one():
                yield text_row(file.path, file.name, self._largest, number)

    def _files(self) -> Iterator[Listed]:
        """Those with anything in them: an empty one, such as many an ``__init__.py``, is as little a fault as a blank
        line in a file of lines."""
        return (file for file in walk(self._path, self._glob) if file.bytes)


def suffix_of(name: str) -> str:
    """The last suffix in small letters, or the one before where that only says how the file is packed.

    >>> suffix_of("a.tar"), suffix_of("b/corpus.JSONL.zst"), suffix_of("Makefile")
    ('.tar', '.jsonl', '')
    """
    path = PurePosixPath(name)
    suffix = path.suffix.lower()
    return PurePosixPath(path.stem).suffix.lower() if suffix in PACKED else suffix


def text_row(path: Path, name: str, largest: int, position: int) -> Row:
    """A file as one text; ``name`` is what its metadata call it."""
    where = shown(path)
    try:
        text = _content(path, largest)
    except Broken as broken:
        return Row(where, problem=f"{shown(path.name)} {broken}", position=position)
    suffix = suffix_of(name)
    meta = {"path": name, "suffix": suffix}
    if suffix in LANGUAGES:
        meta["language"] = LANGUAGES[suffix]
    if suffix in _PAGES:
        try:
            read = page(text)
        except AssertionError as error:  # what html.parser raises at some malformed declarations
            return Row(where, problem=f"{shown(path.name)} cannot be read as HTML: {error}", position=position)
        text = read.text
        if read.title is not None:
            meta["title"] = read.title
    return Row(where, Document(text, meta), None, position)


def _content(path: Path, largest: int) -> str:
    pieces, size = [], 0
    for piece in ByteStream(path).pieces():
        size += len(piece)
        if size > largest:
            raise Broken(f"is larger than {largest:,} bytes, the largest single text that is read (largest=)")
        if b"\0" in piece:
            raise Broken("is no text: it holds zero bytes")
        pieces.append(piece)
    try:
        # As universal newlines do: a text is the same whichever system wrote it.
        return b"".join(pieces).decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        raise Broken(f"is not UTF-8 at byte {error.start + 1}") from error
