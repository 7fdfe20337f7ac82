"""The two examples of the active data loader, a few steps each: what they write is what they say."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.mark.slow
@pytest.mark.parametrize(("name", "library"), [("active_digits", "sklearn"), ("active_text", "matplotlib")])
def test_an_example_writes_its_curves_and_figures(name, library, tmp_path, monkeypatch, capsys):
    pytest.importorskip(library)
    pytest.importorskip("matplotlib")
    monkeypatch.syspath_prepend(str(EXAMPLES))
    monkeypatch.setattr(sys, "argv", [name, "--into", str(tmp_path), "--seeds", "2", "--rounds", "2", "--steps", "5"])
    importlib.import_module(name).main()
    printed = capsys.readouterr().out
    record = json.loads((tmp_path / "curves.json").read_text(encoding="utf-8"))
    assert list(record["tasks"]) == ["all", "some"]
    for task, found in record["tasks"].items():
        assert found["labels"] == [10, 20]
        assert (tmp_path / f"{task}.svg").stat().st_size < 30_000
        random = found["ways"]["random"]["seeds"]
        for way, own in found["ways"].items():
            assert way in printed
            means = [sum(column) / 2 for column in zip(*own["seeds"], strict=True)]
            assert own["accuracy"] == pytest.approx(means, abs=0.02)
            differences = [one[-1] - other[-1] for one, other in zip(own["seeds"], random, strict=True)]
            assert own["last_less_random"]["mean"] == pytest.approx(sum(differences) / 2, abs=0.02)
    assert len(record["tasks"]["some"]["ways"]) == 5
