"""``select_many`` is ``select`` for each prompt, whatever the shapes and whichever engine does it."""

from __future__ import annotations

import dataclasses
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import siftlm
from effort import examples
from siftlm.errors import Conflict, InvalidInput, UnknownName
from siftlm.selection import Limits, Stopping
from siftlm.types import Selection


def vectors(seed: int, *shape: int, dtype: str = "float64") -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(dtype)


def assert_same(many: list[Selection], each: list[Selection], tolerance: float) -> None:
    assert len(many) == len(each)
    for left, right in zip(many, each, strict=True):
        assert left.indices.tolist() == right.indices.tolist()
        np.testing.assert_allclose(left.gains, right.gains, atol=tolerance)
        np.testing.assert_allclose(left.uncertainty, right.uncertainty, atol=tolerance)
        assert (left.stopped, left.method, left.noise) == (right.stopped, right.method, right.noise)


@settings(max_examples=examples(60))
@given(
    seed=st.integers(0, 10**6),
    prompts=st.integers(1, 7),
    size=st.integers(1, 40),
    width=st.integers(1, 12),
    noise=st.sampled_from([1e-6, 0.01, 1.0, 50.0]),
    dtype=st.sampled_from(["float16", "float32", "float64"]),
    normalize=st.booleans(),
    data=st.data(),
)
def test_batch_is_loop(
    seed: int, prompts: int, size: int, width: int, noise: float, dtype: str, normalize: bool, data: st.DataObject
) -> None:
    n = data.draw(st.integers(1, size))
    queries, shared = vectors(seed, prompts, width), vectors(seed + 1, size, width, dtype=dtype)
    own = [vectors(seed + 2 + b, size - b % 2 if size > n else size, width, dtype=dtype) for b in range(prompts)]
    keywords = {"n": n, "noise": noise, "normalize": normalize}
    scale = 1.0 if normalize else float(max(1.0, (queries**2).sum(1).max()))
    tolerance = scale * (1e-3 if dtype != "float64" and noise < 1 else 1e-5)
    each = [siftlm.select(q, shared, **keywords) for q in queries]
    assert_same(siftlm.select_many(queries, shared, **keywords), each, tolerance)
    each = [siftlm.select(q, x, **keywords) for q, x in zip(queries, own, strict=True)]
    assert_same(siftlm.select_many(queries, own, **keywords), each, tolerance)


def test_groups_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    queries, candidates = vectors(0, 9, 6), vectors(1, 60, 6)
    whole = siftlm.select_many(queries, candidates, n=20)
    engine = sys.modules["siftlm.selection.sift_engine"]
    monkeypatch.setattr(engine, "ROW_GROUP_BYTES", 1)
    monkeypatch.setattr(engine, "SCAN_GROUP_BYTES", 1)
    assert_same(siftlm.select_many(queries, candidates, n=20), whole, 1e-12)


@pytest.mark.parametrize("size", [30, 300])  # rows of the Cholesky factor, and directions in feature space
def test_both_engines(size: int) -> None:
    queries, candidates = vectors(0, 5, 8), vectors(1, size, 8)
    each = [siftlm.select(q, candidates, n=7) for q in queries]
    assert_same(siftlm.select_many(queries, candidates, n=7), each, 1e-9)


def test_duplicates_tie_to_the_smaller_index() -> None:
    candidates = np.repeat(vectors(1, 10, 5, dtype="float32"), 4, axis=0)
    for found in siftlm.select_many(vectors(0, 6, 5), candidates, n=10):
        assert all(index % 4 == 0 for index in found.distinct)


def test_order_of_the_input() -> None:
    queries, candidates = vectors(0, 8, 5), vectors(1, 20, 5)
    forward = siftlm.select_many(queries, candidates, n=4)
    backward = siftlm.select_many(queries[::-1], candidates, n=4)
    assert_same(forward, backward[::-1], 1e-12)


def test_shapes_of_queries_and_candidates() -> None:
    queries, candidates = vectors(0, 3, 2, 5), vectors(1, 3, 12, 5)
    each = [siftlm.select(q, x, n=4) for q, x in zip(queries, candidates, strict=True)]
    assert_same(siftlm.select_many(queries, candidates, n=4), each, 1e-12)
    ragged = [queries[0], queries[1, 0], queries[2]]
    each = [siftlm.select(q, candidates[0], n=4) for q in ragged]
    assert_same(siftlm.select_many(ragged, candidates[0], n=4), each, 1e-12)
    assert siftlm.select_many([], candidates[0], n=4) == []


def test_every_setting_reaches_each_prompt() -> None:
    queries, candidates = vectors(0, 3, 5), vectors(1, 12, 5)
    for keywords in (
        {"method": "nearest"},
        {"exclude": [0, 1, 2]},
        {"until": 0.5},
        {"replacement": False},
        {"method": "mmr", "balance": 0.2},
        {"kernel": siftlm.kernels.power(2)},
    ):
        each = [siftlm.select(q, candidates, n=4, **keywords) for q in queries]
        assert_same(siftlm.select_many(queries, candidates, n=4, **keywords), each, 1e-12)


def test_explains_itself_like_one() -> None:
    queries, candidates = vectors(0, 3, 5), vectors(1, 12, 5)
    for many, query in zip(siftlm.select_many(queries, candidates, n=4), queries, strict=True):
        one = siftlm.select(query, candidates, n=4)
        np.testing.assert_allclose(many.explain().relevance, one.explain().relevance)
        np.testing.assert_allclose(many.explain().overlap, one.explain().overlap)


@pytest.mark.parametrize(
    ("queries", "candidates", "keywords", "message"),
    [
        (np.ones((2, 3)), np.ones((4, 5)), {}, "width 3, expected 5"),
        (np.ones((2, 3)), [np.ones((4, 3))] * 3, {}, "2 queries but 3 sets"),
        (np.ones(3), np.ones((4, 3)), {}, "must be"),
        (np.ones((2, 3)), np.ones((4, 3)), {"noise": 0}, "noise must be a number > 0"),
        (np.ones((2, 3)), np.ones((4, 3)), {"n": 5}, "n=5 is more than the 4"),
        (np.array([[1, 1, 1], [np.nan, 1, 1.0]]), np.ones((4, 3)), {}, "row 1 is not finite"),
        ([[1, 1, 1], [1, 1]], np.ones((4, 3)), {}, "prompt 1"),
        (np.ones((2, 3)), [np.ones((4, 3)), np.zeros((4, 3))], {}, "prompt 1: candidates row 0 is all zeros"),
        (np.ones((2, 3)), [np.ones((4, 3)), np.zeros((4, 3))], {"until": 0.1}, "prompt 1: candidates row 0"),
        (np.ones((2, 3)), np.ones((4, 3)), {"method": "shift"}, "did you mean 'sift'"),
        (np.ones((2, 3)), np.ones((4, 3)), {"colour": 1}, "no setting 'colour'"),
        (np.ones((2, 3)), np.ones((4, 3)), {"nosie": None}, "^method 'sift' has no setting 'nosie'"),
        (np.ones((2, 3)), np.ones((4, 3)), {"method": "mmr", "nosie": 1}, "^method 'mmr' has no setting 'nosie'"),
        (np.ones((2, 3)), np.ones((4, 3)), {"query": None}, "no setting 'query'"),
        (None, np.ones((4, 3)), {}, "queries must be"),
    ],
)
def test_bad_input(queries: object, candidates: object, keywords: dict, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        siftlm.select_many(queries, candidates, **keywords)


def test_errors_keep_their_class() -> None:
    queries, candidates = np.eye(3)[:2], np.eye(3)
    for method in ("shift", None):
        with pytest.raises(UnknownName, match=r"^unknown method") as caught:
            siftlm.select_many(queries, candidates, n=2, method=method)
        assert caught.value.name == method
    with pytest.raises(Conflict, match=r"^prompt 0: budget needs costs"):
        siftlm.select_many(queries, candidates, n=2, budget=3.0)
    with pytest.raises(InvalidInput, match=r"^prompt 0: ") as wrong:
        siftlm.select_many(queries, candidates, n=2, until=3.0)
    assert wrong.type is InvalidInput
    assert siftlm.select_many([], candidates, n=2, nosie=1) == []


def test_settings_that_are_none_are_not_given() -> None:
    queries, candidates = vectors(0, 3, 5), vectors(1, 12, 5)
    each = siftlm.select_many(queries, candidates, n=4)
    assert_same(siftlm.select_many(queries, candidates, n=4, until=None, exclude=None), each, 1e-12)


def test_rules_as_dataclasses_and_as_keywords_are_one() -> None:
    queries, candidates = vectors(0, 3, 5), vectors(1, 12, 5)
    for limits, stopping in (
        (Limits(exclude=[0, 1]), Stopping()),
        (Limits(replacement=False), Stopping(until=0.5)),
        (Limits(costs=np.ones(12), budget=3.0), Stopping(min_gain=0.01, at_least=2)),
    ):
        keywords = {**limits.specified(), **dataclasses.asdict(stopping)}
        each = siftlm.select_many(queries, candidates, n=4, **keywords)
        assert_same(siftlm.select_many(queries, candidates, n=4, limits=limits, stopping=stopping), each, 1e-12)
        assert_same([siftlm.select(q, candidates, 4, limits=limits, stopping=stopping) for q in queries], each, 1e-9)
