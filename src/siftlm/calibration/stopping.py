"""Stopping rules: when to stop tuning, and whether to begin; used only if they help texts left out of their fit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from siftlm.calibration.trials import Trial
from siftlm.evaluation.predictiveness import adaptive_stop, alpha_candidates, uncertainty_left
from siftlm.evaluation.statistics import rank_correlation
from siftlm.types import IntArray

Chosen = TypeVar("Chosen")

# The number of values of α to try.
CANDIDATE_ALPHAS = 40
# With fewer texts a rule would overfit; with fewer texts that tuning hurts, it would be due to chance.
MIN_RULE_TEXTS, MIN_HURT_TEXTS = 8, 3
# The least gain, in % of base, for which a rule is used.
MIN_RULE_GAIN_PERCENT = 0.1


@dataclass(frozen=True)
class StoppingRule:
    """A threshold, and its effect: means over texts, in % of base."""

    value: float
    percent: float
    """Bits per byte with the rule."""
    left_out: float
    """Bits per byte where each text is decided by the rule fitted on the others."""
    plain: float
    """Bits per byte without a rule."""
    steps: float
    """Mean steps with the rule."""

    @property
    def helps(self) -> bool:
        """Does the rule help texts that it was not fitted on?"""
        return self.left_out < self.plain - MIN_RULE_GAIN_PERCENT

    def to_dict(self) -> dict[str, float | bool]:
        """Ready for ``json.dumps``."""
        means = {name: round(getattr(self, name), 4) for name in ("percent", "left_out", "plain", "steps")}
        return {"value": self.value, **means, "helps": self.helps}


def fit_adaptive_rule(runs: Sequence[Trial], steps: int) -> StoppingRule | None:
    """The best α among those with a mean of at most ``steps`` steps; None without one, or with too few texts."""
    if len(runs) < MIN_RULE_TEXTS:
        return None
    alphas = alpha_candidates((run.uncertainty for run in runs), CANDIDATE_ALPHAS)
    stops = np.array([[adaptive_stop(run.uncertainty, alpha) for run in runs] for alpha in alphas]).reshape(
        len(alphas), len(runs)
    )
    values = np.array([[percent_at(run, n) for run, n in zip(runs, row, strict=True)] for row in stops])
    plain = [run.percent(steps) for run in runs]

    def best(texts: IntArray) -> int | None:
        """The index of the best α for these texts."""
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
    """The share of the uncertainty that must be removed, below which tuning hurt more than it helped; None without one.

    ``stops``: the number of steps on each text.
    """
    if len(runs) < MIN_RULE_TEXTS:
        return None
    shares = np.array([uncertainty_removed(run, n) for run, n in zip(runs, stops, strict=True)])
    values = np.array([percent_at(run, n) for run, n in zip(runs, stops, strict=True)])

    def best(texts: IntArray) -> float | None:
        """The threshold for these texts."""
        order = texts[np.argsort(shares[texts], kind="stable")]
        harm = np.cumsum(values[order] - 100)
        # A threshold cannot separate equal shares.
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
    """Spearman's correlation, over texts, of the share of the uncertainty removed with the gain."""
    return rank_correlation(
        [uncertainty_removed(run, steps) for run in runs], [100 - run.percent(steps) for run in runs]
    )


def percent_at(run: Trial, steps: int) -> float:
    """Bits per byte in % of base, interpolated linearly between measured points."""
    points = [0, *run.curve]
    return float(np.interp(steps, points, [100.0, *(run.percent(point) for point in run.curve)]))


def uncertainty_removed(run: Trial, steps: int) -> float:
    """The share of the uncertainty that the first picks removed."""
    return 1 - uncertainty_left(run.uncertainty, steps)


def _leave_one_out_mean(
    best: Callable[[IntArray], Chosen | None], value: Callable[[Chosen, int], float], plain: Sequence[float]
) -> float:
    """The mean over texts, each decided by the best rule for the others, or ``plain`` where there is none."""
    everyone = np.arange(len(plain))
    chosen = [best(np.delete(everyone, text)) for text in everyone]
    values = [plain[text] if one is None else value(one, text) for text, one in enumerate(chosen)]
    return float(np.mean(values))
