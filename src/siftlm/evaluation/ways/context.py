"""The selected texts in the context instead of in the weights."""

from __future__ import annotations

import time
from typing import Any

from siftlm.evaluation.measured import Measured
from siftlm.evaluation.ways.registry import Case, baseline


@baseline("context", "what SIFT selects, in the context instead of in the weights; the best stay where not all fit")
def context(case: Case, **settings: Any) -> Measured:
    """A point of the curve has so many texts before the prompt, as many of them as fit into half of the context."""
    controller = case.model.controller
    found = case.model.select(case.prompt, n=case.points[-1], exclude=list(case.exclude), **settings)
    began = time.perf_counter()
    base = controller.likelihood(case.scored, after=case.before)
    curve = {0: base.bits_per_byte}
    for point in case.points:
        now = controller.likelihood(case.scored, after=case.before, texts=found.texts[:point])
        curve[point] = now.bits_per_byte
    return Measured(
        base.bits_per_byte,
        curve,
        base.bytes,
        base.tokens,
        rows=tuple(hit.row for hit in found),
        scores=tuple(round(hit.score, 5) for hit in found),
        uncertainty=tuple(float(f"{left:.6g}") for left in found.selection.uncertainty),
        considered=found.considered,
        seconds={
            "select": round(sum(found.seconds.values()), 4),
            "tune": 0.0,
            "score": round(time.perf_counter() - began, 4),
        },
    )
