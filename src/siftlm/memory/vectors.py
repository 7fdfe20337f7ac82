"""The vectors of a memory: one file, rows of equal size, only ever appended to and mapped into memory.

A row counts only when the database names it. So a crash leaves unnamed bytes at the end, which the next writer
cuts off, and never a name without bytes.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from siftlm.embedding.protocol import Embedder
from siftlm.errors import Damaged, InvalidInput
from siftlm.types import FloatArray, IntArray, Vectors

STORAGES = ("float32", "float16", "int8")
STORAGE_SUFFIXES = {"float32": "f32", "float16": "f16", "int8": "i8"}
STORAGE_TYPES = {"float32": "<f4", "float16": "<f2"}
# The sign bit of a float32, and where the other 15 bits of a half come to lie in it.
FLOAT16_BITS_MASK = np.int32(0x0FFFE000 - 2**31)
# Squared lengths this close to 1 count as unit length in float32.
SQUARED_NORM_TOLERANCE = 1e-6
# Rows that are decoded, checked or copied together.
BLOCK_ROWS = 16384


class VectorFormat:
    """The storage format of unit vectors.

    int8 keeps one scale a row: code = round(127 x / max|x|), and the scale brings the codes back to unit length.
    """

    def __init__(self, storage: str, width: int) -> None:
        self.storage, self.width = storage, width
        # Of one number, or of one row for int8; little-endian on every machine.
        self.dtype: np.dtype[Any] = np.dtype(
            [("scale", "<f4"), ("codes", "i1", (width,))] if storage == "int8" else STORAGE_TYPES[storage]
        )
        self.row_bytes = self.dtype.itemsize * (1 if storage == "int8" else width)
        self.file_name = f"vectors.{STORAGE_SUFFIXES[storage]}"

    def encode(self, vectors: Vectors) -> Vectors:
        """(n, d) unit vectors -> rows as they are stored."""
        wide = vectors.astype(np.float32, copy=False)
        if self.storage != "int8":
            return np.ascontiguousarray(wide, dtype=self.dtype)
        rows: npt.NDArray[Any] = np.empty(len(wide), dtype=self.dtype)
        codes = np.rint(wide * (127 / np.abs(wide).max(axis=1, initial=0.0))[:, None])
        rows["codes"] = codes
        rows["scale"] = 1 / np.sqrt(np.einsum("ij,ij->i", codes, codes))
        return rows

    def decode(self, rows: Vectors) -> Vectors:
        """Rows as they are stored -> (n, d) float32."""
        if self.storage == "float16":
            return _float16_to_float32(rows)
        if self.storage == "float32":
            return rows.astype(np.float32, copy=False)
        decoded: Vectors = rows["codes"].astype(np.float32)
        decoded *= rows["scale"][:, None]
        return decoded


def _float16_to_float32(halves: Vectors) -> Vectors:
    """float16 -> float32, several times faster than numpy converts, for finite numbers.

    A half's exponent and fraction, moved into a float32's places, read as the number times 2⁻¹¹²: the difference
    of the two formats' exponents.
    """
    bits = halves.view("<i2").astype(np.int32)
    np.left_shift(bits, 13, out=bits)
    np.bitwise_and(bits, FLOAT16_BITS_MASK, out=bits)
    floats = bits.view(np.float32)
    np.multiply(floats, np.float32(2.0**112), out=floats)
    return floats


def unit_rows(vectors: Vectors) -> Vectors:
    """(n, d) float32 at unit length; rows without a direction become NaN, for the caller to check.

    Rows of float32 that have unit length already stay as they are, whatever the others have.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        if vectors.dtype != np.float32:
            return _scaled_rows(vectors)
        unit = np.abs(np.einsum("ij,ij->i", vectors, vectors) - 1) <= SQUARED_NORM_TOLERANCE
        if unit.all():
            return vectors
        scaled: Vectors = vectors.copy()
        scaled[~unit] = _scaled_rows(vectors[~unit])
    return scaled


def _scaled_rows(vectors: Vectors) -> Vectors:
    wide = vectors.astype(np.float64)
    length = np.sqrt(np.einsum("ij,ij->i", wide, wide))
    length[~(np.isfinite(length) & (length > 1e-30))] = np.nan
    scaled: Vectors = (wide / length[:, None]).astype(np.float32)
    return scaled


def embed_checked(embedder: Embedder, texts: Sequence[str], width: int, *, as_query: bool = False) -> Vectors:
    """The embedder's vectors, or an error where their shape is wrong."""
    embedded = np.asarray(embedder.embed(list(texts), as_query=as_query))
    if embedded.shape != (len(texts), width):
        raise InvalidInput(
            f"embedder {embedder.name!r} gave shape {embedded.shape} for {len(texts)} texts of width {width}"
        )
    return embedded


class VectorAppender:
    """The end of the file, open for a writer: rows are appended, and safe after ``sync``."""

    def __init__(self, path: Path, form: VectorFormat, rows: int) -> None:
        """Whatever lies beyond the ``rows`` that the database names is cut off."""
        self._form, self._rows = form, rows
        self._file: IO[bytes] = open(path, "r+b")  # noqa: SIM115  closed by close()
        try:
            check_file_length(path, form, rows)
        except BaseException:
            self._file.close()
            raise
        self._file.truncate(rows * form.row_bytes)
        self._file.seek(0, os.SEEK_END)

    def append(self, vectors: Vectors) -> int:
        """Write (n, d) unit vectors; returns the checksum of their bytes."""
        encoded = self._form.encode(vectors)
        content = row_bytes_view(encoded)
        self._file.write(content)
        self._rows += len(vectors)
        return zlib.crc32(content)

    def sync(self) -> None:
        """Flush to the disk: from here on no crash loses the rows."""
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file; rows are only safe after ``sync``."""
        self._file.close()


def map_vectors(path: Path, form: VectorFormat, rows: int) -> Vectors:
    """The first ``rows`` rows, mapped: (n, d) floats, or (n,) records for int8."""
    shape: tuple[int, ...] = (rows,) if form.storage == "int8" else (rows, form.width)
    if not rows:
        return np.empty(shape, dtype=form.dtype)
    try:
        check_file_length(path, form, rows)
        mapped: Vectors = np.memmap(path, dtype=form.dtype, mode="r", shape=shape)
    except FileNotFoundError as error:
        raise Damaged(f"{path}: is gone") from error
    # A plain array over the same pages, which numpy slices faster.
    return mapped.view(np.ndarray)


def check_file_length(path: Path, form: VectorFormat, rows: int) -> None:
    """Raise where the file is too short: reading mapped pages that are gone would kill the process."""
    size = path.stat().st_size
    if size < rows * form.row_bytes:
        raise Damaged(f"{path}: has {size:,} bytes, but its {rows:,} rows need {rows * form.row_bytes:,}")


def rows_checksum(rows: Vectors) -> int:
    """The checksum of mapped rows, as `VectorAppender.append` returned it."""
    checksum = 0
    for start in range(0, len(rows), BLOCK_ROWS):
        checksum = zlib.crc32(row_bytes_view(rows[start : start + BLOCK_ROWS]), checksum)
    return checksum


def row_bytes_view(rows: Vectors) -> Any:
    """The rows' bytes, without a copy where they lie in order already."""
    return np.ascontiguousarray(rows).view(np.uint8).reshape(-1)


class TopK:
    """The k best scores of each of several queries, over blocks of rows in ascending order."""

    def __init__(self, queries: int, k: int) -> None:
        self._k = k
        self._floor = np.full(queries, -np.inf, dtype=np.float32)
        self._scores: list[list[npt.NDArray[np.float32]]] = [[] for _ in range(queries)]
        self._rows: list[list[IntArray]] = [[] for _ in range(queries)]
        self._held = [0] * queries

    def take(self, query: int, scores: npt.NDArray[np.float32], first: int) -> None:
        """``scores`` (b,) of the rows from ``first`` on; those not allowed hold −inf."""
        if not self._held[query] and len(scores) > 4 * self._k:
            # The k-th best of the first block is a floor that spares the sorting of all the rest.
            floor = np.partition(scores, len(scores) - self._k)[len(scores) - self._k]
            better = np.flatnonzero((scores >= floor) & (scores > -np.inf))
        else:
            better = np.flatnonzero(scores > self._floor[query])
        if not len(better):
            return
        self._scores[query].append(scores[better])
        self._rows[query].append(better + first)
        self._held[query] += len(better)
        if self._held[query] > max(4 * self._k, 4096) or (
            self._floor[query] == -np.inf and self._held[query] >= self._k
        ):
            self._shrink(query)

    def _shrink(self, query: int) -> None:
        scores, rows = np.concatenate(self._scores[query]), np.concatenate(self._rows[query])
        if len(scores) > self._k:
            # Equal scores go to the smaller row: rows are in ascending order, and the sort is stable.
            order = np.argsort(-scores, kind="stable")[: self._k]
            scores, rows = scores[order], rows[order]
            again = np.argsort(rows, kind="stable")
            scores, rows = scores[again], rows[again]
        if len(scores) >= self._k:
            self._floor[query] = scores.min()
        self._scores[query], self._rows[query] = [scores], [rows]
        self._held[query] = len(scores)

    def best(self, query: int) -> tuple[IntArray, FloatArray]:
        """Rows and scores, best first; fewer than k if there were no more."""
        if not self._held[query]:
            return np.zeros(0, np.int64), np.zeros(0)
        scores, rows = np.concatenate(self._scores[query]), np.concatenate(self._rows[query])
        order = np.argsort(-scores, kind="stable")[: self._k]
        return rows[order].astype(np.int64), scores[order].astype(np.float64)
