"""The report of a choice, as Markdown and as one page of HTML."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from siftlm.errors import counted
from siftlm.evaluation import html, tables
from siftlm.evaluation.html import Points, Series
from siftlm.evaluation.report import write_files
from siftlm.evaluation.tables import Cell, Column, Table
from siftlm.memory.reading.fields import UnusableRecord
from siftlm.picking.coverage import (
    ALIKE,
    COMPARED_RECORDS,
    RANDOM_CHOICES,
    Coverage,
    coverage_of,
    nearest_choice,
    random_choices,
    repeated_share,
)
from siftlm.picking.output import report_stem
from siftlm.picking.records import record_text
from siftlm.selection.plane import project_to_plane
from siftlm.types import FloatArray, IntArray

if TYPE_CHECKING:
    from siftlm.picking.pick import Picks
    from siftlm.picking.verdict import Verdict

# The methods whose gain is the fall in the targets' mean uncertainty.
FALL_IN_UNCERTAINTY = {"sift", "vtl", "sift-fast"}
TITLE = "The training set that was picked"
CHOSEN, RANDOM, NEAREST = "picked", "random", "nearest"
COLOURS = {CHOSEN: "b", NEAREST: "a", RANDOM: "d"}
# Targets and records that are shown, and characters of each.
SHOWN_TARGETS, SHOWN_PICKS, SHOWN_CHARACTERS = 10, 10, 160
# Points of the picture.
POOL_POINTS, PICK_POINTS, TARGET_POINTS = 1500, 600, 300


@dataclass(frozen=True, eq=False)
class PoolReport:
    """Sentences, tables and pictures about a choice or a review."""

    sentences: tuple[str, ...]
    sections: tuple[tuple[str, tuple[Table | str, ...]], ...]
    """(head, parts): tables, and pictures as HTML."""
    pictures: tuple[tuple[str, str, str], ...]
    """(name, title, HTML) of each picture."""
    title: str = TITLE

    def to_markdown(self, name: str = "report") -> str:
        """The report as Markdown; pictures are files ``name-….svg`` beside it."""
        files = {picture: (key, title) for key, title, picture in self.pictures}
        lines = [f"# {self.title}", "", *(f"- {sentence}" for sentence in self.sentences)]
        for head, parts in self.sections:
            lines += ["", f"## {head}", ""]
            for part in parts:
                if isinstance(part, Table):
                    lines.append(tables.to_markdown(part))
                elif part in files:
                    lines.append(f"![{files[part][1]}]({name}-{files[part][0]}.svg)\n")
        return "\n".join(lines).rstrip() + "\n"

    def to_html(self) -> str:
        """The report as one page that needs no other file."""
        body = [f"<h1>{self.title}</h1>"]
        body += [f'<p class="finding">{html.escape_html(sentence)}</p>' for sentence in self.sentences]
        for head, parts in self.sections:
            body.append(f"<h2>{html.escape_html(head)}</h2>")
            body += [tables.to_html(part) if isinstance(part, Table) else part for part in parts]
        return html.html_page(f"siftlm: {self.title.lower()}", body)

    def write(self, path: str | os.PathLike[str]) -> list[Path]:
        """Write ``path.html``, ``path.md`` and its pictures; returns their paths. ``path`` may end with ``.html``."""
        stem = report_stem(path)
        files = {f"{stem.name}.html": self.to_html(), f"{stem.name}.md": self.to_markdown(stem.name)}
        for key, _, picture in self.pictures:
            files[f"{stem.name}-{key}.svg"] = html.standalone_svg(picture)
        return write_files(files, stem.parent)


def make_report(picks: Picks, *, seed: int = 0, verdict: Verdict | None = None) -> PoolReport:
    """The report of a choice; ``verdict`` of `siftlm.picking.Picks.verdict`, if there is one."""
    candidates = picks.candidates
    plane, shown = _plane_picture(picks, seed)
    sections: list[tuple[str, tuple[Table | str, ...]]] = [
        ("The records", (*_source_tables(picks), _left_out_table(picks), _record_table(picks))),
        ("In the plane", (plane, plane_caption(shown))),
    ]
    pictures = [("plane", "Pool, picks and targets", plane)]
    if len(picks.targets):
        sentences, coverage, curve = _coverage_parts(picks, seed)
        sections.insert(0, ("Coverage of the targets", coverage))
        pictures.insert(0, ("curve", "Uncertainty about the targets", curve))
    else:
        repeated = repeated_share(candidates.vectors, picks.indices, seed)
        chance = [
            repeated_share(candidates.vectors, rows, seed + at)
            for at, rows in enumerate(random_choices(candidates, len(picks), seed))
        ]
        sentences = [
            *str(picks).splitlines()[:1],
            (
                f"{repeated:.1%} of the picked records have a near-copy among the picked; {np.mean(chance):.1%} of as "
                "many random ones."
            ),
            "There are no targets, so nothing is said of how well they are covered.",
        ]
    if verdict is not None:
        sections.insert(0, ("The verdict", (verdict.table(), verdict.picture())))
        pictures.append(("verdict", "The difference with its interval", verdict.picture()))
        sentences.append(verdict.sentence)
    return PoolReport(tuple(sentences), tuple(sections), tuple(one for one in pictures if one[2]))


def _coverage_parts(picks: Picks, seed: int) -> tuple[list[str], tuple[Table | str, ...], str]:
    """Sentences, the section about the targets, and its picture."""
    candidates = picks.candidates
    chosen = coverage_of(CHOSEN, candidates, picks.indices, seed)
    others = [
        coverage_of(RANDOM, candidates, rows, seed + at)
        for at, rows in enumerate(random_choices(candidates, len(picks), seed))
    ]
    near = coverage_of(NEAREST, candidates, nearest_choice(candidates, len(picks)), seed)
    curve = _curve_picture([chosen, near, _average(others)])
    tables_and_curve = (_coverage_table(chosen, near, others), curve, _target_table(picks, chosen, near, others))
    return _sentences(picks, chosen, near, others), tables_and_curve, curve


def _sentences(picks: Picks, chosen: Coverage, near: Coverage, others: Sequence[Coverage]) -> list[str]:
    chance = float(np.mean([one.left.mean() for one in others]))
    repeated = float(np.mean([one.repeated for one in others]))
    return [
        *str(picks).splitlines()[:1],
        (
            f"Of the uncertainty about the targets, {chosen.left.mean():.1%} is left; {chance:.1%} with as many "
            f"records by chance, {near.left.mean():.1%} with the nearest."
        ),
        (
            f"{chosen.repeated:.1%} of the picked records have a near-copy among the picked; {near.repeated:.1%} of "
            f"the nearest, {repeated:.1%} of the random ones."
        ),
    ]


def _coverage_table(chosen: Coverage, near: Coverage, others: Sequence[Coverage]) -> Table:
    def row(name: str, some: Sequence[Coverage]) -> tuple[Cell, ...]:
        left = np.mean([one.left for one in some], axis=0)
        return (
            name,
            round(float(np.mean([len(one.indices) for one in some]))),
            *(100 * float(value) for value in (left.mean(), np.median(left), left.max())),
            100 * float(np.mean([one.repeated for one in some])),
        )

    return Table(
        "coverage",
        "What is left of the uncertainty, and what is repeated",
        f"In % of what it was before the first record, over {counted(len(chosen.left), 'target')}; lower is better. "
        f"Random: mean of {RANDOM_CHOICES} choices. Nearest: every target in turn takes its nearest record. Both keep "
        "the budget, but no quota and no quality. Repeated: the share of records with another one above a cosine of "
        f"{ALIKE:g}, among at most {COMPARED_RECORDS:,} of each choice.",
        (
            Column("choice"),
            Column("records"),
            Column("mean left, %"),
            Column("median"),
            Column("worst target"),
            Column("repeated, %"),
        ),
        (row(CHOSEN, [chosen]), row(NEAREST, [near]), row(RANDOM, others)),
    )


def _target_table(picks: Picks, chosen: Coverage, near: Coverage, others: Sequence[Coverage]) -> Table:
    worst = np.argsort(-chosen.left, kind="stable")[:SHOWN_TARGETS]
    chance = np.mean([one.left for one in others], axis=0)
    cosines = picks.candidates.vectors[picks.indices].astype(np.float32) @ picks.targets.vectors[worst].T
    rows: list[tuple[Cell, ...]] = []
    for at, target in enumerate(worst.tolist()):
        texts = picks.targets.texts
        name = picks.targets.sources[target] if texts is None else shortened(texts[target])
        best = int(cosines[:, at].argmax())
        values = (100 * float(one[target]) for one in (chosen.left, near.left, chance))
        rows.append((name, *values, float(cosines[best, at]), picks.sources[best]))
    columns = (
        Column("target"),
        *(Column(f"{name}, %") for name in (CHOSEN, NEAREST, RANDOM)),
        Column("cosine", 2),
        Column("nearest picked record"),
    )
    return Table(
        "targets",
        "The targets that are covered worst",
        "What is left of the uncertainty about each. A target that stays high with every choice has nothing like it in "
        "the pool.",
        columns,
        tuple(rows),
    )


def _source_tables(picks: Picks) -> list[Table]:
    """How much of each source is in the choice, where there are quotas."""
    quota, labels = picks.quota, picks.embedded.rows["label"]
    if quota is None:
        return []
    held, had = Counter(labels[picks.candidates.allowed].tolist()), Counter(labels[picks.indices].tolist())
    rows: list[tuple[Cell, ...]] = []
    for at, source in enumerate(picks.embedded.labels):
        limit = quota.limit(source)
        allowed = (
            None if limit is None else counted(limit, "record") if isinstance(limit, int) else f"{100 * limit:g} %"
        )
        share, in_pool = 100 * had[at] / max(1, len(picks)), 100 * held[at] / max(1, sum(held.values()))
        rows.append((source, held[at], in_pool, had[at], share, allowed))
    rows.sort(key=lambda row: (-float(str(row[3])), str(row[0])))
    columns = (
        Column(quota.field),
        Column("in the pool"),
        Column("%"),
        Column("picked"),
        Column("%"),
        Column("quota"),
    )
    caption = "Of the pool, the records that may be picked. With a budget, a share in % is one of the budget."
    return [Table("quotas", "Sources", caption, columns, tuple(rows))]


def _left_out_table(picks: Picks) -> Table:
    rows = tuple((reason, count, 100 * count / max(1, picks.pool_records)) for reason, count in picks.left_out.items())
    caption = f"Of {counted(picks.pool_records, 'record')}. Each counts for the first reason that applies."
    columns = (Column("reason"), Column("records"), Column("% of the pool"))
    return Table("left-out", "What could not be picked", caption, columns, rows)


def _record_table(picks: Picks) -> Table:
    falls = picks.method in FALL_IN_UNCERTAINTY
    rows: list[tuple[Cell, ...]] = []
    for at in range(min(SHOWN_PICKS, len(picks))):
        try:
            text = shortened(record_text(picks.records[at], picks.fields))
        except UnusableRecord:
            text = ""
        gain = float(picks.gains[at])
        rows.append((text, at + 1, 100 * gain / picks.uncertainty[0] if falls else gain, picks.sources[at]))
    columns = (Column("text"), Column("pick"), Column("gain, %", 2) if falls else Column("gain", 4), Column("source"))
    of = "by how much the record lowered the targets' mean uncertainty" if falls else f"what {picks.method} maximises"
    caption = f"The first picks. Gain: {of}."
    return Table("records", "The first records", caption, columns, tuple(rows))


def _average(some: Sequence[Coverage]) -> Coverage:
    """The mean of several choices, for a curve as long as the shortest."""
    least = min(len(one.curve) for one in some)
    curve = tuple(
        (some[0].curve[at][0], float(np.mean([one.curve[at][1] for one in some])))
        for at in range(least)
        if len({one.curve[at][0] for one in some}) == 1
    )
    first = some[0]
    return Coverage(first.name, first.indices, curve, first.left, first.repeated)


def _curve_picture(some: Sequence[Coverage]) -> str:
    series = [
        Series(one.name, [(float(count), 100 * value) for count, value in one.curve], COLOURS[one.name]) for one in some
    ]
    return html.line_chart(
        series,
        title="Uncertainty about the targets",
        x_name="records",
        y_name="% left",
        from_zero=True,
        log=max(count for one in some for count, _ in one.curve) > 100,
        size=(720, 320),
    )


def _plane_picture(picks: Picks, seed: int) -> tuple[str, float]:
    """Pool, picks and targets on the two axes that show most, and the share of the variance that these show."""
    draw = np.random.default_rng(seed)
    rest = np.setdiff1d(np.arange(len(picks.embedded.vectors)), picks.indices)
    pool = some_of(rest, POOL_POINTS, draw)
    chosen = some_of(picks.indices, PICK_POINTS, draw)
    targets = some_of(np.arange(len(picks.targets)), TARGET_POINTS, draw)
    vectors = picks.embedded.vectors[np.concatenate([pool, chosen])]
    goals = picks.targets.vectors[targets] if len(targets) else vectors.mean(axis=0, keepdims=True)
    flat = project_to_plane(vectors, goals)
    kinds = [
        Points("pool", plane_points(flat.candidates[: len(pool)]), "d", 1.6, 0.35),
        Points("picked", plane_points(flat.candidates[len(pool) :]), "b", 2.6, 0.8),
        *([Points("targets", plane_points(flat.prompt), "f", 3.6, 0.9)] if len(targets) else []),
    ]
    return html.scatter_chart(kinds, title="Pool, picks and targets"), flat.shown


def plane_caption(shown: float) -> str:
    """The note below a picture of the plane; ``shown``: the share of the variance."""
    text = f"The two axes that show most: {shown:.0%} of the variance. Points close together here may be far apart."
    return f'<p class="faint">{html.escape_html(text)}</p>'


def some_of(rows: IntArray, most: int, draw: np.random.Generator) -> IntArray:
    """These rows, or so many random ones of them."""
    return rows if len(rows) <= most else np.sort(draw.choice(rows, most, replace=False))


def plane_points(points: FloatArray) -> list[tuple[float, float]]:
    """(n, 2) points as `siftlm.evaluation.html` takes them."""
    return [(float(x), float(y)) for x, y in points]


def shortened(text: str) -> str:
    """The beginning of a text, on one line."""
    line = " ".join(text.split())
    return line if len(line) <= SHOWN_CHARACTERS else line[: SHOWN_CHARACTERS - 1].rstrip() + "…"
