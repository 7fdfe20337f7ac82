"""The whole pipeline on a few texts: memory, evaluation, a kill in the middle, report. `make study-smoke` runs this."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import time

import pytest

pytest.importorskip("transformers")

import siftlm
from siftlm.evaluation import Measured, question_of, records_of

pytestmark = pytest.mark.slow

METHODS = ("base", "context", "nn", "nn-f", "random", "sift", "sift+noise=0.1", "hullft")
N = 4
# What depends on the clock, and nothing else may.
CLOCK = "seconds"


@pytest.fixture(scope="module")
def memory(tmp_path_factory):
    folder = tmp_path_factory.mktemp("smoke") / "memory"
    some = [itertools.islice(siftlm.sample.documents(only=kind), 100) for kind in siftlm.sample.KINDS]
    # Short passages, for a step takes as long as its text.
    siftlm.Memory.build(itertools.chain(*some), folder, passage_tokens=40, overlap=8, progress=False).close()
    return folder


def command(memory, into, *more):
    return [
        sys.executable,
        "-m",
        "siftlm",
        "eval",
        "--memory",
        str(memory),
        "--test",
        "sample",
        "--per-domain",
        "1",
        "--longest",
        "300",
        "--methods",
        ",".join(METHODS),
        "-n",
        str(N),
        "--out",
        str(into),
        "--quiet",
        *more,
    ]


def run(*words):
    done = subprocess.run(words, capture_output=True, text=True, timeout=150, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def whole(memory, tmp_path_factory):
    """A run that nothing disturbed."""
    into = tmp_path_factory.mktemp("whole") / "run"
    run(*command(memory, into))
    return into


def plain(folder):
    """The records without the clock, in an order of their own."""
    kept = [{name: value for name, value in one.items() if name != CLOCK} for one in records_of(folder)]
    return sorted(kept, key=lambda one: (one["text"], one["method"]))


def test_everything_is_there_once_and_the_base_model_is_one_model(whole):
    records = records_of(whole)
    texts = {one["text"] for one in records}
    assert len(texts) == 3
    assert len(records) == len(texts) * len(METHODS)
    for text in texts:
        bases = {one["base"] for one in records if one["text"] == text}
        assert len(bases) == 1, "the model was not restored"
    for one in map(Measured.of, records):
        assert one.curve[0] == pytest.approx(one.base, abs=1e-8)
        assert all(0 < value < 20 for value in one.curve.values())


def test_parts_and_sums(whole):
    for record in records_of(whole):
        known = Measured.of(record)
        if record["method"] == "base":
            assert (known.rows, set(known.curve)) == ((), {0})
            continue
        assert set(known.curve) == {0, 1, 2, N}
        assert len(known.rows) == len(known.scores) == N
        assert len(known.uncertainty) == N + 1
        if record["method"] != "random":  # whose picks may tell nothing
            assert list(known.uncertainty) == sorted(known.uncertainty, reverse=True)
        if record["method"] != "context":
            assert len(known.learned) == len(known.losses) >= known.kept
        if record["method"] == "nn-f":
            assert len(set(known.rows)) == 1
        if record["method"] == "nn":
            assert len(set(known.rows)) == N
            assert list(known.scores) == sorted(known.scores, reverse=True)


def test_killed_and_gone_on_with_it_is_the_same_run(memory, whole, tmp_path):
    into = tmp_path / "run"
    process = subprocess.Popen(command(memory, into), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    log = into / "records.jsonl"
    until = time.monotonic() + 100
    while not (log.exists() and log.read_bytes().count(b"\n") >= 5):
        assert process.poll() is None
        assert time.monotonic() < until
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    there = len(records_of(into))
    assert 5 <= there < 3 * len(METHODS), "too late to kill it"
    with open(log, "ab") as file:
        file.write(b'{"text": "half a li')  # as a kill in the middle of a line would leave it
    said = json.loads(run(*command(memory, into, "--json")))
    assert (said["known"], said["missing"]) == (there, 0)
    assert plain(into) == plain(whole)
    assert question_of(into) == question_of(whole)


def test_the_report_is_the_same_from_the_same_records(whole, tmp_path):
    for name in ("a", "b"):
        run(sys.executable, "-m", "siftlm", "report", str(whole), "--out", str(tmp_path / name))
    made = sorted(path.relative_to(tmp_path / "a") for path in (tmp_path / "a").rglob("*") if path.is_file())
    assert any(path.suffix == ".html" for path in made)
    assert any(path.suffix == ".md" for path in made)
    for path in made:
        assert (tmp_path / "a" / path).read_bytes() == (tmp_path / "b" / path).read_bytes(), path
