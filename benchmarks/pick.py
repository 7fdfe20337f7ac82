"""A training set out of vectors, SIFT against its peers: 1 % of 10,000, 100,000 and a million for 200 targets.

    python benchmarks/pick.py                         10,000 and 100,000 candidates, 3 rounds
    python benchmarks/pick.py --candidates 1000000 --rounds 1 --only siftlm --only "nearest in turn"
    python benchmarks/pick.py --peers DIR             a folder with apricot-select and submodlib-py, if not installed

Unit vectors, float32, around 2,000 topics; the targets are of some of these. A pick is made at most once.

    siftlm             `siftlm.select`
    one at a time      the same, with no blocks of picks (decision 0066)
    nearest in turn    the targets take turns at their nearest candidate that is left, as RDS+ does; numpy
    apricot            feature-based selection, lazy (its fastest); features are cosines with the targets, if > 0
    submodlib          facility location for queries (FLVMI), lazy greedy; similarities are the same

Each run is a process of its own, and engines take turns in each round. Vectors are loaded, libraries imported and
a small problem solved before the clock starts; similarities to the targets are on the clock. Peak memory is that of
the whole process, vectors included; "left" is the share of the targets' uncertainty (λ = 0.1) that the choice leaves,
which SIFT alone minimises. Results go to benchmarks/results/pick.json as they come; other sizes stay.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from machine import describe

import siftlm
from siftlm.selection.selectors import sift as methods

RESULT = Path(__file__).parent / "results" / "pick.json"
WIDTH, TARGETS, NOISE, TOPICS = 384, 200, 0.1, 2000
# Candidates for each pick.
PER_PICK = 100
BLOCK = 50_000


def make(folder: Path, candidates: int) -> None:
    """Candidates and targets, as two files."""
    draw = np.random.default_rng(0)
    topics = draw.normal(size=(TOPICS, WIDTH)).astype(np.float32)

    def around(count: int) -> np.ndarray:
        vectors = topics[draw.integers(0, TOPICS, count)] + 0.7 * draw.normal(size=(count, WIDTH)).astype(np.float32)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        return vectors

    vectors = np.lib.format.open_memmap(folder / "vectors.npy", "w+", np.float32, (candidates, WIDTH))
    for start in range(0, candidates, BLOCK):
        vectors[start : start + BLOCK] = around(min(BLOCK, candidates - start))
    np.save(folder / "targets.npy", around(TARGETS))


def left(targets: np.ndarray, picked: np.ndarray) -> float:
    """The share of Σ_m k(x*_m, x*_m) that is left after the picks, in float64."""
    own, goal = picked.astype(np.float64), targets.astype(np.float64)
    posterior = np.linalg.solve(own.T @ own / NOISE + np.eye(WIDTH), goal.T)
    return float(np.einsum("md,dm->", goal, posterior) / np.square(goal).sum())


# --- the engines: (targets, vectors, n) -> indices


def sift(targets: np.ndarray, vectors: np.ndarray, n: int) -> np.ndarray:
    return siftlm.select(targets, vectors, n, noise=NOISE, replacement=False).indices


def one_at_a_time(targets: np.ndarray, vectors: np.ndarray, n: int) -> np.ndarray:
    methods.BLOCKS_MIN_CANDIDATES = len(vectors) + 1
    return sift(targets, vectors, n)


def nearest_in_turn(targets: np.ndarray, vectors: np.ndarray, n: int) -> np.ndarray:
    """Of each target the nearest few, more where these are used up before the end."""
    similarities = targets @ vectors.T
    few = min(len(vectors), 4 * (n // len(targets) + 1))
    while True:
        nearest = np.argpartition(similarities, len(vectors) - few, axis=1)[:, -few:]
        order = np.argsort(-np.take_along_axis(similarities, nearest, axis=1), axis=1, kind="stable")
        queues = [iter(row) for row in np.take_along_axis(nearest, order, axis=1).tolist()]
        seen: dict[int, None] = {}
        while len(seen) < n:
            for queue in queues:
                index = next((index for index in queue if index not in seen), None)
                if index is None:
                    break
                seen[index] = None
                if len(seen) == n:
                    break
            else:
                continue
            break
        if len(seen) == n:
            return np.array(list(seen))
        few = min(len(vectors), 4 * few)


def apricot(targets: np.ndarray, vectors: np.ndarray, n: int) -> np.ndarray:
    from apricot import FeatureBasedSelection

    features = np.maximum(vectors @ targets.T, 0).astype(np.float64)
    indices: np.ndarray = FeatureBasedSelection(n, concave_func="sqrt", optimizer="lazy").fit(features).ranking
    return indices


def submodlib(targets: np.ndarray, vectors: np.ndarray, n: int) -> np.ndarray:
    from submodlib import FacilityLocationVariantMutualInformationFunction

    similarities = np.maximum(vectors @ targets.T, 0)
    function = FacilityLocationVariantMutualInformationFunction(
        n=len(vectors), num_queries=len(targets), query_sijs=similarities, queryDiversityEta=1
    )
    picks = function.maximize(budget=n, optimizer="LazyGreedy", show_progress=False)
    return np.array([index for index, _ in picks])


ENGINES: dict[str, Callable[[np.ndarray, np.ndarray, int], np.ndarray]] = {
    "siftlm": sift,
    "one at a time": one_at_a_time,
    "nearest in turn": nearest_in_turn,
    "apricot": apricot,
    "submodlib": submodlib,
}


# --- one run, in a process of its own


def peak_bytes() -> int:
    """The most memory that was resident. `getrusage` would count the parent's, where the system says no better."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        lines = []
    own = [1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM:")]
    return own[0] if own else 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def run(engine: str, folder: Path, picks: int) -> dict[str, Any]:
    """Seconds of the clock and of the processor, peak memory, and what is left. Empty if the peer is not installed."""
    vectors, targets = np.load(folder / "vectors.npy"), np.load(folder / "targets.npy")
    choose = ENGINES[engine]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            choose(targets, vectors[:2000], 20)
        except ImportError:
            return {}
        before = peak_bytes()
        start, worked = time.perf_counter(), time.process_time()
        indices = choose(targets, vectors, picks)
        seconds, processor = time.perf_counter() - start, time.process_time() - worked
    if len(set(indices.tolist())) != picks:
        raise SystemExit(f"{engine}: {len(set(indices.tolist()))} different picks instead of {picks}")
    return {
        "seconds": seconds,
        "processor": processor,
        "before_bytes": before,
        "peak_bytes": peak_bytes(),
        "left": left(targets, vectors[indices]),
        "picks": hash(tuple(indices.tolist())),
    }


def compare(candidates: int, picks: int, rounds: int, engines: list[str], longest: float) -> dict[str, Any]:
    """All engines in turn, ``rounds`` times; medians. An engine that takes more than ``longest`` s is left out."""
    runs: dict[str, list[dict[str, Any]]] = {engine: [] for engine in engines}
    result: dict[str, Any] = {"picks": picks, "rounds": rounds, "load": os.getloadavg()[1], "engines": {}}
    with tempfile.TemporaryDirectory() as folder:
        make(Path(folder), candidates)
        for at in range(rounds):
            for engine in list(runs):
                command = [sys.executable, __file__, "--run", engine, "--in", folder, "--picks", str(picks)]
                try:
                    ended = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=longest, check=True)
                except subprocess.TimeoutExpired:
                    result["engines"][engine] = {"longer_than": longest}
                    del runs[engine]
                    continue
                if own := json.loads(ended.stdout.splitlines()[-1]):
                    runs[engine].append(own)
                    print(f"{candidates:,} {at + 1}/{rounds} {engine:16}", json.dumps(own), flush=True)
                else:
                    print(f"{engine} is not installed: left out")
                    del runs[engine]
    for engine, own in runs.items():
        names = ("seconds", "processor", "before_bytes", "peak_bytes", "left")
        result["engines"][engine] = {name: statistics.median(one[name] for one in own) for name in names}
    if {"siftlm", "one at a time"} <= set(runs):
        result["same_picks"] = len({one["picks"] for name in ("siftlm", "one at a time") for one in runs[name]}) == 1
    return result


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--candidates", type=int, action="append", help="may be repeated")
    parser.add_argument("--picks", type=int, help=f"one for {PER_PICK} candidates unless given")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", choices=list(ENGINES), action="append", help="may be repeated")
    parser.add_argument("--longest", type=float, default=900.0, help="seconds after which a run is given up")
    parser.add_argument("--peers", type=Path, help="a folder that peers are installed in")
    parser.add_argument("--note", default="", help="what to remember of this run")
    parser.add_argument("--out", type=Path, default=RESULT, help="where the JSON goes")
    parser.add_argument("--run", choices=list(ENGINES), help=argparse.SUPPRESS)
    parser.add_argument("--in", dest="folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.run:
        print(json.dumps(run(arguments.run, arguments.folder, arguments.picks)))
        return 0
    if arguments.peers:
        sys.path.append(str(arguments.peers))
        os.environ["PYTHONPATH"] = os.pathsep.join(
            path for path in (os.environ.get("PYTHONPATH"), str(arguments.peers)) if path
        )
    results = json.loads(arguments.out.read_text()) if arguments.out.exists() else {}
    for candidates in arguments.candidates or (10_000, 100_000):
        picks = arguments.picks or max(1, candidates // PER_PICK)
        case = compare(candidates, picks, arguments.rounds, arguments.only or list(ENGINES), arguments.longest)
        results["settings"] = {"width": WIDTH, "targets": TARGETS, "noise": NOISE, "dtype": "float32"}
        results["machine"] = describe("apricot-select", "submodlib-py", "numba")
        case |= {"threads": os.environ.get("OMP_NUM_THREADS", "all"), "note": arguments.note}
        results.setdefault("candidates", {})[str(candidates)] = case
        arguments.out.write_text(json.dumps(results, indent=1) + "\n")
    print(f"written to {arguments.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
