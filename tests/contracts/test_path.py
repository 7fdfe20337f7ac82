"""How far a reader has to walk: the functions and files that one call of the main flow enters."""

from __future__ import annotations

import sys
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

import siftlm
from siftlm.types import json_number

ROOT = Path(siftlm.__file__).parent
# 168, or one more by what ran before; docs/decisions/0050-the-rebuilt-house.md says what was aimed at. Only ever lower.
MAX_FUNCTIONS = 169
MAX_FILES = 34


def entered(call: Any) -> set[tuple[str, str]]:
    """(file, function) of everything of ours that a call enters; lambdas belong to their function."""
    seen: set[tuple[str, str]] = set()

    def note(frame: FrameType, event: str, _: Any) -> None:
        code = frame.f_code
        if event == "call" and code.co_filename.startswith(f"{ROOT}/") and not code.co_name.startswith("<"):
            seen.add((code.co_filename, f"{code.co_name}:{code.co_firstlineno}"))

    sys.setprofile(note)
    try:
        call()
    finally:
        sys.setprofile(None)
    return seen


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    pytest.importorskip("torch")
    texts = [f"text number {number} about apples, pears and {number * 7 % 11} plums" for number in range(40)]
    memory = siftlm.Memory.build(texts, tmp_path_factory.mktemp("path") / "memory")
    return siftlm.LocalModel("siftlm-tiny", memory)


def test_what_is_entered_is_counted():
    assert {name.split(":")[0] for _, name in entered(lambda: json_number(0.5))} == {"json_number"}


def test_scoring_one_text_is_a_short_walk(model):
    def score() -> None:
        model.score("apples and pears and other fruit are good to eat", n=3)

    score()  # the first call also opens files and loads what is loaded once
    seen = entered(score)
    files = {file for file, _ in seen}
    assert 50 < len(seen) <= MAX_FUNCTIONS
    assert 10 < len(files) <= MAX_FILES
