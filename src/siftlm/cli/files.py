"""Reading and writing files: vectors, texts, labels, numbers. An error begins with the file and the line."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import stat
import sys
import tempfile
import zipfile
import zlib
from array import array
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from siftlm.errors import Conflict, InvalidInput

MAP_FROM = 64 * 2**20  # bytes; a .npy file of this size or more is memory-mapped
FIELDS = ("embedding", "vector")
LINES = (".jsonl", ".ndjson")


def vectors(name: str) -> npt.NDArray[Any]:
    """The array in ``file.npy``, ``file.npz``, ``file.npz:key`` or ``file.jsonl``."""
    path, key = _split_key(name)
    suffix = path.suffix.lower()
    if suffix in LINES:
        return _embedded_lines(path)
    if suffix not in (".npy", ".npz"):
        raise InvalidInput(f"{path}: vectors are read from .npy, .npz (file.npz:key) or .jsonl")
    array = _npy(path) if suffix == ".npy" else _npz(path, key)
    if array.ndim == 0:
        raise InvalidInput(f"{path}: holds a single value, not an array of vectors")
    return array


def _split_key(name: str) -> tuple[Path, str | None]:
    head, colon, key = name.rpartition(":")
    if colon and head.lower().endswith(".npz"):
        return Path(head), key
    return Path(name), None


def _npy(path: Path) -> npt.NDArray[Any]:
    big = path.stat().st_size >= MAP_FROM
    with _readable(path), path.open("rb") as file:
        if file.read(6) != b"\x93NUMPY":
            raise InvalidInput(f"{path}: is not a .npy file")
        file.seek(0)
        # A memory map needs the file's name.
        loaded: npt.NDArray[Any] = np.load(path if big else file, mmap_mode="r" if big else None, allow_pickle=False)
        return loaded


def _npz(path: Path, key: str | None) -> npt.NDArray[Any]:
    with path.open("rb") as file, _readable(path):
        if not zipfile.is_zipfile(file):
            raise InvalidInput(f"{path}: is not a .npz file")
        file.seek(0)
        with np.load(file, allow_pickle=False) as archive:
            names = archive.files
            if key is None and len(names) != 1:
                raise InvalidInput(f"{path}: holds several arrays; choose one: {path.name}:KEY of {', '.join(names)}")
            if key is not None and key not in names:
                raise InvalidInput(f"{path}: has no array {key!r}; it has: {', '.join(names)}")
            name = names[0] if key is None else key
            loaded: Any = archive[name]
            if not isinstance(loaded, np.ndarray):  # numpy returns other members as bytes
                raise InvalidInput(f"{path}: {name!r} in it is no array")
            return loaded


@contextlib.contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Turns numpy's errors about a broken file into one that names the file."""
    try:
        yield
    except InvalidInput:
        raise
    except (ValueError, EOFError, SyntaxError, zipfile.BadZipFile, zlib.error) as error:
        if "pickle" in str(error):
            raise InvalidInput(f"{path}: holds pickled Python objects, which are never loaded") from error
        raise InvalidInput(f"{path}: cannot be read: {error}") from error


def _embedded_lines(path: Path) -> npt.NDArray[Any]:
    numbers = array("d")
    width = rows = 0
    for where, record in json_lines(path):
        if isinstance(record, dict):
            field = next((name for name in FIELDS if name in record), None)
            if field is None:
                raise InvalidInput(f"{where}: has neither 'embedding' nor 'vector'")
            record = record[field]
        if not isinstance(record, list) or not record:
            raise InvalidInput(f"{where}: the vector is not a list of numbers")
        if rows and len(record) != width:
            raise InvalidInput(f"{where}: the vector has width {len(record)}, those before it {width}")
        width, rows = len(record), rows + 1
        try:
            numbers.extend(record)
        except (TypeError, OverflowError) as error:
            raise InvalidInput(f"{where}: the vector is not a list of numbers: {error}") from error
    if not rows:
        raise InvalidInput(f"{path}: holds no vectors")
    return np.frombuffer(numbers, dtype=np.float64).reshape(rows, width)


def lines(path: str | Path) -> Iterator[tuple[str, str]]:
    """``file:line`` and the line without its end, for each line of a UTF-8 file."""
    number = 0
    try:
        with open(path, encoding="utf-8-sig") as file:
            for number, line in enumerate(file, start=1):
                yield f"{path}:{number}", line.rstrip("\n")
    except UnicodeDecodeError as error:
        where = f" after line {number}" if number else ""
        raise InvalidInput(f"{path}: is not UTF-8 text{where}: {error.reason}") from error


def json_lines(path: str | Path) -> Iterator[tuple[str, Any]]:
    """``file:line`` and the value, for each line that is not blank."""
    for where, line in lines(path):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except json.JSONDecodeError as error:
            raise InvalidInput(f"{where}: is not JSON: {error.msg} at column {error.colno}") from error
        except RecursionError as error:
            raise InvalidInput(f"{where}: is nested too deeply") from error
        yield where, value


def text(path: str) -> str:
    """The content of a UTF-8 file."""
    return "\n".join(line for _, line in lines(path))


def one_text(arguments: argparse.Namespace, kind: str, *names: str) -> None:
    """Check that exactly one of these arguments is set: a positional one named ``kind``, and flags."""
    present = [name for name in names if getattr(arguments, name) is not None]
    options = ["--" + name.replace("_", "-") for name in names if name != kind]
    if not present:
        sources = ", ".join([f"no {kind}: pass it in quotes", "- for stdin", *options[:-1]])
        raise InvalidInput(f"{sources} or {options[-1]}")
    if len(present) > 1:
        first, second = (f"the {kind}" if name == kind else "--" + name.replace("_", "-") for name in present[:2])
        raise Conflict(f"{first} and {second} exclude each other")


def argument_text(word: str | None, path: str | None) -> str:
    """The text of an argument: of a file, of stdin where the word is ``-``, or the word itself."""
    if path is not None:
        return text(path)
    return _stdin_text() if word == "-" else word or ""


def _stdin_text() -> str:
    if sys.stdin is None:
        raise InvalidInput("standard input is closed")
    raw = getattr(sys.stdin, "buffer", None)
    try:
        return sys.stdin.read() if raw is None else raw.read().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidInput(f"standard input: is not UTF-8 text: {error.reason}") from error


def records(path: str, field: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """``file:line`` and an object with this text field, for each line; a line may also be a JSON string."""
    for where, value in json_lines(path):
        record = {field: value} if isinstance(value, str) else value
        if not isinstance(record, dict) or not isinstance(record.get(field), str):
            raise InvalidInput(f"{where}: is neither a JSON string nor an object with a '{field}' text")
        yield where, record


def prompts(path: str) -> Iterator[dict[str, Any]]:
    """Objects with a ``prompt``, one a line; an error where there are none."""
    where = ""
    for where, record in records(path, "prompt"):
        if not record["prompt"].strip():
            raise InvalidInput(f"{where}: the prompt is empty")
        yield record
    if not where:
        raise InvalidInput(f"{path}: holds no prompts")


def texts(path: str, count: int) -> list[str]:
    """One text per candidate: the lines of a file, or the field ``text`` of a .jsonl file."""
    if Path(path).suffix.lower() in LINES:
        rows = []
        for where, record in json_lines(path):
            text = record.get("text") if isinstance(record, dict) else record
            if not isinstance(text, str):
                raise InvalidInput(f"{where}: has no 'text'")
            rows.append(text)
    else:
        rows = [line for _, line in lines(path)]
    return _check_count(path, rows, count)


def labels(path: str, count: int) -> list[str]:
    """One label per candidate, one per line."""
    return _check_count(path, [line.strip() for _, line in lines(path)], count)


def numbers(path: str) -> npt.NDArray[Any]:
    """Numbers from .npy or .npz, or one per line."""
    if _split_key(path)[0].suffix.lower() in (".npy", ".npz"):
        return vectors(path)
    return np.array(_parsed_lines(path, float, "a number"), dtype=np.float64)


def ids(path: str) -> npt.NDArray[Any]:
    """Indices of candidates from .npy or .npz, or one per line."""
    if _split_key(path)[0].suffix.lower() in (".npy", ".npz"):
        return vectors(path)
    return np.array(_parsed_lines(path, int, "an index"), dtype=np.int64)


def _parsed_lines(path: str, convert: Callable[[str], Any], expected: str) -> list[Any]:
    values = []
    for where, line in lines(path):
        if line.strip():
            try:
                values.append(convert(line.strip()))
            except ValueError as error:
                raise InvalidInput(f"{where}: {line.strip()[:40]!r} is not {expected}") from error
    return values


def _check_count(path: str, rows: list[str], count: int) -> list[str]:
    if len(rows) != count:
        raise InvalidInput(f"{path}: has {len(rows)} line{'s' * (len(rows) != 1)} for {count} candidates")
    return rows


@contextlib.contextmanager
def replacing(path: str) -> Iterator[Path]:
    """A new file to write to, which replaces ``path`` at the end; an error leaves ``path`` unchanged.

    A pipe or a device is not replaced: the new file's content is copied into it.
    """
    if _is_special(path):
        with _copied_into(path) as new:
            yield new
        return
    target = Path(os.path.realpath(path))  # a symbolic link is kept
    try:
        handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.", suffix=target.suffix)
    except OSError as error:  # name the user's path, not the temporary file
        raise OSError(error.errno, error.strerror, path) from error
    os.close(handle)
    new = Path(name)
    try:
        yield new
        with new.open("rb+") as file:
            os.fsync(file.fileno())
        new.chmod(target.stat().st_mode & 0o777 if target.exists() else 0o666 & ~_umask())
        os.replace(new, target)
    except OSError as error:
        new.unlink(missing_ok=True)
        raise OSError(error.errno, error.strerror, path) from error
    except BaseException:
        new.unlink(missing_ok=True)
        raise


def _is_special(path: str) -> bool:
    """Whether ``path`` is a pipe, a device or anything else but a regular file; symbolic links are followed."""
    try:
        return not stat.S_ISREG(os.stat(path).st_mode)
    except OSError:  # no such file, or an error that writing will raise as well
        return False


@contextlib.contextmanager
def _copied_into(path: str) -> Iterator[Path]:
    """A temporary file whose content is copied into ``path`` at the end: a figure cannot be drawn into a pipe."""
    with tempfile.TemporaryDirectory(prefix="siftlm-") as folder:
        new = Path(folder, "new").with_suffix(Path(path).suffix)
        yield new
        try:
            with new.open("rb") as source, open(path, "wb") as sink:
                shutil.copyfileobj(source, sink)
        except OSError as error:
            raise OSError(error.errno, error.strerror, path) from error


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def write(path: str, text: str) -> None:
    """Write the text as a UTF-8 file, atomically."""
    with replacing(path) as new:
        new.write_text(text, encoding="utf-8", errors="replace", newline="\n")
