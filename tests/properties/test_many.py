"""Many prompts at once are the same as one after the other."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from effort import examples
from properties import oracle
from properties.follow import check_uncertainty, follow, rounding, world_of
from properties.worlds import Case, cases, draw_rows
from siftlm import Selection, select, select_many
from siftlm.errors import InvalidInput


def check(found: list[Selection], asked: list[Case]) -> None:
    assert len(found) == len(asked)
    for selection, case in zip(found, asked, strict=True):
        world = world_of(case)
        error = rounding(case, world)
        assert len(selection) == case.n
        follow(selection, world, oracle.sift, error=error, repeats=True)
        check_uncertainty(selection, world, error=error)
        assert (selection.method, selection.noise, selection.stopped) == ("sift", case.noise, "n")


@settings(max_examples=examples(80))
@given(
    case=cases(dtypes=(np.float64, np.float32, np.float16), targets=1, most=40, picks=15),
    prompts=st.integers(1, 6),
    seed=st.integers(0, 2**32 - 1),
)
def test_candidates_shared_by_all(case: Case, prompts: int, seed: int) -> None:
    queries = draw_rows(np.random.default_rng(seed), "gaussian", prompts, len(case.query))
    asked = [case.but(query=query) for query in [case.query, *queries]]
    found = select_many(
        np.array([one.query for one in asked]),
        case.candidates,
        case.n,
        noise=case.noise,
        normalize=case.normalize,
    )
    check(found, asked)


@settings(max_examples=examples(60))
@given(
    case=cases(dtypes=(np.float64, np.float32), targets=1, most=40, picks=15),
    seed=st.integers(0, 2**32 - 1),
    once=st.booleans(),
)
def test_candidates_shared_by_all_without_some(case: Case, seed: int, once: bool) -> None:
    generator = np.random.default_rng(seed)
    size = len(case.candidates)
    out = np.flatnonzero(generator.random(size) < 0.4)
    n = min(case.n, size - len(out))
    if not n:
        out, n = out[1:], 1
    queries = [case.query, *draw_rows(generator, "gaussian", 2, len(case.query))]
    asked = {"noise": case.noise, "normalize": case.normalize, "exclude": out}
    if once:
        asked["replacement"] = False
    together = select_many(queries, case.candidates, n, **asked)
    for query, one in zip(queries, together, strict=True):
        alone = select(query, case.candidates, n, **asked)
        assert not np.isin(one.indices, out).any()
        assert not once or len(one.distinct) == n
        np.testing.assert_allclose(one.uncertainty, alone.uncertainty, rtol=1e-5, atol=1e-6)


@settings(max_examples=examples(40))
@given(st.lists(cases(dtypes=(np.float64, np.float32), targets=1, most=25, widest=5, picks=10), min_size=1, max_size=4))
def test_candidates_of_their_own_picked_once(many: list[Case]) -> None:
    n, asked = min(one.n for one in many), {"noise": many[0].noise, "replacement": False}
    together = select_many([one.query for one in many], [one.candidates for one in many], n, **asked)
    for one, selection in zip(many, together, strict=True):
        alone = select(one.query, one.candidates, n, **asked)
        assert len(selection.distinct) == n
        np.testing.assert_allclose(selection.uncertainty, alone.uncertainty, rtol=1e-5, atol=1e-6)


@settings(max_examples=examples(80))
@given(st.lists(cases(dtypes=(np.float64, np.float32), targets=1, most=25, widest=5, picks=10), min_size=1, max_size=5))
def test_candidates_of_their_own(many: list[Case]) -> None:
    first = many[0]
    n = min(one.n for one in many)
    asked = [one.but(n=n, noise=first.noise, normalize=first.normalize) for one in many]
    found = select_many(
        [one.query for one in asked],
        [one.candidates for one in asked],
        n,
        noise=first.noise,
        normalize=first.normalize,
    )
    check(found, asked)


SETTINGS: list[dict[str, Any]] = [
    {},
    {"method": "vtl"},
    {"method": "nearest"},
    {"method": "itl"},
    {"replacement": False},
    {"exclude": [0, 3]},
    {"adaptive": 0.5},
    {"until": 0.5, "at_least": 2},
    {"costs": np.linspace(1, 2, 30), "budget": 9.0},
    {"known": np.eye(6)[:2]},
    {"kernel": lambda x, y: (x @ y.T) ** 3},
    {"method": "random", "seed": 5},
]


@pytest.mark.parametrize("given_ones", SETTINGS, ids=lambda given: "-".join(given) or "none")
@pytest.mark.parametrize("m", [1, 3])
def test_settings_reach_every_prompt(given_ones: dict[str, Any], m: int) -> None:
    rng = np.random.default_rng(9)
    queries = rng.normal(size=(5, m, 6)) if m > 1 else rng.normal(size=(5, 6))
    candidates = rng.normal(size=(30, 6))
    together = select_many(queries, candidates, 8, noise=0.1, **given_ones)
    for query, found in zip(queries, together, strict=True):
        alone = select(query, candidates, 8, noise=0.1, **given_ones)
        assert found.indices.tolist() == alone.indices.tolist()
        np.testing.assert_allclose(found.uncertainty, alone.uncertainty, atol=1e-12)
        np.testing.assert_allclose(found.gains, alone.gains, atol=1e-12)
        assert found.stopped == alone.stopped
        assert str(found.explain()) == str(alone.explain())


def test_no_prompts_no_answers() -> None:
    assert select_many([], np.eye(3)) == []
    assert select_many(np.zeros((0, 3)), np.eye(3)) == []


def test_more_prompts_than_fit_at_once() -> None:
    rng = np.random.default_rng(0)
    queries, candidates = rng.normal(size=(300, 8)), rng.normal(size=(50, 8)).astype(np.float32)
    together = select_many(queries, candidates, 12, noise=0.1)
    for at in range(0, 300, 23):
        alone = select(queries[at], candidates, 12, noise=0.1)
        np.testing.assert_allclose(together[at].uncertainty, alone.uncertainty, atol=1e-6)


@pytest.mark.parametrize(
    ("queries", "candidates", "settings", "needle"),
    [
        ([[1.0, 0], [np.nan, 0]], np.eye(2), {}, "nan"),
        ([[1.0, 0], [0.0, 0]], np.eye(2), {}, "zero"),
        ([[1.0, 0], [1.0, 0, 0]], np.eye(2), {}, "width 3"),
        ([[1.0, 0]], np.zeros((0, 2)), {}, "empty"),
        ([[1.0, 0]], [[1.0, 0], [0, 0]], {}, "row 1"),
        ([[1.0, 0]], np.eye(2), {"n": 3}, "n=3"),
        ([[1.0, 0]], np.eye(2), {"n": 0}, "n"),
        ([[1.0, 0]], np.eye(2), {"noise": 0}, "noise"),
        ([[1.0, 0]], np.eye(2), {"noise": np.nan}, "noise"),
        ([[1.0, 0]], np.eye(2), {"normalize": "no"}, "normalize"),
        ([[1.0, 0]], np.eye(2), {"seed": "x"}, "seed"),
        ([[1.0, 0]], np.eye(2), {"method": "shift"}, "did you mean 'sift'"),
        ([[1.0, 0]], np.eye(2), {"balance": 0.5}, "balance"),
        ([[1.0, 0], [0, 1.0]], [np.eye(2)], {}, "2 queries but 1"),
        ([[1.0, 0], [0, 1.0]], [np.eye(2), np.eye(3)], {}, "width"),
        ([[1.0, 0], [0, 1.0]], [np.eye(2), [[1, np.nan]]], {"n": 1}, "nan"),
        (np.ones((1, 1, 1, 2)), np.eye(2), {}, "(1, 1, 1, 2)"),
        (3.0, np.eye(2), {}, "queries"),
        (None, np.eye(2), {}, "queries"),
        ([[1.0, 0]], None, {}, "candidates"),
        ([[1.0, 0]], 3, {}, "candidates"),
        ([[1e300, 0]], np.eye(2), {}, "overflow"),
    ],
)
def test_bad_input(queries: Any, candidates: Any, settings: dict[str, Any], needle: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        select_many(queries, candidates, **settings)
    assert needle in str(caught.value)
