"""The plane: principal axes, as a slow reference finds them, whatever the order of the candidates."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from effort import examples
from siftlm.errors import InvalidInput
from siftlm.selection.plane import project_to_plane

NUMBERS = st.floats(-1, 1, width=32).map(lambda x: round(x, 2))


@st.composite
def clouds(draw):
    count, width = draw(st.integers(0, 8)), draw(st.integers(1, 5))
    candidates = draw(hnp.arrays(np.float32, (count, width), elements=NUMBERS))
    return candidates, draw(hnp.arrays(np.float32, (width,), elements=NUMBERS))


def cloud(count: int = 30, width: int = 6):
    rng = np.random.default_rng(0)
    scales = 2.0 ** -np.arange(width)
    return rng.normal(size=(count, width)) * scales, rng.normal(size=width) * scales


def test_it_is_what_the_covariance_says():
    candidates, prompt = cloud()
    found = project_to_plane(candidates, prompt)
    points = np.concatenate([candidates, prompt[None]])
    points -= points.mean(axis=0)
    values, axes = np.linalg.eigh(points.T @ points)
    slow = points @ axes[:, [-1, -2]]
    slow *= np.where(slow[-1] < 0, -1, 1)
    np.testing.assert_allclose(np.concatenate([found.candidates, found.prompt[None]]), slow, atol=1e-9)
    assert found.shown == pytest.approx(values[[-1, -2]].sum() / values.sum())


@settings(max_examples=examples(60))
@given(clouds(), st.randoms(use_true_random=False))
def test_another_order_moves_no_point(made, random):
    candidates, prompt = made
    order = list(range(len(candidates)))
    random.shuffle(order)
    found, again = project_to_plane(candidates, prompt), project_to_plane(candidates[order], prompt)
    np.testing.assert_array_equal(again.candidates, found.candidates[order])
    np.testing.assert_array_equal(again.prompt, found.prompt)
    assert again.shown == found.shown


@settings(max_examples=examples(60))
@given(clouds())
def test_nothing_comes_closer_than_it_is_apart_and_the_rest_is_told(made):
    candidates, prompt = (one.astype(np.float64) for one in made)
    found = project_to_plane(candidates, prompt)
    points, drawn = np.concatenate([candidates, prompt[None]]), np.concatenate([found.candidates, found.prompt[None]])
    far = np.linalg.norm(points[:, None] - points[None], axis=-1)
    near = np.linalg.norm(drawn[:, None] - drawn[None], axis=-1)
    assert np.isfinite(drawn).all()
    assert (near <= far + 1e-9).all()  # a projection
    assert 0 <= found.shown <= 1 + 1e-12
    if points.shape[1] <= 2:
        np.testing.assert_allclose(near, far, atol=1e-7)  # nothing to leave out


def test_the_prompt_is_to_the_right_and_above():
    for seed in range(20):
        rng = np.random.default_rng(seed)
        found = project_to_plane(rng.normal(size=(12, 4)), rng.normal(size=4))
        assert (found.prompt >= 0).all()


def test_shapes_that_do_not_fit():
    with pytest.raises(InvalidInput, match=r"got \(3, 2\) and \(3,\)"):
        project_to_plane(np.zeros((3, 2)), np.zeros(3))


def test_several_targets_have_places_of_their_own():
    candidates, _ = cloud()
    targets = candidates[:3] + 0.1
    found = project_to_plane(candidates[3:], targets)
    assert found.prompt.shape == (3, 2)
    assert (found.prompt.mean(axis=0) >= 0).all()
    one, alone = project_to_plane(candidates[3:], targets[:1]), project_to_plane(candidates[3:], targets[0])
    np.testing.assert_array_equal(one.prompt[0], alone.prompt)
