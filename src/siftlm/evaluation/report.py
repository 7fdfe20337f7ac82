"""A run as tables and figures.

found = report(["runs/a"], against="nn")
found.sentences                       who is better than whom, as far as the texts tell
write(found, "runs/a/report")         see `siftlm.evaluation.writing`
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from siftlm.evaluation import accounts, comparison, figures, foresight
from siftlm.evaluation.comparison import Difference
from siftlm.evaluation.figures import Chart
from siftlm.evaluation.labels import INTERPOLATION_METHOD, describe_question, method_name
from siftlm.evaluation.results import Results, gather, on_common_texts
from siftlm.evaluation.statistics import Draws
from siftlm.evaluation.tables import Table
from siftlm.evaluation.weights import domain_weights


@dataclass(frozen=True, eq=False)
class Report:
    """All that is to be written."""

    results: Results
    differences: tuple[Difference, ...]
    """Each method against the reference."""
    about: tuple[str, ...]
    """What was measured, and what was left out."""
    sections: tuple[tuple[str, tuple[Table | Chart, ...]], ...]
    """Headings, and what stands below them."""

    @property
    def sentences(self) -> list[str]:
        """The verdicts in words."""
        return [one.sentence() for one in self.differences]

    @property
    def main(self) -> Table:
        """In % of base, by domain; in bits per byte where there is only the base model."""
        first = self.sections[0][1][0]
        return first if isinstance(first, Table) else first.table()


def report(
    runs: Sequence[str | os.PathLike[str]],
    *,
    against: str | None = None,
    methods: Sequence[str] | None = None,
    weights: str | Mapping[str, float] | None = None,
) -> Report:
    """Read runs and compare.

    Args:
        runs: folders of runs of one model and protocol. Tables are of the memory of the first; other memories are
            compared with it in a table of their own.
        against: the method that others are compared with; left out, ``nn`` if it is there, else ``base``.
        methods: only these, and the reference.
        weights: for a weighted mean over domains: ``"pile"``, or a file or mapping {domain: weight}.
    """
    wanted = None if methods is None else [*methods, *([against] if against else [])]
    memories = gather(runs, wanted)
    return compose_report(memories[0], memories, against=against, weights=weights)


def compose_report(
    found: Results,
    memories: Sequence[Results] = (),
    *,
    against: str | None = None,
    weights: str | Mapping[str, float] | None = None,
) -> Report:
    """A report of results; ``memories``: of several memories, for a comparison of these."""
    given = None if weights is None else domain_weights(weights, found.names)
    versus = comparison.reference_method(found, against)
    draws = found.draws()
    differences = tuple(
        comparison.difference(found, name, versus, draws, given) for name in found.methods if name != versus
    )
    note = caption(found)
    sections = (
        ("By domain", _domain_parts(found, draws, differences, note, given)),
        ("On the way", (*_curve_parts(found, note), comparison.steps_table(found, versus, draws, note))),
        ("Settings", _settings_parts(found, memories, note)),
        ("Uncertainty", _uncertainty_parts(found, draws, note)),
        ("What was picked, and what it cost", _cost_parts(found, draws, note, given)),
    )
    kept = tuple((head, tuple(one for one in parts if one is not None)) for head, parts in sections)
    return Report(
        found, differences, _describe_run(found, given), tuple((head, parts) for head, parts in kept if parts)
    )


def caption(found: Results, memory: str | None = None) -> str:
    """What stands below every table; ``memory``: in place of that of the results."""
    known = describe_question(found.question)
    corpus = f" of {known['corpus']}" if "corpus" in known else ""
    return (
        f"Protocol {known['protocol']}; {_count(len(found.texts), 'text')} in {_count(len(found.names), 'domain')}"
        f"{corpus}; n = {known['n']}; {known['model']}; memory: {memory or known['memory']}."
    )


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def _describe_run(found: Results, weights: Mapping[str, float] | None) -> tuple[str, ...]:
    lines = [caption(found)]
    if found.left_out:
        lines.append(f"{_count(found.left_out, 'text')} left out, for which some method has no result yet.")
    if any(method_name(name) == INTERPOLATION_METHOD for name in found.methods):
        lines.append("The weight of an interpolation is, for each text, the one that is best on all other texts.")
    for name in found.others:
        broken = int((~np.isfinite(found.tuned(name))).sum())
        if broken:
            lines.append(f"{name}: {_count(broken, 'result')} that are no number; its means over them are none either.")
    lines += _shortage_notes(found)
    if weights is not None:
        without = [name for name, weight in weights.items() if not weight]
        lines += [f"Without weight, and so not in the weighted mean: {', '.join(without)}."] if without else []
    if describe_question(found.question)["copies"] == "exclude":
        lines.append("Passages that give the scored text away were kept out of every search.")
    return tuple(lines)


def _shortage_notes(found: Results) -> list[str]:
    """Later points of these repeat an earlier one."""
    n = int((found.question.get("protocol") or {}).get("n", 0))
    lines = []
    for name in found.others:
        taken = [len(one.rows) for one in found.measured[name] if one.rows and len(one.rows) < n]
        if taken:
            least = min(taken)
            lines.append(
                f"{name}: fewer texts than n = {n} were chosen for {_count(len(taken), 'text')} (at least {least}); "
                "what is shown after more steps is what there was after the last."
            )
    return lines


SectionParts = tuple[Table | Chart | None, ...]


def _domain_parts(
    found: Results, draws: Draws, differences: Sequence[Difference], note: str, weights: Mapping[str, float] | None
) -> SectionParts:
    absolute = comparison.absolute_table(found, draws, note, weights)
    if not found.others:
        return (absolute,)
    return (
        comparison.percent_table(found, draws, note, weights),
        comparison.difference_table(found, differences, draws, note),
        absolute,
        comparison.domain_table(differences, note),
    )


def _curve_parts(found: Results, note: str) -> SectionParts:
    made = (
        figures.against_steps(found, note),
        figures.against_tokens(found, note),
        figures.against_seconds(found, note),
    )
    return tuple(chart if chart.lines else None for chart in made)


def _settings_parts(found: Results, memories: Sequence[Results], note: str) -> SectionParts:
    same = on_common_texts(memories)
    draws = same[0].draws() if same else None
    return (
        figures.over_noise(found, note),
        figures.over_memory(same, caption(same[0], "several")) if same else None,
        accounts.memories_table(same, draws, caption(same[0], "several")) if draws else None,
    )


def _uncertainty_parts(found: Results, draws: Draws, note: str) -> SectionParts:
    return (
        foresight.correlation_table(found, note),
        foresight.uncertainty_chart(found, note),
        foresight.stopping_table(found, draws, note),
    )


def _cost_parts(found: Results, draws: Draws, note: str, weights: Mapping[str, float] | None) -> SectionParts:
    return (
        accounts.context_table(found, draws, note, weights),
        accounts.picks_table(found, note),
        accounts.multiplicity_table(found, note),
        accounts.costs_table(found, note),
    )
