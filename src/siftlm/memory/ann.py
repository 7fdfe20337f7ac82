"""An optional FAISS index over a memory's vectors: for when a scan from end to end takes too long.

It can always be built anew from the vectors, so nothing depends on it: an index that is not exactly what was built
for these rows is left aside, and the search scans. What it finds is scored again with the memory's own vectors;
rows that came after it was built are scanned; and where it finds too few, because a filter leaves little
or its lists run dry, a scan answers instead.

`index.faiss` holds FAISS' own format and `index.json`, which is written last, says what must be in it.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
import zlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from siftlm import extras
from siftlm.errors import Damaged, MissingExtra
from siftlm.memory import scan
from siftlm.memory.manifest import Manifest
from siftlm.memory.store import Neighbours
from siftlm.memory.vectors import VectorFormat
from siftlm.types import BoolArray, IntArray, Vectors

INDEX_FILE, INDEX_DESCRIPTION_FILE = "index.faiss", "index.json"
INDEX_FORMAT = 1
# Larger files are checked in samples when they are loaded, so that opening stays quick; `verify` reads all of them.
FULL_CHECK_BYTES = 64 << 20
CHECKSUM_SAMPLES, CHECKSUM_SAMPLE_BYTES = 64, 16 << 10
# Below one allowed row in so many, a scan of the allowed rows is as fast, and exact.
INDEX_SPARSE_ROW_RATIO = 20


@dataclass(frozen=True)
class IndexDescription:
    """The description of an index, which says what its file must hold."""

    kind: str
    """``flat``, ``ivf`` or ``hnsw``."""
    settings: dict[str, int]
    """The settings under FAISS' names."""
    generation: int
    rows: int
    """Rows before this one are covered."""
    entries: int
    """Vectors in it: the covered rows that were alive when it was built."""
    width: int
    storage: str
    bytes: int
    checksum: int
    """The checksum of the whole file."""
    sample: int
    """A checksum of parts of the file, quick to read."""


@dataclass(frozen=True)
class IndexState:
    """The state of an index, as `Memory.info` shows it."""

    kind: str | None
    """None where the description cannot be read."""
    settings: dict[str, int]
    rows: int
    """The rows that it covers; later ones are scanned."""
    bytes: int
    problem: str | None = None
    """Why searches scan instead, if they do."""
    damaged: bool = False
    """Whether the problem is that its files are not what was written: drop it, or build it anew."""


def index_state(folder: Path, known: Manifest, rows: int, *, thorough: bool = False) -> IndexState | None:
    """The state of the index in a generation's folder; None if there is none.

    Args:
        folder: the generation's folder.
        known: the memory's manifest.
        rows: how many rows the memory has.
        thorough: read the whole file rather than samples.
    """
    if not (folder / INDEX_FILE).exists() and not (folder / INDEX_DESCRIPTION_FILE).exists():
        return None
    described: IndexDescription | None = None
    problem, damaged = None, False
    try:
        described = _read_description(folder)
        _check_index(folder, described, known, rows, thorough=thorough)
        extras.load("faiss", "faiss")
    except MissingExtra as error:
        problem = str(error)
    except (Damaged, OSError) as error:
        problem, damaged = str(error), True
    if described is None:
        return IndexState(None, {}, 0, 0, problem, damaged)
    return IndexState(described.kind, described.settings, described.rows, described.bytes, problem, damaged)


def drop_index(folder: Path) -> bool:
    """Remove the index; True if there was one. The description goes first: without it the rest is not read."""
    there = False
    for name in (INDEX_DESCRIPTION_FILE, INDEX_FILE, f"{INDEX_FILE}.new", f"{INDEX_DESCRIPTION_FILE}.new"):
        with contextlib.suppress(FileNotFoundError):
            (folder / name).unlink()
            there = True
    return there


# --- on disk


def description_content(described: IndexDescription) -> bytes:
    """The content of the file that describes an index."""
    content: dict[str, Any] = {"format": INDEX_FORMAT, **asdict(described)}
    content["own_checksum"] = _description_checksum(content)
    return (json.dumps(content, indent=2) + "\n").encode()


def _read_description(folder: Path) -> IndexDescription:
    path = folder / INDEX_DESCRIPTION_FILE
    try:
        content = json.loads(path.read_bytes())
        own = content.pop("own_checksum")
        if own != _description_checksum(content):
            raise Damaged(f"{path}: its checksum does not match: it was edited or damaged")
        if content.pop("format") != INDEX_FORMAT:
            raise Damaged(f"{path}: is of another format; build the index anew")
        return IndexDescription(**content)
    except FileNotFoundError:
        raise Damaged(f"{path}: is gone, so {INDEX_FILE} was never finished; build the index anew") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Damaged(f"{path}: cannot be read: {error}") from error


def _description_checksum(content: dict[str, Any]) -> int:
    return zlib.crc32(json.dumps(content, sort_keys=True).encode())


def _check_index(folder: Path, described: IndexDescription, known: Manifest, rows: int, *, thorough: bool) -> None:
    """Raise where the index is not what was built for the rows that are there."""
    path = folder / INDEX_FILE
    if described.generation != known.generation:
        raise Damaged(f"{path}: was built for generation {described.generation}, not {known.generation}")
    if (described.width, described.storage) != (known.width, known.storage):
        raise Damaged(f"{path}: was built for {described.storage} vectors of width {described.width}")
    if described.rows > rows:
        raise Damaged(f"{path}: covers {described.rows:,} rows, and there are {rows:,}")
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size != described.bytes:
                raise Damaged(f"{path}: has {size:,} bytes, and {described.bytes:,} were written")
            whole = thorough or size <= FULL_CHECK_BYTES
            actual, expected = (
                (file_checksum(file), described.checksum) if whole else (sampled_checksum(file), described.sample)
            )
    except FileNotFoundError:
        raise Damaged(f"{path}: is gone") from None
    if actual != expected:
        raise Damaged(f"{path}: its checksum does not match: it was damaged")


def file_checksum(file: IO[bytes]) -> int:
    """The checksum of a whole file."""
    file.seek(0)
    checksum = 0
    while block := file.read(1 << 20):
        checksum = zlib.crc32(block, checksum)
    return checksum


def sampled_checksum(file: IO[bytes]) -> int:
    """The checksum of parts of a file, its beginning and its end among them."""
    size = file.seek(0, os.SEEK_END)
    checksum = 0
    for start in np.linspace(0, max(0, size - CHECKSUM_SAMPLE_BYTES), CHECKSUM_SAMPLES).astype(np.int64).tolist():
        file.seek(start)
        checksum = zlib.crc32(file.read(CHECKSUM_SAMPLE_BYTES), checksum)
    return checksum


# --- in use


class LazyAnnIndex:
    """The index of one generation: loaded when it is first needed, and again when it was built anew."""

    def __init__(self, folder: Path, known: Manifest) -> None:
        self._folder, self._known = folder, known
        self._lock = threading.Lock()
        self._stamp: tuple[int, int, int] | None = None
        self._index: AnnIndex | None = None

    def current(self, rows: int) -> AnnIndex | None:
        """The index, if there is one that a memory of so many rows can use."""
        try:
            status = (self._folder / INDEX_DESCRIPTION_FILE).stat()
        except OSError:
            stamp = None
        else:
            stamp = (status.st_ino, status.st_mtime_ns, status.st_size)
        with self._lock:
            if stamp != self._stamp:
                self._index = None  # frees the old one before the new one comes
                self._index = None if stamp is None else self._load()
                self._stamp = stamp
            index = self._index
        # A snapshot from before the index was built has fewer rows than it covers.
        return index if index is not None and index.described.rows <= rows else None

    def _load(self) -> AnnIndex | None:
        try:
            described = _read_description(self._folder)
            _check_index(self._folder, described, self._known, described.rows, thorough=False)
            return AnnIndex(self._folder / INDEX_FILE, described)
        except (Damaged, MissingExtra, OSError, RuntimeError, MemoryError):
            return None  # `index_state` says why


class AnnIndex:
    """A FAISS index, open for any number of threads."""

    def __init__(self, path: Path, described: IndexDescription) -> None:
        self.described = described
        self._faiss = extras.load("faiss", "faiss")
        # Mapped where FAISS can: inverted lists since long ago, codes and graphs in newer versions.
        flag = self._faiss.IO_FLAG_MMAP
        if described.kind != "ivf":
            flag = getattr(self._faiss, "IO_FLAG_MMAP_IFC", flag)
        self._index = self._faiss.read_index(str(path), flag)
        held = (self._index.d, self._index.ntotal, self._index.metric_type)
        if held != (described.width, described.entries, self._faiss.METRIC_INNER_PRODUCT):
            raise Damaged(f"{path}: does not hold what {INDEX_DESCRIPTION_FILE} says")
        if described.kind == "ivf":
            # Its threads that read ahead would be started and ended for each search.
            lists = self._faiss.downcast_InvertedLists(self._index.invlists)
            if hasattr(lists, "prefetch_nthread"):
                lists.prefetch_nthread = 0

    @property
    def exact(self) -> bool:
        """Whether a search looks at every vector as it is stored."""
        return self.described.kind == "flat"

    def search(self, queries: Vectors, k: int, allowed: BoolArray | None) -> list[IntArray]:
        """For each query up to k rows, or a few more where the index keeps them less exactly than the memory."""
        rough = not self.exact and self.described.storage == "int8"
        reach = min(2 * k if rough else k, self.described.entries)
        wide = np.ascontiguousarray(queries, dtype=np.float32)
        _, nearest_rows = self._index.search(wide, reach, params=self._parameters(reach, allowed))
        # Only rows that may be found, whatever a damaged file holds.
        nearest_rows[nearest_rows >= self.described.rows] = -1
        if allowed is not None:
            nearest_rows[~allowed[nearest_rows]] = -1
        return [ids[ids >= 0] for ids in nearest_rows]

    def _parameters(self, reach: int, allowed: BoolArray | None) -> Any:
        settings = self.described.settings
        own: dict[str, Any] = {}
        if allowed is not None:
            own["sel"] = self._faiss.IDSelectorBitmap(np.packbits(allowed, bitorder="little"))
        if self.described.kind == "ivf":
            return self._faiss.SearchParametersIVF(nprobe=settings["nprobe"], **own)
        if self.described.kind == "hnsw":
            return self._faiss.SearchParametersHNSW(efSearch=max(settings["efSearch"], 2 * reach), **own)
        return self._faiss.SearchParameters(**own)


def nearest(
    index: AnnIndex, stored: Vectors, form: VectorFormat, queries: Vectors, k: int, allowed: BoolArray | None
) -> list[Neighbours]:
    """The neighbours that `scan.nearest` finds, through the index where it helps; k wherever k rows are allowed."""
    covered = index.described.rows
    head, tail = (None, None) if allowed is None else (allowed[:covered], allowed[covered:])
    there = covered if head is None else int(np.count_nonzero(head))
    if there * INDEX_SPARSE_ROW_RATIO < covered:
        return scan.nearest(stored, form, queries, k, allowed)
    best = [
        _rescored(stored, form, query, ids, k)
        for query, ids in zip(queries, index.search(queries, k, head), strict=True)
    ]
    short = [at for at, one in enumerate(best) if len(one.ids) < min(k, there)]
    if short:
        for at, one in zip(short, scan.nearest(stored[:covered], form, queries[short], k, head), strict=True):
            best[at] = one
    if len(stored) > covered:
        later = scan.nearest(stored[covered:], form, queries, k, tail)
        best = [_merge_neighbours(one, more, covered, k) for one, more in zip(best, later, strict=True)]
    return best


def _rescored(stored: Vectors, form: VectorFormat, query: Vectors, ids: IntArray, k: int) -> Neighbours:
    """The k best by the memory's own vectors."""
    ids = np.sort(ids)
    scores = (form.decode(stored[ids]) @ query.astype(np.float32)).astype(np.float64)
    order = np.argsort(-scores, kind="stable")[:k]
    return Neighbours(ids[order], scores[order])


def _merge_neighbours(one: Neighbours, later: Neighbours, first: int, k: int) -> Neighbours:
    ids = np.concatenate([one.ids, later.ids + first])
    scores = np.concatenate([one.scores, later.scores])
    order = np.argsort(-scores, kind="stable")[:k]
    return Neighbours(ids[order], scores[order])
