"""The published selectors against slow, direct readings of their papers, and at their edges."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from siftlm.errors import Conflict, InvalidInput
from siftlm.selection import kernels, select

PUBLISHED = ["rds", "less", "got-d", "dac", "mig", "deita", "goracs", "dealrec", "adapt-inf"]
DRAW = np.random.default_rng(5)
POOL, TARGETS = DRAW.normal(size=(40, 6)), DRAW.normal(size=(5, 6))


def unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


COSINES = unit(TARGETS) @ unit(POOL).T


def picks(method: str, n: int, query=TARGETS, pool=POOL, **settings) -> list[int]:
    return select(query, pool, n, method=method, **settings).indices.tolist()


# --- RDS+ and LESS


def test_rds_goes_round_the_targets():
    left, expected = set(range(len(POOL))), []
    for turn in range(12):
        best = max(left, key=lambda at: COSINES[turn % len(TARGETS), at])
        left.remove(best)
        expected.append(best)
    found = select(TARGETS, POOL, 12, method="rds")
    assert found.indices.tolist() == expected
    assert found.gains == pytest.approx([(1 + COSINES[at % 5, one]) / 2 for at, one in enumerate(expected)])


def test_rds_gives_a_target_its_next_where_another_took_the_nearest():
    pool = np.array([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0]])
    assert picks("rds", 3, [[1.0, 0.0], [1.0, 0.01]], pool) == [0, 1, 2]


def test_rds_with_known_items_begins_with_the_first_target():
    assert picks("rds", 4, known=POOL[:3] + 0.1) == picks("rds", 4)


def test_less_is_the_largest_mean_over_a_group():
    groups = ["sums", "words", "sums", "words", "maps"]
    members = {name: [at for at, group in enumerate(groups) if group == name] for name in groups}
    score = [max(np.mean([COSINES[m, x] for m in rows]) for rows in members.values()) for x in range(len(POOL))]
    assert picks("less", 10, groups=groups) == np.argsort(score)[::-1][:10].tolist()
    alone = COSINES.max(axis=0)
    assert picks("less", 10) == np.argsort(-alone).tolist()[:10]
    assert picks("less", 10, groups=["all"] * 5) == picks("nearest", 10)


def test_less_on_features_of_several_checkpoints_is_their_weighted_sum():
    rates = [0.1, 0.4]
    train, goals = [unit(DRAW.normal(size=(30, 4))) for _ in rates], [unit(DRAW.normal(size=(3, 4))) for _ in rates]
    influence = sum(rate * goal @ one.T for rate, goal, one in zip(rates, goals, train, strict=True))
    joined = [np.hstack([rate**0.5 * one for rate, one in zip(rates, part, strict=True)]) for part in (train, goals)]
    assert picks("less", 6, joined[1], joined[0]) == np.argsort(-influence.max(axis=0)).tolist()[:6]


@pytest.mark.parametrize("groups", [["a"], "abcde", 3])
def test_less_wants_a_group_for_each_target(groups):
    with pytest.raises(InvalidInput, match="groups must be a list with a label for each of 5 targets, got"):
        picks("less", 2, groups=groups)


# --- DEITA


def test_deita_takes_the_best_that_is_unlike_all_accepted():
    quality, complexity = DRAW.uniform(0, 5, 40), DRAW.uniform(0, 5, 40)
    own = unit(POOL) @ unit(POOL).T
    accepted: list[int] = []
    for at in np.argsort(-quality * complexity).tolist():
        if all(own[at, other] <= 0.5 for other in accepted):
            accepted.append(at)
    found = select(None, POOL, 40, method="deita", threshold=0.5, complexity=complexity, prior=quality)
    assert found.indices.tolist() == accepted
    assert found.stopped == "exhausted"
    assert found.gains == pytest.approx(complexity[accepted])


def test_deita_leaves_out_copies_and_what_is_like_known_items():
    doubled = np.vstack([POOL[:4], POOL[:4]])
    assert picks("deita", 8, None, doubled) == [0, 1, 2, 3]
    assert picks("deita", 8, None, doubled, known=POOL[1:2]) == [0, 2, 3]


# --- MIG

LABELS = [[f"l{at % 7}", f"l{at % 3}"] if at % 4 else f"l{at % 7}" for at in range(40)]


def test_mig_by_its_matrices():
    names = list(dict.fromkeys(name for own in LABELS for name in ([own] if isinstance(own, str) else own)))
    v = np.zeros((40, len(names)))
    for at, own in enumerate(LABELS):
        for name in [own] if isinstance(own, str) else own:
            v[at, names.index(name)] = 1
    quality = DRAW.uniform(0.5, 2, 40)
    centres = unit(np.array([unit(POOL)[v[:, label] == 1].mean(axis=0) for label in range(len(names))]))
    w = centres @ centres.T
    p = np.where(w >= 0.1, w, 0)
    p = np.where(np.eye(len(names)) == 1, 1, 0.5 * p)
    p = p / p.sum(axis=0)
    energy, left, expected = np.zeros(len(names)), list(range(40)), []
    for _ in range(15):
        slope = 0.7 * (energy + 1e-6) ** -0.3
        best = max(left, key=lambda at: quality[at] * float(v[at] @ p @ slope))
        left.remove(best)
        expected.append(best)
        energy = energy + quality[best] * v[best] @ p
    settings = {"labels": LABELS, "edge": 0.1, "propagation": 0.5, "exponent": 0.7}
    assert picks("mig", 15, None, prior=quality, **settings) == expected


def test_mig_takes_one_of_each_label_before_a_second():
    assert {at % 7 for at in picks("mig", 7, None, labels=[at % 7 for at in range(40)], edge=1)} == set(range(7))


def test_mig_without_labels_spreads_over_clusters():
    centres = np.eye(6)[np.arange(60) % 6]
    pool = centres + 0.05 * DRAW.normal(size=(60, 6))
    assert {at % 6 for at in picks("mig", 6, None, pool, clusters=6)} == set(range(6))


def test_mig_without_a_graph_is_mig_with_no_edges():
    def run(**settings):
        found = select(None, POOL, 15, method="mig", labels=LABELS, **settings)
        return found.indices.tolist(), found.gains.tolist()

    indices, gains = run(propagation=0)
    expected, figures = run(propagation=1e-300, edge=0)
    assert indices == expected
    assert gains == pytest.approx(figures)


def test_mig_takes_any_number_of_labels_where_it_needs_no_graph():
    pool = DRAW.normal(size=(20_001, 2))
    with pytest.raises(InvalidInput, match=r"labels: the graph of 20,001 different ones .* propagation=0"):
        picks("mig", 2, None, pool, labels=range(20_001))
    with pytest.raises(InvalidInput, match=r"clusters: the graph of 20,001 different ones"):
        picks("mig", 2, None, pool, clusters=20_001)
    assert picks("mig", 2, None, pool, labels=range(20_001), propagation=0) == [0, 1]


@pytest.mark.parametrize("method", ["mig", "deita"])
def test_gains_are_without_the_prior(method):
    options = {"complexity": np.full(40, 0.5)} if method == "deita" else {"labels": range(40), "propagation": 0}
    found = select(None, POOL, 3, method=method, prior=np.arange(1.0, 41.0), **options)
    assert found.indices[0] == 39
    first = 0.5 if method == "deita" else 0.8 * 1e-6 ** (0.8 - 1)
    assert found.gains[0] == pytest.approx(first)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (["a"], "a label, or a list of labels, for each candidate"),
        ("a" * 40, "for each candidate"),
        ([[]] * 40, "no label at all"),
        ([[{}]] * 40, "can be compared"),
    ],
)
def test_mig_refuses_other_labels(labels, message):
    with pytest.raises(InvalidInput, match=message):
        picks("mig", 3, None, labels=labels)


def test_labels_and_clusters_exclude_each_other():
    with pytest.raises(Conflict, match="stand for labels"):
        picks("mig", 3, None, labels=LABELS, clusters=3)


# --- DAC


def three_crowds(each: int = 300) -> tuple[np.ndarray, np.ndarray]:
    crowd = np.arange(3 * each) % 3
    return np.eye(3)[crowd] + 0.05 * np.random.default_rng(2).normal(size=(3 * each, 3)), crowd


def test_dac_follows_the_scores_round_by_round():
    pool, crowd = three_crowds()
    scores = np.array([3.0, 1.0, 0.0])[crowd]
    found = crowd[picks("dac", 450, None, pool, clusters=3, scores=scores)]
    rounds = [np.bincount(found[start : start + 150], minlength=3) for start in (0, 150, 300)]
    # Draws by (1, 1, 1)/3, then (3, 1, 0)/4, then (9, 1, 0)/10; within four standard deviations.
    for counts, weights in zip(rounds, ([1 / 3] * 3, [0.75, 0.25, 0], [0.9, 0.1, 0]), strict=True):
        expected = 150 * np.array(weights)
        assert (np.abs(counts - expected) <= 4 * np.sqrt(expected * (1 - np.array(weights)))).all()


@pytest.mark.parametrize("scores", [[1e308, 5e-324], [1.7e308] * 2, [5e-324] * 2, [5e-324, 0.0]])
def test_scores_of_any_size_can_be_drawn_by(scores):
    own = np.array(scores)[np.arange(40) % 2]
    both = {"influence": np.where(np.arange(40) % 2, own, -own), "effort": own}
    for method, options in (
        ("dac", {"scores": own, "clusters": 3}),
        ("adapt-inf", {"scores": own, "clusters": 2}),
        ("dealrec", both),
    ):
        found = select(None, POOL, 20, method=method, **options)
        assert np.isfinite(found.gains).all()
        assert len(set(found.indices.tolist())) == 20


def test_the_scale_of_scores_changes_no_draw():
    own = DRAW.uniform(size=40)
    for method in ("dac", "adapt-inf"):
        expected = picks(method, 20, None, scores=own, clusters=3)
        for scale in (2.0**1000, 2.0**-1000):
            assert picks(method, 20, None, scores=own * scale, clusters=3) == expected


def test_dac_asks_a_function_about_each_round_but_the_last():
    pool, crowd = three_crowds(20)
    rounds: list[list[int]] = []

    def scores(indices: np.ndarray) -> np.ndarray:
        rounds.append(indices.tolist())
        return crowd[indices] == 1

    found = picks("dac", 30, None, pool, clusters=3, rounds=3, scores=scores)
    assert rounds == [found[:10], found[10:20]]
    assert (crowd[found[10:20]] == 1).all()
    # The crowd has 20, of which some went in the first round: when it is used up, nothing else has a weight.
    assert len(set(found)) == 30


def test_dac_draws_by_the_prior_within_a_cluster():
    pool, crowd = three_crowds(100)
    prior = np.where(np.arange(300) % 2 == 0, 1.0, 0.0)
    found = picks("dac", 60, None, pool, clusters=3, prior=prior)
    assert (prior[found] == 1).all()
    assert np.bincount(crowd[found], minlength=3).min() >= 8


def test_dac_finds_the_number_of_clusters_by_the_silhouette():
    pool = np.eye(4)[np.arange(80) % 4] + 0.02 * DRAW.normal(size=(80, 4))
    scores = (np.arange(80) % 4 == 2).astype(float)
    # With the right four, the second round takes from the one that scores; with two, others would be in it.
    found = picks("dac", 20, None, pool, rounds=2, scores=scores)
    assert {at % 4 for at in found[10:]} == {2}


@pytest.mark.parametrize("answer", [[1.0], None, [-1.0] * 10])
def test_dac_refuses_other_answers_of_a_function(answer):
    with pytest.raises(InvalidInput, match="scores"):
        picks("dac", 30, None, clusters=2, scores=lambda _: answer)


# --- transport: GOT-D and GORACS


def costs() -> np.ndarray:
    """Scaled as the methods do: the largest is 1."""
    cost = np.linalg.norm(unit(POOL)[:, None] - unit(TARGETS)[None], axis=2)
    return cost / cost.max()


def entropic_distance(cost: np.ndarray, rows: np.ndarray, columns: np.ndarray, entropy: float) -> float:
    """By Sinkhorn's iterations in logarithms, for any masses."""
    f, g = np.zeros(len(rows)), np.zeros(len(columns))
    for _ in range(3000):
        f = -entropy * np.log(np.exp((g - cost) / entropy) @ columns)
        g = -entropy * np.log(np.exp((f[:, None] - cost) / entropy).T @ rows)
    return float(rows @ f + columns @ g)


def test_got_d_is_the_derivative_of_the_distance_by_mass():
    found = select(TARGETS, POOL, 40, method="got-d", entropy=0.05)
    scale = float(np.linalg.norm(unit(POOL)[:, None] - unit(TARGETS)[None], axis=2).max())
    cost, even, step = costs(), np.full(40, 1 / 40), 1e-5
    for index, gain in list(zip(found.indices.tolist(), found.gains.tolist(), strict=True))[::13]:
        # Mass that goes to one candidate comes from all others alike.
        towards = np.where(np.arange(40) == index, 1.0, -1 / 39)
        more, less = (entropic_distance(cost, even + way * step * towards, np.full(5, 0.2), 0.05) for way in (1, -1))
        assert gain == pytest.approx(-scale * (more - less) / (2 * step), abs=1e-4)


def test_got_d_with_known_items_is_the_derivative_beside_them():
    found = select(TARGETS, POOL[8:], 3, method="got-d", entropy=0.05, known=POOL[:8])
    distances = np.linalg.norm(unit(POOL)[:, None] - unit(TARGETS)[None], axis=2)
    cost, step = distances / distances.max(), 1e-5
    for index, gain in zip(found.indices.tolist(), found.gains.tolist(), strict=True):
        rows = [*range(8), 8 + index]
        first, second = (
            entropic_distance(cost[rows], np.array([(1 - mass) / 8] * 8 + [mass]), np.full(5, 0.2), 0.05)
            for mass in (step, 2 * step)
        )
        assert gain == pytest.approx(-distances.max() * (second - first) / step, abs=1e-3)


def test_got_d_agrees_with_pot():
    ot = pytest.importorskip("ot")
    even, log = np.full(40, 1 / 40), None
    _, log = ot.sinkhorn(even, np.full(5, 0.2), costs(), 0.05, stopThr=1e-12, numItermax=10000, log=True)
    potential = 0.05 * np.log(log["u"])
    assert picks("got-d", 12, entropy=0.05) == np.argsort(potential).tolist()[:12]
    # And with little entropy, with the potentials of plain transport but for what that leaves open.
    plain = np.asarray(ot.emd2(even, np.full(5, 0.2), costs(), log=True)[1]["u"])
    found = select(TARGETS, POOL, 40, method="got-d", entropy=0.005)
    ours = np.empty(40)
    ours[found.indices] = -found.gains
    assert np.corrcoef(ours, plain)[0, 1] > 0.99


def test_got_d_takes_a_sample_of_large_pools():
    all_of_them, sampled = picks("got-d", 10), picks("got-d", 10, sample=30)
    assert len(set(all_of_them) & set(sampled)) >= 6


def exact_distance(cost: np.ndarray) -> float:
    """Of as many rows as columns: the best assignment."""
    return min(
        float(np.mean([cost[row, at] for at, row in enumerate(order)]))
        for order in itertools.permutations(range(len(cost)))
    )


def goracs_costs(gradients: np.ndarray | None, weight: float) -> np.ndarray:
    return costs() if gradients is None else costs() - weight * (gradients / gradients.max())[:, None]


@pytest.mark.parametrize("weight", [0.0, 0.5])
def test_goracs_leaves_no_exchange_that_pays(weight):
    gradients = DRAW.uniform(0.1, 1, 40) if weight else None
    settings = {"gradients": gradients, "weight": weight} if weight else {}
    group = picks("goracs", 5, entropy=0.003, tried=40, **settings)
    cost = goracs_costs(gradients, weight)
    reached, span = exact_distance(cost[group]), cost.max() - cost.min()
    others = set(range(40)) - set(group)
    best = min(exact_distance(cost[[*group[:at], other, *group[at + 1 :]]]) for at in range(5) for other in others)
    assert reached <= best + 0.003 * np.log(5) * span
    assert reached <= exact_distance(cost[picks("goracs", 5, entropy=0.003, exchanges=0, **settings)]) + 1e-9


def test_goracs_begins_with_the_least_sum_of_minima():
    cost, group = costs(), []
    group.append(int(cost.sum(axis=1).argmin()))
    while len(group) < 4:
        sums = {other: cost[[*group, other]].min(axis=0).sum() for other in set(range(40)) - set(group)}
        group.append(min(sums, key=lambda other: sums[other]))
    assert picks("goracs", 4, exchanges=0) == group


def test_goracs_prefers_large_gradients_among_equals():
    doubled = np.vstack([POOL[:10], POOL[:10]])
    group = picks("goracs", 5, TARGETS, doubled, gradients=np.repeat([1.0, 2.0], 10), weight=4)
    assert min(group) >= 10


def test_goracs_of_more_candidates_than_targets_and_of_all():
    assert sorted(picks("goracs", 40)) == list(range(40))
    assert len(set(picks("goracs", 12))) == 12


def test_goracs_knows_no_limits_between_picks_but_exclusions():
    assert picks("goracs", 5, replacement=False) == picks("goracs", 5)
    assert set(picks("goracs", 5, exclude=range(20))) <= set(range(20, 40))
    with pytest.raises(Conflict, match="decides on all picks at once"):
        picks("goracs", 5, replacement=True)
    with pytest.raises(InvalidInput, match="more than the 40 candidates"):
        picks("goracs", 41)


def test_goracs_refuses_a_weight_of_nothing():
    with pytest.raises(Conflict, match="weighs gradients"):
        picks("goracs", 3, weight=0.1)


# --- all of them


@pytest.mark.parametrize("method", PUBLISHED)
def test_each_picks_every_candidate_once(method):
    settings = {"threshold": 1} if method == "deita" else {}
    found = select(TARGETS, POOL, 40, method=method, **settings)
    assert sorted(found.indices.tolist()) == list(range(40))
    assert np.isfinite(found.gains).all()


@pytest.mark.parametrize("method", ["rds", "less", "got-d", "goracs", "deita", "mig"])
def test_the_order_of_the_candidates_does_not_matter(method):
    order = np.random.default_rng(1).permutation(40)
    weights = DRAW.uniform(0.5, 2, 40)
    settings = {} if method in ("got-d", "goracs") else {"prior": weights}
    moved = dict(settings) if method in ("got-d", "goracs") else {"prior": weights[order]}
    if method == "mig":
        labels = [at % 5 for at in range(40)]
        settings["labels"], moved["labels"] = labels, [labels[at] for at in order]
    found = order[picks(method, 8, TARGETS, POOL[order], **moved)]
    assert found.tolist() == picks(method, 8, **settings)


@pytest.mark.parametrize("method", PUBLISHED)
def test_equal_candidates_and_one_target(method):
    found = select(TARGETS[0], np.ones((6, 6)), 1, method=method)
    assert len(found.indices) == 1
    single = select(TARGETS[:1], POOL, 3, method=method)
    assert len(set(single.indices.tolist())) == 3
    if method in ("rds", "less", "got-d", "goracs"):
        assert set(single.indices.tolist()) == set(picks("nearest", 3, TARGETS[0]))


@pytest.mark.parametrize("method", ["dac", "mig"])
def test_clusters_need_vectors(method):
    with pytest.raises(Conflict, match="takes means of vectors"):
        select(None, POOL, 2, method=method, kernel=kernels.rbf())


@pytest.mark.parametrize(
    ("method", "option", "value"),
    [
        ("got-d", "entropy", 0),
        ("got-d", "sample", 0),
        ("dac", "rounds", 0),
        ("dac", "clusters", 41),
        ("dac", "scores", -np.ones(40)),
        ("mig", "edge", 2),
        ("mig", "exponent", 0),
        ("deita", "threshold", "high"),
        ("deita", "complexity", [1.0]),
        ("goracs", "gradients", [-1.0] * 40),
        ("goracs", "tried", 0),
    ],
)
def test_bad_options_are_named(method, option, value):
    with pytest.raises(InvalidInput, match=option):
        select(TARGETS, POOL, 3, method=method, **{option: value})


def test_one_limit_acts_and_two_act_between_picks():
    from siftlm.selection import Limits

    goals = DRAW.normal(size=(3, POOL.shape[1]))
    with pytest.raises(Conflict, match="leave out replacement, which acts between picks"):
        select(goals, POOL, 3, method="goracs", limits=Limits(replacement=True))
    with pytest.raises(Conflict, match="which act between picks"):
        select(goals, POOL, 3, method="goracs", limits=Limits(replacement=True), prior=np.ones(40))
