"""Limits, weights and stopping, alone and together, against a loop that does each literally."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from effort import examples
from properties import oracle
from properties.follow import check_uncertainty, follow, rounding, run_case
from properties.oracle import World
from properties.worlds import Array, Case, cases
from siftlm import Selection, kernels, select
from siftlm.selection import posterior, rules, sift_engine
from siftlm.selection.space import FeatureSpace

METHODS = {"sift": oracle.sift, "nearest": oracle.nearest}


@dataclass
class Limits:
    """The settings of one call, and what they allow, said the long way."""

    size: int
    repeats: bool
    replacement: bool | int | None = None
    exclude: Any = None
    sources: list[str] | None = None
    source_cap: int | None = None
    costs: Array | None = None
    budget: float | None = None
    prior: Array | None = None
    known: Array | None = None

    def settings(self) -> dict[str, Any]:
        names = ("replacement", "exclude", "sources", "source_cap", "costs", "budget", "prior", "known")
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}

    def open(self, picks: list[int]) -> Array:
        """What the limits other than the budget leave."""
        counts = Counter(picks)
        mask = np.ones(self.size, bool)
        for x in range(self.size):
            cap: float = 1
            if self.replacement is True or (self.replacement is None and self.repeats):
                cap = float("inf")
            elif self.replacement not in (None, False):
                assert self.replacement is not None
                cap = self.replacement
            if counts[x] >= cap:
                mask[x] = False
            if self.exclude is not None:
                listed = np.asarray(self.exclude)
                if listed[x] if listed.dtype == bool else x in listed.tolist():
                    mask[x] = False
            if self.sources is not None and self.source_cap is not None:
                share = sum(counts[y] for y in range(self.size) if self.sources[y] == self.sources[x])
                if share >= self.source_cap:
                    mask[x] = False
        return mask

    def affordable(self, picks: list[int]) -> Array:
        if self.budget is None or self.costs is None:
            return np.ones(self.size, bool)
        left = self.budget
        for pick in picks:
            left -= float(self.costs[pick])
        return self.costs <= left

    def allowed(self, picks: list[int]) -> Array:
        return self.open(picks) & self.affordable(picks)

    def weight(self) -> Array | None:
        weight = np.ones(self.size) if self.prior is None else np.asarray(self.prior, dtype=np.float64)
        return weight if self.costs is None else weight / self.costs


@st.composite
def limits(draw: st.DrawFn, size: int, width: int, repeats: bool) -> Limits:
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    made = Limits(size, repeats)
    made.replacement = draw(st.sampled_from([None, True, False, 1, 2, 3]))
    if draw(st.booleans()):
        out = rng.choice(size, size=int(rng.integers(0, size)), replace=False)
        made.exclude = out.tolist() if draw(st.booleans()) else np.isin(np.arange(size), out)
    if draw(st.booleans()):
        made.sources = [f"source {i}" for i in rng.integers(0, max(1, size // 3), size=size)]
        made.source_cap = draw(st.integers(1, 4))
    if draw(st.booleans()):
        made.costs = rng.integers(1, 9, size=size).astype(np.float64)
        if draw(st.booleans()):
            made.budget = float(rng.integers(1, 40))
    if draw(st.booleans()):
        made.prior = rng.choice([0.25, 1.0, 2.0, 3.5], size=size)
    if draw(st.booleans()):
        made.known = rng.normal(size=(draw(st.integers(0, 5)), width))
    return made


@pytest.mark.parametrize("method", list(METHODS))
@settings(max_examples=examples(150))
@given(data=st.data(), case=cases(most=30, widest=8, picks=20, noises=(1e-4, 1e-2, 1.0)))
def test_all_limits_together(method: str, data: st.DataObject, case: Case) -> None:
    size, width = case.candidates.shape
    given_limits = data.draw(limits(size, width, method == "sift"))
    world = oracle.world(
        case.query, case.candidates, noise=case.noise, normalize=case.normalize, known=given_limits.known
    )
    free = int(given_limits.open([]).sum())
    n = min(case.n, free)
    selection = run_case(case.but(n=n), method=method, **given_limits.settings())
    error = rounding(case, world)
    follow(
        selection,
        world,
        METHODS[method],
        error=error,
        allowed=given_limits.allowed,
        weight=given_limits.weight(),
        floor=1.0 if method == "nearest" else 0.0,
    )
    check_uncertainty(selection, world, error=error)
    check_the_end(selection, given_limits, n)


def check_the_end(selection: Selection, given_limits: Limits, n: int) -> None:
    picks = selection.indices.tolist()
    if given_limits.costs is not None and given_limits.budget is not None:
        assert given_limits.costs[picks].sum() <= given_limits.budget
    if len(picks) == n:
        assert selection.stopped == "n"
        return
    assert not given_limits.allowed(picks).any(), "it ended although something was allowed"
    could = given_limits.open(picks).any()
    assert selection.stopped == ("budget" if could else "exhausted")


# --- replacement


def test_replacement_counts() -> None:
    query, candidates = np.array([1.0, 0.0]), np.array([[1.0, 0.01], [0.0, 1.0]])
    free = select(query, candidates, 6, noise=10.0, replacement=True)
    assert Counter(free.indices.tolist()) == {0: 6}
    capped = select(query, candidates, 4, noise=10.0, replacement=2)
    assert Counter(capped.indices.tolist()) == {0: 2, 1: 2}
    once = select(query, candidates, 2, noise=10.0, replacement=False)
    assert sorted(once.indices.tolist()) == [0, 1]


@pytest.mark.parametrize("replacement", [np.True_, np.False_, np.int64(2)])
def test_replacement_from_numpy(replacement: Any) -> None:
    picked = select([1.0, 0.0], np.eye(2), 2, noise=10.0, replacement=replacement)
    most = max(Counter(picked.indices.tolist()).values())
    assert most == (1 if not replacement else 2)


# --- exclude, sources, costs, prior


@given(cases(most=30))
def test_an_excluded_mask_is_the_excluded_indices(case: Case) -> None:
    size = len(case.candidates)
    assume(size > 1)
    out = np.random.default_rng(size).permutation(size)[: size // 2]
    mask = np.zeros(size, bool)
    mask[out] = True
    n = min(case.n, size - len(out))
    by_index, by_mask = run_case(case.but(n=n), exclude=out), run_case(case.but(n=n), exclude=mask)
    assert by_index.indices.tolist() == by_mask.indices.tolist()
    assert not set(by_index.indices.tolist()) & set(out.tolist())


@given(cases(most=30))
def test_excluding_is_as_if_they_were_not_there(case: Case) -> None:
    size = len(case.candidates)
    keep = np.flatnonzero(np.random.default_rng(size).random(size) < 0.6)
    assume(len(keep))
    n = min(case.n, len(keep))
    out = np.setdiff1d(np.arange(size), keep)
    left = run_case(case.but(n=n), exclude=out)
    alone = run_case(case.but(n=n, candidates=case.candidates[keep]))
    np.testing.assert_allclose(left.uncertainty, alone.uncertainty, rtol=0, atol=1e-6 * left.uncertainty[0])


def test_labels_of_any_kind() -> None:
    query, candidates = np.ones(3), np.eye(3)
    for labels in (
        ["a", "a", "b"],
        [1, 1, None],
        np.array([0.5, 0.5, 2]),
        [("x", 1), ("x", 1), "x"],
        np.array(list("aab")),
    ):
        picked = select(query, candidates, 3, sources=labels, source_cap=1, replacement=False)
        assert picked.indices.tolist() == [0, 2]
        assert picked.stopped == "exhausted"


def test_gain_per_cost_decides() -> None:
    query, candidates = np.array([1.0, 0.9]), np.eye(2)
    assert select(query, candidates, 1).indices.tolist() == [0]
    assert select(query, candidates, 1, costs=[2.0, 1.0]).indices.tolist() == [1]
    np.testing.assert_allclose(
        select(query, candidates, 1, costs=[2.0, 1.0]).gains,
        -np.diff(select(query, candidates[1:], 1).uncertainty),
    )


def test_the_budget_alone_can_end_it() -> None:
    picked = select(np.ones(4), np.eye(4), costs=[3.0, 3, 3, 3], budget=7.0, replacement=False)
    assert len(picked) == 2
    assert picked.stopped == "budget"
    nothing = select(np.ones(4), np.eye(4), 2, costs=[3.0, 3, 3, 3], budget=1.0)
    assert len(nothing) == 0
    assert nothing.stopped == "budget"
    assert nothing.uncertainty.tolist() == [1.0]
    assert nothing.indices.dtype == np.int64
    assert nothing.gains.dtype == np.float64


def test_a_budget_allows_repeats_until_it_is_spent() -> None:
    picked = select([1.0, 0.0], np.eye(2), noise=10.0, costs=[1.0, 1.0], budget=5.0)
    assert picked.indices.tolist() == [0] * 5
    assert picked.stopped == "budget"


@given(cases(most=30, noises=(0.01, 1.0)))
def test_a_relevance_prior_multiplies_the_gains(case: Case) -> None:
    prior = kernels.relevance(power=2.0, floor=0.1)
    world = oracle.world(case.query, case.candidates, noise=case.noise, normalize=case.normalize)
    cosine = np.abs(world.cosine(world.targets, world.candidates)).max(axis=0).astype(np.float64)
    picked = run_case(case, prior=prior)
    follow(
        picked,
        world,
        oracle.sift,
        error=rounding(case, world),
        weight=np.maximum(cosine, 0.1) ** 2 * (1 + 0 * cosine),
        repeats=True,
    )
    listed = run_case(case, prior=np.maximum(cosine, 0.1) ** 2)
    np.testing.assert_allclose(listed.uncertainty, picked.uncertainty, rtol=0, atol=1e-6 * picked.uncertainty[0])


# --- known


@settings(max_examples=examples(60))
@given(cases(most=30, widest=8, picks=20), st.integers(1, 6))
def test_known_items_are_as_if_picked_before(case: Case, j: int) -> None:
    """Know what would be picked first, and the rest follows as if it had been."""
    j = min(j, case.n)
    full = run_case(case)
    head, tail = full.indices[:j], full.indices[j:]
    assume(len(tail))
    rest = run_case(case.but(n=len(tail)), known=case.candidates[head])
    world = oracle.world(
        case.query, case.candidates, noise=case.noise, normalize=case.normalize, known=case.candidates[head]
    )
    error = rounding(case, world)
    follow(rest, world, oracle.sift, error=error, repeats=True)
    check_uncertainty(rest, world, error=error)
    np.testing.assert_allclose(rest.uncertainty, full.uncertainty[j:], rtol=0, atol=2 * error * full.uncertainty[0])


@pytest.mark.parametrize("method", list(METHODS))
def test_many_known_items(method: str) -> None:
    """More of them than features, so that the form of the posterior changes."""
    rng = np.random.default_rng(0)
    query, candidates, known = rng.normal(size=4), rng.normal(size=(20, 4)), rng.normal(size=(50, 4))
    world = oracle.world(query, candidates, known=known)
    picked = select(query, candidates, 10, known=known, method=method)
    follow(picked, world, METHODS[method], error=1e-9, repeats=method == "sift")
    check_uncertainty(picked, world, error=1e-9)


def test_no_known_items_are_no_setting() -> None:
    rng = np.random.default_rng(0)
    query, candidates = rng.normal(size=4), rng.normal(size=(20, 4))
    without = select(query, candidates, 5)
    nothing = select(query, candidates, 5, known=np.zeros((0, 4)))
    assert without.indices.tolist() == nothing.indices.tolist()
    assert without.uncertainty.tobytes() == nothing.uncertainty.tobytes()


def test_known_items_keep_their_own_precision() -> None:
    """A float64 known item beside short candidates must not be cut to their type."""
    rng = np.random.default_rng(1)
    query, known = rng.normal(size=6), rng.normal(size=(2, 6))
    for factor in (1.0, 1e-9, 1e9):
        candidates = rng.normal(size=(9, 6)).astype(np.float16)
        picked = select(query, candidates, 4, known=known * factor)
        world = oracle.world(query, candidates, known=known * factor)
        check_uncertainty(picked, world, error=1e-4)
        follow(picked, world, oracle.sift, error=1e-4, repeats=True)


def test_known_items_do_not_move_the_centre() -> None:
    """``kernels.centred`` takes the candidates' mean; what is known already is no candidate."""
    rng = np.random.default_rng(2)
    query, candidates, known = rng.normal(size=5), rng.normal(size=(12, 5)), rng.normal(size=(6, 5)) + 4
    mean = oracle.unit(candidates).mean(axis=0)
    world = oracle.world(query, candidates, known=known, kernel=oracle.centred_on(mean))
    picked = select(query, candidates, 5, known=known, kernel=kernels.centred())
    check_uncertainty(picked, world, error=1e-9)
    follow(picked, world, oracle.sift, error=1e-9, repeats=True)


# --- stopping


def sigma(world: World, picks: list[int]) -> float:
    return float(np.sqrt(world.uncertainty(picks)))


@settings(max_examples=examples(100))
@given(
    cases(noises=(1e-3, 0.1, 1.0, 10.0)),
    st.sampled_from([0.05, 0.3, 0.7, 1.0, 1.5, 3.0, 10.0]),
    st.integers(0, 4),
    st.sampled_from(sorted(METHODS)),
)
def test_the_adaptive_rule_to_the_letter(case: Case, alpha: float, at_least: int, method: str) -> None:
    full = run_case(case, method=method)
    left = np.sqrt(full.uncertainty[1:])
    bound = 1 / (alpha * np.arange(1, len(full) + 1))
    assume((np.abs(left - bound) > 1e-6 * bound).all())
    keeps = left <= bound
    kept = next((n for n in range(len(full)) if n >= at_least and not keeps[n]), len(full))
    picked = run_case(case, method=method, adaptive=alpha, at_least=at_least)
    assert picked.indices.tolist() == full.indices[:kept].tolist()
    # Without a rule it is computed at the end, with one it is updated pick by pick.
    assert picked.uncertainty.tolist() == pytest.approx(full.uncertainty[: kept + 1].tolist(), rel=1e-9)
    assert picked.gains.tolist() == full.gains[:kept].tolist()
    assert picked.stopped == ("n" if kept == len(full) else "adaptive")


def test_an_adaptive_stop_can_leave_nothing() -> None:
    query, candidates = np.array([1.0, 0.0]), np.array([[0.1, 1.0], [0.0, 1.0]])
    none = select(query, candidates, 2, adaptive=5.0, at_least=0)
    assert none.indices.shape == (0,)
    assert none.gains.shape == (0,)
    assert none.uncertainty.tolist() == [1.0]
    assert none.stopped == "adaptive"
    assert none.distinct.tolist() == none.weights.tolist() == []
    assert str(none.explain()).count("\n") == 0
    assert len(select(query, candidates, 2, adaptive=5.0)) == 1, "one pick is kept unless asked otherwise"


@settings(max_examples=examples(60))
@given(cases(noises=(1e-3, 0.1, 1.0)), st.sampled_from([0.0, 0.01, 0.3, 0.9, 1.0]), st.integers(0, 3))
def test_until(case: Case, fraction: float, at_least: int) -> None:
    full = run_case(case)
    share = full.uncertainty / full.uncertainty[0]
    assume((np.abs(share[1:] - fraction) > 1e-9).all())
    needed = next((n for n in range(1, len(full) + 1) if n >= at_least and share[n] <= fraction), len(full))
    picked = run_case(case, until=fraction, at_least=at_least)
    assert picked.indices.tolist() == full.indices[:needed].tolist()
    reached = needed >= at_least and share[needed] <= fraction
    assert picked.stopped == ("until" if reached else "n")


@settings(max_examples=examples(60))
@given(cases(noises=(1e-3, 0.1, 1.0)), st.sampled_from([0.0, 0.01, 0.3, 0.9]), st.integers(0, 3))
def test_min_gain(case: Case, fraction: float, at_least: int) -> None:
    full = run_case(case)
    fall = -np.diff(full.uncertainty) / np.maximum(full.uncertainty[:-1], 1e-300)
    assume((np.abs(fall - fraction) > 1e-9).all())
    kept = next((n for n in range(len(full)) if n >= at_least and fall[n] < fraction), len(full))
    picked = run_case(case, min_gain=fraction, at_least=at_least)
    assert picked.indices.tolist() == full.indices[:kept].tolist()
    assert picked.stopped == ("n" if kept == len(full) else "min_gain")


@settings(max_examples=examples(60))
@given(cases(noises=(1e-3, 0.1, 1.0)), st.sampled_from([0.0, 0.01, 0.1, 0.3, 0.9]), st.integers(0, 3))
def test_min_growth(case: Case, fraction: float, at_least: int) -> None:
    full = run_case(case)
    told = full.uncertainty[0] - full.uncertainty
    fall = np.diff(told)
    assume((np.abs(fall - fraction * told[:-1]) > 1e-9)[1:].all())
    kept = next((n for n in range(len(full)) if n >= at_least and n and fall[n] < fraction * told[n]), len(full))
    picked = run_case(case, min_growth=fraction, at_least=at_least)
    assert picked.indices.tolist() == full.indices[:kept].tolist()
    assert picked.stopped == ("n" if kept == len(full) else "min_growth")


@settings(max_examples=examples(40))
@given(st.integers(0, 10**6), st.integers(0, 3), st.sampled_from([0.05, 0.5, 1.0]), st.sampled_from([0.02, 0.1, 0.4]))
def test_min_growth_counts_what_known_items_tell(seed: int, known: int, noise: float, fraction: float) -> None:
    """Against the full covariance, conditioned in float64 on the known items and the picks so far."""
    rng = np.random.default_rng(seed)
    query, items = rng.normal(size=6), rng.normal(size=(20 + known, 6))
    unit = items / np.linalg.norm(items, axis=1, keepdims=True)
    target = query / np.linalg.norm(query)
    picked = select(query, items[known:], 15, noise=noise, known=items[:known] if known else None, min_growth=fraction)

    def told(rows: list[int]) -> float:
        own = unit[rows]
        return float(target @ own.T @ np.linalg.solve(own @ own.T + noise * np.eye(len(rows)), own @ target))

    rows = list(range(known))
    for n, index in enumerate(picked.indices.tolist()):
        before = told(rows) if rows else 0.0
        rows.append(known + index)
        if n:
            assert told(rows) - before >= fraction * before - 1e-9
    if picked.stopped == "min_growth":
        most = max(told([*rows, one]) for one in range(known, len(items)))
        assert most - told(rows) <= fraction * told(rows) + 1e-9


def test_min_growth_has_no_unit() -> None:
    """Longer vectors with as much more noise stop at the same pick: the rule compares gains with gains."""
    rng = np.random.default_rng(8)
    query, items = rng.normal(size=8), rng.normal(size=(60, 8))
    one = select(query, items, 40, noise=0.5, min_growth=0.03, normalize=False)
    other = select(query, 10 * items, 40, noise=50.0, min_growth=0.03, normalize=False)
    assert one.indices.tolist() == other.indices.tolist()
    assert one.stopped == other.stopped == "min_growth"
    assert len(select(query, items, 40, noise=0.5, min_growth=0.2, normalize=False)) < len(one) < 40


@pytest.mark.parametrize("form", ["RowPosterior", "FeaturePosterior"])
def test_stopping_ends_the_work(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A prefix that is cut out of a full run would save nothing."""
    observed: list[int] = []
    kind = getattr(posterior, form)
    plain = kind.observe
    monkeypatch.setattr(kind, "observe", lambda self, index: (observed.append(index), plain(self, index))[1])
    rng = np.random.default_rng(4)
    width, size = (30, 60) if form == "RowPosterior" else (5, 60)
    query, candidates = rng.normal(size=width), rng.normal(size=(size, width))
    monkeypatch.setattr(sift_engine, "by_rows", lambda space, n: False)  # plain SIFT has a loop of its own
    full = select(query, candidates, 20, noise=1.0)
    assert len(observed) == 19, "after the last pick nothing more is computed"
    for rule in ({"adaptive": 0.6}, {"until": 0.8}, {"min_gain": 0.05}, {"min_growth": 0.05}, {"adaptive": 5.0}):
        observed.clear()
        cut = select(query, candidates, 20, noise=1.0, **rule)
        assert 0 < len(cut) < 20
        assert cut.indices.tolist() == full.indices[: len(cut)].tolist()
        assert len(observed) <= len(cut)


def test_the_loop_of_plain_sift_computes_nothing_after_the_last_pick(monkeypatch: pytest.MonkeyPatch) -> None:
    rows: list[int] = []
    plain = FeatureSpace.row
    monkeypatch.setattr(FeatureSpace, "row", lambda self, index: (rows.append(index), plain(self, index))[1])
    rng = np.random.default_rng(4)
    found = select(rng.normal(size=30), rng.normal(size=(60, 30)), 20, noise=1.0)
    assert rows == found.indices[:-1].tolist()


def test_no_rule_is_asked_when_none_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rules.Stopping, "refuses", lambda *_: pytest.fail("asked"))
    monkeypatch.setattr(rules.Stopping, "satisfied", lambda *_: pytest.fail("asked"))
    select(np.ones(3), np.eye(3), 2)
