"""A memory of real text in 15 domains: sizes, times, recall of the compressed forms, redundancy.

    python benchmarks/minipile.py ../shared/minipile                        hashing, all documents; some minutes
    python benchmarks/minipile.py ../shared/minipile --model FOLDER         also a sentence-transformers model,
                                                                            over the first --documents (5,000) lines

The corpus is JSON lines, gzip: train.jsonl.gz for the memory, test.jsonl.gz for the prompts, in random order, so
that the first lines are a sample of all domains. Each embedder's vectors are stored as float32, float16 and int8.
Reported for each form, over 256 prompts (the first 1,000 characters of test documents):

    recall      share of the 200 nearest by float32 vectors that are among the 200 nearest by this form's
    picks       share of SIFT's 50 picks (λ = 0.1, K = 200) by float32 that are also picked by this form
    search_ms   median time of a search for 10 by SIFT, embedding not counted

Results go to benchmarks/results/minipile.json: figures only, none of the texts.
"""

from __future__ import annotations

import argparse
import gzip
import itertools
import json
import shutil
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from machine import describe

from siftlm import Memory, embedder

RESULT = Path(__file__).parent / "results" / "minipile.json"
PROMPTS, K, N = 256, 200, 50
FORMS = ("float32", "float16", "int8")


def prompts(corpus: Path) -> list[str]:
    with gzip.open(corpus / "test.jsonl.gz", "rt", encoding="utf-8") as file:
        return [json.loads(line)["text"][:1000] for line in itertools.islice(file, PROMPTS)]


def sizes(memory: Memory) -> dict[str, int]:
    return {file.name: file.stat().st_size for file in sorted(memory.path.glob("g*/*")) if "-" not in file.name}


def again(first: Memory, folder: Path, storage: str) -> Memory:
    """The same passages and vectors in another form."""
    with_vectors = embedder("precomputed", width=first.width, label=first.manifest.fingerprint)
    memory = Memory.create(folder / f"again-{storage}", embedder=with_vectors, storage=storage, full_text=False)
    rows = first.rows()
    for start in range(0, len(rows), 20_000):
        some = rows[start : start + 20_000]
        memory.add(first.texts(some), vectors=first.vectors(some))
    return memory


def forms(first: Memory, folder: Path, queries: np.ndarray) -> dict[str, Any]:
    found: dict[str, Any] = {}
    truth: list[set[int]] = []
    picked: list[list[int]] = []
    for storage in FORMS:
        memory = again(first, folder, storage)
        with memory.snapshot() as snapshot:
            nearest = [set(one.ids.tolist()) for one in snapshot.nearest(queries, K, None)]
        picks = [
            memory.search(query, n=N, noise=0.1, replacement=False).selection.indices.tolist() for query in queries
        ]
        truth, picked = truth or nearest, picked or picks
        times = []
        for query in queries[:64]:
            start = time.perf_counter()
            memory.search(query, n=10)
            times.append(time.perf_counter() - start)
        found[storage] = {
            "vectors_bytes": max(size for file, size in sizes(memory).items() if file.startswith("vectors")),
            "recall": float(np.mean([len(a & b) / len(a) for a, b in zip(truth, nearest, strict=True)])),
            "picks": float(np.mean([len(set(a) & set(b)) / N for a, b in zip(picked, picks, strict=True)])),
            "search_ms": 1000 * statistics.median(times),
        }
        memory.close()
        shutil.rmtree(memory.path)
    return found


def measure(corpus: Path, folder: Path, name: str, documents: int | None, **settings: Any) -> dict[str, Any]:
    """Build, look at, and store in other forms."""
    lines = corpus / "train.jsonl.gz"
    if documents is not None:
        lines = folder / f"first-{documents}.jsonl.gz"
        with gzip.open(corpus / "train.jsonl.gz", "rb") as whole, gzip.open(lines, "wb", compresslevel=1) as some:
            some.writelines(itertools.islice(whole, documents))
    begin = time.perf_counter()
    memory = Memory.build(lines, folder / "built", embedder=embedder(name, **settings), progress=True)
    seconds = time.perf_counter() - begin
    info = memory.info()
    begin = time.perf_counter()
    verified = memory.verify().ok
    verify_seconds = time.perf_counter() - begin
    redundancy = memory.redundancy()
    queries = memory.embedder.embed(prompts(corpus), as_query=True)
    texts = prompts(corpus)[:64]
    times: dict[str, list[float]] = {"vectors": [], "words": [], "both": []}
    for text in texts:
        for kind, own in times.items():
            found = memory.search(text, n=10, candidates=kind)
            own.append(sum(found.seconds.values()) - found.seconds["embed"])
    result = {
        "documents": info.documents,
        "passages": info.passages,
        "duplicates": info.duplicates,
        "bad": sum(one.bad for one in info.inputs),
        "build_seconds": seconds,
        "passages_per_second": info.passages / seconds,
        "bytes": sizes(memory),
        "verify_seconds": verify_seconds,
        "verified": verified,
        "search_ms": {kind: 1000 * statistics.median(own) for kind, own in times.items()},
        "redundancy": {k: v for k, v in redundancy.to_dict().items() if k not in ("groups", "advice")},
        "forms": forms(memory, folder, queries),
    }
    memory.close()
    shutil.rmtree(memory.path)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--model", help="a sentence-transformers folder or name")
    parser.add_argument("--documents", type=int, default=5000, help="so many lines for the model")
    parser.add_argument("--skip-hashing", action="store_true")
    arguments = parser.parse_args()
    results = json.loads(RESULT.read_text()) if RESULT.exists() else {}
    results["machine"] = describe("torch", "transformers", "sentence-transformers")
    with tempfile.TemporaryDirectory(prefix="siftlm-minipile-") as made:
        if not arguments.skip_hashing:
            results["hashing"] = measure(arguments.corpus, Path(made), "hashing", None)
        if arguments.model:
            results["model"] = measure(
                arguments.corpus, Path(made), arguments.model, arguments.documents, precision="bfloat16"
            )
            results["model"]["precision"] = "bfloat16"
        RESULT.write_text(json.dumps(results, indent=1) + "\n")
        print(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
