"""Every method against its formula in the oracle. A method without one fails here."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from effort import examples
from properties import oracle
from properties.follow import check_uncertainty, follow, rounding, run_case, world_of
from properties.worlds import Array, Case, cases, softmax
from siftlm import Gram, Selection, methods, select
from siftlm.errors import InvalidInput
from siftlm.selection.problem import find_method

# They have no score that a formula gives alone; their own tests stand beside them.
PROPERTIES_INSTEAD = {
    "random": "test_chance.py",
    "k-means++": "test_chance.py",
    "hull": "test_hull.py",
    "sift-fast": "test_sift_fast.py",
    "auto": "selection/test_pursuit.py",
    **dict.fromkeys(["got-d", "dac", "mig", "deita", "goracs"], "selection/test_published.py"),
    "dealrec": "selection/test_dealrec.py",
    "adapt-inf": "selection/test_adapt_inf.py",
    "eig": "below, with the classifier's outputs",
    "information-density": "below, with the classifier's outputs",
}
NAMES = [name for name in methods() if name in oracle.SCORES]
# Cosines and counts are of order one, whatever the best score is.
OF_ORDER_ONE = {"nearest", "rds", "less", "nn-f", "mmr", "max-sum", "cover", "facility-location", "ctl", "max-dist"}
# These replace "no noise" by a jitter of 1e-10, or of 32 roundings of a float32 scan.
JITTERED = {"noiseless-itl", "dpp"}


@pytest.mark.parametrize("name", methods())
def test_it_has_an_oracle(name: str) -> None:
    known = {*oracle.SCORES, *oracle.ON_PROBABILITIES, *PROPERTIES_INSTEAD}
    assert name in known, (
        f"method {name!r} has no oracle: add its formula, said the long way, to SCORES in tests/properties/oracle.py"
    )


@pytest.mark.parametrize("name", [*oracle.SCORES, *oracle.ON_PROBABILITIES, *PROPERTIES_INSTEAD])
def test_the_oracle_has_a_method(name: str) -> None:
    assert name in methods()


@pytest.mark.parametrize("name", methods())
def test_it_says_what_it_does(name: str) -> None:
    entry = find_method(name)
    assert entry.name == name
    assert entry.summary
    assert entry.formula, "the docstring's first line is the formula"


def error_of(name: str, case: Case, world: oracle.World) -> float:
    error = rounding(case, world)
    if name in {"ctl", "mm-itl", "itl"}:
        error = max(1e-6, 100 * error)  # quotients of what is nearly gone
    return error


def compare(name: str, case: Case, selection: Selection, world: oracle.World, **options: Any) -> None:
    score = partial(oracle.SCORES[name], **options)
    error = error_of(name, case, world)
    follow(
        selection,
        world,
        score,
        error=error,
        repeats=find_method(name).repeats,
        floor=1.0 if name in OF_ORDER_ONE else 0.0,
    )
    check_uncertainty(selection, world, error=rounding(case, world))


PICKABLE = [name for name in NAMES if name not in JITTERED and name != "sift"]


@pytest.mark.slow
@pytest.mark.parametrize("name", PICKABLE)
@settings(max_examples=examples(35))
@given(case=cases(most=24, widest=8, picks=12, noises=(1e-4, 1e-2, 1.0, 100.0)))
def test_it_is_its_formula(name: str, case: Case) -> None:
    compare(name, case, run_case(case, method=name), world_of(case))


@pytest.mark.slow
@pytest.mark.parametrize("name", PICKABLE)
@settings(max_examples=examples(15))
@given(case=cases(most=24, widest=8, picks=8, noises=(1e-2, 1.0), dtypes=(np.float32, np.float16)))
def test_it_is_its_formula_in_short_floats(name: str, case: Case) -> None:
    compare(name, case, run_case(case, method=name), world_of(case))


@pytest.mark.parametrize("name", PICKABLE)
@settings(max_examples=examples(15))
@given(case=cases(most=20, widest=6, picks=8, noises=(1e-2, 1.0)), known=st.integers(1, 8))
def test_known_items_count_as_picked(name: str, case: Case, known: int) -> None:
    more = np.random.default_rng(known).normal(size=(known, case.candidates.shape[1]))
    compare(name, case, run_case(case, method=name, known=more), world_of(case, known=more))


@pytest.mark.parametrize("name", PICKABLE)
@settings(max_examples=examples(10))
@given(case=cases(most=20, widest=6, picks=8, noises=(1e-2, 1.0), scaled=False))
def test_with_a_kernel_that_only_compares_pairs(name: str, case: Case) -> None:
    def kernel(x: Array, y: Array) -> Array:
        return (1 + x @ y.T) ** 2

    def truth(x: Array, y: Array) -> Array:
        return (1 + oracle.linear(x, y)) ** 2

    compare(name, case, run_case(case, method=name, kernel=kernel), world_of(case, kernel=truth))


@pytest.mark.parametrize("name", PICKABLE)
@settings(max_examples=examples(10))
@given(case=cases(most=20, widest=6, picks=8, noises=(1e-2, 1.0)))
def test_with_a_gram_matrix(name: str, case: Case) -> None:
    world = world_of(case)
    k, joint = len(world.candidates), world.joint.astype(np.float64)
    gram = Gram(joint[:k, :k], joint[k:, k:])
    compare(name, case, select(joint[k:, :k], gram, case.n, noise=case.noise, method=name), world)


@pytest.mark.parametrize("name", [name for name in NAMES if not find_method(name).targeted])
@settings(max_examples=examples(15))
@given(case=cases(most=20, widest=6, picks=8, noises=(1e-2, 1.0)))
def test_without_a_query(name: str, case: Case) -> None:
    case = case.but(query=None)
    compare(name, case, run_case(case, method=name), world_of(case))


@pytest.mark.parametrize("name", [name for name in NAMES if find_method(name).targeted])
def test_a_query_is_needed(name: str) -> None:
    with pytest.raises(InvalidInput, match=f"{name}.*needs a prompt"):
        select(None, np.eye(3), 1, method=name)


@pytest.mark.parametrize("name", ["mmr", "max-sum", "cover", "dpp"])
@pytest.mark.parametrize("balance", [0.0, 0.2, 1.0])
@settings(max_examples=examples(8))
@given(case=cases(kinds=("gaussian",), most=12, widest=20, picks=6, noises=(0.1,), scaled=False))
def test_the_balance(name: str, balance: float, case: Case) -> None:
    n = min(case.n, case.candidates.shape[1])
    picked = run_case(case.but(n=n), method=name, balance=balance)
    error, floor = (1e-5, 1.0) if name == "dpp" else (1e-9, 1.0)
    follow(picked, world_of(case), partial(oracle.SCORES[name], balance=balance), error=error, floor=floor)


@pytest.mark.parametrize("gamma", [0.1, 1.0])
@settings(max_examples=examples(8))
@given(case=cases(kinds=("gaussian", "cone"), most=12, widest=6, picks=6, noises=(0.1,)))
def test_gamma_of_cover(gamma: float, case: Case) -> None:
    picked = run_case(case, method="cover", gamma=gamma)
    follow(
        picked,
        world_of(case),
        partial(oracle.cover, gamma=gamma),
        error=1e-6 if gamma < 0.5 else 1e-9,
        floor=1.0,
    )


# --- without noise: what a jitter stands in for


@pytest.mark.parametrize("name", sorted(JITTERED))
@settings(max_examples=examples(40))
@given(case=cases(kinds=("gaussian",), most=30, widest=20, picks=12, noises=(1e-2, 1.0), scaled=False))
def test_noiseless_while_the_picks_are_independent(name: str, case: Case) -> None:
    width, m = case.candidates.shape[1], len(np.atleast_2d(case.query))
    n = min(case.n, width - m - 1 if name == "noiseless-itl" else width - 1)
    if n < 1:
        return
    query = np.random.default_rng(2**40 + width).normal(size=(m, width))
    case = case.but(query=query, n=n)
    selection, world = run_case(case, method=name), world_of(case)
    follow(selection, world, oracle.SCORES[name], error=1e-4, floor=1.0)
    check_uncertainty(selection, world, error=rounding(case, world))


@settings(max_examples=examples(40))
@given(
    case=cases(
        kinds=("one-hot", "lines"),
        most=30,
        widest=8,
        picks=30,
        noises=(1e-2,),
        dtypes=(np.float64, np.float32),
    )
)
def test_noiseless_itl_gains_nothing_from_what_is_implied(case: Case) -> None:
    case = case.but(normalize=True)
    selection, world = run_case(case, method="noiseless-itl"), world_of(case)
    assert np.isfinite(selection.gains).all()
    assert (selection.gains >= 0).all()
    check_uncertainty(selection, world, error=rounding(case, world))
    assert len(selection.distinct) == len(selection)
    own = world.joint[np.ix_(world.candidates, world.candidates)].astype(np.float64)
    rank = np.linalg.matrix_rank(own, hermitian=True, rtol=1e-5)
    assert (selection.gains > 0).sum() <= rank


@settings(max_examples=examples(40))
@given(case=cases(most=30, widest=8, picks=30, noises=(1e-2,), dtypes=(np.float64, np.float32)))
def test_dpp_picks_volume_while_there_is_any(case: Case) -> None:
    selection, world = run_case(case, method="dpp", balance=0.0), world_of(case)
    check_uncertainty(selection, world, error=rounding(case, world))
    assert (selection.gains >= 0).all()
    assert (selection.gains <= 1 + 1e-6).all()
    picks: list[int] = []
    for pick in selection.indices.tolist():
        left = oracle.dpp(world, picks, balance=0.0)
        if left.max() > 1e-3:
            assert left[pick] > 1e-3 * left.max(), "an implied text before an independent one"
        picks.append(pick)


# --- the uncertainty of methods that never look at a posterior


@pytest.mark.slow
@pytest.mark.parametrize("noise", [1e-8, 1e-3, 1.0])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("kernel", [None, lambda x, y: x @ y.T], ids=["features", "pairs"])
def test_the_uncertainty_that_many_near_duplicates_leave(noise: float, dtype: Any, kernel: Any) -> None:
    rng = np.random.default_rng(2)
    centres = rng.normal(size=(3, 12))
    rows = centres[rng.integers(3, size=90)] + rng.choice([0, 1e-6, 1e-2], size=(90, 1)) * rng.normal(size=(90, 12))
    case = Case(rng.normal(size=(2, 12)), rows.astype(dtype), 60, noise)
    for name in ("nearest", "nn-f", "mmr"):
        check_uncertainty(
            run_case(case, method=name, kernel=kernel), world_of(case), error=rounding(case, world_of(case))
        )


def test_many_picks_are_quick_whatever_the_method() -> None:
    """Thousands of picks of a method without a posterior once cost n³; this then took minutes."""
    rng = np.random.default_rng(0)
    picked = select(rng.normal(size=8), rng.normal(size=(6000, 8)), 5000, method="nearest")
    assert len(picked) == 5000


# --- softmax outputs


@pytest.mark.parametrize("name", [name for name in methods() if name in oracle.ON_PROBABILITIES])
@settings(max_examples=examples(25))
@given(st.integers(0, 1000), st.integers(1, 30), st.integers(1, 6))
def test_on_softmax_outputs(name: str, seed: int, rows: int, classes: int) -> None:
    rng = np.random.default_rng(seed)
    outputs = softmax(rng, rows, classes)
    outputs[rng.random(rows) < 0.2] = np.eye(classes)[0]  # certain, several times over
    truth = oracle.ON_PROBABILITIES[name](outputs)
    selection = select(None, outputs, method=name)
    assert len(selection) == min(50, rows)
    # sums rounded to one leave the last digits open
    order = truth[selection.indices]
    assert (np.diff(order) <= 1e-9).all()
    np.testing.assert_allclose(selection.gains, order, atol=1e-12)
    assert np.isnan(selection.uncertainty).all()
    assert sorted(selection.indices.tolist()) == list(range(rows))


@settings(max_examples=examples(25))
@given(
    case=cases(most=20, widest=6, picks=8, noises=(1e-2,)),
    classes=st.integers(1, 4),
    beta=st.sampled_from([0.0, 1.0, 2.5]),
)
def test_information_density(case: Case, classes: int, beta: float) -> None:
    outputs = softmax(np.random.default_rng(classes), len(case.candidates), classes)
    selection = run_case(case, method="information-density", probabilities=outputs, beta=beta)
    world = world_of(case)
    follow(
        selection,
        world,
        lambda w, _: oracle.information_density(w, outputs, beta),
        error=1e-8,
        floor=1.0,
        twins=False,
    )
    check_uncertainty(selection, world, error=rounding(case, world))


@settings(max_examples=examples(25))
@given(
    case=cases(most=10, widest=6, picks=8, noises=(1e-2,), scaled=False),
    classes=st.integers(1, 4),
    rate=st.sampled_from([0.01, 1.0]),
    known=st.integers(0, 2),
)
def test_eig(case: Case, classes: int, rate: float, known: int) -> None:
    rng = np.random.default_rng(classes)
    world = world_of(case, known=np.ones((known, case.candidates.shape[1])))
    own, prompt = softmax(rng, len(case.candidates), classes), softmax(rng, len(world.targets), classes)
    selection = run_case(
        case,
        method="eig",
        probabilities=own,
        target_probabilities=prompt,
        rate=rate,
        known=np.ones((known, case.candidates.shape[1])),
    )
    follow(selection, world, lambda w, _: oracle.eig(w, own, prompt, rate), error=1e-9, floor=1.0, twins=False)
    check_uncertainty(selection, world, error=rounding(case, world))
