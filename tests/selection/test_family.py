"""Every method of the family on examples that can be checked by hand, and at its edges."""

from __future__ import annotations

import math

import numpy as np
import pytest

from siftlm.errors import Conflict, InvalidInput
from siftlm.selection import Gram, kernels, methods, select
from siftlm.selection.problem import Method, find_method

S = math.sqrt(0.5)
# The prompt; a text close to it, its twin, one less close on the other side, and one beside the point.
PROMPT = np.array([1.0, 0.0, 0.0])
TEXTS = np.array([[0.8, 0.6, 0.0], [0.8, 0.6, 0.0], [0.6, -0.8, 0.0], [0.0, 0.0, 1.0]])
OUTPUTS = np.array([[0.5, 0.5, 0.0], [1.0, 0.0, 0.0], [0.4, 0.3, 0.3], [0.7, 0.2, 0.1]])
BUILT_IN = [name for name in methods() if find_method(name).run.__module__.startswith("siftlm.selection.selectors")]


def picks(method: str, n: int, query=PROMPT, candidates=TEXTS, **settings) -> list[int]:
    return select(query, candidates, n, method=method, **settings).indices.tolist()


def gains(method: str, n: int = 1, query=PROMPT, candidates=TEXTS, **settings) -> list[float]:
    return select(query, candidates, n, method=method, **settings).gains.tolist()


def options_of(entry: Method, size: int, targets: int) -> dict[str, np.ndarray]:
    outputs = {"probabilities": size, "target_probabilities": targets}
    return {name: np.full((rows, 2), 0.5) for name, rows in outputs.items() if name in entry.options}


# --- what is told about the prompt -----------------------------------------------------------------------


def test_vtl_is_sift():
    ours, sift = select(PROMPT, TEXTS, 3, method="vtl"), select(PROMPT, TEXTS, 3, method="sift")
    assert ours.indices.tolist() == sift.indices.tolist()
    assert ours.gains.tolist() == sift.gains.tolist()
    assert ours.method == "vtl"


def test_itl_by_hand():
    # v = T = 1, λ = 0.25, a = 0.8: ½ log(1.25 / (1.25 − 0.64/1.25)) = ½ log(1.25² / (1.25² − 0.64))
    assert gains("itl", noise=0.25) == pytest.approx([0.5 * math.log(1.5625 / (1.5625 - 0.64))])
    assert picks("itl", 2, noise=0.25) == [0, 2]


def test_itl_weighs_the_least_known_target_where_sift_weighs_the_largest():
    # Two targets along one axis and one, shorter, along another: the sum of variances falls most along the
    # first (2 · 1 · …), the determinant too at first; with the first axis known, both turn to the second.
    targets = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 0.5]])
    texts = np.eye(2)
    for method in ("itl", "sift", "mm-itl"):
        assert picks(method, 2, targets, texts, normalize=False) == [0, 1]
    # 4 looks: SIFT still repeats the axis with the larger variance left; all gains stay finite and positive.
    found = select(targets, texts, 8, method="itl", normalize=False, replacement=True)
    assert set(found.indices.tolist()) == {0, 1}
    assert (found.gains > 0).all()


def test_itl_is_the_fall_in_the_logarithm_of_the_determinant():
    generator = np.random.default_rng(0)
    texts, targets = generator.normal(size=(7, 4)), generator.normal(size=(3, 4))
    texts /= np.linalg.norm(texts, axis=1, keepdims=True)
    targets /= np.linalg.norm(targets, axis=1, keepdims=True)
    found = select(targets, texts, 5, method="itl", noise=0.3)

    def log_determinant(chosen: list[int]) -> float:  # of the noisy targets given the picks
        x = texts[chosen]
        left = targets @ (np.eye(4) - x.T @ np.linalg.solve(x @ x.T + 0.3 * np.eye(len(x)), x)) @ targets.T
        return float(np.linalg.slogdet(left + 0.3 * np.eye(3))[1])

    trace = [log_determinant(found.indices[:n].tolist()) for n in range(6)]
    assert found.gains == pytest.approx(-0.5 * np.diff(trace))


def test_noiseless_itl_never_asks_for_what_it_knows():
    # First 0 (cos 0.8); then its twin tells nothing, and 2, which together with 0 fixes the prompt, nearly ∞.
    found = select(PROMPT, TEXTS, 4, method="noiseless-itl")
    assert found.indices.tolist() == [0, 2, 1, 3]
    assert found.gains[0] == pytest.approx(0.5 * math.log(1 / (1 - 0.64)))
    assert found.gains[1] > 8
    assert found.gains[2:].tolist() == [0, 0]


def test_noiseless_itl_reports_the_uncertainty_under_the_noise_of_the_selection():
    found = select(PROMPT, TEXTS, 1, method="noiseless-itl", noise=0.25)
    assert found.uncertainty.tolist() == pytest.approx([1, 1 - 0.64 / 1.25])


def test_mm_itl_is_the_mean_over_targets():
    targets = np.array([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    # Text 0: −½ log(1 − 0.64/1.25) for the one target, nothing for the other; text 3: −½ log(1 − 1/1.25)
    expected = [-0.5 * math.log(1 - 1 / 1.25) / 2, -0.5 * math.log(1 - 0.64 / 1.25) / 2]
    found = select(targets, TEXTS, 2, method="mm-itl", noise=0.25)
    assert found.indices.tolist() == [3, 0]
    assert found.gains.tolist() == pytest.approx(expected)


@pytest.mark.parametrize("method", ["mm-itl", "ctl", "itl", "noiseless-itl"])
def test_a_target_of_length_zero_counts_for_nothing(method):
    with_zero = select(np.array([PROMPT, np.zeros(3)]), TEXTS, 3, method=method, normalize=False)
    alone = select(PROMPT, TEXTS, 3, method=method, normalize=False)
    assert with_zero.indices.tolist() == alone.indices.tolist()
    assert np.isfinite(with_zero.gains).all()


def test_ctl_prefers_the_positively_correlated():
    texts = np.array([[-0.9, math.sqrt(0.19)], [0.5, math.sqrt(0.75)]])
    assert picks("ctl", 2, [1.0, 0.0], texts) == [1, 0]
    assert picks("sift", 2, [1.0, 0.0], texts) == [0, 1]
    assert gains("ctl", 1, [1.0, 0.0], texts) == pytest.approx([0.5])


def test_ctl_conditions_on_the_picks():
    # After 0, λ → 0: prompt and 2 have both lost their part along 0 and are left on one line, in agreement.
    found = select(PROMPT, TEXTS[[0, 2, 3]], 2, method="ctl", noise=1e-9)
    assert found.indices.tolist() == [0, 1]
    assert found.gains.tolist() == pytest.approx([0.8, 1.0], abs=1e-4)


def test_eig_by_hand():
    # One step on (x, c) moves the logits of a target equal to x by rate · (e_c − p_x).
    p, rate = np.array([0.6, 0.4]), 0.5
    expected = 0.0
    for label in range(2):
        logits = np.log([0.5, 0.5]) + rate * (np.eye(2)[label] - p)
        q = np.exp(logits) / np.exp(logits).sum()
        expected += p[label] * -(q * np.log(q)).sum()
    found = select(
        [1.0, 0.0],
        np.array([[0.0, 1.0], [1.0, 0.0]]),
        2,
        method="eig",
        probabilities=[p, p],
        target_probabilities=[[0.5, 0.5]],
        rate=rate,
    )
    assert found.indices.tolist() == [1, 0]
    assert found.gains.tolist() == pytest.approx([math.log(2) - expected, 0], abs=1e-12)


def test_eig_can_be_negative_and_stands_a_certain_target():
    found = select([1.0, 0.0], [[1.0, 0.0]], 1, method="eig", probabilities=[[0.5, 0.5]], target_probabilities=[[1, 0]])
    assert found.gains.tolist() == pytest.approx([0], abs=1e-12)
    # A target that is nearly sure of one class, pulled to both sides in turn, loses some of its certainty.
    found = select(
        [1.0, 0.0],
        [[1.0, 0.0]],
        1,
        method="eig",
        probabilities=[[0.5, 0.5]],
        target_probabilities=[[0.9, 0.1]],
        rate=1.0,
    )
    assert found.gains[0] < 0


def test_eig_in_small_blocks_is_the_same(monkeypatch):
    generator = np.random.default_rng(1)
    outputs, targets = generator.dirichlet(np.ones(3), 9), generator.dirichlet(np.ones(3), 2)
    texts, queries = generator.normal(size=(9, 4)), generator.normal(size=(2, 4))
    settings = {"method": "eig", "probabilities": outputs, "target_probabilities": targets}
    whole = select(queries, texts, 9, **settings)
    monkeypatch.setattr(find_method("eig").run.__globals__["__name__"] + ".EIG_BLOCK_LOGITS", 1)
    blocks = select(queries, texts, 9, **settings)
    assert whole.indices.tolist() == blocks.indices.tolist()
    assert whole.gains.tolist() == blocks.gains.tolist()


# --- without a prompt ------------------------------------------------------------------------------------


def test_undirected_vtl_starts_with_the_typical():
    # 0 and 1 are equal, and 2 and 3 stand alone: a look at 0 settles two of four.
    found = select(None, np.eye(3)[[2, 0, 0, 1]], 2, method="undirected-vtl", noise=0.25)
    assert found.indices.tolist() == [1, 0]
    assert found.gains.tolist() == pytest.approx([2 / 1.25 / 4, 1 / 1.25 / 4])


@pytest.mark.parametrize(("size", "width"), [(30, 4), (6, 12), (4, 4)])
@pytest.mark.parametrize("known", [0, 3])
def test_undirected_vtl_is_sift_with_the_candidates_as_targets(size, width, known):
    generator = np.random.default_rng(2)
    texts = generator.normal(size=(size, width))
    more = {"known": generator.normal(size=(known, width))} if known else {}
    ours = select(None, texts, 4, method="undirected-vtl", noise=0.1, **more)
    sift = select(texts, texts, 4, method="sift", noise=0.1, **more)
    assert ours.indices.tolist() == sift.indices.tolist()
    assert ours.gains == pytest.approx(sift.gains)
    assert np.isnan(ours.uncertainty).all()


@pytest.mark.parametrize("kernel", [None, kernels.power(1), kernels.plus_constant(0.0), "gram"])
def test_undirected_vtl_in_every_space(kernel):
    texts = np.random.default_rng(3).normal(size=(12, 3))
    texts /= np.linalg.norm(texts, axis=1, keepdims=True)
    plain = select(None, texts, 5, method="undirected-vtl")
    if kernel == "gram":
        other = select(None, Gram(texts @ texts.T), 5, method="undirected-vtl")
    else:
        other = select(None, texts, 5, method="undirected-vtl", kernel=kernel)
    assert other.indices.tolist() == plain.indices.tolist()
    assert other.gains == pytest.approx(plain.gains)


def test_undirected_vtl_reports_the_uncertainty_about_the_query():
    found = select(PROMPT, TEXTS, 1, method="undirected-vtl", noise=0.25)
    assert found.indices.tolist() == [0]
    assert found.uncertainty.tolist() == pytest.approx([1, 1 - 0.64 / 1.25])


@pytest.mark.parametrize("method", ["undirected-vtl", "facility-location"])
def test_too_many_pairs_are_refused(method):
    texts = np.ones((8193, 1))
    kernel = kernels.power(2)
    with pytest.raises(Conflict, match="compares every pair"):
        select(None, texts, 1, method=method, kernel=kernel)


def test_undirected_itl_and_uncertainty_avoid_what_is_known():
    for method in ("undirected-itl", "uncertainty"):
        # 2 is orthogonal to 0: 0.8 · 0.6 − 0.6 · 0.8.
        assert picks(method, 3, None) == [0, 2, 3]
    assert gains("undirected-itl", 1, None, noise=0.25) == pytest.approx([0.5 * math.log(5)])
    assert gains("uncertainty", 2, None, noise=0.25)[0] == 1


def test_undirected_itl_adds_up_to_the_determinant():
    texts = np.random.default_rng(4).normal(size=(9, 3))
    found = select(None, texts, 6, method="undirected-itl", normalize=False, noise=0.5)
    chosen = texts[found.indices]
    total = 0.5 * np.linalg.slogdet(np.eye(6) + chosen @ chosen.T / 0.5)[1]
    assert found.gains.sum() == pytest.approx(total)


def test_max_dist_goes_to_the_other_end():
    line = np.array([[3.0], [0.0], [10.0], [11.0], [5.0]])
    found = select(None, line, 5, method="max-dist", normalize=False)
    assert found.indices.tolist() == [3, 1, 4, 0, 2]
    assert found.gains.tolist() == [121, 121, 25, 4, 1]


def test_max_dist_counts_known_items_as_centres():
    line = np.array([[3.0], [0.0], [10.0], [11.0], [5.0]])
    assert picks("max-dist", 2, None, line, normalize=False, known=[[11.0], [0.0]]) == [4, 0]


@pytest.mark.slow
def test_k_means_pp_draws_in_proportion_to_squared_distance():
    line = np.array([[0.0], [1.0], [3.0]])
    drawn = [picks("k-means++", 1, None, line, normalize=False, known=[[0.0]], seed=seed)[0] for seed in range(2000)]
    counts = np.bincount(drawn, minlength=3)
    assert counts[0] == 0
    assert counts[2] / 2000 == pytest.approx(0.9, abs=0.03)


def test_k_means_pp_starts_anywhere():
    line = np.array([[0.0], [1.0], [3.0]])
    first = [picks("k-means++", 1, None, line, normalize=False, seed=seed)[0] for seed in range(1500)]
    assert np.bincount(first) / 1500 == pytest.approx([1 / 3] * 3, abs=0.05)


@pytest.mark.parametrize("method", ["random", "k-means++"])
def test_the_seed_decides(method):
    texts = np.random.default_rng(5).normal(size=(30, 4))
    assert picks(method, 10, None, texts, seed=1) == picks(method, 10, None, texts, seed=1)
    assert picks(method, 10, None, texts, seed=1) != picks(method, 10, None, texts, seed=2)


@pytest.mark.slow
def test_random_with_a_prior_is_a_weighted_draw():
    first = [picks("random", 1, None, np.eye(4), prior=[1, 0, 3, 4], seed=seed)[0] for seed in range(2000)]
    assert np.bincount(first, minlength=4) / 2000 == pytest.approx([0.125, 0, 0.375, 0.5], abs=0.04)


def test_random_without_replacement_takes_everything_once():
    assert sorted(picks("random", 4, None, np.eye(4))) == [0, 1, 2, 3]


# --- nearest neighbours and classifiers ------------------------------------------------------------------


def test_nn_f_repeats_the_nearest():
    assert picks("nn-f", 3) == [0, 0, 0]
    assert picks("nn-f", 3, replacement=2) == [0, 0, 1]
    assert gains("nn-f", 2) == pytest.approx([0.9, 0.9])


def test_information_density_is_entropy_times_relevance():
    found = select(PROMPT, TEXTS, 4, method="information-density", probabilities=OUTPUTS)
    spread = -(0.4 * math.log(0.4) + 2 * 0.3 * math.log(0.3))
    # 1 is certain and 3 beside the point: both gain 0.
    assert found.indices.tolist() == [2, 0, 1, 3]
    assert found.gains.tolist() == pytest.approx([0.6 * spread, 0.8 * math.log(2), 0, 0])
    assert picks("information-density", 1, probabilities=OUTPUTS, beta=4.0) == [0]


def test_information_density_ignores_the_opposite():
    assert gains("information-density", 1, -PROMPT, probabilities=OUTPUTS) == [0]


def test_the_three_of_softmax_outputs():
    assert picks("max-entropy", 4, None, OUTPUTS) == [2, 3, 0, 1]
    assert picks("min-margin", 4, None, OUTPUTS) == [0, 2, 3, 1]
    assert picks("least-confidence", 4, None, OUTPUTS) == [2, 0, 3, 1]
    assert gains("max-entropy", 4, None, OUTPUTS)[2:] == pytest.approx([math.log(2), 0])
    assert gains("min-margin", 4, None, OUTPUTS) == pytest.approx([1, 0.9, 0.5, 0])
    assert gains("least-confidence", 4, None, OUTPUTS) == pytest.approx([0.6, 0.5, 0.3, 0])


@pytest.mark.parametrize("method", ["max-entropy", "min-margin", "least-confidence"])
def test_one_class_is_certain(method):
    assert gains(method, 2, None, [[1.0], [1.0005]]) == [0, 0]


# --- peers from retrieval --------------------------------------------------------------------------------


def test_mmr_by_hand():
    # After 0: its twin 0.4 − 0.5, 2: 0.3 − 0, 3: 0 − 0.
    found = select(PROMPT, TEXTS, 4, method="mmr")
    assert found.indices.tolist() == [0, 2, 3, 1]
    assert found.gains.tolist() == pytest.approx([0.4, 0.3, 0, -0.1])
    assert picks("mmr", 4, balance=1.0) == [0, 1, 2, 3]


def test_mmr_counts_known_items_as_picks():
    assert picks("mmr", 1, known=[[0.8, 0.6, 0.0]]) == [2]


def test_max_sum_by_hand():
    # After 0: 1 → 0.4, 2 → 0.3 + 0.5, 3 → 0.5. After 0, 2: 1 → 0.4 + 0.5, 3 → 1.
    found = select(PROMPT, TEXTS, 4, method="max-sum")
    assert found.indices.tolist() == [0, 2, 3, 1]
    assert found.gains.tolist() == pytest.approx([0.4, 0.8, 1.0, 0.4 + 0 + 0.5 + 0.5])


def test_dpp_maximises_the_determinant():
    found = select(PROMPT, TEXTS, 3, method="dpp")
    relevance = np.array([0.8, 0.8, 0.6, 0.0])
    weight = np.exp(0.5 * (relevance - relevance.mean()) / relevance.std())
    assert found.indices.tolist() == [0, 2, 3]
    assert found.gains.tolist() == pytest.approx((weight[[0, 2, 3]] ** 2).tolist())


def test_dpp_gains_multiply_to_the_determinant():
    generator = np.random.default_rng(6)
    texts, query = generator.normal(size=(12, 5)), generator.normal(size=5)
    found = select(query, texts, 4, method="dpp", balance=1.0)
    unit = texts / np.linalg.norm(texts, axis=1, keepdims=True)
    relevance = unit @ query / np.linalg.norm(query)
    weight = np.exp((relevance - relevance.mean()) / relevance.std())
    kernel = np.outer(weight, weight) * (unit @ unit.T)
    chosen = kernel[np.ix_(found.indices, found.indices)]
    assert np.prod(found.gains) == pytest.approx(np.linalg.det(chosen))


def test_dpp_stands_texts_of_equal_relevance():
    assert picks("dpp", 2, [0.0, 0.0, 1.0], np.array([[1.0, 0, 0], [1.0, 0, 0], [0, 1.0, 0]])) == [0, 2]


def test_facility_location_by_hand():
    # Without a query all weigh 1: text 0 serves itself and its twin, then 2 and 3 one each.
    found = select(None, TEXTS, 4, method="facility-location")
    assert found.indices.tolist() == [0, 2, 3, 1]
    assert found.gains.tolist() == pytest.approx([2, 1, 1, 0])
    # With one, 3 weighs nothing.
    assert gains("facility-location", 4) == pytest.approx([1.6, 0.6, 0, 0])


def test_facility_location_needs_nothing_near_known_items():
    found = select(None, np.eye(3), 3, method="facility-location", known=[[1.0, 1.0, 0.0]])
    assert found.indices.tolist() == [2, 0, 1]
    assert found.gains.tolist() == pytest.approx([1, 1 - S, 1 - S])


def test_cover_by_hand():
    # Cover of 0: itself and its twin, 2; of 2 and 3: 1. After 0 its twin adds 2 (√2 − 1).
    found = select(PROMPT, TEXTS, 4, method="cover")
    assert found.indices.tolist() == [0, 1, 2, 3]
    more = 0.4 + math.sqrt(2) - 1
    assert found.gains.tolist() == pytest.approx([0.4 + 1, more, 0.3 + 0.5, 0.5])
    assert picks("cover", 3, balance=0.2, gamma=0.1) == [0, 2, 3]


@pytest.mark.parametrize("method", ["mmr", "max-sum", "cover"])
def test_balance_is_a_fraction(method):
    with pytest.raises(InvalidInput, match="balance must be a number from 0 to 1"):
        select(PROMPT, TEXTS, 1, method=method, balance=1.5)


def test_cover_refuses_to_cover_nothing():
    with pytest.raises(InvalidInput, match="gamma must be > 0"):
        select(PROMPT, TEXTS, 1, method="cover", gamma=0)


# --- lazy SIFT -------------------------------------------------------------------------------------------


def test_sift_fast_is_sift_while_gains_only_fall():
    # Orthogonal texts: a pick changes no other gain.
    query = np.array([4.0, 3.0, 2.0, 1.0])
    lazy, full = (select(query, np.eye(4), 6, method=name, replacement=True) for name in ("sift-fast", "sift"))
    assert lazy.indices.tolist() == full.indices.tolist()
    assert lazy.gains == pytest.approx(full.gains)
    assert lazy.uncertainty == pytest.approx(full.uncertainty)


def test_sift_fast_misses_a_gain_that_grew():
    # 0 is the prompt plus a distraction and 3 the distraction: worth nothing alone, all the rest after 0.
    # 1 is a little of what the prompt needs, so its remembered gain is what keeps 3 from being looked at.
    query = np.array([1.0, 0.0, 0.0])
    texts = np.array([[0.8, 0.6, 0.0], [0.5, -0.1, math.sqrt(0.74)], [0.2, 0.1, math.sqrt(0.95)], [0.0, 1.0, 0.0]])
    lazy, full = (select(query, texts, 2, method=name, noise=0.01) for name in ("sift-fast", "sift"))
    assert full.indices.tolist() == [0, 3]
    assert lazy.indices.tolist() == [0, 1]
    assert lazy.certified is not None
    assert lazy.certified.tolist() == [True, False]


def test_sift_fast_certifies_only_what_sift_would_pick():
    generator = np.random.default_rng(7)
    certified = 0
    for _ in range(200):
        targets, items = generator.integers(1, 4), generator.integers(0, 3)
        texts, query, known = (generator.normal(size=(rows, 3)) for rows in (20, targets, items))
        prior, sources = generator.uniform(size=20), np.arange(20) % 10
        settings = {"noise": float(10 ** generator.uniform(-2, 1)), "prior": prior}
        lazy = select(query, texts, 6, method="sift-fast", known=known, sources=sources, source_cap=2, **settings)
        assert lazy.certified is not None
        assert lazy.certified[0] or items
        for n in np.flatnonzero(lazy.certified):
            before = lazy.indices[:n]
            used = [source for source in range(10) if (before % 10 == source).sum() >= 2]
            exclude = np.flatnonzero(np.isin(sources, used))
            told = np.concatenate([known, texts[before]])
            best = select(query, texts, 1, method="sift", known=told, exclude=exclude, **settings)
            assert best.indices[0] == lazy.indices[n]
            certified += n > 0
    assert certified > 20


def test_sift_fast_with_many_candidates_settles_everything():
    generator = np.random.default_rng(8)
    texts = generator.normal(size=(3000, 4))
    lazy = select(texts[0], texts, 12, method="sift-fast", noise=1.0)
    full = select(texts[0], texts, 12, method="sift", noise=1.0)
    assert lazy.uncertainty[-1] <= 1.1 * full.uncertainty[-1]


@pytest.mark.parametrize("targets", [1, 3])
def test_sift_fast_starts_with_the_sum_of_squares(targets):
    # Squares of two opposite targets add up; the square of their sum is 0.
    queries = np.array([[1.0, 0.0], [-1.0, 0.0], [1.0, 0.0]])[:targets]
    assert picks("sift-fast", 1, queries, np.eye(2)[::-1]) == [1]


# --- hull ------------------------------------------------------------------------------------------------


def test_hull_rebuilds_the_prompt_in_whole_numbers():
    # q = ¾ e0 + ¼ e1: three of one to one of the other, whatever else there is.
    query, texts = np.array([0.75, 0.25, 0.0]), np.eye(3)
    found = select(query, texts, 4, method="hull", normalize=False)
    assert found.indices.tolist() == [0, 0, 0, 1]
    assert found.gains.tolist() == pytest.approx([0.75] * 3 + [0.25], abs=1e-6)
    assert picks("hull", 8, query, texts, normalize=False) == [0] * 6 + [1] * 2


def test_hull_hands_out_what_rounding_left():
    # Shares of 5: 3.75 and 1.25, so 4 and 1 are nearest.
    assert picks("hull", 5, np.array([0.75, 0.25, 0.0]), np.eye(3), normalize=False) == [0, 0, 0, 0, 1]


def test_hull_takes_a_text_that_is_the_prompt():
    assert picks("hull", 3, PROMPT, np.array([[0.6, 0.8, 0.0], [1.0, 0.0, 0.0]])) == [1, 1, 1]


def test_hull_rebuilds_the_mean_of_several_targets():
    queries = np.array([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    assert picks("hull", 4, queries, np.eye(3), normalize=False) == [0, 0, 2, 2]


def test_hull_respects_exclusions_and_leaves_known_items_out():
    query, texts = np.array([0.75, 0.25, 0.0]), np.eye(3)
    # Without 0, ‖q − a e1 − (1 − a) e2‖² is least at a = 5/8.
    assert picks("hull", 3, query, texts, normalize=False, exclude=[0]) == [1, 1, 2]
    assert picks("hull", 4, query, texts, normalize=False, known=[[1.0, 0.0, 0.0]]) == [0, 0, 0, 1]


def test_hull_refuses_what_acts_between_picks():
    for setting in ({"prior": np.ones(4)}, {"costs": np.ones(4)}, {"replacement": False}):
        with pytest.raises(Conflict):
            select(PROMPT, TEXTS, 2, method="hull", **setting)


def test_hull_leaves_no_move_that_helps():
    generator = np.random.default_rng(9)
    for _ in range(20):
        texts, query = generator.normal(size=(15, 6)), generator.normal(size=6)
        texts /= np.linalg.norm(texts, axis=1, keepdims=True)
        query /= np.linalg.norm(query)
        found = select(query, texts, 9, method="hull")
        counts = np.bincount(found.indices, minlength=15)
        best = np.sum((query - counts @ texts / 9) ** 2)
        for giver in np.flatnonzero(counts):
            for taker in np.flatnonzero(counts):
                moved = counts.copy()
                moved[giver] -= 1
                moved[taker] += 1
                assert np.sum((query - moved @ texts / 9) ** 2) >= best - 1e-12
        first_seen = counts[found.distinct]
        assert (np.diff(first_seen) <= 0).all()


def test_hull_with_a_kernel_is_hull_of_its_features():
    generator = np.random.default_rng(10)
    texts, query = generator.normal(size=(10, 3)), generator.normal(size=3)
    texts /= np.linalg.norm(texts, axis=1, keepdims=True)
    query /= np.linalg.norm(query)
    squared = picks("hull", 6, query, texts, kernel=kernels.power(2))
    features = np.einsum("ni,nj->nij", texts, texts).reshape(10, 9)
    assert squared == picks("hull", 6, np.outer(query, query).ravel(), features)


# --- all of them -----------------------------------------------------------------------------------------


def run(name: str, query, candidates, n: int, **settings):
    entry = find_method(name)
    if entry.reads == "probabilities":
        return select(None, np.abs(candidates) / np.abs(candidates).sum(axis=1, keepdims=True), n, method=name)
    options = options_of(entry, len(candidates), len(np.atleast_2d(query)))
    if name == "deita":  # which otherwise leaves out what is alike
        options["threshold"] = 1.0
    return select(query, candidates, n, method=name, **options, **settings)


@pytest.mark.parametrize("name", BUILT_IN)
def test_one_candidate(name):
    found = run(name, PROMPT, TEXTS[:1], 1)
    assert found.indices.tolist() == [0]
    assert np.isfinite(found.gains).all()


@pytest.mark.parametrize("name", BUILT_IN)
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_equal_candidates(name, dtype):
    found = run(name, PROMPT, np.full((6, 3), 0.7, dtype=dtype), 6)
    assert len(found) == 6
    assert np.isfinite(found.gains).all()
    assert found.stopped == "n"


@pytest.mark.parametrize("name", BUILT_IN)
def test_a_prompt_that_no_candidate_touches(name):
    found = run(name, np.array([0.0, 0.0, 1.0]), np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [S, S, 0.0]]), 3)
    assert len(found) == 3
    assert np.isfinite(found.gains).all()


@pytest.mark.parametrize("name", BUILT_IN)
def test_several_targets_and_known_items(name):
    generator = np.random.default_rng(11)
    texts, queries = generator.normal(size=(9, 4)), generator.normal(size=(5, 4))
    more = (
        {} if find_method(name).reads == "probabilities" else {"known": generator.normal(size=(2, 4)), "exclude": [3]}
    )
    found = run(name, queries, texts, 5, **more)
    assert found.indices.max() < 9
    assert not (3 in found.indices and more)
    if more:
        # The measure of what is left is the same for all methods.
        vectors = np.concatenate([more["known"], texts[found.indices]])
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        prompt = queries / np.linalg.norm(queries, axis=1, keepdims=True)
        cross = prompt @ vectors.T
        inside = np.linalg.solve(vectors @ vectors.T + 0.01 * np.eye(len(vectors)), cross.T)
        assert found.uncertainty[-1] == pytest.approx(1 - np.einsum("mn,nm->", cross, inside) / 5)


@pytest.mark.parametrize("name", BUILT_IN)
def test_gains_are_what_is_declared(name):
    entry = find_method(name)
    generator = np.random.default_rng(12)
    found = run(name, generator.normal(size=(2, 4)), generator.normal(size=(8, 4)), 8)
    assert entry.signed or (found.gains >= 0).all()
    assert entry.repeats or len(set(found.indices.tolist())) == 8
    assert entry.summary
    assert entry.formula.strip()


@pytest.mark.parametrize("name", [name for name in BUILT_IN if find_method(name).targeted])
def test_a_targeted_method_needs_a_query(name):
    with pytest.raises(InvalidInput, match="needs a prompt"):
        select(None, TEXTS, 1, method=name, **options_of(find_method(name), 4, 0))


@pytest.mark.parametrize("name", ["eig", "information-density"])
def test_outputs_have_to_be_given(name):
    with pytest.raises(InvalidInput, match="needs probabilities"):
        select(PROMPT, TEXTS, 1, method=name)
    options = {key: value[:-1] for key, value in options_of(find_method(name), 4, 2).items()}
    with pytest.raises(InvalidInput, match="probabilities"):
        select(PROMPT, TEXTS, 1, method=name, **options)
