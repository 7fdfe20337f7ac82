"""Passages that give a text away are found, and others are not."""

from __future__ import annotations

import pytest

from calibration.worlds import words
from siftlm.evaluation.protocol import leaked_rows
from siftlm.memory import Memory

PROMPT = " ".join(words(1, "p", 40))
SCORED = " ".join(words(1, "q", 40))
WHOLE = f"{PROMPT} {SCORED}"


@pytest.fixture
def memory(tmp_path):
    texts = [
        f"{WHOLE} and an end of its own",
        " ".join(words(1, "p", 40)[10:30]),  # a piece of the prompt
        " ".join(words(1, "q", 40)[:20]).upper(),  # a piece of the other half
        " ".join([*words(1, "p", 40)[-10:], *words(1, "q", 40)[:10]]),  # across the cut
        " ".join([*words(1, "p", 40)[:9], *words(2, "q", 40)]),  # about the same, in part
        " ".join(words(3, "p", 40)),
    ]
    made = Memory.create(tmp_path)
    made.add(texts)
    return made


def test_pieces_of_either_part_and_across_the_cut_are_found(memory):
    assert leaked_rows(memory, [PROMPT, SCORED], WHOLE) == [0, 1, 2, 3]
    assert leaked_rows(memory, [PROMPT, SCORED]) == [0, 1, 2]
    assert leaked_rows(memory, [SCORED]) == [0, 2]
    assert leaked_rows(memory, [" ".join(words(9, "p", 20))]) == []
    assert leaked_rows(memory, [" ", ""]) == []


def test_a_piece_without_a_direction_and_an_empty_memory_have_none(tmp_path):
    empty = Memory.create(tmp_path / "empty")
    assert leaked_rows(empty, [PROMPT, SCORED], WHOLE) == []
