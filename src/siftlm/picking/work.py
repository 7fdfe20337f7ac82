"""The work folder of a choice or a review: vectors and figures of the records that were read, and the results so far.

    job.json        what the folder belongs to: pool, targets, settings
    vectors.f32     (rows, d) float32 of unit length
    rows.bin        a row of `ROW` for each vector
    state.json      how many records, vectors and rows are on the disk
    options.jsonl   of each row, the values of the fields that options of the method name
    picks.npz       the picks so far, or all of them; of a review, the neighbours of each record
    signals.jsonl   of a review: what was measured of each record, a line a record and stage

Vectors and rows are flushed before the state counts them, so a crash leaves bytes that nothing names.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from siftlm.errors import Conflict, Damaged, setting
from siftlm.memory import durability
from siftlm.types import FloatArray, IntArray, Vectors

FORMAT = 1
JOB_FILE, STATE_FILE, PICKS_FILE = "job.json", "state.json", "picks.npz"
VECTORS_FILE, ROWS_FILE, OPTIONS_FILE, SIGNALS_FILE = "vectors.f32", "rows.bin", "options.jsonl", "signals.jsonl"
READ_FILES = (STATE_FILE, ROWS_FILE, OPTIONS_FILE, VECTORS_FILE)
WORK_FILES = {JOB_FILE, PICKS_FILE, SIGNALS_FILE, *READ_FILES, durability.LOCK_FILE}
# Of each record that has a vector.
ROW = np.dtype(
    [
        ("number", "<i8"),  # in the pool, counted from 0
        ("digest", "<u8"),  # of its text
        ("cost", "<f8"),
        ("quality", "<f8"),
        ("label", "<i4"),  # of its source, as a number
        ("copied", "<f4"),  # the share of its wording that a target has too
    ]
)
Rows = npt.NDArray[Any]
COMPLAINTS = 5
# Vectors of up to so many bytes are held in memory.
MAX_LOADED_BYTES = 4 << 30


@dataclass
class ReadState:
    """How far the pool was read."""

    records: int = 0
    rows: int = 0
    unusable: int = 0
    complaints: list[str] = field(default_factory=list)
    """Of the first unusable records."""
    labels: list[str] = field(default_factory=list)
    """The sources, in the order of their numbers."""
    width: int = 0
    option_bytes: int = 0
    complete: bool = False


class WorkFolder:
    """The folder, held by one process; see `hold`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.state = ReadState()
        self._vectors: IO[bytes] | None = None
        self._rows: IO[bytes] | None = None
        self._options: IO[bytes] | None = None

    @classmethod
    @contextlib.contextmanager
    def hold(cls, path: Path, command: str = "pick") -> Iterator[WorkFolder]:
        """The folder, created where there is none, for this process alone."""
        if path.exists() and not path.is_dir():
            raise Conflict(f"{path}: is a file, and siftlm {command} keeps its work in a folder of that name")
        if path.exists() and (foreign := sorted(set(os.listdir(path)) - WORK_FILES)):
            own = [name for name in foreign if not name.endswith(".new")]
            if own:
                raise Conflict(f"{path}: holds {own[0]!r}, so it is no work folder of siftlm {command}; move it away")
        with durability.translate_write_errors(path):
            path.mkdir(parents=True, exist_ok=True)
            with durability.writer_lock(path, command):
                work = cls(path)
                try:
                    yield work
                finally:
                    work.close()

    # --- what it belongs to

    def job(self) -> dict[str, Any]:
        """What the folder belongs to; empty for a new one."""
        try:
            job = json.loads((self.path / JOB_FILE).read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {}
        except (ValueError, OSError) as error:
            raise Damaged(f"{self.path / JOB_FILE}: cannot be read: {error}") from error
        return job if isinstance(job, dict) and job.get("format") == FORMAT else {"format": "unknown"}

    def write_job(self, job: Mapping[str, Any]) -> None:
        """Record what the folder belongs to from now on."""
        content = json.dumps({"format": FORMAT, **job}, indent=1, ensure_ascii=False)
        durability.atomic_replace(self.path / JOB_FILE, (content + "\n").encode())

    def clear(self, *names: str) -> None:
        """Remove these files, or all."""
        self.close()
        for name in names or (JOB_FILE, PICKS_FILE, SIGNALS_FILE, *READ_FILES):
            (self.path / name).unlink(missing_ok=True)
        if not names or STATE_FILE in names:
            self.state = ReadState()

    # --- the records that were read

    def open(self, *, with_vectors: bool = True) -> ReadState:
        """Go on where the last commit ended."""
        self.read_state()
        self._rows = _opened(self.path / ROWS_FILE, self.state.rows * ROW.itemsize)
        self._options = _opened(self.path / OPTIONS_FILE, self.state.option_bytes)
        if with_vectors:
            self._vectors = _opened(self.path / VECTORS_FILE, self.state.rows * self.state.width * 4)
        return self.state

    def begin_rows(self) -> None:
        """Count no records, so that their rows are made anew; the vectors stay."""
        self.state = ReadState(width=self.state.width)
        self.commit()

    def add(self, rows: Rows, vectors: Vectors | None, options: Sequence[Sequence[Any]] = ()) -> None:
        """Append rows, their vectors and their options; `commit` makes them count."""
        if self._rows is None or self._options is None:
            raise RuntimeError("the folder is not open")
        self._rows.write(rows.tobytes())
        self.state.rows += len(rows)
        self.state.option_bytes += self._options.write("".join(json.dumps(one) + "\n" for one in options).encode())
        if vectors is not None and self._vectors is not None:
            self._vectors.write(np.ascontiguousarray(vectors, dtype="<f4").tobytes())
            self.state.width = vectors.shape[1]

    def commit(self) -> None:
        """Make everything that was added count, and `state` with it."""
        for file in (self._vectors, self._rows, self._options):
            if file is not None:
                durability.sync_file(file)
        durability.atomic_replace(self.path / STATE_FILE, (json.dumps(asdict(self.state)) + "\n").encode())

    def close(self) -> None:
        """Close the files."""
        for file in (self._vectors, self._rows, self._options):
            if file is not None:
                file.close()
        self._vectors = self._rows = self._options = None

    def rows(self) -> Rows:
        """A row of `ROW` for each vector."""
        self._check_size(ROWS_FILE, self.state.rows * ROW.itemsize)
        return np.fromfile(self.path / ROWS_FILE, dtype=ROW, count=self.state.rows)

    def _check_size(self, name: str, needed: int) -> None:
        """Raise where a file is shorter than what was committed."""
        path = self.path / name
        size = path.stat().st_size if path.exists() else 0
        if size < needed:
            raise Damaged(f"{path}: has {size:,} bytes of {needed:,}; {_restart()}")

    def options(self) -> list[list[Any]]:
        """Of each row, the values of the fields that options name."""
        if not self.state.option_bytes:
            return []
        self._check_size(OPTIONS_FILE, self.state.option_bytes)
        try:
            with open(self.path / OPTIONS_FILE, "rb") as file:
                lines = file.read(self.state.option_bytes).splitlines()
            return [json.loads(line) for line in lines]
        except (OSError, ValueError) as error:
            raise Damaged(f"{self.path / OPTIONS_FILE}: cannot be read: {error}; {_restart()}") from error

    def vectors(self) -> Vectors:
        """(rows, d): in memory where they are not too many, else mapped."""
        shape = (self.state.rows, self.state.width)
        if not self.state.rows:
            return np.zeros(shape, dtype=np.float32)
        self._check_size(VECTORS_FILE, shape[0] * shape[1] * 4)
        # Every pick goes over all of them, and pages of a map may be taken away in between.
        if shape[0] * shape[1] * 4 <= MAX_LOADED_BYTES:
            return np.fromfile(self.path / VECTORS_FILE, dtype="<f4", count=shape[0] * shape[1]).reshape(shape)
        return np.memmap(self.path / VECTORS_FILE, dtype="<f4", mode="r", shape=shape).view(np.ndarray)

    def read_state(self) -> ReadState:
        """The state that was last committed."""
        path = self.path / STATE_FILE
        try:
            self.state = ReadState(**json.loads(path.read_text(encoding="utf-8")))
        except FileNotFoundError:
            self.state = ReadState()
        except (ValueError, TypeError, OSError) as error:
            raise Damaged(f"{path}: cannot be read: {error}; {_restart()}") from error
        return self.state

    # --- the picks

    def save_picks(self, **arrays: Any) -> None:
        """Replace the picks."""
        buffer = io.BytesIO()
        np.savez(buffer, **arrays)
        durability.atomic_replace(self.path / PICKS_FILE, buffer.getvalue())

    def picks(self) -> dict[str, Any]:
        """The picks so far; empty where there are none."""
        path = self.path / PICKS_FILE
        if not path.exists():
            return {}
        try:
            with np.load(path, allow_pickle=False) as archive:
                return dict(archive)
        except (OSError, ValueError, EOFError) as error:
            raise Damaged(f"{path}: cannot be read: {error}; {_restart()}") from error

    # --- what was measured of each record

    def add_signals(self, lines: Sequence[Mapping[str, Any]]) -> None:
        """Append what was measured; it is on disk when this returns."""
        content = "".join(json.dumps(line, ensure_ascii=True) + "\n" for line in lines).encode()
        with open(self.path / SIGNALS_FILE, "ab+") as file:
            if file.seek(0, os.SEEK_END):
                file.seek(-1, os.SEEK_END)
                if file.read(1) != b"\n":
                    content = b"\n" + content  # a process was killed while writing
            file.write(content)
            durability.sync_file(file)

    def signals(self) -> list[dict[str, Any]]:
        """What was measured so far; a line that a kill cut short does not count."""
        try:
            raw = (self.path / SIGNALS_FILE).read_bytes()
        except FileNotFoundError:
            return []
        found = []
        for line in raw.split(b"\n"):
            with contextlib.suppress(ValueError):
                if isinstance(one := json.loads(line), dict):
                    found.append(one)
        return found


def _restart() -> str:
    return f"{setting('restart', True)} begins anew"


def _opened(path: Path, size: int) -> IO[bytes]:
    """The file, cut to the size that was committed."""
    path.touch()
    if path.stat().st_size < size:
        raise Damaged(f"{path}: has {path.stat().st_size:,} bytes of {size:,}; {_restart()}")
    file = open(path, "r+b")  # noqa: SIM115  closed by close()
    file.truncate(size)
    file.seek(size)
    return file


@contextlib.contextmanager
def work_folder(out: Path | None, command: str) -> Iterator[Path]:
    """The work folder beside the output; or a temporary one, which stays unless there is an error."""
    if out is not None:
        yield out.with_name(out.name + ".work")
        return
    folder = Path(tempfile.mkdtemp(prefix=f"siftlm-{command}-"))
    try:
        yield folder
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


@dataclass(frozen=True, eq=False)
class Embedded:
    """A pool after it was read: the vectors of its usable records, and what is known of each."""

    vectors: Vectors
    """(K, d)"""
    rows: Rows
    """(K,) of `ROW`."""
    labels: tuple[str, ...]
    state: ReadState
    options: Sequence[Sequence[Any]] = ()
    """(K,) the values of the fields that options of the method name."""

    @property
    def numbers(self) -> IntArray:
        """(K,) the record of each vector."""
        return self.rows["number"].astype(np.int64)

    def column(self, name: str) -> FloatArray:
        """(K,) a column of `ROW` as float64."""
        return self.rows[name].astype(np.float64)
