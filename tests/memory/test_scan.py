"""The scan against its definition: sort all scores, take the best that are allowed."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from effort import examples
from siftlm.memory import Neighbours, scan, vectors
from siftlm.memory.vectors import STORAGES, TopK, VectorFormat

FORMS = st.sampled_from(STORAGES)


def units(seed: int, n: int, width: int) -> npt.NDArray[np.float32]:
    found: npt.NDArray[np.float32] = vectors.unit_rows(np.random.default_rng(seed).standard_normal((n, width)))
    return found


def slowly(scores: npt.NDArray[Any], k: int, allowed: npt.NDArray[np.bool_] | None) -> list[int]:
    """The k best of one query; equal scores go to the smaller row."""
    rows = range(len(scores)) if allowed is None else np.flatnonzero(allowed).tolist()
    return sorted(rows, key=lambda row: (-scores[row], row))[:k]


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a few rows are many blocks."""
    monkeypatch.setattr(scan, "DECODED_BLOCK_BYTES", 1000)
    monkeypatch.setattr(scan, "MAPPED_BLOCK_BYTES", 3000)
    monkeypatch.setattr(scan, "MAX_KEPT_SCORES", 700)


def check(found: list[Neighbours], scores: npt.NDArray[Any], k: int, allowed: npt.NDArray[np.bool_] | None) -> None:
    for one, own in zip(found, scores, strict=True):
        expected = slowly(own, k, allowed)
        # Rounding may swap scores that are nearly equal: the scores must agree, and belong to their rows.
        assert len(one.ids) == len(expected) == len(set(one.ids.tolist()))
        np.testing.assert_allclose(one.scores, own[expected], atol=2e-6)
        np.testing.assert_allclose(one.scores, own[one.ids], atol=2e-6)
        if allowed is not None:
            assert allowed[one.ids].all()


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("share", [None, 0.0, 0.05, 0.6, 1.0])
@pytest.mark.parametrize("count", [1, 2, 9])
def test_the_scan_finds_what_sorting_finds(storage: str, share: float | None, count: int) -> None:
    form = VectorFormat(storage, 12)
    stored = form.encode(units(1, 500, 12))
    allowed = None if share is None else np.random.default_rng(2).random(500) < share
    queries = units(3, count, 12)
    scores = queries.astype(np.float64) @ form.decode(stored).astype(np.float64).T
    for k in (1, 7, 200, 500, 5000):
        check(scan.nearest(stored, form, queries, k, allowed), scores, k, allowed)


@settings(max_examples=examples(60), deadline=None)
@given(st.data(), FORMS)
def test_equal_scores_go_to_the_smaller_row(data: st.DataObject, storage: str) -> None:
    """Vectors along the axes: all products are exact, and most of them equal."""
    form = VectorFormat(storage, 4)
    n = data.draw(st.integers(0, 60))
    axes = data.draw(st.lists(st.integers(0, 3), min_size=n, max_size=n))
    signs = np.array(data.draw(st.lists(st.sampled_from([-1.0, 1.0]), min_size=n, max_size=n)))
    rows = np.eye(4, dtype=np.float32)[axes] * signs[:, None] if n else np.zeros((0, 4), np.float32)
    allowed = np.array(data.draw(st.lists(st.booleans(), min_size=n, max_size=n)), dtype=np.bool_)
    mask = data.draw(st.sampled_from([None, allowed]))
    queries = np.eye(4, dtype=np.float32)[data.draw(st.lists(st.integers(0, 3), min_size=1, max_size=7))]
    queries = queries * np.float32(data.draw(st.sampled_from([-1.0, 1.0])))
    k = data.draw(st.integers(1, 70))
    stored = form.encode(rows.astype(np.float32))
    found = scan.nearest(stored, form, queries, k, mask)
    for one, scores in zip(found, queries @ rows.T, strict=True):
        assert one.ids.tolist() == slowly(scores, k, mask)


@pytest.mark.usefixtures("small_blocks")
def test_a_query_and_its_opposite_share_a_product_and_keep_their_answers() -> None:
    form = VectorFormat("float32", 8)
    rows, queries = units(1, 300, 8), units(2, 3, 8)
    queries[0, 3] = 0.0  # whose opposite is −0
    asked = np.concatenate([queries, -queries, queries[:1]])
    shared = scan._distinct_queries(asked)
    assert len(shared.directions) == 3
    signs = np.where(shared.opposite, -1.0, 1.0)[:, None]
    np.testing.assert_array_equal(shared.directions[shared.direction] * signs, asked)
    allowed = np.random.default_rng(3).random(300) < 0.7
    for mask in (None, allowed):
        check(scan.nearest(rows, form, asked, 20, mask), asked.astype(np.float64) @ rows.T, 20, mask)


def test_the_queries_are_left_as_they_are() -> None:
    rows, queries = units(1, 50, 8), units(2, 2, 8)
    before, kept = queries.copy(), rows.copy()
    scan.nearest(rows, VectorFormat("float32", 8), np.concatenate([queries, -queries]), 5, np.arange(50) % 2 == 0)
    np.testing.assert_array_equal(queries, before)
    np.testing.assert_array_equal(rows, kept)


def test_no_queries_and_no_rows_are_no_error() -> None:
    form = VectorFormat("float32", 8)
    assert scan.nearest(units(1, 5, 8), form, np.zeros((0, 8), np.float32), 3, None) == []
    (one,) = scan.nearest(np.zeros((0, 8), np.float32), form, units(1, 1, 8), 3, None)
    assert len(one.ids) == len(one.scores) == 0


@settings(max_examples=examples(100), deadline=None)
@given(st.data())
def test_the_best_over_blocks_are_the_best_of_all(data: st.DataObject) -> None:
    """Whole numbers as scores, so that there are ties in every block and across blocks."""
    blocks = data.draw(st.lists(st.integers(0, 40), min_size=1, max_size=8))
    k = data.draw(st.integers(1, 50))
    values = st.one_of(st.integers(-3, 3).map(float), st.just(-np.inf))
    best, first, scores = TopK(1, k), 0, np.zeros(0, np.float32)
    for size in blocks:
        block = np.array(data.draw(st.lists(values, min_size=size, max_size=size)), dtype=np.float32)
        best.take(0, block, first)
        scores, first = np.concatenate([scores, block]), first + size
    rows, found = best.best(0)
    assert rows.tolist() == slowly(scores, k, scores > -np.inf)
    np.testing.assert_array_equal(found, scores[rows])


def test_every_finite_half_is_decoded_as_numpy_does() -> None:
    halves = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    halves = halves[np.isfinite(halves)].reshape(-1, 64)
    wide = VectorFormat("float16", 64).decode(halves)
    np.testing.assert_array_equal(wide.view(np.uint32), halves.astype(np.float32).view(np.uint32))
