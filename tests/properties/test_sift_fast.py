"""SIFT-Fast: what it certifies is true, and where nothing can grow it is SIFT."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from effort import examples
from properties import oracle
from properties.follow import check_uncertainty, rounding, run_case, world_of
from properties.worlds import Case, cases
from siftlm import Selection, select


def check_certificates(selection: Selection, world: oracle.World, error: float, **limits: Any) -> None:
    """Every certified pick is one that SIFT could have made after the picks before it."""
    assert selection.certified is not None
    assert selection.certified.shape == selection.indices.shape
    weight = limits.get("weight", 1.0)
    blocked = limits.get("blocked", [])
    largest, picks = 0.0, list[int]()
    for pick, certain in zip(selection.indices.tolist(), selection.certified.tolist(), strict=True):
        gains = np.asarray(oracle.sift(world, picks), dtype=np.float64)
        largest = max(largest, gains.max() * np.max(weight))
        scores = gains * weight
        scores[blocked] = -np.inf
        assert pick not in blocked
        if certain:
            assert scores[pick] >= scores.max() - error * largest, "the certificate lied"
        picks.append(pick)


@pytest.mark.slow
@settings(max_examples=examples(150))
@given(cases(dtypes=(np.float64, np.float32), most=60))
def test_the_certificate_never_lies(case: Case) -> None:
    fast, world = run_case(case, method="sift-fast"), world_of(case)
    error = rounding(case, world)
    check_certificates(fast, world, error)
    check_uncertainty(fast, world, error=error)
    np.testing.assert_allclose(
        fast.gains, -np.diff(fast.uncertainty), rtol=0, atol=error * max(fast.uncertainty[0], 1e-300)
    )


@settings(max_examples=examples(60))
@given(cases(most=40, widest=10), st.integers(0, 2**32 - 1))
def test_the_certificate_never_lies_within_limits(case: Case, seed: int) -> None:
    rng = np.random.default_rng(seed)
    size, width = case.candidates.shape
    weight = rng.choice([0.2, 1.0, 3.0], size=size)
    blocked = np.flatnonzero(rng.random(size) < 0.3)[: size - 1].tolist()
    known = rng.normal(size=(int(rng.integers(0, 4)), width))
    n = min(case.n, size - len(blocked))
    fast = run_case(case.but(n=n), method="sift-fast", prior=weight, exclude=blocked, known=known)
    world = world_of(case, known=known)
    prior = world.before_anything().uncertainty([])
    error = rounding(case, world) * max(1.0, prior / max(world.uncertainty([]), 1e-300))
    check_certificates(fast, world, min(error, 1e-2), weight=weight, blocked=blocked)
    check_uncertainty(fast, world, error=error)


@settings(max_examples=examples(100))
@given(cases(most=60))
def test_all_steps_certified_is_sift(case: Case) -> None:
    fast, exact = run_case(case, method="sift-fast"), run_case(case)
    assert fast.certified is not None
    if fast.certified.all():
        error = rounding(case, world_of(case))
        np.testing.assert_allclose(
            fast.uncertainty,
            exact.uncertainty,
            rtol=0,
            atol=2 * len(fast) * error * max(exact.uncertainty[0], 1e-300),
        )


@pytest.mark.parametrize("noise", [1e-6, 1e-2, 1.0])
@pytest.mark.parametrize("m", [1, 3])
@pytest.mark.parametrize("seed", range(5))
def test_on_orthogonal_candidates_it_is_sift(noise: float, m: int, seed: int) -> None:
    """Nothing that is picked can make an orthogonal one worth more."""
    rng = np.random.default_rng(seed)
    basis = np.linalg.qr(rng.normal(size=(40, 40)))[0][:30]
    query = rng.normal(size=(m, 40))
    fast, exact = (select(query, basis, 25, noise=noise, method=name) for name in ("sift-fast", "sift"))
    assert fast.indices.tolist() == exact.indices.tolist()
    np.testing.assert_allclose(fast.gains, exact.gains, rtol=0, atol=1e-8)


@pytest.mark.slow
def test_two_texts_that_only_help_together() -> None:
    """Where lazy is wrong: after the first of a pair the second gains, and the stale bound is blind to it."""
    seen_wrong = False
    for seed in range(30):
        rng = np.random.default_rng(seed)
        shared = rng.normal(size=12)
        query = rng.normal(size=12)
        pair = np.stack([query + 3 * shared, query - 3 * shared, -query + 3.1 * shared])
        candidates = np.concatenate([pair, query * 0.6 + rng.normal(size=(80, 12))])
        fast = select(query, candidates, 6, noise=1e-3, method="sift-fast")
        exact = select(query, candidates, 6, noise=1e-3)
        check_certificates(fast, oracle.world(query, candidates, noise=1e-3), 1e-8)
        differs = fast.indices.tolist() != exact.indices.tolist()
        seen_wrong |= differs
        if differs:
            assert fast.certified is not None
            first = int(np.argmax(fast.indices != exact.indices))
            assert not fast.certified[first], "a pick that differs from SIFT's was certified"
    assert seen_wrong, "the example no longer shows the difference"
