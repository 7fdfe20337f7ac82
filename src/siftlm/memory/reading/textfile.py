"""Files that are one text each: prose, Markdown, source code, and web pages."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path, PurePosixPath
from typing import Any

from siftlm.memory.reading.files import FolderFile, file_identity, folder_identity, printable_path, walk_files
from siftlm.memory.reading.lines import BrokenStream, ByteStream
from siftlm.memory.reading.records import RawBatch, SkipCounter, unreadable
from siftlm.types import Document

_DROPPED_TAGS = frozenset({"script", "style", "noscript", "template", "iframe", "object", "svg", "canvas", "math"})
_BOILERPLATE_TAGS = frozenset({"nav", "footer", "aside", "button", "select", "dialog", "menu"})
_BOILERPLATE_ROLES = frozenset({"navigation", "banner", "contentinfo", "search", "complementary"})
# Elements that may be left open would take the rest of the page with them if they were dropped for an attribute.
_OPTIONAL_END_TAGS = frozenset("p li dt dd td th tr option thead tbody tfoot body html".split())  # noqa: SIM905
_VOID_TAGS = frozenset("area base br col embed hr img input link meta source track wbr".split())  # noqa: SIM905
_PARAGRAPH_TAGS = frozenset(
    "p h1 h2 h3 h4 h5 h6 blockquote pre ul ol dl table section article header main figure form hr fieldset".split()  # noqa: SIM905
)
_LINE_TAGS = frozenset("div li dt dd tr br figcaption address caption option legend summary details".split())  # noqa: SIM905


@dataclass(frozen=True)
class WebPage:
    """The part of a page that a person would read."""

    text: str
    title: str | None


def extract_page(html: str) -> WebPage:
    """Headings and paragraphs with blank lines between them, lists and rows with a line each.

    >>> extract_page("<title>Tea</title><nav>Home</nav><h1>Tea &amp; milk</h1><p>Pour<br>it.<ul><li>hot<li>cold</ul>")
    WebPage(text='Tea & milk\\n\\nPour\\nit.\\n\\n- hot\\n- cold', title='Tea')
    """
    read = _parse_html(html, _DROPPED_TAGS | _BOILERPLATE_TAGS, by_attribute=True)
    # A page whose navigation is never closed, or that is nothing else, is better kept whole.
    return read if read.text else _parse_html(html, _DROPPED_TAGS, by_attribute=False)


def _parse_html(html: str, dropped: frozenset[str], *, by_attribute: bool) -> WebPage:
    parser = _TextExtractor(dropped, by_attribute)
    parser.feed(html)
    parser.close()
    return parser.page()


class _TextExtractor(HTMLParser):
    """Collects pieces of text, and the gaps between them that the tags call for."""

    def __init__(self, dropped: frozenset[str], by_attribute: bool) -> None:
        super().__init__(convert_charrefs=True)
        self._dropped, self._by_attribute = dropped, by_attribute
        self._pieces: list[str] = []
        self._title: list[str] = []
        self._gap = ""
        self._inside_title = False
        self._preformatted = 0
        # The element that is being dropped, and how many of its kind are open within it.
        self._out: str | None = None
        self._depth = 0

    def page(self) -> WebPage:
        """The page that was collected."""
        title = " ".join("".join(self._title).split())
        return WebPage("".join(self._pieces).strip(), title or None)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if self._out is not None:
            self._depth += tag == self._out
        elif tag in self._dropped or (self._by_attribute and _is_hidden(tag, dict(attrs))):
            if tag not in _VOID_TAGS:
                self._out, self._depth = tag, 1
        elif tag == "title":
            self._inside_title = True
        else:
            self._preformatted += tag == "pre"
            self._open_gap(tag)
            if tag == "li":
                self._add("- ")
            elif tag in {"td", "th"} and self._pieces and not self._gap:
                self._gap = "\t"

    def handle_endtag(self, tag: str) -> None:
        if self._out is not None:
            self._depth -= tag == self._out
            if not self._depth:
                self._out = None
        elif tag == "title":
            self._inside_title = False
        else:
            self._preformatted -= tag == "pre" and self._preformatted > 0
            self._open_gap(tag)

    def handle_data(self, data: str) -> None:
        if self._inside_title:
            self._title.append(data)
        elif self._out is None:
            self._add(data if self._preformatted else re.sub(r"\s+", " ", data))

    def _open_gap(self, tag: str) -> None:
        if tag in _PARAGRAPH_TAGS:
            self._gap = "\n\n"
        elif tag in _LINE_TAGS and self._gap != "\n\n":
            self._gap = "\n"

    def _add(self, text: str) -> None:
        if not self._preformatted:
            at_start = self._gap or not self._pieces or self._pieces[-1].endswith((" ", "\n", "\t"))
            text = text.lstrip() if at_start else text
        if not text:
            return
        if self._gap and self._pieces:
            self._pieces[-1] = self._pieces[-1].rstrip(" ")
            self._pieces.append(self._gap)
        self._gap = ""
        self._pieces.append(text)


def _is_hidden(tag: str, attributes: dict[str, str | None]) -> bool:
    if tag in _OPTIONAL_END_TAGS or tag in _VOID_TAGS:
        return False
    role = (attributes.get("role") or "").lower()
    return role in _BOILERPLATE_ROLES or "hidden" in attributes or attributes.get("aria-hidden") == "true"


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

    def batches(self, skip: SkipCounter) -> Iterator[RawBatch]:
        if not skip.some(1):
            yield text_row(self._path, self._path.name, self._largest, self.size)


class TextFolder:
    """A folder with a text in each file."""

    unit = "files"

    def __init__(self, path: Path, glob: str | None, largest: int) -> None:
        self._path, self._glob, self._largest = path, glob, largest
        self.name = printable_path(path)
        sizes = [file.bytes for file in walk_files(path, glob)]
        self.empty = sizes.count(0)
        self.size = len(sizes) - self.empty

    def identity(self) -> dict[str, Any]:
        return {"kind": "texts", **folder_identity(self._path, self._glob)}

    def batches(self, skip: SkipCounter) -> Iterator[RawBatch]:
        for number, file in enumerate(self._files(), 1):
            if not skip.some(1):
                yield text_row(file.path, file.name, self._largest, number)

    def _files(self) -> Iterator[FolderFile]:
        """The files that are not empty: an empty one, such as many an ``__init__.py``, is no more a fault than a blank
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


def text_row(path: Path, name: str, largest: int, position: int) -> RawBatch:
    """A file as one text; ``name`` is its path in the metadata."""
    where = printable_path(path)
    try:
        text = _file_text(path, largest)
    except BrokenStream as broken:
        return unreadable(where, f"{printable_path(path.name)} {broken}", position)
    suffix = suffix_of(name)
    meta = {"path": name, "suffix": suffix}
    if suffix in LANGUAGE_BY_SUFFIX:
        meta["language"] = LANGUAGE_BY_SUFFIX[suffix]
    if suffix in _HTML_SUFFIXES:
        try:
            read = extract_page(text)
        except AssertionError as error:  # what html.parser raises at some malformed declarations
            return unreadable(where, f"{printable_path(path.name)} cannot be read as HTML: {error}", position)
        text = read.text
        if read.title is not None:
            meta["title"] = read.title
    return RawBatch([Document(text, meta)], lambda _: where, position)


def _file_text(path: Path, largest: int) -> str:
    content = bytearray()
    for piece in ByteStream(path).pieces():
        content += piece
        if len(content) > largest:
            raise BrokenStream(f"is larger than {largest:,} bytes, the largest single text that is read (largest=)")
        if b"\0" in piece:
            raise BrokenStream("is no text: it holds zero bytes")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BrokenStream(f"is not UTF-8 at byte {error.start + 1}") from error
    del content
    # As universal newlines do: a text is the same whichever system wrote it.
    return text.replace("\r\n", "\n")
