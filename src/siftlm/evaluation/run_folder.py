"""Is a record what it should be? A line may be whole JSON and still be damaged, or written by something else."""

from __future__ import annotations

import contextlib
import errno
import gzip
import hashlib
import json
import math
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from siftlm.errors import Conflict, InvalidInput, Unwritable
from siftlm.evaluation.fingerprints import model_fingerprint
from siftlm.memory import durability

# No count of tokens, bytes or rows is as large, and arrays of numbers hold no larger one.
MAX_COUNT = 2**62

FieldCheck = Callable[[Any], bool]


def is_valid_record(value: Any) -> bool:
    """Has it all that is needed, and is what it has of the right kind?

    >>> one = {"text": "3f", "method": "nn", "base": 2.0, "curve": [[0, 2.0], [5, 1.5]]}
    >>> is_valid_record(one), is_valid_record({**one, "bytes": -1}), is_valid_record({**one, "curve": []})
    (True, False, False)
    """
    if not isinstance(value, Mapping) or not value.keys() >= REQUIRED_FIELDS:
        return False
    return all(check(value[name]) for name, check in FIELD_CHECKS.items() if name in value)


def _is_name(value: Any) -> bool:
    if not isinstance(value, str):
        return False
    try:
        value.encode()
    except UnicodeEncodeError:  # half of a character cannot be written anywhere
        return False
    return bool(value)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < MAX_COUNT


def _is_number(value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return -MAX_COUNT < value < MAX_COUNT if isinstance(value, int) else math.isfinite(value)


def _is_number_or_none(value: Any) -> bool:
    """None stands for what is no number."""
    return value is None or _is_number(value)


def _list_of(check: FieldCheck) -> FieldCheck:
    return lambda value: isinstance(value, list) and all(map(check, value))


def _is_curve(value: Any) -> bool:
    points = isinstance(value, list) and all(isinstance(one, list) and len(one) == 2 for one in value)
    return points and bool(value) and all(_is_count(step) and _is_number_or_none(bits) for step, bits in value)


def _is_seconds(value: Any) -> bool:
    return isinstance(value, Mapping) and all(map(_is_number, value.values()))


def _is_mapping(value: Any) -> bool:
    return isinstance(value, Mapping)


REQUIRED_FIELDS = {"text", "method", "base", "curve"}
FIELD_CHECKS: Mapping[str, FieldCheck] = {
    **dict.fromkeys(("text", "method", "domain", "ended"), _is_name),
    **dict.fromkeys(("bytes", "tokens", "considered", "kept", "copies"), _is_count),
    **dict.fromkeys(("rows", "learned"), _list_of(_is_count)),
    **dict.fromkeys(("scores", "uncertainty"), _list_of(_is_number)),
    "losses": _list_of(_is_number_or_none),
    "base": _is_number_or_none,
    "curve": _is_curve,
    "seconds": _is_seconds,
    "extra": _is_mapping,
    "settings": _is_mapping,
}


QUESTION_FILE, RECORDS_FILE, CLAIMS_FILE = "run.json", "records.jsonl", "claims"
RUN_FORMAT = 1
# Parts of a question that earlier versions did not write down.
OPTIONAL_QUESTION_FIELDS = {"corpus.text", "corpus.contents"}
# Ways to hold a folder of records that is only read, as the study's are kept.
COMPRESSED_RECORDS_FILE = RECORDS_FILE + ".gz"


class RunFolder:
    """Opened for writing by `begin`; `read` needs no more than the files."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.records: dict[tuple[str, str], dict[str, Any]] = {}
        """(text, method) -> record."""
        self.recorded_settings: set[str] = set()
        """The methods whose settings some record has."""
        self._record_check: Callable[[Mapping[str, Any]], None] | None = None
        self._read_to = 0
        if path.exists() and not path.is_dir():
            raise Unwritable(f"{path}: is a file, and a run is a folder; give --out another name")
        with durability.translate_write_errors(path):
            path.mkdir(parents=True, exist_ok=True)
            # One file for all locks of this process: closing any other of the same name would lose them.
            self._claims = open(path / CLAIMS_FILE, "ab+")  # noqa: SIM115 — until `close`

    @classmethod
    def begin(cls, path: str | os.PathLike[str], question: Mapping[str, Any]) -> RunFolder:
        """A new run, or the one that is there, if it asks the same."""
        folder = cls(Path(path))
        asked = json.loads(json.dumps({"format": RUN_FORMAT, **question}))
        with durability.translate_write_errors(folder.path):
            try:
                with _file_lock(folder._claims, 0):
                    if (folder.path / QUESTION_FILE).exists():
                        _check_same_question(folder.path, question_of(folder.path), asked)
                    else:
                        durability.atomic_replace(
                            folder.path / QUESTION_FILE, (json.dumps(asked, indent=1) + "\n").encode()
                        )
            except BaseException:
                folder.close()
                raise
        folder.refresh()
        return folder

    def close(self) -> None:
        """Let go of all locks."""
        self._claims.close()

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def add_record_check(self, look: Callable[[Mapping[str, Any]], None]) -> None:
        """Show every record to ``look``, those that are to come as well; what it raises ends the reading."""
        self._record_check = look
        for record in self.records.values():
            look(record)

    def refresh(self) -> None:
        """Read what came since, from other processes too."""
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
        """Keep a result; it is on disk when this returns."""
        text = json.dumps(record, ensure_ascii=False, allow_nan=False)
        if not is_valid_record(json.loads(text)):
            raise InvalidInput(f"method {record.get('method')!r} gave a result that nobody could read: {text:.200}")
        line = (text + "\n").encode()
        with (
            durability.translate_write_errors(self.path),
            _file_lock(self._claims, 0),
            open(self.path / RECORDS_FILE, "ab+") as file,
        ):
            self.refresh()  # nobody writes meanwhile: what `look_at_each` refuses is not there, and cannot come
            if file.seek(0, os.SEEK_END):
                file.seek(-1, os.SEEK_END)
                if file.read(1) != b"\n":
                    line = b"\n" + line  # somebody was killed while writing
            file.write(line)
            file.flush()
            os.fsync(file.fileno())
        self.refresh()

    @contextlib.contextmanager
    def claim(self, text: str, method: str) -> Iterator[bool]:
        """Hold the work on one method and text; False where another process has it or it is done."""
        place = int.from_bytes(hashlib.blake2b(f"{text} {method}".encode(), digest_size=7).digest(), "big") + 1
        with _file_lock(self._claims, place, wait=False) as mine:
            if mine:
                self.refresh()
            yield mine and (text, method) not in self.records


def question_of(path: str | os.PathLike[str]) -> dict[str, Any]:
    """What a run asks."""
    file = Path(path) / QUESTION_FILE
    try:
        known = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InvalidInput(
            f"{path}: is no run: it has no {QUESTION_FILE}; `siftlm eval --out {path}` makes one"
        ) from error
    except (ValueError, OSError, RecursionError) as error:
        raise InvalidInput(f"{file}: cannot be read: {error}") from error
    if not isinstance(known, dict) or known.get("format") != RUN_FORMAT:
        raise InvalidInput(f"{file}: is not of format {RUN_FORMAT}, which this version of siftlm reads")
    return known


def records_of(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """All results of a run, the last one of each method and text; ``records.jsonl.gz`` will do as well."""
    plain, packed = Path(path) / RECORDS_FILE, Path(path) / COMPRESSED_RECORDS_FILE
    try:
        raw = plain.read_bytes() if plain.exists() else gzip.decompress(packed.read_bytes()) if packed.exists() else b""
    except (OSError, EOFError) as error:
        raise InvalidInput(f"{path}: its records cannot be read: {error}") from error
    return list({(record["text"], record["method"]): record for record in _parse_records(raw)}.values())


def _parse_records(raw: bytes) -> Iterator[dict[str, Any]]:
    """The readable ones."""
    for line in raw.split(b"\n"):
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if is_valid_record(record):
            yield record


def _check_same_question(path: Path, there: Mapping[str, Any], asked: Mapping[str, Any]) -> None:
    old, new = (_flatten_question({**one, "model": model_fingerprint(one.get("model"))}) for one in (there, asked))
    # The version does not count: what it changed is seen in the settings.
    for name in sorted({*old, *new} - {"siftlm"} - (OPTIONAL_QUESTION_FIELDS - (old.keys() & new.keys()))):
        if old.get(name) != new.get(name):
            raise Conflict(
                f"{path}: holds a run with {name}={_short(old.get(name))}, and this one has "
                f"{_short(new.get(name))}; give --out another folder"
            )


def _flatten_question(question: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """``protocol.n`` and its like: what differs is to be named."""
    found: dict[str, Any] = {}
    for name, value in question.items():
        found.update(
            _flatten_question(value, f"{before}{name}.") if isinstance(value, dict) else {before + name: value}
        )
    return found


def _short(value: Any) -> str:
    return json.dumps(value)[:200]


if sys.platform == "win32":
    import msvcrt

    @contextlib.contextmanager
    def _file_lock(file: IO[bytes], place: int, *, wait: bool = True) -> Iterator[bool]:
        place %= 2**31 - 2  # two that share a place only wait for each other
        while True:
            try:
                file.seek(place)
                msvcrt.locking(file.fileno(), msvcrt.LK_LOCK if wait else msvcrt.LK_NBLCK, 1)
                break
            except OSError as error:
                if wait and error.errno in (errno.EDEADLK, errno.EACCES):
                    continue  # it gives up after ten seconds, and nothing may be written without the lock
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
