"""Near-duplicates: what counts as the same, how surely they are found, and keys that never change."""

from __future__ import annotations

import random
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from siftlm.errors import InvalidInput
from siftlm.memory.near_duplicates import MINHASH_VALUES, Near, similarity

WORDS = st.text(st.sampled_from("ab"), min_size=1, max_size=2)
TEXTS = st.lists(WORDS, max_size=12).map(" ".join)


def jaccard(a: str, b: str) -> float:
    """The definition, for texts of ASCII."""
    sets = []
    for text in (a, b):
        words = re.findall("[a-z0-9]+", text.lower())
        runs = {tuple(words[at : at + 5]) for at in range(len(words) - 4)}
        sets.append(runs or {tuple(words) or text.strip()})
    return len(sets[0] & sets[1]) / len(sets[0] | sets[1])


@given(TEXTS, TEXTS)
def test_similarity_is_the_overlap_of_the_sets_of_runs(a, b):
    assert similarity(a, b) == jaccard(a, b) == similarity(b, a)
    assert similarity(a, a) == 1


@given(st.lists(TEXTS, max_size=6))
def test_a_batch_gives_what_each_text_gives_alone(texts):
    near = Near(0.8)
    together = near.bands(texts)
    assert together.shape == (len(texts), near.count)
    assert together.dtype == np.int64
    for text, keys in zip(texts, together, strict=True):
        np.testing.assert_array_equal(near.bands([text])[0], keys)


def test_more_texts_than_are_worked_on_at_a_time():
    texts = [f"text {n % 300} of many that are told apart by a number" for n in range(700)]
    keys = Near(0.8).bands(texts)
    np.testing.assert_array_equal(keys[:300], keys[300:600])
    assert len(np.unique(keys, axis=0)) == 300


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ("One two, three; four: five six!", "  ONE\ttwo three\nfour five six"),
        ("Straße und Weg und Ziel und so", "STRASSE und Weg und Ziel und so"),
        ("café " * 6, "cafe\u0301 " * 6),
        ("Yes.", "yes"),
        ("!!!", " !!! "),
        ("東京都、港区です。", "東京都港区です"),
    ],
)
def test_case_punctuation_and_spelling_do_not_count(a, b):
    assert similarity(a, b) == 1
    np.testing.assert_array_equal(*Near(0.8).bands([a, b]))


@pytest.mark.parametrize(("a", "b"), [("", "!!!"), ("a b", "b a"), ("a b c d", "a b c d e"), ("a", "a a"), ("?", "!")])
def test_short_texts_are_the_same_or_have_nothing_in_common(a, b):
    assert similarity(a, b) == 0
    assert not (Near(0.8).bands([a]) == Near(0.8).bands([b])).any()


def test_texts_without_spaces_are_compared_letter_by_letter():
    assert 0.3 < similarity("今日は天気がいいから散歩しましょう", "今日は天気がいいから買物しましょう") < 0.7


def pair(share: float, chance: random.Random) -> tuple[str, str]:
    """Two texts of about 400 distinct words and this similarity: they share one stretch.

    Of n words each, m of them shared in one stretch, they have (m - 4) of (2 (n - 4) - (m - 4)) runs in common.
    """
    runs = 400
    both = round(2 * runs * share / (1 + share))
    words = [f"{chance.getrandbits(40):x}" for _ in range(2 * runs)]
    stretch, rest = words[: both + 4], words[both + 4 :]
    own = runs - both
    return " ".join(stretch + rest[:own]), " ".join(stretch + rest[own : 2 * own])


@pytest.mark.slow
@pytest.mark.parametrize("threshold", [0.5, 0.7, 0.8, 0.9])
@pytest.mark.parametrize("distance", [0.1, 0.0, -0.2])
def test_pairs_are_found_as_surely_as_the_curve_says(threshold, distance):
    near, chance = Near(threshold), random.Random(7)
    share = min(threshold + distance, 1.0)
    pairs = [pair(share, chance) for _ in range(150)]
    assert np.mean([similarity(a, b) for a, b in pairs]) == pytest.approx(share, abs=0.005)
    first, second = near.bands([a for a, _ in pairs]), near.bands([b for _, b in pairs])
    found = np.mean((first == second).any(axis=1))
    chance_of_it = near.chance(share)
    # Four standard deviations of a mean over 150.
    assert abs(found - chance_of_it) <= 4 * np.sqrt(max(chance_of_it * (1 - chance_of_it), 0.01) / 150)
    if distance > 0:
        assert found >= 0.95
    if distance < 0:
        assert found <= 0.3


def test_single_values_are_equal_as_often_as_the_texts_are_similar():
    chance = random.Random(3)
    near = Near(0.01)
    assert (near.rows, near.count) == (1, MINHASH_VALUES)
    pairs = [pair(0.6, chance) for _ in range(50)]
    first, second = near.bands([a for a, _ in pairs]), near.bands([b for _, b in pairs])
    assert np.mean(first == second) == pytest.approx(0.6, abs=0.03)


def test_strangers_share_nothing_however_many_they_are():
    chance = random.Random(5)
    texts = [" ".join(f"{chance.getrandbits(20):x}" for _ in range(30)) for _ in range(1000)]
    keys = Near(0.8).bands(texts)
    assert len(np.unique(keys)) == keys.size


def test_keys_are_the_same_for_ever():
    """They are kept on disk: if this fails, memories that exist no longer find near-duplicates."""
    near = Near(0.8)
    assert near.bands(["The quick brown fox jumps over the lazy dog."])[0, :3].tolist() == FOX
    assert near.bands(["é 漢字"])[0, :3].tolist() == SHORT
    assert Near(0.5, seed=9).bands(["The quick brown fox jumps over the lazy dog."])[0, :2].tolist() == OTHER_SEED


FOX = [-2373638868754426492, -1894100868162020309, 5235830055388046980]
SHORT = [-2007274846556113460, 205928757376316718, 4769029643121715389]
OTHER_SEED = [9126527801538183441, 1588135494293686265]


def test_seeds_give_unrelated_keys():
    text = ["one two three four five six seven"]
    assert not set(Near(0.8, seed=0).bands(text).ravel()) & set(Near(0.8, seed=1).bands(text).ravel())


@pytest.mark.parametrize("threshold", [0.05, 0.3, 0.5, 0.8, 0.95, 0.999, 1.0])
def test_every_threshold_finds_what_is_well_above_it(threshold):
    near = Near(threshold)
    assert near.count * near.rows <= MINHASH_VALUES
    assert near.chance(min(threshold + 0.1, (threshold + 1) / 2)) >= 0.98
    assert near.chance(1.0) == 1.0


@pytest.mark.parametrize("settings", [{"threshold": 0}, {"threshold": 1.1}, {"threshold": True}, {"seed": -1}])
def test_settings_out_of_range_are_refused(settings):
    with pytest.raises(InvalidInput, match=next(iter(settings))):
        Near(**settings)


def test_no_texts():
    assert Near(0.8).bands([]).shape == (0, 11)


def test_a_text_that_is_no_unicode_has_keys_too():
    assert Near(0.8).bands(["half \ud800 of a pair of surrogates here"]).shape == (1, 11)
