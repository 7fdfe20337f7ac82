"""Picks in blocks: those of the plain loop, whatever the limits, and also where a block has to be taken back."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from effort import examples
from properties import oracle
from siftlm import select
from siftlm.picking.choose import Candidates, Chosen, choose
from siftlm.picking.quotas import SourceLimits, SourceQuota
from siftlm.selection import posterior, trace
from siftlm.selection.posterior import FeaturePosterior
from siftlm.selection.problem import find_method
from siftlm.selection.selectors import sift
from siftlm.selection.selectors.sift import Block, BlockSize
from siftlm.selection.space import space_of
from siftlm.selection.trace import TracePosterior

NO_BLOCKS = 1 << 60


class Made(list[Block]):
    """The blocks that a selection has made."""

    @property
    def dropped(self) -> int:
        return sum(block.dropped for block in self)

    @property
    def kept(self) -> int:
        return sum(len(block.picks) for block in self)


def in_blocks(patch: pytest.MonkeyPatch, *, picks: int = 6, best: int = 5, refresh: int = 2048) -> Made:
    """From now on blocks are so small; returns a list that will hold them."""
    patch.setattr(sift, "BLOCKS_MIN_CANDIDATES", 1)
    patch.setattr(sift, "BLOCKS_MIN_TARGETS", 1)
    patch.setattr(sift, "FIRST_BLOCK_PICKS", min(picks, 3))
    patch.setattr(sift, "MAX_BLOCK_PICKS", picks)
    patch.setattr(sift, "MIN_BEST", min(best, 2))
    patch.setattr(sift, "MAX_BEST", best)
    patch.setattr(sift, "CANDIDATES_PER_BEST", 1)
    patch.setattr(trace, "MANY_PICKS_CANDIDATES", 7)
    patch.setattr(posterior, "REFRESH_EVERY", refresh)
    made, after = Made(), BlockSize.after

    def noted(size: BlockSize, block: Block) -> BlockSize:
        made.append(block)
        return after(size, block)

    patch.setattr(BlockSize, "after", noted)
    return made


def limits_of(draw: np.random.Generator, size: int) -> dict[str, Any]:
    """Some of the limits of `select`."""
    limits: dict[str, Any] = {"replacement": [None, False, 2][int(draw.integers(3))]}
    if draw.random() < 0.5:
        limits["prior"] = draw.random(size) * (draw.random(size) < 0.9)
    if draw.random() < 0.5:
        limits["costs"] = draw.integers(1, 9, size).astype(float)
        if draw.random() < 0.5:
            limits["budget"] = 60.0
    if draw.random() < 0.5:
        limits |= {"sources": draw.integers(0, 4, size).tolist(), "source_cap": 5}
    if draw.random() < 0.5:
        limits["exclude"] = np.flatnonzero(draw.random(size) < 0.3)
    if draw.random() < 0.3:
        limits["until"] = 0.3
    return limits


@settings(max_examples=examples(80))
@given(
    st.integers(0, 10**6),
    st.integers(1, 9),
    st.sampled_from([1e-4, 0.01, 1.0, 30.0]),
    st.integers(2, 9),
    st.integers(1, 12),
)
def test_picks_are_those_of_the_plain_loop(seed, targets, noise, picks, best):
    draw = np.random.default_rng(seed)
    size, width = int(draw.integers(12, 60)), int(draw.integers(2, 7))
    vectors, query = draw.normal(size=(size, width)), draw.normal(size=(targets, width))
    vectors[size // 2 :][draw.random(size - size // 2) < 0.2] = vectors[0]  # copies tie
    known = draw.normal(size=(2, width)) if draw.random() < 0.3 else None
    limits = limits_of(draw, size)
    n = None if "budget" in limits else min(15, size - len(limits.get("exclude", ())))

    def selected():
        return select(query, vectors, n, noise=noise, known=known, **limits)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sift, "BLOCKS_MIN_CANDIDATES", NO_BLOCKS)
        plain = selected()
        made = in_blocks(patch, picks=picks, best=best)
        block = selected()
    assert made or len(plain) <= 1
    assert block.indices.tolist() == plain.indices.tolist()
    np.testing.assert_allclose(block.gains, plain.gains, rtol=1e-6, atol=1e-9 * plain.gains.max(initial=0.0))
    np.testing.assert_allclose(block.uncertainty, plain.uncertainty, atol=1e-10)
    assert block.stopped == plain.stopped


@settings(max_examples=examples(25))
@given(st.integers(0, 10**6), st.sampled_from([0.01, 1.0]), st.booleans())
def test_each_pick_is_the_best_by_the_full_covariance_matrix(seed, noise, weighted):
    draw = np.random.default_rng(seed)
    vectors, query = draw.normal(size=(40, 6)).astype(np.float32), draw.normal(size=(5, 6))
    weights = draw.uniform(0.5, 2, 40) if weighted else None
    with pytest.MonkeyPatch.context() as patch:
        made = in_blocks(patch)
        selection = select(query, vectors, 20, noise=noise, prior=weights, replacement=False)
    assert made.kept > 0
    world, picks = oracle.world(query, vectors, noise=noise), []
    for index in selection.indices.tolist():
        scores = oracle.sift(world, picks) * (1.0 if weights is None else weights)
        scores[picks] = -np.inf
        assert scores[index] >= scores.max() * (1 - 1e-3)
        picks.append(index)


def test_a_block_is_taken_back_where_gains_have_grown(monkeypatch):
    """Two texts may say little about a prompt alone and much together: small noise makes that common."""
    draw = np.random.default_rng(1)
    vectors, query = draw.normal(size=(300, 12)), draw.normal(size=(4, 12))
    monkeypatch.setattr(sift, "BLOCKS_MIN_CANDIDATES", NO_BLOCKS)
    plain = select(query, vectors, 60, noise=1e-4, replacement=False)
    made = in_blocks(monkeypatch, picks=8, best=20)
    block = select(query, vectors, 60, noise=1e-4, replacement=False)
    assert block.indices.tolist() == plain.indices.tolist()
    assert made.dropped >= 3
    assert made.kept > 20
    assert sum(1 + len(one.picks) for one in made) >= 59


def test_no_block_is_taken_back_where_the_best_are_all(monkeypatch):
    draw = np.random.default_rng(2)
    made = in_blocks(monkeypatch, picks=8, best=50)
    monkeypatch.setattr(sift, "MIN_BEST", 50)
    select(draw.normal(size=(4, 6)), draw.normal(size=(50, 6)), 30, noise=0.01)
    assert made.dropped == 0
    assert made.kept > 20


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_prepared_picks_are_those_that_are_observed_one_by_one(dtype):
    draw = np.random.default_rng(0)
    vectors, query = draw.normal(size=(90, 5)).astype(dtype), draw.normal(size=(7, 5))
    space = space_of(vectors, query, kernel=None, normalize=True, noise=0.1)
    ahead, single, rows = TracePosterior(space, 0.1), TracePosterior(space, 0.1), FeaturePosterior(space, 0.1)
    part = ahead.part(np.array([3, 8, 20, 61]))
    updates = [part.rehearse(at) for at in (2, 0, 2, 3, 1)]
    assert ahead.prepare(updates, None) == 5
    before = ahead.trace_gain().copy()
    for index in (20, 3, 20, 61, 8):
        assert ahead.trace_gain().tolist() == before.tolist()
        assert ahead.look(index)[1:] == single.look(index)[1:]
        for one in (ahead, single, rows):
            one.observe(index)
    within = 1e-12 if dtype is np.float64 else 1e-5
    for one in (single, rows):
        np.testing.assert_allclose(ahead.trace_gain(), one.trace_gain(), atol=within)
        np.testing.assert_allclose(ahead.variance, one.variance, atol=within)
    np.testing.assert_allclose(part.trace_gain(), ahead.trace_gain()[[3, 8, 20, 61]], atol=within)


# --- training sets


def candidates_of(draw: np.random.Generator, dtype: Any, *, size: int = 80) -> Candidates:
    """A pool of three sources with a budget for each."""
    labels, costs = draw.integers(0, 3, size), draw.integers(1, 9, size).astype(float)
    quota = SourceQuota.of({"source": {"a": 0.4, "b": 0.2, "c": 6}})

    def limits() -> SourceLimits:
        return SourceLimits(quota, ["a", "b", "c"], labels, n=None, costs=costs, budget=150.0)

    vectors, targets = draw.normal(size=(size, 5)).astype(dtype), draw.normal(size=(int(draw.integers(1, 8)), 5))
    return Candidates(vectors, targets, draw.random(size) < 0.9, 0.1, draw.random(size), costs, 150.0, limits)


@settings(max_examples=examples(25))
@given(st.integers(0, 10**6), st.sampled_from([np.float32, np.float64]))
def test_a_choice_goes_on_in_blocks_bit_for_bit(seed, dtype):
    candidates, kept = candidates_of(np.random.default_rng(seed), dtype), []
    with pytest.MonkeyPatch.context() as patch:
        made = in_blocks(patch, refresh=8)
        whole = choose(candidates, None, find_method("sift"), keep=kept.append)
        assert made.kept > 0
        assert kept or len(whole.indices) < 8
        for begun in kept:
            later = choose(candidates, None, find_method("sift"), begun=begun)
            assert later.indices.tolist() == whole.indices.tolist()
            assert later.gains.tolist() == whole.gains.tolist()
            np.testing.assert_allclose(later.uncertainty, whole.uncertainty, atol=1e-12)
            assert later.stopped == whole.stopped


@settings(max_examples=examples(25))
@given(st.integers(0, 10**6))
def test_a_choice_with_quotas_is_that_of_the_plain_loop(seed):
    candidates = candidates_of(np.random.default_rng(seed), np.float64)
    watched: list[int] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sift, "BLOCKS_MIN_CANDIDATES", NO_BLOCKS)
        plain: Chosen = choose(candidates, None, find_method("sift"))
        in_blocks(patch)
        block = choose(candidates, None, find_method("sift"), watch=watched.append)
    assert block.indices.tolist() == plain.indices.tolist()
    np.testing.assert_allclose(block.gains, plain.gains, rtol=1e-6)
    np.testing.assert_allclose(block.uncertainty, plain.uncertainty, atol=1e-10)
    assert watched == list(range(1, len(plain.indices) + 1))
