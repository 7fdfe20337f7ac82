"""Which records a review drops or refines, from the signals of each: the rules of CLEAR and of Middo, on arrays.

Confidence (Chen and Mueller 2024, with the score of their BSDetector): C = 0.7 O + 0.3 S, where the consistency
O = 0.8 (mean agreement of the answer with sampled ones) + 0.2 (share of samples that are the same), and S is the
reflection: how good the answer is on its own. Records below a threshold, the median, are dropped.

Complexity, diversity and quality (Tang et al. 2025): what lies m standard deviations beyond the mean is refined. Too
hard: the loss is high before *and* after training. Sparse: the mean similarity to the k nearest is low. Poor: the
judge's score is low.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from siftlm.types import BoolArray, FloatArray

SIGNALS = ("confidence", "complexity", "diversity", "quality")
KEEP, DROP, REFINE = "keep", "drop", "refine"
VERDICTS = (KEEP, REFINE, DROP)
CONSISTENCY_WEIGHT, AGREEMENT_WEIGHT = 0.7, 0.8
MEDIAN = "median"
# Values that are all equal have a mean that differs from them by rounding.
ROUNDING = 1e-12
# Reasons, as they are counted in a report.
NO_ANSWER, UNSURE, BETTER_ANSWER = "no answer", "low confidence", "a better answer"
TOO_HARD, SPARSE, POOR = "too hard", "few records like it", "low quality"
ADVICE = {
    NO_ANSWER: "it asks and has no answer",
    UNSURE: "the model's own answers and the score of this one speak against it",
    BETTER_ANSWER: "replace the answer",
    TOO_HARD: "simplify it, or explain more",
    SPARSE: "write more like it",
    POOR: "rewrite it",
}


@dataclass(frozen=True, eq=False)
class Measures:
    """(n,) of each record; NaN where a signal was not measured or does not apply."""

    answered: BoolArray
    """False for a question without an answer."""
    confidence: FloatArray
    loss: FloatArray
    """Nats per token before training."""
    loss_after: FloatArray
    similarity: FloatArray
    """The mean cosine with the nearest records."""
    quality: FloatArray
    preferred: FloatArray
    """How probably the best sampled answer is better than the record's own."""


@dataclass(frozen=True)
class Rules:
    """The thresholds, as they were asked for."""

    confidence: float | str = MEDIAN
    deviations: float = 1.0
    better: float = 0.8

    def cuts(self, measures: Measures) -> dict[str, float]:
        """The threshold of each signal; NaN where no record has the signal."""
        own = measures.confidence[np.isfinite(measures.confidence)]
        median = float(np.median(own)) if len(own) else float("nan")
        return {
            "confidence": median if isinstance(self.confidence, str) else self.confidence,
            "loss": beyond(measures.loss, self.deviations),
            "loss_after": beyond(measures.loss_after, self.deviations),
            "similarity": beyond(measures.similarity, -self.deviations),
            "quality": beyond(measures.quality, -self.deviations),
        }


@dataclass(frozen=True)
class Decision:
    """What to do with a record, and why."""

    verdict: str = KEEP
    reasons: tuple[str, ...] = field(default=())


def confidence(agreements: Sequence[float], same: Sequence[bool], reflection: float) -> tuple[float, float]:
    """(consistency O, confidence C) of an answer, from its agreement with each sampled answer.

    >>> consistency, sure = confidence([1.0, 0.5], [True, False], 0.6)
    >>> round(consistency, 3), round(sure, 3)
    (0.7, 0.67)
    """
    consistency = AGREEMENT_WEIGHT * float(np.mean(agreements)) + (1 - AGREEMENT_WEIGHT) * float(np.mean(same))
    return consistency, CONSISTENCY_WEIGHT * consistency + (1 - CONSISTENCY_WEIGHT) * reflection


def preference(other: float, own: float) -> float:
    """How probably an answer of score ``other`` is better than one of score ``own``: their share of the sum."""
    return other / (other + own) if other + own > 0 else 0.5


def beyond(values: FloatArray, deviations: float) -> float:
    """The mean of the finite values plus so many of their standard deviations; NaN where there are none."""
    known = values[np.isfinite(values)]
    if not len(known):
        return float("nan")
    rounding = math.copysign(ROUNDING * float(np.abs(known).max()), deviations)
    return float(known.mean() + deviations * known.std()) + rounding


def decide(measures: Measures, rules: Rules) -> list[Decision]:
    """The decision on each record: dropped where its answer is missing or not trusted, else refined or kept.

    A comparison with NaN is false, so a signal that is not there says nothing.
    """
    cuts = rules.cuts(measures)
    with np.errstate(invalid="ignore"):
        found: Mapping[str, BoolArray] = {
            NO_ANSWER: ~measures.answered,
            UNSURE: measures.confidence < cuts["confidence"],
            BETTER_ANSWER: measures.preferred >= rules.better,
            TOO_HARD: (measures.loss > cuts["loss"]) & (measures.loss_after > cuts["loss_after"]),
            SPARSE: measures.similarity < cuts["similarity"],
            POOR: measures.quality < cuts["quality"],
        }
    decisions = []
    for at in range(len(measures.answered)):
        reasons = tuple(reason for reason, there in found.items() if there[at])
        replaceable = BETTER_ANSWER in reasons and NO_ANSWER not in reasons
        if NO_ANSWER in reasons or (UNSURE in reasons and not replaceable):
            decisions.append(Decision(DROP, tuple(one for one in reasons if one in (NO_ANSWER, UNSURE))))
        else:
            decisions.append(Decision(REFINE if reasons else KEEP, reasons))
    return decisions
