"""The redundancy of a corpus: how often its passages nearly repeat each other, and so whether diversity matters.

It is counted in a sample of fixed size: the more passages there are, the more neighbours each has, so that only samples
of equal size can be compared.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from siftlm.memory import vectors
from siftlm.memory.store import Store
from siftlm.progress import Meter, Report
from siftlm.selection import diagnosis
from siftlm.types import FloatArray, IntArray, Vectors, json_number
from siftlm.validation import number, whole_number

# Groups that are shown, their passages, and their characters; and texts that are read together.
SHOWN_GROUPS, SHOWN_GROUP_PASSAGES, SNIPPET_CHARACTERS, READ_BATCH_TEXTS = 3, 3, 120, 1000
# Shares from which near-copies count as common, and below which as rare.
COMMON_COPY_SHARE, RARE_COPY_SHARE = 0.2, 0.01
# Below this many passages a sample says little.
MIN_SAMPLE_PASSAGES = 1000


@dataclass(frozen=True)
class Group:
    """A passage with those others of the sample that nearly repeat it."""

    size: int
    """The number of passages, this one included."""
    rows: tuple[int, ...]
    """The rows of the passage and its nearest others, as many as there are snippets."""
    snippets: tuple[str, ...]
    """The beginnings of these texts."""


@dataclass(frozen=True)
class Redundancy:
    """The redundancy of a memory; printing it gives a table."""

    passages: int
    """Passages in the whole memory."""
    sample: int
    """Passages that were compared with each other."""
    asked: int
    """The size of sample that was asked for; results are comparable with those of other memories only at this size."""
    neighbours: int
    """The number of others from which a passage counts as redundant."""
    threshold: float
    """The cosine above which another passage is a neighbour."""
    redundant: float
    """Share of the sample that has at least ``neighbours`` others in the sample above the threshold."""
    spread: dict[str, float]
    """Others above the threshold (``0``, ``1``, ``2-4``, ``5+``) -> share of the sample."""
    mean_pair: float
    """Cosine of two random passages: what the threshold must be read against."""
    median_pair: float
    """The median of the same cosines."""
    mean_nearest: float
    """Cosine of a passage and the nearest other one in the sample."""
    median_nearest: float
    """The median of the same cosines."""
    copies: float
    """The share of added texts that repeated an earlier one, and were stored once."""
    groups: tuple[Group, ...]
    """The most redundant passages, at most three."""
    retrieval: diagnosis.RetrievalFigures | None
    """What searches in the whole memory return for passages of the sample; None for a memory of ten passages or fewer.
    After the mean was subtracted, where any two passages are alike."""
    advice: str
    """The conclusion, in words."""

    @property
    def recommendation(self) -> str | None:
        """``top-k is enough``, ``use SIFT`` or ``use SIFT and stop early``; None where there is too little to say."""
        return None if self.retrieval is None else self.retrieval.recommendation

    def to_dict(self) -> dict[str, Any]:
        """Ready for ``json.dumps``; what is undefined for fewer than two passages is ``None``."""
        plain = asdict(self) | {"recommendation": self.recommendation}
        return {name: json_number(value) if isinstance(value, float) else value for name, value in plain.items()}

    def __str__(self) -> str:
        short = "" if self.sample >= self.asked else f", fewer than {self.asked:,}: compare with equal samples only"
        lines = [
            f"{self.sample:,} of {self.passages:,} passages, compared with each other{short}",
            "",
            f"{self.neighbours} or more others above cosine {self.threshold:g}: {self.redundant:.1%}",
            "others      " + "  ".join(f"{name:>6}" for name in self.spread),
            "passages    " + "  ".join(f"{share:>6.1%}" for share in self.spread.values()),
            "",
            f"cosine of   random pairs: mean {self.mean_pair:.3f}, median {self.median_pair:.3f}",
            f"            nearest others: mean {self.mean_nearest:.3f}, median {self.median_nearest:.3f}",
            f"equal texts, stored once: {self.copies:.1%}",
        ]
        for group in self.groups:
            lines += ["", f"{group.size} passages that nearly repeat each other, such as"]
            lines += [f"  {row:>9}  {text}" for row, text in zip(group.rows, group.snippets, strict=True)]
        lines += ["", self.advice]
        return "\n".join(lines if self.retrieval is None else [*lines, str(self.retrieval)])


def redundancy(
    store: Store,
    rows: IntArray,
    sample: int = 10_000,
    *,
    neighbours: int = 5,
    threshold: float = 0.9,
    seed: int = 0,
    report: Report | None = None,
) -> Redundancy:
    """The redundancy of a store whose passages have these ids. See `Memory.redundancy`."""
    whole_number("sample", sample, least=2)
    whole_number("neighbours", neighbours)
    whole_number("seed", seed, least=0)
    number("threshold", threshold, least=-1, below=1)
    rng = np.random.default_rng(seed)
    size = min(sample, len(rows))
    chosen: IntArray = np.sort(rng.choice(rows, size, replace=False)) if size else np.zeros(0, dtype=np.int64)
    units = vectors.unit_rows(store.vectors(chosen))
    copies = diagnosis.near_copies(units, threshold, Meter("comparing", "passages", report, total=size))
    pairs = diagnosis.pair_cosines(units, rng)
    mean_pair, median_pair = _mean_and_median(pairs)
    mean_nearest, median_nearest = _mean_and_median(copies.nearest)
    share = copies.redundant(neighbours)
    mean = units.mean(axis=0) if diagnosis.in_narrow_cone(pairs, threshold) else None
    return Redundancy(
        passages=len(rows),
        sample=size,
        asked=sample,
        neighbours=neighbours,
        threshold=float(threshold),
        redundant=share,
        spread=_spread(copies.counts),
        mean_pair=mean_pair,
        median_pair=median_pair,
        mean_nearest=mean_nearest,
        median_nearest=median_nearest,
        copies=_copies(store, chosen),
        groups=_groups(store, chosen, units, copies.counts, threshold),
        retrieval=_retrieval(store, chosen, units, mean, threshold, rng),
        advice=_advice(size, len(rows), share, neighbours, threshold, median_pair),
    )


def _retrieval(
    store: Store, rows: IntArray, units: Vectors, mean: Vectors | None, threshold: float, rng: np.random.Generator
) -> diagnosis.RetrievalFigures | None:
    """What searches in the store return for some of the sample, none of which is a result of its own."""
    if len(rows) <= diagnosis.RESULTS:
        return None
    drawn = np.sort(rng.choice(len(rows), min(diagnosis.PROMPTS, len(rows)), replace=False))
    found = store.nearest(units[drawn], diagnosis.CANDIDATES + 1, None)
    targets = units[drawn] if mean is None else diagnosis.centred_units(units[drawn], mean)

    def candidates() -> Iterator[Vectors]:
        for own, target, neighbours in zip(rows[drawn], targets, found, strict=True):
            others = vectors.unit_rows(store.vectors(neighbours.ids[neighbours.ids != own][: diagnosis.CANDIDATES]))
            if mean is not None:
                others = diagnosis.centred_units(others, mean)
                others = others[np.argsort(-(others @ target), kind="stable")]
            yield others

    return diagnosis.retrieval_figures(targets, candidates(), diagnosis.RESULTS, threshold=threshold)


def _mean_and_median(cosines: FloatArray) -> tuple[float, float]:
    if len(cosines) == 0 or np.isnan(cosines).any():
        return math.nan, math.nan
    return float(np.mean(cosines)), float(np.median(cosines))


def _spread(counts: IntArray) -> dict[str, float]:
    size = max(1, len(counts))
    bands = {"0": (0, 0), "1": (1, 1), "2-4": (2, 4), "5+": (5, math.inf)}
    return {
        name: float(np.count_nonzero((counts >= low) & (counts <= high)) / size) for name, (low, high) in bands.items()
    }


def _copies(store: Store, rows: IntArray) -> float:
    stored = 0
    for at in range(0, len(rows), READ_BATCH_TEXTS):
        stored += sum(passage.copies for passage in store.passages(rows[at : at + READ_BATCH_TEXTS].tolist(), None))
    return (stored - len(rows)) / stored if stored else 0.0


def _groups(store: Store, rows: IntArray, units: Vectors, counts: IntArray, threshold: float) -> tuple[Group, ...]:
    """Groups around the passage with the most others, then around the next that is in no group yet."""
    groups: list[Group] = []
    free = np.ones(len(rows), dtype=np.bool_)
    for centre in np.argsort(-counts, kind="stable"):
        if len(groups) == SHOWN_GROUPS or not counts[centre]:
            break
        if not free[centre]:
            continue
        cosines = units @ units[centre]
        cosines[centre] = np.inf
        near = np.flatnonzero(cosines > threshold)
        free[near] = False
        shown = near[np.argsort(-cosines[near], kind="stable")][:SHOWN_GROUP_PASSAGES]
        texts = [passage.text for passage in store.passages(rows[shown].tolist(), None)]
        groups.append(Group(len(near), tuple(rows[shown].tolist()), tuple(map(_snippet, texts))))
    return tuple(groups)


def _snippet(text: str) -> str:
    line = " ".join(text[: 4 * SNIPPET_CHARACTERS].split())
    fits = len(line) <= SNIPPET_CHARACTERS and len(text) <= 4 * SNIPPET_CHARACTERS
    return line if fits else line[: SNIPPET_CHARACTERS - 1] + "…"


def _advice(size: int, passages: int, share: float, neighbours: int, threshold: float, median_pair: float) -> str:
    if size < max(2, neighbours + 1):
        return f"{size} passages are too few to say anything."
    if diagnosis.says_little(threshold, median_pair):
        advice = (
            f"The threshold {threshold:g} says little: it is nearer to the cosine of any two passages "
            f"({median_pair:.2f}) than to that of equal ones. Ask again with a higher threshold."
        )
        high = (
            " Either most of these texts nearly repeat each other, or their embeddings are not centred; then select "
            "with kernel=siftlm.kernels.centred()."
        )
        return advice + high * (median_pair > diagnosis.CONE_COSINE)
    whole = f" Among all {passages:,}, a passage has about {passages / size:.0f} times as many." * (
        passages >= 2 * size > 0
    )
    unsure = f" {size:,} passages are few, though, and more of them would have more neighbours." * (
        size < MIN_SAMPLE_PASSAGES
    )
    several = f"{neighbours} or more others above {threshold:g} in a sample of {size:,}"
    if share >= COMMON_COPY_SHARE:
        advice = (
            f"Diversity will matter: {share:.0%} of the passages have {several}; nearest neighbours will often repeat."
        )
    elif share >= RARE_COPY_SHARE:
        advice = f"Diversity will matter for some prompts: {share:.1%} of the passages have {several}."
    else:
        advice = (
            f"Near-copies are rare: {share:.2%} of the passages have {several}. Diversity may still help where a "
            "prompt asks for several things, but not by avoiding copies."
        )
    return advice + whole + unsure
