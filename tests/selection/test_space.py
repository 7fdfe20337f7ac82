"""The three spaces show the same inner products, in every precision and in blocks."""

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
from properties.worlds import Case, cases
from siftlm import Gram, kernels, select
from siftlm.selection import checks, space
from siftlm.selection.gram import GramSpace
from siftlm.selection.space import FeatureSpace, KernelSpace, Space, space_of

FLOATS = (np.float64, np.float32, np.float16)


def feature(case: Case) -> Space:
    return FeatureSpace(case.candidates, np.atleast_2d(case.query), normalize=case.normalize, noise=case.noise)


def pairwise(case: Case) -> Space:
    return KernelSpace(lambda x, y: x @ y.T, case.candidates, np.atleast_2d(case.query), normalize=case.normalize)


def table(case: Case) -> Space:
    joint = world_of(case).joint.astype(np.float64)
    k = len(case.candidates)
    return GramSpace(joint[:k, :k], joint[k:, :k], joint[k:, k:])


def check(made: Space, case: Case) -> None:
    joint = world_of(case).joint.astype(np.float64)
    k = len(case.candidates)
    gram, cross = joint[:k, :k], joint[k:, :k]
    accuracy = {"rtol": 0, "atol": 40 * max(made.rounding, 1e-15) * np.abs(joint).max()}
    exact = {"rtol": 0, "atol": 40e-15 * np.abs(joint).max()}
    rng = np.random.default_rng(k)
    some = rng.integers(k, size=3)
    assert (made.size, made.targets) == (k, len(joint) - k)
    np.testing.assert_allclose(made.diagonal(), np.diagonal(gram), **accuracy)
    np.testing.assert_allclose(made.row(int(some[0])), gram[some[0]], **accuracy)
    np.testing.assert_allclose(made.rows(some), gram[some], **accuracy)
    np.testing.assert_allclose(made.cross(), cross, **accuracy)
    np.testing.assert_allclose(made.target_gram(), joint[k:, k:], **exact)
    loose = accuracy if case.candidates.dtype != np.float64 else exact
    np.testing.assert_allclose(made.among(some, some[:2]), gram[np.ix_(some, some[:2])], **loose)
    np.testing.assert_allclose(made.cross_to(some), cross[:, some], **loose)
    assert made.diagonal().min() >= 0


@pytest.mark.slow
@pytest.mark.parametrize("make", [feature, pairwise, table])
@settings(max_examples=examples(60))
@given(case=cases(dtypes=FLOATS))
def test_inner_products(make: Callable[[Case], Space], case: Case) -> None:
    made = make(case)
    check(made, case)
    made.expect(len(case.candidates))  # from here on the rows may come from elsewhere
    check(made, case)


@pytest.mark.parametrize("make", [feature, pairwise, table])
@given(case=cases(most=20), count=st.integers(1, 20))
def test_everything_as_a_target(make: Callable[[Case], Space], case: Case, count: int) -> None:
    count = min(count, len(case.candidates))
    view = make(case).everything(count)
    check(view, case.but(query=case.candidates[:count]))
    check(make(case), case)


@settings(max_examples=examples(25))
@given(cases(dtypes=FLOATS), st.integers(1, 7))
def test_large_memories_are_converted_in_blocks(case: Case, rows: int) -> None:
    """What does not fit into a float64 copy is converted block by block, with the same numbers."""
    plain = checks.blocks
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(space, "MAX_COPY_BYTES", 0)
        patch.setattr(checks, "blocks", lambda array, rows=rows: plain(array, rows))
        check(feature(case), case)
        selection, world = run_case(case), world_of(case)
        follow(selection, world, oracle.sift, error=rounding(case, world), repeats=True)
        check_uncertainty(selection, world, error=rounding(case, world))


@settings(max_examples=examples(15))
@given(cases(kinds=("gaussian",), noises=(0.01, 1.0)))
def test_large_features_are_kept_in_float32(case: Case) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(space, "MAX_COPY_BYTES", 0)
        short = run_case(case, kernel=kernels.centred())
    exact = run_case(case, kernel=kernels.centred())
    np.testing.assert_allclose(short.uncertainty, exact.uncertainty, atol=1e-3)


def test_nothing_is_copied_that_need_not_be() -> None:
    unit = np.eye(3, dtype=np.float32)
    made = FeatureSpace(unit, np.ones((1, 3)), normalize=True, noise=1.0)
    assert made.vectors is unit
    long = np.random.default_rng(0).normal(size=(9, 3))
    assert FeatureSpace(long, np.ones((1, 3)), normalize=True, noise=1.0).vectors is long


@pytest.mark.parametrize(
    ("noise", "dtype", "scanned"),
    [
        (0.01, np.float32, np.float32),
        (1e-5, np.float32, np.float64),
        (0.01, np.float16, np.float32),
        (1e-5, np.float16, np.float64),
        (0.01, np.float64, np.float64),
    ],
)
def test_small_noise_is_scanned_exactly(noise: float, dtype: Any, scanned: Any) -> None:
    vectors = np.random.default_rng(0).normal(size=(9, 3)).astype(dtype)
    assert FeatureSpace(vectors, np.ones((1, 3)), normalize=True, noise=noise).vectors.dtype == scanned


def test_which_space_for_which_kernel() -> None:
    vectors, query = np.eye(3), np.ones((1, 3))

    def made(kernel: Any) -> Space:
        return space_of(vectors, query, kernel=kernel, normalize=True, noise=0.1)

    for kernel in (None, kernels.linear(), kernels.centred()):
        assert isinstance(made(kernel), FeatureSpace)
    for kernel in (kernels.power(2), kernels.rbf(), kernels.plus_constant(1.0), lambda x, y: x @ y.T):
        assert isinstance(made(kernel), KernelSpace)


def test_a_gram_keeps_its_own_numbers() -> None:
    values = np.eye(3)
    gram = Gram(values)
    values[:] = 7
    assert gram.values.tolist() == np.eye(3).tolist()
    select([0.1, 0.2, 0.3], gram, 3)
    assert gram.values.tolist() == np.eye(3).tolist()


def test_kernels_of_the_same_settings_are_equal() -> None:
    assert kernels.power(2) == kernels.power(2)
    assert kernels.centred([1, 2]) == kernels.centred(np.array([1.0, 2.0]))
    assert kernels.plus_constant(1.0) != kernels.plus_constant(2.0)
    assert "exponent=3" in repr(kernels.power(3))


def test_the_rbf_kernel_of_unit_vectors_is_a_function_of_the_cosine() -> None:
    unit = np.random.default_rng(0).normal(size=(30, 8))
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    np.testing.assert_allclose(kernels.rbf(2.0)(unit, unit), np.exp(4 * (unit @ unit.T - 1)), atol=1e-14)
    assert kernels.named("rbf:2") == kernels.rbf() == kernels.rbf(2.0)
    assert kernels.named(kernels.name_of(kernels.rbf(0.5)) or "") == kernels.rbf(0.5)


def test_rbf_prefers_a_second_text_about_the_prompt_to_one_about_something_else() -> None:
    prompt = np.array([1.0, 0.0, 0.0])
    about, also_about, unrelated = [0.8, 0.6, 0.0], [0.8, 0.3, 0.52], [0.25, -0.7, -0.67]
    texts = np.array([about, also_about, unrelated])
    assert select(prompt, texts, 2, noise=0.01, replacement=False).indices.tolist() == [0, 2]
    assert select(prompt, texts, 2, noise=0.3, kernel=kernels.rbf(), replacement=False).indices.tolist() == [0, 1]


def test_relevance_weights() -> None:
    weights = kernels.relevance(power=2.0, floor=0.5)(np.array([[0.9, -0.1, 0.0], [0.1, -0.8, 0.2]]))
    np.testing.assert_allclose(weights, [0.81, 0.64, 0.25])


@pytest.mark.parametrize("rank", [1, 2])
def test_a_gram_matrix_that_is_no_kernel_breaks_nothing(rank: int) -> None:
    """Symmetric, not positive: no meaning, but numbers."""
    rng = np.random.default_rng(rank)
    values = rng.normal(size=(12, 12))
    values = (values + values.T) / 2 * 3
    np.fill_diagonal(values, 1.0)
    picked = select(rng.uniform(-1, 1, size=12), Gram(values), 12, noise=1e-6)
    assert np.isfinite(picked.gains).all()
    assert np.isfinite(picked.uncertainty).all()
    assert (np.diff(picked.uncertainty) <= 0).all()


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("noise", [1e-8, 2e-3, 0.1])
@pytest.mark.parametrize("method", ["sift", "undirected-vtl"])
def test_more_targets_than_features_and_more_picks(method: str, noise: float, dtype: str) -> None:
    """What is left after many picks is as little as with exact arithmetic, not what rounding leaves of it."""
    generator = np.random.default_rng(0)
    vectors, targets = generator.normal(size=(300, 16)).astype(dtype), generator.normal(size=(24, 16))
    unit = vectors / np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)
    prompt = unit if method != "sift" else targets / np.linalg.norm(targets, axis=1, keepdims=True)

    def left(picked: list[int]) -> float:
        inverse = np.linalg.inv(noise * np.eye(16) + unit[picked].T @ unit[picked])
        return float(noise * np.einsum("ij,jk,ik->", prompt, inverse, prompt))

    greedy: list[int] = []
    for _ in range(60):
        projection = noise * np.linalg.inv(noise * np.eye(16) + unit[greedy].T @ unit[greedy])
        gains = ((unit @ projection @ prompt.T) ** 2).sum(1) / (
            np.einsum("ij,jk,ik->i", unit, projection, unit) + noise
        )
        greedy.append(int(gains.argmax()))
    found = select(targets if method == "sift" else None, vectors, 60, method=method, noise=noise)
    assert left(found.indices.tolist()) <= 1.01 * left(greedy)
