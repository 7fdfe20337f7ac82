"""The memory: opening, scanning, whole-memory selection, ingest, and embedded vector databases doing the same.

    python benchmarks/memory.py                 everything, about 30 minutes; pip install 'siftlm[faiss]' first
    python benchmarks/memory.py --only peers    one part: open, scan, whole, ingest, build, peers
    pip install lancedb qdrant-client chromadb pymilvus milvus-lite     for the peers; absent ones are left out

Vectors are synthetic: unit, width 384, float32, in 2,000 clusters; texts are sentences of about 80 characters, each
different. Results go to benchmarks/results/memory.json, part by part; docs/benchmarks.md shows them.

    open      Memory.open of 1,000,000 × 384 and its first answer, each in a fresh process
    scan      the 200 nearest of one prompt: siftlm's scan against faiss.IndexFlatIP, by turns
    whole     50 picks among everything against 50 scans; 16 prompts together against one at a time
    ingest    Memory.add of vectors with texts against writing the same bytes to a file and syncing it
    build     peak memory of building from 10,000 to 1,000,000 documents, each in a fresh process
    peers     other stores, filled from memory and from JSON lines and then asked for 200 texts with vectors, by turns:
              benchmarks/stores.py
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import stores
from machine import describe, side_by_side

from siftlm import Memory

RESULT = Path(__file__).parent / "results" / "memory.json"
WIDTH, K, N = 384, 200, 50
AT_ONCE = 50_000


def vectors(size: int, seed: int = 0, width: int = WIDTH) -> Iterator[np.ndarray]:
    """Blocks of unit vectors in clusters."""
    generator = np.random.default_rng(seed)
    centres = generator.standard_normal((2000, width)).astype(np.float32)
    for start in range(0, size, AT_ONCE):
        count = min(AT_ONCE, size - start)
        block = centres[generator.integers(len(centres), size=count)]
        block += generator.standard_normal((count, width), dtype=np.float32)
        yield block / np.linalg.norm(block, axis=1, keepdims=True)


def texts(first: int, count: int) -> list[str]:
    return [
        f"Passage {n} tells of matter {n * 2654435761 % 99991}, and of {n * 40503 % 7919} others besides, at length."
        for n in range(first, first + count)
    ]


def prompts(count: int) -> np.ndarray:
    return np.concatenate(list(vectors(count, seed=1)))


def filled(folder: Path, size: int, **settings: Any) -> Memory:
    """A memory of this size; made once."""
    path = folder / f"memory-{size}-{settings.get('storage', 'float32')}"
    if path.exists():
        return Memory.open(path)
    memory = Memory.create(path, embedder=given(), full_text=False, **settings)
    done = 0
    for block in vectors(size):
        memory.add(texts(done, len(block)), vectors=block)
        done += len(block)
    return memory


def given(width: int = WIDTH) -> Any:
    from siftlm import embedder

    return embedder("precomputed", width=width, label="synthetic")


# --- the parts


def opening(folder: Path) -> dict[str, Any]:
    """In a fresh process each time: what a person waits for."""
    memory = filled(folder, 1_000_000)
    path, query = memory.path, folder / "query.npy"
    memory.close()
    np.save(query, prompts(1)[0])
    script = (
        "import sys, time, json, numpy as np; import siftlm; from siftlm import Memory; query = np.load(sys.argv[2]);"
        "t = time.perf_counter(); memory = Memory.open(sys.argv[1]); len(memory); opened = time.perf_counter() - t;"
        "t = time.perf_counter(); memory.search(query, n=10); print(json.dumps([opened, time.perf_counter() - t]))"
    )
    runs = [
        json.loads(subprocess.run([sys.executable, "-c", script, path, query], capture_output=True, check=True).stdout)
        for _ in range(7)
    ]
    return {
        "passages": 1_000_000,
        "open": float(np.median([r[0] for r in runs])),
        "first_search": float(np.median([r[1] for r in runs])),
    }


def scanning(folder: Path) -> dict[str, Any]:
    import faiss

    found: dict[str, Any] = {}
    queries = prompts(64)
    for size in (100_000, 1_000_000):
        flat = faiss.IndexFlatIP(WIDTH)
        for block in vectors(size):
            flat.add(block)
        turn = {"at": 0}

        def following(turn: dict[str, int] = turn) -> np.ndarray:
            turn["at"] += 1
            return queries[turn["at"] % len(queries)]

        jobs: dict[str, Callable[[], object]] = {"faiss": lambda f=flat: f.search(following()[None], K)}
        memories = [filled(folder, size, storage=form) for form in ("float32", "float16", "int8")]
        for memory in memories:
            jobs[f"siftlm {memory.manifest.storage}"] = lambda m=memory: scan(m, following()[None])
        jobs["siftlm search, nearest, texts included"] = lambda m=memories[0]: m.search(
            following(), n=K, method="nearest"
        )
        jobs["siftlm search, sift, n = 50"] = lambda m=memories[0]: m.search(following(), n=N)
        for query in queries[:8]:
            same = set(flat.search(query[None], K)[1][0].tolist()) & set(scan(memories[0], query[None])[0].ids.tolist())
            assert len(same) >= K - 1, len(same)
        found[str(size)] = side_by_side(jobs, rounds=15 if size > 500_000 else 41)
        for memory in memories:
            memory.close()
    return found


def scan(memory: Memory, queries: np.ndarray) -> Any:
    with memory.snapshot() as snapshot:
        return snapshot.nearest(queries, K, None)


def whole(folder: Path) -> dict[str, Any]:
    """A selection among everything against the scans that it cannot do without."""
    found: dict[str, Any] = {}
    query, sixteen = prompts(1)[0], prompts(16)
    columns = np.ascontiguousarray(sixteen.T)
    for size, rounds in ((100_000, 9), (1_000_000, 3)):
        memory = filled(folder, size)
        with memory.snapshot() as snapshot:
            stored = snapshot.everything()
        jobs: dict[str, Callable[[], object]] = {
            "50 scans": lambda s=stored: [s @ query for _ in range(N)],
            "siftlm": lambda m=memory: m.search(query, n=N, k=None),
        }
        jobs["16 prompts together"] = lambda m=memory: m.search_many(list(sixteen), n=N, k=None)
        if size == 100_000:
            jobs["16 prompts one by one"] = lambda m=memory: [m.search(q, n=N, k=None) for q in sixteen]
            jobs["50 scans for 16 prompts"] = lambda s=stored: [s @ columns for _ in range(N)]
        found[str(size)] = side_by_side(jobs, rounds=rounds)
        memory.close()
    return found


def ingest(folder: Path) -> dict[str, Any]:
    return {str(width): ingest_of(folder, width) for width in (WIDTH, 1024)}


def ingest_of(folder: Path, width: int) -> dict[str, Any]:
    """Vectors with short texts; the bytes are those that end up on disk."""
    size = 100_000
    block, own = np.concatenate(list(vectors(size, width=width))), texts(0, size)

    def add(full_text: bool) -> int:
        path = folder / "ingest"
        shutil.rmtree(path, ignore_errors=True)
        memory = Memory.create(path, embedder=given(width), full_text=full_text)
        memory.add(own, vectors=block)
        memory.close()
        return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())

    bytes_plain, bytes_words = add(False), add(True)
    content = b"\1" * (1 << 22)

    def write(count: int) -> None:
        with open(folder / "raw", "wb") as file:
            for _ in range(count // len(content) + 1):
                file.write(content)
            file.flush()
            os.fsync(file.fileno())

    jobs: dict[str, Callable[[], object]] = {
        "write and sync": lambda: write(bytes_plain),
        "siftlm": lambda: add(False),
        "siftlm, words too": lambda: add(True),
    }
    return {"passages": size, "bytes": bytes_plain, "bytes_with_words": bytes_words, **side_by_side(jobs, rounds=5)}


def building(folder: Path) -> dict[str, Any]:
    """Peak resident memory of a whole build from JSON lines, hashing embedder, in a process of its own."""
    script = (
        "import sys, json, time, resource; from siftlm import Memory; t = time.perf_counter();"
        "m = Memory.build(sys.argv[1], sys.argv[2], embedder='hashing', progress=False);"
        "size = len(m); seconds = time.perf_counter() - t;"
        "print(json.dumps([size, seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024]))"
    )
    found = {}
    for size in (10_000, 100_000, 1_000_000):
        corpus, into = folder / f"corpus-{size}.jsonl", folder / f"built-{size}"
        with open(corpus, "w") as file:
            for n, text in enumerate(texts(0, size)):
                file.write(json.dumps({"text": text, "meta": {"n": n}}) + "\n")
        shutil.rmtree(into, ignore_errors=True)
        run = subprocess.run([sys.executable, "-c", script, corpus, into], capture_output=True, check=True)
        passages, seconds, peak = json.loads(run.stdout)
        found[str(size)] = {"passages": passages, "seconds": seconds, "peak_bytes": peak}
        shutil.rmtree(into)
        corpus.unlink()
    return found


# --- embedded vector stores


def peers(folder: Path, passages: int, rounds: int, note: str) -> dict[str, Any]:
    """See `stores`: imports outside the clock, by turns, the same durability and indexes asked of all."""
    block = np.concatenate(list(vectors(passages)))
    found = stores.compare(folder, texts(0, passages), block, prompts(64), rounds, note)
    return {**found, "machine": describe("lancedb", "qdrant-client", "chromadb", "pymilvus", "milvus-lite")}


PARTS = {"open": opening, "scan": scanning, "whole": whole, "ingest": ingest, "build": building}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=[*PARTS, "peers"], action="append", help="this part; may be repeated")
    parser.add_argument("--folder", type=Path, help="where the memories are made and kept; otherwise a temporary one")
    parser.add_argument("--passages", type=int, default=100_000, help="of the comparison with other stores")
    parser.add_argument("--rounds", type=int, default=5, help="of that comparison")
    parser.add_argument("--note", default="", help="what else must be known of it, such as other work on the machine")
    arguments = parser.parse_args()
    compared = partial(peers, passages=arguments.passages, rounds=arguments.rounds, note=arguments.note)
    parts: dict[str, Callable[[Path], dict[str, Any]]] = {**PARTS, "peers": compared}
    results = json.loads(RESULT.read_text()) if RESULT.exists() else {}
    with tempfile.TemporaryDirectory(prefix="siftlm-bench-") as made:
        folder = arguments.folder or Path(made)
        folder.mkdir(parents=True, exist_ok=True)
        for name in arguments.only or parts:
            results[name] = parts[name](folder)
            if name in PARTS:
                results["machine"] = describe("faiss-cpu")
            print(name, json.dumps(results[name], indent=1))
            RESULT.write_text(json.dumps(results, indent=1) + "\n")
    print(f"peak {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.1f} GiB")


if __name__ == "__main__":
    main()
