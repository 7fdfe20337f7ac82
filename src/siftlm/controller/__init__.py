"""A causal language model that can tune on texts, score, generate, and forget.

The settings need nothing beside numpy. Everything else needs torch and transformers: the first use of one of its names
loads them, or raises `siftlm.errors.MissingExtra` with the command that installs them.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from siftlm.controller.detokenizer import Detokenizer, StopStrings
from siftlm.controller.settings import SamplingParams, Tuning, check_sampling, rate_for, setting_names
from siftlm.extras import load

if TYPE_CHECKING:
    from siftlm.controller.batch_tuner import BatchTuner
    from siftlm.controller.contrastive import check_same_tokens, contrastive_samples
    from siftlm.controller.controller import Controller
    from siftlm.controller.forward import measure_spans, span_nats, token_nats, token_nats_of
    from siftlm.controller.generation import BatchDecoder, DecodingRow, Generated, SampledToken, eos_token_ids
    from siftlm.controller.restore import restoring
    from siftlm.controller.stacked import stackable_layers
    from siftlm.controller.tuner import Tuner, TuningBatch, TuningRun

# public name -> the module that defines it
_HOME = {
    "token_nats_of": "forward",
    "measure_spans": "forward",
    "BatchDecoder": "generation",
    "BatchTuner": "batch_tuner",
    "Controller": "controller",
    "check_same_tokens": "contrastive",
    "contrastive_samples": "contrastive",
    "DecodingRow": "generation",
    "Generated": "generation",
    "SampledToken": "generation",
    "Tuner": "tuner",
    "TuningBatch": "tuner",
    "TuningRun": "tuner",
    "eos_token_ids": "generation",
    "restoring": "restore",
    "span_nats": "forward",
    "stackable_layers": "stacked",
    "token_nats": "forward",
}

__all__ = [
    "BatchDecoder",
    "BatchTuner",
    "Controller",
    "DecodingRow",
    "Detokenizer",
    "Generated",
    "SampledToken",
    "SamplingParams",
    "StopStrings",
    "Tuner",
    "Tuning",
    "TuningBatch",
    "TuningRun",
    "check_same_tokens",
    "check_sampling",
    "contrastive_samples",
    "eos_token_ids",
    "measure_spans",
    "rate_for",
    "restoring",
    "setting_names",
    "span_nats",
    "stackable_layers",
    "token_nats",
    "token_nats_of",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    for library in ("torch", "transformers"):
        load(library, "tune")
    value = getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
