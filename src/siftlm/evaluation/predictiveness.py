"""Does the estimated uncertainty predict the gain of tuning, and when to stop?"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from siftlm.evaluation.comparison import has_enough_texts, verdict
from siftlm.evaluation.figures import Chart
from siftlm.evaluation.labels import method_name
from siftlm.evaluation.measured import Measured
from siftlm.evaluation.results import Results
from siftlm.evaluation.statistics import (
    Draws,
    correlation_interval,
    less,
    over_domains,
    percent_of_base,
    rank_correlation,
)
from siftlm.evaluation.tables import Cell, Column, Table
from siftlm.selection import Stopping
from siftlm.types import FloatArray

# The number of values of α in the table.
TABLE_ALPHAS = 12


def uncertainty_left(uncertainty: Sequence[float], picks: int | None = None) -> float:
    """The share of the uncertainty that is left after so many picks, or after all.

    ``uncertainty``: before the first pick, and after each.
    """
    last = len(uncertainty) - 1
    first = uncertainty[0]
    return uncertainty[last if picks is None else min(picks, last)] / first if first > 0 else 1.0


def methods_with_estimates(results: Results) -> list[str]:
    """Methods with an estimate before and after the picks of every text."""
    return [name for name in results.others if all(len(one.uncertainty) > 1 for one in results.measured[name])]


def correlation_table(results: Results, caption: str) -> Table | None:
    """Each method's rank correlation of the uncertainty removed with the gain; None without estimates."""
    rows: list[tuple[Cell, ...]] = []
    for name in methods_with_estimates(results):
        shares = [1 - uncertainty_left(one.uncertainty) for one in results.measured[name]]
        gains = (100 - 100 * results.tuned(name) / results.base).tolist()
        finite = bool(np.isfinite(gains).all())
        overall = rank_correlation(shares, gains) if finite else None
        rows.append(
            (
                name,
                100 * (1 - results.mean(shares)),
                results.mean(gains),
                None if overall is None else correlation_interval(overall, len(gains)),
                _correlation_within_domains(results, shares, gains) if finite else None,
            )
        )
    if not rows:
        return None
    columns = (
        Column("method"),
        Column("uncertainty left, %"),
        Column("gain, % of base", signed=True),
        Column("rank correlation", 2, interval=True, signed=True),
        Column("within domains", 2, signed=True),
    )
    return Table(
        "uncertainty",
        "Does the uncertainty predict the gain?",
        "Spearman's correlation, over texts, between the share of the uncertainty that the picks removed and the gain "
        "in % of base, with 95 % intervals: +1 if the estimate ranks the texts by their gain, 0 if it is "
        "uninformative. Within domains: the mean correlation of the domains with at least three texts. The first two "
        f"columns are means over the texts of each domain, then over domains. {caption}",
        columns,
        tuple(rows),
    )


def _correlation_within_domains(results: Results, shares: Sequence[float], gains: Sequence[float]) -> float | None:
    where = np.array(results.domains)
    each = []
    for name in results.names:
        at = np.flatnonzero(where == name).tolist()
        if len(at) >= 3:
            each.append(rank_correlation([shares[i] for i in at], [gains[i] for i in at]))
    correlations = [one for one in each if one is not None]
    return float(np.mean(correlations)) if correlations else None


def uncertainty_chart(results: Results, caption: str) -> Chart | None:
    """The uncertainty left against picks, mean over domains; None without estimates."""
    lines = {}
    for name in methods_with_estimates(results):
        last = max(len(one.uncertainty) for one in results.measured[name]) - 1
        values = [
            results.mean([uncertainty_left(one.uncertainty, picks) for one in results.measured[name]])
            for picks in range(last + 1)
        ]
        lines[name] = tuple((float(picks), 100 * value) for picks, value in enumerate(values))
    if not lines:
        return None
    return Chart(
        "uncertainty-left",
        "Estimated uncertainty left",
        f"In % of the uncertainty before the first pick, mean over domains. {caption}",
        "picks",
        "%",
        lines,
    )


# --- the adaptive stop


def adaptive_stop(uncertainty: Sequence[float], alpha: float) -> int:
    """The number of picks that the published rule keeps: while σₙ ≤ 1 / (α n).

    >>> adaptive_stop((1.0, 0.25, 0.25, 0.25), alpha=1.0)
    2
    """
    rule = Stopping(adaptive=alpha)
    last = len(uncertainty) - 1
    return next((n for n in range(last) if rule.refuses(n, uncertainty[0], uncertainty[n], uncertainty[n + 1])), last)


def alpha_candidates(uncertainties: Iterable[Sequence[float]], count: int) -> list[float]:
    """Values of α from one that stops hardly any text to one that stops nearly all, in equal factors."""
    critical = [1 / (n * left**0.5) for one in uncertainties for n, left in enumerate(one) if n > 1 and left > 0]
    if not critical:
        return []
    spaced = np.geomspace(min(critical), max(critical), count)
    return sorted({float(f"{alpha:.3g}") for alpha in spaced})


def bits_after(one: Measured, steps: float) -> float:
    """Bits per byte after so many steps, interpolated linearly between measured points."""
    return float(np.interp(steps, list(one.curve), list(one.curve.values())))


def stopping_method(results: Results) -> str | None:
    """The method that the rule is applied to: SIFT with one step on each pick, in their order; None without one."""
    candidates = [name for name in methods_with_estimates(results) if method_name(name) in ("sift", "sift-fast")]
    for name in candidates:
        settings = results.settings.get(name, {})
        plain = settings.get("order", "picked") == "picked" and settings.get("passes", 1) == 1
        if plain and all(len(one.learned) <= len(one.rows) for one in results.measured[name]):
            return name
    return None


def stopping_table(results: Results, draws: Draws, caption: str) -> Table | None:
    """The adaptive stop for some α, against a fixed number of steps; None without a method to apply it to."""
    name = stopping_method(results)
    if name is None:
        return None
    some = results.measured[name]
    rows: list[tuple[Cell, ...]] = []
    for alpha in alpha_candidates((one.uncertainty for one in some), TABLE_ALPHAS):
        stops = [adaptive_stop(one.uncertainty, alpha) for one in some]
        steps = float(np.mean(stops))
        if len(set(stops)) == 1:  # the same as a fixed number
            continue
        with_rule = percent_of_base(_bits(some, stops), results.base, results.bytes)
        fixed = percent_of_base(_bits(some, [steps] * len(some)), results.base, results.bytes)
        gap = over_domains(less(with_rule, fixed), draws)
        means = (over_domains(with_rule, draws), over_domains(fixed, draws))
        rows.append((f"{alpha:g}", steps, *means, gap, verdict(gap, has_enough_texts(results))))
    if not rows:
        return None
    columns = (
        Column("α"),
        Column("mean steps"),
        Column("adaptive, % of base"),
        Column("fixed, % of base"),
        Column("difference", 2, interval=True, signed=True),
        Column("verdict"),
    )
    return Table(
        "adaptive",
        "Adaptive stop against a fixed number of steps",
        f"{name} stopped at the first n with σ > 1/(α n), against the same mean number of steps for every text. "
        "Computed from the measured points by linear interpolation: no text was tuned again. A difference below zero "
        "means that the rule is better; with several α some may differ by chance, so choose one on other texts. "
        f"{caption}",
        columns,
        tuple(rows),
    )


def _bits(some: Sequence[Measured], steps: Sequence[float]) -> FloatArray:
    return np.array([bits_after(one, number) for one, number in zip(some, steps, strict=True)])
