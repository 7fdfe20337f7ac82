"""Residual-query selection against a scan of the whole corpus: same picks? certified? how fast?

    OMP_NUM_THREADS=1 python benchmarks/residual.py     about a minute; one thread, so that times are steady

Synthetic clusters: 20,000 unit vectors of width 256 around 100 centres, N = 50. A step of the whole corpus is
computed beside every step of the pool, in float64, given the same earlier picks. Reported, per λ and k:

    same         share of picks that are those of the whole corpus
    preselected  share of the whole corpus's picks that are among the prompt's 200 nearest
    design       share certified by τ² / (max(τ²/σ²_n, λ/(λ+n)) + λ)
    certified    share certified by the bound that siftlm uses
    refuted      share in which a unit vector was constructed that every search so far, by its scores, could
                 have left out, and that would have gained more than the pick: no bound from scores alone can
                 certify these

Results go to benchmarks/results/residual.json; docs/decisions/0011-residual-queries.md quotes them.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
from machine import describe, side_by_side

import siftlm
from siftlm.selection import FaissIndex, NumpyIndex, certificate
from siftlm.selection.posterior import FeaturePosterior
from siftlm.selection.space import FeatureSpace

RESULT = Path(__file__).parent / "results" / "residual.json"
SIZE, WIDTH, CLUSTERS, N = 20_000, 256, 100, 50
NOISES, KS = (0.01, 0.1, 1.0), (100, 1000)


def clusters(generator: np.random.Generator, size: int, centres: np.ndarray, spread: float) -> np.ndarray:
    """Unit vectors (size, d), float32, around centres; ``spread``: length of what is added to a centre."""
    width = centres.shape[1]
    vectors = centres[generator.integers(len(centres), size=size)]
    vectors = vectors + spread / width**0.5 * generator.standard_normal((size, width))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def walk(corpus: np.ndarray, query: np.ndarray, noise: float, k: int, generator: Any) -> list[list[float]]:
    """One selection, pick by pick, beside the whole corpus: a row of the module's shares for each pick."""
    index, vectors = NumpyIndex(corpus), corpus.astype(np.float64)
    whole = FeaturePosterior(FeatureSpace(vectors, query, normalize=False, noise=noise), noise)
    preselected = np.argsort(-(vectors @ query[0]))[:200]
    seen = np.zeros(len(corpus), dtype=bool)
    rows, picks, searches = [], [], []
    for n in range(N):
        residual, length = whole.residual, np.linalg.norm(whole.residual, axis=1)
        unit = (residual / length[:, None]).astype(np.float32)
        ids, scores = index.search(np.concatenate([unit, -unit]), k)
        seen[ids] = True
        searches.append((residual[0].copy(), scores[0, -1] * length[0], scores[1, -1] * length[0]))
        gains = whole.trace_gain()
        pick = int(np.where(seen, gains, -1).argmax())
        square = certificate.hidden_square(scores.reshape(2, 1, k).astype(np.float64), length, 2.0**-24 * WIDTH)
        picked = vectors[picks]
        bound = certificate.hidden_gain(square, residual, whole.targets, picked, noise, 1.0)
        floor = max(square / float(whole.targets[0, 0]), noise / (noise + n))
        better = best_consistent(residual[0], picked, noise, searches, generator) if n else 0.0
        rows.append(
            [
                gains[pick] >= gains.max() * (1 - 1e-9),
                np.isin(int(gains.argmax()), preselected),
                gains[pick] >= square / (floor + noise),
                gains[pick] >= bound,
                better > gains[pick],
            ]
        )
        picks.append(pick)
        whole.observe(pick)
    return np.array(rows, dtype=np.float64).tolist()


def best_consistent(query: Any, picked: Any, noise: float, searches: list[Any], generator: Any) -> float:
    """The largest gain found among unit vectors that all searches so far could have left out.

    A random search in the span of the picks and the residual query, so "none found" proves nothing.
    Alternates between meeting all the searches' limits (and the current one with equality) and unit length.
    """
    basis = np.linalg.qr(np.concatenate([picked, query[None]]).T)[0]
    low = -np.array([below for _, _, below in searches])
    high = np.array([above for _, above, _ in searches])
    edge = high[-1] if high[-1] >= -low[-1] else low[-1]
    limits = np.array([direction for direction, _, _ in searches]) @ basis
    low, high = np.append(low[:-1], edge), np.append(high[:-1], edge)
    inverse = np.linalg.pinv(limits)
    x = generator.standard_normal((64, basis.shape[1]))
    for _ in range(200):
        along = x @ limits.T
        x = x + (np.clip(along, low, high) - along) @ inverse.T
        x /= np.linalg.norm(x, axis=1, keepdims=True)
    along = x @ limits.T
    # The last column may end a little off its edge, but must not lie beyond it.
    low[-1], high[-1] = -abs(edge), abs(edge)
    consistent = ((along >= low - 1e-9) & (along <= high + 1e-9)).all(axis=1)
    products = picked @ basis @ x.T
    kernel = picked @ picked.T + noise * np.eye(len(picked))
    variance = 1 - np.einsum("nb,nb->b", products, np.linalg.solve(kernel, products))
    gains = along[:, -1] ** 2 / (variance + noise)
    return float(gains[consistent].max(initial=0.0))


def shares(rounds: int) -> list[dict[str, Any]]:
    """The table: one row for each spread, λ and k."""
    table = []
    for spread in (0.7, 1.5):
        generator = np.random.default_rng(0)
        centres = generator.standard_normal((CLUSTERS, WIDTH))
        centres /= np.linalg.norm(centres, axis=1, keepdims=True)
        corpus = clusters(generator, SIZE, centres, spread)
        queries = clusters(generator, rounds, centres, spread).astype(np.float64)
        queries /= np.linalg.norm(queries, axis=1, keepdims=True)
        for noise in NOISES:
            for k in KS:
                rows = [row for query in queries for row in walk(corpus, query[None], noise, k, generator)]
                means = np.mean(rows, axis=0).round(3).tolist()
                names = ("same", "preselected", "design", "certified", "refuted")
                table.append({"spread": spread, "noise": noise, "k": k, **dict(zip(names, means, strict=True))})
                print(json.dumps(table[-1]), flush=True)
    return table


def times(rounds: int) -> dict[str, Any]:
    """Seconds for 50 picks; the whole corpus by ``select``, the indexes by ``select_from``."""
    generator = np.random.default_rng(0)
    centres = generator.standard_normal((CLUSTERS, WIDTH))
    centres /= np.linalg.norm(centres, axis=1, keepdims=True)
    corpus = clusters(generator, SIZE, centres, 1.0)
    query = clusters(generator, 1, centres, 1.0)
    index = NumpyIndex(corpus)
    jobs: dict[str, Any] = {"select, whole corpus": lambda: siftlm.select(query, corpus, n=N, noise=0.1)}
    for k in KS:
        jobs[f"NumpyIndex, k={k}"] = lambda k=k: siftlm.select_from(query, index, n=N, noise=0.1, k=k)
    jobs["NumpyIndex, k=100, certify=True"] = lambda: siftlm.select_from(
        query, index, n=N, noise=0.1, k=100, certify=True
    )
    try:
        import faiss
    except ImportError:
        pass
    else:
        flat, graph = faiss.IndexFlatIP(WIDTH), faiss.IndexHNSWFlat(WIDTH, 32, faiss.METRIC_INNER_PRODUCT)
        graph.hnsw.efSearch = 256
        for store in (flat, graph):
            store.add(corpus)
        for name, store in {"IndexFlatIP": flat, "IndexHNSWFlat, efSearch=256": graph}.items():
            adapted = FaissIndex(store)
            jobs[f"{name}, k=100"] = lambda i=adapted: siftlm.select_from(query, i, n=N, noise=0.1, k=100)
    whole = set(siftlm.select(query, corpus, n=N, noise=0.1).indices.tolist())
    nearest = np.argsort(-(corpus @ query[0]))[:200]
    jobs["select, the prompt's 200 nearest"] = lambda: siftlm.select(query, corpus[nearest], n=N, noise=0.1)
    found: dict[str, Any] = side_by_side(jobs, rounds)
    for name, job in jobs.items():
        made = job()
        picks = nearest[made.indices] if "nearest" in name else made.indices
        found[name]["picks_of_whole"] = len(whole & set(picks.tolist())) / len(whole)
        found[name]["uncertainty"] = float(made.uncertainty[-1])
        found[name]["certified"] = None if made.certified is None else float(made.certified.mean())
        shared = found[name]["picks_of_whole"]
        left = f"uncertainty left {made.uncertainty[-1]:.3f}"
        print(f"{name:34} {1000 * found[name]['median']:8.1f} ms, picks shared {shared:.2f}, {left}")
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one prompt and fewer rounds")
    parser.add_argument("--out", type=Path, default=RESULT, help="where the JSON goes")
    arguments = parser.parse_args()
    results = {
        "settings": {
            "size": SIZE,
            "width": WIDTH,
            "clusters": CLUSTERS,
            "n": N,
            "dtype": "float32",
            "threads": os.environ.get("OMP_NUM_THREADS", "all"),
        },
        "machine": describe("faiss-cpu"),
        "shares": shares(1 if arguments.quick else 4),
        "times": times(3 if arguments.quick else 7),
    }
    arguments.out.parent.mkdir(exist_ok=True)
    arguments.out.write_text(json.dumps(results, indent=1) + "\n")
    print(f"written to {arguments.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
