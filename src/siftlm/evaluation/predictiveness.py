"""Does the estimated uncertainty tell how much will be gained, and when to stop?"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from siftlm.evaluation.comparison import BETTER, INCONCLUSIVE, WORSE, has_enough_texts
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

# Values of α in the table.
TABLE_ALPHAS = 12


def uncertainty_left(one: Measured, picks: int | None = None) -> float:
    """The share of the uncertainty that is left after so many picks, or after all."""
    last = len(one.uncertainty) - 1
    first = one.uncertainty[0]
    return one.uncertainty[last if picks is None else min(picks, last)] / first if first > 0 else 1.0


def methods_with_estimates(found: Results) -> list[str]:
    """The methods whose every text has an estimate before and after picks."""
    return [name for name in found.others if all(len(one.uncertainty) > 1 for one in found.measured[name])]


def correlation_table(found: Results, caption: str) -> Table | None:
    """Per method: do texts on which less uncertainty is left gain more?"""
    rows: list[tuple[Cell, ...]] = []
    for name in methods_with_estimates(found):
        shares = [1 - uncertainty_left(one) for one in found.measured[name]]
        gains = (100 - 100 * found.tuned(name) / found.base).tolist()
        known = bool(np.isfinite(gains).all())
        overall = rank_correlation(shares, gains) if known else None
        rows.append(
            (
                name,
                100 * (1 - found.mean(shares)),
                found.mean(gains),
                None if overall is None else correlation_interval(overall, len(gains)),
                _correlation_within_domains(found, shares, gains) if known else None,
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
        "Estimated uncertainty and realised gain",
        "Spearman's correlation, over texts, of the share of the uncertainty that the picks removed with the gain in "
        "% of base, with 95 % intervals: +1 where the estimate puts the texts in the right order, 0 where it says "
        "nothing. Within domains: the mean of the correlations of each domain of at least three texts. The first two "
        f"columns are means of each text's own, over texts, then over domains. {caption}",
        columns,
        tuple(rows),
    )


def _correlation_within_domains(found: Results, shares: Sequence[float], gains: Sequence[float]) -> float | None:
    where = np.array(found.domains)
    each = []
    for name in found.names:
        at = np.flatnonzero(where == name).tolist()
        if len(at) >= 3:
            each.append(rank_correlation([shares[i] for i in at], [gains[i] for i in at]))
    known = [one for one in each if one is not None]
    return float(np.mean(known)) if known else None


def uncertainty_chart(found: Results, caption: str) -> Chart | None:
    """Figure: what is left, mean over domains."""
    lines = {}
    for name in methods_with_estimates(found):
        last = max(len(one.uncertainty) for one in found.measured[name]) - 1
        values = [
            found.mean([uncertainty_left(one, picks) for one in found.measured[name]]) for picks in range(last + 1)
        ]
        lines[name] = tuple((float(picks), 100 * value) for picks, value in enumerate(values))
    if not lines:
        return None
    return Chart(
        "uncertainty-left",
        "Estimated uncertainty left",
        f"In % of what it was before the first pick, mean over domains. {caption}",
        "picks",
        "%",
        lines,
    )


# --- the adaptive stop


def adaptive_stop(one: Measured, alpha: float) -> int:
    """How many picks the published rule keeps: while σ_n ≤ 1 / (α n).

    >>> adaptive_stop(Measured(2.0, {0: 2.0}, 1, 1, rows=(4, 5, 6), uncertainty=(1.0, 0.25, 0.25, 0.25)), 1.0)
    2
    """
    rule = Stopping(adaptive=alpha)
    last = len(one.uncertainty) - 1
    return next((n for n in range(last) if rule.refuses(n, one.uncertainty[n], one.uncertainty[n + 1])), last)


def bits_after(one: Measured, steps: float) -> float:
    """Bits per byte, between two measured points on the line between them."""
    return float(np.interp(steps, list(one.curve), list(one.curve.values())))


def alpha_candidates(some: Sequence[Measured]) -> list[float]:
    """From one that stops hardly anybody to one that stops nearly everybody, evenly in their logarithm."""
    critical = sorted(
        1 / (n * left_now**0.5) for one in some for n, left_now in enumerate(one.uncertainty) if n > 1 and left_now > 0
    )
    if not critical:
        return []
    spaced = np.geomspace(critical[0], critical[-1], TABLE_ALPHAS)
    return sorted({float(f"{alpha:.3g}") for alpha in spaced})


def stopping_method(found: Results) -> str | None:
    """The method that the rule is tried on: SIFT, one step on each pick in their order."""
    known = [name for name in methods_with_estimates(found) if method_name(name) in ("sift", "sift-fast")]
    for name in known:
        how = found.settings.get(name, {})
        plain = how.get("order", "picked") == "picked" and how.get("passes", 1) == 1
        if plain and all(len(one.learned) <= len(one.rows) for one in found.measured[name]):
            return name
    return None


def stopping_table(found: Results, draws: Draws, caption: str) -> Table | None:
    """The rule for some α beside as many steps for every text."""
    name = stopping_method(found)
    if name is None:
        return None
    some = found.measured[name]
    rows: list[tuple[Cell, ...]] = []
    for alpha in alpha_candidates(some):
        stops = [adaptive_stop(one, alpha) for one in some]
        steps = float(np.mean(stops))
        if len(set(stops)) == 1:  # the same as a fixed number
            continue
        with_rule = percent_of_base(_bits(some, stops), found.base, found.bytes)
        fixed = percent_of_base(_bits(some, [steps] * len(some)), found.base, found.bytes)
        gap = over_domains(less(with_rule, fixed), draws)
        verdict = (INCONCLUSIVE, WORSE, BETTER)[gap.sign] if has_enough_texts(found) else INCONCLUSIVE
        rows.append((f"{alpha:g}", steps, over_domains(with_rule, draws), over_domains(fixed, draws), gap, verdict))
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
        f"{name} stopped at the first n with σ > 1/(α n), beside the same mean number of steps for every text. "
        "Computed from the measured points, on the line between them: no text was tuned anew. A difference below zero "
        "says that the rule is better; with several α some may differ by chance, so choose one on other texts. "
        f"{caption}",
        columns,
        tuple(rows),
    )


def _bits(some: Sequence[Measured], steps: Sequence[float]) -> FloatArray:
    return np.array([bits_after(one, number) for one, number in zip(some, steps, strict=True)])
