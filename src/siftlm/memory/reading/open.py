"""Opening a corpus: whatever holds texts becomes one `Source`."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from siftlm.errors import Conflict, InvalidInput, setting
from siftlm.memory.reading import datasets
from siftlm.memory.reading.datasets import IterablePart
from siftlm.memory.reading.fields import FieldMapping
from siftlm.memory.reading.files import FolderFile, printable_path, walk_files
from siftlm.memory.reading.lines import DelimitedFile, JsonLinesFile, ShardedFiles
from siftlm.memory.reading.parquet import Parquet
from siftlm.memory.reading.records import RecordReader, Source, SourcePart, VectorFile
from siftlm.memory.reading.textfile import LANGUAGE_BY_SUFFIX, TextFile, TextFolder, suffix_of
from siftlm.types import Document, Vectors
from siftlm.validation import choice

FORMATS = ("csv", "jsonl", "parquet", "text", "tsv")
# Among other files of a folder, those of the first kind are data for certain; the others may be a project's own.
_SHARD_SUFFIXES = {".jsonl": "jsonl", ".ndjson": "jsonl", ".parquet": "parquet"}
_DATA_SUFFIXES = {**_SHARD_SUFFIXES, ".json": "jsonl", ".csv": "csv", ".tsv": "tsv"}
# Files beside the shards of a data set that are no part of it.
_COMPANION_FILE_STEMS = (
    "readme",
    "license",
    "licence",
    "dataset_info",
    "dataset_infos",
    "changelog",
    "citation",
    "copying",
    "notice",
)


def open_source(
    corpus: Any,
    *,
    text: str = "text",
    meta: str | Sequence[str] | None = None,
    id: str | None = None,  # noqa: A002 — the word of those who call it
    vector: str | os.PathLike[str] | Vectors | None = None,
    format: str | None = None,  # noqa: A002
    split: str = "train",
    glob: str | None = None,
    largest: int = 50_000_000,
) -> Source:
    """Whatever holds texts, as a `Source` of numbered records.

    >>> source = open_source([{"text": "Tea", "year": 1900}, {"text": ""}])
    >>> [record.document.meta if record.document else record.problem for record in source.read()]
    [{'year': 1900}, "'text' is empty"]

    Args:
        corpus: one of

            * a file of JSON lines, CSV or TSV (plain, ``.gz`` or ``.zst``) or Parquet: a record a line or row;
            * any other file: one text. HTML becomes plain text;
            * a folder of such data files: all their records, in the order of the names;
            * any other folder: one text a file, with its ``path``, ``suffix`` and ``language`` as metadata;
            * ``"hf:name"`` or ``"hf:name:config"``, a folder written by ``save_to_disk``, or a data set of the library
              ``datasets`` itself;
            * a list of these: it is one when its first entry is a path, or text that names an existing file;
            * any other iterable of texts, of mappings with fields, or of `Document`.
        text: the field that holds the text; ``"a.b"`` is ``record["a"]["b"]``.
        meta: the fields to keep as metadata. ``None`` keeps all others; where there is an object called ``meta``, as
            in the Pile, that object and the plain values around it.
        id: the field that holds the caller's name for a record, a string or a whole number.
        vector: the field or column that holds the embedding; or a ``.npy`` file or an array with a row for each record.
        format: how to read files whose name does not tell: ``csv``, ``jsonl``, ``parquet``, ``text`` or ``tsv``.
        split: of a Hugging Face data set.
        glob: of a folder, only files like this: ``"*.md"`` anywhere in it, or ``"docs/**/*.md"``.
        largest: bytes that a file which is one text may have.
    """
    keep = [meta] if isinstance(meta, str) else None if meta is None else list(meta)
    apart = _is_array(vector)
    fields = FieldMapping(text, id, None if apart or vector is None else str(vector), keep)
    parts = open_parts(corpus, fields, format=format, split=split, glob=glob, largest=largest)
    beside = VectorFile(vector, _folder_of(corpus)) if apart and vector is not None else None
    settings = {"text": text, "meta": keep, "id": id, "vector": fields.vector, "format": format, "largest": largest}
    return RecordReader(parts, fields, beside, settings)


def open_parts(
    corpus: Any,
    fields: FieldMapping,
    *,
    format: str | None = None,  # noqa: A002
    split: str = "train",
    glob: str | None = None,
    largest: int = 50_000_000,
) -> list[SourcePart]:
    """The parts of a corpus, whose rows are still as they were written; the arguments are those of `open_source`."""
    if format is not None:
        choice("format", format, FORMATS)
    return _SourceOpener(fields, format, split, glob, largest).parts(corpus)


class _SourceOpener:
    """The settings of `open_source`, and the parts that a corpus consists of with them."""

    def __init__(self, fields: FieldMapping, format_: str | None, split: str, glob: str | None, largest: int) -> None:
        self._fields, self._format, self._split, self._glob, self._largest = fields, format_, split, glob, largest

    def parts(self, corpus: Any) -> list[SourcePart]:
        """The parts of a corpus, at least one."""
        if _is_named(corpus) or datasets.is_dataset(corpus):
            return [self._part(corpus)]
        if isinstance(corpus, (bytes, bytearray, Mapping, Document)) or not isinstance(corpus, Iterable):
            kind = type(corpus).__name__
            raise InvalidInput(
                f"a corpus is a path, a data set or an iterable of texts, not one {kind}; put it in a list"
            )
        if isinstance(corpus, (list, tuple)) and corpus and _is_input(corpus[0]):
            return [self._part(each) for each in corpus]
        if self._format is not None or self._glob is not None:
            raise Conflict(f"{setting('format')} and {setting('glob')} are for files; this corpus is an iterable")
        return [IterablePart(corpus)]

    def _part(self, corpus: Any) -> SourcePart:
        if datasets.is_dataset(corpus):
            return datasets.from_object(corpus, self._split, self._fields)
        if not _is_named(corpus):
            raise InvalidInput(f"a list of inputs holds {corpus!r:.80}, which is neither a path nor a data set")
        if isinstance(corpus, str) and corpus.startswith("hf:"):
            return datasets.from_hub(corpus, self._split, self._fields)
        path = Path(corpus)
        try:
            if not os.fspath(corpus):
                raise InvalidInput("the name of the corpus is empty; the current folder is '.'")
            if path.is_dir():
                return self._folder(path)
            if path.is_file():
                with open(path, "rb"):
                    return self._file(path, self._format or _DATA_SUFFIXES.get(suffix_of(path.name), "text"))
        except (OSError, ValueError) as error:
            if isinstance(error, InvalidInput):
                raise
            raise InvalidInput(f"{printable_path(path)!r:.200} cannot be opened: {error}") from error
        raise InvalidInput(f"there is no file or folder {printable_path(path)!r:.200}")

    def _file(self, path: Path, form: str) -> SourcePart:
        if self._glob is not None:
            raise Conflict(f"{setting('glob', self._glob)} chooses files of a folder; {printable_path(path)} is a file")
        return self._read_as(path, form)

    def _read_as(self, path: Path, form: str) -> SourcePart:
        if form == "jsonl":
            return JsonLinesFile(path)
        if form == "parquet":
            return Parquet(path, self._fields)
        if form == "text":
            return TextFile(path, self._largest)
        return DelimitedFile(path, "," if form == "csv" else "\t", self._fields)

    def _folder(self, path: Path) -> SourcePart:
        if self._format is None and self._glob is None and datasets.is_saved(path):
            return datasets.from_disk(path, self._split, self._fields)
        form, known = self._format, _DATA_SUFFIXES
        if form is None:
            seen = _FirstFiles.of(walk_files(path, self._glob))
            if not seen.files:
                raise self._empty(path)
            if seen.shard is not None and seen.text is not None:
                raise InvalidInput(
                    f"{printable_path(path)} holds data ({seen.shard}) and texts ({seen.text}); say which with "
                    f"{setting('glob', '*.jsonl')} or the like, or {setting('format', 'text')} to take every "
                    f"file as a text"
                )
            if seen.text is None and seen.data is not None:
                known = _SHARD_SUFFIXES if seen.shard is not None else _DATA_SUFFIXES
            else:
                form = "text"
        if form == "text":
            return TextFolder(path, self._glob, self._largest)
        files = [
            self._read_as(file.path, form or known[suffix_of(file.name)])
            for file in walk_files(path, self._glob)
            if form is not None or (suffix_of(file.name) in known and not _is_companion_file(file))
        ]
        if not files:
            raise InvalidInput(
                f"{printable_path(path)} holds no files to read" + (f" like {self._glob!r}" if self._glob else "")
            )
        return ShardedFiles(path, self._glob, files)

    def _empty(self, path: Path) -> InvalidInput:
        like = "" if self._glob is None else f" like {self._glob!r}"
        return InvalidInput(f"{printable_path(path)} holds no files{like} to read")


class _FirstFiles:
    """The first file of each kind that a folder holds, which decides what the folder is."""

    def __init__(self) -> None:
        self.files = 0
        self.shard: str | None = None
        self.data: str | None = None
        self.text: str | None = None

    @classmethod
    def of(cls, listing: Iterable[FolderFile]) -> _FirstFiles:
        """The first files of a listing."""
        seen = cls()
        for file in listing:
            seen.files += 1
            suffix = suffix_of(file.name)
            if _is_companion_file(file):
                continue
            if suffix in _SHARD_SUFFIXES:
                seen.shard = seen.shard or file.name
            if suffix in _DATA_SUFFIXES:
                seen.data = seen.data or file.name
            elif suffix in LANGUAGE_BY_SUFFIX:
                seen.text = seen.text or file.name
        return seen


def _is_companion_file(file: FolderFile) -> bool:
    return file.path.name.lower().split(".")[0] in _COMPANION_FILE_STEMS


def _is_named(corpus: Any) -> bool:
    return isinstance(corpus, (str, os.PathLike))


def _is_input(first: Any) -> bool:
    if isinstance(first, os.PathLike) or datasets.is_dataset(first):
        return True
    if not isinstance(first, str) or len(first) > 4096 or "\n" in first or "\0" in first:
        return False
    return first.startswith("hf:") or os.path.exists(first) or (suffix_of(first) in _DATA_SUFFIXES and " " not in first)


def _is_array(vector: Any) -> bool:
    return isinstance(vector, (np.ndarray, os.PathLike)) or (isinstance(vector, str) and vector.endswith(".npy"))


def _folder_of(corpus: Any) -> Path | None:
    if not _is_named(corpus) or str(corpus).startswith("hf:"):
        return None
    path = Path(corpus)
    return path if path.is_dir() else path.parent
