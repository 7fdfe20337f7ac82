"""What λ means for given vectors: how spread they are, and the range in which λ does anything sensible.

λ has no meaning of its own. After the best candidate x₁ has been picked, a candidate x is worth

    (k(x*, x) − k(x*, x₁) k(x₁, x) / (k(x₁, x₁) + λ))² / (v₁(x) + λ)

and x₁ again is worth k(x*, x₁)² λ² / ((k₁₁ + λ)² (v₁(x₁) + λ)). Small λ: nearly everything beats hearing x₁ again,
texts that have nothing to do with the prompt included. Large λ: nothing does, and x₁ is repeated. In
between, some number of candidates is "worth more than a repeat", and that number can be counted. A sensible λ
leaves between n and 10 n of them (or half the candidates, if that is less): enough to choose n from, too few for noise.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from siftlm import validation
from siftlm.errors import InvalidInput
from siftlm.selection import checks
from siftlm.selection.kernels import FeatureKernel, KernelFunction
from siftlm.selection.space import space_of
from siftlm.types import FloatArray, IntArray

RowsOf = Callable[[IntArray], checks.RealArray]
SPREAD_NOISES: FloatArray = np.logspace(-6, 4, 81).astype(np.float64)  # times the mean k(x, x)
# A candidate this similar to a prompt is the prompt itself.
SAME_TEXT_SIMILARITY = 1 - 1e-6


@dataclass(frozen=True)
class Spread:
    """How spread vectors are, and what that says about λ; printing it gives a short report."""

    candidates: int
    """How many were looked at."""
    width: int
    mean_similarity: float
    """Mean similarity (1 = equal) of two candidates: near 0 when spread, near 1 in a narrow cone."""
    pairs: tuple[float, float, float]
    """5 %, 50 % and 95 % points of the similarity of two candidates."""
    dimensions: float
    """Effective number of directions: 1 / the mean squared similarity of two candidates."""
    nearest: float
    """Median similarity of a prompt to its nearest candidate."""
    nth: float
    """The same to its n-th nearest."""
    n: int
    noise_low: float
    """Below it, more than 10 n candidates (or half) beat a repeat of the nearest: λ lets noise in."""
    noise_high: float
    """Above it, fewer than n do: λ begins to repeat."""
    noise: float
    """In between, on the logarithmic scale: where to start. NaN, like the two above, where no λ leaves n."""

    def __str__(self) -> str:
        low, middle, high = self.pairs
        cone = "  (a narrow cone: try kernels.centred())" if self.mean_similarity > 0.5 else ""
        return "\n".join(
            [
                f"{self.candidates} candidates of width {self.width}, about {self.dimensions:.0f} effective directions",
                f"two candidates: similarity {middle:.2f} (5 % below {low:.2f}, 5 % above {high:.2f}){cone}",
                f"a prompt: nearest candidate {self.nearest:.2f}, number {self.n} {self.nth:.2f}",
                f"noise λ for n = {self.n}: " + self._advice(),
            ]
        )

    def _advice(self) -> str:
        if self.noise != self.noise:
            return f"none; whatever it is, fewer than {self.n} candidates tell more than the nearest does again"
        return f"{self.noise_low:.2g} … {self.noise_high:.2g}, start with {self.noise:.2g}"

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, ready for ``json.dumps``; NaN becomes ``None``."""
        return {name: None if value != value else value for name, value in asdict(self).items()}


def spread(
    candidates: npt.ArrayLike,
    queries: npt.ArrayLike | None = None,
    *,
    n: int = 50,
    kernel: KernelFunction | FeatureKernel | None = None,
    normalize: bool = True,
    sample: int = 64,
    most: int = 20_000,
    seed: int = 0,
) -> Spread:
    """Report how spread the candidates are and which λ is sensible for picking ``n`` of them.

    Args:
        candidates: (K, d); of more than ``most``, a seeded sample is looked at.
        queries: (B, d) typical prompts. Left out: some of the candidates. No text counts as its own neighbour.
        n: how many will be picked.
        kernel, normalize: as in ``select``. λ changes with them.
        sample: so many prompts are looked at.
        most, seed: see above.

    The range is where to look, not a result: the λ that makes the better model is found by trying a few
    values on held-out prompts.

    >>> import numpy as np
    >>> vectors = np.random.default_rng(0).normal(size=(500, 32))
    >>> report = spread(vectors, n=10)
    >>> report.noise_low < report.noise < report.noise_high
    True
    """
    generator = np.random.default_rng(seed)
    vectors = checks.matrix("candidates", candidates)
    n = validation.whole_number("n", n, least=1)
    if len(vectors) < 3:
        raise InvalidInput(f"the spread of {len(vectors)} candidates says nothing; give at least 3")
    checks.squared_norms("candidates", vectors, zero_ok=not normalize)
    vectors = _sample_rows(vectors, validation.whole_number("most", most, least=3), generator)
    sample = validation.whole_number("sample", sample, least=1)
    prompts = vectors if queries is None else checks.matrix("queries", queries, width=vectors.shape[1])
    chosen = np.sort(generator.choice(len(prompts), size=min(sample, len(prompts)), replace=False))
    space = space_of(vectors, prompts[chosen], kernel=kernel, normalize=normalize, noise=1.0)
    diagonal, cross = space.diagonal(), space.cross().copy()
    length = np.sqrt(diagonal)
    prompt_length = np.sqrt(np.maximum(np.diagonal(space.target_gram()), 1e-300))
    unit = np.outer(prompt_length, np.where(length > 0, length, np.inf))
    cross[cross > SAME_TEXT_SIMILARITY * unit] = 0.0  # a text is not its own neighbour
    n = min(n, len(vectors) - 1)
    noises: FloatArray = SPREAD_NOISES * (float(diagonal.mean()) or 1.0)
    low, high = _noise_range(noises, _median_beating_repeat(space.rows, diagonal, cross, noises), n, len(vectors))
    relevance = np.sort(np.abs(cross) / unit, axis=1)
    pairs = _random_pair_similarities(space.rows, length, generator)
    return Spread(
        candidates=len(vectors),
        width=vectors.shape[1],
        mean_similarity=float(pairs.mean()),
        pairs=(float(np.quantile(pairs, 0.05)), float(np.median(pairs)), float(np.quantile(pairs, 0.95))),
        dimensions=1 / max(float(np.mean(pairs**2)), 1 / len(vectors)),
        nearest=float(np.median(relevance[:, -1])),
        nth=float(np.median(relevance[:, -n])),
        n=n,
        noise_low=low,
        noise_high=high,
        noise=float(np.sqrt(low * high)),
    )


def _sample_rows(vectors: checks.RealArray, most: int, generator: np.random.Generator) -> checks.RealArray:
    if len(vectors) <= most:
        return vectors
    return vectors[np.sort(generator.choice(len(vectors), size=most, replace=False))]


def _noise_range(noises: FloatArray, worth: FloatArray, n: int, size: int) -> tuple[float, float]:
    """The least λ that leaves no crowd, and the largest that leaves n; NaN where no λ leaves n."""
    enough = np.flatnonzero(worth >= n)
    if not enough.size:
        return float("nan"), float("nan")
    few = np.flatnonzero(worth <= min(10 * n, size // 2))
    low, high = float(noises[few[0]] if few.size else noises[-1]), float(noises[enough[-1]])
    return min(low, high), max(low, high)


def _median_beating_repeat(rows: RowsOf, diagonal: FloatArray, cross: FloatArray, noises: FloatArray) -> FloatArray:
    """(len(noises),) the median prompt's number of candidates that beat a repeat of its nearest."""
    nearest = np.argmax(np.abs(cross), axis=1)
    counts = np.empty((len(cross), len(noises)))
    for prompt, first in enumerate(nearest):
        product = rows(np.array([first]))[0].astype(np.float64)
        best, own = cross[prompt, first], diagonal[first]
        for at, noise in enumerate(noises):
            residual = cross[prompt] - best * product / (own + noise)
            left = np.maximum(diagonal - product**2 / (own + noise), 0)
            gain = residual**2 / (left + noise)
            counts[prompt, at] = np.count_nonzero(gain > gain[first] * (1 + 1e-9))
    middle: FloatArray = np.median(counts, axis=0)
    return middle


def _random_pair_similarities(rows: RowsOf, length: FloatArray, generator: np.random.Generator) -> FloatArray:
    """Similarities of random pairs of different candidates."""
    size = len(length)
    left = np.sort(generator.choice(size, size=min(256, size), replace=False))
    own = np.outer(length[left], length)
    similarity = np.divide(rows(left), own, out=np.zeros_like(own), where=own > 0)
    different = np.ones_like(similarity, dtype=np.bool_)
    different[np.arange(len(left)), left] = False
    pairs: FloatArray = similarity[different]
    return pairs
