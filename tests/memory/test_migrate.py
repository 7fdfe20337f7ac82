"""A memory of an older format is brought up to date when it is opened; a crash on the way leaves the old one."""

from __future__ import annotations

import json
import sqlite3

import pytest

from siftlm import Memory
from siftlm.errors import NotAMemory
from siftlm.memory import database, manifest

TEXTS = ["the first text of all", "a second one", "and a third to end with"]


@pytest.fixture
def old(tmp_path):
    """A memory as format 1 writes it."""
    with Memory.create(tmp_path / "memory") as memory:
        memory.add(TEXTS)
    return tmp_path / "memory"


def shout(folder, content):
    """As a new format might: it changes data and adds to the manifest."""
    connection = sqlite3.connect(folder / database.DATABASE_FILE, isolation_level=None)
    connection.execute("CREATE TABLE shouts AS SELECT row, upper(text) AS text FROM passages")
    connection.close()
    return content | {"calibration": {"shouts": True}}


def test_an_older_format_is_brought_up_to_date(old, monkeypatch):
    monkeypatch.setattr(manifest, "MANIFEST_FORMAT", 2)
    monkeypatch.setattr(manifest, "MIGRATIONS", {1: shout})
    with Memory.open(old) as memory:
        assert sorted(memory.texts(memory.rows())) == sorted(TEXTS)
        assert memory.manifest.format == 2
        assert memory.manifest.calibration == {"shouts": True}
        assert memory.verify().ok
        with memory.snapshot() as snapshot:
            shouts = snapshot.connection.execute("SELECT text FROM shouts ORDER BY row").fetchall()
    assert shouts == [(text.upper(),) for text in TEXTS]
    assert [path.name for path in old.iterdir() if path.is_dir()] == ["g0002"]


def test_a_failed_step_leaves_the_old_memory(old, monkeypatch):
    def fail(folder, content):
        shout(folder, content)
        raise KeyboardInterrupt

    monkeypatch.setattr(manifest, "MANIFEST_FORMAT", 2)
    monkeypatch.setattr(manifest, "MIGRATIONS", {1: fail})
    with pytest.raises(KeyboardInterrupt):
        Memory.open(old)
    monkeypatch.undo()
    with Memory.open(old) as memory:
        assert sorted(memory.texts(memory.rows())) == sorted(TEXTS)
        assert memory.verify().ok
    assert [path.name for path in old.iterdir() if path.is_dir()] == ["g0001"]


@pytest.mark.parametrize("version", [0, 2, "one", None])
def test_a_format_that_cannot_be_read_says_so(old, version):
    path = old / manifest.MANIFEST_FILE
    content = json.loads(path.read_text(encoding="utf-8")) | {"format": version}
    path.write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(NotAMemory, match=f"format {version}"):
        Memory.open(old)
