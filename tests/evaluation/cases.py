"""A small and fast run, and views of its records."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from calibration.worlds import TOPICS, Reader, document, needles_world
from siftlm.evaluation import Protocol, Text, evaluate, records_of
from siftlm.local import LocalModel

TESTS = Path(__file__).parent.parent
METHODS = "base,nn,sift,context"
TEXTS = [Text(f"t{topic}", document(topic), f"d{topic % 2}") for topic in range(TOPICS)]
PROTOCOL = Protocol(n=5)


def model(memory, **settings):
    """A fresh reader with a memory."""
    return LocalModel(Reader(), memory, **settings)


def run(memory, into, methods=METHODS, texts=TEXTS, protocol=PROTOCOL, reader=None, **more):
    """The result of `evaluate`."""
    used = model(memory) if reader is None else LocalModel(reader, memory)
    return evaluate(used, texts, methods, into=into, protocol=protocol, progress=False, **more)


def plain(record):
    """The record without seconds, and without settings, which only the first record has."""
    return {name: value for name, value in record.items() if name not in ("seconds", "settings")}


def known(folder):
    """All records, sorted."""
    return sorted((plain(record) for record in records_of(folder)), key=lambda one: (one["text"], one["method"]))


def lines(folder):
    """The lines of the log, valid or not."""
    return (folder / "records.jsonl").read_bytes().splitlines()


def worker(memory, into, seconds=0.0):
    """The same run in another process, with so many seconds for each step."""
    path = os.pathsep.join([str(TESTS), *sys.path])
    return subprocess.Popen(
        [sys.executable, __file__, str(memory), str(into), str(seconds)],
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        text=True,
    )


def _work(memory, into, seconds):
    from siftlm.memory import Memory

    reader = Reader()
    reader.seconds = float(seconds)
    with Memory.open(memory) as opened:
        done = run(opened, into, reader=reader)
    print(json.dumps({"done": done.done, "known": done.known, "missing": done.missing}))


if __name__ == "__main__":
    _work(*sys.argv[1:])

__all__ = ["METHODS", "PROTOCOL", "TEXTS", "known", "lines", "model", "needles_world", "plain", "run", "worker"]
