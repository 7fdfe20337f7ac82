"""The example that distils the table of the static embedder writes one of that form, the same one each time."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "examples" / "static_table.py"
WIDTH = 8
absent = [library for library in ("transformers", "scipy") if importlib.util.find_spec(library) is None]


@pytest.mark.slow
@pytest.mark.skipif(bool(absent), reason=f"needs {', '.join(absent)}")
def test_a_table_is_distilled_and_again(tmp_path, models):
    model = Path(models("bert"))
    numbers = json.loads((model / "tokenizer.json").read_text("utf-8"))["model"]["vocab"]
    vocabulary = sorted(numbers, key=numbers.get)
    (model / "vocab.txt").write_text("\n".join(vocabulary) + "\n", "utf-8")
    lines = [json.dumps({"text": f"the tide and the rain, {number} times over"}) for number in range(20)]
    (tmp_path / "texts.jsonl").write_text("\n".join(lines), "utf-8")

    def made(name: str, *more: str) -> dict[str, np.ndarray]:
        command = [sys.executable, str(SCRIPT), "--model", str(model), "--into", str(tmp_path / name), *more]
        subprocess.run([*command, "--width", str(WIDTH)], check=True, capture_output=True, text=True)
        with np.load(tmp_path / name) as file:
            return dict(file)

    first = made("first.npz", "--texts", str(tmp_path / "texts.jsonl"))
    again = made("again.npz", "--texts", str(tmp_path / "texts.jsonl"))
    pieces = first["pieces"].tobytes().decode("ascii").split("\n")
    assert pieces == [piece for piece in vocabulary if piece.isascii() and piece[:1] + piece[-1:] != "[]"]
    assert (first["columns"].shape, first["columns"].dtype) == ((WIDTH, len(pieces)), np.int8)
    assert len(np.unique(first["weights"])) > 1
    assert all((first[name] == again[name]).all() for name in first)
    without = made("without.npz")
    assert (without["columns"] != first["columns"]).any()
