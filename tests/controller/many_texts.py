"""Texts of very different lengths, prompts, and a controller to learn them; the windows hold 64 tokens of a byte."""

from __future__ import annotations

from controller import tiny
from siftlm.controller import Controller

TEXTS = [
    "The tide comes in at six and leaves the harbour at noon.",
    "def add(a, b):\n    return a + b\n",
    "7 * 8 = 56, and 56 / 7 = 8",
    "rain",
    "Ships wait for the morning tide; the harbour sleeps, and rain falls on the roofs of the town below the hill.",
    "What is the tide? The slow breath of the sea.",
]
PROMPTS = ["The harbour at noon", "def mul(a, b):", "9 * 8 =", "Rain fell on the town, and"]
SETS = [TEXTS[:4], TEXTS[2:], TEXTS[::-1], [TEXTS[3]]]


def controller(name: str = "llama", **settings) -> Controller:
    given = {"engine": "lora", "rank": 4, "rate": 5e-3, "precision": "float32", "device": "cpu", **settings}
    return Controller(tiny.model(name), tiny.tokenizer(), **given)


def one_at_a_time(controller: Controller, sets, work=lambda _: None, watch=None, **settings) -> list:
    """[(trace, what ``work(i)`` found while the model was tuned for prompt i), …]"""
    found = []
    for place, texts in enumerate(sets):
        with controller.tuning(**settings) as tuner:
            look = watch[place] if watch else None
            if isinstance(look, str):
                text = look
                look = lambda text=text: controller.likelihood(text).nats_per_token  # noqa: E731
            found.append((tuner.learn(texts, watch=look), work(place)))
    return found


def facts(trace) -> tuple:
    """All of a trace that clocks do not decide and rounding does not touch."""
    steps = [(step.text, step.tokens, step.rate, step.reused, step.watched is None) for step in trace.steps]
    return steps, trace.ended, trace.kept, trace.settings
