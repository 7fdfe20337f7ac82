"""Copies of the prompt are found whichever of the two is the longer one."""

from __future__ import annotations

import re
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from siftlm.errors import InvalidInput
from siftlm.memory.near_duplicates import copy_mask

TEXTS = st.lists(st.sampled_from(["a", "b"]), max_size=14).map(" ".join)
PROMPT = """It was the best of times, it was the worst of times, it was the age of wisdom, it was the age of
foolishness, it was the epoch of belief, it was the epoch of incredulity, it was the season of Light."""
ELSE = "Call me Ishmael. Some years ago, never mind how long precisely, having little or no money in my purse."


def shared(prompt: str, text: str) -> float:
    """The definition, word by word."""
    runs = []
    for one in (prompt, text):
        words = re.findall("[a-z0-9]+", one.lower())
        whole = [tuple(words)] if len(words) < 5 else [tuple(words[at : at + 5]) for at in range(len(words) - 4)]
        runs.append(Counter(whole))
    ours, theirs = runs
    of_text = sum(n for run, n in theirs.items() if run in ours) / sum(theirs.values())
    of_prompt = sum(n for run, n in ours.items() if run in theirs) / sum(ours.values())
    return max(of_text, of_prompt)


@given(TEXTS, st.lists(TEXTS, max_size=5), st.sampled_from([0.01, 0.3, 0.5, 0.8, 1.0]))
def test_it_is_the_larger_share_of_runs(prompt, texts, threshold):
    expected = [shared(prompt, text) >= threshold for text in texts]
    assert copy_mask(prompt, texts, threshold).tolist() == expected


@pytest.mark.parametrize(
    ("text", "copy"),
    [
        (PROMPT, True),
        (PROMPT.upper().replace(",", " --\n"), True),
        (PROMPT[30:120], True),
        (ELSE * 3 + PROMPT + ELSE * 3, True),
        (PROMPT.replace("belief", "doubt"), True),
        (ELSE, False),
        (" ".join(reversed(PROMPT.split())), False),
        ("it was the", False),
        ("", False),
        (PROMPT[:60] + ELSE * 3, False),
    ],
)
def test_what_is_a_copy(text, copy):
    assert copy_mask(PROMPT, [ELSE, text]).tolist() == [False, copy]


@pytest.mark.parametrize(
    ("prompt", "text", "copy"),
    [("Yes!", "yes", True), ("Yes", "Yes, of course I will do that", False), ("2 + 2", "2, 2", True), ("", "", True)],
)
def test_tiny_texts_are_copies_of_their_like_alone(prompt, text, copy):
    assert copy_mask(prompt, [text]).tolist() == [copy]
    assert copy_mask(text, [prompt]).tolist() == [copy]


def test_the_answer_has_one_entry_for_each_text():
    answer = copy_mask(PROMPT, [])
    assert answer.shape == (0,)
    assert answer.dtype == np.bool_


@pytest.mark.parametrize("threshold", [0, 1.5, True, float("nan")])
def test_a_share_is_above_0_and_up_to_1(threshold):
    with pytest.raises(InvalidInput, match="threshold"):
        copy_mask(PROMPT, [ELSE], threshold)
