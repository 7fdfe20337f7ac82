"""Files to select from, and the command line as it is run from a shell."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from siftlm.cli import main

ROWS, WIDTH = 40, 8


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to stand in, with vectors, two kinds of query, and texts."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(ROWS, WIDTH))
    np.save("vectors.npy", vectors)
    np.save("q.npy", vectors[0] + vectors[1])
    np.save("prompts.npy", vectors[[3, 5, 7]])
    Path("texts.txt").write_text("".join(f"text {row}\n" for row in range(ROWS)), encoding="utf-8")
    return tmp_path


@pytest.fixture
def siftlm(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Run a command in this process: (status, stdout, stderr)."""

    def run(*words: str) -> tuple[int, str, str]:
        status = main(list(words))
        output = capsys.readouterr()
        return status, output.out, output.err

    return run


@pytest.fixture
def shell() -> Callable[..., subprocess.CompletedProcess[bytes]]:
    """Run ``python -m siftlm`` in a process of its own; output is bytes."""

    def run(*words: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            [sys.executable, "-m", "siftlm", *words],
            capture_output=True,
            check=False,
            env=os.environ | {"PYTHONIOENCODING": "utf-8"} | environment,
        )

    return run


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[int, bytes]]:
    """Run a command in this process with a stdout of this encoding, which is no terminal: (status, stdout)."""

    def run(encoding: str, *words: str) -> tuple[int, bytes]:
        stream = io.BytesIO()
        with monkeypatch.context() as patch:
            patch.setattr(sys, "stdout", io.TextIOWrapper(stream, encoding=encoding, write_through=True))
            return main(list(words)), stream.getvalue()

    return run


@pytest.fixture(scope="session")
def sixty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A memory of sixty texts, to be read only."""
    from cli.corpora import corpus
    from siftlm.memory import Memory

    home = tmp_path_factory.mktemp("sixty")
    Memory.build(corpus(home / "c.jsonl", 60), home / "memory").close()
    return home / "memory"


@pytest.fixture
def fake(folder: Path, sixty: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[type]:
    """What the command line calls ``memory``, and a controller that needs no torch."""
    from cli.fakes import FakeController

    (folder / "memory").symlink_to(sixty, target_is_directory=True)
    monkeypatch.setattr("siftlm.local.Controller", FakeController)
    yield FakeController
    FakeController.made.clear()
    FakeController.interrupt_at = None


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a causal language model of a few thousand random weights."""
    from embedding import tiny

    return tiny.gpt2(tmp_path_factory.mktemp("model") / "gpt2")
