"""The report of a review, as Markdown and as one page of HTML."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from siftlm.evaluation import html
from siftlm.evaluation.html import Points, Series
from siftlm.evaluation.tables import Cell, Column, Table
from siftlm.memory.reading.fields import UnusableRecord
from siftlm.picking.pools import fetch
from siftlm.picking.records import record_text
from siftlm.picking.report import POOL_POINTS, PoolReport, plane_caption, plane_points, shortened, some_of
from siftlm.picking.signals import ADVICE, DROP, KEEP, REFINE, VERDICTS
from siftlm.selection.plane import project_to_plane
from siftlm.types import FloatArray

if TYPE_CHECKING:
    from siftlm.picking.findings import Finding, Review

TITLE = "The records that were reviewed"
COLOURS = {KEEP: "b", REFINE: "a", DROP: "f"}
# Signal -> what it is, and whether what is above or below the threshold is refined or dropped.
MEANING = {
    "confidence": ("0.7 consistency with the model's own answers + 0.3 reflection", "below"),
    "loss": ("nats per token before training", "above, before and after"),
    "loss_after": ("nats per token after training", "above, before and after"),
    "similarity": ("mean cosine with the nearest records", "below"),
    "quality": ("mean score of the judge", "below"),
}
SHOWN_FINDINGS, CURVE_POINTS = 30, 200


def review_report(review: Review, *, seed: int = 0) -> PoolReport:
    """See `siftlm.picking.Review.report`."""
    curves = [(name, picture) for name in MEANING if (picture := _curve(review, name))]
    plane, shown = _plane(review, seed)
    sections: list[tuple[str, tuple[Table | str, ...]]] = [
        ("Verdicts", (_verdict_table(review), *([_reason_table(review)] if review.causes else []))),
        ("Signals", (_signal_table(review), *(picture for _, picture in curves))),
    ]
    if review.causes:
        sections.append(("The records to look at", (_finding_table(review),)))
    if plane:
        sections.append(("In the plane", (plane, plane_caption(shown))))
    pictures = [(name.replace("_", "-"), _title_of(name), picture) for name, picture in curves]
    pictures.append(("plane", "The records, by verdict", plane))
    sentences = str(review).splitlines()
    if review.model is not None:
        sentences.append(f"Measured by {review.model}. Another model finds other records hard or doubtful.")
    return PoolReport(tuple(sentences), tuple(sections), tuple(one for one in pictures if one[2]), TITLE)


def _title_of(name: str) -> str:
    return f"{name.replace('_', ' ').capitalize()}, the records in order"


def _values(review: Review, name: str) -> FloatArray:
    """The finite values of a signal."""
    return np.array([one.signals[name] for one in review.findings if name in one.signals], dtype=np.float64)


def _verdict_table(review: Review) -> Table:
    rows = tuple((name, count, 100 * count / max(1, len(review))) for name, count in review.counts.items())
    unusable = f" {review.unusable:,} more could not be read." if review.unusable else ""
    columns = (Column("verdict"), Column("records"), Column("%"))
    return Table("verdicts", "What to do", f"Of {len(review):,} usable records.{unusable}", columns, rows)


def _reason_table(review: Review) -> Table:
    rows = tuple((f"{cause}: {ADVICE[cause]}", n, 100 * n / len(review)) for cause, n in review.causes.items())
    columns = (Column("reason, and what it means"), Column("records"), Column("%"))
    return Table("reasons", "Why", "A record may have several reasons to be refined.", columns, rows)


def _signal_table(review: Review) -> Table:
    rows: list[tuple[Cell, ...]] = []
    for name, (meaning, side) in MEANING.items():
        if len(values := _values(review, name)):
            figures = (float(values.mean()), float(values.std()), float(np.median(values)))
            label = f"{name.replace('_', ' ')}: {meaning}"
            rows.append((label, len(values), *figures, review.thresholds.get(name), side))
    columns = (
        *(Column("signal"), Column("records"), Column("mean", 3), Column("deviation", 3), Column("median", 3)),
        *(Column("threshold", 3), Column("what counts")),
    )
    rules = review.settings.rules
    caption = (
        f"Confidence: below {'the median' if isinstance(rules.confidence, str) else f'{rules.confidence:g}'} is "
        f"dropped. The others: what is more than {rules.deviations:g} × the deviation beyond the mean is refined."
    )
    return Table("signals", "What was measured", caption, columns, tuple(rows))


def _finding_table(review: Review) -> Table:
    shown = _worst(review)
    records = fetch(review.source, np.array([one.number for one in shown], dtype=np.int64))[0] if shown else []
    rows: list[tuple[Cell, ...]] = []
    for one, record in zip(shown, records, strict=True):
        try:
            text = shortened(record_text(record, review.fields))
        except UnusableRecord:
            text = ""
        rows.append((f"{text} — {'; '.join(one.reasons)}", one.verdict, one.source))
    columns = (Column("record, and why"), Column("verdict"), Column("source"))
    caption = f"At most {SHOWN_FINDINGS}: in turn from each reason, those furthest beyond its threshold first."
    return Table("records", "Dropped, and to refine", caption, columns, tuple(rows))


def _worst(review: Review) -> list[Finding]:
    """Findings with a reason, in turn from each reason, the strongest first."""
    names = {"low confidence": "confidence", "too hard": "loss", "few records like it": "similarity"}
    names["low quality"] = "quality"
    queues = []
    for cause in review.causes:
        name = names.get(cause, "preferred")
        sign = -1.0 if name in ("loss", "preferred") else 1.0
        own = [one for one in review.findings if cause in one.causes]
        queues.append(sorted(own, key=lambda one: sign * one.signals.get(name, 0.0)))
    taken: dict[int, Finding] = {}
    for turn in range(max(map(len, queues), default=0)):
        for queue in queues:
            if turn < len(queue) and len(taken) < SHOWN_FINDINGS:
                taken.setdefault(queue[turn].number, queue[turn])
    return list(taken.values())


def _curve(review: Review, name: str) -> str:
    """The values of a signal in order, with the threshold."""
    values = np.sort(_values(review, name))
    if len(values) < 2:
        return ""
    shown = np.unique(np.linspace(0, len(values) - 1, CURVE_POINTS).round().astype(int))
    share = (100 * shown / (len(values) - 1)).tolist()
    label = name.replace("_", " ")
    series = [Series(label, list(zip(share, values[shown].tolist(), strict=True)), "b")]
    if (cut := review.thresholds.get(name)) is not None:
        series.append(Series("threshold", [(0.0, cut), (100.0, cut)], "f", dashed=True))
    return html.line_chart(series, title=_title_of(name), x_name="% of the records", y_name=label, size=(720, 240))


def _plane(review: Review, seed: int) -> tuple[str, float]:
    """The records on the two axes that show most, by verdict, and the share of the variance that these show."""
    rows = some_of(np.arange(len(review)), POOL_POINTS, np.random.default_rng(seed))
    vectors = review.embedded.vectors[rows]
    if len(rows) < 2 or vectors.shape[1] < 2:
        return "", 0.0
    flat = project_to_plane(vectors, vectors[:1])
    verdicts: Sequence[str] = [review.findings[row].verdict for row in rows.tolist()]
    kinds = []
    for verdict in VERDICTS:
        chosen = [at for at, one in enumerate(verdicts) if one == verdict]
        opacity = 0.45 if verdict == KEEP else 0.85
        kinds.append(Points(verdict, plane_points(flat.candidates[chosen]), COLOURS[verdict], 2.6, opacity))
    return html.scatter_chart(kinds, title="The records, by verdict"), flat.shown
