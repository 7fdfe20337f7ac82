"""Calibration that is interrupted, killed, or asked something else meanwhile."""

from __future__ import annotations

import json
import shutil

import pytest

import siftlm
from calibration.worlds import TOPICS, Reader, copies_world, document, plain
from siftlm.errors import InvalidInput
from siftlm.memory import Memory

SMALL = {"minutes": None, "n": 8, "methods": ("sift+noise=0.1+k=50", "nearest"), "progress": False}
TEXTS = [document(topic) for topic in range(TOPICS)]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A memory, what calibration finds on it, its measurements, and how often it tuned."""
    folder = tmp_path_factory.mktemp("whole") / "memory"
    reader = Reader()
    with copies_world(folder) as memory:
        found = siftlm.calibrate(reader, memory, texts=TEXTS, **SMALL)
    return folder, plain(found), reader.tunings


@pytest.fixture
def folder(whole, tmp_path):
    """The memory alone, without the measurements."""
    shutil.copytree(whole[0], tmp_path / "memory")
    shutil.rmtree(tmp_path / "memory" / "calibration")
    return tmp_path / "memory"


@pytest.mark.slow
@pytest.mark.parametrize("at", [2, 9, 15, 20])
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
    assert reader.tunings == tunings + 1  # what was being done when it was interrupted is done twice


@pytest.mark.slow
@pytest.mark.parametrize("bytes_lost", [2, 40, 3000])
def test_measurements_that_were_cut_off_anywhere_give_the_same_result(whole, folder, bytes_lost):
    shutil.copytree(whole[0] / "calibration", folder / "calibration")
    file = folder / "calibration" / "records.jsonl"
    records = file.read_bytes()
    file.write_bytes(records[:-bytes_lost])
    reader = Reader()
    assert plain(siftlm.calibrate(reader, folder, texts=TEXTS, **SMALL)) == whole[1]
    assert 0 < reader.tunings < whole[2]


@pytest.mark.slow
def test_what_is_known_is_not_measured_again_unless_somebody_wants_it(whole, folder):
    shutil.copytree(whole[0] / "calibration", folder / "calibration")
    reader = Reader()
    assert plain(siftlm.calibrate(reader, folder, texts=TEXTS, **SMALL)) == whole[1]
    assert reader.tunings == 0
    siftlm.calibrate(reader, folder, texts=TEXTS, again=True, **SMALL)
    assert reader.tunings == whole[2]


@pytest.mark.slow
def test_more_methods_and_more_time_go_on_from_what_is_known(whole, folder):
    reader = Reader()
    short = siftlm.calibrate(reader, folder, texts=TEXTS, **{**SMALL, "minutes": 1e-9})
    assert short.evidence["chosen"]["texts"] == 4
    assert plain(siftlm.calibrate(reader, folder, texts=TEXTS, **SMALL)) == whole[1]
    assert reader.tunings == whole[2]
    siftlm.calibrate(reader, folder, texts=TEXTS, **{**SMALL, "methods": (*SMALL["methods"], "sift+noise=1.0")})
    assert reader.tunings <= whole[2] + TOPICS


@pytest.mark.slow
@pytest.mark.parametrize("change", [{"n": 5}, {"mode": "transductive"}, {"texts": TEXTS[:7]}])
def test_another_question_begins_anew(whole, folder, change):
    shutil.copytree(whole[0] / "calibration", folder / "calibration")
    reader = Reader()
    siftlm.calibrate(reader, folder, **{"texts": TEXTS, **SMALL, **change})
    assert reader.tunings > 10


@pytest.mark.slow
def test_a_memory_that_has_changed_is_another_question(whole, folder):
    shutil.copytree(whole[0] / "calibration", folder / "calibration")
    with Memory.open(folder) as memory:
        memory.add(["one more text"])
    reader = Reader()
    siftlm.calibrate(reader, folder, texts=TEXTS, **SMALL)
    assert reader.tunings > 10


@pytest.mark.parametrize("what", ["file", "folder", "run"])
def test_what_is_no_calibration_is_not_overwritten(folder, tmp_path, what):
    place = tmp_path / "mine"
    if what == "file":
        place.write_text("mine\n")
    else:
        place.mkdir()
        (place / ("run.json" if what == "run" else "notes")).write_text(json.dumps({"format": 1, "model": "m"}))
    before = place.read_text() if what == "file" else [one.read_text() for one in place.iterdir()]
    said = "is a run of siftlm eval" if what == "run" else "is no folder of a calibration"
    for again in (False, True):
        with pytest.raises(InvalidInput, match=said):
            siftlm.calibrate(Reader(), folder, texts=TEXTS, out=place, again=again, **SMALL)
    assert before == (place.read_text() if what == "file" else [one.read_text() for one in place.iterdir()])
