"""Dynamic evaluation, and test-time training on nearest neighbours as published."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

from siftlm.controller import Controller, setting_names, span_nats
from siftlm.controller.tokens import TokenSpan, spans_of, start_token, text_token_ids
from siftlm.errors import Conflict
from siftlm.evaluation.measured import Measured
from siftlm.evaluation.methods import Case, baseline
from siftlm.extras import load
from siftlm.local import LocalModel
from siftlm.validation import number, whole_number

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


@dataclass
class _OptimizerState:
    """An optimiser that is never reset, and how many texts it has seen."""

    optimiser: Any
    texts: int = 0


# Of each run, domain and setting. Every call of `evaluate` makes a `LocalModel` of its own, and they go with it.
_OPTIMIZER_STATES: WeakKeyDictionary[LocalModel, dict[tuple[Any, ...], _OptimizerState]] = WeakKeyDictionary()


@baseline("tttlm", "nearest neighbours as in the published script: its moments leak from text to text")
def tttlm(case: Case, rate: float = 2e-5, decay: float = 0.01, clip: float = 1.0) -> Measured:
    """AdamW on the neighbours in order of increasing distance; each is learned whole, one step for each context of it.

    As published: dropout at the rate of the model's own configuration, float32, all weights; weights are put back
    before every text, **the optimiser's moments and its count of steps are not**. One optimiser serves a whole domain.
    So a result depends on the texts before it: ``extra["order"]`` says how many there were in this process. A run that
    goes on after an interruption, or is shared by processes, begins with new moments in each, and is another
    sequence; to repeat a sequence exactly, run it in one go. Use ``nn`` for the same neighbours without the leak.

    Not as published: a last window of one token, which has nothing to predict, is left out (the script takes a step
    along NaN there), and nothing is measured between the points of the protocol.

    Args:
        case: the text.
        rate: 2e-5 is published for GPT-2, 5e-6 for GPT-Neo 1.3B.
        decay: weight decay.
        clip: largest norm of a gradient.
    """
    controller, n = case.model.controller, case.points[-1]
    if controller.adapters:
        raise Conflict("tttlm tunes all weights, as published, and this model has adapters: --engine full")
    number("rate", rate, above=0)
    number("clip", clip, above=0)
    running = _optimizer_state(case, rate, number("decay", decay, least=0))
    found = case.model.select(case.prompt, n=n, method="nearest", exclude=list(case.exclude))
    began = time.perf_counter()
    base = controller.likelihood(case.scored, after=case.before)
    seconds = {"select": sum(found.seconds.values()), "tune": 0.0, "score": time.perf_counter() - began}
    curve, learned, losses = {0: base.bits_per_byte}, [], []
    with controller.tuning():  # puts weights, modes and random state back
        for count, text in enumerate(found.texts, 1):
            began = time.perf_counter()
            for ids in _windows(controller, text):
                losses.append(_gradient_step(controller.model, running.optimiser, ids, clip))
                learned.append(len(ids) - 1)
            seconds["tune"] += time.perf_counter() - began
            if count in case.points or count == len(found.texts):
                began = time.perf_counter()
                now = controller.likelihood(case.scored, after=case.before).bits_per_byte
                curve.update({point: now for point in case.points if point >= count})
                seconds["score"] += time.perf_counter() - began
        controller.model.zero_grad()
    running.texts += 1
    if not found.texts:
        curve.update(dict.fromkeys(case.points, base.bits_per_byte))
    return Measured(
        base.bits_per_byte,
        curve,
        base.bytes,
        base.tokens,
        rows=tuple(hit.row for hit in found),
        scores=tuple(round(hit.score, 5) for hit in found),
        considered=found.considered,
        ended="done" if learned else "nothing",
        kept=len(learned),
        learned=tuple(learned),
        losses=tuple(float(f"{one:.5g}") if math.isfinite(one) else None for one in losses),
        seconds={name: round(value, 4) for name, value in seconds.items()},
        extra={"order": running.texts - 1},
    )


def _optimizer_state(case: Case, rate: float, decay: float) -> _OptimizerState:
    torch = load("torch", "tune")
    own = _OPTIMIZER_STATES.setdefault(case.model, {})
    key = (case.domain, rate, decay)
    if key not in own:
        parameters = [p for p in case.model.controller.model.parameters() if p.is_floating_point()]
        own[key] = _OptimizerState(torch.optim.AdamW(parameters, lr=rate, eps=1e-8, weight_decay=decay))
    return own[key]


def _windows(controller: Controller, text: str) -> list[list[int]]:
    """All of the text, a context at a time, without special tokens."""
    ids = text_token_ids(controller.tokenizer, text)
    cut = [ids[start : start + controller.context] for start in range(0, len(ids), controller.context)]
    return [window for window in cut if len(window) > 1]


def _gradient_step(model: Any, optimiser: Any, ids: list[int], clip: float) -> float:
    torch = load("torch", "tune")
    model.train()
    optimiser.zero_grad()
    read = torch.tensor([ids], device=next(model.parameters()).device)
    with torch.inference_mode(False), torch.enable_grad():
        loss = model(input_ids=read, labels=read, use_cache=False).loss
        loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), clip)
    optimiser.step()
    return float(loss.detach())
