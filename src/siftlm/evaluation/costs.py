"""What was picked and what it cost: repeats, copies, seconds; and the context instead of the weights."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from siftlm.evaluation.comparison import difference
from siftlm.evaluation.labels import describe_question, method_name
from siftlm.evaluation.results import Results
from siftlm.evaluation.statistics import Draws, over_domains
from siftlm.evaluation.tables import Cell, Column, Table

CONTEXT_METHOD = "context"


def picks_table(found: Results, caption: str) -> Table | None:
    """How often a passage is picked again, and how many give the text away."""
    rows: list[tuple[Cell, ...]] = []
    for name in found.others:
        counts = [Counter(one.rows) for one in found.measured[name] if one.rows]
        if not counts:
            continue
        picks = [sum(count.values()) for count in counts]
        again = sum(total - len(count) for total, count in zip(picks, counts, strict=True))
        copies = [one.copies for one in found.measured[name]]
        rows.append(
            (
                name,
                float(np.mean(picks)),
                float(np.mean([len(count) for count in counts])),
                100 * again / sum(picks),
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
        Column("picked again, %"),
        Column("texts with repeats, %", 0),
        Column("most of one", 1),
        Column("give-aways"),
        Column("in texts"),
    )
    return Table(
        "picks",
        "What was picked",
        "Means over texts. Picked again: the share of picks whose passage had been picked before; most of one: how "
        "often the most frequent passage of a text was picked; give-aways: picks that are copies or pieces of the "
        f"scored text, and in how many texts there are any. {caption}",
        columns,
        tuple(rows),
    )


def multiplicity_table(found: Results, caption: str) -> Table | None:
    """How many passages of a text were picked once, twice and so on."""
    known = {
        name: Counter(times for one in found.measured[name] for times in Counter(one.rows).values())
        for name in found.others
    }
    known = {name: counts for name, counts in known.items() if counts}
    most = max((times for counts in known.values() for times in counts), default=0)
    if most < 2:
        return None
    edges = [(1, 1), (2, 2), (3, 4), (5, 9), (10, 19), (20, most)]
    edges = [(low, min(high, most)) for low, high in edges if low <= most]
    texts = len(found.texts)
    rows: list[tuple[Cell, ...]] = [
        (name, *(sum(counts[times] for times in range(low, high + 1)) / texts for low, high in edges))
        for name, counts in known.items()
    ]
    heads = (Column(f"{low}×" if low == high else f"{low}–{high}×", 2) for low, high in edges)
    return Table(
        "multiplicity",
        "How often a passage is picked",
        f"Passages of a text that were picked so many times, mean over texts. {caption}",
        (Column("method"), *heads),
        tuple(rows),
    )


def costs_table(found: Results, caption: str) -> Table | None:
    """Seconds, by what they went for."""
    rows: list[tuple[Cell, ...]] = []
    for name in found.others:
        some = found.measured[name]
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
        "What it cost",
        "Seconds for a text, mean over texts; selection: its share of selecting and tuning. Seconds are those of the "
        "processor that the run was on, and of what else it had to do; scoring after every measured point is part of "
        f"the evaluation only. {caption}",
        columns,
        tuple(rows),
    )


def context_table(
    found: Results, draws: Draws, caption: str, weights: Mapping[str, float] | None = None
) -> Table | None:
    """The texts in the context beside learning from them."""
    contexts = [name for name in found.others if method_name(name) == CONTEXT_METHOD]
    learned = [name for name in found.others if any(one.learned for one in found.measured[name])]
    rows: list[tuple[Cell, ...]] = []
    for context in contexts:
        for name in learned:
            gap = difference(found, name, context, draws, weights)
            rows.append(
                (
                    f"{name} less {context}",
                    over_domains(found.percent(name), draws),
                    over_domains(found.percent(context), draws),
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
        Column("learned, % of base"),
        Column("in context, % of base"),
        Column("difference", interval=True, signed=True),
        Column("lower on texts, %", 0),
        Column("domains won"),
        Column("verdict"),
    )
    return Table(
        "context",
        "Learning against reading",
        "Texts learned from (one step on each), beside SIFT's texts put before the prompt, as many as fit; below zero "
        f"learning is better. {caption}",
        columns,
        tuple(rows),
    )


def memories_table(memories: Sequence[Results], draws: Draws, caption: str) -> Table | None:
    """Several memories beside each other, on the same texts."""
    if len(memories) < 2:
        return None
    methods = [name for name in memories[0].others if all(name in one.methods for one in memories)]
    rows: list[tuple[Cell, ...]] = [
        (describe_question(one.question)["memory"], *(over_domains(one.percent(name), draws) for name in methods))
        for one in sorted(memories, key=_memory_passages)
    ]
    return Table(
        "memories",
        "Several memories",
        f"Bits per byte in % of base, mean over domains, on the {len(memories[0].texts)} texts that all runs have. "
        f"{caption}",
        (Column("memory"), *(Column(name) for name in methods)),
        tuple(rows),
    )


def _memory_passages(one: Results) -> tuple[int, str]:
    known = one.question.get("memory") or {}
    return int(known.get("passages", 0)), str(known.get("embedder"))
