"""The example that trains an encoder makes one that opens."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from siftlm.embedding import embedder

SCRIPT = Path(__file__).resolve().parents[2] / "examples" / "train_encoder.py"
TINY = {
    "steps": 30,
    "width": 32,
    "layers": 1,
    "length": 32,
    "positions": 64,
    "vocabulary": 400,
    "batch": 8,
    "rate": 0.01,
}
absent = [library for library in ("transformers", "accelerate") if importlib.util.find_spec(library) is None]


@pytest.mark.slow
@pytest.mark.skipif(bool(absent), reason=f"needs {', '.join(absent)}")
@pytest.mark.parametrize("tokenizer", ["wordpiece", "bpe"])
def test_it_learns_and_what_it_saves_is_an_embedder(tmp_path, tokenizer):
    for place in range(8):
        text = f"chapter {place}: the tide rises and the tide falls, and the harbour is quiet. " * 20
        (tmp_path / f"{place}.txt").write_text(text)
    command = [sys.executable, str(SCRIPT), str(tmp_path), "--into", str(tmp_path / "own"), "--tokenizer", tokenizer]
    run = subprocess.run(
        [*command, *(f"--{name}={value}" for name, value in TINY.items())], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    before, after = re.search(r"trained on: ([\d.]+) before, ([\d.]+) after", run.stdout).groups()
    assert float(after) < float(before) - 0.5
    assert "nearest by the new encoder:" in run.stdout
    own = embedder(tmp_path / "own")
    assert own.width == 32
    assert own.max_tokens == 62
    assert np.isfinite(own.embed(["the tide"])).all()


@pytest.mark.slow
@pytest.mark.skipif(bool(absent), reason=f"needs {', '.join(absent)}")
def test_too_little_to_learn_from_is_said(tmp_path):
    run = subprocess.run([sys.executable, str(SCRIPT), str(tmp_path)], capture_output=True, text=True, check=False)
    assert run.returncode == 1
    assert "holds 0 texts" in run.stderr
    assert "Traceback" not in run.stderr
