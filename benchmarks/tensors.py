"""`siftlm.select_many` of torch tensors: prompts per second, on the processor and on CUDA where there is one.

    python benchmarks/tensors.py              a few minutes on two cores
    python benchmarks/tensors.py --quick      no batch above 32

Against a loop over ``siftlm.select``, against ``siftlm.select_many`` of arrays and, with a set for each prompt, against
activeft 0.1.1 (the published SIFT, which also finds the candidates; what needs much time runs on the first few
prompts only). Each job runs in turn with the others, and rates are of the median. Results go to
benchmarks/results/tensors.json.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from machine import describe, side_by_side

import siftlm
from selection import activeft_job, prompts, texts

RESULT = Path(__file__).parent / "results" / "tensors.json"
N, WIDTH, NOISE, OWN, SHARED = 50, 768, 0.01, 200, 10_000
# A loop needs no more prompts than this to show its rate.
LOOP, PEER = 32, 4
Job = tuple[int, Callable[[], object]]  # how many prompts it works off


def on(device: str, queries: np.ndarray, candidates: np.ndarray) -> Job:
    """The twin, with the inputs where it works and nothing left running."""
    there = [torch.from_numpy(array).to(device) for array in (queries, candidates)]

    def job() -> None:
        siftlm.select_many(*there, N, noise=NOISE)
        if device == "cuda":
            torch.cuda.synchronize()

    return len(queries), job


def sets(count: int) -> np.ndarray:
    """(count, OWN, WIDTH)"""
    return texts(count * OWN).reshape(count, OWN, WIDTH)


def own_sets(count: int, devices: list[str], rounds: int) -> dict[str, Any]:
    """K = 200 of its own for each prompt, as after a nearest-neighbour search."""
    queries, candidates = prompts(count), sets(count)
    few = min(count, LOOP)
    jobs: dict[str, Job] = {
        "select, one by one": (few, lambda: [one(q, c) for q, c in zip(queries[:few], candidates, strict=False)]),
        "select_many": (count, lambda: siftlm.select_many(queries, candidates, N, noise=NOISE)),
    }
    jobs |= {f"tensors, {device}": on(device, queries, candidates) for device in devices}
    peer = activeft_job(candidates[:PEER].reshape(-1, WIDTH), queries[:PEER], OWN) if count <= LOOP else None
    if peer:
        jobs["activeft"] = (min(count, PEER), peer)
    return rates(jobs, rounds)


def shared_set(count: int, devices: list[str], rounds: int) -> dict[str, Any]:
    """K = 10,000, the same for all prompts: the whole of a small memory."""
    queries, candidates = prompts(count), texts(SHARED)
    few = min(count, LOOP // 4)
    many = min(count, 4 * LOOP)
    jobs: dict[str, Job] = {
        "select, one by one": (few, lambda: [one(query, candidates) for query in queries[:few]]),
        "select_many": (many, lambda: siftlm.select_many(queries[:many], candidates, N, noise=NOISE)),
    }
    jobs |= {f"tensors, {device}": on(device, queries, candidates) for device in devices}
    return rates(jobs, rounds)


def one(query: np.ndarray, candidates: np.ndarray) -> siftlm.Selection:
    return siftlm.select(query, candidates, N, noise=NOISE)


def rates(jobs: dict[str, Job], rounds: int) -> dict[str, Any]:
    """Seconds of each job, and prompts per second."""
    times = side_by_side({name: job for name, (_, job) in jobs.items()}, rounds)
    for name, (count, _) in jobs.items():
        times[name] |= {"prompts": count, "prompts_per_second": count / times[name]["median"]}
        print(f"    {name:<20} {times[name]['prompts_per_second']:>10,.0f} prompts/s", flush=True)
    return times


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--quick", action="store_true")
    quick = arguments.parse_args().quick
    devices = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
    result: dict[str, Any] = {
        "machine": describe("torch", "activeft") | {"threads": torch.get_num_threads(), "cuda": None},
        "n": N,
        "width": WIDTH,
        "noise": NOISE,
    }
    if "cuda" in devices:
        result["machine"]["cuda"] = torch.cuda.get_device_name()
    for name, work in (("own sets of 200", own_sets), ("one set of 10,000", shared_set)):
        result[name] = {}
        for count in (1, 32) if quick else (1, 32, 256, 1024):
            print(f"{name}, {count} prompts", flush=True)
            result[name][str(count)] = work(count, devices, 5 if count <= LOOP else 3)
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
