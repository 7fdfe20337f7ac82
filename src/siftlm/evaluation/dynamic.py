"""Dynamic evaluation, and test-time training on nearest neighbours as published."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import torch

from siftlm.controller import Controller, setting_names, span_nats
from siftlm.controller.tokens import TokenSpan, spans_of, start_token, text_token_ids
from siftlm.errors import Conflict, setting
from siftlm.evaluation.measured import Measured, selection_fields
from siftlm.evaluation.methods import Case, baseline
from siftlm.local import LocalModel
from siftlm.types import Likelihood, Step, json_number
from siftlm.validation import number, whole_number

WINDOW_TOKENS = 64


@baseline("dynamic", "dynamic evaluation: tuned on the beginning of the text itself; no memory")
def dynamic(case: Case, rate: float | None = None, passes: int = 1, window: int = WINDOW_TOKENS) -> Measured:
    """Dynamic evaluation: one step on each window of the text, in reading order.

    Split and prefix: the model is tuned on the prompt, then the rest is scored. Transductive: each window is scored
    by the model tuned on the windows before it, and then tuned on. The score is the sum over windows; each token has
    the same context as for the base model.

    Args:
        case: the text.
        rate: the learning rate; by default the one that suits the model.
        passes: split: passes over the prompt; transductive: steps on each window.
        window: tokens of a step.
    """
    controller = case.model.controller
    window = whole_number("window", window, most=controller.context)
    whole_number("passes", passes)
    settings = case.model.settings(window=window, passes=passes, **({} if rate is None else {"rate": rate}))
    tuning = {**{name: settings[name] for name in setting_names()}, "reuse": 1, "repeats": "steps"}
    began = time.perf_counter()
    base = controller.likelihood(case.scored, after=case.before)
    seconds = {"tune": 0.0, "score": time.perf_counter() - began}
    run = _score_and_learn_windows if case.protocol == "transductive" else _learn_prompt_then_score
    return run(case, base, tuning, seconds)


def _learn_prompt_then_score(
    case: Case, base: Likelihood, tuning: dict[str, Any], seconds: dict[str, float]
) -> Measured:
    """Tune on the prompt, then score the rest."""
    controller, curve, taken = case.model.controller, {0: base.bits_per_byte}, 0

    def scored() -> float:
        began = time.perf_counter()
        bits = controller.likelihood(case.scored, after=case.before).bits_per_byte
        seconds["score"] += time.perf_counter() - began
        return bits

    def after(_: Step) -> None:
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
        losses=tuple(json_number(step.loss, 5) for step in trace.steps),
        seconds={name: round(value, 4) for name, value in seconds.items()},
    )


def _score_and_learn_windows(
    case: Case, base: Likelihood, tuning: dict[str, Any], seconds: dict[str, float]
) -> Measured:
    """Score each window, then take a step on it."""
    controller, passes = case.model.controller, tuning["passes"]
    tokenizer = controller.tokenizer
    learned: list[int] = []
    nats: list[float] = []
    ended = "done"
    pieces = text_windows(controller, case.scored, tuning["window"])
    with controller.tuning(**{**tuning, "passes": 1, "windows": 1}) as tuner:
        for at, piece in enumerate(pieces):
            began = time.perf_counter()
            nats += controller.evaluating(partial(span_nats, controller.model, [piece], controller.budget)).tolist()
            seconds["score"] += time.perf_counter() - began
            if at == len(pieces) - 1 or ended != "done":
                continue
            began = time.perf_counter()
            trace = tuner.learn([tokenizer.decode(piece.ids[-piece.scored :])] * passes)
            seconds["tune"] += time.perf_counter() - began
            learned += [step.tokens for step in trace.steps]
            # After a divergence the restored model scores the rest of the text.
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
    """Windows of at most ``size`` tokens that cover the text, each token with its context in `likelihood`."""
    ids, windows = text_token_ids(controller.tokenizer, text), []
    for span in spans_of(ids, controller.context, start=start_token(controller.tokenizer)):
        first = len(span.ids) - span.scored
        for begin in range(first, len(span.ids), size):
            end = min(begin + size, len(span.ids))
            windows.append(TokenSpan(span.ids[:end], end - begin))
    return windows


@dataclass
class _OptimizerState:
    """An optimiser that is never reset, and the number of texts it has seen."""

    optimiser: torch.optim.Optimizer
    texts: int = 0


# One for each run, domain and setting. A run's are freed with its `LocalModel`, of which each `evaluate` makes one.
_OPTIMIZER_STATES: WeakKeyDictionary[LocalModel, dict[tuple[Any, ...], _OptimizerState]] = WeakKeyDictionary()


@baseline("tttlm", "nearest neighbours as in the published script, whose optimiser state leaks from text to text")
def tttlm(case: Case, rate: float = 2e-5, decay: float = 0.01, clip: float = 1.0) -> Measured:
    """TTT-LM: AdamW on the neighbours by increasing distance, one step on each context of a neighbour's whole text.

    As published: dropout as in the model's configuration, float32, all weights; the weights are restored before every
    text, **the optimiser's moments and step count are not**. One optimiser serves a whole domain, so a result depends
    on the texts before it; ``extra["order"]`` counts those of this process. A run that is resumed or shared by
    processes begins with new moments in each process, which is a different sequence: to repeat a sequence exactly,
    run it in one go. ``nn`` uses the same neighbours without the leak.

    Not as published: a last window of one token, which has nothing to predict, is skipped (the script takes a step
    along NaN there), and nothing is measured between the points of the protocol.

    Args:
        case: the text.
        rate: the learning rate; published are 2e-5 for GPT-2 and 5e-6 for GPT-Neo 1.3B.
        decay: weight decay.
        clip: largest norm of a gradient.
    """
    controller, n = case.model.controller, case.points[-1]
    if controller.adapters:
        raise Conflict(
            f"tttlm tunes all weights, as published, and this model has adapters: {setting('engine', 'full')}"
        )
    number("rate", rate, above=0)
    number("clip", clip, above=0)
    state = _optimizer_state(case, rate, number("decay", decay, least=0))
    found = case.model.select(case.prompt, n=n, method="nearest", exclude=list(case.exclude))
    began = time.perf_counter()
    base = controller.likelihood(case.scored, after=case.before)
    seconds = {"select": sum(found.seconds.values()), "tune": 0.0, "score": time.perf_counter() - began}
    curve, learned, losses = {0: base.bits_per_byte}, [], []
    with controller.tuning():  # restores weights, modes and random state
        for count, text in enumerate(found.texts, 1):
            began = time.perf_counter()
            for ids in _windows(controller, text):
                losses.append(_gradient_step(controller.model, state.optimiser, ids, clip))
                learned.append(len(ids) - 1)
            seconds["tune"] += time.perf_counter() - began
            if count in case.points or count == len(found.texts):
                began = time.perf_counter()
                now = controller.likelihood(case.scored, after=case.before).bits_per_byte
                curve.update({point: now for point in case.points if point >= count})
                seconds["score"] += time.perf_counter() - began
        controller.model.zero_grad()
    state.texts += 1
    if not found.texts:
        curve.update(dict.fromkeys(case.points, base.bits_per_byte))
    return Measured(
        base.bits_per_byte,
        curve,
        base.bytes,
        base.tokens,
        **{**selection_fields(found), "uncertainty": ()},
        ended="done" if learned else "nothing",
        kept=len(learned),
        learned=tuple(learned),
        losses=tuple(json_number(loss, 5) for loss in losses),
        seconds={name: round(value, 4) for name, value in seconds.items()},
        extra={"order": state.texts - 1},
    )


def _optimizer_state(case: Case, rate: float, decay: float) -> _OptimizerState:
    states = _OPTIMIZER_STATES.setdefault(case.model, {})
    key = (case.domain, rate, decay)
    if key not in states:
        parameters = [p for p in case.model.controller.model.parameters() if p.is_floating_point()]
        states[key] = _OptimizerState(torch.optim.AdamW(parameters, lr=rate, eps=1e-8, weight_decay=decay))
    return states[key]


def _windows(controller: Controller, text: str) -> list[list[int]]:
    """The text's tokens, a context at a time, without special tokens."""
    ids = text_token_ids(controller.tokenizer, text)
    cut = [ids[start : start + controller.context] for start in range(0, len(ids), controller.context)]
    return [window for window in cut if len(window) > 1]


def _gradient_step(model: torch.nn.Module, optimiser: torch.optim.Optimizer, ids: list[int], clip: float) -> float:
    model.train()
    optimiser.zero_grad()
    inputs = torch.tensor([ids], device=next(model.parameters()).device)
    with torch.inference_mode(False), torch.enable_grad():
        loss = model(input_ids=inputs, labels=inputs, use_cache=False).loss
        loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), clip)
    optimiser.step()
    return float(loss.detach())
