"""A build that is killed goes on where it stopped, ends as if nothing had happened, and embeds nothing twice."""

from __future__ import annotations

import json
import random
import shutil
import sqlite3
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from faults.children import Children
from faults.world import EMBEDDER, PASSAGE, check_readable, record, small_batches
from siftlm.embedding import HashingEmbedder
from siftlm.errors import BadRecord, Conflict
from siftlm.memory import Memory
from siftlm.types import Vectors

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def children() -> Iterator[Children]:
    found = Children()
    yield found
    found.close()


def corpus(folder: Path, records: int) -> Path:
    """Some lines are bad, some texts come again, some with other metadata."""
    draw = random.Random(records)
    lines = [json.dumps(record(draw, n)) if n % 9 else "{not JSON" for n in range(records)]
    path = folder / "corpus.jsonl"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def everything(path: Path) -> dict[str, Any]:
    """Of a memory that only builds have changed: all tables that a reader meets, and the vectors."""
    statements = {
        "documents": "SELECT * FROM documents ORDER BY id",
        "passages": "SELECT * FROM passages ORDER BY row",
        "places": "SELECT * FROM places ORDER BY document, part",
        "inputs": "SELECT name, next, finished, documents, bad, complaints FROM inputs",
    }
    connection = sqlite3.connect(path / "g0001" / "texts.sqlite")
    try:
        found: dict[str, Any] = {what: connection.execute(how).fetchall() for what, how in statements.items()}
    finally:
        connection.close()
    with Memory.open(path) as memory:
        found["vectors"] = memory.vectors(memory.rows()).tobytes()
    return found


def committed(path: Path, copy: Path) -> set[str]:
    """Texts that are there; looked up in a copy, because looking repairs."""
    if not (path / "manifest.json").exists():
        return set()
    shutil.copytree(path, copy)
    check_readable(copy)
    with Memory.open(copy) as memory:
        found = set(memory.texts(memory.rows()))
    shutil.rmtree(copy)
    return found


def build_with_kills(children: Children, folder: Path, records: int, seed: int, settings: dict[str, Any]) -> int:
    file, log, path, draw = corpus(folder, records), folder / "embedded", folder / "memory", random.Random(seed)
    log.touch()
    kills, safe, read = 0, set[str](), 0
    file = file.rename(folder / "first.jsonl")  # which is built, also when it was begun before
    while True:
        # First by moments, which come on fast and slow machines alike.
        by_moment = kills < 6 or draw.random() < 0.7
        kill = {"moment": draw.randrange(5, 50)} if by_moment else {"seconds": draw.uniform(0.02, 0.2)}
        answer = children.run(path, [["read", str(file), []]], {**settings, "log": str(log)}, kill)
        assert answer["killed"] or not answer["error"], answer["error"]
        lines = log.read_text(encoding="utf-8").splitlines()
        again, read = set(map(json.loads, lines[read:])), len(lines)
        assert not again & safe
        safe = committed(path, folder / "copy")
        if answer["done"]:
            break
        kills += answer["killed"]
    with small_batches():
        whole = Memory.build(
            file, into=folder / "whole", embedder=EMBEDDER, id="id", passage_tokens=PASSAGE, **settings
        )
        whole.close()
    assert everything(path) == everything(folder / "whole")
    return kills


def test_a_build_that_was_killed_goes_on(children, tmp_path):
    assert build_with_kills(children, tmp_path, records=20, seed=1, settings={})


@pytest.mark.slow
@pytest.mark.parametrize("settings", [{"storage": "int8"}, {"near_duplicates": 0.8}])
@pytest.mark.parametrize("seed", range(3))
def test_a_large_build_that_was_killed_often_goes_on(children, tmp_path, seed, settings):
    assert build_with_kills(children, tmp_path, records=120, seed=seed, settings=settings) > 5


class Counting:
    """An embedder that counts what it embeds, and is interrupted at the n-th call."""

    name, fingerprint, width, max_tokens = EMBEDDER.name, EMBEDDER.fingerprint, EMBEDDER.width, EMBEDDER.max_tokens
    settings = EMBEDDER.settings

    def __init__(self, interrupted_at: int = -1) -> None:
        self.texts: Counter[str] = Counter()
        self.left = interrupted_at

    def embed(self, texts: Sequence[str], *, as_query: bool = False) -> Vectors:
        if self.left == 0:
            raise KeyboardInterrupt
        self.left -= 1
        self.texts.update(texts)
        return EMBEDDER.embed(texts, as_query=as_query)

    def tokens(self, texts: Sequence[str]) -> Any:
        return EMBEDDER.tokens(texts)


@pytest.mark.parametrize("call", [0, 1, 3])
def test_ctrl_c_while_embedding_leaves_whole_batches(tmp_path, call):
    file, first, second = corpus(tmp_path, 30), Counting(call), Counting()
    settings = {"into": tmp_path / "memory", "id": "id", "passage_tokens": PASSAGE}
    with small_batches():
        with pytest.raises(KeyboardInterrupt):
            Memory.build(file, embedder=first, **settings)
        check_readable(tmp_path / "memory")
        with Memory.open(tmp_path / "memory") as memory:
            assert sorted(memory.texts(memory.rows())) == sorted(first.texts)
        Memory.build(file, embedder=second, **settings).close()
        Memory.build(file, embedder=EMBEDDER, **{**settings, "into": tmp_path / "whole"}).close()
    assert everything(tmp_path / "memory") == everything(tmp_path / "whole")
    assert max((first.texts + second.texts).values()) == 1


def test_a_finished_build_embeds_nothing_again_and_another_input_is_refused(tmp_path):
    file, settings = corpus(tmp_path, 12), {"into": tmp_path / "memory", "id": "id"}
    Memory.build(file, embedder=EMBEDDER, **settings).close()
    counting = Counting()
    with Memory.build(file, embedder=counting, **settings) as memory:
        assert not counting.texts
        before = memory.rows().tolist()
    with file.open("a", encoding="utf-8") as more:
        more.write(json.dumps({"text": "one more"}) + "\n")
    for changed in (file, [{"text": "something else"}]):
        with pytest.raises(Conflict, match=r"input has changed|already holds"):
            Memory.build(changed, embedder=EMBEDDER, **settings)
    with pytest.raises(Conflict):
        Memory.build(file, embedder=HashingEmbedder(width=32), **settings)
    with Memory.open(tmp_path / "memory") as memory:
        assert memory.rows().tolist() == before
        assert memory.verify().ok


def test_a_bad_record_that_is_fatal_leaves_the_batches_before_it(tmp_path):
    records = [{"text": f"text {n}"} for n in range(10)] + [{"text": 5}]
    with small_batches(), pytest.raises(BadRecord):
        Memory.build(records, into=tmp_path / "memory", embedder=EMBEDDER, bad="fail")
    with Memory.open(tmp_path / "memory") as memory:
        assert memory.texts(memory.rows()) == [f"text {n}" for n in range(8)]
        assert np.isfinite(memory.vectors(memory.rows())).all()
        assert memory.verify().ok
