"""Calibration that is interrupted, killed, or asked something else meanwhile."""

from __future__ import annotations

import json
import shutil

import pytest

import siftlm
from calibration.worlds import TOPICS, Reader, copies_world, document, plain
from siftlm.calibration.trials import CalibrationLog
from siftlm.errors import InvalidInput
from siftlm.memory import Memory

SMALL = {"minutes": None, "n": 8, "noises": (0.1, 10.0), "kernels": ("linear",), "ks": (50,), "progress": False}
TEXTS = [document(topic) for topic in range(TOPICS)]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A memory, what calibration finds on it, its log, and how often it tuned."""
    folder = tmp_path_factory.mktemp("whole") / "memory"
    reader = Reader()
    with copies_world(folder) as memory:
        found = siftlm.calibrate(reader, memory, texts=TEXTS, **SMALL)
    return folder, plain(found), reader.tunings


@pytest.fixture
def folder(whole, tmp_path):
    """The memory alone, without its log."""
    shutil.copytree(whole[0], tmp_path / "memory")
    (tmp_path / "memory" / "calibration.jsonl").unlink()
    return tmp_path / "memory"


@pytest.mark.slow
@pytest.mark.parametrize("at", [2, 9, 20, 31])
def test_an_interrupted_calibration_goes_on_where_it_stopped(whole, folder, at):
    _, expected, tunings = whole
    reader = Reader()
    reader.interrupt_at = at
    with pytest.raises(KeyboardInterrupt):
        siftlm.calibrate(reader, folder, texts=TEXTS, **SMALL)
    with Memory.open(folder) as memory:
        assert memory.verify().ok
    found = siftlm.calibrate(reader, folder, texts=TEXTS, **SMALL)
    assert plain(found) == expected
    # What was being done when it was interrupted is done twice, and the first steps, which warm up.
    assert reader.tunings <= tunings + 2


@pytest.mark.slow
@pytest.mark.parametrize("bytes_lost", [1, 40, 3000])
def test_a_log_that_was_cut_off_anywhere_gives_the_same_result(whole, folder, bytes_lost):
    log = (whole[0] / "calibration.jsonl").read_bytes()
    (folder / "calibration.jsonl").write_bytes(log[:-bytes_lost])
    reader = Reader()
    assert plain(siftlm.calibrate(reader, folder, texts=TEXTS, **SMALL)) == whole[1]
    assert reader.tunings < whole[2]
    lines = (folder / "calibration.jsonl").read_bytes().splitlines()
    assert len([json.loads(line) for line in lines]) == len(log.splitlines())


@pytest.mark.slow
def test_what_is_known_is_not_measured_again_unless_somebody_wants_it(whole, folder):
    shutil.copy(whole[0] / "calibration.jsonl", folder)
    reader = Reader()
    assert plain(siftlm.calibrate(reader, folder, texts=TEXTS, **SMALL)) == whole[1]
    assert reader.tunings == 0
    siftlm.calibrate(reader, folder, texts=TEXTS, again=True, **SMALL)
    assert reader.tunings == whole[2]


@pytest.mark.slow
@pytest.mark.parametrize("change", [{"n": 5}, {"mode": "transductive"}, {"noises": (0.2, 10.0)}, {"texts": TEXTS[:7]}])
def test_another_question_begins_anew(whole, folder, change):
    shutil.copy(whole[0] / "calibration.jsonl", folder)
    reader = Reader()
    siftlm.calibrate(reader, folder, **{"texts": TEXTS, **SMALL, **change})
    assert reader.tunings > 10


@pytest.mark.slow
def test_a_memory_that_has_changed_is_another_question(whole, folder):
    shutil.copy(whole[0] / "calibration.jsonl", folder)
    with Memory.open(folder) as memory:
        memory.add(["one more text"])
    reader = Reader()
    siftlm.calibrate(reader, folder, texts=TEXTS, **SMALL)
    assert reader.tunings > 10


def test_a_file_that_is_no_log_is_not_overwritten(folder, tmp_path):
    (tmp_path / "notes").write_text("mine\n")
    for again in (False, True):
        with pytest.raises(InvalidInput, match="is no log of a calibration"):
            siftlm.calibrate(Reader(), folder, texts=TEXTS, log=tmp_path / "notes", again=again, **SMALL)
    assert (tmp_path / "notes").read_text() == "mine\n"


def test_a_result_is_on_disk_before_the_next_begins(tmp_path):
    log = CalibrationLog(tmp_path / "log", {"a": 1})
    log.add(run={"x": 1})
    assert CalibrationLog(tmp_path / "log", {"a": 1}).records == [{"run": {"x": 1}}]
    log.add(run={"x": 2})
    assert CalibrationLog(tmp_path / "log", {"a": 1}).records == log.records
    assert CalibrationLog(tmp_path / "log", {"a": 2}).records == []
