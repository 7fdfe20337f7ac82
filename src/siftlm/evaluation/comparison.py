"""Which method is better: by domain, over domains, against a reference, against in-context learning; with intervals.

Every comparison is paired: the same texts for both methods, in every resample too.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from siftlm.evaluation.labels import BASE_METHOD, describe_question, difference_label, method_name
from siftlm.evaluation.results import Results
from siftlm.evaluation.statistics import Draws, Mean, bits_per_byte, less, of_domain, over_domains
from siftlm.evaluation.tables import Cell, Column, Table, format_cell, lowest_cells

ALL_DOMAINS, WEIGHTED_DOMAINS = "all", "weighted"
BETTER, WORSE, NO_DIFFERENCE, INCONCLUSIVE = "better", "worse", "no significant difference", "inconclusive"
# With fewer texts the bootstrap's intervals are too narrow (by a tenth at five per domain) to decide anything.
MIN_TEXTS_PER_DOMAIN = 5
DEFAULT_REFERENCES = ("nn", "nearest")
CONTEXT_METHOD = "context"


@dataclass(frozen=True)
class Difference:
    """The difference method − reference, in points of % of base; below zero the method is better."""

    method: str
    against: str
    percent: Mean
    """The method itself, in % of base."""
    mean: Mean
    """The mean over domains, with equal weights."""
    weighted: Mean | None
    """The mean over domains, with the weights of the report."""
    domains: Mapping[str, Mean]
    won: int
    """Domains in which the method needs fewer bits."""
    texts_won: float
    """The share of texts on which the method needs fewer bits; ties count half."""
    enough: bool
    """Are there enough texts for a verdict?"""

    @property
    def verdict(self) -> str:
        """The verdict on the mean over domains."""
        return verdict(self.mean, self.enough)

    def sentence(self) -> str:
        """The verdict and its figures in words."""
        figures = format_cell(self.mean, Column("", interval=True, signed=True))
        words = {
            BETTER: f"{self.method} is better than {self.against}",
            WORSE: f"{self.method} is worse than {self.against}",
            NO_DIFFERENCE: f"{self.method} and {self.against} do not differ significantly",
            INCONCLUSIVE: f"{self.method} against {self.against} is inconclusive",
        }[self.verdict]
        text = (
            f"{words}: {figures} % of base, lower on {100 * self.texts_won:.0f} % of the "
            f"texts and in {self.won} of {len(self.domains)} domains"
        )
        if self.weighted is not None:
            text += f"; weighted {format_cell(self.weighted, Column('', interval=True, signed=True))}"
        return text + (
            "" if self.enough else f"; too few texts for a verdict (fewer than {MIN_TEXTS_PER_DOMAIN} in some domain)"
        )


def verdict(difference: Mean, enough: bool) -> str:
    """The verdict on a difference in bits: ``better`` or ``worse`` only if the whole interval is on one side of zero.

    >>> verdict(Mean(-0.3, -0.5, -0.1), True), verdict(Mean(0.2, -0.1, 0.4), True), verdict(Mean(0.2, 0.1, 0.4), False)
    ('better', 'no significant difference', 'inconclusive')
    """
    if not enough or not math.isfinite(difference.low + difference.high):
        return INCONCLUSIVE
    return (NO_DIFFERENCE, WORSE, BETTER)[difference.sign]


def reference_method(results: Results, name: str | None = None) -> str:
    """The method to compare with: the named one, else nearest neighbour, else the base model."""
    if name is not None:
        return results.check(name)
    return next((name for name in DEFAULT_REFERENCES if name in results.methods), BASE_METHOD)


def difference(
    results: Results, method: str, against: str, draws: Draws, weights: Mapping[str, float] | None = None
) -> Difference:
    """The difference of two methods."""
    figure = less(results.percent(method), results.percent(against))
    one, other = results.tuned(method), results.tuned(against)
    domains = {name: of_domain(figure, draws, name) for name in results.names}
    return Difference(
        method,
        against,
        over_domains(results.percent(method), draws),
        over_domains(figure, draws),
        over_domains(figure, draws, weights) if weights is not None else None,
        domains,
        sum(value.value < 0 for value in domains.values()),
        float(np.mean((one < other) + 0.5 * (one == other))),
        has_enough_texts(results),
    )


def has_enough_texts(results: Results) -> bool:
    """Has every domain enough texts for a verdict?"""
    return min(results.domains.count(name) for name in results.names) >= MIN_TEXTS_PER_DOMAIN


def percent_table(results: Results, draws: Draws, caption: str, weights: Mapping[str, float] | None = None) -> Table:
    """Bits per byte by domain in % of the base model's, as in the published Table 1."""
    figures = [results.percent(method) for method in results.others]
    rows: list[tuple[Cell, ...]] = [
        (name, *(of_domain(figure, draws, name) for figure in figures), results.domains.count(name))
        for name in results.names
    ]
    rows.append((ALL_DOMAINS, *(over_domains(figure, draws) for figure in figures), len(results.texts)))
    if weights is not None:
        rows.append(
            (WEIGHTED_DOMAINS, *(over_domains(figure, draws, weights) for figure in figures), len(results.texts))
        )
    note = f"Bits per byte in % of the base model's; {ALL_DOMAINS}: mean over domains with equal weights. "
    note += f"{WEIGHTED_DOMAINS.capitalize()}: mean with the weights of the report. " if weights is not None else ""
    columns = (Column("domain"), *(Column(method) for method in results.others), Column("texts"))
    return Table(
        "percent",
        "Bits per byte in % of base",
        f"{note}Bold: the lowest of a row, if lower than the base model's. {caption}",
        columns,
        tuple(rows),
        lowest_cells(rows, range(1, len(columns) - 1), below=100),
    )


def absolute_table(results: Results, draws: Draws, caption: str, weights: Mapping[str, float] | None = None) -> Table:
    """Bits per byte by domain: all bits of a domain over all its bytes."""
    figures = [bits_per_byte(results.tuned(method), results.bytes) for method in results.methods]
    rows: list[tuple[Cell, ...]] = []
    for name in results.names:
        size = int(results.bytes[draws.places[name]].sum())
        rows.append((name, *(of_domain(figure, draws, name) for figure in figures), size))
    total = int(results.bytes.sum())
    rows.append((ALL_DOMAINS, *(over_domains(figure, draws) for figure in figures), total))
    if weights is not None:
        rows.append((WEIGHTED_DOMAINS, *(over_domains(figure, draws, weights) for figure in figures), total))
    columns = (Column("domain"), *(Column(method, 3) for method in results.methods), Column("bytes"))
    return Table(
        "absolute",
        "Bits per byte",
        f"All bits of a domain over all its bytes; {ALL_DOMAINS}: mean over domains. {caption}",
        columns,
        tuple(rows),
        lowest_cells(rows, range(1, len(columns) - 1)),
    )


def difference_table(results: Results, differences: Sequence[Difference], draws: Draws, caption: str) -> Table:
    """Each method's difference to the reference, which is in the first row."""
    against = differences[0].against
    weighted = any(one.weighted is not None for one in differences)
    empty = (None,) * (3 + weighted)
    rows: list[tuple[Cell, ...]] = [(against, over_domains(results.percent(against), draws), *empty, "reference")]
    rows += [
        (
            one.method,
            one.percent,
            one.mean,
            *((one.weighted,) if weighted else ()),
            100 * one.texts_won,
            f"{one.won} of {len(one.domains)}",
            one.verdict,
        )
        for one in differences
    ]
    columns = [Column("method"), Column("% of base", interval=True)]
    columns += [Column(f"difference to {against}", interval=True, signed=True)]
    columns += [Column("weighted", interval=True, signed=True)] if weighted else []
    columns += [Column("lower on texts, %", 0), Column("domains won"), Column("verdict")]
    note = (
        f"Mean over domains in % of the base model's bits per byte, and the difference "
        f"{difference_label('method', against)}: below zero the method is better. Intervals: 95 %, paired bootstrap "
        "over the texts of each domain. A method is better or worse only if the whole interval is on one side of zero."
    )
    if not all(one.enough for one in differences):
        note += f" Inconclusive: some domain has fewer than {MIN_TEXTS_PER_DOMAIN} texts."
    return Table("differences", f"Difference to {against}", f"{note} {caption}", tuple(columns), tuple(rows))


def domain_table(differences: Sequence[Difference], caption: str) -> Table:
    """Each method's difference to the reference, by domain."""
    against = differences[0].against
    rows: list[tuple[Cell, ...]] = [
        (name, *(one.domains[name] for one in differences)) for name in differences[0].domains
    ]
    return Table(
        "differences-by-domain",
        f"Difference to {against}, by domain",
        f"{difference_label('method', against)}, in % of the base model's bits per byte: below zero the method is "
        f"better. Of methods that do not differ, one interval in twenty excludes zero by chance. {caption}",
        (Column("domain"), *(Column(one.method, interval=True, signed=True) for one in differences)),
        tuple(rows),
    )


def steps_table(results: Results, against: str, draws: Draws, caption: str) -> Table | None:
    """Each method's difference to the reference after the same number of steps of both; None if there is only one."""
    points = [point for point in results.points(against) if point]
    compared = [name for name in results.others if name != against and len(results.points(name)) > 1]
    if against == BASE_METHOD or len(points) < 2 or not compared:
        return None

    def gap(name: str, point: int) -> Cell:
        if point not in results.points(name):
            return None
        return over_domains(less(results.percent(name, point), results.percent(against, point)), draws)

    rows: list[tuple[Cell, ...]] = [(name, *(gap(name, point) for point in points)) for name in compared]
    return Table(
        "differences-by-steps",
        f"Difference to {against}, by number of steps",
        f"{difference_label('method', against)} after the same number of steps of both, in % of the base model's bits "
        "per byte: below zero the method is better. Mean over domains; intervals: 95 %, paired. Of so many intervals "
        f"some exclude zero by chance, so choose a number of steps on other texts. {caption}",
        (Column("steps:"), *(Column(f"{point:,}", interval=True, signed=True) for point in points)),
        tuple(rows),
    )


def context_table(
    results: Results, draws: Draws, caption: str, weights: Mapping[str, float] | None = None
) -> Table | None:
    """Tuning on the selected texts against in-context learning from them; None without both."""
    contexts = [name for name in results.others if method_name(name) == CONTEXT_METHOD]
    tuned = [name for name in results.others if any(one.learned for one in results.measured[name])]
    rows: list[tuple[Cell, ...]] = []
    for context in contexts:
        for name in tuned:
            gap = difference(results, name, context, draws, weights)
            rows.append(
                (
                    difference_label(name, context),
                    over_domains(results.percent(name), draws),
                    over_domains(results.percent(context), draws),
                    gap.mean,
                    100 * gap.texts_won,
                    f"{gap.won} of {len(gap.domains)}",
                    gap.verdict,
                )
            )
    if not rows:
        return None
    columns = (
        Column("comparison"),
        Column("tuned, % of base"),
        Column("in context, % of base"),
        Column("difference", interval=True, signed=True),
        Column("lower on texts, %", 0),
        Column("domains won"),
        Column("verdict"),
    )
    return Table(
        "context",
        "Tuning against in-context learning",
        "Tuned: one step on each selected text. In context: SIFT's selection before the prompt, as many texts as fit. "
        f"A difference below zero means that tuning is better. {caption}",
        columns,
        tuple(rows),
    )


def memories_table(memories: Sequence[Results], draws: Draws, caption: str) -> Table | None:
    """Several memories compared on the same texts; None if there is only one."""
    if len(memories) < 2:
        return None
    methods = [name for name in memories[0].others if all(name in one.methods for one in memories)]
    rows: list[tuple[Cell, ...]] = [
        (describe_question(one.question)["memory"], *(over_domains(one.percent(name), draws) for name in methods))
        for one in sorted(memories, key=_memory_passages)
    ]
    return Table(
        "memories",
        "Memories",
        f"Bits per byte in % of base, mean over domains, on the {len(memories[0].texts)} texts that all runs have. "
        f"{caption}",
        (Column("memory"), *(Column(name) for name in methods)),
        tuple(rows),
    )


def _memory_passages(one: Results) -> tuple[int, str]:
    memory = one.question.get("memory") or {}
    return int(memory.get("passages", 0)), str(memory.get("embedder"))
