"""Selection against its public peers, in one run on one machine.

    python benchmarks/selection.py              everything but the million (about five minutes on two cores)
    python benchmarks/selection.py --quick      fewer rounds
    python benchmarks/selection.py --before DIR siftlm as it is in another checkout takes turns with this one
    python benchmarks/selection.py --million    10,000 picks out of 1,000,000 as well (several minutes, 4 GiB)

Peers: activeft 0.1.1 (the published SIFT) and pyversity 0.2 (greedy DPP and MMR); a peer that is not installed
is left out. The minimal loop is SIFT in twenty lines of numpy, checked for nothing. Ratios are medians of alternating
runs. Results go to benchmarks/results/selection.json, from which ``python docs/tables.py`` writes the tables of the
documentation.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import resource
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from machine import describe, side_by_side

import siftlm

RESULT = Path(__file__).parent / "results" / "selection.json"
N, WIDTH, NOISE = 50, 768, 0.01


def texts(size: int, width: int = WIDTH, *, seed: int = 0) -> np.ndarray:
    """Unit vectors around 20 topics, as embeddings of texts are."""
    generator = np.random.default_rng(seed)
    topics = generator.normal(size=(20, width)).astype(np.float32)
    vectors = generator.normal(size=(size, width)).astype(np.float32)
    vectors += topics[generator.integers(0, 20, size)]
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors


def prompts(count: int, width: int = WIDTH) -> np.ndarray:
    """Prompts near the topics of :func:`texts` with seed 0."""
    generator = np.random.default_rng(0)
    topics = generator.normal(size=(20, width)).astype(np.float32)
    noise = np.random.default_rng(1).normal(size=(count, width)).astype(np.float32)
    vectors = topics[np.arange(count) % 20] + 0.5 * noise
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors


Job = Callable[[], object]


def minimal_loop(query: np.ndarray, vectors: np.ndarray) -> list[int]:
    """SIFT of one prompt with one row of the Cholesky factor a step, in float64, for unit vectors."""
    cross, noisy = (vectors @ query).astype(np.float64), np.full(len(vectors), 1 + NOISE)
    rows, picks = np.empty((N, len(vectors))), []
    for step in range(N):
        best = int((cross * cross / noisy).argmax())
        picks.append(best)
        if step == N - 1:
            break
        row = vectors @ vectors[best]
        if step:
            row = row - rows[:step, best] @ rows[:step]
        root = noisy[best] ** 0.5
        row = row / root
        rows[step] = row
        cross -= row * (cross[best] / root)
        noisy -= row * row
    return picks


def package_before(checkout: Path | None) -> Any:
    """siftlm as it is in another checkout, beside this one in the same process; ``None`` without one."""
    if checkout is None:
        return None
    ours = {name: sys.modules.pop(name) for name in list(sys.modules) if name.partition(".")[0] == "siftlm"}
    sys.path.insert(0, str(checkout / "src"))
    try:
        before = importlib.import_module("siftlm")
        before.select_many(np.eye(2), np.eye(2), 1)  # what is imported at the first call is imported now
        before.select(np.ones(2), np.eye(2), 1)
    finally:
        sys.path.pop(0)
        for name in [name for name in sys.modules if name.partition(".")[0] == "siftlm"]:
            del sys.modules[name]
        sys.modules.update(ours)
    return before


def activeft_job(vectors: np.ndarray, queries: np.ndarray, k: int, *, fast: bool = False) -> Job | None:
    """activeft's Retriever over a flat FAISS index, exactly as its documentation shows."""
    try:
        import faiss
        from activeft.sift import Retriever
    except ImportError:
        return None
    index = faiss.IndexFlatIP(vectors.shape[1])
    index.add(vectors)

    def job() -> object:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return Retriever(index, llambda=NOISE, fast=fast).batch_search(queries[:, None, :], N=N, K=k)

    return job


def pyversity_jobs(vectors: np.ndarray, query: np.ndarray) -> dict[str, Callable[[], object]]:
    """Greedy DPP and MMR on the same candidates; the relevance scores are part of the work, as they are of ours."""
    try:
        from pyversity.strategies.dpp import dpp
        from pyversity.strategies.mmr import mmr
    except ImportError:
        return {}
    return {
        "pyversity dpp": lambda: dpp(vectors, vectors @ query, N),
        "pyversity mmr": lambda: mmr(vectors, vectors @ query, N),
    }


def one_query(size: int, rounds: int, before: Any) -> dict[str, Any]:
    """One prompt, ``size`` candidates."""
    vectors, query = texts(size), prompts(1)[0]
    jobs: dict[str, Callable[[], object]] = {"siftlm": lambda: siftlm.select(query, vectors, N, noise=NOISE)}
    if before:
        jobs["before"] = lambda: before.select(query, vectors, N, noise=NOISE)
    assert siftlm.select(query, vectors, N, noise=NOISE).indices.tolist() == minimal_loop(query, vectors)
    jobs["minimal loop"] = lambda: minimal_loop(query, vectors)
    jobs |= pyversity_jobs(vectors, query)
    jobs[f"{N} scans"] = lambda: [vectors @ query for _ in range(N)]
    result = side_by_side(jobs, (50 if size <= 1000 else 10) * rounds)
    if peer := activeft_job(vectors, query[None], size):
        result |= side_by_side({"siftlm ": jobs["siftlm"], "activeft": peer}, rounds)
        del result["siftlm "]
    if size <= 1000 and (peer := activeft_job(vectors, query[None], size, fast=True)):
        result |= side_by_side({"activeft fast": peer}, 3)
    return result


def shared_candidates(size: int, rounds: int, before: Any, count: int = 32) -> dict[str, Any]:
    """``count`` prompts over the same ``size`` candidates."""
    vectors, queries = texts(size), prompts(count)
    jobs: dict[str, Job] = {"siftlm": lambda: siftlm.select_many(queries, vectors, N, noise=NOISE)}
    if before:
        jobs["before"] = lambda: before.select_many(queries, vectors, N, noise=NOISE)
    jobs["minimal loop"] = lambda: [minimal_loop(query, vectors) for query in queries]
    return side_by_side(jobs, 3 * rounds if size <= 1000 else rounds)


def many_queries(rounds: int, before: Any, count: int = 32, k: int = 200) -> dict[str, Any]:
    """``count`` prompts over a memory of 10,000: find the nearest k, select n of them."""
    memory, queries = texts(10_000), prompts(count)

    def preselect() -> list[np.ndarray]:
        scores = np.abs(queries @ memory.T)
        return [memory[row] for row in np.argpartition(-scores, k, axis=1)[:, :k]]

    jobs: dict[str, Callable[[], object]] = {
        "siftlm": lambda: siftlm.select_many(queries, preselect(), N, noise=NOISE),
        "siftlm one by one": lambda: [
            siftlm.select(query, own, N, noise=NOISE) for query, own in zip(queries, preselect(), strict=True)
        ],
    }
    result = side_by_side(jobs, 3 * rounds)
    own = preselect()
    jobs = {"siftlm, without the search": lambda: siftlm.select_many(queries, own, N, noise=NOISE)}
    if before:
        jobs["before, without the search"] = lambda: before.select_many(queries, own, N, noise=NOISE)
    result |= side_by_side(jobs, 3 * rounds)
    if peer := activeft_job(memory, queries, k):
        result |= side_by_side({"activeft": peer}, max(2, rounds // 3))
    return result


def whole_memory(size: int, rounds: int) -> dict[str, Any]:
    """No preselection, against n flat scans of the same vectors."""
    vectors, query = texts(size), prompts(1)[0]

    def scans() -> None:
        for _ in range(N):
            vectors @ query

    return side_by_side({"siftlm": lambda: siftlm.select(query, vectors, N, noise=NOISE), f"{N} scans": scans}, rounds)


def growth(rounds: int, clock: str) -> dict[str, list[dict[str, float]]]:
    """How the cost grows with each size, the others held: K = 2,000, d = 768, n = 50, m = 1, one prompt."""

    def timed(k: int = 2000, d: int = WIDTH, n: int = N, m: int = 1) -> float:
        vectors, query = texts(k, d), prompts(m, d)
        job = {"siftlm": lambda: siftlm.select(query, vectors, n, noise=NOISE)}
        return side_by_side(job, rounds)["siftlm"][clock]

    def batch(count: int) -> float:
        vectors, queries = texts(2000), prompts(count)
        job = {"siftlm": lambda: siftlm.select_many(queries, vectors, N, noise=NOISE)}
        return side_by_side(job, rounds)["siftlm"][clock] / count

    return {
        "K": [{"at": k, "seconds": timed(k=k)} for k in (200, 1000, 5000, 25_000, 100_000)],
        "d": [{"at": d, "seconds": timed(d=d)} for d in (64, 256, 768, 3072)],
        "n": [{"at": n, "seconds": timed(n=n)} for n in (5, 50, 500, 2000)],
        "m": [{"at": m, "seconds": timed(m=m)} for m in (1, 4, 16, 64, 1024)],
        "prompts": [{"at": b, "seconds": batch(b)} for b in (1, 8, 64, 256)],
    }


def million(picks: int = 10_000, size: int = 1_000_000, width: int = 384) -> dict[str, Any]:
    """10,000 picks out of 1,000,000 for one task of 64 target texts."""
    vectors, queries = np.empty((size, width), np.float32), prompts(64, width)
    for start in range(0, size, 50_000):
        vectors[start : start + 50_000] = texts(50_000, width, seed=start)
    start_time = time.perf_counter()
    found = siftlm.select(queries, vectors, picks, noise=NOISE)
    seconds = time.perf_counter() - start_time
    scan = side_by_side({"scan": lambda: vectors @ queries[0]}, 20)["scan"]["median"]
    return {
        "seconds": seconds,
        "scans": seconds / scan,
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "vectors_bytes": vectors.nbytes,
        "picks": picks,
        "candidates": size,
        "width": width,
        "targets": len(queries),
        "distinct": len(found.distinct),
        "uncertainty": [float(found.uncertainty[0]), float(found.uncertainty[-1])],
    }


def by_processor(case: dict[str, dict[str, float]]) -> None:
    """What the process worked in the place of what passed: the same on one thread of an idle machine."""
    for times in case.values():
        times["elapsed"], times["median"] = times["median"], times["processor"]


def report(name: str, result: dict[str, Any], clock: str) -> None:
    """One line a case, ratios to siftlm."""
    own = result["siftlm"][clock]
    print(f"{name:34} siftlm {1000 * own:9.2f} ms", end="")
    for peer, times in result.items():
        if peer != "siftlm":
            print(f" | {peer} {times[clock] / own:.2f}×", end="")
    print(flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer rounds")
    parser.add_argument("--million", action="store_true", help="10,000 picks out of 1,000,000 as well")
    parser.add_argument("--only-million", action="store_true", help="add the million to the results that are there")
    parser.add_argument(
        "--processor",
        action="store_true",
        help="for a machine at other work: processor time in the place of time, with OMP_NUM_THREADS=1 set outside",
    )
    parser.add_argument("--before", type=Path, metavar="DIR", help="another checkout, to compare with")
    parser.add_argument("--note", default="one run", help="what to remember of the run of the million")
    parser.add_argument("--out", type=Path, default=RESULT, help="where the JSON goes")
    arguments = parser.parse_args()
    clock = "processor" if arguments.processor else "median"
    rounds, before = 3 if arguments.quick else 9, package_before(arguments.before)
    results: dict[str, Any] = {}
    if arguments.only_million and arguments.out.exists():
        results = json.loads(arguments.out.read_text())
    else:
        results["settings"] = {"n": N, "width": WIDTH, "noise": NOISE, "dtype": "float32"}
        results["machine"] = describe("activeft", "pyversity", "torch", "faiss-cpu")
        results["load"] = os.getloadavg()[1]  # of five minutes: was anything else at work?
        results["one_query"] = {}
        for size in (200, 1000, 5000):
            results["one_query"][str(size)] = one_query(size, rounds, before)
            report(f"one query, K = {size:,}", results["one_query"][str(size)], clock)
        results["shared_candidates"] = {}
        for size in (200, 1000, 5000):
            results["shared_candidates"][str(size)] = shared_candidates(size, rounds, before)
            report(f"32 queries, the same K = {size:,}", results["shared_candidates"][str(size)], clock)
        results["many_queries"] = many_queries(rounds, before)
        report("32 queries, K = 200 of 10,000", results["many_queries"], clock)
        results["whole_memory"] = {}
        for size in (100_000,):
            results["whole_memory"][str(size)] = whole_memory(size, rounds)
            report(f"one query, all of {size:,}", results["whole_memory"][str(size)], clock)
        results["growth"] = growth(3, clock)
        for axis, rows in results["growth"].items():
            print(f"growth with {axis:8}", ", ".join(f"{r['at']:,}: {1000 * r['seconds']:.2f} ms" for r in rows))
    if (
        not arguments.million
        and arguments.out.exists()
        and "million" in (before := json.loads(arguments.out.read_text()))
    ):
        results["million"] = before["million"]  # it takes too long to be measured every time
    if arguments.million or arguments.only_million:
        results["million"] = million() | {"note": arguments.note}
        print("10,000 of 1,000,000:", json.dumps(results["million"]))
    if results.get("million") is None:
        results.pop("million", None)
    if arguments.processor and not arguments.only_million:
        for case in (*results["one_query"].values(), *results["shared_candidates"].values()):
            by_processor(case)
        for case in (results["many_queries"], *results["whole_memory"].values()):
            by_processor(case)
        results["clock"] = "processor"
    arguments.out.parent.mkdir(exist_ok=True)
    arguments.out.write_text(json.dumps(results, indent=1) + "\n")
    print(f"written to {arguments.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
