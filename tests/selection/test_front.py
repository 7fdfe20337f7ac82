"""The front door: defaults, the result, and how it explains itself."""

from __future__ import annotations

import copy
import dataclasses
import json
import pickle
import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import siftlm
from effort import examples
from properties import oracle
from properties.follow import run_case, world_of
from properties.worlds import Case, cases
from siftlm import Explanation, Gram, Selection, kernels, methods, select
from siftlm.errors import InvalidInput, UnknownName
from siftlm.selection import Problem, Steps, method

RNG = np.random.default_rng(0)
QUERY = RNG.normal(size=(2, 5))
CANDIDATES = RNG.normal(size=(70, 5))


# --- n left out


@pytest.mark.parametrize(("size", "expected"), [(1, 1), (49, 49), (50, 50), (70, 50)])
def test_n_left_out(size: int, expected: int) -> None:
    assert len(select(QUERY, CANDIDATES[:size])) == expected
    assert len(select(QUERY, CANDIDATES[:size], None)) == expected


def test_n_left_out_with_limits() -> None:
    assert len(select(QUERY, CANDIDATES, exclude=range(40))) == 30
    assert len(select(QUERY, CANDIDATES[:10], replacement=3)) == 10
    assert len(select(QUERY, CANDIDATES, sources=["a"] * 70, source_cap=2)) == 2
    bought = select(QUERY, CANDIDATES, costs=np.ones(70), budget=60.0, replacement=False)
    assert len(bought) == 60, "a budget is what ends it, not a default"


@pytest.mark.parametrize("name", methods())
def test_every_method_can_pick_everything(name: str) -> None:
    """n = K: nobody is left over, nobody is asked for twice where that is not allowed."""
    candidates: Any = CANDIDATES[:9]
    options: dict[str, Any] = {}
    if name in {"max-entropy", "min-margin", "least-confidence"}:
        query, candidates = None, np.full((9, 3), 1 / 3)
    else:
        query = QUERY
    if name in {"eig", "information-density"}:
        options["probabilities"] = np.full((9, 2), 0.5)
    if name == "eig":
        options["target_probabilities"] = np.full((2, 2), 0.5)
    if name == "hull":
        assert len(select(query, candidates, 9, method=name)) == 9
        return
    picked = select(query, candidates, 9, method=name, replacement=False, **options)
    assert sorted(picked.indices.tolist()) == list(range(9))
    assert picked.stopped == "n"


# --- the result


@pytest.mark.parametrize("name", ["sift", "sift-fast", "nearest", "itl", "random", "hull"])
def test_the_result(name: str) -> None:
    s = select(QUERY, CANDIDATES, 7, method=name, noise=0.25)
    assert isinstance(s, Selection)
    assert len(s) == 7
    assert s.indices.shape == s.gains.shape == (7,)
    assert s.uncertainty.shape == (8,)
    assert s.indices.dtype == np.int64
    assert s.gains.dtype == s.uncertainty.dtype == np.float64
    assert (s.method, s.noise, s.stopped) == (name, 0.25, "n")
    if name == "sift-fast":
        assert s.certified is not None
        assert s.certified.dtype == np.bool_
        assert s.certified.shape == (7,)
    else:
        assert s.certified is None
    with pytest.raises(dataclasses.FrozenInstanceError):
        s.method = "other"  # type: ignore[misc]


def test_distinct_and_weights() -> None:
    s = select([1.0, 0.5, 0], np.eye(3), 9, noise=3.0, replacement=True)
    counts: dict[int, int] = {}
    for index in s.indices.tolist():
        counts[index] = counts.get(index, 0) + 1
    assert s.distinct.tolist() == list(counts)
    assert s.weights.tolist() == list(counts.values())
    assert s.weights.sum() == len(s)
    assert s.weights.dtype == np.int64


@given(st.lists(st.integers(0, 5), max_size=12))
def test_distinct_and_weights_of_any_picks(picks: list[int]) -> None:
    s = Selection(np.array(picks, dtype=np.int64), np.zeros(len(picks)), np.zeros(len(picks) + 1), "n", "made", 1.0)
    firsts = list(dict.fromkeys(picks))
    assert s.distinct.tolist() == firsts
    assert s.weights.tolist() == [picks.count(index) for index in firsts]


@pytest.mark.parametrize("name", ["sift", "sift-fast", "random"])
@pytest.mark.parametrize("query", [QUERY, None])
def test_to_dict_is_json(name: str, query: Any) -> None:
    if query is None and name != "random":
        return
    s = select(query, CANDIDATES, 4, method=name)
    again = json.loads(json.dumps(s.to_dict(), allow_nan=False))
    assert again["indices"] == s.indices.tolist()
    assert again["method"] == name
    assert again["stopped"] == "n"
    assert again["noise"] == 0.01
    if query is None:
        assert again["uncertainty"] == [None] * 5
    else:
        assert again["uncertainty"] == s.uncertainty.tolist()
        assert again["gains"] == s.gains.tolist()
    assert again["certified"] == (None if s.certified is None else s.certified.tolist())


def square(x: Any, y: Any) -> Any:
    """A kernel that can be pickled, since it has a name."""
    return (x @ y.T) ** 2


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"kernel": kernels.power(2)},
        {"kernel": kernels.centred()},
        {"kernel": kernels.plus_constant(1.0, kernels.power(3))},
        {"kernel": square},
        {"method": "sift-fast"},
        {"normalize": False},
        {"known": CANDIDATES[:3]},
    ],
    ids=lambda known: re.sub(" at 0x[0-9a-f]+", "", str(known)),  # the same in every process
)
def test_a_selection_travels(settings: dict[str, Any]) -> None:
    s = select(QUERY, CANDIDATES, 5, **settings)
    for again in (pickle.loads(pickle.dumps(s)), copy.deepcopy(s), copy.copy(s)):
        assert again.to_dict() == s.to_dict()
        assert str(again.explain()) == str(s.explain())
        assert again.distinct.tolist() == s.distinct.tolist()


def test_a_pickled_selection_is_small() -> None:
    """It keeps the picks and the prompt, not the corpus."""
    many = RNG.normal(size=(20_000, 5)).astype(np.float32)
    assert len(pickle.dumps(select(QUERY, many, 5))) < 5_000


def test_errors_travel() -> None:
    for call in (lambda: select(QUERY, CANDIDATES, 0), lambda: select(QUERY, CANDIDATES, 1, method="shift")):
        with pytest.raises(InvalidInput) as caught:
            call()
        again = pickle.loads(pickle.dumps(caught.value))
        assert type(again) is type(caught.value)
        assert str(again) == str(caught.value)


# --- explain


def naive(world: oracle.World, picks: list[int]) -> tuple[list[float], list[float], list[list[float]]]:
    """Relevance, overlap, and by how much each target's variance fell, of each pick."""
    relevance, overlap, falls = [], [], []
    for step, pick in enumerate(picks):
        relevance.append(float(np.abs(world.cosine(world.targets, [pick])).max()))
        earlier = world.cosine(picks[:step], [pick])
        overlap.append(float(np.abs(earlier).max()) if step else 0.0)
        before, after = world.after(picks[:step]), world.after(picks[: step + 1])
        falls.append([float(before[t, t] - after[t, t]) for t in world.targets])
    return relevance, overlap, falls


def check_explanation(e: Explanation, s: Selection, world: oracle.World, accuracy: float) -> None:
    relevance, overlap, falls = naive(world, s.indices.tolist())
    np.testing.assert_allclose(e.relevance, relevance, atol=accuracy)
    np.testing.assert_allclose(e.overlap, overlap, atol=accuracy)
    prior = world.before_anything().uncertainty([])
    for step, fall in enumerate(falls):
        assert fall[e.served[step]] >= max(fall) - accuracy * prior
    picks = s.indices.tolist()
    rises = [world.uncertainty(picks[:at] + picks[at + 1 :]) - world.uncertainty(picks) for at in range(len(picks))]
    np.testing.assert_allclose(e.alone, rises, atol=accuracy * max(1.0, prior))
    assert e.indices.tolist() == s.indices.tolist()
    assert e.gains.tolist() == s.gains.tolist()
    assert e.uncertainty.tolist() == s.uncertainty[1:].tolist()


@settings(max_examples=examples(60))
@given(cases(noises=(1e-2, 1.0), most=30, picks=10, dtypes=(np.float64, np.float32, np.float16)))
def test_explain(case: Case) -> None:
    for name in ("sift", "nearest"):
        s = run_case(case, method=name)
        check_explanation(s.explain(), s, world_of(case), 1e-6)


@settings(max_examples=examples(20))
@given(cases(noises=(1e-2, 1.0), most=20, picks=8, scaled=False))
def test_explain_in_terms_of_the_kernel(case: Case) -> None:
    s = run_case(case, kernel=kernels.power(3))
    check_explanation(s.explain(), s, world_of(case, kernel=lambda x, y: oracle.linear(x, y) ** 3), 1e-6)


@settings(max_examples=examples(20))
@given(cases(noises=(1e-2, 1.0), most=20, picks=8, kinds=("gaussian",)), st.integers(0, 2**32 - 1))
def test_explain_knows_what_was_known(case: Case, seed: int) -> None:
    """A target that the known items cover is not the one that a pick served."""
    known = np.random.default_rng(seed).normal(size=(3, case.candidates.shape[1]))
    s = run_case(case, known=known)
    check_explanation(s.explain(), s, world_of(case, known=known), 1e-6)


def test_explain_with_a_gram_matrix() -> None:
    world = oracle.world(QUERY, CANDIDATES)
    joint = world.joint.astype(np.float64)
    s = select(joint[70:, :70], Gram(joint[:70, :70], joint[70:, 70:]), 9)
    check_explanation(s.explain(), s, world, 1e-6)


def test_explain_without_a_prompt() -> None:
    s = select(None, CANDIDATES, 4, method="uncertainty")
    e = s.explain()
    assert e.relevance.tolist() == [0] * 4
    assert e.served.tolist() == [0] * 4
    assert np.isnan(e.alone).all()
    assert len(str(e).splitlines()) == 5


def test_the_table() -> None:
    query, candidates = np.eye(3)[:2], np.array([[1.0, 0, 0.5], [0, 1, 0.1], [0, 0, 1]])
    s = select(query, candidates, 3)
    texts = ["a  text\nof two lines", "x" * 200, "the last"]
    lines = str(s.explain(texts)).splitlines()
    assert len(lines) == 4
    assert lines[0].split() == ["pick", "index", "relevance", "overlap", "left", "target", "text"]
    for step, index in enumerate(s.indices.tolist()):
        row = lines[step + 1].split()
        assert row[:2] == [str(step + 1), str(index)]
        assert float(row[4]) == pytest.approx(s.uncertainty[step + 1], abs=1e-4)
        assert row[6] == texts[index].split()[0][:80]
    assert "target" not in str(select(query[0], candidates, 3).explain())
    assert "text" not in str(s.explain())


def test_texts_of_explain() -> None:
    s = select(QUERY, CANDIDATES, 4)
    texts = [f"text {i}" for i in range(70)]
    assert s.explain(texts).texts == tuple(texts[i] for i in s.indices)
    assert s.explain(tuple(texts)).texts == s.explain(np.array(texts)).texts
    with pytest.raises(InvalidInput, match=r"texts.*all candidates"):
        s.explain(texts[: int(s.indices.max())])
    with pytest.raises(InvalidInput, match="texts"):
        s.explain([])


def test_a_selection_by_hand_has_nothing_to_explain() -> None:
    s = Selection(np.array([1]), np.array([0.5]), np.array([1.0, 0.5]), "n", "made", 1.0)
    with pytest.raises(TypeError, match="evidence"):
        s.explain()


# --- settings


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kernel": "power:4"}, "kernel must be a function such as kernels.named('power:4'), got 'power:4'"),
        ({"kernel": 4}, "kernel must be a function such as kernels.named('power:4'), got 4"),
        ({"prior": "relevance:2"}, "prior is a name: pass siftlm.kernels.named_prior('relevance:2')"),
        (
            {"replacment": False},
            "method 'sift' has no setting 'replacment'; did you mean 'replacement'? Its own are: none",
        ),
        ({"method": "mmr", "balanc": 1}, "method 'mmr' has no setting 'balanc'; did you mean 'balance'? Its own are"),
        ({"xyz": 1}, "method 'sift' has no setting 'xyz'; its own are: none"),
    ],
)
def test_a_wrong_name_is_answered_with_the_right_one(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInput, match=f"^{re.escape(message)}"):
        select(QUERY, CANDIDATES, 5, **settings)


# --- methods


def test_a_method_of_ones_own() -> None:
    @method("shortest", "the candidates with the smallest norm", targeted=False, signed=True)
    def shortest(problem: Problem, *, power: float = 1.0) -> Steps:
        """−k(x, x)"""
        while True:
            yield -(problem.space.diagonal() ** power)

    picked = select(None, CANDIDATES, 5, method=shortest, normalize=False, power=2.0)
    lengths = np.linalg.norm(CANDIDATES, axis=1)
    assert picked.indices.tolist() == np.argsort(lengths)[:5].tolist()
    assert picked.method == "shortest"
    assert "shortest" not in methods(), "a function that is passed is not registered"


def test_a_method_of_another_package(monkeypatch: pytest.MonkeyPatch) -> None:
    from importlib.metadata import EntryPoint

    from siftlm.selection import problem as registry

    added = {
        "theirs": EntryPoint(
            "theirs", "siftlm.selection.selectors.retrieval:nearest", registry.METHODS_ENTRY_POINT_GROUP
        )
    }
    monkeypatch.setattr(registry, "_entry_points", lambda: added)
    assert "theirs" in methods()
    assert select(QUERY, CANDIDATES, 3, method="theirs").indices.tolist() == (
        select(QUERY, CANDIDATES, 3, method="nearest").indices.tolist()
    )
    with pytest.raises(UnknownName, match="did you mean 'theirs'"):
        select(QUERY, CANDIDATES, 3, method="their")


def test_methods_are_sorted_names() -> None:
    assert list(siftlm.methods()) == sorted(set(siftlm.methods()))


@pytest.mark.parametrize("n", [1, 40, 600])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"noise": 1e-9, "method": "nn-f"},
        {"known": np.eye(2, 8)},
        {"kernel": kernels.power(2)},
        {"kernel": lambda x, y: (x @ y.T) ** 3, "method": "nn-f"},
    ],
    ids=["nearest", "repeats", "known", "power", "repeats-of-a-kernel"],
)
def test_the_uncertainty_at_the_end_is_that_of_one_pick_after_the_other(n: int, settings: dict[str, Any]) -> None:
    generator = np.random.default_rng(n)
    texts, prompt = generator.normal(size=(620, 8)), generator.normal(size=(2, 8))
    settings = {"method": "nearest", **settings}
    at_the_end = select(prompt, texts, n, **settings)
    # A rule that never stops anything looks at the uncertainty after each pick.
    one_by_one = select(prompt, texts, n, min_gain=0.0, **settings)
    assert at_the_end.indices.tolist() == one_by_one.indices.tolist()
    np.testing.assert_allclose(at_the_end.uncertainty, one_by_one.uncertainty, atol=1e-7)
