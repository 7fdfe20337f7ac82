"""One memory from 10,000 passages to ten million: building, opening, searching, selecting among everything, compacting.

    python benchmarks/scale.py                                  all sizes and both formats; hours, and 25 GB of disk
    python benchmarks/scale.py --passages 10000 --passages 100000 --storage int8
    python benchmarks/scale.py --folder /a/large/disk --no-index --note "while other work ran"

Vectors are those of benchmarks/memory.py (unit, width 384, in 2,000 clusters), made block by block outside the clock;
queries are other vectors of these clusters; texts are sentences of about 80 characters, each different, with one number
as metadata. Each size and format is a record of benchmarks/results/scale.json, written as soon as it is measured: a run
that was interrupted goes on with the next, and what is there is measured anew only with ``--again``. Each phase is a
process of its own, so that its peak is its own.

    build      `Memory.add` in blocks of 50,000, each a commit; seconds of the clock and of the processor
    search     open and count, in a fresh process; the first search and then medians: exact nearest, SIFT's 20 of 200
    whole      SIFT's 20 among everything
    index      an IVF index: building it, searching with it, and how many of the exact 20 nearest it finds
    compact    one in a hundred documents deleted, and everything else copied

Peak memory is what the process owns (RssAnon): mapped pages of files are the system's to take back. Where the system
does not say, it is the resident peak.
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from machine import describe

from memory import given, texts, vectors
from siftlm import Memory

RESULT = Path(__file__).parent / "results" / "scale.json"
SIZES = (10_000, 100_000, 1_000_000, 10_000_000)
STORAGES = ("float16", "int8")
N, K = 20, 200
# Searches that a median is of, and queries that recall is the mean of.
SEARCHES, RECALLED = 7, 20
SAMPLE_SECONDS = 0.02


def anonymous_bytes() -> int | None:
    """The memory that this process owns, where the system says it."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("RssAnon:")), None)


def queries(count: int) -> list[np.ndarray]:
    """Vectors of the same clusters as the passages', and others than theirs."""
    return list(next(vectors(count)))


class Peak:
    """Looks at this process' memory as long as the block lasts."""

    def __enter__(self) -> Peak:
        self._most, self._ended = anonymous_bytes(), threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _look(self) -> None:
        while self._most is not None and not self._ended.wait(SAMPLE_SECONDS):
            self._most = max(self._most, anonymous_bytes() or 0)

    @property
    def bytes(self) -> int:
        resident = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return resident if self._most is None else self._most


def timed(work: Callable[[], object]) -> dict[str, float]:
    """Seconds of the clock, and of the processor with all threads together."""
    start, worked = time.perf_counter(), time.process_time()
    work()
    return {"seconds": time.perf_counter() - start, "processor": time.process_time() - worked}


def medians(work: Callable[[], object], rounds: int = SEARCHES) -> dict[str, float]:
    """The medians of some rounds."""
    runs = [timed(work) for _ in range(rounds)]
    return {name: statistics.median(run[name] for run in runs) for name in runs[0]}


# --- the phases, each in a process of its own


def build(folder: Path, passages: int, storage: str) -> dict[str, Any]:
    """Fill a new memory."""
    memory = Memory.create(folder, embedder=given(), storage=storage, full_text=False)
    took, done = {"seconds": 0.0, "processor": 0.0}, 0
    for block in vectors(passages):
        some = texts(done, len(block))
        metadata = [{"n": n} for n in range(done, done + len(block))]
        step = timed(lambda own=some, meta=metadata, rows=block: memory.add(own, meta, vectors=rows))
        took = {name: took[name] + step[name] for name in took}
        done += len(block)
    memory.close()
    files = {file.name: file.stat().st_size for file in sorted(folder.rglob("*")) if file.is_file()}
    return {**took, "files": {name: size for name, size in files.items() if size}}


def search(folder: Path, passages: int, storage: str) -> dict[str, Any]:
    """Open, and search exactly."""
    turn = iter(queries(4 * SEARCHES))
    opened: list[Memory] = []
    found: dict[str, Any] = {"open": timed(lambda: opened.append(Memory.open(folder)) or len(opened[0]))}
    [memory] = opened
    found["first"] = timed(lambda: memory.search(next(turn), n=N, method="nearest", exact=True))
    found["nearest"] = medians(lambda: memory.search(next(turn), n=N, method="nearest", exact=True))
    found["sift"] = medians(lambda: memory.search(next(turn), n=N, k=K, exact=True))
    return found


def whole(folder: Path, passages: int, storage: str) -> dict[str, Any]:
    """Select among everything; the larger it is, the fewer rounds."""
    turn, memory = iter(queries(8)), Memory.open(folder)
    return medians(lambda: memory.search(next(turn), n=N, k=None), 3 if passages < SIZES[2] else 1)


def index(folder: Path, passages: int, storage: str) -> dict[str, Any]:
    """Search by an index; without FAISS nothing."""
    try:
        import faiss  # noqa: F401
    except ImportError:
        return {}
    memory, own = Memory.open(folder), queries(RECALLED)
    built = timed(lambda: memory.build_index("ivf"))
    shares = []
    for query in own:
        exact = memory.search(query, n=N, method="nearest", exact=True)
        near = memory.search(query, n=N, method="nearest")
        shares.append(len({hit.row for hit in exact} & {hit.row for hit in near}) / len(exact))
    turn = iter(own)
    found = medians(lambda: memory.search(next(turn), n=N, method="nearest"))
    size = next(folder.glob("g*/index.faiss")).stat().st_size
    memory.drop_index()
    return {"build": built, "bytes": size, "recall": statistics.mean(shares), "nearest": found}


def compact(folder: Path, passages: int, storage: str) -> dict[str, Any]:
    """Delete one in a hundred, and copy the others."""
    memory = Memory.open(folder)
    deleted = timed(lambda: memory.delete(f"n < {passages // 100}"))
    return {"delete": deleted, **timed(memory.compact)}


PHASES: dict[str, Callable[[Path, int, str], dict[str, Any]]] = {
    "build": build,
    "search": search,
    "whole": whole,
    "index": index,
    "compact": compact,
}


def in_a_process(phase: str, folder: Path, passages: int, storage: str) -> dict[str, Any]:
    """The figures of a phase, and its peak memory."""
    command = [sys.executable, __file__, "--phase", phase, "--folder", folder]
    ran = subprocess.run(
        [*map(str, command), "--passages", str(passages), "--storage", storage], stdout=subprocess.PIPE, check=True
    )
    found: dict[str, Any] = json.loads(ran.stdout)
    return found


def run_phase(phase: str, folder: Path, passages: int, storage: str) -> None:
    """Measure a phase here, and print its figures."""
    before = anonymous_bytes() or 0
    with Peak() as peak:
        found = PHASES[phase](folder, passages, storage)
    print(json.dumps({**found, "peak_bytes": peak.bytes, "start_bytes": before}))


def measure(folder: Path, passages: int, storage: str, phases: list[str], note: str) -> dict[str, Any]:
    """The record of a size and a format."""
    place = folder / f"scale-{passages}-{storage}"
    shutil.rmtree(place, ignore_errors=True)  # of a run that was interrupted
    record: dict[str, Any] = {"passages": passages, "storage": storage}
    try:
        for phase in phases:
            record[phase] = in_a_process(phase, place, passages, storage)
            print(f"{passages:,} {storage} {phase}: {json.dumps(record[phase])}", flush=True)
    finally:
        shutil.rmtree(place, ignore_errors=True)
    return {**record, "note": note, "machine": describe("faiss-cpu")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--passages", type=int, action="append", help="a size; may be repeated")
    parser.add_argument("--storage", choices=STORAGES, action="append", help="a format; may be repeated")
    parser.add_argument("--folder", type=Path, help="where memories are made and removed; otherwise a temporary one")
    parser.add_argument("--no-index", action="store_true", help="without FAISS, which takes as much memory as vectors")
    parser.add_argument("--again", action="store_true", help="also what was measured already")
    parser.add_argument("--note", default="", help="what else must be known, such as other work on the machine")
    parser.add_argument("--phase", choices=PHASES, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.phase is not None:
        run_phase(arguments.phase, arguments.folder, arguments.passages[0], arguments.storage[0])
        return
    phases = [phase for phase in PHASES if phase != "index" or not arguments.no_index]
    records = json.loads(RESULT.read_text()) if RESULT.exists() else []
    with tempfile.TemporaryDirectory(prefix="siftlm-scale-", dir=arguments.folder) as made:
        for passages in arguments.passages or SIZES:
            for storage in arguments.storage or STORAGES:
                known = [one for one in records if (one["passages"], one["storage"]) == (passages, storage)]
                if known and not arguments.again:
                    continue
                record = measure(Path(made), passages, storage, phases, arguments.note)
                records = [one for one in records if one not in known] + [record]
                records.sort(key=lambda one: (one["passages"], one["storage"]))
                RESULT.write_text(json.dumps(records, indent=1) + "\n")


if __name__ == "__main__":
    main()
