"""Building a memory's FAISS index: trained on a sample, filled block by block, and installed whole."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np

from siftlm import extras
from siftlm.errors import InvalidInput, UnknownName, setting
from siftlm.memory import ann, durability, vectors
from siftlm.memory.ann import IndexDescription
from siftlm.memory.writer import Writer
from siftlm.progress import Meter, Report
from siftlm.types import IntArray, Vectors
from siftlm.validation import choice, whole_number

# Kind -> its settings, as FAISS names them.
INDEX_SETTINGS: dict[str, tuple[str, ...]] = {
    "flat": (),
    "ivf": ("nlist", "nprobe"),
    "hnsw": ("M", "efConstruction", "efSearch"),
}
# Training vectors for each list and for a quantizer, and the most bytes of them.
VECTORS_PER_LIST, VECTORS_PER_QUANTIZER, TRAINING_BYTES = 64, 20_000, 512 << 20
# Below this, FAISS warns that a list has too few vectors to learn from.
MIN_VECTORS_PER_LIST = 39
# Passages that are added between two progress reports.
ADD_BATCH_ROWS = 2048
TRAINING_SEED = 1


def check_index_settings(kind: object, settings: Mapping[str, Any]) -> str:
    """Raise where such an index cannot be built, before anybody waits for a lock."""
    extras.load("faiss", "faiss")
    checked = choice("kind of index", kind, INDEX_SETTINGS)
    known = INDEX_SETTINGS[checked]
    for name, value in settings.items():
        if name not in known:
            raise UnknownName(f"setting of a {kind} index", name, known)
        whole_number(name, value)
        if name == "M" and value < 2:
            raise InvalidInput(f"{setting('M')} must be at least 2, got 1: a graph of single links falls apart")
    return checked


def settings_for_fewer(settings: Mapping[str, int], passages: int) -> dict[str, int]:
    """The settings of an index that is built again over fewer passages."""
    if "nlist" not in settings:
        return dict(settings)
    return {**settings, "nlist": min(settings["nlist"], max(1, passages // MIN_VECTORS_PER_LIST))}


def build_index(writer: Writer, kind: str, settings: Mapping[str, Any], report: Report | None) -> IndexDescription:
    """Build an index over the rows that are alive; the old one answers until the new one is there."""
    dead = np.fromiter((row for (row,) in writer.connection.execute("SELECT row FROM dead")), np.int64)
    rows = np.setdiff1d(np.arange(writer.rows), dead, assume_unique=True)
    if not len(rows):
        raise InvalidInput(f"{writer.memory}: is empty: there is nothing to index")
    stored = vectors.map_vectors(writer.folder / writer.form.file_name, writer.form, writer.rows)
    chosen = _resolved_settings(kind, settings, len(rows))
    index = _train(kind, chosen, writer.form, stored, rows, report)
    filled = _fill(index, kind, writer, stored, rows, report)
    return _install_index(filled, writer, kind, chosen, len(rows))


def _resolved_settings(kind: str, settings: Mapping[str, Any], count: int) -> dict[str, int]:
    """The caller's settings, completed by what suits so many rows."""
    chosen = {name: int(value) for name, value in settings.items()}
    if kind == "ivf":
        chosen.setdefault("nlist", max(1, min(round(4 * count**0.5), count // MIN_VECTORS_PER_LIST)))
        if chosen["nlist"] > count:
            raise InvalidInput(f"{setting('nlist', chosen['nlist'])} is more lists than there are passages ({count:,})")
        chosen.setdefault("nprobe", max(8, chosen["nlist"] // 8))
        chosen["nprobe"] = min(chosen["nprobe"], chosen["nlist"])
    if kind == "hnsw":
        chosen = {"M": 32, "efConstruction": 100, "efSearch": 128, **chosen}
    return chosen


def _empty_index(kind: str, chosen: Mapping[str, int], form: vectors.VectorFormat) -> Any:
    """An index that keeps vectors as the memory does: whole, as halves, or in a byte a number.

    FAISS' bytes are not our int8 (a scale for each row), so they are only good for finding: the exact kind
    keeps those vectors whole.
    """
    faiss = extras.load("faiss", "faiss")
    metric, width = faiss.METRIC_INNER_PRODUCT, form.width
    quantizer = {"float16": faiss.ScalarQuantizer.QT_fp16, "int8": faiss.ScalarQuantizer.QT_8bit}.get(form.storage)
    if kind == "flat":
        if form.storage == "float16":
            return faiss.IndexScalarQuantizer(width, quantizer, metric)
        return faiss.IndexFlatIP(width)
    if kind == "ivf":
        coarse, lists = faiss.IndexFlatIP(width), chosen["nlist"]
        if quantizer is None:
            index = faiss.IndexIVFFlat(coarse, width, lists, metric)
        else:
            # The vectors themselves, not what is left of them after their list's centre: the scores need no repair.
            index = faiss.IndexIVFScalarQuantizer(coarse, width, lists, quantizer, metric, False)
        index.cp.spherical, index.cp.seed, index.cp.min_points_per_centroid = True, TRAINING_SEED, 1
        return index
    links = chosen["M"]
    if quantizer is None:
        index = faiss.IndexHNSWFlat(width, links, metric)
    else:
        index = faiss.IndexHNSWSQ(width, quantizer, links, metric)
    index.hnsw.efConstruction = chosen["efConstruction"]
    return index


def _train(
    kind: str,
    chosen: Mapping[str, int],
    form: vectors.VectorFormat,
    stored: Vectors,
    rows: IntArray,
    report: Report | None,
) -> Any:
    index = _empty_index(kind, chosen, form)
    if not index.is_trained or kind == "ivf":
        enough = max(VECTORS_PER_LIST * chosen.get("nlist", 0), VECTORS_PER_QUANTIZER)
        size = min(len(rows), enough, max(chosen.get("nlist", 1), TRAINING_BYTES // (4 * form.width)))
        meter = Meter("training", "passages", report, size)
        some = rows if size == len(rows) else np.random.default_rng(TRAINING_SEED).choice(rows, size, replace=False)
        index.train(form.decode(stored[np.sort(some)]))
        meter.at(size)
        meter.finish()
    return index


def _fill(index: Any, kind: str, writer: Writer, stored: Vectors, rows: IntArray, report: Report | None) -> Any:
    meter = Meter("indexing", "passages", report, len(rows))
    gaps = len(rows) < writer.rows
    # Deleted vectors are left out; the others then need explicit row numbers, which only lists keep by themselves.
    into = extras.load("faiss", "faiss").IndexIDMap(index) if gaps and kind != "ivf" else index
    for first in range(0, len(rows), ADD_BATCH_ROWS):
        some = rows[first : first + ADD_BATCH_ROWS]
        block = np.ascontiguousarray(writer.form.decode(stored[some]))
        if gaps:
            into.add_with_ids(block, some)
        else:
            into.add(block)
        meter.add(len(some))
    meter.finish()
    return into


def _install_index(index: Any, writer: Writer, kind: str, chosen: dict[str, int], entries: int) -> IndexDescription:
    """Write the index beside the old one, then replace that; for a moment there is none."""
    path = writer.folder / ann.INDEX_FILE
    new = path.with_name(f"{ann.INDEX_FILE}.new")
    try:
        with open(new, "w+b") as file:
            _write_index(index, file)
            described = IndexDescription(
                kind=kind,
                settings=chosen,
                generation=writer.manifest.generation,
                rows=writer.rows,
                entries=entries,
                width=writer.form.width,
                storage=writer.form.storage,
                bytes=file.seek(0, os.SEEK_END),
                checksum=ann.file_checksum(file),
                sample=ann.sampled_checksum(file),
            )
        with contextlib.suppress(FileNotFoundError):
            (writer.folder / ann.INDEX_DESCRIPTION_FILE).unlink()
        os.replace(new, path)
        durability.atomic_replace(writer.folder / ann.INDEX_DESCRIPTION_FILE, ann.description_content(described))
    except BaseException:
        _unlink_if_exists(new)
        raise
    return described


def _write_index(index: Any, file: IO[bytes]) -> None:
    """Write through a Python file: FAISS' own does not report when the disk refuses the last bytes."""
    faiss = extras.load("faiss", "faiss")
    refused: list[OSError] = []

    def write(piece: bytes) -> None:
        try:
            file.write(piece)
        except OSError as error:
            refused.append(error)
            raise

    try:
        faiss.write_index(index, faiss.PyCallbackIOWriter(write))
    except Exception:
        if refused:
            raise refused[0] from None
        raise
    file.flush()
    os.fsync(file.fileno())


def _unlink_if_exists(path: Path) -> None:
    with contextlib.suppress(OSError):
        path.unlink()
