"""What ``spread`` reports of vectors whose spread is known."""

from __future__ import annotations

import json

import numpy as np
import pytest

import siftlm
from siftlm.errors import InvalidInput


def clouds(size: int = 600, width: int = 32, cone: float = 0.0) -> np.ndarray:
    generator = np.random.default_rng(0)
    centres = generator.normal(size=(12, width))
    return centres[np.arange(size) % 12] + 0.7 * generator.normal(size=(size, width)) + cone


def test_orthogonal_and_equal_vectors() -> None:
    spread = siftlm.spread(np.eye(50), n=5)
    assert spread.mean_similarity == pytest.approx(0)
    assert spread.dimensions == pytest.approx(50)
    same = siftlm.spread(np.ones((50, 4)), n=5)
    assert same.mean_similarity == pytest.approx(1)
    assert same.dimensions == pytest.approx(1)


def test_a_cone_is_seen_and_centring_opens_it() -> None:
    narrow = siftlm.spread(clouds(cone=8.0), n=10)
    assert narrow.mean_similarity > 0.9
    assert "centred" in str(narrow)
    opened = siftlm.spread(clouds(cone=8.0), n=10, kernel=siftlm.kernels.centred())
    assert abs(opened.mean_similarity) < 0.1
    assert opened.dimensions > 3 * narrow.dimensions


@pytest.mark.slow
def test_the_range_means_what_it_says() -> None:
    """Below it more than 10 n candidates beat a repeat of the first pick, above it fewer than n: counted by hand."""
    vectors, n = clouds(), 5
    report = siftlm.spread(vectors, n=n, sample=len(vectors))
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    def median_winners(noise: float) -> float:
        counts = []
        for prompt in range(len(unit)):
            cross = unit @ unit[prompt]
            cross[prompt] = 0
            first = int(np.argmax(np.abs(cross)))
            with_first = unit @ unit[first]
            left = 1 - with_first**2 / (1 + noise)
            gains = (cross - cross[first] * with_first / (1 + noise)) ** 2 / (left + noise)
            counts.append(np.sum(gains > gains[first] * (1 + 1e-9)))
        return float(np.median(counts))

    assert median_winners(report.noise_low / 1.6) > 10 * n >= median_winners(report.noise_low)
    assert median_winners(report.noise_high) >= n > median_winners(report.noise_high * 1.6)
    assert report.noise_low < report.noise < report.noise_high


def test_scale_and_seed() -> None:
    vectors = clouds()
    here, larger = siftlm.spread(vectors, n=5, seed=3), siftlm.spread(1000 * vectors, n=5, seed=3)
    assert here.noise == pytest.approx(larger.noise)
    assert siftlm.spread(vectors, n=5, most=100).candidates == 100


def test_the_range_follows_the_kernel() -> None:
    """λ is measured in units of k(x, x), so vectors that are not normalised get a range of their own size."""
    unit = clouds() / np.linalg.norm(clouds(), axis=1, keepdims=True)
    report = siftlm.spread(unit, n=5)
    small = siftlm.spread(1e-4 * unit, n=5, normalize=False)
    assert small.noise == pytest.approx(1e-8 * report.noise, rel=0.01)


@pytest.mark.slow
def test_no_text_is_its_own_neighbour() -> None:
    vectors = clouds()
    without = siftlm.spread(vectors, n=5, sample=len(vectors))
    given = siftlm.spread(vectors, 2 * vectors, n=5, sample=len(vectors))
    assert given.noise == pytest.approx(without.noise)
    assert given.nearest == pytest.approx(without.nearest)
    assert given.nearest < 0.999


def test_where_no_noise_is_sensible_it_says_so() -> None:
    report = siftlm.spread(np.ones((30, 4)), n=5)
    assert np.isnan(report.noise)
    assert "none" in str(report)
    assert report.to_dict()["noise"] is None


def test_report_is_json() -> None:
    report = siftlm.spread(clouds().astype(np.float16), n=5)
    assert json.loads(json.dumps(report.to_dict()))["n"] == 5
    assert "start with" in str(report)


@pytest.mark.parametrize(
    ("candidates", "keywords", "message"),
    [
        (np.ones((2, 3)), {}, "at least 3"),
        (np.ones((5, 3)), {"n": 0}, "n must be a whole number ≥ 1"),
        (np.ones((5, 3)), {"queries": np.ones((2, 4))}, "width 4, expected 3"),
        (np.full((5, 3), np.nan), {}, "not finite"),
    ],
)
def test_bad_input(candidates: np.ndarray, keywords: dict, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        siftlm.spread(candidates, **keywords)
