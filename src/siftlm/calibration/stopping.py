"""When to stop, and whether to begin at all: read off the runs that there are, and believed only if texts that had no
say in it agree."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from siftlm.calibration.trials import Trial
from siftlm.evaluation.statistics import rank_correlation
from siftlm.selection import Stopping
from siftlm.types import FloatArray, IntArray

Chosen = TypeVar("Chosen")

# Values of α that are tried.
CANDIDATE_ALPHAS = 40
# With fewer texts a rule would be made for the texts rather than for the memory; with fewer hurt ones, by chance.
MIN_RULE_TEXTS, MIN_HURT_TEXTS = 8, 3
# In % of base: less than this is no reason for a rule.
MIN_RULE_GAIN_PERCENT = 0.1


@dataclass(frozen=True)
class StoppingRule:
    """A number that decides, and how well it does: means over texts, in % of base."""

    value: float
    percent: float
    """With the rule."""
    left_out: float
    """The same where each text is decided by the rule that the others make."""
    plain: float
    """Without a rule."""
    steps: float
    """Mean steps with it."""

    @property
    def helps(self) -> bool:
        """Would it help a text that was not asked?"""
        return self.left_out < self.plain - MIN_RULE_GAIN_PERCENT

    def to_dict(self) -> dict[str, float | bool]:
        """For the record."""
        known = {name: round(getattr(self, name), 4) for name in ("percent", "left_out", "plain", "steps")}
        return {"value": self.value, **known, "helps": self.helps}


def fit_adaptive_rule(runs: Sequence[Trial], steps: int) -> StoppingRule | None:
    """The α that is best at no more steps on average than ``steps`` for every text."""
    if len(runs) < MIN_RULE_TEXTS:
        return None
    alphas = _alpha_candidates(runs)
    stops = np.array([[picks_kept(run, alpha) for run in runs] for alpha in alphas]).reshape(len(alphas), len(runs))
    values = np.array([[percent_at(run, n) for run, n in zip(runs, row, strict=True)] for row in stops])
    plain = [run.percent(steps) for run in runs]

    def best(texts: IntArray) -> int | None:
        """Which α, judged by these texts."""
        fits = np.flatnonzero(stops[:, texts].mean(axis=1) <= steps) if len(alphas) else np.zeros(0, dtype=int)
        return int(fits[np.argmin(values[fits][:, texts].mean(axis=1))]) if len(fits) else None

    everyone = np.arange(len(runs))
    at = best(everyone)
    if at is None:
        return None
    left_out = _leave_one_out_mean(best, lambda chosen, text: float(values[chosen, text]), plain)
    return StoppingRule(
        float(alphas[at]), float(values[at].mean()), left_out, float(np.mean(plain)), float(stops[at].mean())
    )


def fit_decide_rule(runs: Sequence[Trial], stops: Sequence[int]) -> StoppingRule | None:
    """The least share of the uncertainty that must be removed; below it tuning hurt more than it helped.

    ``stops``: how many steps each text gets.
    """
    if len(runs) < MIN_RULE_TEXTS:
        return None
    shares = np.array([uncertainty_removed(run, n) for run, n in zip(runs, stops, strict=True)])
    values = np.array([percent_at(run, n) for run, n in zip(runs, stops, strict=True)])

    def best(texts: IntArray) -> float | None:
        """The threshold, judged by these texts."""
        order = texts[np.argsort(shares[texts], kind="stable")]
        harm = np.cumsum(values[order] - 100)
        # Between two equal shares no threshold can pass.
        ends = [at for at in range(MIN_HURT_TEXTS, len(order)) if shares[order[at]] > shares[order[at - 1]]]
        ends = [at for at in ends if harm[at - 1] > 0]
        if not ends:
            return None
        at = max(ends, key=lambda end: float(harm[end - 1]))
        return float(f"{(shares[order[at - 1]] + shares[order[at]]) / 2:.4g}")

    threshold = best(np.arange(len(runs)))
    if threshold is None:
        return None

    def value(chosen: float, text: int) -> float:
        return float(values[text]) if shares[text] >= chosen else 100.0

    with_it = [value(threshold, text) for text in range(len(runs))]
    left_out = _leave_one_out_mean(best, value, [float(one) for one in values])
    taken = [n if share >= threshold else 0 for n, share in zip(stops, shares, strict=True)]
    return StoppingRule(threshold, float(np.mean(with_it)), left_out, float(values.mean()), float(np.mean(taken)))


def uncertainty_gain_correlation(runs: Sequence[Trial], steps: int) -> float | None:
    """Of the share of uncertainty removed with the gain, over texts (Spearman's)."""
    return rank_correlation(
        [uncertainty_removed(run, steps) for run in runs], [100 - run.percent(steps) for run in runs]
    )


def picks_kept(run: Trial, alpha: float) -> int:
    """How many picks the adaptive rule keeps."""
    rule = Stopping(adaptive=alpha)
    for kept in range(len(run.rows)):
        if rule.refuses(kept, run.uncertainty[kept], run.uncertainty[kept + 1]):
            return kept
    return len(run.rows)


def percent_at(run: Trial, steps: int) -> float:
    """In % of base, between two measured points on the line between them."""
    points = [0, *run.curve]
    return float(np.interp(steps, points, [100.0, *(run.percent(point) for point in run.curve)]))


def uncertainty_removed(run: Trial, steps: int) -> float:
    """The share of the uncertainty that the first picks took away."""
    first, last = run.uncertainty[0], run.uncertainty[min(steps, len(run.rows))]
    return 1 - last / first if first > 0 else 0.0


def _alpha_candidates(runs: Sequence[Trial]) -> FloatArray:
    """From one that stops nobody to one that stops everybody."""
    critical = [
        1 / ((at + 1) * np.sqrt(run.uncertainty[at + 1]))
        for run in runs
        for at in range(1, len(run.rows))
        if run.uncertainty[at + 1] > 0
    ]
    if not critical:
        return np.zeros(0)
    spaced = np.geomspace(min(critical), max(critical), CANDIDATE_ALPHAS)
    return np.array(sorted({float(f"{alpha:.3g}") for alpha in spaced}))


def _leave_one_out_mean(
    best: Callable[[IntArray], Chosen | None], value: Callable[[Chosen, int], float], plain: Sequence[float]
) -> float:
    """The mean over texts, each decided by what is best for the others; ``plain`` where nothing is."""
    everyone = np.arange(len(plain))
    chosen = [best(np.delete(everyone, text)) for text in everyone]
    found = [plain[text] if one is None else value(one, text) for text, one in enumerate(chosen)]
    return float(np.mean(found))
