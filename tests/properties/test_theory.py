"""What the theory says of SIFT, on the package alone."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from effort import examples
from properties.follow import run_case
from properties.worlds import Case, cases
from siftlm import select


@settings(max_examples=examples(80))
@given(cases(targets=1))
def test_the_first_pick_is_the_nearest_in_absolute_cosine(case: Case) -> None:
    case = case.but(normalize=True)
    x = case.candidates / np.linalg.norm(case.candidates, axis=1, keepdims=True)
    cosine = np.abs(x @ (case.query / np.linalg.norm(case.query)))
    first = run_case(case).indices[0]
    # gains that differ by less than about 1e-9 (more for tiny λ) count as equal
    assert cosine[first] >= cosine.max() * (1 - 1e-8 - 1e-15 / case.noise)


@settings(max_examples=examples(60))
@given(cases(targets=1, kinds=("gaussian", "cone")))
def test_a_huge_noise_stays_on_the_nearest_neighbour(case: Case) -> None:
    case = case.but(normalize=True, noise=1e9)
    x = case.candidates / np.linalg.norm(case.candidates, axis=1, keepdims=True)
    cosine = np.sort(np.abs(x @ (case.query / np.linalg.norm(case.query))))
    assume(len(cosine) == 1 or cosine[-1] > cosine[-2] * (1 + 1e-5))
    assert len(set(run_case(case).indices.tolist())) == 1


@settings(max_examples=examples(60))
@given(cases(targets=1, kinds=("gaussian",), widest=20), st.sampled_from([1e-9, 1e-8]))
def test_a_tiny_noise_never_repeats(case: Case, noise: float) -> None:
    width = case.candidates.shape[1]
    n = min(len(case.candidates), width // 2)
    assume(n >= 1)
    query = np.random.default_rng(2**40 + width).normal(size=width)  # one that no candidate answers alone
    picked = run_case(case.but(query=query, normalize=True, noise=noise, n=n))
    assert len(picked.distinct) == n, "while something independent is left, nothing is worth a second look"


@settings(max_examples=examples(200))
@given(
    st.floats(0.05, 0.95),
    st.floats(1e-4, 1.0),
    st.sampled_from([1e-3, 0.01, 0.1, 1.0, 10.0, 100.0]),
    st.integers(0, 1),
)
def test_an_orthogonal_candidate_wins_exactly_above_the_threshold(
    a: float, share: float, noise: float, at: int
) -> None:
    """x ⊥ x_1 is picked second, rather than x_1 again, iff cos²(x*, x) > λ/(2+λ) · cos²(x*, x_1)."""
    b = share * min(a, np.sqrt(1 - a**2) * 0.999)
    threshold = noise / (2 + noise) * a**2
    assume(abs(b**2 - threshold) > 1e-6 * threshold)
    assume(b < a * (1 - 1e-6))
    query = np.array([a, b, np.sqrt(max(0.0, 1 - a**2 - b**2))])
    candidates = np.eye(3)[[at, 1 - at]]  # either order: the tie rule must not decide
    picked = select(query, candidates, 2, noise=noise)
    first = at  # where e_1 stands
    assert picked.indices[0] == first
    assert (picked.indices[1] != first) == (b**2 > threshold)


@settings(max_examples=examples(40))
@given(cases())
def test_uncertainty_starts_at_the_prior_variance(case: Case) -> None:
    query = np.atleast_2d(case.query)
    prior = 1.0 if case.normalize else float((query**2).sum(axis=1).mean())
    np.testing.assert_allclose(run_case(case).uncertainty[0], prior, rtol=1e-12)


@settings(max_examples=examples(40))
@given(cases(most=40, picks=8))
def test_each_pick_is_the_best_look_ahead_of_one(case: Case) -> None:
    """The gain is what the uncertainty really falls by: pick any other instead and less is learnt."""
    picked = run_case(case)
    for other in range(0, len(case.candidates), 7):
        if other == picked.indices[0]:
            continue
        forced = select(
            case.query,
            case.candidates[other : other + 1],
            1,
            noise=case.noise,
            normalize=case.normalize,
        )
        assert forced.uncertainty[1] >= picked.uncertainty[1] - 1e-6 * picked.uncertainty[0]


def test_two_redundant_texts_cost_a_new_one() -> None:
    """The example of the README: nearest neighbours says the same fact twice, SIFT says two facts."""
    query = np.array([1.0, 1.0, 0.0])
    texts = np.array([[1.0, 0.2, 0.0], [1.0, 0.21, 0.0], [0.0, 1.0, 0.1], [0.0, 0.0, 1.0]])
    assert select(query, texts, 2, method="nearest").indices.tolist() == [1, 0]
    assert select(query, texts, 2).indices.tolist() == [1, 2]


@pytest.mark.parametrize("noise", [1e-3, 0.1, 1.0])
def test_opposite_texts_tell_the_same(noise: float) -> None:
    """Only the direction counts for linear SIFT: a sign changes no pick and no uncertainty."""
    rng = np.random.default_rng(3)
    query, candidates = rng.normal(size=6), rng.normal(size=(20, 6))
    flipped = candidates * rng.choice([-1.0, 1.0], size=(20, 1))
    one, two = select(query, candidates, 10, noise=noise), select(query, flipped, 10, noise=noise)
    assert one.indices.tolist() == two.indices.tolist()
    np.testing.assert_allclose(one.uncertainty, two.uncertainty, atol=1e-12)
