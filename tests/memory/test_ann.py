"""The FAISS index: it finds what the scan finds, never what is not allowed, and stands aside when it is not intact."""

from __future__ import annotations

import json
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from siftlm.embedding import HashingEmbedder
from siftlm.errors import InvalidInput, Locked, MissingExtra, UnknownName, Unwritable
from siftlm.memory import IndexState, Memory, Snapshot, ann, ann_build, durability
from siftlm.memory import vectors as forms
from siftlm.memory.request import parse_filter
from siftlm.progress import Progress

pytestmark = pytest.mark.slow

faiss = pytest.importorskip("faiss")

WIDTH = 16
STORAGES = forms.STORAGES
# Settings with which nothing is left out.
EVERYTHING: dict[str, dict[str, int]] = {"flat": {}, "ivf": {"nlist": 5, "nprobe": 5}}


class Directions:
    """An embedder that is never asked: all vectors are given."""

    name, settings, fingerprint, width, max_tokens = "directions", {}, "directions", WIDTH, None

    def embed(self, texts: Any, *, as_query: bool = False) -> npt.NDArray[np.float32]:
        raise AssertionError(texts, as_query)

    def tokens(self, texts: Any) -> Any:
        raise AssertionError(texts)


def points(seed: int, n: int) -> npt.NDArray[np.float32]:
    """Clusters, as texts make them."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(99).standard_normal((8, WIDTH))
    return forms.unit_rows(centres[rng.integers(0, 8, n)] + 0.7 * rng.standard_normal((n, WIDTH)))  # type: ignore[no-any-return]


def fill(memory: Memory, seed: int, n: int) -> None:
    memory.add([f"text {seed} {at}" for at in range(n)], [{"n": at % 10} for at in range(n)], vectors=points(seed, n))


@pytest.fixture(params=STORAGES)
def any_memory(request: pytest.FixtureRequest, tmp_path: Path) -> Memory:
    return made(tmp_path, request.param)


@pytest.fixture
def memory(tmp_path: Path) -> Memory:
    return made(tmp_path, "float32")


def made(folder: Path, storage: str) -> Memory:
    memory = Memory.create(folder / "memory", embedder=Directions(), storage=storage, full_text=False)
    fill(memory, 1, 400)
    return memory


def folder_of(memory: Memory) -> Path:
    return memory.manifest.folder(memory.path)


def state_of(memory: Memory, *, thorough: bool = False) -> IndexState | None:
    with memory.snapshot() as snapshot:
        return ann.index_state(folder_of(memory), memory.manifest, snapshot.view.rows, thorough=thorough)


def uses_index(memory: Memory) -> bool:
    with memory.snapshot() as snapshot:
        return index_of(snapshot) is not None


def index_of(snapshot: Snapshot) -> ann.AnnIndex | None:
    return snapshot.view.index.current(snapshot.view.rows)


def check_same(memory: Memory, k: int, where: Any = None) -> None:
    """Index and scan give the same rows with the same scores, but for rounding."""
    queries = np.concatenate([points(7, 3), -points(7, 3)])
    with memory.snapshot() as snapshot:
        expression = parse_filter(where)
        allowed = snapshot.allowed(expression)
        found = snapshot.nearest(queries, k, expression)
        for one, scan in zip(found, snapshot.scanning().nearest(queries, k, expression), strict=True):
            assert len(one.ids) == len(scan.ids) == len(set(one.ids.tolist()))
            np.testing.assert_allclose(one.scores, scan.scores, atol=2e-6)
            if allowed is not None:
                assert allowed[one.ids].all()


# --- it finds what the scan finds


@pytest.mark.parametrize(
    ("kind", "storage"),
    # FAISS' own bytes are rounded once more than ours: their recall is tested below.
    [("flat", "float32"), ("flat", "float16"), ("flat", "int8"), ("ivf", "float32"), ("ivf", "float16")],
)
def test_looking_everywhere_finds_what_the_scan_finds(tmp_path: Path, kind: str, storage: str) -> None:
    memory = made(tmp_path, storage)
    memory.delete({"n": 3})
    memory.build_index(kind, **EVERYTHING[kind])
    assert uses_index(memory)
    for step in ("as built", "deleted", "added"):
        if step == "deleted":
            memory.delete({"n": 4})
        if step == "added":
            fill(memory, 2, 90)
            memory.delete({"n": 5})
        for k in (1, 200, 1000):
            check_same(memory, k)
            check_same(memory, k, where="n >= 5")
            check_same(memory, k, where={"n": 8})
            check_same(memory, k, where={"n": 77})


@pytest.mark.parametrize("kind", ["ivf", "hnsw"])
def test_approximate_kinds_find_most_and_nothing_else(any_memory: Memory, kind: str) -> None:
    memory = any_memory
    memory.delete({"n": 3})
    memory.build_index(kind)
    fill(memory, 2, 50)
    memory.delete({"n": 4})
    queries = points(7, 20)
    with memory.snapshot() as snapshot:
        assert not snapshot.exact
        for where in (None, "n >= 5", {"n": 8}):
            allowed = snapshot.allowed(parse_filter(where))
            assert allowed is not None
            found = snapshot.nearest(queries, 10, parse_filter(where))
            scan = snapshot.scanning().nearest(queries, 10, parse_filter(where))
            assert all(len(one.ids) == 10 and allowed[one.ids].all() for one in found)
            recall = np.mean([np.isin(one.ids, best.ids).mean() for one, best in zip(found, scan, strict=True)])
            assert recall >= 0.9


@pytest.mark.parametrize("kind", ["ivf", "hnsw"])
def test_there_are_always_k(memory: Memory, kind: str) -> None:
    memory.build_index(kind, **({"nlist": 20, "nprobe": 1} if kind == "ivf" else {"M": 2, "efSearch": 1}))
    for where, there in ((None, 400), ("n < 9", 360), ({"n": 1}, 40)):
        with memory.snapshot() as snapshot:
            for k in (30, 300, 4000):
                for one in snapshot.nearest(points(7, 4), k, parse_filter(where)):
                    assert len(one.ids) == min(k, there)


def test_search_can_be_told_to_look_at_every_vector(memory: Memory, monkeypatch: pytest.MonkeyPatch) -> None:
    target = points(7, 1)[0]
    expected = [hit.row for hit in memory.search(target, 10)]
    memory.build_index("ivf")

    def asked(*_: Any) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(ann.AnnIndex, "search", asked)
    with pytest.raises(ZeroDivisionError):
        memory.search(target, 10)
    assert [hit.row for hit in memory.search(target, 10, exact=True)] == expected
    (found,) = memory.search_many([target], 10, exact=True)
    assert [hit.row for hit in found] == expected


def test_residual_search_is_certain_only_without_an_approximate_index(memory: Memory) -> None:
    target = points(7, 1)[0]

    def certified(**settings: Any) -> bool:
        certificate = memory.search(target, 3, residual=True, k=400, **settings).selection.certified
        assert certificate is not None
        return bool(certificate.all())

    assert certified()
    memory.build_index("flat")
    assert certified()
    memory.build_index("ivf")
    assert not certified()
    assert certified(exact=True)


# --- what is in it


def test_deleted_vectors_are_not_in_a_new_index(any_memory: Memory) -> None:
    memory = any_memory
    memory.delete({"n": 3})
    for kind in ann_build.INDEX_SETTINGS:
        described = memory.build_index(kind)
        assert (described.rows, described.entries) == (400, 360)
        with memory.snapshot() as snapshot:
            index = index_of(snapshot)
            assert index is not None
            found = index.search(points(7, 1), 400, None)[0]
            assert snapshot.view.alive is not None
            assert snapshot.view.alive[found].all()


@pytest.mark.parametrize("kind", ["flat", "ivf"])
def test_built_twice_it_is_the_same_file(memory: Memory, kind: str) -> None:
    first = memory.build_index(kind)
    assert memory.build_index(kind).checksum == first.checksum


def test_progress_is_told_and_threads_are_left_alone(memory: Memory) -> None:
    before = faiss.omp_get_max_threads()
    seen: list[Progress] = []
    memory.build_index("ivf", progress=seen.append)
    assert [(one.what, one.done) for one in seen if one.finished] == [("training", 400), ("indexing", 400)]
    assert faiss.omp_get_max_threads() == before


# --- it stands aside


def damaged(memory: Memory, name: str, change: str) -> None:
    path = folder_of(memory) / name
    content = bytearray(path.read_bytes())
    if change == "flip":
        content[len(content) // 2] ^= 1
    elif change == "cut":
        del content[len(content) // 2 :]
    elif change == "empty":
        content.clear()
    path.unlink()
    if change != "gone":
        path.write_bytes(content)


@pytest.mark.parametrize("name", [ann.INDEX_FILE, ann.INDEX_DESCRIPTION_FILE])
@pytest.mark.parametrize("change", ["flip", "cut", "empty", "gone"])
def test_a_damaged_index_is_left_aside_and_named(memory: Memory, name: str, change: str) -> None:
    memory.build_index("ivf")
    assert state_of(memory) == IndexState(
        "ivf", {"nlist": 10, "nprobe": 8}, 400, (folder_of(memory) / ann.INDEX_FILE).stat().st_size
    )
    damaged(memory, name, change)
    with Memory.open(memory.path) as again:
        assert not uses_index(again)
        check_same(again, 10)
        state = state_of(again)
        assert state is not None
        assert state.damaged
        assert state.problem is not None
        assert name in state.problem
        again.build_index("flat")
        assert uses_index(again)


def test_samples_are_enough_to_load_and_all_is_read_to_verify(memory: Memory, monkeypatch: pytest.MonkeyPatch) -> None:
    memory.build_index("flat")
    monkeypatch.setattr(ann, "FULL_CHECK_BYTES", 0)
    monkeypatch.setattr(ann, "CHECKSUM_SAMPLE_BYTES", 16)
    path = folder_of(memory) / ann.INDEX_DESCRIPTION_FILE
    described = ann._read_description(folder_of(memory))
    with open(folder_of(memory) / ann.INDEX_FILE, "rb") as file:
        path.write_bytes(
            ann.description_content(
                ann.IndexDescription(**{**described.__dict__, "sample": ann.sampled_checksum(file)})
            )
        )
    content = bytearray((folder_of(memory) / ann.INDEX_FILE).read_bytes())
    content[200] ^= 1  # between the first two samples
    (folder_of(memory) / ann.INDEX_FILE).write_bytes(content)
    assert uses_index(memory)
    quick, thorough = state_of(memory), state_of(memory, thorough=True)
    assert quick is not None
    assert thorough is not None
    assert (quick.damaged, thorough.damaged) == (False, True)


@pytest.mark.parametrize(
    ("field", "value"), [("generation", 2), ("rows", 401), ("width", 17), ("storage", "int8"), ("entries", 399)]
)
def test_an_index_of_another_memory_is_left_aside(memory: Memory, field: str, value: Any) -> None:
    memory.build_index("flat")
    described = ann._read_description(folder_of(memory))
    other = ann.IndexDescription(**{**described.__dict__, field: value})
    (folder_of(memory) / ann.INDEX_DESCRIPTION_FILE).write_bytes(ann.description_content(other))
    assert not uses_index(memory)
    check_same(memory, 10)


def test_after_compaction_the_old_index_is_never_used(memory: Memory) -> None:
    memory.build_index("flat")
    old = {name: (folder_of(memory) / name).read_bytes() for name in (ann.INDEX_FILE, ann.INDEX_DESCRIPTION_FILE)}
    assert uses_index(memory)
    memory.delete({"n": 3})
    memory.compact()
    assert uses_index(memory)  # a new one
    memory.drop_index()
    assert state_of(memory) is None
    for name, content in old.items():
        (folder_of(memory) / name).write_bytes(content)
    with Memory.open(memory.path) as again:
        assert not uses_index(again)
        check_same(again, 50)
        state = state_of(again)
        assert state is not None
        assert "generation" in str(state.problem)


def test_a_snapshot_from_before_scans(memory: Memory) -> None:
    """An index that covers rows which a snapshot does not know yet."""
    with memory.snapshot() as before, Memory.open(memory.path) as other:
        fill(other, 2, 30)
        other.build_index("flat")
        assert index_of(before) is None
        assert all((one.ids < 400).all() for one in before.nearest(points(7, 2), 500))
    assert uses_index(memory)


def test_without_faiss_searches_scan_and_building_says_what_to_install(
    memory: Memory, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory.build_index("flat")
    monkeypatch.setitem(sys.modules, "faiss", None)
    with Memory.open(memory.path) as again:
        assert not uses_index(again)
        assert len(again.search(points(7, 1)[0], 5)) == 5
        with pytest.raises(MissingExtra, match=r"siftlm\[faiss\]"):
            again.build_index()
        state = state_of(again)
        assert state is not None
        assert not state.damaged
        assert "siftlm[faiss]" in str(state.problem)


# --- building and dropping


def test_a_new_index_and_a_dropped_one_are_noticed(memory: Memory) -> None:
    assert not memory.drop_index()
    assert state_of(memory) is None
    for kind in ("flat", "ivf"):
        memory.build_index(kind)
        with memory.snapshot() as snapshot:
            index = index_of(snapshot)
            assert index is not None
            assert index.described.kind == kind
            assert index_of(snapshot) is index
    assert memory.drop_index()
    assert not uses_index(memory)
    assert not list(folder_of(memory).glob("index*"))


def test_only_a_writer_builds(memory: Memory) -> None:
    with durability.writer_lock(memory.path, "something else"):
        with pytest.raises(Locked):
            memory.build_index("flat")
        with pytest.raises(Locked):
            memory.drop_index()


def test_a_full_disk_leaves_the_old_index(memory: Memory, monkeypatch: pytest.MonkeyPatch) -> None:
    memory.build_index("flat")

    def refuse(index: Any, file: Any) -> None:
        file.write(b"some")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(ann_build, "_write_index", refuse)
    with pytest.raises(Unwritable, match="No space left"):
        memory.build_index("ivf")
    assert sorted(path.name for path in folder_of(memory).glob("index*")) == [
        ann.INDEX_FILE,
        ann.INDEX_DESCRIPTION_FILE,
    ]
    state = state_of(memory, thorough=True)
    assert state is not None
    assert (state.kind, state.problem) == ("flat", None)


def test_what_the_disk_says_while_faiss_writes_is_what_the_caller_hears() -> None:
    class Full:
        def write(self, piece: bytes) -> int:
            raise OSError(28, "No space left on device", len(piece))

    index = faiss.IndexFlatIP(4)
    with pytest.raises(OSError, match="No space left"):
        ann_build._write_index(index, Full())  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("kind", "settings", "error", "words"),
    [
        ("annoy", {}, UnknownName, "unknown kind of index 'annoy'"),
        ("ivf", {"nprob": 3}, UnknownName, "did you mean 'nprobe'"),
        ("flat", {"nlist": 3}, UnknownName, "nlist"),
        ("ivf", {"nlist": 0}, InvalidInput, "nlist must be a whole number ≥ 1, got 0"),
        ("hnsw", {"M": 1}, InvalidInput, "M must be at least 2"),
        ("hnsw", {"efSearch": True}, InvalidInput, "efSearch"),
        ("ivf", {"nlist": 401}, InvalidInput, "more lists than there are passages"),
    ],
)
def test_what_cannot_be_built_is_said(
    memory: Memory, kind: str, settings: dict[str, int], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        memory.build_index(kind, **settings)
    assert state_of(memory) is None


def test_nothing_cannot_be_indexed(tmp_path: Path) -> None:
    with Memory.create(tmp_path / "memory") as empty, pytest.raises(InvalidInput, match="is empty"):
        empty.build_index("flat")


def test_few_passages_can(tmp_path: Path) -> None:
    memory = Memory.create(tmp_path / "memory", embedder=Directions(), full_text=False)
    fill(memory, 1, 3)
    for kind in ann_build.INDEX_SETTINGS:
        memory.build_index(kind)
        check_same(memory, 2)


def test_threads_share_one_index(memory: Memory) -> None:
    memory.build_index("ivf", **EVERYTHING["ivf"])
    failures: list[BaseException] = []

    def ask() -> None:
        try:
            for _ in range(5):
                check_same(memory, 20, where="n >= 5")
        except BaseException as error:  # noqa: BLE001  told below
            failures.append(error)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def test_the_description_can_be_read_by_a_person(memory: Memory) -> None:
    described = memory.build_index("ivf", nlist=4)
    content = json.loads((folder_of(memory) / ann.INDEX_DESCRIPTION_FILE).read_text())
    assert (content["kind"], content["settings"]) == ("ivf", {"nlist": 4, "nprobe": 4})
    assert content["bytes"] == described.bytes == (folder_of(memory) / ann.INDEX_FILE).stat().st_size


@pytest.mark.parametrize("kind", ["flat", "ivf", "hnsw"])
def test_compaction_builds_the_index_again(tmp_path, kind):
    with Memory.create(tmp_path / "memory", embedder=HashingEmbedder(width=32)) as memory:
        memory.add([f"text number {n} of many" for n in range(200)], [{"n": n} for n in range(200)])
        memory.build_index(kind)
        memory.delete("n >= 60")
        memory.compact()
        index = memory.info().index
        assert index is not None
        assert (index.kind, index.rows, index.problem) == (kind, 60, None)
        assert memory.verify().ok
        found = memory.search("text number 7 of many", n=1)
        assert found.texts == ["text number 7 of many"]
        assert not list(memory.path.glob("g0001*"))


def test_verify_names_a_damaged_index(tmp_path):
    with Memory.create(tmp_path / "memory", embedder=HashingEmbedder(width=32)) as memory:
        memory.add([f"text number {n} of many" for n in range(50)])
        memory.build_index("flat")
        path = memory.path / "g0001" / "index.faiss"
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
        found = memory.verify()
    assert not found.ok
    assert all("index.faiss" in problem for problem in found.problems)
