"""Every result the moment it is known, a JSON object a line: a crash loses at most the one that was being written."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from siftlm.errors import InvalidInput
from siftlm.memory import durability

LOG_FILE = "calibration.jsonl"
LOG_FORMAT = 1


class CalibrationLog:
    """What was found so far for one question. Another question, or ``again``, begins a new log."""

    def __init__(self, path: Path | None, question: Mapping[str, Any], *, again: bool = False) -> None:
        self._path = path
        # As it will be read: tuples become lists.
        head = json.loads(json.dumps({"format": LOG_FORMAT, "question": question}))
        self.records: list[dict[str, Any]] = []
        if path is None:
            return
        known, size = _read_log(path)
        if known and known[0] == head and not again:
            self.records = known[1:]
            with durability.translate_write_errors(path), open(path, "rb+") as file:
                file.truncate(size)  # without the line that a crash left unfinished
            return
        with durability.translate_write_errors(path):
            durability.atomic_replace(path, _log_line(head))

    def add(self, **record: Any) -> dict[str, Any]:
        """Keep a result; returns it as it will be read."""
        line = _log_line(record)
        if self._path is not None:
            with durability.translate_write_errors(self._path), open(self._path, "ab") as file:
                file.write(line)
        kept: dict[str, Any] = json.loads(line)
        self.records.append(kept)
        return kept


def _log_line(record: Mapping[str, Any]) -> bytes:
    return (json.dumps(record, ensure_ascii=False) + "\n").encode()


def _read_log(path: Path) -> tuple[list[dict[str, Any]], int]:
    """The whole lines, and how many bytes they take."""
    try:
        raw = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return [], 0
    if raw and not raw.startswith(b'{"format": '):
        raise InvalidInput(f"{path}: is no log of a calibration, and will not be overwritten; choose another place")
    found: list[dict[str, Any]] = []
    size = 0
    for line in raw.splitlines(keepends=True):
        try:
            record = json.loads(line)
        except ValueError:
            break
        if not line.endswith(b"\n") or not isinstance(record, dict):
            break
        found.append(record)
        size += len(line)
    return found, size
