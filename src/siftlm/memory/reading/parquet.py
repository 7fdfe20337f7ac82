"""Parquet files, a batch of rows at a time."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from siftlm.extras import load
from siftlm.memory.reading.fields import FieldMapping
from siftlm.memory.reading.records import RawRecord, SkipCounter, file_identity, printable_path

# Few rows, since each may be a long text.
_PARQUET_BATCH_ROWS = 256


class Parquet:
    """One Parquet file; whole row groups are skipped without being read."""

    unit = "bytes"

    def __init__(self, path: Path, fields: FieldMapping) -> None:
        self._path, self._fields = path, fields
        self.name = printable_path(path)
        self.size = path.stat().st_size

    def identity(self) -> dict[str, Any]:
        return {"kind": "parquet", **file_identity(self._path)}

    def rows(self, skip: SkipCounter) -> Iterator[RawRecord]:
        """All rows; a row group that cannot be read gives bad rows, so that the numbers of later rows stay the same."""
        arrow, parquet = load("pyarrow", "memory"), load("pyarrow.parquet", "memory")
        try:
            # Without read-ahead: a row group can be larger than memory.
            file = parquet.ParquetFile(self._path, pre_buffer=False)
        except (arrow.ArrowException, OSError) as error:
            if not skip.one():
                problem = f"{printable_path(self._path.name)} is not a sound Parquet file: {_short_error(error)}"
                yield RawRecord(self.name, problem=problem, position=self.size)
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
    ) -> Iterator[RawRecord]:
        arrow = load("pyarrow", "memory")
        done, total = 0, max(file.metadata.num_rows, 1)
        problem = None
        try:
            for batch in file.iter_batches(_PARQUET_BATCH_ROWS, row_groups=[group], columns=columns):
                if skip.block(batch.num_rows):
                    done += batch.num_rows
                    continue
                for value in self._values(batch):
                    done += 1
                    if not skip.one():
                        at = first + done
                        where, position = f"{self.name}: row {at}", self.size * at // total
                        if isinstance(value, str):
                            yield RawRecord(where, problem=value, position=position)
                        else:
                            yield RawRecord(where, value, None, position)
        except (arrow.ArrowException, OSError) as error:
            problem = f"row group {group} of {printable_path(self._path.name)} cannot be read: {_short_error(error)}"
        for at in range(first + done + 1, first + length + 1):
            if not skip.one():
                yield RawRecord(f"{self.name}: row {at}", problem=problem, position=self.size * at // total)

    def _values(self, batch: Any) -> list[dict[str, Any] | str]:
        """The rows as mappings; a text in place of one says why it cannot be read."""
        arrow = load("pyarrow", "memory")
        names = batch.schema.names
        columns = []
        for name, column in zip(names, batch.columns, strict=True):
            if arrow.types.is_timestamp(column.type) and column.type.unit == "ns":
                # Python's dates know no nanoseconds.
                column = column.cast(arrow.timestamp("us", column.type.tz), safe=False)
            if name == self._fields.vector and column.type.num_fields == 1:
                # Numbers stay an array rather than a list of Python's numbers.
                columns.append([_numbers(entry) for entry in column])
            else:
                columns.append(_plain_values(column))
        rows: list[dict[str, Any] | str] = []
        for values in zip(*columns, strict=True):
            wrong = next((value for value in values if isinstance(value, _UnreadableValue)), None)
            rows.append(str(wrong) if wrong is not None else dict(zip(names, values, strict=True)))
        return rows

    def _columns(self, names: list[str]) -> list[str] | None:
        """The columns that hold the fields, some of which are nested in columns."""
        needed = self._fields.columns
        if needed is None:
            return None
        top = {name if name in names else name.split(".")[0] for name in needed} | {"meta"}
        return [name for name in names if name in top]


class _UnreadableValue(str):
    """The reason why a value cannot be read, in its place."""

    __slots__ = ()


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
        return _UnreadableValue("not UTF-8")
    except ValueError as error:
        return _UnreadableValue(f"a value that cannot be read: {error}")


def _numbers(entry: Any) -> Any:
    return None if not entry.is_valid else entry.values.to_numpy(zero_copy_only=False)


def _short_error(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
