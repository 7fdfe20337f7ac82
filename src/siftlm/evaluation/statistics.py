"""Bootstrap intervals over texts, paired and within domains; a test for few texts; and rank correlation."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from siftlm.errors import InvalidInput, setting
from siftlm.types import FloatArray, IntArray, json_number

BOOTSTRAP_RESAMPLES = 2000
INTERVAL_QUANTILES = (0.025, 0.975)
# Differences whose signs are flipped in all 2ⁿ manners, and in how many where there are more.
MAX_EXACT_DIFFERENCES, SIGN_FLIP_DRAWS = 12, 10_000


@dataclass(frozen=True)
class Mean:
    """A figure of several texts with its 95 % bootstrap interval over texts, which is nan for a single text."""

    value: float
    low: float
    high: float

    def to_dict(self) -> dict[str, float | list[float] | None]:
        """Ready for ``json.dumps``, rounded to three digits; None for nan."""
        ends = [round(self.low, 3), round(self.high, 3)] if math.isfinite(self.low + self.high) else None
        return {"mean": json_number(round(self.value, 3)), "interval": ends}

    @property
    def sign(self) -> int:
        """−1 or 1 where the whole interval is on one side of zero, else 0."""
        return -1 if self.high < 0 else 1 if self.low > 0 else 0

    def __str__(self) -> str:
        return f"{self.value:.1f} [{self.low:.1f}, {self.high:.1f}]"


def mean(values: Sequence[float] | FloatArray, seed: int = 0) -> Mean:
    """The mean of ``values`` with its interval.

    >>> mean([1.0, 1.0, 1.0])
    Mean(value=1.0, low=1.0, high=1.0)
    """
    array = np.asarray(values, dtype=np.float64)
    if not len(array):
        raise InvalidInput("there are no values to take the mean of")
    drawn = np.random.default_rng(seed).integers(0, len(array), size=(BOOTSTRAP_RESAMPLES, len(array)))
    return _with_interval(float(array.mean()), array[drawn].mean(axis=1))


def sign_flip_probability(differences: Sequence[float] | FloatArray, seed: int = 0) -> float:
    """The probability of a mean as low as that of the ``differences``, if each could as well have the other sign.

    Exact up to twelve differences, beyond that by draws. It assumes no distribution, so that few differences suffice,
    and cannot be below 1 / 2ⁿ.

    >>> sign_flip_probability([-1.0, -2.0, -0.5, -3.0]), sign_flip_probability([1.0, -1.0])
    (0.0625, 0.75)
    """
    array = np.asarray(differences, dtype=np.float64)
    if not len(array):
        raise InvalidInput("there are no differences to test")
    if len(array) <= MAX_EXACT_DIFFERENCES:
        signs = 1 - 2 * (np.arange(2 ** len(array))[:, None] >> np.arange(len(array)) & 1)
    else:
        signs = 1 - 2 * np.random.default_rng(seed).integers(0, 2, size=(SIGN_FLIP_DRAWS, len(array)))
        signs[0] = 1  # as it was
    sums = signs @ array
    return float((sums <= sums[0] + 1e-9 * np.abs(array).sum()).mean())


@dataclass(frozen=True, eq=False)
class Draws:
    """The resampled texts of all comparisons: the same for every method, so that differences are paired."""

    domains: tuple[str, ...]
    places: Mapping[str, IntArray]
    """Domain -> its texts."""
    drawn: Mapping[str, IntArray]
    """Domain -> (resamples, texts of the domain), drawn with replacement."""

    @classmethod
    def of(cls, domains: Sequence[str], seed: int = 0, resamples: int = BOOTSTRAP_RESAMPLES) -> Draws:
        """The draws for texts of these domains; every resample keeps each domain's number of texts."""
        array = np.asarray(domains)
        names = tuple(sorted(set(domains)))
        places = {name: np.flatnonzero(array == name) for name in names}
        # Seeded by the domain's name: its interval does not change when other domains are added.
        drawn = {
            name: np.random.default_rng([seed, *name.encode()]).integers(0, len(rows), size=(resamples, len(rows)))
            for name, rows in places.items()
        }
        return cls(names, places, {name: places[name][drawn[name]] for name in names})


Figure = Callable[[IntArray], FloatArray]
"""(…, texts) indices of texts -> (…) the figure of each set of texts."""


def percent_of_base(tuned: FloatArray, base: FloatArray, size: FloatArray) -> Figure:
    """The bits of all texts after tuning in % of the bits before; long texts count for more, as in bits per byte.

    Args:
        tuned, base: (n,) bits per byte of each text.
        size: (n,) bytes of each text.
    """
    after, before = tuned * size, base * size
    return lambda at: 100 * after[at].sum(axis=-1) / before[at].sum(axis=-1)


def bits_per_byte(tuned: FloatArray, size: FloatArray) -> Figure:
    """The bits of all texts over their bytes."""
    bits = tuned * size
    return lambda at: bits[at].sum(axis=-1) / size[at].sum(axis=-1)


def of_domain(figure: Figure, draws: Draws, domain: str) -> Mean:
    """The figure on one domain; without an interval if the domain has a single text."""
    value = float(figure(draws.places[domain]))
    if len(draws.places[domain]) == 1:
        return Mean(value, math.nan, math.nan)
    return _with_interval(value, figure(draws.drawn[domain]))


def over_domains(figure: Figure, draws: Draws, weights: Mapping[str, float] | None = None) -> Mean:
    """The figure's mean over domains, with equal weights or ``weights``.

    Without an interval if every domain has a single text.
    """
    shares = _shares(draws.domains, weights)
    value = sum(share * float(figure(draws.places[name])) for name, share in shares.items())
    if all(len(draws.places[name]) == 1 for name in shares):
        return Mean(value, math.nan, math.nan)
    again = sum((share * figure(draws.drawn[name]) for name, share in shares.items()), np.zeros(1))
    return _with_interval(value, np.asarray(again))


def less(one: Figure, other: Figure) -> Figure:
    """The difference of two figures on the same texts."""
    return lambda at: one(at) - other(at)


def rank_correlation(x: Sequence[float], y: Sequence[float]) -> float | None:
    """Spearman's rank correlation; None if one of the two is constant.

    >>> rank_correlation([1, 2, 3], [10, 20, 25])
    1.0
    """
    ranks = np.stack([_ranks(np.asarray(x, dtype=np.float64)), _ranks(np.asarray(y, dtype=np.float64))])
    ranks -= ranks.mean(axis=1, keepdims=True)
    size = float(np.sqrt((ranks**2).sum(axis=1)).prod())
    return None if size == 0 else round(float(ranks[0] @ ranks[1]) / size, 12)


def correlation_interval(value: float, count: int) -> Mean:
    """A rank correlation of ``count`` pairs with its 95 % interval, after Bonett and Wright (2000).

    tanh(artanh ρ ± 1.96 √((1 + ρ²/2) / (n − 3)))

    >>> correlation_interval(0.5, 103)
    Mean(value=0.5, low=0.328..., high=0.639...)
    """
    if count <= 3:
        return Mean(value, -1.0, 1.0)
    middle = math.atanh(max(-1 + 1e-12, min(1 - 1e-12, value)))
    reach = 1.96 * math.sqrt((1 + value**2 / 2) / (count - 3))
    return Mean(value, math.tanh(middle - reach), math.tanh(middle + reach))


def _shares(domains: Sequence[str], weights: Mapping[str, float] | None) -> dict[str, float]:
    raw = {name: 1.0 if weights is None else weights.get(name, 0.0) for name in domains}
    total = sum(raw.values())
    if not total > 0:
        raise InvalidInput(f"{setting('weights')} has none above zero for any of the domains {', '.join(domains)}")
    return {name: weight / total for name, weight in raw.items() if weight > 0}


def _with_interval(value: float, again: FloatArray) -> Mean:
    low, high = np.quantile(again, INTERVAL_QUANTILES)
    return Mean(value, float(low), float(high))


def _ranks(values: FloatArray) -> FloatArray:
    """Ranks from 0; equal values share the mean of theirs."""
    below = (values[:, None] > values[None, :]).sum(axis=1)
    equal = (values[:, None] == values[None, :]).sum(axis=1)
    ranks: FloatArray = below + (equal - 1) / 2.0
    return ranks
