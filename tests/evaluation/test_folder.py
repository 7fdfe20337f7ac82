"""The folder of a run: nothing whole is lost, nothing torn counts, and two never do the same work."""

from __future__ import annotations

import errno
import gzip
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

from siftlm.errors import Conflict, InvalidInput, Unwritable
from siftlm.evaluation import question_of, records_of
from siftlm.evaluation.report import write_files
from siftlm.evaluation.run_folder import RunFolder, measured_in

QUESTION = {"model": {"name": "tiny"}, "protocol": {"name": "split", "n": 5}}


def record(text, method="nn", **more):
    return {"text": text, "method": method, "base": 2.0, "curve": [[0, 2.0]], **more}


def test_what_was_added_is_there_for_the_next_one(tmp_path):
    with RunFolder.begin(tmp_path / "a", QUESTION) as folder:
        folder.add(record("one", note="é – 夜"))
        folder.add(record("two"))
    with RunFolder.begin(tmp_path / "a", QUESTION) as folder:
        assert list(folder.records.values()) == [record("one", note="é – 夜"), record("two")]
    assert records_of(tmp_path / "a") == [record("one", note="é – 夜"), record("two")]


def test_a_line_that_was_torn_at_any_byte_costs_that_line_alone(tmp_path):
    folder = RunFolder.begin(tmp_path, QUESTION)
    log = tmp_path / "records.jsonl"
    folder.add(record("one"))
    whole = log.read_bytes()
    folder.add(record("two", note="夜"))
    both = log.read_bytes()
    for end in range(len(whole), len(both)):
        log.write_bytes(both[:end])
        again = RunFolder(tmp_path)
        again.refresh()
        assert list(again.records.values()) == [record("one")]
        again.add(record("three"))
        # All of a line but its end is a result as well.
        expected = ["one", "two", "three"] if end == len(both) - 1 else ["one", "three"]
        assert [one["text"] for one in records_of(tmp_path)] == expected
        assert [text for text, _ in again.records] == expected
        again.close()
    folder.close()


def test_another_process_that_wrote_meanwhile_is_heard_of(tmp_path):
    with RunFolder.begin(tmp_path, QUESTION) as folder:
        with open(tmp_path / "records.jsonl", "ab") as file:
            file.write(json.dumps(record("one")).encode() + b'\n{"text": "two", "met')
        folder.refresh()
        assert folder.records.keys() == {("one", "nn")}
        with open(tmp_path / "records.jsonl", "ab") as file:
            file.write(b'hod": "nn", "base": 2.0, "curve": [[0, 2.0]]}\n')
        folder.refresh()
        assert folder.records.keys() == {("one", "nn"), ("two", "nn")}


def test_what_another_process_wrote_is_looked_at_before_ours_is_written(tmp_path):
    def look(one):
        if one.get("settings") == {"rate": 2}:
            raise Conflict("rate=2")

    with RunFolder.begin(tmp_path, QUESTION) as folder, RunFolder.begin(tmp_path, QUESTION) as other:
        folder.add_record_check(look)
        other.add(record("one", settings={"rate": 2}))
        with pytest.raises(Conflict, match="rate=2"):
            folder.add(record("two"))
    assert records_of(tmp_path) == [record("one", settings={"rate": 2})]


@pytest.mark.parametrize(
    "damage",
    [b"\x00\xff\xfe\n", b"[1, 2]\n", b'{"text": "x"}\n', b'"\xd8\n', b"\n\n", b'{"text": "one", "method": "nn"\n'],
)
def test_a_damaged_line_counts_for_nothing(tmp_path, damage):
    with RunFolder.begin(tmp_path, QUESTION) as folder:
        folder.add(record("one"))
    with open(tmp_path / "records.jsonl", "ab") as file:
        file.write(damage)
    with RunFolder.begin(tmp_path, QUESTION) as folder:
        folder.add(record("two"))
    assert [one["text"] for one in records_of(tmp_path)] == ["one", "two"]


DAMAGE = [
    {"curve": 5},
    {"curve": []},
    {"curve": [["a", 1]]},
    {"curve": [[0]]},
    {"curve": [[0, "x"]]},
    {"curve": [[-1, 1.0]]},
    {"text": ["a"]},
    {"text": ""},
    {"text": "\ud800"},
    {"method": 3},
    {"domain": 7},
    {"base": "2"},
    {"base": True},
    {"base": [1]},
    {"base": math.inf},
    {"bytes": -1},
    {"bytes": "12"},
    {"bytes": 10**400},
    {"tokens": 1.5},
    {"rows": "abc"},
    {"rows": [1, None]},
    {"rows": [-1]},
    {"scores": 5},
    {"uncertainty": [None]},
    {"learned": {}},
    {"losses": ["a"]},
    {"seconds": 3},
    {"seconds": {"tune": "1"}},
    {"extra": []},
    {"settings": [1]},
    {"ended": None},
    {"copies": True},
]


@pytest.mark.parametrize("damage", DAMAGE, ids=repr)
def test_a_line_that_is_json_and_no_record_counts_for_nothing(tmp_path, damage):
    (tmp_path / "records.jsonl").write_text(json.dumps({**record("one"), **damage}) + "\n")
    assert records_of(tmp_path) == []
    with RunFolder.begin(tmp_path / "new", QUESTION) as folder:
        with pytest.raises((InvalidInput, ValueError)):
            folder.add({**record("one"), **damage})
        assert not (tmp_path / "new/records.jsonl").exists()


def test_a_line_that_is_nested_too_deeply_counts_for_nothing(tmp_path):
    deep = "[" * 100_000
    (tmp_path / "records.jsonl").write_text(f"{deep}\n{json.dumps(record('one'))}\n")
    assert records_of(tmp_path) == [record("one")]
    (tmp_path / "run.json").write_text(deep)
    with pytest.raises(InvalidInput, match=r"run\.json: cannot be read"):
        question_of(tmp_path)


@pytest.mark.slow
def test_the_kept_records_of_the_study_all_count():
    kept = sorted((Path(__file__).parents[2] / "benchmarks/results/study").glob("*/records.jsonl.gz"))
    assert kept
    for one in kept:
        lines = gzip.decompress(one.read_bytes()).splitlines()
        for line in lines:
            measured_in(json.loads(line))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"protocol": {"name": "split", "n": 6}}, "protocol.n=5, and this one has 6"),
        ({"model": {"name": "gpt2"}}, 'model.name="tiny", and this one has "gpt2"'),
        ({"corpus": {"name": "x"}}, 'corpus.name=null, and this one has "x"'),
        ({"protocol": "split"}, "protocol"),
    ],
)
def test_a_run_of_another_question_is_refused_by_name(tmp_path, change, said):
    RunFolder.begin(tmp_path, QUESTION).close()
    with pytest.raises(Conflict, match=said):
        RunFolder.begin(tmp_path, {**QUESTION, **change})
    RunFolder.begin(tmp_path, {**QUESTION, "siftlm": "another version"}).close()
    assert question_of(tmp_path)["protocol"] == {"name": "split", "n": 5}


def test_what_is_no_run_is_said(tmp_path):
    with pytest.raises(InvalidInput, match=r"is no run: it has no run\.json"):
        question_of(tmp_path)
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(InvalidInput, match=r"run\.json: cannot be read"):
        question_of(tmp_path)
    (tmp_path / "run.json").write_text('{"format": 99}')
    with pytest.raises(InvalidInput, match="is not of format 1"):
        RunFolder.begin(tmp_path, QUESTION)


def test_compressed_records_are_read_and_broken_ones_refused(tmp_path):
    assert records_of(tmp_path) == []
    packed = gzip.compress(json.dumps(record("one")).encode() + b"\n")
    (tmp_path / "records.jsonl.gz").write_bytes(packed)
    assert records_of(tmp_path) == [record("one")]
    for broken in (packed[:-9], b"no gzip", packed[:12] + b"\xff" * 20):
        (tmp_path / "records.jsonl.gz").write_bytes(broken)
        with pytest.raises(InvalidInput, match="cannot be read"):
            records_of(tmp_path)


def test_a_result_that_is_no_number_is_never_written(tmp_path):
    with RunFolder.begin(tmp_path, QUESTION) as folder:
        with pytest.raises(ValueError, match="not JSON compliant"):
            folder.add(record("one", loss=float("nan")))
        folder.add(record("two"))
    assert [one["text"] for one in records_of(tmp_path)] == ["two"]


def test_a_full_disk_is_said_and_work_goes_on_when_there_is_room(tmp_path, monkeypatch):
    with RunFolder.begin(tmp_path, QUESTION) as folder:
        folder.add(record("one"))
        with monkeypatch.context() as patch:

            def full(descriptor):
                raise OSError(errno.ENOSPC, "No space left on device")

            patch.setattr(os, "fsync", full)
            with pytest.raises(Unwritable, match="No space left on device"):
                folder.add(record("two"))
        folder.add(record("two", note="again"))
        folder.add(record("three"))
    assert records_of(tmp_path) == [record("one"), record("two", note="again"), record("three")]


# Python ignores SIGXFSZ, so that a write beyond the limit is an error like that of a full disk: in the middle.
FULL = """
import resource, sys
from siftlm.errors import Unwritable
from siftlm.evaluation.run_folder import RunFolder
folder = RunFolder.begin(sys.argv[1], {"model": "tiny"})
line = {"method": "nn", "base": 2.0, "curve": [[0, 2.0]], "note": "x" * 20000}
folder.add({"text": "one", **line})
hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
resource.setrlimit(resource.RLIMIT_FSIZE, (30000, hard))
try:
    folder.add({"text": "two", **line})
except Unwritable as error:
    print(error)
resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
folder.add({"text": "three", **line})
"""


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="limits of files are those of Unix")
def test_a_disk_that_is_full_in_the_middle_of_a_line(tmp_path):
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    said = subprocess.run(
        [sys.executable, "-c", FULL, str(tmp_path)], check=True, env=env, capture_output=True, text=True
    ).stdout
    assert "cannot be written: File too large" in said
    assert [one["text"] for one in records_of(tmp_path)] == ["one", "three"]
    assert len((tmp_path / "records.jsonl").read_bytes().splitlines()) == 3


def test_a_place_that_cannot_be_written_to_is_said(tmp_path):
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(Unwritable, match="is a file, and a run is a folder"):
        RunFolder.begin(tmp_path / "file", QUESTION)
    with pytest.raises(Unwritable, match="file"):
        RunFolder.begin(tmp_path / "file" / "run", QUESTION)
    with pytest.raises(Unwritable, match="is a file, and a report is a folder"):
        write_files({"report.md": ""}, tmp_path / "file")


CLAIM = """
import sys
from siftlm.evaluation.run_folder import RunFolder
folder = RunFolder.begin(sys.argv[1], {"model": {"name": "tiny"}, "protocol": {"name": "split", "n": 5}})
with folder.claim("one", "nn") as mine:
    print(mine, flush=True)
    sys.stdin.readline()
"""


def test_what_one_process_is_at_no_other_begins_until_that_ends_however_it_ends(tmp_path):
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    other = subprocess.Popen(
        [sys.executable, "-c", CLAIM, str(tmp_path)], env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert other.stdout is not None
        assert other.stdout.readline() == "True\n"
        with RunFolder.begin(tmp_path, QUESTION) as folder:
            with folder.claim("one", "nn") as mine:
                assert not mine
            with folder.claim("one", "sift") as mine, folder.claim("two", "nn") as too:
                assert mine
                assert too
            folder.add(record("two"))  # a claim does not keep anybody from writing
            other.kill()
            other.wait()
            with folder.claim("one", "nn") as mine:
                assert mine
            with folder.claim("two", "nn") as mine:
                assert not mine, "it is done"
    finally:
        other.kill()
        other.communicate()
