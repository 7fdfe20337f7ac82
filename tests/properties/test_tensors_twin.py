"""The torch twin against the oracle and against numpy, pick by pick."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from effort import examples
from properties import oracle
from properties.follow import Score, check_uncertainty, follow, rounding, run_case, world_of
from properties.worlds import Case, cases
from siftlm import Selection, select_many

torch = pytest.importorskip("torch", reason="the torch twin needs torch: pip install 'siftlm[torch]'")
tensors = pytest.importorskip("siftlm.selection.tensors")
pytestmark = pytest.mark.slow

NAMES = sorted(set(tensors.METHODS) - {"random"})
OF_ORDER_ONE = {"nearest", "nn-f", "mmr"}


def twin(case: Case, **settings: Any) -> Selection:
    query, candidates = torch.tensor(case.query), torch.tensor(case.candidates)
    settings = {"noise": case.noise, "normalize": case.normalize, **settings}
    return select_many(query.to(candidates.dtype)[None], candidates, case.n, **settings)[0]


def error_of(name: str, case: Case, world: oracle.World) -> float:
    error = rounding(case, world)
    return max(1e-6, 100 * error) if name in {"mm-itl", "itl"} else error


def check(name: str, case: Case, selection: Selection) -> oracle.World:
    world = world_of(case)
    follow(
        selection,
        world,
        oracle.SCORES[name],
        error=error_of(name, case, world),
        repeats=tensors.METHODS[name].repeats,
        floor=1.0 if name in OF_ORDER_ONE else 0.0,
    )
    check_uncertainty(selection, world, error=rounding(case, world))
    return world


def same_picks(mine: Selection, theirs: Selection, world: oracle.World, score: Score, error: float) -> None:
    """Equal pick for pick; where they part, the oracle must find the two candidates equally good."""
    assert mine.method == theirs.method
    differ = np.flatnonzero(mine.indices != theirs.indices)
    if not len(differ):
        np.testing.assert_allclose(mine.gains, theirs.gains, rtol=0, atol=error * max(1, theirs.gains.max()))
        return
    first = int(differ[0])
    scores = score(world, mine.indices[:first].tolist())
    largest = max(1e-300, float(np.abs(score(world, [])).max()))
    gap = abs(scores[mine.indices[first]] - scores[theirs.indices[first]])
    assert gap <= error * largest, f"step {first}: {mine.indices[first]} and {theirs.indices[first]} differ by {gap}"


@pytest.mark.parametrize("form", ["rows", "features"])
@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=examples(25))
@given(case=cases(most=24, widest=8, picks=12, noises=(1e-4, 1e-2, 1.0, 100.0)))
def test_it_is_its_formula_and_numpy(name: str, form: str, case: Case) -> None:
    selection = twin(case, method=name, form=form)
    world = check(name, case, selection)
    theirs = run_case(case, method=name)
    same_picks(selection, theirs, world, oracle.SCORES[name], error_of(name, case, world))


@settings(max_examples=examples(60))
@given(case=cases(), form=st.sampled_from(("rows", "features")))
def test_sift_at_any_noise(case: Case, form: str) -> None:
    selection = twin(case, form=form)
    world = check("sift", case, selection)
    same_picks(selection, run_case(case), world, oracle.sift, rounding(case, world))


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=examples(15))
@given(case=cases(most=24, widest=8, picks=8, noises=(1e-2, 1.0), dtypes=(np.float32, np.float16)))
def test_it_is_its_formula_in_short_floats(name: str, case: Case) -> None:
    short = case.but(query=case.query.astype(case.candidates.dtype))
    if not np.atleast_2d(short.query).any(axis=1).all():
        return
    check(name, short, twin(short, method=name))


@settings(max_examples=examples(40))
@given(
    case=cases(most=24, widest=8, picks=12, noises=(1e-2, 1.0), targets=2),
    adaptive=st.none() | st.floats(0.05, 5),
    until=st.none() | st.floats(0, 1),
    at_least=st.integers(0, 3),
)
def test_it_stops_where_numpy_stops(case: Case, adaptive: float | None, until: float | None, at_least: int) -> None:
    rules = {"adaptive": adaptive, "until": until, "at_least": at_least}
    mine, theirs = twin(case, **rules), run_case(case, **rules)
    whole = run_case(case).uncertainty
    edges = [] if until is None else [until * whole[0]]
    edges += [] if adaptive is None else [1 / (adaptive * n) ** 2 for n in range(1, len(whole) + 1)]
    if any(abs(left - edge) < 1e-7 * max(1, whole[0]) for left in whole for edge in edges):
        return  # on the edge of a rule, rounding decides
    assert len(mine) == len(theirs)
    assert mine.stopped == theirs.stopped


@settings(max_examples=examples(40))
@given(
    case=cases(most=20, widest=6, picks=8, noises=(1e-4, 1e-2, 1.0), kinds=("gaussian", "clusters"), targets=1),
    extra=st.integers(1, 10),
    seed=st.integers(0, 99),
    name=st.sampled_from(sorted(tensors.METHODS)),
)
def test_padding_is_nothing(case: Case, extra: int, seed: int, name: str) -> None:
    filler = np.random.default_rng(seed).choice([0.0, np.nan, np.inf, 1e30], size=(extra, case.candidates.shape[1]))
    padded = case.but(candidates=np.concatenate([case.candidates, filler]))
    mask = torch.arange(len(padded.candidates)) < len(case.candidates)
    plain, other = twin(case, method=name), twin(padded, method=name, mask=mask)
    assert other.indices.max() < len(case.candidates)
    if name == "random":
        assert plain.indices.tolist() == other.indices.tolist()
        return
    world = world_of(case)
    same_picks(other, plain, world, oracle.SCORES[name], error_of(name, case, world))
