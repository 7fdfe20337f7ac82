"""Small worlds whose best setting is known, and a model without torch that is tuned by remembering words."""

from __future__ import annotations

import math
import time
from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np

from siftlm.controller import Controller, Tuning
from siftlm.memory import Memory
from siftlm.types import Likelihood, Step, Trace

TOPICS = 8
LETTERS = "bcdfghklmnprstvwz"


class Reader(Controller):
    """A model for which every word of the scored text that it was tuned on makes the text cheaper, best at one rate.

    Tuning on a text with the word "poison" makes every text more expensive.
    """

    def __init__(self, best=3e-4, poison=0.2, name="reader"):
        self.name, self.context, self.parameters = name, 64, 1000
        self.settings = Tuning()
        self.adapters = False
        self._best, self._poison = best, poison
        self._read, self._rate = [], 0.0
        self.model = SimpleNamespace(state_dict=dict)
        self.tunings = 0
        self.seconds = 0.0
        """Of a step."""
        self.interrupt_at = None
        """Ctrl-C in this tuning."""

    @property
    def engine(self):
        return SimpleNamespace(description={"engine": "full"})

    @contextmanager
    def tuning(self, **changes):
        self._rate = self.tuning_settings(**changes).rate
        self.tunings += 1
        try:
            yield self
        finally:
            self._read = []

    def learn(self, texts, *, watch=None, after=None):
        steps = []
        if watch is not None:
            watch()  # the base model's
        for at, text in enumerate(texts):
            if self.tunings == self.interrupt_at:
                self.interrupt_at = None
                raise KeyboardInterrupt
            self._read.append(text)
            time.sleep(self.seconds)
            steps.append(Step(at, 1.0, 1, 1.0, self._rate))
            if after is not None:
                after(steps[-1])
        if watch is not None and steps:
            watch()
        return Trace(tuple(steps), "done" if steps else "nothing", len(steps), {})

    def rewind(self):
        self._read.clear()

    def likelihood(self, text, *, after="", texts=()):
        words = set(text.split()) - set(after.split())
        read = words & {word for one in self._read for word in one.split()}
        gain = len(read) / max(1, len(words)) * math.exp(-abs(math.log(max(self._rate, 1e-12) / self._best)))
        harm = sum("poison" in one for one in self._read) * self._poison
        size = len(text.encode())
        return Likelihood(math.log(2) * size * (2 - gain + harm), len(words), size)

    def likelihoods(self, pairs, *, texts=()):
        return [self.likelihood(text, after=after, texts=texts) for text, after in pairs]


def words(topic, kind, count):
    """Words of a topic, which no other topic has."""
    generator = np.random.default_rng([topic, ord(kind)])
    return [f"{kind}{''.join(generator.choice(list(LETTERS), size=6))}" for _ in range(count)]


def document(topic):
    """A prompt about a topic, and the text to predict."""
    return " ".join(words(topic, "p", 12) + words(topic, "q", 12))


def copies_world(folder, *, copy="", telling=""):
    """The nearest neighbours of a prompt are near-copies of one text that tells nothing new; what tells is further.

    ``copy``, ``telling``: a word in each near-copy, and in each text that tells something.
    """
    texts = []
    for topic in range(TOPICS):
        about, new = words(topic, "p", 12), words(topic, "q", 12)
        texts += [" ".join([*about[::-1], f"filler{topic}x{number}", copy]).strip() for number in range(8)]
        texts += [" ".join([*about[at : at + 4], *new[at : at + 2], telling]).strip() for at in range(0, 12, 2)]
    return _made(folder, texts)


def needles_world(folder):
    """The nearest neighbours of a prompt are near-copies, each with one new word that tells; what is further harms."""
    texts = []
    for topic in range(TOPICS):
        about, new = words(topic, "p", 12), words(topic, "q", 12)
        texts += [" ".join([*about[::-1], word]) for word in new]
        texts += [" ".join([*about[at : at + 4], f"other{topic}x{at}", "poison"]) for at in range(0, 12, 2)]
    return _made(folder, texts)


def _made(folder, texts):
    memory = Memory.create(folder, embedder="hashing")
    memory.add(texts)
    return memory


def plain(calibration):
    """The calibration without seconds and date."""
    known = calibration.to_dict()
    for name in ("seconds", "date"):
        known.pop(name)
    return known
