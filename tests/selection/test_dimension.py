"""The local dimension, against a direct reading of its formulas, and on surfaces whose dimension is known."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import siftlm
from effort import examples
from siftlm.errors import InvalidInput


def by_definition(points, k):
    """(values, pooled, two_nn), one point and one neighbour at a time."""
    logs, pairs = [], []
    for row, point in enumerate(points):
        far = sorted(math.dist(point, other) for at, other in enumerate(points) if at != row)[:k]
        logs.append([math.log(far[k - 1] / far[j]) for j in range(k - 1)])
        pairs.append(math.log(far[1] / far[0]))
    values = [(k - 1) / sum(own) for own in logs]
    return values, len(points) * (k - 1) / sum(map(sum, logs)), len(points) / sum(pairs)


@settings(max_examples=examples(20))
@given(st.integers(0, 10**6), st.integers(3, 12), st.sampled_from([1e-6, 1.0, 1e8]), st.sampled_from([0.0, 1e3]))
def test_estimates_are_those_of_the_formulas(seed, k, scale, offset):
    draw = np.random.default_rng(seed)
    points = scale * (draw.normal(size=(40, int(draw.integers(1, 6)))) + offset)
    values, pooled, two_nn = by_definition(points.tolist(), k)
    found = siftlm.local_dimension(points, k)
    np.testing.assert_allclose(found.values, values, rtol=1e-5)
    assert found.dimension == pytest.approx(pooled, rel=1e-5)
    assert found.two_nn == pytest.approx(two_nn, rel=1e-5)
    assert found.dimension == pytest.approx(len(values) / sum(1 / one for one in found.values))


def sphere(size, dimension, draw):
    points = draw.normal(size=(size, dimension + 1))
    return points / np.linalg.norm(points, axis=1, keepdims=True)


@pytest.mark.parametrize("dimension", [1, 2, 4, 8])
@pytest.mark.parametrize("surface", ["cube", "sphere"])
def test_surfaces_have_their_dimension(dimension, surface):
    draw = np.random.default_rng(dimension)
    points = draw.uniform(size=(3000, dimension)) if surface == "cube" else sphere(3000, dimension, draw)
    bent = np.concatenate([points, np.sin(2 * points)], axis=1)  # the surface is bent, and keeps its dimension
    found = siftlm.local_dimension(bent @ draw.normal(size=(bent.shape[1], 40)) / 10, 15)
    slack = 0.12 if dimension <= 4 else 0.25  # 3,000 points fill a cube of 8 dimensions thinly
    assert found.dimension == pytest.approx(dimension, rel=slack)
    assert found.two_nn == pytest.approx(dimension, rel=slack)
    assert found.agree


def test_each_point_has_the_dimension_of_its_surroundings():
    draw = np.random.default_rng(0)
    line, block = np.zeros((1000, 6)), draw.uniform(size=(1000, 6)) + 10
    line[:, 0] = draw.uniform(size=1000)
    found = siftlm.local_dimension(np.concatenate([line, block]), 10)
    assert np.median(found.values[:1000]) == pytest.approx(1, rel=0.15)
    assert np.median(found.values[1000:]) > 4


def test_nothing_depends_on_scale_order_rotation_or_type():
    draw = np.random.default_rng(1)
    points = draw.normal(size=(300, 5))
    plain = siftlm.local_dimension(points)
    turn = np.linalg.qr(draw.normal(size=(5, 5)))[0]
    order = draw.permutation(300)
    for other in (points * 1e-30, points @ turn, points + 100):
        np.testing.assert_allclose(siftlm.local_dimension(other).values, plain.values, rtol=1e-6)
    np.testing.assert_allclose(siftlm.local_dimension(points[order]).values, plain.values[order])
    np.testing.assert_allclose(siftlm.local_dimension(points.astype(np.float32)).values, plain.values, rtol=1e-3)


def test_copies_count_once_and_a_sample_says_which():
    points = np.random.default_rng(2).normal(size=(200, 3))
    doubled = siftlm.local_dimension(np.concatenate([points, points]), 9)
    assert (doubled.vectors, doubled.distinct) == (400, 200)
    np.testing.assert_allclose(doubled.values, siftlm.local_dimension(points, 9).values)
    assert "left out: 200" in str(doubled)
    some = siftlm.local_dimension(points, 9, sample=50, seed=3)
    np.testing.assert_allclose(some.values, siftlm.local_dimension(points, 9).values[some.rows])
    assert len(set(some.rows.tolist())) == 50


def test_points_that_are_all_equally_far_have_no_finite_dimension():
    found = siftlm.local_dimension(np.eye(30), 5)
    assert found.dimension > 1e6
    assert not found.agree
    assert not found.told
    for size in (30, 100):
        text = str(siftlm.local_dimension(np.eye(size), 5))
        assert text.startswith(f"The dimension near {size} of {size} vectors of width {size} cannot be told")
        assert "inf" not in text


def test_no_estimate_above_the_width_is_printed():
    found = siftlm.local_dimension(np.random.default_rng(4).normal(size=(400, 1)), 10)
    assert max(found.values) > 1
    assert found.told
    figures = [float(word.strip(",")) for line in str(found).splitlines() for word in line.split() if "." in word]
    assert figures
    assert max(figures) <= 1
    assert "more than 1, median" in str(found)


def test_the_report_is_short_and_goes_into_json():
    found = siftlm.local_dimension(np.random.default_rng(3).uniform(size=(500, 2)))
    assert str(found).startswith(f"{found.dimension:.1f} dimensions near 500 of 500 vectors of width 2")
    assert "check by the two nearest alone" in str(found)
    record = json.loads(json.dumps(found.to_dict()))
    assert (record["vectors"], record["k"], record["points"]) == (500, 20, 500)


@pytest.mark.parametrize(
    ("vectors", "more", "message"),
    [
        (np.ones((0, 3)), {}, "vectors is empty"),
        (np.ones((50, 3)), {}, "has 50 rows, 1 of them different, and k=20 neighbours of each need more than 20"),
        (np.random.default_rng(0).normal(size=(20, 3)), {}, "vectors has 20 rows, and k=20 neighbours"),
        (np.random.default_rng(0).normal(size=(20, 3)), {"k": 2}, "k must be a whole number ≥ 3, got 2"),
        ([[0.0, float("nan")]] * 30, {}, "row 0 is not finite"),
        ("text", {}, "must hold real numbers"),
        (np.eye(30), {"sample": 0}, "sample must be a whole number ≥ 1"),
    ],
)
def test_bad_input_is_named(vectors, more, message):
    with pytest.raises(InvalidInput, match=message):
        siftlm.local_dimension(vectors, **more)
