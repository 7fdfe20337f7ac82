"""Test-time training on nearest neighbours as its authors' script does it, for comparison: with its leak."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

from siftlm.controller import Controller
from siftlm.controller.tokens import text_token_ids
from siftlm.errors import Conflict
from siftlm.evaluation.measured import Measured
from siftlm.evaluation.ways.registry import Case, baseline
from siftlm.extras import load
from siftlm.local import LocalModel
from siftlm.validation import number


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
    number("rate", rate, above=True)
    number("clip", clip, above=True)
    running = _optimizer_state(case, rate, number("decay", decay))
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
