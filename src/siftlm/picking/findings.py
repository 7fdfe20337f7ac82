"""The result of a review: what it says of each record, in figures and in words, and the files that come of it."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from siftlm.errors import InvalidInput, counted, setting
from siftlm.picking import output
from siftlm.picking.pools import Pool, fetch
from siftlm.picking.review_settings import ReviewSettings
from siftlm.picking.signals import (
    ADVICE,
    BETTER_ANSWER,
    DROP,
    KEEP,
    POOR,
    REFINE,
    SPARSE,
    TOO_HARD,
    UNSURE,
    VERDICTS,
    Decision,
)
from siftlm.picking.work import Embedded
from siftlm.types import json_number

if TYPE_CHECKING:
    from siftlm.picking.report import PoolReport


@dataclass(frozen=True, eq=False)
class Finding:
    """What a review says of one record."""

    number: int
    """The record's number in the pool, counted from 0."""
    source: str
    """The same as ``file:line``, or what serves as that."""
    verdict: str
    """``keep``, ``drop`` or ``refine``."""
    reasons: tuple[str, ...]
    """Why, in plain words; empty for a record that is kept."""
    causes: tuple[str, ...]
    """The same as the names by which a report counts them."""
    signals: Mapping[str, float]
    """What was measured: ``confidence`` with its ``consistency`` and ``reflection``, ``loss`` and ``loss_after``,
    ``similarity``, ``quality`` and the single scores. A signal that does not apply is missing."""
    neighbours: tuple[int, ...] = ()
    """The numbers of the nearest records, the nearest first."""
    similar: tuple[str, ...] = ()
    """The texts of these, for a record that is refined."""
    candidate: str | None = None
    """The sampled answer that the judge prefers, if there is one."""
    refined: Sequence[Any] | None = None
    """What stands in the record's place after refinement; ``None``: it is as it was."""


Refine = Callable[[Any, Finding], Any]
"""(record, finding) -> a record in its place, a list of several, or None to leave it as it is."""


@dataclass(frozen=True, eq=False)
class Review:
    """The findings of a review, one for each usable record in the order of the pool; printing it gives a summary."""

    findings: Sequence[Finding]
    thresholds: Mapping[str, float]
    """The value of each signal beyond which a record was dropped or refined."""
    signals: tuple[str, ...]
    """What was looked at."""
    settings: ReviewSettings = field(repr=False)
    pool: str
    """The name of the pool."""
    pool_records: int
    """How many records the pool has."""
    unusable: int
    """How many of them could not be read."""
    complaints: Sequence[str]
    """Of the first unusable ones."""
    model: str | None
    """The name of the model, where one was needed."""
    source: Pool = field(repr=False)
    fields: tuple[str, ...] | None = field(repr=False)
    embedded: Embedded = field(repr=False)
    inputs: Sequence[Path] = field(repr=False, default=())

    def __len__(self) -> int:
        return len(self.findings)

    def __getitem__(self, at: int) -> Finding:
        return self.findings[at]

    @property
    def counts(self) -> dict[str, int]:
        """Verdict -> how many records have it."""
        found = Counter(one.verdict for one in self.findings)
        return {verdict: found[verdict] for verdict in VERDICTS}

    @property
    def causes(self) -> dict[str, int]:
        """Reason -> how many records have it; a record may have several."""
        found = Counter(cause for one in self.findings for cause in one.causes)
        return {cause: found[cause] for cause in ADVICE if found[cause]}

    def report(self, *, seed: int = 0) -> PoolReport:
        """The verdicts, the signals with their thresholds, the records to look at, and a picture."""
        from siftlm.picking.review_report import review_report

        return review_report(self, seed=seed)

    def write(
        self,
        path: str | os.PathLike[str],
        *,
        dropped: str | os.PathLike[str] | None = None,
        field: str | None = output.DEFAULT_FIELD,
    ) -> list[Path]:
        """Write the records that are kept and refined, in the order of the pool; returns the files.

        Args:
            path: ``.jsonl``, ``.jsonl.gz`` or ``.parquet``. A record to refine that nobody refined is written as it is.
            dropped: a file for the records that are dropped.
            field: of the verdict, the reasons, the source and the signals in each record; ``None`` leaves them out.
        """
        wanted = [(Path(path), (KEEP, REFINE)), *([] if dropped is None else [(Path(dropped), (DROP,))])]
        for name, (file, _) in zip(("path", "dropped"), wanted, strict=False):
            output.check_output(file, name)
            output.check_no_input(name, file, self.inputs)
        if len(wanted) == 2 and wanted[0][0].resolve() == wanted[1][0].resolve():
            raise InvalidInput(f"{setting('dropped', str(dropped))} is the file of the other records: name another")
        for file, verdicts in wanted:
            self.write_file(file, verdicts, field)
        return [file for file, _ in wanted]

    def write_file(self, file: Path, verdicts: Sequence[str], name: str | None) -> None:
        """Write the records with these verdicts, in the order of the pool."""
        findings = [one for one in self.findings if one.verdict in verdicts]
        numbers = np.array([one.number for one in findings], dtype=np.int64)
        records = fetch(self.source, numbers)[0] if len(findings) else []
        rows, sources = [], []
        for record, finding in zip(records, findings, strict=True):
            note = {
                "verdict": finding.verdict,
                "reasons": list(finding.reasons),
                "source": finding.source,
                **({} if finding.verdict != REFINE else {"refined": finding.refined is not None}),
                "signals": {key: json_number(value, 6) for key, value in finding.signals.items()},
            }
            for one in [record] if finding.refined is None else finding.refined:
                rows.append(output.with_field(one, finding.source, name, note))
                sources.append(finding.source)
        output.write_records(file, rows, sources, self.source)

    def __str__(self) -> str:
        kept, refined, dropped = (self.counts[verdict] for verdict in (KEEP, REFINE, DROP))
        done = sum(one.refined is not None for one in self.findings)
        counts = f"keep {kept:,}, refine {refined:,}, drop {dropped:,}"
        lines = [f"{len(self):,} of {counted(self.pool_records, 'record')} of {self.pool}: {counts}"]
        lines += [f"{count:,} × {cause}: {ADVICE[cause]}" for cause, count in self.causes.items()]
        lines += [f"{done:,} refined"] if done else []
        lines += [f"{self.unusable:,} unusable"] if self.unusable else []
        return "\n".join(lines)


def in_words(
    decision: Decision, signals: Mapping[str, float], cuts: Mapping[str, float], *, median: bool
) -> tuple[str, ...]:
    """The reasons with their figures; ``median``: it is what confidence is compared with."""

    def figure(name: str, how: str) -> str:
        return f"{name.replace('_', ' ')} {signals[name]:.3g}, {how} {cuts[name]:.3g}"

    def figures(reason: str) -> str:
        if reason == UNSURE:
            return figure("confidence", "below the median" if median else "below")
        if reason == BETTER_ANSWER:
            return f"the judge prefers a sampled answer, {signals['preferred']:.0%}"
        if reason == TOO_HARD:
            return f"{figure('loss', 'above')}; {figure('loss_after', 'above')}"
        if reason == SPARSE:
            return figure("similarity", "below")
        return figure("quality", "below") if reason == POOR else ""

    found = []
    for reason in decision.reasons:
        measured = figures(reason)
        found.append(f"{reason}{f' ({measured})' if measured else ''}: {ADVICE[reason]}")
    return tuple(found)
