"""`pursuit` and `auto`: selection for a learner that takes one step on each text."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from siftlm import select
from siftlm.errors import InvalidInput


def vectors(seed: int, count: int = 40, width: int = 12, spread: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """A prompt and candidates around it; a small ``spread`` makes them copies of one another."""
    generator = np.random.default_rng(seed)
    prompt = generator.normal(size=width)
    return prompt, prompt + spread * generator.normal(size=(count, width)) * np.linalg.norm(prompt) / np.sqrt(width)


def linear_learner(prompt: np.ndarray, candidates: np.ndarray, n: int, step: float) -> list[int]:
    """The picks by the definition: after each, the learner's error about every unknown truth shrinks along the text."""
    unit = candidates / np.linalg.norm(candidates, axis=1, keepdims=True)
    residual, picks = prompt / np.linalg.norm(prompt), []
    for _ in range(n):
        left = [np.sum((residual - step * (residual @ x) * x) ** 2) for x in unit]
        picks.append(int(np.argmin(left)))
        residual = residual - step * (residual @ unit[picks[-1]]) * unit[picks[-1]]
    return picks


@given(seed=st.integers(0, 200), step=st.sampled_from([0.05, 0.3, 0.7, 1.0]))
def test_each_pick_leaves_a_linear_learner_the_least_error(seed, step):
    prompt, candidates = vectors(seed)
    picked = select(prompt, candidates, 12, method="pursuit", step=step)
    assert picked.indices.tolist() == linear_learner(prompt, candidates, 12, step)


def test_a_small_step_repeats_the_nearest_and_a_whole_one_is_matching_pursuit():
    prompt, candidates = vectors(3)
    nearest = int(select(prompt, candidates, 1, method="nearest").indices[0])
    assert select(prompt, candidates, 6, method="pursuit", step=1e-6).indices.tolist() == [nearest] * 6
    assert len(set(select(prompt, candidates, 6, method="pursuit", step=1.0).indices[:2].tolist())) == 2


def test_gains_fall_by_what_a_step_closes():
    prompt = np.array([1.0, 0.0])
    gains = select(prompt, np.eye(2), 3, method="pursuit", step=0.3, replacement=True).gains
    np.testing.assert_allclose(gains, [0.51, 0.51 * 0.49, 0.51 * 0.49**2])


@pytest.mark.parametrize(
    ("name", "value"), [("step", 0), ("step", 1.5), ("step", "x"), ("likeness", 2), ("likeness", -1)]
)
def test_wrong_settings_are_refused(name, value):
    with pytest.raises(InvalidInput, match=name):
        select(np.ones(2), np.eye(2), 1, method="auto" if name == "likeness" else "pursuit", **{name: value})


def test_auto_checks_its_step_where_it_takes_the_nearest_too():
    with pytest.raises(InvalidInput, match="step"):
        select(np.ones(3), np.eye(3), 2, method="auto", step=2)


@given(seed=st.integers(0, 100))
def test_auto_is_pursuit_among_copies(seed):
    prompt, candidates = vectors(seed, spread=0.3)
    auto = select(prompt, candidates, 10, method="auto")
    pursuit = select(prompt, candidates, 10, method="pursuit", replacement=False)
    assert auto.indices.tolist() == pursuit.indices.tolist()
    np.testing.assert_array_equal(auto.gains, pursuit.gains)


@given(seed=st.integers(0, 100))
def test_auto_is_the_nearest_where_texts_differ(seed):
    prompt, candidates = vectors(seed, spread=3.0, width=60)
    auto, nearest = (select(prompt, candidates, 10, method=name) for name in ("auto", "nearest"))
    assert auto.indices.tolist() == nearest.indices.tolist()
    np.testing.assert_array_equal(auto.gains, nearest.gains)


@pytest.mark.parametrize("copied", [2, 5, 8, 9, 10])
def test_the_mean_cosine_of_the_nearest_decides(copied):
    prompt, candidates = vectors(5, spread=3.0, width=60)
    order = select(prompt, candidates, 10, method="nearest").indices
    for at in range(copied):  # all of the first so many point almost the same way, and stay the nearest
        candidates[order[at]] = candidates[order[0]] + 1e-3 * at * candidates[order[at]]
    near = candidates[order] / np.linalg.norm(candidates[order], axis=1, keepdims=True)
    mean = ((near @ near.T).sum() - 10) / 90
    picks = {
        method: select(prompt, candidates, 10, method=method, replacement=False).indices.tolist()
        for method in ("nearest", "pursuit")
    }
    assert picks["nearest"] != picks["pursuit"]
    for likeness, method in ((mean - 1e-6, "pursuit"), (mean + 1e-6, "nearest")):
        assert select(prompt, candidates, 10, method="auto", likeness=likeness).indices.tolist() == picks[method]
    assert (mean >= 0.65) == (copied >= 8)
    assert (
        select(prompt, candidates, 10, method="auto").indices.tolist() == picks["pursuit" if copied >= 8 else "nearest"]
    )


def test_auto_looks_at_no_more_than_the_n_nearest():
    prompt, candidates = vectors(5, spread=3.0, width=60)
    order = select(prompt, candidates, 40, method="nearest").indices
    candidates[order[10:]] = candidates[order[10]] * np.linspace(1, 2, 30)[:, None]  # copies, farther away
    assert select(prompt, candidates, 10, method="auto").indices.tolist() == order[:10].tolist()


def test_what_is_known_counts_as_learned_and_is_not_picked():
    prompt, candidates = vectors(7, spread=0.3)
    known = select(prompt, candidates, 1, method="pursuit").indices
    rest = select(prompt, candidates, 5, method="pursuit", known=candidates[known])
    assert rest.indices.tolist() == select(prompt, candidates, 6, method="pursuit").indices.tolist()[1:]
