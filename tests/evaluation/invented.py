"""Invented records: any number of methods and texts, without a model."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

POINTS = (1, 2, 5, 10)
METHODS = ("base", "nn", "sift")


def question(**changes):
    known = {
        "format": 1,
        "siftlm": "0",
        "model": {"name": "toy", "parameters": 1234, "context": 64, "fingerprint": "f"},
        "engine": {"engine": "full", "trained": 1234},
        "memory": {"passages": 1000, "generation": 1, "embedder": "hashing", "fingerprint": "m"},
        "protocol": {"name": "split", "n": POINTS[-1], "at": list(POINTS), "copies": "report"},
        "corpus": {"name": "toys.jsonl", "domain": None, "longest": None, "seed": 0},
    }
    return {**known, **changes}


def records(methods=METHODS, domains=("code", "prose"), per_domain=6, seed=0, gain=None):
    """``gain``: method -> mean share of the bits that it saves at the end. A method's numbers depend on its name
    and the seed alone."""
    found = []
    for domain in domains:
        for number in range(per_domain):
            text = f"{domain}-{number:03}"
            rng = np.random.default_rng([seed, *text.encode()])
            base, size = float(rng.uniform(1, 3)), int(rng.integers(100, 2000))
            for method in methods:
                own = np.random.default_rng([seed, *text.encode(), *method.encode()])
                mean = (gain or {}).get(method, 0.1)
                found.append(_record(text, domain, method, base, size, own, mean))
    return found


def _record(text, domain, method, base, size, rng, gain):
    known = {"text": text, "domain": domain, "method": method, "base": base, "bytes": size, "tokens": size // 3}
    if method == "base":
        return {**known, "curve": [[0, base]], "ended": "done", "seconds": {"score": 0.1}}
    n = POINTS[-1]
    end = 1 - gain + float(rng.normal(0, 0.02))
    curve = [[0, base], *([p, base * (1 - (1 - end) * p / n) + float(rng.normal(0, 0.01))] for p in POINTS)]
    left = np.cumprod(rng.uniform(0.7, 1.0, n))
    learned = [] if method.startswith("context") else rng.integers(50, 300, n).tolist()
    return {
        **known,
        "curve": curve,
        "rows": rng.integers(0, 8, n).tolist(),
        "scores": rng.uniform(0, 1, n).round(3).tolist(),
        "uncertainty": [1.0, *left.tolist()],
        "learned": learned,
        "kept": len(learned),
        "ended": "done",
        "copies": int(rng.integers(0, 2)),
        "seconds": {"select": float(rng.uniform(0.01, 0.02)), "tune": float(rng.uniform(1, 2)), "score": 0.5},
    }


def saved(path: Path, found, **changes) -> Path:
    path.mkdir(parents=True)
    (path / "run.json").write_text(json.dumps(question(**changes)), encoding="utf-8")
    (path / "records.jsonl").write_text("".join(json.dumps(one) + "\n" for one in found), encoding="utf-8")
    return path
