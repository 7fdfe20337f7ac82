"""Embedded vector stores filled with the same texts and vectors and asked the same questions, fairly.

What makes a comparison of fillings unfair, and is impossible here: a store is imported, and has filled a small folder
once, before any clock starts; the stores take turns in one process (A B A B …), each time in an empty folder, and
medians count; the clock stops when every file that the store wrote is on the disk, whether the store flushes by itself
or not; full text is asked of all or of none. A store that cannot leave an index out, or cannot have it, is named in
``always`` or left out of that comparison.

``recall`` is that of the 200 nearest. A store that approximates is searched with the smallest effort, doubling, with
which it finds 99 %, and searches as it comes are reported beside that.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from machine import side_by_side

from siftlm import Memory, embedder

K = 200
MATCHED_RECALL = 0.99
WARM_UP = 1000
LARGEST_EFFORT = 1 << 14

Search = Callable[[np.ndarray], tuple[set[str], int]]
"""A query -> the texts that were found, and how many vectors came with them."""


@dataclass(frozen=True)
class Store:
    """A store whose library is imported already."""

    fill: Callable[[Path, Sequence[str], np.ndarray, bool], None]
    """Texts and (n, d) vectors in memory -> a folder; the last one asks for full text."""
    fill_lines: Callable[[Path, Path, Path, bool], None] | None
    """The same from a file of JSON lines and a ``.npy`` file; None where the store reads no files or tables."""
    open: Callable[[Path, int], Search]
    """A filled folder, searched with an effort; 0 is the store's own choice."""
    words: tuple[bool, ...] = (False, True)
    """Whether it can be filled without full text, and with it."""
    always: str = ""
    """The indexes that it builds whether they are asked for or not."""
    approximates: bool = False
    most: int | None = None
    """The texts that it is filled with while the clock runs, where each takes it milliseconds."""


def siftlm_store(width: int) -> Store:
    given = embedder("precomputed", width=width, label="synthetic")

    def fill(folder: Path, texts: Sequence[str], vectors: np.ndarray, words: bool) -> None:
        with Memory.create(folder, embedder=given, full_text=words) as memory:
            memory.add(texts, vectors=vectors)

    def fill_lines(folder: Path, corpus: Path, vectors: Path, words: bool) -> None:
        Memory.build(corpus, folder, embedder=given, vector=vectors, full_text=words, progress=False).close()

    def opened(folder: Path, effort: int) -> Search:
        memory = Memory.open(folder)

        def search(query: np.ndarray) -> tuple[set[str], int]:
            hits = memory.search(query, n=K, method="nearest")
            return set(hits.texts), len(memory.vectors([hit.row for hit in hits]))

        return search

    return Store(fill, fill_lines, opened)


def lance_store(width: int) -> Store:
    import lancedb
    import pyarrow as pa
    import pyarrow.json

    def write(folder: Path, columns: dict[str, Any], vectors: np.ndarray, words: bool) -> None:
        column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), width)
        table = lancedb.connect(folder).create_table("t", pa.table({"vector": column, **columns}))
        if words:
            table.create_fts_index("text")

    def fill(folder: Path, texts: Sequence[str], vectors: np.ndarray, words: bool) -> None:
        write(folder, {"text": texts}, vectors, words)

    def fill_lines(folder: Path, corpus: Path, vectors: Path, words: bool) -> None:
        read = pyarrow.json.read_json(corpus)
        write(folder, {name: read[name] for name in read.column_names}, np.load(vectors), words)

    def opened(folder: Path, effort: int) -> Search:
        table = lancedb.connect(folder).open_table("t")

        def search(query: np.ndarray) -> tuple[set[str], int]:
            rows = table.search(query).distance_type("dot").limit(K).to_arrow()
            return set(rows["text"].to_pylist()), len(rows["vector"])

        return search

    return Store(fill, fill_lines, opened)


def chroma_store(width: int) -> Store:
    import chromadb
    from chromadb.api.shared_system_client import SharedSystemClient

    def connect(folder: Path) -> Any:
        return chromadb.PersistentClient(str(folder), settings=chromadb.Settings(anonymized_telemetry=False))

    def fill(folder: Path, texts: Sequence[str], vectors: np.ndarray, words: bool) -> None:
        client = connect(folder)
        collection = client.create_collection("texts", configuration={"hnsw": {"space": "ip"}}, embedding_function=None)
        most = client.get_max_batch_size()
        for start in range(0, len(texts), most):
            ids = [str(n) for n in range(start, min(start + most, len(texts)))]
            some = list(texts[start : start + most])
            collection.add(ids=ids, embeddings=vectors[start : start + most], documents=some)

    def opened(folder: Path, effort: int) -> Search:
        if effort:
            connect(folder).get_collection("texts").modify(configuration={"hnsw": {"ef_search": effort}})
            SharedSystemClient.clear_system_cache()  # a graph in memory keeps the effort that it was opened with
        collection = connect(folder).get_collection("texts", embedding_function=None)

        def search(query: np.ndarray) -> tuple[set[str], int]:
            rows = collection.query(query_embeddings=[query], n_results=K, include=["documents", "embeddings"])
            return set(rows["documents"][0]), len(rows["embeddings"][0])

        return search

    return Store(fill, None, opened, words=(True,), always="an HNSW graph and full text", approximates=True)


def qdrant_store(width: int) -> Store:
    from qdrant_client import QdrantClient, models

    def fill(folder: Path, texts: Sequence[str], vectors: np.ndarray, words: bool) -> None:
        client = QdrantClient(path=str(folder))
        client.create_collection("t", models.VectorParams(size=width, distance=models.Distance.DOT))
        client.upload_collection("t", vectors=vectors, payload=[{"text": text} for text in texts])
        client.close()

    def opened(folder: Path, effort: int) -> Search:
        client = QdrantClient(path=str(folder))

        def search(query: np.ndarray) -> tuple[set[str], int]:
            found = client.query_points("t", query, limit=K, with_payload=True, with_vectors=True).points
            return {one.payload["text"] for one in found}, sum(one.vector is not None for one in found)

        return search

    # It commits each text by itself.
    return Store(fill, None, opened, words=(False,), most=WARM_UP)


def milvus_store(width: int) -> Store:
    import pymilvus

    def fill(folder: Path, texts: Sequence[str], vectors: np.ndarray, words: bool) -> None:
        folder.mkdir()
        client = pymilvus.MilvusClient(str(folder / "milvus.db"))
        client.create_collection("texts", dimension=width, metric_type="IP")
        for start in range(0, len(texts), 10_000):
            numbers = range(start, min(start + 10_000, len(texts)))
            client.insert("texts", [{"id": n, "vector": vectors[n], "text": texts[n]} for n in numbers])
        client.close()

    def opened(folder: Path, effort: int) -> Search:
        client = pymilvus.MilvusClient(str(folder / "milvus.db"))

        def search(query: np.ndarray) -> tuple[set[str], int]:
            rows = client.search("texts", data=[query], limit=K, output_fields=["text", "vector"])[0]
            return {row["entity"]["text"] for row in rows}, sum("vector" in row["entity"] for row in rows)

        return search

    return Store(fill, None, opened, words=(False,))


STORES: dict[str, Callable[[int], Store]] = {
    "siftlm": siftlm_store,
    "lancedb": lance_store,
    "qdrant local": qdrant_store,
    "chroma": chroma_store,
    "milvus lite": milvus_store,
}


def compare(
    folder: Path, texts: Sequence[str], vectors: np.ndarray, queries: np.ndarray, rounds: int, note: str
) -> dict[str, Any]:
    """Filling from memory and from files, with full text and without; then searching."""
    loaded = {name: store for name in STORES if (store := _load(name, vectors.shape[1])) is not None}
    found: dict[str, Any] = {"passages": len(texts), "rounds": rounds, "note": note}
    found["filled"] = {name: store.most or len(texts) for name, store in loaded.items()}
    found["always"] = {name: store.always for name, store in loaded.items() if store.always}
    files = _write_files(folder, texts, vectors)
    small = _write_files(folder / "small", texts[:WARM_UP], vectors[:WARM_UP])
    filling = _Filling(folder)
    found["fill"] = {}
    for words in (False, True):
        apt = {name: store for name, store in loaded.items() if words in store.words}
        readers = {name: store.fill_lines for name, store in apt.items() if store.fill_lines is not None}
        for store in apt.values():
            filling(store.fill, texts[:WARM_UP], vectors[:WARM_UP], words)
        for read in readers.values():
            filling(read, *small, words)
        arrays = {
            name: lambda s=store, w=words: filling(s.fill, texts[: s.most], vectors[: s.most], w)
            for name, store in apt.items()
        }
        lines = {name: lambda r=read, w=words: filling(r, *files, w) for name, read in readers.items()}
        suffix = " with full text" if words else ""
        for source, jobs in (("memory", arrays), ("JSON lines", lines)):
            found["fill"][source + suffix] = side_by_side(jobs, rounds, warm_up=0, between=filling.remove)
            print(f"{source}{suffix}", json.dumps(found["fill"][source + suffix], indent=1), flush=True)
    return {**found, **_searching(folder, loaded, texts, vectors, queries)}


def _load(name: str, width: int) -> Store | None:
    try:
        return STORES[name](width)
    except ImportError as error:
        print(f"{name}: absent ({error})")
        return None


def _write_files(folder: Path, texts: Sequence[str], vectors: np.ndarray) -> tuple[Path, Path]:
    folder.mkdir(exist_ok=True)
    corpus, beside = folder / "corpus.jsonl", folder / "corpus.npy"
    with open(corpus, "w", encoding="utf-8") as file:
        file.writelines(json.dumps({"text": text, "n": n}) + "\n" for n, text in enumerate(texts))
    np.save(beside, vectors)
    return corpus, beside


class _Filling:
    """Fills an empty folder, and waits until all of it is on the disk."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._count = folder, 0
        self._filled: list[Path] = []

    def __call__(self, fill: Callable[..., None], *arguments: Any) -> None:
        self._count += 1
        into = self._folder / f"filled-{self._count}"
        self._filled.append(into)
        fill(into, *arguments)
        _sync(into)

    def remove(self) -> None:
        """Remove what was filled, which no clock should count."""
        while self._filled:
            shutil.rmtree(self._filled.pop())


def _sync(folder: Path) -> None:
    for place in [folder, *folder.rglob("*")]:
        descriptor = os.open(place, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)


def _searching(
    folder: Path, loaded: dict[str, Store], texts: Sequence[str], vectors: np.ndarray, queries: np.ndarray
) -> dict[str, Any]:
    truth = [{texts[at] for at in np.argsort(-(vectors @ query), kind="stable")[:K].tolist()} for query in queries[:20]]

    def recall(search: Search) -> float:
        return float(np.mean([len(own & search(q)[0]) / K for own, q in zip(truth, queries, strict=False)]))

    searches: dict[str, Search] = {}
    efforts: dict[str, int] = {}
    for name, store in loaded.items():
        filled = folder / f"searched-{name.replace(' ', '-')}"
        store.fill(filled, texts, vectors, store.words[0])
        searches[name] = store.open(filled, 0)
        if store.approximates:
            effort, matched = K, store.open(filled, K)
            while recall(matched) < MATCHED_RECALL and effort < LARGEST_EFFORT:
                effort *= 2
                matched = store.open(filled, effort)
            efforts[f"{name}, matched"] = effort
            # As it comes, it needs a folder of its own: the effort is kept in the folder.
            plain = folder / f"plain-{name.replace(' ', '-')}"
            store.fill(plain, texts, vectors, store.words[0])
            searches[name], searches[f"{name}, matched"] = store.open(plain, 0), matched
    turn = {"at": 0}

    def following() -> np.ndarray:
        turn["at"] += 1
        return queries[turn["at"] % len(queries)]

    return {
        "recall": {name: recall(search) for name, search in searches.items()},
        "effort": efforts,
        "search": side_by_side({name: lambda s=search: s(following()) for name, search in searches.items()}, rounds=21),
    }
