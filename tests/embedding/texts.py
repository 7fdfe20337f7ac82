"""Texts for the embedders that need numpy alone: whatever they may read differently."""

from __future__ import annotations

from random import Random

import numpy as np
from hypothesis import strategies as st

# Texts of any characters, lone surrogates among them; of those that words, signs, spaces and WordPiece treat
# differently; of few words that come again; and of long words.
TRICKY = (
    "aZ09_ .-'\n\t\x00\x07\x0b\x0c\x1c\x7f\x85\xa0éßİıΣσςǅﬁ\u212a水ち한नि\u0301\u0323\u0338=≠→"
    "©€½²\u200b\u202e\ufeff\ufffd\u3000。\uff0c\ud800\udfff😀𝒜\U00020000"
)
WORDS = ["tide", "Tides", "the", "a_b", "don't", "re-reading", "20°C", "x" * 101]
any_texts = st.one_of(
    st.text(st.characters(), max_size=40),
    st.text(st.characters(exclude_categories=())),
    st.text(TRICKY, max_size=60),
    st.text("ab .", max_size=30),
    st.lists(st.sampled_from(WORDS), max_size=40).map(" ".join),
    st.text("abé水", min_size=5, max_size=30).map(lambda word: word * 9),
)


def passage(random: Random) -> str:
    """Up to 40 words, among them words that few or many passages have, in several scripts."""
    made = ["tide", "ebb and flow", f"w{random.randrange(40)}", "жизнь", "日本。語", "naïve", "a\x0cb", "7°C", "x" * 20]
    return random.choice([" ", "\n", "-"]).join(random.choices(made, k=random.randrange(40)))


def assert_same_bits(found, expected):
    assert found.dtype == expected.dtype == np.float32
    np.testing.assert_array_equal(found.view(np.uint32), expected.view(np.uint32))
