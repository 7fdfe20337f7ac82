"""`siftlm delete` deletes what it says, and says how much."""

from __future__ import annotations

import json

import pytest

from siftlm import Memory
from siftlm.cli import main


@pytest.fixture
def folder(tmp_path):
    with Memory.create(tmp_path / "memory") as memory:
        memory.add(["one text", "another text", "a third"], [{"n": n} for n in range(3)], ids=["a", "b", "c"])
    return tmp_path / "memory"


def texts(folder):
    with Memory.open(folder) as memory:
        return memory.texts(memory.rows())


def test_what_meets_the_condition_goes(folder, capsys):
    assert main(["delete", str(folder), "--where", "n >= 1"]) == 0
    assert "deleted 2 documents and 2 passages" in capsys.readouterr().out
    assert texts(folder) == ["one text"]


def test_one_document_is_no_documents(folder, capsys):
    assert main(["delete", str(folder), "--where", '@id = "b"', "--dry-run"]) == 0
    assert "nothing was deleted; 1 passage would be\n" in capsys.readouterr().out
    assert main(["delete", str(folder), "--where", '@id = "b"']) == 0
    assert "deleted 1 document and 1 passage that nothing else held" in capsys.readouterr().out


def test_a_dry_run_deletes_nothing(folder, capsys):
    assert main(["delete", str(folder), "--where", '@id = "b"', "--dry-run", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"passages": 1}
    assert len(texts(folder)) == 3


def test_json(folder, capsys):
    assert main(["delete", str(folder), "--where", '@id = "b"', "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"documents": 1, "passages": 1}


@pytest.mark.parametrize(
    ("where", "message"),
    [("", "delete needs a filter"), ("n >", "expected"), ("n = 1 or", "column")],
)
def test_a_condition_that_is_none(folder, capsys, where, message):
    assert main(["delete", str(folder), "--where", where]) == 1
    assert message in capsys.readouterr().err
    assert len(texts(folder)) == 3
