"""A byte that changed, a file that was cut, emptied, exchanged or lost: it is found and named, or does no harm at all.

Harm is anything that a reader could see. Bytes in the unused part of a page may change without anybody knowing, and
without anybody needing to know.
"""

from __future__ import annotations

import contextlib
import random
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from faults.world import EMBEDDER, held, record
from siftlm.errors import Damaged, InvalidInput, SiftlmError
from siftlm.memory import Memory

pytestmark = pytest.mark.slow

FILES = {"float32": "vectors.f32", "float16": "vectors.f16", "int8": "vectors.i8"}
NAMES = ("manifest.json", "texts.sqlite", "vectors")


class Patient:
    """A memory that is damaged and made whole, again and again."""

    def __init__(self, path: Path, storage: str) -> None:
        draw = random.Random(7)
        records = [record(draw, n) for n in range(60)]
        near = 0.8 if storage == "int8" else None
        with Memory.create(path, embedder=EMBEDDER, storage=storage, near_duplicates=near, passage_tokens=40) as memory:
            metadata = [{"n": one["n"], "group": one["group"]} for one in records]
            memory.add([one["text"] for one in records], metadata, ids=[one["id"] for one in records])
            memory.ingest([{"text": f"read in {n}", "n": n, "group": 5, "id": f"k{n}"} for n in range(60, 65)], id="id")
            memory.delete({"group": 3})
        self.path = path
        self.files = {file: file.read_bytes() for file in sorted(path.rglob("*")) if file.is_file()}
        self.whole = seen(path)

    def file(self, name: str) -> Path:
        return next(file for file in self.files if file.name.startswith(name))

    def heal(self) -> None:
        for file in [*self.path.rglob("*")]:
            if file.is_file() and file not in self.files:
                file.unlink()
        for file, content in self.files.items():
            file.parent.mkdir(exist_ok=True)
            file.write_bytes(content)

    def examine(self, *damaged: Path) -> bool:
        """Search, verify and compare; was the damage found?"""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # numbers that became infinite
            said = complaint(self.path)
            if said is None:
                assert seen(self.path) == self.whole
                return False
            assert any(file.name in said for file in damaged), said
            return True


def complaint(path: Path) -> str | None:
    """What is said of a memory when it is opened, searched and verified, if there is anything to say."""
    try:
        memory = Memory.open(path)
    except SiftlmError as error:
        return str(error)
    with memory:
        search(memory)
        verdict = memory.verify()
    return None if verdict.ok else "\n".join(verdict.problems)


def search(memory: Memory) -> None:
    """Whatever is wrong, only we say so."""
    for settings in (
        {"method": "sift"},
        {"k": None, "method": "nearest"},
        {"candidates": "words"},
        {"where": {"group": 2}},
        {"candidates": "both", "where": "n >= 20", "without_copies": True},
        {"residual": True},
        {"per_document": 1},
    ):
        with contextlib.suppress(Damaged, InvalidInput):
            memory.search("birch TEXT7 loam heath", n=3, **settings)


def seen(path: Path) -> list[Any]:
    """Everything that can be read."""
    with Memory.open(path) as memory, memory.snapshot() as snapshot:
        rows = memory.rows()
        passages = snapshot.passages(rows.tolist())
        found = memory.search("birch TEXT7 loam heath", n=5, candidates="both")
        return [
            rows.tolist(),
            [repr(one) for one in passages],
            memory.vectors(rows).tobytes(),
            held(path),
            snapshot.inputs(),
            memory.manifest,
            [(hit.text, hit.score) for hit in found],
        ]


@pytest.fixture(scope="module", params=list(FILES))
def patient(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Patient:
    return Patient(tmp_path_factory.mktemp("patient") / "memory", request.param)


@pytest.fixture(autouse=True)
def healed(patient: Patient) -> Iterator[None]:
    yield
    patient.heal()


def changed(content: bytes, draw: random.Random) -> bytes:
    """One byte is another, or has one other bit; rather one that was not zero, which much of a database is."""
    at = draw.randrange(len(content))
    while not content[at] and draw.random() < 0.8:
        at = draw.randrange(len(content))
    byte = content[at] ^ (draw.randrange(1, 256) if draw.random() < 0.5 else 1 << draw.randrange(8))
    return content[:at] + bytes([byte]) + content[at + 1 :]


def damage(patient: Patient, name: str, rounds: int) -> int:
    file, draw, found = patient.file(name), random.Random(rounds), 0
    for _ in range(rounds):
        file.write_bytes(changed(patient.files[file], draw))
        found += patient.examine(file)
        patient.heal()
    return found


@pytest.mark.parametrize("name", NAMES)
def test_a_changed_byte_now_and_then(patient, name):
    assert damage(patient, name, rounds=8)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_changed_byte(patient, name):
    assert damage(patient, name, rounds=150) > 30


def broken(patient: Patient, file: Path, how: str, draw: random.Random) -> list[Path]:
    """Harm a file; returns those that may be named for it."""
    content = patient.files[file]
    if how == "missing":
        file.unlink()
    elif how == "empty":
        file.write_bytes(b"")
    elif how == "cut":
        file.write_bytes(content[: draw.randrange(1, len(content))])
    else:
        other = draw.choice([one for one in patient.files if one != file and patient.files[one]])
        file.write_bytes(patient.files[other])
        other.write_bytes(content)
        return [file, other]
    return [file]


@pytest.mark.parametrize("how", ["missing", "empty", "cut", "exchanged"])
@pytest.mark.parametrize("name", NAMES)
def test_a_file_that_is_not_whole(patient, name, how):
    draw = random.Random(how)
    for _ in range(4 if how == "cut" else 1):
        assert patient.examine(*broken(patient, patient.file(name), how, draw))
        patient.heal()


@pytest.mark.parametrize("name", NAMES)
def test_a_change_to_a_damaged_memory_says_so_or_is_made(patient, name):
    """Whatever happens, only we say so."""
    draw = random.Random(3)
    for how in ["missing", "empty", "cut", "exchanged", *["changed"] * 4]:
        file = patient.file(name)
        if how == "changed":
            file.write_bytes(changed(patient.files[file], draw))
        else:
            broken(patient, file, how, draw)
        for change in (
            lambda memory: memory.add(["something new"]),
            lambda memory: memory.delete({"group": 2}),
            lambda memory: memory.compact(),
        ):
            with contextlib.suppress(SiftlmError), Memory.open(patient.path) as memory:
                change(memory)
        patient.heal()


@pytest.mark.parametrize("name", ["index.faiss", "index.json"])
def test_a_damaged_index_is_named_and_not_used(patient, name):
    pytest.importorskip("faiss")
    with Memory.open(patient.path) as memory:
        memory.build_index("flat")
    file = patient.path / "g0001" / name
    content, draw = file.read_bytes(), random.Random(4)
    for _ in range(8):
        file.write_bytes(changed(content, draw))
        assert patient.examine(file)
    file.write_bytes(content[: len(content) // 2])
    assert patient.examine(file)
    file.write_bytes(content)
    assert not patient.examine(file)
