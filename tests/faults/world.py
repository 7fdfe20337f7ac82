"""What a memory ought to hold, as plain dictionaries; the steps that change it; and what one on disk does hold."""

from __future__ import annotations

import contextlib
import json
import random
import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np

from siftlm.embedding import HashingEmbedder
from siftlm.memory import Memory, ingest, vectors
from siftlm.types import Vectors

WORDS = ["amber", "birch", "cedar", "dune", "ember", "fjord", "grove", "heath", "iris", "juniper", "kelp", "loam"]
PASSAGE = 40
BATCH = 4
EMBEDDER = HashingEmbedder(width=64)

Step = list[Any]
"""``["read", file]``, ``["add", [record, …]]``, ``["delete", filter]`` or ``["compact"]``: what JSON can hold."""


def record(draw: random.Random, n: int) -> dict[str, Any]:
    """Texts repeat often, in capitals too; some are long enough to be cut."""
    name = draw.randrange(60)
    words = random.Random(name).choices(WORDS, k=90 if name % 10 == 0 else 9)
    text = " ".join([f"text{name}", *words])
    return {"id": f"k{n}", "text": text.upper() if draw.random() < 0.3 else text, "n": n, "group": draw.randrange(4)}


@dataclass
class World:
    """What was given, in order; and with near-duplicates, which text stands for those that differ in case alone."""

    near: bool
    records: dict[int, dict[str, Any]] = field(default_factory=dict)
    stored: dict[str, str] = field(default_factory=dict)

    def copy(self) -> World:
        return World(self.near, dict(self.records), dict(self.stored))

    def add(self, record: dict[str, Any]) -> None:
        self.records[record["n"]] = record
        self.stored.setdefault(self._family(record["text"]), record["text"])

    def delete(self, where: dict[str, Any]) -> None:
        self._forget([n for n, one in self.records.items() if all(one[k.strip("@")] == v for k, v in where.items())])
        kept = {one["text"] for one in self.records.values()}
        lost = {family for family, text in self.stored.items() if text not in kept}
        self._forget([n for n, one in self.records.items() if self._family(one["text"]) in lost])
        self.stored = {family: text for family, text in self.stored.items() if family not in lost}

    def _forget(self, numbers: list[int]) -> None:
        for n in numbers:
            del self.records[n]

    def _family(self, text: str) -> str:
        return text.lower() if self.near else text

    def shown(self) -> list[tuple[int, str, int, str]]:
        """Each document, with the text that stands for its own."""
        return sorted(
            (one["n"], one["id"], one["group"], self.stored[self._family(one["text"])]) for one in self.records.values()
        )


def outcomes(world: World, step: Step) -> list[World]:
    """What may be there while a step is under way, from nothing of it to all of it."""
    found, now = [world.copy()], world.copy()
    if step[0] == "read":
        # The file holds what is still to be read of it last; what was read before is in the world, or deleted.
        for start in range(0, len(step[2]), BATCH):
            for one in step[2][start : start + BATCH]:
                now.add(one)
            found.append(now.copy())
        return found
    if step[0] == "add":
        for one in step[1]:
            now.add(one)
    elif step[0] == "delete":
        now.delete(step[1])
    return [*found, now]


def take(path: Path, step: Step, settings: dict[str, Any]) -> None:
    """Do it."""
    what, settings = step[0], dict(settings)
    embedder = Logged(settings.pop("log")) if "log" in settings else EMBEDDER
    if what == "read":
        if not (path / "manifest.json").exists() or step[1].endswith("first.jsonl"):
            Memory.build(step[1], into=path, embedder=embedder, id="id", passage_tokens=PASSAGE, **settings).close()
            return
        with Memory.open(path) as memory:
            memory.ingest(step[1], id="id")
        return
    with Memory.open(path) as memory:
        if what == "add":
            texts = [one["text"] for one in step[1]]
            metadata = [{"n": one["n"], "group": one["group"]} for one in step[1]]
            memory.add(texts, metadata, ids=[one["id"] for one in step[1]])
        elif what == "delete":
            memory.delete(step[1])
        else:
            memory.compact()


class Logged(HashingEmbedder):
    """Writes down what it embeds, before it does, so that it is known even of a process that was killed."""

    def __init__(self, file: str) -> None:
        super().__init__(width=EMBEDDER.width)
        self._file = file

    def embed(self, texts: Sequence[str], *, as_query: bool = False) -> Vectors:
        with open(self._file, "a", encoding="utf-8") as file:
            file.writelines(json.dumps(text) + "\n" for text in texts)
        return super().embed(texts, as_query=as_query)


@contextlib.contextmanager
def small_batches() -> Iterator[None]:
    """Four documents a batch."""
    with patch.object(ingest, "MAX_BATCH_DOCUMENTS", BATCH):
        yield


def held(path: Path) -> list[tuple[int, str, int, str]]:
    """What a memory on disk holds, read past siftlm: as `World.shown` says it, long texts put together again."""
    with open(path / "manifest.json", encoding="utf-8") as file:
        folder = path / f"g{json.load(file)['generation']:04d}"
    connection = sqlite3.connect(folder / "texts.sqlite")
    try:
        rows = connection.execute(
            "SELECT id, key, meta, start, text FROM documents JOIN places ON document = id "
            "JOIN passages USING (row) ORDER BY id, part"
        ).fetchall()
    finally:
        connection.close()
    documents: dict[int, tuple[str, dict[str, Any], list[tuple[int, str]]]] = {}
    for number, key, meta, start, text in rows:
        documents.setdefault(number, (key, json.loads(meta), []))[2].append((start, text))
    return sorted((meta["n"], key, meta["group"], _together(parts)) for key, meta, parts in documents.values())


def _together(parts: list[tuple[int, str]]) -> str:
    whole = ""
    for start, text in parts:
        whole = (whole + " " * (start - len(whole)))[:start] + text
    return whole


def check_readable(path: Path) -> None:
    """`verify` is clean, each vector is that of its text, and both ways of searching find what is there."""
    with Memory.open(path) as memory:
        verdict = memory.verify()
        assert verdict.ok, verdict
        rows = memory.rows()
        texts = memory.texts(rows)
        assert len(memory) == len(rows)
        if not texts:
            return
        form = vectors.VectorFormat(memory.manifest.storage, memory.manifest.width)
        expected = form.decode(form.encode(vectors.unit_rows(EMBEDDER.embed(texts))))
        np.testing.assert_array_equal(memory.vectors(rows), expected)
        middle = texts[len(texts) // 2]
        near = memory.search(middle, n=1, method="nearest")
        assert near[0].text.lower() == middle.lower()
        if memory.manifest.full_text:
            assert len(memory.search(middle, n=1, method="nearest", candidates="words")) == 1
