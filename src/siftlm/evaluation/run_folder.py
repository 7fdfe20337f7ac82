"""The folder of a run: its question, and one record for each method and text, shared by any number of processes.

A line of the log counts if it is a whole record. A line may be valid JSON and still be damaged, or somebody else's.
"""

from __future__ import annotations

import contextlib
import errno
import gzip
import hashlib
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from siftlm.errors import Conflict, InvalidInput, Unwritable, setting
from siftlm.evaluation.fingerprints import model_fingerprint
from siftlm.evaluation.measured import Measured, checked_name
from siftlm.memory import durability

QUESTION_FILE, RECORDS_FILE, CLAIMS_FILE = "run.json", "records.jsonl", "claims"
RUN_FORMAT = 1
# Parts of a question that earlier versions did not record.
OPTIONAL_QUESTION_FIELDS = {"corpus.text", "corpus.contents"}
# The records of a run that is only read, such as the study's.
COMPRESSED_RECORDS_FILE = RECORDS_FILE + ".gz"


class RunFolder:
    """A run's folder, open for writing; `question_of` and `records_of` read one without opening it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.records: dict[tuple[str, str], dict[str, Any]] = {}
        """(text, method) -> record."""
        self.recorded_settings: set[str] = set()
        """Methods whose settings are in some record."""
        self._record_check: Callable[[Mapping[str, Any]], None] | None = None
        self._read_to = 0
        if path.exists() and not path.is_dir():
            raise Unwritable(f"{path}: is a file, and a run is a folder; give {setting('into')} another name")
        with durability.translate_write_errors(path):
            path.mkdir(parents=True, exist_ok=True)
            # One file for all locks of this process: closing another handle of the same file would release them.
            self._claims = open(path / CLAIMS_FILE, "ab+")  # noqa: SIM115 — until `close`

    @classmethod
    def begin(cls, path: str | os.PathLike[str], question: Mapping[str, Any]) -> RunFolder:
        """A new run, or the existing one if its question is the same."""
        folder = cls(Path(path))
        content = json.loads(json.dumps({"format": RUN_FORMAT, **question}))
        with durability.translate_write_errors(folder.path):
            try:
                with _file_lock(folder._claims, 0):
                    if (folder.path / QUESTION_FILE).exists():
                        _check_same_question(folder.path, question_of(folder.path), content)
                    else:
                        durability.atomic_replace(
                            folder.path / QUESTION_FILE, (json.dumps(content, indent=1) + "\n").encode()
                        )
            except BaseException:
                folder.close()
                raise
        folder.refresh()
        return folder

    def close(self) -> None:
        """Release all locks."""
        self._claims.close()

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def add_record_check(self, check: Callable[[Mapping[str, Any]], None]) -> None:
        """Call ``check`` with every record, later ones included; its exception ends the reading."""
        self._record_check = check
        for record in self.records.values():
            check(record)

    def refresh(self) -> None:
        """Read the records added since, those of other processes included."""
        path = self.path / RECORDS_FILE
        if not path.exists():
            return
        with open(path, "rb") as file:
            file.seek(self._read_to)
            new = file.read()
        whole = new[: new.rfind(b"\n") + 1]
        self._read_to += len(whole)
        for record in _parse_records(whole):
            if self._record_check is not None:
                self._record_check(record)
            self.records[record["text"], record["method"]] = record
            if "settings" in record:
                self.recorded_settings.add(record["method"])

    def add(self, record: Mapping[str, Any]) -> None:
        """Store a record; it is on disk when this returns."""
        text = json.dumps(record, ensure_ascii=False, allow_nan=False)
        try:
            measured_in(json.loads(text))
        except InvalidInput as error:
            raise InvalidInput(f"method {record.get('method')!r} returned an unreadable result: {error}") from error
        line = (text + "\n").encode()
        with (
            durability.translate_write_errors(self.path),
            _file_lock(self._claims, 0),
            open(self.path / RECORDS_FILE, "ab+") as file,
        ):
            self.refresh()  # nobody else writes meanwhile, so a record that the check refuses is seen before ours
            if file.seek(0, os.SEEK_END):
                file.seek(-1, os.SEEK_END)
                if file.read(1) != b"\n":
                    line = b"\n" + line  # a process was killed while writing
            file.write(line)
            file.flush()
            os.fsync(file.fileno())
        self.refresh()

    @contextlib.contextmanager
    def claim(self, text: str, method: str) -> Iterator[bool]:
        """Claim one method and text for this process; False where another process has it or it is done."""
        place = int.from_bytes(hashlib.blake2b(f"{text} {method}".encode(), digest_size=7).digest(), "big") + 1
        with _file_lock(self._claims, place, wait=False) as mine:
            if mine:
                self.refresh()
            yield mine and (text, method) not in self.records


def question_of(path: str | os.PathLike[str]) -> dict[str, Any]:
    """A run's question."""
    file = Path(path) / QUESTION_FILE
    try:
        question = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InvalidInput(
            f"{path}: is no run: it has no {QUESTION_FILE}; `siftlm eval --out {path}` makes one"
        ) from error
    except (ValueError, OSError, RecursionError) as error:
        raise InvalidInput(f"{file}: cannot be read: {error}") from error
    if not isinstance(question, dict) or question.get("format") != RUN_FORMAT:
        raise InvalidInput(f"{file}: is not of format {RUN_FORMAT}, which this version of siftlm reads")
    return question


def records_of(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """All records of a run, the last one of each method and text, from ``records.jsonl`` or ``records.jsonl.gz``."""
    plain, packed = Path(path) / RECORDS_FILE, Path(path) / COMPRESSED_RECORDS_FILE
    try:
        raw = plain.read_bytes() if plain.exists() else gzip.decompress(packed.read_bytes()) if packed.exists() else b""
    except (OSError, EOFError) as error:
        raise InvalidInput(f"{path}: its records cannot be read: {error}") from error
    return list({(record["text"], record["method"]): record for record in _parse_records(raw)}.values())


def _parse_records(raw: bytes) -> Iterator[dict[str, Any]]:
    """The valid records among the lines."""
    for line in raw.split(b"\n"):
        try:
            record = json.loads(line)
            measured_in(record)
        except (ValueError, RecursionError):  # InvalidInput is a ValueError
            continue
        yield record


def measured_in(record: Any) -> Measured:
    """The result in a record of a run; an error names the first field that is missing or damaged.

    >>> measured_in({"text": "3f", "method": "nn", "base": 2.0, "curve": [[0, 2.0], [5, 1.5]]}).tuned
    1.5
    >>> measured_in({"text": "3f", "base": 2.0, "curve": [[0, 2.0]]})
    Traceback (most recent call last):
    siftlm.errors.InvalidInput: method must be a name, got None
    """
    if not isinstance(record, Mapping):
        raise InvalidInput(f"a record must be a JSON object, got {record!r:.80}")
    checked_name("text", record.get("text"))
    checked_name("method", record.get("method"))
    checked_name("domain", record.get("domain", "all"))
    if not isinstance(record.get("settings", {}), Mapping):
        raise InvalidInput(f"settings must be a mapping, got {record['settings']!r:.80}")
    return Measured.of(record)


def _check_same_question(path: Path, known: Mapping[str, Any], question: Mapping[str, Any]) -> None:
    old, new = (_flatten_question({**one, "model": model_fingerprint(one.get("model"))}) for one in (known, question))
    # The version does not count: its effect is seen in the settings.
    for name in sorted({*old, *new} - {"siftlm"} - (OPTIONAL_QUESTION_FIELDS - (old.keys() & new.keys()))):
        if old.get(name) != new.get(name):
            raise Conflict(
                f"{path}: holds a run with {name}={shown_value(old.get(name))}, and this one has "
                f"{shown_value(new.get(name))}; give {setting('into')} another folder"
            )


def _flatten_question(question: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """The question's fields under names such as ``protocol.n``, by which an error can name one."""
    fields: dict[str, Any] = {}
    for name, value in question.items():
        fields.update(
            _flatten_question(value, f"{before}{name}.") if isinstance(value, dict) else {before + name: value}
        )
    return fields


def shown_value(value: Any) -> str:
    """A value of a question as a message shows it: JSON, not too long."""
    return json.dumps(value)[:200]


if sys.platform == "win32":
    import msvcrt

    @contextlib.contextmanager
    def _file_lock(file: IO[bytes], place: int, *, wait: bool = True) -> Iterator[bool]:
        place %= 2**31 - 2  # two claims that share a byte only wait for each other
        while True:
            try:
                file.seek(place)
                msvcrt.locking(file.fileno(), msvcrt.LK_LOCK if wait else msvcrt.LK_NBLCK, 1)
                break
            except OSError as error:
                if wait and error.errno in (errno.EDEADLK, errno.EACCES):
                    continue  # locking gives up after ten seconds, and nothing may be written without the lock
                if wait:
                    raise
                yield False
                return
        try:
            yield True
        finally:
            file.seek(place)
            msvcrt.locking(file.fileno(), msvcrt.LK_UNLCK, 1)

else:
    import fcntl

    @contextlib.contextmanager
    def _file_lock(file: IO[bytes], place: int, *, wait: bool = True) -> Iterator[bool]:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB), 1, place)
        except OSError as error:
            if error.errno not in (errno.EWOULDBLOCK, errno.EACCES, errno.EAGAIN):
                raise
            yield False
            return
        try:
            yield True
        finally:
            fcntl.lockf(file, fcntl.LOCK_UN, 1, place)
