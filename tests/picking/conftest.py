"""A pool of a few hundred records in three sources, and targets about one of its topics."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

SUBJECTS = ("tea", "water", "list", "tree", "moon", "star", "cat", "bread", "engine", "river", "letter", "window")
VERBS = ("boils", "sorts", "shines", "sleeps", "breaks", "turns", "freezes", "rises", "opens", "stops")
PLACES = ("at night", "in the hills", "by the sea", "without a sound", "once a year", "in the kitchen", "all day long")
SOURCES = ("web", "wiki", "mail")


def records(size: int, seed: int = 0) -> list[dict[str, Any]]:
    draw = np.random.default_rng(seed)

    def sentence() -> str:
        return f"the {draw.choice(SUBJECTS)} {draw.choice(VERBS)} {draw.choice(PLACES)}"

    return [
        {
            "text": f"{sentence()} and {sentence()}",
            "source": SOURCES[at % 3],
            "score": float(at % 5),
            "n": at,
            "deep": {"a": [1.0, 2.5, None], "b": "ü"},
        }
        for at in range(size)
    ]


TARGETS = ["how does tea boil in the kitchen", "why does bread rise at night", "the cat sleeps where it is warm"]


def write(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to stand in, with ``pool.jsonl`` of 300 records and ``targets.jsonl``."""
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "pool.jsonl", records(300))
    write(tmp_path / "targets.jsonl", [{"text": text} for text in TARGETS])
    return tmp_path
