"""Picks and costs: repeated passages, leaked passages, seconds."""

from __future__ import annotations

from collections import Counter

import numpy as np

from siftlm.evaluation.results import Results
from siftlm.evaluation.tables import Cell, Column, Table


def picks_table(results: Results, caption: str) -> Table | None:
    """Repeated picks, and picks that leak the scored text; None where nothing was picked."""
    rows: list[tuple[Cell, ...]] = []
    for name in results.others:
        counts = [Counter(one.rows) for one in results.measured[name] if one.rows]
        if not counts:
            continue
        picks = [sum(count.values()) for count in counts]
        repeated = sum(total - len(count) for total, count in zip(picks, counts, strict=True))
        copies = [one.copies for one in results.measured[name]]
        rows.append(
            (
                name,
                float(np.mean(picks)),
                float(np.mean([len(count) for count in counts])),
                100 * repeated / sum(picks),
                100 * float(np.mean([max(count.values()) > 1 for count in counts])),
                float(np.mean([max(count.values()) for count in counts])),
                sum(copies),
                sum(number > 0 for number in copies),
            )
        )
    if not rows:
        return None
    columns = (
        Column("method"),
        Column("picks"),
        Column("distinct"),
        Column("repeated picks, %"),
        Column("texts with repeats, %", 0),
        Column("most repeats", 1),
        Column("leaks"),
        Column("texts with leaks"),
    )
    return Table(
        "picks",
        "Picks",
        "Means over texts. Repeated picks: the share of picks whose passage had been picked before; most repeats: the "
        "number of picks of a text's most frequent passage; leaks: picks that are copies or pieces of the scored text, "
        f"a sum over texts. {caption}",
        columns,
        tuple(rows),
    )


def multiplicity_table(results: Results, caption: str) -> Table | None:
    """The number of passages that were picked once, twice and so on; None where none was picked twice."""
    multiplicities = {
        name: Counter(times for one in results.measured[name] for times in Counter(one.rows).values())
        for name in results.others
    }
    multiplicities = {name: counts for name, counts in multiplicities.items() if counts}
    most = max((times for counts in multiplicities.values() for times in counts), default=0)
    if most < 2:
        return None
    edges = [(1, 1), (2, 2), (3, 4), (5, 9), (10, 19), (20, most)]
    edges = [(low, min(high, most)) for low, high in edges if low <= most]
    texts = len(results.texts)
    rows: list[tuple[Cell, ...]] = [
        (name, *(sum(counts[times] for times in range(low, high + 1)) / texts for low, high in edges))
        for name, counts in multiplicities.items()
    ]
    heads = (Column(f"{low}×" if low == high else f"{low}–{high}×", 2) for low, high in edges)
    return Table(
        "multiplicity",
        "Picks per passage",
        f"Passages that were picked so many times for a text, mean over texts. {caption}",
        (Column("method"), *heads),
        tuple(rows),
    )


def costs_table(results: Results, caption: str) -> Table | None:
    """Seconds of selection, tuning and scoring."""
    rows: list[tuple[Cell, ...]] = []
    for name in results.others:
        some = results.measured[name]
        select, tune, score = (
            float(np.mean([one.seconds.get(part, 0.0) for one in some])) for part in ("select", "tune", "score")
        )
        ended = Counter(one.ended for one in some if one.ended != "done")
        if select + tune + score == 0:
            continue
        rows.append(
            (
                name,
                select,
                tune,
                score,
                100 * select / (select + tune) if tune else None,
                float(np.mean([one.kept for one in some])),
                float(np.mean([sum(one.learned) for one in some])),
                ", ".join(f"{why} {count}" for why, count in sorted(ended.items())) or "none",
            )
        )
    if not rows:
        return None
    columns = (
        Column("method"),
        Column("select, s", 3),
        Column("tune, s", 2),
        Column("score, s", 2),
        Column("selection, %"),
        Column("steps"),
        Column("tokens", 0),
        Column("ended early"),
    )
    return Table(
        "costs",
        "Costs",
        "Seconds per text, mean over texts; selection: its share of selection and tuning. Seconds depend on the "
        "processor of the run and on its other work; scoring after every measured point is part of the evaluation "
        f"only. {caption}",
        columns,
        tuple(rows),
    )
