"""Plain SIFT takes one of several paths by the sizes alone; on both sides of every border the picks are the same."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from effort import examples
from properties import oracle
from properties.follow import check_uncertainty, follow, rounding, run_case, world_of
from properties.worlds import Case, cases
from siftlm import select, select_many
from siftlm.selection import sift_engine
from siftlm.selection.space import GRAM_CANDIDATES_PER_ROW, FeatureSpace

FLOATS = (np.float64, np.float32, np.float16)


def check(case: Case, **options: Any) -> None:
    selection, world = run_case(case, **options), world_of(case)
    error = rounding(case, world)
    follow(selection, world, oracle.sift, error=error, repeats=True)
    check_uncertainty(selection, world, error=error)


@settings(max_examples=examples(40))
@given(case=cases(dtypes=FLOATS, targets=1, picks=12), beyond=st.sampled_from([-1, 0, 1]), exact=st.booleans())
def test_the_gram_matrix_first_or_a_row_a_pick(case: Case, beyond: int, exact: bool) -> None:
    n = max(1, min(case.n, len(case.candidates) // GRAM_CANDIDATES_PER_ROW))
    size = max(n, min(len(case.candidates), GRAM_CANDIDATES_PER_ROW * n + beyond))
    case = case.but(candidates=case.candidates[:size], n=n)
    check(case.but(candidates=case.candidates.astype(np.float64)) if exact else case)


@settings(max_examples=examples(40))
@given(case=cases(dtypes=FLOATS, targets=1, widest=9), beyond=st.sampled_from([-1, 0, 1]))
def test_rows_or_directions(case: Case, beyond: int) -> None:
    most = sift_engine.CANDIDATES_PER_FEATURE * case.candidates.shape[1]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sift_engine, "ROW_GROUP_BYTES", 0)
        check(case.but(candidates=np.resize(case.candidates, (max(case.n, most + beyond), case.candidates.shape[1]))))


@settings(max_examples=examples(60))
@given(case=cases(dtypes=FLOATS, targets=1), once=st.booleans(), seed=st.integers(0, 2**32 - 1))
def test_one_prompt_many_and_the_loop_of_every_method_agree(case: Case, once: bool, seed: int) -> None:
    out = np.flatnonzero(np.random.default_rng(seed).random(len(case.candidates)) < 0.3)
    n = min(case.n, len(case.candidates) - len(out))
    if not n:
        out, n = out[1:], 1
    asked: dict[str, Any] = {"n": n, "noise": case.noise, "normalize": case.normalize, "exclude": out}
    asked["replacement"] = not once
    alone = select(case.query, case.candidates, **asked)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sift_engine, "by_rows", lambda space, n: False)
        general = select(case.query, case.candidates, **asked)
    together = select_many([case.query] * 3, case.candidates, **asked)
    error = rounding(case, world_of(case)) * float(max(general.uncertainty[0], 1e-300))
    for other in (alone, *together):
        assert not np.isin(other.indices, out).any()
        assert not once or len(other.distinct) == n
        np.testing.assert_allclose(other.uncertainty, general.uncertainty, rtol=0, atol=50 * error)


def test_copies_that_rounding_tells_apart_go_by_index() -> None:
    rng = np.random.default_rng(0)
    copies = np.repeat(rng.normal(size=(12, 40)), 5, axis=0) * rng.uniform(0.5, 2, size=(60, 1))
    prompts, vectors = rng.normal(size=(20, 40)), copies.astype(np.float32)
    for found in (
        [select(prompt, vectors, 30, noise=0.01) for prompt in prompts],
        select_many(prompts, vectors, 30, noise=0.01),
    ):
        assert all(index % 5 == 0 for one in found for index in one.indices)


def test_float32_keeps_what_its_scans_are_worth() -> None:
    """What is kept of each candidate is as wide as the scans; the picks and their figures are those of float64."""
    rng = np.random.default_rng(3)
    vectors = rng.normal(size=(400, 96)) + 0.7 * rng.normal(size=(8, 96))[rng.integers(8, size=400)]
    query = vectors[:9].mean(axis=0)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    short, exact = (select(query, vectors.astype(kind), 60, noise=0.01) for kind in (np.float32, np.float64))
    assert short.indices.tolist() == exact.indices.tolist()
    np.testing.assert_allclose(short.uncertainty, exact.uncertainty, rtol=0, atol=1e-6)
    for kind, normalize, state in (
        (np.float32, True, np.float32),
        (np.float32, False, np.float64),
        (np.float64, True, np.float64),
    ):
        space = FeatureSpace(vectors.astype(kind), query[None], normalize=normalize, noise=0.01)
        assert space.state_type is state
