"""Hugging Face data sets, and any other iterable."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from siftlm.errors import InvalidInput, UnknownName
from siftlm.extras import load
from siftlm.memory.reading.columns import Table
from siftlm.memory.reading.fields import FieldMapping
from siftlm.memory.reading.files import folder_identity, printable_path
from siftlm.memory.reading.records import RawBatch, SkipCounter
from siftlm.types import Document

# Few rows, since each may be a long text.
_DATASET_BATCH_ROWS = 64
_ITERABLE_BATCH_ITEMS = 64


class LoadedDataset:
    """A ``datasets.Dataset``, whose rows can be read in any order."""

    unit = "records"

    def __init__(self, dataset: Any, name: str, fields: FieldMapping, identity: Mapping[str, Any]) -> None:
        fields.check_columns(dataset.column_names, name)
        self._dataset, self.name, self._identity = dataset.with_format(None), name, dict(identity)
        self.size: int | None = dataset.num_rows

    def identity(self) -> dict[str, Any]:
        fingerprint = getattr(self._dataset, "_fingerprint", None)
        return {"kind": "dataset", **self._identity, "rows": self.size, "fingerprint": fingerprint}

    def batches(self, skip: SkipCounter) -> Iterator[RawBatch]:
        length = self.size or 0
        for begin in range(0, length, _DATASET_BATCH_ROWS):
            end = min(begin + _DATASET_BATCH_ROWS, length)
            if not skip.block(end - begin):
                yield _numbered(self._dataset[begin:end], f"{self.name}: row ", begin, end).without(skip)


class StreamedDataset:
    """A ``datasets.IterableDataset``, or a data set of the hub: read from the front."""

    unit = "records"

    def __init__(self, dataset: Any, name: str, identity: Mapping[str, Any]) -> None:
        self._dataset, self.name, self._identity = dataset, name, dict(identity)
        split = (dataset.info.splits or {}).get(str(dataset.split))
        self.size: int | None = getattr(split, "num_examples", None) or None

    def identity(self) -> dict[str, Any]:
        version = str(self._dataset.info.version) if self._dataset.info.version is not None else None
        return {"kind": "stream", **self._identity, "version": version}

    def batches(self, skip: SkipCounter) -> Iterator[RawBatch]:
        first, skip.left = skip.left, 0
        rows = iter(self._dataset.skip(first) if first else self._dataset)
        at = first
        while True:
            some: list[Any] = []
            try:
                some.extend(islice(rows, _DATASET_BATCH_ROWS - at % _DATASET_BATCH_ROWS))
            except Exception as error:  # any error of the library, the hub or the network
                raise InvalidInput(f"{self.name} cannot be read after row {at + len(some)}: {error}") from error
            if not some:
                return
            yield _numbered(some, f"{self.name}: row ", at, at + len(some))
            at += len(some)


def from_hub(corpus: str, split: str, fields: FieldMapping) -> LoadedDataset | StreamedDataset:
    """``hf:name`` or ``hf:name:config``, as a stream: nothing is downloaded ahead of being read."""
    datasets = load("datasets", "datasets")
    name, _, config = corpus.removeprefix("hf:").partition(":")
    try:
        dataset = datasets.load_dataset(name, config or None, split=split, streaming=True)
    except Exception as error:  # any error of the library, the hub or the network
        raise InvalidInput(f"{corpus} with split={split!r} cannot be opened: {error}") from error
    return from_object(dataset, split, fields, corpus, {"name": name, "config": config or None, "split": split})


def is_saved(folder: Path) -> bool:
    """Whether this folder was written by ``save_to_disk``."""
    return (folder / "dataset_dict.json").is_file() or (
        (folder / "state.json").is_file() and (folder / "dataset_info.json").is_file()
    )


def from_disk(folder: Path, split: str, fields: FieldMapping) -> LoadedDataset | StreamedDataset:
    """A folder written by ``save_to_disk``."""
    datasets = load("datasets", "datasets")
    try:
        dataset = datasets.load_from_disk(str(folder))
    except Exception as error:  # any error of the library about a damaged folder
        raise InvalidInput(f"{printable_path(folder)} cannot be opened as a saved data set: {error}") from error
    return from_object(dataset, split, fields, printable_path(folder), folder_identity(folder))


def is_dataset(corpus: Any) -> bool:
    """Whether this is an object of the library, which is not imported for that."""
    return type(corpus).__module__.split(".")[0] == "datasets"


def from_object(
    dataset: Any, split: str, fields: FieldMapping, name: str | None = None, identity: Mapping[str, Any] | None = None
) -> LoadedDataset | StreamedDataset:
    """Any of the library's own objects; of several splits, the one named ``split``."""
    if isinstance(dataset, dict):
        if split not in dataset:
            raise UnknownName("split", split, [str(key) for key in dataset])
        dataset = dataset[split]
    if name is None:
        name = str(dataset.info.builder_name or "the data set")
    if identity is None:
        identity = {"name": name, "config": dataset.info.config_name, "split": str(dataset.split)}
    if hasattr(dataset, "num_rows"):
        return LoadedDataset(dataset, name, fields, identity)
    return StreamedDataset(dataset, name, identity)


class IterablePart:
    """Texts, mappings of fields or documents.

    A list is recognized by its content. Whether any other iterable gives the same the next time is unknown.
    """

    unit = "records"
    name = "documents"

    def __init__(self, items: Iterable[Any]) -> None:
        self._items = items
        self._once = isinstance(items, Iterator)
        self._read = False
        self.size = len(items) if isinstance(items, Sized) else None

    def identity(self) -> dict[str, Any]:
        if isinstance(self._items, (list, tuple)):
            return {"kind": "list", "records": self.size, "digest": self._digest()}
        return {"kind": "iterable", "resumable": False, "records": self.size}

    def _digest(self) -> str:
        digest = hashlib.blake2b(digest_size=16)
        for item in self._items:
            plain = repr(item) if isinstance(item, str) else _canonical_json(item)
            digest.update(f"{len(plain)}:{plain}".encode())
        return digest.hexdigest()

    def batches(self, skip: SkipCounter) -> Iterator[RawBatch]:
        if self._once and self._read:
            raise InvalidInput("an iterator can be read only once; pass a list, or open it anew")
        self._read = True
        if isinstance(self._items, Sequence):
            for begin in range(0, len(self._items), _ITERABLE_BATCH_ITEMS):
                end = min(begin + _ITERABLE_BATCH_ITEMS, len(self._items))
                if not skip.block(end - begin):
                    some = [self._items[at] for at in range(begin, end)]
                    yield _numbered(some, "item ", begin, end).without(skip)
            return
        items, begin = iter(self._items), 0
        while some := list(islice(items, _ITERABLE_BATCH_ITEMS)):
            end = begin + len(some)
            if not skip.block(len(some)):
                yield _numbered(some, "item ", begin, end).without(skip)
            begin = end


def _numbered(rows: Sequence[Any] | Table, what: str, begin: int, end: int) -> RawBatch:
    """Rows whose place is a number, counted from 1."""
    return RawBatch(rows, lambda at: f"{what}{begin + at + 1}", end)


def _canonical_json(item: Any) -> str:
    try:
        return json.dumps(item, default=_canonical_value)
    except (TypeError, ValueError, RecursionError):  # it will be a bad record, the same one the next time
        return repr(item)


def _canonical_value(value: Any) -> Any:
    """A value that JSON cannot hold, as one that it can; equal values give equal ones."""
    if isinstance(value, np.ndarray):
        return [str(value.dtype), value.shape, hashlib.blake2b(value.tobytes()).hexdigest()]
    if isinstance(value, Document):
        return [value.text, value.meta, value.id, value.vector]
    if isinstance(value, Mapping):
        return dict(value)
    return repr(value)
