"""SIFT against the oracle: every form of the posterior, precision and kernel, up to the edges of λ."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from effort import examples
from properties import oracle
from properties.follow import check_uncertainty, follow, rounding, run_case, world_of
from properties.worlds import Array, Case, cases
from siftlm import Gram, kernels, select
from siftlm.selection import posterior, problem, sift_engine

FLOATS = (np.float64, np.float32, np.float16)


def check(case: Case, **options: Any) -> None:
    selection, world = run_case(case, **options), world_of(case)
    error = rounding(case, world)
    follow(selection, world, oracle.sift, error=error, repeats=True)
    check_uncertainty(selection, world, error=error)
    assert len(selection) == case.n
    assert selection.stopped == "n"
    np.testing.assert_allclose(
        selection.gains,
        -np.diff(selection.uncertainty),
        rtol=0,
        atol=error * max(selection.uncertainty[0], 1e-300),
    )


@settings(max_examples=examples(150))
@given(cases())
def test_float64_is_the_oracle(case: Case) -> None:
    check(case)


@settings(max_examples=examples(100))
@given(cases(dtypes=(np.float32, np.float16)))
def test_short_floats_are_the_oracle(case: Case) -> None:
    check(case)


@settings(max_examples=examples(50))
@given(cases(picks=60, widest=6), st.integers(1, 60))
def test_more_picks_than_features_and_candidates(case: Case, more: int) -> None:
    check(case.but(n=case.n + more), replacement=True)


ROWS: Callable[..., Any] = lambda space, noise, expected, trace_only=False: posterior.RowPosterior(  # noqa: E731
    space, noise, expected
)
FEATURES: Callable[..., Any] = lambda space, noise, expected, trace_only=False: posterior.FeaturePosterior(  # noqa: E731
    space, noise, trace_only=trace_only
)


def in_general(patch: pytest.MonkeyPatch, form: Callable[..., Any]) -> None:
    """In the loop of every method, with this form of the posterior, never in the loop that plain SIFT has."""
    patch.setattr(sift_engine, "by_rows", lambda space, n: False)
    patch.setattr(problem, "posterior_of", form)


@pytest.mark.parametrize("form", [ROWS, FEATURES], ids=["rows", "features"])
@settings(max_examples=examples(60))
@given(case=cases(dtypes=FLOATS))
def test_either_form_is_the_oracle(case: Case, form: Callable[..., Any]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        in_general(patch, form)
        check(case)


@pytest.mark.parametrize("every", [1, 2, 7])
@settings(max_examples=examples(40))
@given(case=cases(widest=5, picks=40))
def test_refreshing_changes_nothing(case: Case, every: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        in_general(patch, FEATURES)
        patch.setattr(posterior, "REFRESH_EVERY", every)
        check(case.but(n=case.n + 6), replacement=True)


@settings(max_examples=examples(40))
@given(cases(widest=6, targets=1), st.integers(7, 40))
def test_more_targets_than_features(case: Case, m: int) -> None:
    query = np.random.default_rng(m).normal(size=(m, case.candidates.shape[1]))
    check(case.but(query=query))


# --- hundreds of near-duplicates with a tiny λ: where careless accumulations break


@pytest.mark.slow
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("form", [ROWS, FEATURES], ids=["rows", "features"])
@pytest.mark.parametrize(
    "distance",
    [0, pytest.param(1e-7, marks=pytest.mark.slow), 1e-4, pytest.param(1e-2, marks=pytest.mark.slow)],
)
def test_hundreds_of_near_duplicates(
    dtype: Any, form: Callable[..., Any], distance: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(5)
    centres = rng.normal(size=(2, 24))
    candidates = centres[rng.integers(2, size=300)] + distance * rng.normal(size=(300, 24))
    case = Case(centres.sum(axis=0) + rng.normal(size=24), candidates.astype(dtype), 120, 1e-8)
    in_general(monkeypatch, form)
    check(case)


# --- kernels


def plain(x: Array, y: Array) -> Array:
    """A kernel that the package has never heard of."""
    return np.exp(-((x[:, None, :] - y[None, :, :]) ** 2).sum(axis=2))


def oracle_kernels(case: Case) -> dict[str, tuple[Any, Callable[[Array, Array], Array]]]:
    rows = oracle.unit(case.candidates) if case.normalize else case.candidates.astype(oracle.WIDE)
    given_mean = rows[0] / 2 + 0.1
    linear = oracle.linear
    return {
        "linear": (kernels.linear(), linear),
        "centred": (kernels.centred(), oracle.centred_on(rows.mean(axis=0))),
        "centred on": (kernels.centred(given_mean.astype(np.float64)), oracle.centred_on(given_mean)),
        "power": (kernels.power(3), lambda x, y: linear(x, y) ** 3),
        "rbf": (kernels.rbf(0.5), lambda x, y: np.exp(-((x[:, None, :] - y[None, :, :]) ** 2).sum(axis=2) / 2)),
        "plus constant": (kernels.plus_constant(0.7), lambda x, y: linear(x, y) + oracle.WIDE(0.7)),
        "power of plus": (
            kernels.power(2, kernels.plus_constant(1.0)),
            lambda x, y: (linear(x, y) + 1) ** 2,
        ),
        "plus of power": (
            kernels.plus_constant(0.5, kernels.power(4)),
            lambda x, y: linear(x, y) ** 4 + oracle.WIDE(0.5),
        ),
        "function": (plain, plain),
    }


@pytest.mark.parametrize("name", list(oracle_kernels(Case(np.ones(2), np.ones((1, 2)), 1, 1.0))))
@settings(max_examples=examples(30))
@given(case=cases(dtypes=FLOATS, most=25, picks=20, scaled=False))
def test_kernels(name: str, case: Case) -> None:
    kernel, truth = oracle_kernels(case)[name]
    world = oracle.world(case.query, case.candidates, noise=case.noise, kernel=truth)
    if name.startswith("centred") and not centring_is_clear(case, kernel):
        return
    selection = run_case(case, kernel=kernel)
    if name != "linear":  # all others are computed in float64 whatever comes in
        case = case.but(candidates=case.candidates.astype(np.float64))
    error = rounding(case, world)
    if name.startswith("centred"):
        error *= 1e3  # the length that is divided out may be short
    follow(selection, world, oracle.sift, error=error, repeats=True)
    check_uncertainty(selection, world, error=error)


def centring_is_clear(case: Case, kernel: Any) -> bool:
    """Vectors that all but equal the mean have no direction that rounding would not change."""
    unit = oracle.unit(case.candidates)
    mean = unit.mean(axis=0) if kernel.mean is None else np.array(kernel.mean)
    lengths = np.sqrt(((np.concatenate([unit, oracle.unit(case.query)]) - mean) ** 2).sum(axis=1))
    return bool(((lengths > 1e-2) | (lengths == 0)).all())


@settings(max_examples=examples(50))
@given(cases(most=30, picks=20))
def test_gram_is_what_the_vectors_are(case: Case) -> None:
    world = world_of(case)
    k, m = len(world.candidates), len(world.targets)
    joint = world.joint.astype(np.float64)
    given_gram = Gram(joint[:k, :k], joint[k:, k:])
    cross = joint[k:, :k]
    selection = select(cross[0] if m == 1 else cross, given_gram, case.n, noise=case.noise)
    error = rounding(case, world)
    follow(selection, world, oracle.sift, error=error, repeats=True)
    check_uncertainty(selection, world, error=error)


def test_gram_of_one_target_may_leave_out_its_variance() -> None:
    picked = select([0.5, 0.9], Gram(np.eye(2)), 1, noise=0.5)
    assert picked.indices.tolist() == [1]
    np.testing.assert_allclose(picked.uncertainty, [1, 1 - 0.81 / 1.5])
