"""Which method is better: per domain, over domains, and against a reference, with intervals.

Every comparison is in pairs: the same texts for both methods, in every resample too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from siftlm.evaluation.labels import BASE_METHOD
from siftlm.evaluation.results import Results
from siftlm.evaluation.statistics import Draws, Mean, bits_per_byte, less, of_domain, over_domains
from siftlm.evaluation.tables import Cell, Column, Table, format_cell, lowest_cells

ALL_DOMAINS, WEIGHTED_DOMAINS = "all", "weighted"
BETTER, WORSE, INCONCLUSIVE = "better", "worse", "not told apart"
# With fewer texts the bootstrap's intervals are too narrow (by a tenth at five of a domain), so they decide nothing.
MIN_TEXTS_PER_DOMAIN = 5
DEFAULT_REFERENCES = ("nn", "nearest")


@dataclass(frozen=True)
class Difference:
    """One method against another, in points of the base model's bits per byte."""

    method: str
    against: str
    percent: Mean
    """The method itself, in % of base."""
    mean: Mean
    """Method less reference: below zero is better. Over domains, each counts the same."""
    weighted: Mean | None
    """The same with the weights of the report."""
    domains: Mapping[str, Mean]
    won: int
    """Domains in which the method needs fewer bits."""
    texts_won: float
    """The share of texts on which it does; ties count half."""
    enough: bool
    """Are there so many texts of each domain that an interval may decide?"""

    @property
    def verdict(self) -> str:
        """``better`` or ``worse`` only where the whole interval is on one side."""
        return (INCONCLUSIVE, WORSE, BETTER)[self.mean.sign] if self.enough else INCONCLUSIVE

    def sentence(self) -> str:
        """In words."""
        figures = format_cell(self.mean, Column("", interval=True, signed=True))
        said = {INCONCLUSIVE: "is not told apart from", BETTER: "is better than", WORSE: "is worse than"}[self.verdict]
        text = (
            f"{self.method} {said} {self.against}: {figures} % of base, lower on {100 * self.texts_won:.0f} % of the "
            f"texts and in {self.won} of {len(self.domains)} domains"
        )
        if self.weighted is not None:
            text += f"; weighted {format_cell(self.weighted, Column('', interval=True, signed=True))}"
        return text + (
            "" if self.enough else f"; too few texts to say (fewer than {MIN_TEXTS_PER_DOMAIN} in some domain)"
        )


def reference_method(found: Results, asked: str | None = None) -> str:
    """What methods are compared with: what was asked for, else the nearest neighbours, else the base model."""
    if asked is not None:
        return found.check(asked)
    return next((name for name in DEFAULT_REFERENCES if name in found.methods), BASE_METHOD)


def difference(
    found: Results, method: str, against: str, draws: Draws, weights: Mapping[str, float] | None = None
) -> Difference:
    """One method less another."""
    figure = less(found.percent(method), found.percent(against))
    one, other = found.tuned(method), found.tuned(against)
    domains = {name: of_domain(figure, draws, name) for name in found.names}
    return Difference(
        method,
        against,
        over_domains(found.percent(method), draws),
        over_domains(figure, draws),
        over_domains(figure, draws, weights) if weights is not None else None,
        domains,
        sum(value.value < 0 for value in domains.values()),
        float(np.mean((one < other) + 0.5 * (one == other))),
        has_enough_texts(found),
    )


def has_enough_texts(found: Results) -> bool:
    """May an interval decide?"""
    return min(found.domains.count(name) for name in found.names) >= MIN_TEXTS_PER_DOMAIN


def percent_table(found: Results, draws: Draws, caption: str, weights: Mapping[str, float] | None = None) -> Table:
    """Domain by domain in % of the base model's bits per byte, as the published Table 1."""
    figures = [found.percent(method) for method in found.others]
    rows: list[tuple[Cell, ...]] = [
        (name, *(of_domain(figure, draws, name) for figure in figures), found.domains.count(name))
        for name in found.names
    ]
    rows.append((ALL_DOMAINS, *(over_domains(figure, draws) for figure in figures), len(found.texts)))
    if weights is not None:
        rows.append((WEIGHTED_DOMAINS, *(over_domains(figure, draws, weights) for figure in figures), len(found.texts)))
    said = f"Bits per byte in % of the base model's; {ALL_DOMAINS}: mean over domains, each counts the same. "
    said += f"{WEIGHTED_DOMAINS.capitalize()}: by the weights given. " if weights is not None else ""
    columns = (Column("domain"), *(Column(method) for method in found.others), Column("texts"))
    return Table(
        "percent",
        "Bits per byte in % of base",
        f"{said}Bold: the least of a row, if less than the base model's. {caption}",
        columns,
        tuple(rows),
        lowest_cells(rows, range(1, len(columns) - 1), below=100),
    )


def absolute_table(found: Results, draws: Draws, caption: str, weights: Mapping[str, float] | None = None) -> Table:
    """Domain by domain in bits per byte: all bits of a domain over all its bytes."""
    figures = [bits_per_byte(found.tuned(method), found.bytes) for method in found.methods]
    rows: list[tuple[Cell, ...]] = []
    for name in found.names:
        size = int(found.bytes[draws.places[name]].sum())
        rows.append((name, *(of_domain(figure, draws, name) for figure in figures), size))
    total = int(found.bytes.sum())
    rows.append((ALL_DOMAINS, *(over_domains(figure, draws) for figure in figures), total))
    if weights is not None:
        rows.append((WEIGHTED_DOMAINS, *(over_domains(figure, draws, weights) for figure in figures), total))
    columns = (Column("domain"), *(Column(method, 3) for method in found.methods), Column("bytes"))
    return Table(
        "absolute",
        "Bits per byte",
        f"All bits of a domain over all its bytes; {ALL_DOMAINS}: mean over domains. {caption}",
        columns,
        tuple(rows),
        lowest_cells(rows, range(1, len(columns) - 1)),
    )


def difference_table(found: Results, differences: Sequence[Difference], draws: Draws, caption: str) -> Table:
    """Every method less the reference, which stands in the first row."""
    against = differences[0].against
    weighted = any(one.weighted is not None for one in differences)
    nothing = (None,) * (3 + weighted)
    rows: list[tuple[Cell, ...]] = [(against, over_domains(found.percent(against), draws), *nothing, "reference")]
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
    columns += [Column(f"less {against}", interval=True, signed=True)]
    columns += [Column("weighted", interval=True, signed=True)] if weighted else []
    columns += [Column("lower on texts, %", 0), Column("domains won"), Column("verdict")]
    said = (
        f"Mean over domains in % of the base model's bits per byte, and that of each method less that of {against}: "
        "below zero is better. Intervals: 95 %, by bootstrap over texts, in pairs and within domains. A method is "
        "called better or worse only where the whole interval says so"
    )
    few = (
        ""
        if all(one.enough for one in differences)
        else f", and here some domain has fewer than {MIN_TEXTS_PER_DOMAIN} texts"
    )
    return Table("differences", f"Against {against}", f"{said}{few}. {caption}", tuple(columns), tuple(rows))


def domain_table(differences: Sequence[Difference], caption: str) -> Table:
    """Every method less the reference, domain by domain."""
    against = differences[0].against
    rows: list[tuple[Cell, ...]] = [
        (name, *(one.domains[name] for one in differences)) for name in differences[0].domains
    ]
    return Table(
        "differences-by-domain",
        f"Against {against}, by domain",
        f"Each method less {against}, in points of the base model's bits per byte. With so many intervals some lie "
        f"beside zero by chance: one in twenty of those that should not. {caption}",
        (Column("domain"), *(Column(one.method, interval=True, signed=True) for one in differences)),
        tuple(rows),
    )


def steps_table(found: Results, against: str, draws: Draws, caption: str) -> Table | None:
    """Every method less the reference after as many steps of both, where several were measured."""
    places = [point for point in found.points(against) if point]
    compared = [name for name in found.others if name != against and len(found.points(name)) > 1]
    if against == BASE_METHOD or len(places) < 2 or not compared:
        return None

    def gap(name: str, point: int) -> Cell:
        if point not in found.points(name):
            return None
        return over_domains(less(found.percent(name, point), found.percent(against, point)), draws)

    rows: list[tuple[Cell, ...]] = [(name, *(gap(name, point) for point in places)) for name in compared]
    return Table(
        "differences-by-steps",
        f"Against {against}, on the way",
        f"Each method after so many steps, less {against} after as many, in points of the base model's bits per byte: "
        "below zero is better. Mean over domains; intervals: 95 %, in pairs. With so many intervals some lie beside "
        f"zero by chance, so choose a number of steps on other texts. {caption}",
        (Column("steps:"), *(Column(f"{point:,}", interval=True, signed=True) for point in places)),
        tuple(rows),
    )
