"""Dynamic evaluation: the model learns from the text itself as it reads it, and never from what is scored later."""

from __future__ import annotations

import math
import time
from functools import partial
from typing import Any

from siftlm.controller import Controller
from siftlm.controller.forward import span_nats
from siftlm.controller.settings import setting_names
from siftlm.controller.tokens import TokenSpan, spans_of, start_token, text_token_ids
from siftlm.evaluation.measured import Measured
from siftlm.evaluation.ways.registry import Case, baseline
from siftlm.validation import whole_number

WINDOW_TOKENS = 64


@baseline("dynamic", "the model learns from what it has read of the text itself; no memory")
def dynamic(case: Case, rate: float | None = None, passes: int = 1, window: int = WINDOW_TOKENS) -> Measured:
    """One step on each window of the text, in the order in which they are read.

    Split and prefix: steps on the prompt, then the rest is scored. Transductive: each window is scored by the model
    that has learned from the windows before it, and only then learned from; the sum over windows is what the text
    costs, each token with the very context that it has for the base model.

    Args:
        case: the text.
        rate: learning rate; left out, the one that suits the model.
        passes: split: how often to go over the prompt; transductive: steps on each window.
        window: tokens of a step.
    """
    controller = case.model.controller
    window = whole_number("window", window, most=controller.context)
    whole_number("passes", passes)
    asked = {"window": window, "passes": passes, **({} if rate is None else {"rate": rate})}
    known = case.model.settings(**asked)
    tuning = {**{name: known[name] for name in setting_names()}, "reuse": 1, "repeats": "steps"}
    began = time.perf_counter()
    base = controller.likelihood(case.scored, after=case.before)
    seconds = {"tune": 0.0, "score": time.perf_counter() - began}
    run = _score_and_learn_windows if case.protocol == "transductive" else _learn_prompt_then_score
    return run(case, base, tuning, seconds)


def _learn_prompt_then_score(case: Case, base: Any, tuning: dict[str, Any], seconds: dict[str, float]) -> Measured:
    """Learn from the prompt, score the rest."""
    controller, curve, taken = case.model.controller, {0: base.bits_per_byte}, 0

    def scored() -> float:
        began = time.perf_counter()
        bits = controller.likelihood(case.scored, after=case.before).bits_per_byte
        seconds["score"] += time.perf_counter() - began
        return bits

    def after(_: Any) -> None:
        nonlocal taken
        taken += 1
        if taken in case.points:
            curve[taken] = scored()

    began = time.perf_counter() - seconds["score"]
    # There are never more windows than characters.
    with controller.tuning(**{**tuning, "windows": len(case.prompt)}) as tuner:
        trace = tuner.learn([case.prompt], after=after)
        seconds["tune"] = time.perf_counter() - began - seconds["score"]
        last = base.bits_per_byte if trace.ended == "diverged" else scored()
    curve.update({point: last for point in (*case.points, len(trace.steps)) if point >= len(trace.steps)})
    return Measured(
        base.bits_per_byte,
        curve,
        base.bytes,
        base.tokens,
        ended=trace.ended,
        kept=trace.kept,
        learned=tuple(step.tokens for step in trace.steps),
        losses=tuple(float(f"{s.loss:.5g}") if math.isfinite(s.loss) else None for s in trace.steps),
        seconds={name: round(value, 4) for name, value in seconds.items()},
    )


def _score_and_learn_windows(case: Case, base: Any, tuning: dict[str, Any], seconds: dict[str, float]) -> Measured:
    """Score a window, learn from it, go on to the next."""
    controller, passes = case.model.controller, tuning["passes"]
    tokenizer, vocabulary = controller.tokenizer, int(controller.model.get_output_embeddings().weight.shape[0])
    learned: list[int] = []
    nats: list[float] = []
    ended = "done"
    pieces = text_windows(controller, case.scored, tuning["window"])
    with controller.tuning(**{**tuning, "passes": 1, "windows": 1}) as tuner:
        for at, piece in enumerate(pieces):
            began = time.perf_counter()
            nats += controller.evaluating(partial(span_nats, controller.model, [piece], vocabulary)).tolist()
            seconds["score"] += time.perf_counter() - began
            if at == len(pieces) - 1 or ended != "done":
                continue
            began = time.perf_counter()
            trace = tuner.learn([tokenizer.decode(piece.ids[-piece.scored :])] * passes)
            seconds["tune"] += time.perf_counter() - began
            learned += [step.tokens for step in trace.steps]
            # What is left of the text is then read by the model that it was put back to.
            ended = "diverged" if trace.ended == "diverged" else "done"
    bits = sum(nats) / math.log(2) / base.bytes if base.bytes else math.nan
    return Measured(
        base.bits_per_byte,
        {0: base.bits_per_byte, case.points[-1]: bits},
        base.bytes,
        base.tokens,
        ended=ended,
        kept=len(learned) if ended == "done" else 0,
        learned=tuple(learned),
        seconds={name: round(value, 4) for name, value in seconds.items()},
        extra={"windows": [float(f"{one:.9g}") for one in nats]},
    )


def text_windows(controller: Controller, text: str, size: int) -> list[TokenSpan]:
    """Every token of the text once, at most ``size`` at a time, each with the context that `likelihood` gives it."""
    ids, found = text_token_ids(controller.tokenizer, text), []
    for span in spans_of(ids, controller.context, start=start_token(controller.tokenizer)):
        first = len(span.ids) - span.scored
        for begin in range(first, len(span.ids), size):
            end = min(begin + size, len(span.ids))
            found.append(TokenSpan(span.ids[:end], end - begin))
    return found
