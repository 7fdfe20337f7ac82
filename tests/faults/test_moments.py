"""At every moment of a change: the power may go, the disk may be full, or a person may press Ctrl-C."""

from __future__ import annotations

import contextlib
import json
import random
import shutil
from pathlib import Path
from unittest.mock import patch

import pytest

from faults import moments
from faults.power import Disk, Recording, recorder
from faults.world import EMBEDDER, Step, World, check_readable, held, outcomes, record, small_batches, take
from siftlm.errors import Unwritable
from siftlm.memory import Memory
from siftlm.memory.vectors import VectorAppender

pytestmark = pytest.mark.slow

SETTINGS = {"storage": "float16"}
STEPS = ("create", "read", "add", "delete", "compact")


class Scene:
    """A memory of some texts, some of them deleted, and a step to be taken with it."""

    def __init__(self, folder: Path, what: str) -> None:
        draw = random.Random(STEPS.index(what))
        records = [record(draw, n) for n in range(40)]
        self.folder, self.world = folder, World(near=False)
        self.start, self.path, self.counted = folder / "start", folder / "memory", 0
        file = folder / "first.jsonl"
        file.write_text("".join(json.dumps(one) + "\n" for one in records[20:30]), encoding="utf-8")
        self.step: Step = {
            "create": ["read", str(file), records[20:30]],
            "read": ["read", str(file.rename(folder / "more.jsonl")) if what == "read" else "", records[20:30]],
            "add": ["add", records[20:30]],
            "delete": ["delete", {"group": 2}],
            "compact": ["compact"],
        }[what]
        self.start.mkdir()
        if what != "create":
            self._fill(records[:20])
        self.allowed = [one.shown() for one in outcomes(self.world, self.step)]

    def _fill(self, records: list[dict[str, object]]) -> None:
        with small_batches():
            self.start.rmdir()
            Memory.create(self.start, embedder=EMBEDDER, passage_tokens=40, storage="float16").close()
            for step in (["add", records], ["delete", {"group": 1}]):
                take(self.start, step, SETTINGS)
                self.world = outcomes(self.world, step)[-1]

    def again(self) -> None:
        """As before the step."""
        shutil.rmtree(self.path, ignore_errors=True)
        shutil.copytree(self.start, self.path)

    def take(self, act: moments.Act) -> None:
        with moments.watched(act), small_batches():
            take(self.path, self.step, SETTINGS)

    def look(self, path: Path) -> list[tuple[int, str, int, str]]:
        """What is there, as a copy shows it: looking repairs."""
        self.counted += 1
        copy = self.folder / f"copy{self.counted}"
        shutil.copytree(path, copy)
        try:
            if not (copy / "manifest.json").exists():
                return []
            check_readable(copy)
            return held(copy)
        finally:
            shutil.rmtree(copy)


def sampled(scene: Scene, quick: bool) -> list[int]:
    """Numbers of moments: all, or a dozen."""
    count = moments.Count()
    scene.again()
    scene.take(count)
    assert scene.look(scene.path) == scene.allowed[-1]
    every = range(len(count.moments) + 1)
    return random.Random(0).sample(every, min(6, len(every))) if quick else list(every)


both = pytest.mark.parametrize("quick", [pytest.param(True), pytest.param(False, marks=pytest.mark.slow)])
steps = pytest.mark.parametrize("what", STEPS)


@both
@steps
def test_power_loss(tmp_path, what, quick):
    scene = Scene(tmp_path, what)
    wanted = set(sampled(scene, quick))
    scene.again()
    disk = Disk(scene.path)
    at = -1

    def look(words: str) -> None:
        nonlocal at
        at += 1
        if at in wanted:
            found = scene.look(disk.image(tmp_path / f"image{at}"))
            assert found in scene.allowed, words

    with disk.following():
        scene.take(look)
        assert at >= max(wanted) - 1
        assert scene.look(disk.image(tmp_path / "image")) == scene.allowed[-1]


@pytest.mark.parametrize("what", ["read", "add"])
def test_power_loss_would_show_vectors_that_were_not_flushed(tmp_path, what):
    """The order of flushes is what the test above sees: without it, it fails."""
    scene = Scene(tmp_path, what)
    scene.again()
    disk = Disk(scene.path)
    with patch.object(VectorAppender, "sync", lambda self: self._file.flush()), disk.following():
        scene.take(moments.Count())
        with pytest.raises(AssertionError, match=r"its .* rows need"):
            scene.look(disk.image(tmp_path / "image"))


TAKE = """
import json, sqlite3, sys
from pathlib import Path
from unittest.mock import patch
from faults.world import small_batches, take
from siftlm.memory import database

def carelessly(folder, connect=database.connect_writer):
    connection = connect(folder)
    connection.execute("PRAGMA synchronous = OFF")
    return connection

path, step, settings, careless = sys.argv[1], *map(json.loads, sys.argv[2:])
with small_batches(), patch.object(database, "connect_writer", carelessly if careless else database.connect_writer):
    take(Path(path), step, settings)
"""


def recorded(scene: Scene, folder: Path, careless: bool = False) -> Recording:
    library = recorder(folder.parent)
    if library is None:
        pytest.skip("recorder.c needs a compiler and Linux")
    scene.again()
    return Recording(library, scene.path, TAKE, str(scene.path), *map(json.dumps, (scene.step, SETTINGS, careless)))


@both
@steps
def test_power_loss_in_the_midst_of_what_sqlite_writes(tmp_path, what, quick):
    """Whatever was not flushed is lost; or some of it, and the rest has come to the disk in any order."""
    scene, draw = Scene(tmp_path, what), random.Random(what)
    recording = recorded(scene, tmp_path)
    every = range(len(recording.events) + 1)
    for at in draw.sample(every, min(5, len(every))) if quick else every:
        for number, lucky in enumerate((None, draw)):
            found = scene.look(recording.image(at, tmp_path / f"image{at}-{number}", lucky))
            assert found in scene.allowed, (at, recording.events[max(0, at - 3) : at])
    for number, lucky in enumerate((None, draw)):
        assert scene.look(recording.image(every[-1], tmp_path / f"last{number}", lucky)) == scene.allowed[-1]


@pytest.mark.parametrize("what", ["add", "delete"])
def test_power_loss_would_show_transactions_that_sqlite_did_not_flush(tmp_path, what):
    """The recording sees SQLite's flushes: without them, what was acknowledged is lost."""
    scene = Scene(tmp_path, what)
    recording = recorded(scene, tmp_path, careless=True)
    assert scene.look(recording.image(len(recording.events), tmp_path / "image")) == scene.allowed[0]


@both
@steps
def test_full_disk(tmp_path, what, quick):
    scene = Scene(tmp_path, what)
    refused = 0
    for n in sampled(scene, quick):
        scene.again()
        error = refusal(scene, n)
        if error is None:
            expected = scene.allowed[-1:]
        else:
            assert "what was there before is unchanged" in error
            assert "\n" not in error
            refused += 1
            # What is read in is committed in batches, and those that were stay.
            expected = scene.allowed if what in ("create", "read") else scene.allowed[:1]
        assert scene.look(scene.path) in expected
        scene.take(moments.Count())  # there is room again
        assert scene.look(scene.path)
    assert refused


@both
@steps
def test_interrupt(tmp_path, what, quick):
    scene = Scene(tmp_path, what)
    for n in sampled(scene, quick):
        scene.again()
        with contextlib.suppress(KeyboardInterrupt):
            scene.take(moments.At(n, moments.interrupt))
        assert scene.look(scene.path) in scene.allowed
        scene.take(moments.Count())
        assert scene.look(scene.path)


def refusal(scene: Scene, n: int) -> str | None:
    """What is said when the disk is full from a moment on, if anything is."""
    try:
        scene.take(moments.From(n, moments.full))
    except Unwritable as error:
        return str(error)
    return None
