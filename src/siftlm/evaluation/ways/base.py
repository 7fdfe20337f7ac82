"""The model as it is."""

from __future__ import annotations

import time

from siftlm.evaluation.measured import Measured
from siftlm.evaluation.ways.registry import Case, baseline


@baseline("base", "the model as it is")
def base(case: Case) -> Measured:
    """What everything is measured by; also tells whether the model is put back: it must never change within a run."""
    began = time.perf_counter()
    known = case.model.controller.likelihood(case.scored, after=case.before)
    seconds = {"score": round(time.perf_counter() - began, 4)}
    return Measured(known.bits_per_byte, {0: known.bits_per_byte}, known.bytes, known.tokens, seconds=seconds)
