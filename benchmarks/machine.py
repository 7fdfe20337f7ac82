"""What a result must say of the machine it came from, and how to time fairly on a noisy one."""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np


def describe(*libraries: str) -> dict[str, Any]:
    """Processor, cores, system, Python and the versions of the libraries that took part. No host name."""
    found = {library: _version(library) for library in ("siftlm", "numpy", *libraries)}
    config: Any = np.show_config(mode="dicts")
    blas = config["Build Dependencies"]["blas"]
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "blas": f"{blas.get('name')} {blas.get('version')}",
        "libraries": found,
        "date": time.strftime("%Y-%m-%d"),
    }


def _version(library: str) -> str:
    try:
        return version(library)
    except PackageNotFoundError:
        return "absent"


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or "unknown"


def side_by_side(
    jobs: dict[str, Callable[[], object]], rounds: int, warm_up: int = 3, between: Callable[[], object] = lambda: None
) -> dict[str, dict[str, float]]:
    """Median and quartiles of each job in seconds; ``processor`` is the median of what all threads worked.

    The jobs take turns, so that a slow minute hits all of them; ``between`` is called after each, outside the clock.
    """
    times: dict[str, list[float]] = {name: [] for name in jobs}
    busy: dict[str, list[float]] = {name: [] for name in jobs}
    for job in jobs.values():
        for _ in range(warm_up):
            job()  # caches, lazy imports, thread pools
    for _ in range(rounds):
        for name, job in jobs.items():
            start, worked = time.perf_counter(), time.process_time()
            job()
            times[name].append(time.perf_counter() - start)
            busy[name].append(time.process_time() - worked)
            between()
    return {name: {**_summary(times[name]), "processor": statistics.median(busy[name])} for name in jobs}


def _summary(values: list[float]) -> dict[str, float]:
    low, _, high = statistics.quantiles(values, n=4) if len(values) > 1 else (values[0],) * 3
    return {"median": statistics.median(values), "low": low, "high": high, "rounds": len(values)}
