"""Parquet files, a batch of rows at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from siftlm.extras import load
from siftlm.memory.reading.columns import Table
from siftlm.memory.reading.fields import FieldMapping, UnreadableRow
from siftlm.memory.reading.files import file_identity, printable_path
from siftlm.memory.reading.records import RawBatch, SkipCounter, SourcePart, unreadable

# Few rows, since each may be a long text.
_PARQUET_BATCH_ROWS = 256
_PARQUET_BUFFER_BYTES = 1 << 20


class Parquet:
    """One Parquet file; whole row groups are skipped without being read."""

    unit = "bytes"

    def __init__(self, path: Path, fields: FieldMapping) -> None:
        self._path, self._fields = path, fields
        self.name = printable_path(path)
        self.size = path.stat().st_size

    def identity(self) -> dict[str, Any]:
        return {"kind": "parquet", **file_identity(self._path)}

    def schema(self) -> Any:
        """The types of the columns; ``None`` for a file that cannot be read."""
        arrow, parquet = load("pyarrow", "memory"), load("pyarrow.parquet", "memory")
        try:
            return parquet.read_schema(self._path)
        except (arrow.ArrowException, OSError):
            return None

    def batches(self, skip: SkipCounter) -> Iterator[RawBatch]:
        """All rows; a row group that cannot be read gives bad rows, so that the numbers of later rows stay the same."""
        arrow, parquet = load("pyarrow", "memory"), load("pyarrow.parquet", "memory")
        try:
            # Without read-ahead, and in pieces: a row group can be larger than memory.
            file = parquet.ParquetFile(self._path, pre_buffer=False, buffer_size=_PARQUET_BUFFER_BYTES)
        except (arrow.ArrowException, OSError) as error:
            if not skip.some(1):
                problem = f"{printable_path(self._path.name)} is not a sound Parquet file: {_short_error(error)}"
                yield unreadable(self.name, problem, self.size)
            return
        with file:
            self._fields.check_columns(file.schema_arrow.names, self.name)
            columns = self._columns(file.schema_arrow.names)
            first = 0
            for group in range(file.num_row_groups):
                length = file.metadata.row_group(group).num_rows
                if not skip.block(length):
                    yield from self._group(file, group, columns, first, length, skip)
                first += length

    def _group(
        self, file: Any, group: int, columns: list[str] | None, first: int, length: int, skip: SkipCounter
    ) -> Iterator[RawBatch]:
        arrow = load("pyarrow", "memory")
        done, total = 0, max(file.metadata.num_rows, 1)
        try:
            for batch in file.iter_batches(_PARQUET_BATCH_ROWS, row_groups=[group], columns=columns):
                before, done = first + done, done + batch.num_rows
                if not skip.block(batch.num_rows):
                    yield self._batch(self._values(batch), before, self.size * (first + done) // total).without(skip)
        except (arrow.ArrowException, OSError) as error:
            problem = f"row group {group} of {printable_path(self._path.name)} cannot be read: {_short_error(error)}"
            rows = [UnreadableRow(problem)] * (length - done)
            yield self._batch(rows, first + done, self.size * (first + length) // total).without(skip)

    def _batch(self, rows: list[Any] | Table, before: int, position: int) -> RawBatch:
        return RawBatch(rows, lambda at: f"{self.name}: row {before + at + 1}", position)

    def _values(self, batch: Any) -> Table | list[Any]:
        """The columns; or rows where some of them cannot be read."""
        arrow = load("pyarrow", "memory")
        columns: dict[str, Any] = {}
        for name, column in zip(batch.schema.names, batch.columns, strict=True):
            if arrow.types.is_timestamp(column.type) and column.type.unit == "ns":
                # Python's dates know no nanoseconds.
                column = column.cast(arrow.timestamp("us", column.type.tz), safe=False)
            if name == self._fields.vector and column.type.num_fields == 1:
                columns[name] = _number_rows(column)
            else:
                columns[name] = _plain_values(column)
        if not any(isinstance(value, UnreadableRow) for column in columns.values() for value in column):
            return columns
        rows = []
        for values in zip(*columns.values(), strict=True):
            wrong = next((value for value in values if isinstance(value, UnreadableRow)), None)
            rows.append(dict(zip(columns, values, strict=True)) if wrong is None else wrong)
        return rows

    def _columns(self, names: list[str]) -> list[str] | None:
        """The columns that hold the fields, some of which are nested in columns."""
        needed = self._fields.columns
        if needed is None:
            return None
        top = {name if name in names else name.split(".")[0] for name in needed} | {"meta"}
        return [name for name in names if name in top]


@runtime_checkable
class TypedPart(Protocol):
    """A part whose columns have types."""

    def schema(self) -> Any:
        """The Arrow schema; ``None`` where it cannot be told."""


def common_schema(parts: Sequence[SourcePart]) -> Any:
    """The Arrow schema with the columns of all parts; ``None`` where they have none, or types that contradict."""
    schemas = [part.schema() if isinstance(part, TypedPart) else None for part in parts]
    # What the metadata say is of those files: a data set's features, an index of pandas.
    plain = [schema.remove_metadata() for schema in schemas if schema is not None]
    if len(plain) < len(schemas):
        return None
    arrow = load("pyarrow", "memory")
    try:
        return arrow.unify_schemas(plain)
    except arrow.ArrowException:
        return None


def _plain_values(column: Any) -> list[Any]:
    try:
        values: list[Any] = column.to_pylist()
    except ValueError:  # bytes that are not UTF-8, dates out of range: find out which rows
        return [_entry_value(entry) for entry in column]
    return values


def _entry_value(entry: Any) -> Any:
    try:
        return entry.as_py()
    except UnicodeDecodeError:
        return UnreadableRow("not UTF-8")
    except ValueError as error:
        return UnreadableRow(f"a value that cannot be read: {error}")


def _number_rows(column: Any) -> Any:
    """Lists of numbers as arrays: (n, d) where all are as long, else an array for each row, or None."""
    if not column.null_count and len(column):
        numbers = column.flatten()
        if not numbers.null_count and numbers.type.num_fields == 0 and len(numbers) % len(column) == 0:
            width = len(numbers) // len(column)
            lengths = load("pyarrow.compute", "memory").list_value_length(column)
            if width and (lengths.to_numpy(zero_copy_only=False) == width).all():
                return numbers.to_numpy(zero_copy_only=False).reshape(-1, width)
    return [entry.values.to_numpy(zero_copy_only=False) if entry.is_valid else None for entry in column]


def _short_error(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
