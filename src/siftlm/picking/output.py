"""The chosen records in a file: the same records, in the order of picking."""

from __future__ import annotations

import gzip
import io
import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from siftlm.errors import Conflict, InvalidInput, setting
from siftlm.extras import load
from siftlm.memory import durability
from siftlm.memory.reading.fields import plain_value
from siftlm.picking.pools import Pool
from siftlm.types import Document, FloatArray, json_number
from siftlm.validation import text_with_content

SUFFIXES = (".jsonl", ".jsonl.gz", ".parquet")
DEFAULT_FIELD = "siftlm"
# What Python writes and JSON does not know, and what is read as the same; strings are matched to be passed over.
NO_JSON = {"NaN": "null", "Infinity": "1e999", "-Infinity": "-1e999"}
WORD = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"|NaN|-?Infinity')


def check_output(out: Path, name: str = "out") -> None:
    """Raise unless records can be written to a file of this name; ``name`` is the setting."""
    if not out.name.lower().endswith(SUFFIXES):
        raise InvalidInput(f"{setting(name, str(out))}: records are written to {', '.join(SUFFIXES)}")
    if out.is_dir():
        raise InvalidInput(f"{setting(name, str(out))} is a folder")
    if not out.absolute().parent.is_dir():
        raise InvalidInput(f"{setting(name, str(out))}: there is no folder {out.absolute().parent}")


def output_file(name: str, out: Any) -> Path | None:
    """The file that a setting names, which records can be written to."""
    if out is None:
        return None
    if not isinstance(out, (str, os.PathLike)):
        raise InvalidInput(f"{setting(name)} must be the name of a file, got {out!r:.60}")
    check_output(path := Path(out), name)
    return path


def field_name(field: str | None) -> str | None:
    """The name of the field that is added to records; ``None`` for none."""
    return None if field is None else text_with_content("field", field)


def report_stem(path: str | os.PathLike[str], name: str = "report") -> Path:
    """The beginning of the names of a report's files; that of one of them, ``.html`` or ``.md``, will do.

    >>> report_stem("chosen.html").name, report_stem("chosen").name
    ('chosen', 'chosen')
    """
    stem = Path(path)
    if stem.suffix.lower() in (".html", ".md"):
        stem = stem.with_suffix("")
    if stem.name in ("", ".", "..") or stem.is_dir():
        raise InvalidInput(f"{setting(name, str(path))} must be the beginning of a file's name")
    if not stem.absolute().parent.is_dir():
        raise InvalidInput(f"{setting(name, str(path))}: there is no folder {stem.absolute().parent}")
    return stem


def input_files(*given: Any) -> list[Path]:
    """The files and folders among what a pool, targets or vectors may be."""
    found = []
    for one in given:
        if isinstance(one, (str, os.PathLike)):
            found.append(Path(one))
        elif isinstance(one, (list, tuple)):
            found += [Path(part) for part in one if isinstance(part, os.PathLike)]
    return found


def check_no_input(name: str, out: Path, inputs: Iterable[Path]) -> None:
    """Raise where writing a file would destroy what was read, or become a part of it."""
    real = out.resolve()
    for one in inputs:
        if one.is_dir() and real.is_relative_to(one.resolve()):
            raise Conflict(f"{setting(name, str(out))} lies in {one}, which is read, and would become a part of it")
        if one.is_file() and out.exists() and os.path.samefile(one, out):
            raise Conflict(f"{setting(name, str(out))} is read as well, and would be overwritten: name another file")


def annotated(
    records: Sequence[Any], sources: Sequence[str], gains: FloatArray, field: str | None
) -> list[dict[str, Any]]:
    """The records as mappings, each with its place in the order, its gain and its source under ``field``."""
    found = []
    for at, (record, source, gain) in enumerate(zip(records, sources, gains.tolist(), strict=True)):
        found.append(
            with_field(record, source, field, {"pick": at + 1, "gain": json_number(gain, 6), "source": source})
        )
    return found


def with_field(record: Any, source: str, field: str | None, value: Mapping[str, Any]) -> dict[str, Any]:
    """The record as a mapping, with what is known of it under ``field``."""
    plain = as_mapping(record)
    if field is None:
        return plain
    check_field(plain, source, field)
    return {**plain, field: dict(value)}


def check_field(record: Any, source: str, field: str | None) -> None:
    """Raise where a record has the field that is to be added."""
    if field is not None and field in as_mapping(record):
        raise Conflict(f"{source}: the record has a field {field!r} already; {setting('field')} names another")


def as_mapping(record: Any) -> dict[str, Any]:
    """A record as a mapping of fields: a text alone gets the field ``text``."""
    if isinstance(record, str):
        return {"text": record}
    if isinstance(record, Document):
        extra = {} if record.id is None else {"id": record.id}
        return {"text": record.text, **extra, **record.meta}
    return dict(record)


def write_records(out: Path, records: Sequence[Mapping[str, Any]], sources: Sequence[str], pool: Pool) -> None:
    """Write the records of a pool, whole or not at all."""
    if out.name.lower().endswith(".parquet"):
        content = _parquet(records, pool.schema())
    else:
        lines = [json_line(record, source) for record, source in zip(records, sources, strict=True)]
        content = "".join(lines).encode()
        if out.name.lower().endswith(".gz"):
            content = gzip.compress(content, mtime=0)
    with durability.translate_write_errors(out):
        durability.atomic_replace(out.absolute(), content)


def json_line(record: Mapping[str, Any], source: str) -> str:
    """A record as a line of JSON, also with numbers that JSON has no word for.

    >>> json_line({"a": float("inf"), "b": [float("nan"), "NaN"]}, "pool.jsonl:1")
    '{"a": 1e999, "b": [null, "NaN"]}\\n'
    """
    try:
        text = json.dumps(record, ensure_ascii=False, default=plain_value)
        text.encode()
    except UnicodeEncodeError:  # half of a surrogate pair, which JSON can only write as an escape
        text = json.dumps(record, default=plain_value)
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidInput(f"{source}: cannot be written as JSON: {error}; write .parquet instead") from error
    if any(word in text for word in NO_JSON):
        text = WORD.sub(lambda found: NO_JSON.get(found[0], found[0]), text)
    return text + "\n"


def _parquet(records: Sequence[Mapping[str, Any]], schema: Any) -> bytes:
    """A column for each field that any record has, of the type that the schema says."""
    arrow, parquet = load("pyarrow", "memory"), load("pyarrow.parquet", "memory")
    buffer = io.BytesIO()
    try:
        fields, columns = [], []
        for name in dict.fromkeys(name for record in records for name in record):
            values = [record.get(name) for record in records]
            known = -1 if schema is None else schema.get_field_index(name)
            column = arrow.array(values) if known < 0 else _column(values, schema.field(known).type)
            columns.append(column)
            fields.append(arrow.field(name, column.type))
        parquet.write_table(arrow.Table.from_arrays(columns, schema=arrow.schema(fields)), buffer)
    except (arrow.ArrowException, OverflowError, TypeError, ValueError) as error:
        raise InvalidInput(f"these records cannot be written as Parquet: {error}; write .jsonl instead") from error
    return buffer.getvalue()


def _column(values: Sequence[Any], kind: Any) -> Any:
    """The values as this type; as they are, where something else took the place of a record's own."""
    arrow = load("pyarrow", "memory")
    try:
        return arrow.array(values, type=kind)
    except (arrow.ArrowException, OverflowError, TypeError, ValueError):
        return arrow.array(values)
