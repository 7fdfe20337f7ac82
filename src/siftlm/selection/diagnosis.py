"""`diagnose`: would top-k retrieval from these vectors repeat itself, and how few passages would be enough?

Two things are measured. In a sample of fixed size: how many vectors have near-copies. And as retrieval meets the
vectors: for a few hundred prompts, how many of the n nearest repeat an earlier one, and how many of SIFT's picks tell
what those n tell.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from siftlm import validation
from siftlm.errors import InvalidInput, setting
from siftlm.progress import Meter
from siftlm.selection import checks
from siftlm.selection.select import select
from siftlm.types import FloatArray, IntArray, Vectors, json_number

# Cosines that are held together: 32 MiB of float32.
MAX_BLOCK_COSINES = 8 << 20
# Random pairs that are compared; all pairs where there are fewer.
MAX_RANDOM_PAIRS = 100_000
# What is tried: this many prompts, n results of each, SIFT among the k nearest, and its λ.
PROMPTS, RESULTS, CANDIDATES, NOISE = 200, 10, 200, 0.1
# SIFT's picks are enough once they tell this share of what the n nearest tell.
ENOUGH_SHARE = 0.95
# Repeats among the n nearest: below the first share, top-k is enough. From the second on, SIFT may stop early, if no
# more than the third share of n picks is enough.
RARE_REPEAT_SHARE, COMMON_REPEAT_SHARE, EARLY_STOP_SHARE = 0.05, 0.2, 0.4
# Two random vectors that are more alike than this lie in a narrow cone.
CONE_COSINE = 0.5
TOP_K, USE_SIFT, STOP_EARLY = "top-k is enough", "use SIFT", "use SIFT and stop early"


@dataclass(frozen=True)
class RetrievalFigures:
    """What retrieval returns for typical prompts, and the recommendation that follows."""

    prompts: int
    """Prompts for which retrieval was tried."""
    n: int
    """Results of each."""
    repeats: float
    """Share of the n nearest that repeat an earlier one of them: their cosine is above the threshold."""
    picks: float
    """The mean number of SIFT's picks that tell 95 % of what the n nearest tell."""
    left_nearest: float
    """The mean share of uncertainty that the n nearest leave."""
    left_sift: float
    """The mean share of uncertainty that n picks of SIFT leave."""

    @property
    def recommendation(self) -> str:
        """``top-k is enough``, ``use SIFT`` or ``use SIFT and stop early``."""
        if self.repeats < RARE_REPEAT_SHARE:
            return TOP_K
        early = self.repeats >= COMMON_REPEAT_SHARE and self.picks <= EARLY_STOP_SHARE * self.n
        return STOP_EARLY if early else USE_SIFT

    def __str__(self) -> str:
        enough = f"{self.picks:.1f} of SIFT's picks tell {ENOUGH_SHARE:.0%} of what the top {self.n} tell"
        return f"{self.recommendation}: {self.repeats:.1%} of the top {self.n} repeat an earlier result, and {enough}."


@dataclass(frozen=True)
class Diagnosis:
    """The redundancy of vectors and a recommendation; printing it gives a short report."""

    vectors: int
    """How many there are."""
    width: int
    sample: int
    """Vectors that were compared with each other; compare diagnoses only at equal samples."""
    neighbours: int
    """The number of others from which a vector counts as redundant."""
    threshold: float
    """The cosine above which another vector is a near-copy."""
    redundant: float
    """Share of the sample that has at least ``neighbours`` near-copies in the sample."""
    median_pair: float
    """Median cosine of two random vectors: what the threshold must be read against."""
    median_nearest: float
    """Median cosine of a vector and the nearest other one in the sample."""
    centred: bool
    """Was the mean subtracted first, because any two vectors were alike?"""
    k: int
    """The nearest vectors that SIFT selected from."""
    noise: float
    """λ of SIFT."""
    retrieval: RetrievalFigures
    """What retrieval returned."""

    @property
    def recommendation(self) -> str:
        """``top-k is enough``, ``use SIFT`` or ``use SIFT and stop early``."""
        return self.retrieval.recommendation

    def __str__(self) -> str:
        tried, median = self.retrieval, round(self.median_pair, 2) + 0.0  # no minus before 0.00
        lines = [
            f"{self.sample:,} of {self.vectors:,} vectors of width {self.width}, compared with each other",
            f"  {self.neighbours} or more others above cosine {self.threshold:g}: {self.redundant:.1%}",
            f"  median cosine: random pairs {median:.2f}, nearest others {self.median_nearest:.2f}",
            f"{tried.prompts:,} prompts, {tried.n} results among the {self.k:,} nearest, λ = {self.noise:g}",
            f"  of the top {tried.n}, repeat an earlier one: {tried.repeats:.1%}",
            f"  SIFT's picks that tell {ENOUGH_SHARE:.0%} of what they tell: {tried.picks:.1f}",
            f"  uncertainty left: top {tried.n} {tried.left_nearest:.1%}, SIFT {tried.left_sift:.1%}",
        ]
        if self.centred:
            cone = "Any two vectors were alike, so their mean was subtracted"
            lines.append(f"{cone}; select with kernel=siftlm.kernels.centred().")
        return "\n".join([*lines, str(tried)])

    def to_dict(self) -> dict[str, Any]:
        """Ready for ``json.dumps``: the figures, the recommendation, and both as a sentence."""
        plain = asdict(self)
        plain |= plain.pop("retrieval")
        plain |= {"recommendation": self.recommendation, "advice": str(self.retrieval)}
        return {name: json_number(value) if isinstance(value, float) else value for name, value in plain.items()}


def diagnose(
    vectors: npt.ArrayLike,
    queries: npt.ArrayLike | None = None,
    *,
    n: int = RESULTS,
    k: int = CANDIDATES,
    noise: float = NOISE,
    neighbours: int = 5,
    threshold: float = 0.9,
    sample: int = 10_000,
    prompts: int = PROMPTS,
    seed: int = 0,
) -> Diagnosis:
    """Diagnose whether retrieval from these vectors needs diversity: top-k, SIFT, or SIFT that stops early.

    Args:
        vectors: (N, d) of a corpus, from any embedder; N is more than ``n``.
        queries: (B, d) typical prompts. Left out: vectors of the sample, none of which is a result of its own.
        n: how many passages a prompt gets.
        k: how many nearest passages SIFT selects from.
        noise: λ of SIFT.
        neighbours: how many near-copies in the sample make a vector redundant.
        threshold: the cosine above which two vectors are near-copies.
        sample: how many random vectors are compared with each other. Larger samples find more.
        prompts: for at most so many prompts retrieval is tried.
        seed: of the sample and the prompts.

    >>> rng = np.random.default_rng(0)
    >>> diagnose(rng.normal(size=(1000, 32))).recommendation
    'top-k is enough'
    >>> facts = np.repeat(rng.normal(size=(100, 32)), 10, axis=0)
    >>> diagnose(facts + 0.1 * rng.normal(size=facts.shape)).recommendation
    'use SIFT and stop early'
    """
    # 1. Settings.
    corpus = UnitVectors("vectors", vectors)
    n, k = validation.whole_number("n", n, least=2), validation.whole_number("k", k)
    if len(corpus) <= n:
        raise InvalidInput(
            f"{setting('vectors')} has {len(corpus)} rows, so that there is nothing to choose among for {n} results; "
            f"give more, or a smaller {setting('n')}"
        )
    if k < n:
        raise InvalidInput(f"{setting('k', k)} must be at least {setting('n', n)}: SIFT selects n of the k nearest")
    neighbours, prompts = validation.whole_number("neighbours", neighbours), validation.whole_number("prompts", prompts)
    sample, seed = validation.whole_number("sample", sample, least=2), validation.whole_number("seed", seed, least=0)
    threshold = validation.number("threshold", threshold, least=-1, below=1)
    noise = validation.number("noise", noise, above=0)
    given = None if queries is None else UnitVectors("queries", queries, width=corpus.width)
    # 2. A sample, compared with itself.
    rng = np.random.default_rng(seed)
    chosen = _draw(len(corpus), sample, rng)
    units = corpus.rows(chosen)
    pairs = pair_cosines(units, rng)
    if centred := in_narrow_cone(pairs, threshold):
        corpus.mean = units.mean(axis=0)
        units = corpus.rows(chosen)
        pairs = pair_cosines(units, rng)
    copies = near_copies(units, threshold)
    # 3. Retrieval for some of the queries, or of the sample.
    if given is None:
        drawn = chosen[_draw(len(chosen), prompts, rng)]
        targets = corpus.rows(drawn)
        found = corpus.nearest(targets, min(k, len(corpus) - 1), without=drawn)
    else:
        given.mean = corpus.mean
        targets = given.rows(_draw(len(given), prompts, rng))
        found = corpus.nearest(targets, min(k, len(corpus)))
    return Diagnosis(
        vectors=len(corpus),
        width=units.shape[1],
        sample=len(units),
        neighbours=neighbours,
        threshold=threshold,
        redundant=copies.redundant(neighbours),
        median_pair=float(np.median(pairs)),
        median_nearest=float(np.median(copies.nearest)),
        centred=centred,
        k=found.shape[1],
        noise=noise,
        retrieval=retrieval_figures(targets, map(corpus.rows, found), n, threshold=threshold, noise=noise),
    )


class UnitVectors:
    """Vectors, checked; read at unit length, a part at a time, after ``mean`` was subtracted if there is one."""

    def __init__(self, name: str, vectors: npt.ArrayLike, *, width: int | None = None) -> None:
        self.array = checks.matrix(name, vectors, width=width)
        self._length = np.sqrt(checks.squared_norms(name, self.array, zero_ok=False))
        self.mean: Vectors | None = None

    def __len__(self) -> int:
        return len(self.array)

    @property
    def width(self) -> int:
        """d"""
        return int(self.array.shape[1])

    def rows(self, which: IntArray | slice) -> Vectors:
        """float32, (rows, d)."""
        units: Vectors = (self.array[which] / self._length[which, None]).astype(np.float32)
        return units if self.mean is None else centred_units(units, self.mean)

    def nearest(self, targets: Vectors, k: int, without: IntArray | None = None) -> IntArray:
        """(b, k) the nearest rows of each target, best first; ``without`` (b,) is no result of its own."""
        best: IntArray = np.zeros((len(targets), 0), np.int64)
        scores: Vectors = np.zeros((len(targets), 0), np.float32)
        step = max(k, MAX_BLOCK_COSINES // max(len(targets), self.array.shape[1]))
        for first in range(0, len(self), step):
            cosines = targets @ self.rows(slice(first, first + step)).T
            if without is not None:
                here = np.flatnonzero((without >= first) & (without < first + step))
                cosines[here, without[here] - first] = -np.inf
            rows = np.broadcast_to(np.arange(first, first + cosines.shape[1]), cosines.shape)
            if cosines.shape[1] > k:
                some = np.sort(np.argpartition(-cosines, k - 1, axis=1)[:, :k], axis=1)
                cosines, rows = np.take_along_axis(cosines, some, axis=1), np.take_along_axis(rows, some, axis=1)
            scores, best = np.concatenate([scores, cosines], axis=1), np.concatenate([best, rows], axis=1)
            order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
            scores, best = np.take_along_axis(scores, order, axis=1), np.take_along_axis(best, order, axis=1)
        return best


def _draw(size: int, most: int, rng: np.random.Generator) -> IntArray:
    drawn: IntArray = np.sort(rng.choice(size, min(most, size), replace=False))
    return drawn


# --- a sample, compared with itself


@dataclass(frozen=True, eq=False)
class NearCopies:
    """The near-copies of each vector among the others."""

    counts: IntArray
    """(n,) how many others are above the threshold."""
    nearest: FloatArray
    """(n,) the cosine of the nearest other; NaN for a single vector."""

    def redundant(self, neighbours: int) -> float:
        """The share of vectors with at least so many near-copies."""
        return float(np.mean(self.counts >= neighbours)) if len(self.counts) else 0.0


def near_copies(units: Vectors, threshold: float, meter: Meter | None = None) -> NearCopies:
    """For each of (n, d) unit vectors: how many others are above the threshold, and the cosine of the nearest."""
    size = len(units)
    counts: IntArray = np.zeros(size, dtype=np.int64)
    nearest: FloatArray = np.full(size, np.nan)
    step = max(1, MAX_BLOCK_COSINES // max(1, size))
    for first in range(0, size if size > 1 else 0, step):
        cosines = units[first : first + step] @ units.T
        own = np.arange(len(cosines))
        cosines[own, own + first] = -np.inf
        counts[first : first + step] = np.count_nonzero(cosines > threshold, axis=1)
        nearest[first : first + step] = cosines.max(axis=1)
        if meter is not None:
            meter.at(first + len(cosines))
    if meter is not None:
        meter.finish()
    return NearCopies(counts, nearest)


def pair_cosines(units: Vectors, rng: np.random.Generator) -> FloatArray:
    """The cosines of all pairs of different vectors, or of `MAX_RANDOM_PAIRS` random ones."""
    size = len(units)
    if size < 2:
        return np.zeros(0)
    if size * (size - 1) // 2 <= MAX_RANDOM_PAIRS:
        left, right = np.triu_indices(size, k=1)
    else:
        left = rng.integers(size, size=MAX_RANDOM_PAIRS)
        right = (left + rng.integers(1, size, size=MAX_RANDOM_PAIRS)) % size
    cosines: FloatArray = np.empty(len(left))
    step = max(1, MAX_BLOCK_COSINES // (2 * units.shape[1]))
    for at in range(0, len(left), step):
        some = slice(at, at + step)
        cosines[some] = np.einsum("ij,ij->i", units[left[some]], units[right[some]])
    return cosines


def says_little(threshold: float, median_pair: float) -> bool:
    """Is the threshold nearer to what any two vectors have in common than to being equal?"""
    return threshold - median_pair < 1 - threshold


def in_narrow_cone(pairs: FloatArray, threshold: float) -> bool:
    """Are nearly any two vectors so much alike that the threshold says little before their mean is subtracted?

    Where only most are, they are copies of one text, and it is the others that tell.
    """
    if not len(pairs):
        return False
    low, median = np.quantile(pairs, [0.05, 0.5]).tolist()
    return low > CONE_COSINE and says_little(threshold, median)


def centred_units(units: Vectors, mean: Vectors) -> Vectors:
    """The vectors less their mean, at unit length again; zero where nothing is left."""
    rest = units - mean
    length = np.linalg.norm(rest, axis=1, keepdims=True)
    centred: Vectors = np.divide(rest, length, out=np.zeros_like(rest), where=length > 0)
    return centred


# --- retrieval


def retrieval_figures(
    targets: Vectors, candidates: Iterable[Vectors], n: int, *, threshold: float, noise: float = NOISE
) -> RetrievalFigures:
    """What the n nearest and SIFT return for each target (b, d), from (K, d) candidates of each, the nearest first."""
    figures = np.array(
        [_one_prompt(target, own, n, threshold, noise) for target, own in zip(targets, candidates, strict=True)]
    )
    repeats, picks, left_nearest, left_sift = figures.mean(axis=0).tolist()
    return RetrievalFigures(len(figures), n, repeats, picks, left_nearest, left_sift)


def _one_prompt(target: Vectors, candidates: Vectors, n: int, threshold: float, noise: float) -> list[float]:
    """`repeats`, `picks`, `left_nearest` and `left_sift` of one prompt."""
    top = candidates[:n]
    earlier = np.tril(top @ top.T > threshold, -1)  # entry i, j: i repeats j < i
    nearest = select(target, top, len(top), method="nearest", noise=noise, normalize=False).uncertainty
    sift = select(target, candidates, len(top), noise=noise, normalize=False, replacement=False).uncertainty
    # Picks that lower the uncertainty by 95 % of what the n nearest do; all of them where they never do.
    enough = np.flatnonzero(sift <= sift[0] - ENOUGH_SHARE * (sift[0] - nearest[-1]))
    first = float(sift[0]) or 1.0
    picks = float(enough[0]) if len(enough) else float(len(top))
    return [float(earlier.any(axis=1).mean()), picks, float(nearest[-1]) / first, float(sift[-1]) / first]
