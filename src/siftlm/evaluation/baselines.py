"""Baselines: the base model, in-context learning, interpolation with token frequencies."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from siftlm.controller import token_nats
from siftlm.controller.tokens import spans_of, start_token, text_token_ids
from siftlm.errors import InvalidInput
from siftlm.evaluation.measured import Measured, selection_fields
from siftlm.evaluation.methods import Case, baseline
from siftlm.types import FloatArray, IntArray


@baseline("base", "the model as it is")
def base(case: Case) -> Measured:
    """The reference of all methods. It must never change within a run, which shows that the model is restored."""
    began = time.perf_counter()
    score = case.model.controller.likelihood(case.scored, after=case.before)
    seconds = {"score": round(time.perf_counter() - began, 4)}
    return Measured(score.bits_per_byte, {0: score.bits_per_byte}, score.bytes, score.tokens, seconds=seconds)


@baseline("context", "SIFT's selection in the context instead of the weights; the first picks stay if not all fit")
def context(case: Case, **settings: Any) -> Measured:
    """In-context learning: the curve at n has n texts before the prompt, or those that fit into half the context."""
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
        **selection_fields(found),
        seconds={
            "select": round(sum(found.seconds.values()), 4),
            "tune": 0.0,
            "score": round(time.perf_counter() - began, 4),
        },
    )


# Weights of the selected texts in the mixture; 0 is the base model.
MIXTURE_WEIGHTS = (0.0, 0.005, 0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5)
DEFAULT_MIXTURE_WEIGHT = 0.1
# Tokens that are spread over the whole vocabulary, so that no token is impossible.
SMOOTHING_TOKENS = 1.0


@baseline("interpolation", "the model mixed with the token frequencies of SIFT's selection; no tuning")
def interpolation(case: Case, **settings: Any) -> Measured:
    """Interpolation: p(token) = (1 − w) p_model(token) + w p_texts(token).

    p_texts(v) = (count(v) + 1/V) / (tokens + 1). The curve is that of w = 0.1. The best w has to be chosen on *other*
    texts, which are not known here: ``extra`` holds the nats of this text for each of `MIXTURE_WEIGHTS`, and
    `at_chosen_weight` chooses.
    """
    controller = case.model.controller
    found = case.model.select(case.prompt, n=case.points[-1], exclude=list(case.exclude), **settings)
    began = time.perf_counter()
    base = controller.likelihood(case.scored, after=case.before)
    tokenizer, vocabulary = controller.tokenizer, controller.vocabulary
    ids = text_token_ids(tokenizer, case.scored)
    spans = spans_of(
        ids, controller.context, start=start_token(tokenizer), before=text_token_ids(tokenizer, case.before)
    )
    nats = controller.evaluating(lambda: token_nats(controller.model, spans, controller.budget))
    surprise = np.concatenate([np.zeros(0), *nats])
    scored = np.array([token for span in spans for token in span.ids[-span.scored :]], dtype=np.int64)
    read = [text_token_ids(tokenizer, text) for text in found.texts]

    def bits(count: int, weight: float) -> float:
        return (
            _mixture_nats(surprise, token_frequencies(read[:count], scored, vocabulary), weight)
            / math.log(2)
            / base.bytes
        )

    curve = {point: bits(point, DEFAULT_MIXTURE_WEIGHT) for point in case.points} if base.bytes else {}
    shares = token_frequencies(read, scored, vocabulary)
    return Measured(
        base.bits_per_byte,
        {0: base.bits_per_byte, **curve},
        base.bytes,
        base.tokens,
        **selection_fields(found),
        seconds={
            "select": round(sum(found.seconds.values()), 4),
            "tune": 0.0,
            "score": round(time.perf_counter() - began, 4),
        },
        extra={
            "weights": list(MIXTURE_WEIGHTS),
            "nats": [float(f"{_mixture_nats(surprise, shares, w):.9g}") for w in MIXTURE_WEIGHTS],
        },
    )


def token_frequencies(texts: Sequence[Sequence[int]], tokens: IntArray, vocabulary: int) -> FloatArray:
    """The smoothed frequency p_texts of each of the ``tokens``, (len(tokens),).

    >>> token_frequencies([[1, 1], [2]], np.array([1, 3]), vocabulary=4).tolist()
    [0.5625, 0.0625]
    """
    counts = np.bincount([token for text in texts for token in text], minlength=vocabulary)
    shares: FloatArray = (counts[tokens] + SMOOTHING_TOKENS / vocabulary) / (counts.sum() + SMOOTHING_TOKENS)
    return shares


def held_out_weights(records: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Each text's weight: the best one on all *other* texts together; 0.1 where there is no other.

    Args:
        records: a run's records of one interpolation, one for each text.

    >>> rows = [{"text": name, "extra": {"weights": [0.0, 0.1], "nats": nats}} for name, nats in (("a", [9.0, 1.0]),
    ...         ("b", [3.0, 2.0]), ("c", [2.0, 4.0]))]
    >>> held_out_weights(rows)
    {'a': 0.0, 'b': 0.1, 'c': 0.1}
    """
    if not records:
        return {}
    weights = list(records[0]["extra"]["weights"])
    if any(list(one["extra"]["weights"]) != weights for one in records):
        raise InvalidInput("records of interpolation with different weights: they are not of one method")
    nats = np.array([one["extra"]["nats"] for one in records], dtype=np.float64)
    if len(records) == 1:
        return {str(records[0]["text"]): DEFAULT_MIXTURE_WEIGHT}
    others = nats.sum(axis=0) - nats
    return {str(one["text"]): weights[place] for one, place in zip(records, others.argmin(axis=1), strict=True)}


def at_chosen_weight(records: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The records, each at the weight chosen on the other texts, for the tables."""
    weights, chosen = held_out_weights(records), []
    for one in records:
        extra, weight = one["extra"], weights[str(one["text"])]
        nats = extra["nats"][extra["weights"].index(weight)]
        last = max(step for step, _ in one["curve"])
        curve = [[0, one["base"]], [last, nats / math.log(2) / one["bytes"]]] if last else one["curve"]
        chosen.append({**one, "curve": curve, "extra": {**extra, "chosen": weight}})
    return chosen


def _mixture_nats(surprise: FloatArray, shares: FloatArray, weight: float) -> float:
    """Nats of all tokens, computed in logarithms: a model's probability of a token may be too small for a float."""
    if not weight:
        return float(surprise.sum())
    return float(-np.logaddexp(math.log1p(-weight) - surprise, math.log(weight) + np.log(shares)).sum())
