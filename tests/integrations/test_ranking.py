"""The core of the adapters: what is picked, what is said about it, and when it ends."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import siftlm
from effort import examples
from siftlm.errors import Conflict, InvalidInput, UnknownName
from siftlm.integrations.ranking import DEFAULT_STOPPING, METADATA_KEY, check_settings, rank, with_costs
from siftlm.selection import Limits, Stopping


def near(query, size=40, seed=0, noise=1.0):
    rng = np.random.default_rng(seed)
    return np.asarray(query) + noise * rng.normal(size=(size, np.shape(query)[-1]))


PROMPT = np.eye(8)[0]
WORDINGS = near(PROMPT, noise=0.05)
SCATTERED = near(PROMPT, noise=0.6)
TWO = np.array([[1.0, 0.2, 0.1], [0.3, 1.0, 0.2]])


def cosine(a, b):
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


@given(
    seed=st.integers(0, 10**6),
    size=st.integers(1, 30),
    targets=st.integers(1, 4),
    n=st.integers(1, 12),
    noise=st.sampled_from([0.01, 0.1, 1.0]),
    method=st.sampled_from(["sift", "nearest", "mmr", "dpp", "itl"]),
)
@settings(max_examples=examples(60))
def test_the_figures_are_what_they_say(seed, size, targets, n, noise, method):
    rng = np.random.default_rng(seed)
    query, candidates = rng.normal(size=(targets, 6)), rng.normal(size=(size, 6))
    ranking = rank(query, candidates, n, noise=noise, method=method, min_gain=0)
    blind = method in ("sift", "itl")
    cosines = np.array([[cosine(one, target) for target in query] for one in candidates])
    allowed = np.flatnonzero(cosines.max(axis=1) > 0) if blind else np.arange(size)
    assert len(ranking) == min(n, len(allowed))
    assert (ranking.stopped == "n") == (n <= len(allowed))
    assert set(ranking.indices) <= set(allowed.tolist())
    if not len(allowed):
        return
    same = siftlm.select(query, candidates[allowed], len(ranking), noise=noise, method=method, replacement=False)
    assert ranking.indices == allowed[same.indices].tolist()
    assert [one.left for one in ranking] == pytest.approx(same.uncertainty[1:] / same.uncertainty[0])
    for at, one in enumerate(ranking):
        earlier = [cosine(candidates[one.index], candidates[before]) for before in ranking.indices[:at]]
        assert one.relevance == pytest.approx(cosines[one.index].max())
        assert one.overlap == pytest.approx(max([0.0, *earlier]))
        assert one.gain == pytest.approx(same.gains[at])


def test_it_stops_by_default_when_more_would_tell_little():
    assert DEFAULT_STOPPING.active
    few, all_of_them = rank(PROMPT, WORDINGS), rank(PROMPT, WORDINGS, min_growth=0)
    assert few.enough
    assert len(few) < len(all_of_them) == 20
    assert few.indices == rank(PROMPT, WORDINGS, stopping=DEFAULT_STOPPING).indices
    assert few.indices == all_of_them.indices[: len(few)]
    assert all_of_them.stopped == "n"
    assert not all_of_them.enough


def test_a_rule_of_ones_own_takes_the_place_of_the_default():
    assert rank(PROMPT, SCATTERED, until=0.3, min_growth=None).stopped == "until"
    same = rank(PROMPT, SCATTERED, stopping=Stopping(until=0.3))
    assert same.indices == rank(PROMPT, SCATTERED, until=0.3).indices
    assert len(rank(PROMPT, WORDINGS, at_least=7)) == 7  # which alone is no rule
    assert rank(PROMPT, WORDINGS, adaptive=2.0).stopped == "adaptive"


def test_other_methods_return_as_many_as_asked_for():
    assert len(rank(PROMPT, WORDINGS, method="nearest")) == 20
    assert rank(PROMPT, WORDINGS, method="nearest", until=0.1).stopped == "until"


@pytest.mark.parametrize(
    ("options", "verdict"),
    [
        (
            {"n": 10, "min_gain": 0},
            r"10 of 40 passages: as many as were asked for\. Left: [\d.]+% of the uncertainty about the",
        ),
        ({}, r"\d+ of 40 passages: the next would add less than 3% to what these tell\. Left: \d+% of"),
        ({"until": 0.2}, r"\d of 40 passages: no more than 20% of the uncertainty was to be left\. Left: \d+% of"),
        ({"min_gain": 0.5}, r"\d of 40 passages: the next would take away less than 50% of what is left\. Left"),
        ({"adaptive": 2.0}, r"1 of 40 passages: the next would not pay by the adaptive rule \(α = 2\)\. Left"),
        ({"min_gain": 0, "costs": [3.0] * 40, "budget": 7}, r"2 of 40 passages: any other would exceed the budget\."),
        ({"min_gain": 0, "exclude": range(2, 40)}, r"2 of 40 passages: there are no more to pick\. Left"),
    ],
)
def test_the_verdict_says_why_there_are_no_more(options, verdict):
    ranking = rank(PROMPT, SCATTERED, **options)
    assert ranking.verdict in str(ranking)
    assert re.match(verdict, ranking.verdict)


def test_several_vectors_are_several_targets():
    north, east = np.eye(4)[0], np.eye(4)[1]
    passages = np.array([north + 0.1, north + 0.11, east + 0.3, north + east, -north])
    both = rank([north, east], passages, 2, min_gain=0)
    left = [
        siftlm.select(target, passages[both.indices], 2, normalize=True).uncertainty[-1] for target in (north, east)
    ]
    assert max(left) < 0.5
    assert 4 not in both.indices


def test_what_points_away_is_picked_only_if_it_may_be():
    away = np.concatenate([-WORDINGS[:1], SCATTERED[:1]])
    assert rank(PROMPT, away).indices == [1]
    assert rank(PROMPT, away, opposites=True).indices[0] == 0
    assert rank(PROMPT, away[:1]).verdict == "0 of 1 passages: none of them points towards the prompt."
    assert rank(PROMPT, away, method="nearest").indices == [1, 0]


def test_no_candidates_are_no_error():
    for nothing in ([], np.zeros((0, 8))):
        ranking = rank(PROMPT, nothing)
        assert (len(ranking), ranking.considered, ranking.left, ranking.enough) == (0, 0, 1.0, False)
        assert ranking.to_dict()["verdict"] == "0 passages: there were none to choose from."


def test_repeats_are_picked_only_if_they_may_be():
    assert len(rank(PROMPT, SCATTERED[:3], 9, min_gain=0)) == 3
    assert len(rank(PROMPT, SCATTERED[:3], 9, min_gain=0, replacement=True)) == 9
    assert len(rank(PROMPT, SCATTERED[:3], 9, min_gain=0, replacement=2)) == 6
    assert len(rank(PROMPT, SCATTERED[:3], 9, min_gain=0, limits=Limits(exclude=[0]))) == 2


def test_kernels_and_priors_go_by_name():
    named = rank(PROMPT, SCATTERED, kernel="power:4", prior="relevance:2")
    made = rank(PROMPT, SCATTERED, kernel=siftlm.kernels.power(4), prior=siftlm.kernels.named_prior("relevance:2"))
    assert named.to_dict() == made.to_dict()
    assert named.indices != rank(PROMPT, SCATTERED).indices


def test_costs_may_be_a_function_of_the_text():
    assert with_costs({"costs": str.split, "n": 3}, []) == {"costs": [], "n": 3}
    texts = ["x" * (10 if at else 1) for at in range(40)]
    options = with_costs({"costs": len, "budget": 12, "min_gain": 0}, texts)
    ranking = rank(PROMPT, SCATTERED, **options)
    assert sum(len(texts[index]) for index in ranking.indices) <= 12
    assert ranking.stopped == "budget"


def test_what_a_document_keeps_can_be_written():
    ranking = rank(PROMPT, SCATTERED)
    kept = {METADATA_KEY: ranking.metadata(1)}
    assert json.loads(json.dumps(kept, allow_nan=False))[METADATA_KEY]["verdict"] == ranking.verdict
    assert set(ranking.metadata(1)) == {"rank", "gain", "relevance", "overlap", "left", "stopped", "verdict"}
    assert ranking.metadata(1)["rank"] == 2
    plain = json.loads(json.dumps(ranking.to_dict(), allow_nan=False))
    assert [one["index"] for one in plain["passages"]] == ranking.indices


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"n": 0}, InvalidInput, "n must be a whole number"),
        ({"method": "shift"}, UnknownName, "did you mean 'sift'"),
        ({"noise": -1}, InvalidInput, "noise must be a number > 0"),
        ({"until": 2}, InvalidInput, "until must be"),
        ({"min_growht": 0.1}, InvalidInput, "did you mean 'min_growth'"),
        ({"budget": 5}, Conflict, "budget needs costs"),
        ({"costs": 3}, InvalidInput, "costs must have one number"),
        ({"kernel": "powr"}, InvalidInput, "powr"),
        ({"prior": "relevanc"}, InvalidInput, "relevanc"),
        ({"opposites": "yes"}, InvalidInput, "opposites must be True or False"),
        ({"stopping": 3}, InvalidInput, "stopping must be Stopping"),
    ],
)
def test_settings_are_checked_before_there_is_a_prompt(options, error, message):
    with pytest.raises(error, match=message):
        check_settings(**options)
    with pytest.raises(error, match=message):
        rank(PROMPT, SCATTERED, **options)


def test_settings_with_a_value_for_each_candidate_pass_the_check():
    check_settings(3, costs=len, budget=10, exclude=[7], sources=["a"] * 9, source_cap=2, prior=np.ones(9))
    check_settings(method="mmr", balance=0.3, known=np.ones((2, 9)))
    with pytest.raises(InvalidInput, match="costs must have one number"):
        rank(PROMPT, SCATTERED, costs=[1.0], budget=3)


def test_vectors_of_another_width_are_told():
    with pytest.raises(InvalidInput, match="query has vectors of width 3, expected 8"):
        rank(np.ones(3), SCATTERED)
    with pytest.raises(InvalidInput, match="candidates row 1 is not finite"):
        rank(PROMPT, [[0.0] * 7 + [1], [np.nan] * 8])


def test_what_has_no_direction_is_not_picked() -> None:
    blank = np.vstack([TWO, np.zeros((1, 3))])
    ranking = rank([1.0, 0.5, 0.0], blank, min_growth=0)
    assert ranking.indices == rank([1.0, 0.5, 0.0], TWO, min_growth=0).indices
    assert ranking.considered == 3
    assert len(rank([1.0, 0.5, 0.0], blank, 3, method="mmr")) == 2
    assert rank([1.0, 0.0, 0.0], np.zeros((2, 3))).indices == []


def test_a_prompt_without_direction_is_refused() -> None:
    with pytest.raises(InvalidInput, match="query row 0 is all zeros"):
        rank([0.0, 0.0, 0.0], TWO)
    with pytest.raises(InvalidInput, match="query row 0 is too short"):
        rank([1e-200, 0.0, 0.0], TWO)


def test_long_vectors_of_float64_point_where_short_ones_do() -> None:
    assert rank([1.0, 0.5, 0.0], TWO * 1e100).indices == rank([1.0, 0.5, 0.0], TWO).indices


def test_a_verdict_says_that_everything_points_away_and_how_much_is_left() -> None:
    away = rank([-1.0, -1.0, 0.0], TWO)
    assert away.verdict == "0 of 2 passages: none of them points towards the prompt."
    dear = rank([1.0, 0.0, 0.0], TWO, costs=[5, 5], budget=1)
    assert dear.verdict.endswith("Left: 100% of the uncertainty about the prompt.")


def test_nothing_known_is_no_error() -> None:
    assert rank([1.0, 0.0, 0.0], TWO, known=[]).indices == rank([1.0, 0.0, 0.0], TWO).indices
