"""A controller without torch: it learns by counting, so that the command line can be tried in no time."""

from __future__ import annotations

import math
from contextlib import contextmanager

import siftlm.local  # noqa: F401 - before any test puts its own Controller in the place of ours, which it would keep
from siftlm.controller import Controller, Generated, Tuning
from siftlm.errors import InvalidInput
from siftlm.types import Likelihood, Step, Trace

BASE = 2.0


class FakeController(Controller):
    """A text costs 2 bits a byte; every different letter pair that was learned makes it a little cheaper."""

    made: list[FakeController] = []  # noqa: RUF012 - a test looks here, and empties it
    interrupt_at: int | None = None
    """A person presses Ctrl-C in this step, once."""

    def __init__(self, model, tokenizer=None, **settings):
        if model == "none":
            raise InvalidInput(f"{model!r} is no causal language model that can be loaded: no such folder")
        self.name, self.arguments, self.context, self.parameters = model, settings, 256, 1000
        self.settings = Tuning()
        self.adapters = False
        self.learned: list[str] | None = None
        self.histories: list[list[str]] = []
        FakeController.made.append(self)

    @contextmanager
    def tuning(self, **changes):
        self.used = self.tuning_settings(**changes)
        self.learned = []
        try:
            yield self
        finally:
            self.histories.append(self.learned)
            self.learned = None

    def learn(self, texts, *, watch=None, after=None):
        steps, ended = [], "done" if texts else "nothing"
        if watch is not None:
            watch()  # the base model's
        due = self.used.watch_every or max(5, -(-len(texts) // 4))
        for at, text in enumerate(texts):
            if FakeController.interrupt_at == at + 1:
                FakeController.interrupt_at = None
                raise KeyboardInterrupt
            self.learned.append(text)
            watched = watch() if watch is not None and (at + 1) % due == 0 else None
            steps.append(Step(at, 3.0 / (at + 1), len(text.split()), 1.0, self.used.rate, watched=watched))
            if after is not None:
                after(steps[-1])
            if self.used.tokens is not None and at + 1 >= self.used.tokens:
                ended = "tokens"
                break
        if watch is not None and len(steps) % due:
            watch()
        return Trace(tuple(steps), ended, len(steps), self.used.to_dict())

    def can_tune_many(self, settings):
        return False

    def rewind(self):
        self.learned.clear()

    def likelihood(self, text, *, after="", texts=()):
        pairs = {text[at : at + 2] for text in [*(self.learned or []), *texts] for at in range(len(text))}
        size = len(text.encode())
        return Likelihood(math.log(2) * size * BASE * 0.999 ** len(pairs), len(text.split()), size)

    def likelihoods(self, pairs, *, texts=()):
        return [self.likelihood(text, after=after, texts=texts) for text, after in pairs]

    def generate(self, prompt, *, max_new_tokens=100, texts=(), temperature=0.0, top_p=1.0, stop=(), seed=0):
        known = [*(self.learned or []), *texts]
        words = (f"after {len(known)} texts: {known[0] if known else 'nothing'}").split()[:max_new_tokens]
        text = " ".join(words) + (f" seed {seed}" if temperature else "")
        for one in stop:
            text = text.split(one)[0]
        return Generated(text, len(words), "length", cut=3 if len(prompt) > 200 else 0)
