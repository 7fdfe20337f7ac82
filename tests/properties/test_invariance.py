"""What must change nothing: order, scale, repetition, threads, and whoever called before."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from effort import examples
from properties import oracle
from properties.follow import run_case, world_of
from properties.worlds import Case, cases, softmax
from siftlm import Selection, methods, select
from siftlm.selection.problem import find_method

# Problems with near ties are passed over: there, rounding may decide.
FILTERED = [HealthCheck.filter_too_much]


def arguments(name: str, m: int = 2, size: int = 40, width: int = 7) -> dict[str, Any]:
    """A call of any method."""
    rng = np.random.default_rng(11)
    query: Any = rng.normal(size=(m, width))
    candidates: Any = rng.normal(size=(size, width)) + 0.3
    options: dict[str, Any] = {}
    if find_method(name).reads == "probabilities":
        query, candidates = None, softmax(rng, size, 4)
    if name in {"eig", "information-density"}:
        options["probabilities"] = softmax(rng, size, 3)
    if name == "eig":
        options["target_probabilities"] = softmax(rng, m, 3)
    return {"query": query, "candidates": candidates, "n": 12, "method": name, "noise": 0.1, **options}


def same(one: Selection, two: Selection) -> None:
    assert one.indices.tobytes() == two.indices.tobytes()
    assert one.gains.tobytes() == two.gains.tobytes()
    assert one.uncertainty.tobytes() == two.uncertainty.tobytes()
    assert one.stopped == two.stopped
    assert (one.certified is None) == (two.certified is None)
    if one.certified is not None and two.certified is not None:
        assert one.certified.tobytes() == two.certified.tobytes()


# --- the order of candidates


def clear(case: Case, name: str) -> bool:
    """Is every pick so clearly the best that rounding and ties cannot matter?"""
    world, picks = world_of(case), list[int]()
    picked = run_case(case, method=name)
    for pick in picked.indices.tolist():
        scores = np.asarray(oracle.SCORES[name](world, picks), dtype=np.float64)
        if not find_method(name).repeats:
            scores[picks] = -np.inf
        others = np.delete(scores, pick)
        if len(others) and others.max() > scores[pick] - 1e-5 * max(1e-3, abs(scores[pick])):
            return False
        picks.append(pick)
    return True


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in methods() if name in oracle.SCORES and name != "noiseless-itl"])
@settings(max_examples=examples(12), suppress_health_check=FILTERED)
@given(
    case=cases(kinds=("gaussian", "cone"), most=25, picks=8, widest=20, noises=(0.1, 1.0)),
    seed=st.integers(0, 2**32 - 1),
)
def test_permuting_candidates_permutes_answers(name: str, case: Case, seed: int) -> None:
    assume(name != "dpp" or case.n < case.candidates.shape[1])
    assume(clear(case, name))
    order = np.random.default_rng(seed).permutation(len(case.candidates))
    plain, shuffled = (
        run_case(case, method=name),
        run_case(case.but(candidates=case.candidates[order]), method=name),
    )
    assert order[shuffled.indices].tolist() == plain.indices.tolist()
    np.testing.assert_allclose(shuffled.gains, plain.gains, rtol=1e-7, atol=1e-9)
    np.testing.assert_allclose(shuffled.uncertainty, plain.uncertainty, rtol=1e-7, atol=1e-9)


@pytest.mark.slow
@settings(max_examples=examples(40), suppress_health_check=FILTERED)
@given(cases(kinds=("gaussian", "cone"), targets=4, noises=(0.1,)), st.integers(0, 100))
def test_the_order_of_targets_is_nothing(case: Case, seed: int) -> None:
    query = np.atleast_2d(case.query)
    order = np.random.default_rng(seed).permutation(len(query))
    assume(clear(case, "sift"))
    one, two = run_case(case), run_case(case.but(query=query[order]))
    assert one.indices.tolist() == two.indices.tolist()


@settings(max_examples=examples(40), suppress_health_check=FILTERED)
@given(cases(noises=(0.1,)))
def test_a_target_twice_is_that_target(case: Case) -> None:
    """The mean over targets: saying everything twice changes nothing."""
    assume(clear(case, "sift"))
    twice = np.concatenate([np.atleast_2d(case.query)] * 2)
    one, two = run_case(case), run_case(case.but(query=twice))
    assert one.indices.tolist() == two.indices.tolist()
    np.testing.assert_allclose(two.uncertainty, one.uncertainty, rtol=0, atol=1e-9 * one.uncertainty[0])


# --- scale


@settings(max_examples=examples(60))
@given(cases(scaled=False, noises=(1e-4, 0.1)), st.integers(-40, 40), st.integers(0, 2**32 - 1))
def test_lengths_do_not_count_when_normalised(case: Case, power: int, seed: int) -> None:
    """Powers of two are exact, so nothing at all may change."""
    lengths = 2.0 ** np.random.default_rng(seed).integers(-40, 40, size=(len(case.candidates), 1))
    scaled = run_case(case.but(query=case.query * 2.0**power, candidates=case.candidates * lengths))
    plain = run_case(case)
    np.testing.assert_allclose(scaled.uncertainty, plain.uncertainty, rtol=0, atol=1e-6)
    assert abs(plain.uncertainty[0] - 1) < 1e-12
    if clear(case, "sift"):
        assert scaled.indices.tolist() == plain.indices.tolist()


@settings(max_examples=examples(40), suppress_health_check=FILTERED)
@given(cases(noises=(1e-4, 0.1)), st.integers(-20, 20))
def test_scaling_everything_is_scaling_the_noise(case: Case, power: int) -> None:
    factor = 2.0**power
    case = case.but(normalize=False)
    assume(clear(case, "sift"))
    big = case.but(query=case.query * factor, candidates=case.candidates * factor, noise=case.noise * factor**2)
    assume(1e-300 < big.noise < 1e300)
    one, two = run_case(case), run_case(big)
    assert one.indices.tolist() == two.indices.tolist()
    np.testing.assert_allclose(two.uncertainty / factor**2, one.uncertainty, rtol=1e-6, atol=1e-9 * one.uncertainty[0])


@settings(max_examples=examples(40), suppress_health_check=FILTERED)
@given(cases(noises=(0.1,), widest=12), st.integers(0, 2**32 - 1))
def test_a_rotation_is_nothing(case: Case, seed: int) -> None:
    assume(clear(case, "sift"))
    width = case.candidates.shape[1]
    turn = np.linalg.qr(np.random.default_rng(seed).normal(size=(width, width)))[0]
    one, two = run_case(case), run_case(case.but(query=case.query @ turn, candidates=case.candidates @ turn))
    assert one.indices.tolist() == two.indices.tolist()


@settings(max_examples=examples(30), suppress_health_check=FILTERED)
@given(cases(noises=(0.1,), widest=8), st.integers(1, 5))
def test_columns_of_zeros_are_nothing(case: Case, more: int) -> None:
    assume(clear(case, "sift"))
    query = np.atleast_2d(case.query)
    padded = case.but(query=np.pad(query, ((0, 0), (0, more))), candidates=np.pad(case.candidates, ((0, 0), (0, more))))
    assert run_case(padded).indices.tolist() == run_case(case).indices.tolist()


# --- calls do not know of each other


@pytest.mark.parametrize("name", methods())
def test_the_same_call_gives_the_same(name: str) -> None:
    first = select(**arguments(name))
    select(**{**arguments("sift"), "n": 30})
    same(first, select(**arguments(name)))


@pytest.mark.parametrize("name", methods())
@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_inputs_are_left_alone(name: str, normalize: bool, dtype: Any) -> None:
    given_ones = arguments(name)
    given_ones["candidates"] = given_ones["candidates"].astype(dtype)
    arrays = {key: value for key, value in given_ones.items() if isinstance(value, np.ndarray)}
    if find_method(name).reads == "vectors":
        arrays["known"] = np.random.default_rng(0).normal(size=(2, 7)).astype(dtype)
    arrays["exclude"] = np.array([1, 5])
    if not find_method(name).signed and not find_method(name).whole:
        arrays |= {"prior": np.linspace(0.5, 2, 40), "costs": np.linspace(1, 3, 40)}
    before = {key: value.tobytes() for key, value in arrays.items()}
    for value in arrays.values():
        value.flags.writeable = False
    select(**{**given_ones, **arrays}, normalize=normalize)
    assert {key: value.tobytes() for key, value in arrays.items()} == before


def test_results_do_not_hang_on_inputs() -> None:
    """What is done to the arrays afterwards does not reach the result."""
    call = arguments("sift")
    result = select(**call)
    before = str(result.explain())
    call["candidates"][:] = 0
    call["query"][:] = 0
    assert str(result.explain()) == before


@pytest.mark.parametrize("name", methods())
def test_numpys_global_chance_is_left_alone(name: str) -> None:
    before = np.random.get_state()  # noqa: NPY002
    one = select(**arguments(name))
    after = np.random.get_state()  # noqa: NPY002
    assert before[0] == after[0]
    assert np.array_equal(before[1], after[1])
    assert before[2:] == after[2:]
    np.random.seed(1)  # noqa: NPY002
    two = select(**arguments(name))
    np.random.set_state(before)  # noqa: NPY002
    same(one, two)


def test_error_handling_of_numpy_is_left_alone() -> None:
    before = np.geterr()
    select(**arguments("sift"))
    assert np.geterr() == before


# --- threads


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sift", "sift-fast", "itl", "undirected-vtl", "dpp", "k-means++", "cover"])
def test_eight_threads_at_once(name: str) -> None:
    rng = np.random.default_rng(1)
    candidates = rng.normal(size=(120, 16)).astype(np.float32)
    queries = rng.normal(size=(24, 2, 16))

    def one(query: Any) -> Selection:
        return select(query, candidates, 20, method=name, noise=0.05)

    alone = [one(query) for query in queries]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(one, queries))
    for left, right in zip(alone, together, strict=True):
        same(left, right)


PROGRAM = """
import hashlib, numpy as np
from siftlm import select
rng = np.random.default_rng(3)
digest = []
for dtype, size, width, n in ((np.float64, 400, 64, 60), (np.float32, 700, 48, 60), (np.float64, 300, 8, 40)):
    candidates = rng.normal(size=(size, width)).astype(dtype)
    for query in rng.normal(size=(3, 2, width)):
        s = select(query, candidates, n, noise=0.1)
        digest.append(s.indices.tolist())
        digest.append([round(float(u), 6) for u in s.uncertainty])
print(hashlib.sha256(repr(digest).encode()).hexdigest())
"""


@pytest.mark.slow
def test_the_number_of_blas_threads_is_nothing() -> None:
    answers = set()
    for threads in ("1", "2"):
        names = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")
        environment = {**os.environ, **dict.fromkeys(names, threads)}
        run = subprocess.run(
            [sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True, env=environment
        )
        answers.add(run.stdout)
    assert len(answers) == 1
