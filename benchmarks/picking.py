"""The cost of a training set: a pool of a million invented records with vectors, 200 targets, 10,000 picks.

python benchmarks/picking.py --into /tmp/picking --records 1000000 --picks 10000
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import time
from pathlib import Path

import numpy as np
from benchmarks.machine import describe

import siftlm
from siftlm.progress import Progress

BLOCK = 50_000
TOPICS = 2000


def make(folder: Path, records: int, width: int, targets: int) -> None:
    """Vectors around topics, a line of JSON for each, and targets from the same topics."""
    draw = np.random.default_rng(0)
    topics = draw.normal(size=(TOPICS, width)).astype(np.float32)
    vectors = np.lib.format.open_memmap(folder / "pool.npy", "w+", np.float32, (records, width))
    with open(folder / "pool.jsonl", "w", encoding="utf-8") as file:
        for start in range(0, records, BLOCK):
            about = draw.integers(0, TOPICS, min(BLOCK, records - start))
            noise = draw.normal(size=(len(about), width)).astype(np.float32)
            vectors[start : start + len(about)] = topics[about] + 0.7 * noise
            for at, topic in enumerate(about.tolist(), start=start):
                file.write(json.dumps({"text": f"record {at} about topic {topic}", "source": f"s{topic % 7}"}) + "\n")
    noise = draw.normal(size=(targets, width)).astype(np.float32)
    np.save(folder / "targets.npy", topics[draw.integers(0, TOPICS, targets)] + 0.7 * noise)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--into", type=Path, required=True)
    parser.add_argument("--records", type=int, default=1_000_000)
    parser.add_argument("--width", type=int, default=384)
    parser.add_argument("--targets", type=int, default=200)
    parser.add_argument("--picks", type=int, default=10_000)
    arguments = parser.parse_args()
    folder: Path = arguments.into
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "targets.npy").exists():
        make(folder, arguments.records, arguments.width, arguments.targets)
    seconds: dict[str, float] = {}

    def report(progress: Progress) -> None:
        if progress.finished:
            seconds[progress.what] = round(progress.seconds, 1)

    began, cpu = time.monotonic(), time.process_time()
    picks = siftlm.pick(
        folder / "pool.jsonl",
        n=arguments.picks,
        vectors=folder / "pool.npy",
        target_vectors=folder / "targets.npy",
        out=folder / "chosen.jsonl",
        restart=True,
        progress=report,
    )
    result = {
        "records": picks.pool_records,
        "width": arguments.width,
        "targets": len(picks.targets),
        "picks": len(picks),
        "left": float(picks.uncertainty[-1] / picks.uncertainty[0]),
        "seconds": round(time.monotonic() - began, 1),
        "processor_seconds": round(time.process_time() - cpu, 1),
        "of_which": seconds,
        "peak_gib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2),
        "machine": describe(),
    }
    json.dump(result, sys.stdout, indent=1)
    print()


if __name__ == "__main__":
    main()
