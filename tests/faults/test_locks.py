"""Several at once: one writes, the others are told so or wait; readers see every change in full and at once."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from faults.world import EMBEDDER, check_readable
from siftlm.embedding import HashingEmbedder
from siftlm.errors import Conflict, Locked
from siftlm.memory import Memory, durability

HEAD = """
import sys
from pathlib import Path
from siftlm.memory import Memory
path = Path(sys.argv[1])
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    with Memory.create(tmp_path / "memory", embedder=EMBEDDER) as memory:
        memory.add(["a first text about birches"], [{"n": -1}])
    return tmp_path / "memory"


@contextmanager
def another(path: Path, program: str) -> Iterator[subprocess.Popen[str]]:
    """A process of its own that runs a program; it is spoken to in lines, and ended with the block."""
    process = subprocess.Popen(
        [sys.executable, "-u", "-c", HEAD + textwrap.dedent(program), str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def heard(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def tell(process: subprocess.Popen[str], words: str) -> str:
    """Say a line, hear one."""
    assert process.stdin is not None
    process.stdin.write(words + "\n")
    process.stdin.flush()
    return heard(process)


HOLDER = """
from siftlm.memory import durability
with durability.writer_lock(path, "counting sheep"):
    print("held")
    sys.stdin.readline()
print("free")
"""


@pytest.mark.slow
def test_a_second_writer_is_told_who_writes_and_may_wait_or_come_back(path):
    with another(path, HOLDER) as holder, Memory.open(path) as memory:
        assert heard(holder) == "held"
        for change in (
            lambda: memory.add(["another text"]),
            lambda: memory.delete({"n": -1}),
            memory.compact,
            lambda: memory.ingest(["another text"]),
        ):
            with pytest.raises(Locked) as caught:
                change()
            said = rf"process {holder.pid} on .* is writing \(counting sheep, since \d{{4}}-\d\d-\d\dT\d\d:\d\d"
            assert re.search(said, str(caught.value))
            assert "\n" not in str(caught.value)
        began = time.monotonic()
        with pytest.raises(Locked):
            memory.add(["another text"], wait=0.2)
        assert time.monotonic() - began >= 0.2
        assert [hit.text for hit in memory.search("birches", n=1)] == ["a first text about birches"]
        assert memory.verify().ok
        waiting = threading.Thread(target=lambda: memory.add(["it waited for its turn"], wait=60))
        waiting.start()
        assert tell(holder, "") == "free"
        waiting.join()
        assert len(memory) == 2


@pytest.mark.slow
def test_the_lock_of_a_killed_writer_is_free_at_once(path):
    with another(path, HOLDER) as holder, Memory.open(path) as memory:
        assert heard(holder) == "held"
        holder.kill()
        holder.wait()
        memory.add(["another text"])
        assert len(memory) == 2


def test_two_makers_of_one_memory(tmp_path, monkeypatch):
    """The slower one must not clear away what the faster one has acknowledged."""
    real, path = durability.writer_lock, tmp_path / "memory"

    @contextmanager
    def late(folder: Path, doing: str, *, wait: float = 0.0) -> Iterator[None]:
        monkeypatch.setattr(durability, "writer_lock", real)
        with Memory.create(path, embedder=EMBEDDER) as faster:
            faster.add(["what the faster one added"])
        with real(folder, doing, wait=wait):
            yield

    monkeypatch.setattr(durability, "writer_lock", late)
    with pytest.raises(Conflict, match="is a memory already"):
        Memory.create(path, embedder=EMBEDDER)
    with Memory.open(path) as memory:
        assert memory.texts(memory.rows()) == ["what the faster one added"]


ADDER = """
memory = Memory.open(path)
name = sys.stdin.readline().strip()
for n in range(int(sys.stdin.readline())):
    memory.add([f"text {n} of {name}"], [{"n": n}], wait=60)
    print("added")
print("done")
"""


def crowd(path: Path, writers: int, texts: int) -> None:
    with ExitStack() as stack:
        processes = [stack.enter_context(another(path, ADDER)) for _ in range(writers)]
        for name, process in enumerate(processes):
            assert process.stdin is not None
            process.stdin.write(f"{name}\n{texts}\n")
            process.stdin.flush()
        for process in processes:
            assert [heard(process) for _ in range(texts + 1)] == ["added"] * texts + ["done"]
    with Memory.open(path) as memory:
        expected = {f"text {n} of {name}" for n in range(texts) for name in range(writers)}
        assert expected < set(memory.texts(memory.rows()))
    check_whole(path)


def check_whole(path: Path) -> None:
    copy = path.with_name("whole")
    shutil.copytree(path, copy)
    check_readable(copy)
    shutil.rmtree(copy)


@pytest.mark.slow
def test_writers_that_wait_for_each_other(path):
    crowd(path, writers=2, texts=3)


@pytest.mark.slow
def test_many_writers_that_wait_for_each_other(path):
    crowd(path, writers=6, texts=15)


READER = """
memory = Memory.open(path)
memory.search("birches", n=1)
print("ready")
for line in sys.stdin:
    found = memory.search(line.strip(), n=3, method="nearest")
    print("|".join(hit.text for hit in found))
"""


@pytest.mark.slow
def test_a_reader_that_is_open_sees_changes_as_soon_as_they_are_acknowledged(path):
    with another(path, READER) as reader, Memory.open(path) as memory:
        assert heard(reader) == "ready"
        for n in range(12):
            memory.add([f"number{n} about larches"], [{"n": n}])
            assert f"number{n} about larches" in tell(reader, f"number{n} about larches").split("|")
            if n % 3 == 1:
                memory.delete({"n": n})
                assert f"number{n} about larches" not in tell(reader, f"number{n} about larches").split("|")
            if n % 4 == 3:
                memory.compact()
                if n % 8 == 3:  # a search on the new data, or a change on top of it first
                    assert f"number{n} about larches" in tell(reader, f"number{n} about larches").split("|")


@pytest.mark.slow
def test_a_search_under_way_keeps_its_moment_and_holds_nobody_up(path):
    """A snapshot outlives changes and even the removal of its files; and writers don't wait for it."""
    with Memory.open(path) as memory, Memory.open(path) as writer:
        writer.add(["a text about larches"], [{"n": 1}])
        with memory.snapshot() as snapshot:
            before = snapshot.texts([0, 1])
            vectors = memory.vectors([0, 1])
            began = time.monotonic()
            writer.delete({"n": 1})
            writer.compact()
            writer.add(["a text about pines"])
            assert time.monotonic() - began < 30
            assert snapshot.texts([0, 1]) == before
            assert (memory.vectors([0, 1]) == vectors).all()
        assert memory.texts(memory.rows()) == ["a first text about birches", "a text about pines"]
    check_whole(path)


class Crowd:
    """Threads that search one memory while one changes it."""

    def __init__(self, path: Path) -> None:
        self.memory = Memory.open(path, embedder=HashingEmbedder(width=EMBEDDER.width))
        self.ended = threading.Event()
        self.there: set[str] = {"a first text about birches"}
        self.gone: set[str] = set()
        self.trouble: list[BaseException] = []
        self.searches = 0

    def guarded(self, work: Callable[[], None]) -> None:
        try:
            while not self.ended.is_set():
                work()
        except BaseException as error:  # noqa: BLE001 — told to the test
            self.trouble.append(error)
            self.ended.set()

    def search(self) -> None:
        there, gone = set(self.there), set(self.gone)
        where = {"n": self.searches % 40} if self.searches % 3 == 0 else None
        self.searches += 1
        found = {hit.text for hit in self.memory.search("about larches", n=5, where=where)}
        assert not found & gone
        if self.searches % 4 == 0:
            with self.memory.snapshot() as snapshot:
                rows = self.memory.rows()
                texts = set(snapshot.texts(rows.tolist()))
                assert not texts & gone
                assert there - self.gone - self.going <= texts

    going: frozenset[str] = frozenset()
    number = 0

    def change(self) -> None:
        self.number += 1
        text = f"number{self.number} about larches"
        self.memory.add([text], [{"n": self.number}], wait=10)
        self.there = self.there | {text}
        if self.number % 2:
            old = f"number{self.number // 2} about larches"
            self.going = self.going | {old}
            self.memory.delete({"n": self.number // 2}, wait=10)
            self.there = self.there - {old}
            self.gone = self.gone | {old}
        if self.number % 5 == 0:
            self.memory.compact(wait=10)


def search_and_change(path: Path, seconds: float) -> None:
    crowd = Crowd(path)
    works = [crowd.change] + [crowd.search] * 8
    threads = [threading.Thread(target=crowd.guarded, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    crowd.ended.wait(seconds)
    crowd.ended.set()
    for thread in threads:
        thread.join()
    crowd.memory.close()
    if crowd.trouble:
        raise crowd.trouble[0]
    assert crowd.number
    assert crowd.searches
    check_whole(path)


@pytest.mark.slow
def test_threads_search_while_one_writes(path):
    search_and_change(path, 0.7)


@pytest.mark.slow
def test_threads_search_while_one_writes_for_long(path):
    search_and_change(path, 8)
