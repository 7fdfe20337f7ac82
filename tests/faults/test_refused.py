"""A disk that takes no more, or nothing at all: one plain error, the old state, and no lock left behind."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from faults.world import EMBEDDER, check_readable
from siftlm.errors import BadRecord, SiftlmError, Unwritable
from siftlm.memory import Memory

pytestmark = pytest.mark.slow

TEXTS = [f"text {n} about {'larch ' * (n % 7)} and more" for n in range(300)]

# Takes what it is told to do until nothing more fits, and prints what was said. Python ignores SIGXFSZ, so that a
# write beyond the limit is an error like that of a full disk.
LIMITED = """
import resource, sys
from siftlm.memory import Memory
from siftlm.errors import Unwritable
from faults.world import EMBEDDER
path, texts = sys.argv[1], [f"longer text {n} of another kind, {'oak ' * 40}" for n in range(400)]
warm = Memory.open(path)
warm.search("larch", n=1)
limits = [int(size) for size in sys.argv[2].split(",")]
hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
for limit in limits:
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    memory = Memory.open(path)
    for name, change in (
        ("add", lambda: memory.add(texts)),
        ("delete", lambda: memory.delete("n >= 100")),
        ("ingest", lambda: memory.ingest(texts)),
        ("compact", lambda: memory.compact()),
        ("create", lambda: Memory.create(path + "2", embedder=EMBEDDER)),
    ):
        try:
            change()
            said = "done"
        except Unwritable as error:
            said = str(error)
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
        print(limit, name, len(memory), memory.verify().ok, said, sep="|", flush=True)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
memory.add(["there is room again"])
print(hard, "last", len(memory), memory.verify().ok, "done", sep="|")
"""


def filled(path: Path, count: int = 300) -> Path:
    with Memory.create(path, embedder=EMBEDDER) as memory:
        memory.add(TEXTS[:count], [{"n": n} for n in range(count)])
        memory.delete({"n": 3})
    return path


def output(program: str, *arguments: str) -> list[str]:
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    ran = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True, env=env)
    assert not ran.returncode, ran.stderr
    return ran.stdout.splitlines()


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such limit")
@pytest.mark.parametrize(
    "limits", ["20,5000", pytest.param("0,1,100,1000,9000,30000,60000,90000,120000,200000", marks=pytest.mark.slow)]
)
def test_files_that_may_not_grow(tmp_path, limits):
    path, refused, length = filled(tmp_path / "memory"), 0, 299
    for line in output(LIMITED, str(path), limits):
        _, name, now, fine, said = line.split("|")
        assert fine == "True", line
        if said == "done":
            length = int(now)
        else:
            refused += 1
            assert "what was there before is unchanged" in said
            assert str(path) in said
            assert int(now) == length or name == "ingest", line
    assert refused >= 4
    check_readable(path)


@pytest.fixture
def tiny(tmp_path: Path) -> Iterator[Path]:
    """A disk of 600 kB, where one may be mounted."""
    place = tmp_path / "disk"
    place.mkdir()
    options = ["mount", "-t", "tmpfs", "-o", "size=600k", "tmpfs", str(place)]
    if shutil.which("mount") is None or subprocess.run(options, capture_output=True).returncode:
        pytest.skip("no disk can be mounted here")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def fill(ballast: Path) -> None:
    with ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))


def test_a_disk_that_is_full(tiny):
    path = filled(tiny / "memory", 60)
    with Memory.open(path) as memory:
        memory.ingest([{"text": f"read in {n}", "n": n} for n in range(100, 110)])
        length = len(memory)
        fill(tiny / "ballast")
        for change in (
            lambda: memory.add([f"new text {n} {'oak ' * 50}" for n in range(300)]),
            lambda: memory.ingest([f"new text {n} {'oak ' * 50}" for n in range(300)]),
            lambda: memory.compact(),
            lambda: Memory.create(tiny / "another", embedder=EMBEDDER),
        ):
            with pytest.raises(Unwritable, match="what was there before is unchanged"):
                change()
            assert len(memory) == length
            assert memory.search("larch", n=1)
            assert memory.verify().ok
        memory.close()
        fill(tiny / "more")
        with pytest.raises(Unwritable):
            len(memory)  # SQLite needs a little room to begin to read
        (tiny / "ballast").unlink()
        memory.add(["there is room again"])
        memory.delete({"n": 5})
        memory.compact()
        assert len(memory) == length
        assert memory.verify().ok


# As root, permissions don't bind: become nobody, once everything that is imported late has been.
READ_ONLY = """
import os, sys
from siftlm.memory import Memory
from siftlm.errors import Unwritable
if os.getuid() == 0:
    with Memory.open(sys.argv[1] + "/warm") as warm:
        warm.add(["warm"])
        warm.search("larch", n=1, candidates="both")
        warm.compact()
        warm.verify()
    os.setgroups([])
    os.setresgid(65534, 65534, 65534)
    os.setresuid(65534, 65534, 65534)
memory = Memory.open(sys.argv[1] + "/memory")
print(len(memory), memory.search("text 7 about", n=1, candidates="both")[0].text, memory.verify().ok, sep="|")
for change in (lambda: memory.add(["new"]), lambda: memory.delete({"n": 5}), lambda: memory.compact()):
    try:
        change()
    except Unwritable as error:
        print(error)
print("end", flush=True)
sys.stdin.readline()
print(len(memory))
"""


@pytest.mark.skipif(os.name == "nt", reason="Windows has other permissions")
def test_a_folder_that_may_only_be_read():
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        filled(folder / "warm", 10)
        path = filled(folder / "memory", 20)
        for place in [path, *path.rglob("*")]:
            place.chmod(0o555 if place.is_dir() else 0o444)
        try:
            with reading(name) as reader:
                found, *refusals = iter(reader.stdout.readline, "end\n")
                if os.getuid() == 0:
                    with Memory.open(path) as memory:
                        memory.add(["added by one who may"])
                left = int(reader.communicate("\n")[0])
        finally:
            for place in [path, *path.rglob("*")]:
                place.chmod(0o755)
        assert found == f"19|{TEXTS[7]}|True\n"
        assert len(refusals) == 3
        assert all(line.startswith(str(path)) and "cannot be written" in line for line in refusals)
        assert left == (20 if os.getuid() == 0 else 19)


def reading(name: str) -> subprocess.Popen[str]:
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    program = [sys.executable, "-c", READ_ONLY, name]
    return subprocess.Popen(program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env)


def test_what_cannot_be_read_is_not_told_as_what_cannot_be_written(tmp_path):
    """An input that breaks off is not the memory's fault."""

    class Broken:
        def __iter__(self) -> Iterator[str]:
            yield "a text"
            raise ConnectionResetError(104, "Connection reset by peer")

    with pytest.raises((ConnectionResetError, BadRecord)):
        Memory.build(Broken(), into=tmp_path / "memory", embedder=EMBEDDER)
    with Memory.open(tmp_path / "memory") as memory:
        assert memory.verify().ok
        shutil.rmtree(memory.path)
        with pytest.raises(SiftlmError):
            memory.add(["to where nothing is any more"])
