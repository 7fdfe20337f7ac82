"""The race: methods take turns on the same texts, those clearly behind drop out, and a test names the winner.

The first method is the reference. Another one wins only if it is better by more than chance explains, with all that
were tried counted: so among equals, and where there was too little time, the reference is kept.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from siftlm.calibration.held_out import MIN_TEXTS
from siftlm.errors import Conflict, InvalidInput, setting
from siftlm.evaluation.corpus import Text
from siftlm.evaluation.evaluate import evaluate
from siftlm.evaluation.fingerprints import run_question
from siftlm.evaluation.measured import Measured
from siftlm.evaluation.protocol import Protocol
from siftlm.evaluation.run_folder import QUESTION_FILE, RECORDS_FILE, RunFolder, question_of, records_of
from siftlm.evaluation.statistics import mean, sign_flip_probability
from siftlm.local import LocalModel
from siftlm.types import FloatArray

# A method drops out when it is so many standard errors behind the best, on MIN_TEXTS texts or more.
DROPPED_ERRORS = 2.0
# How often a race may name a winner that is no better than the reference.
WINNER_PROBABILITY = 0.025
# The key of a run's question by which a folder is known to be one of a calibration.
CALIBRATION_FIELD = "calibration"


class Trials:
    """Methods on held-out texts, each measured once; a result is in the folder as soon as it is known."""

    def __init__(
        self,
        model: LocalModel,
        texts: Sequence[Text],
        protocol: Protocol,
        folder: Path,
        about: Mapping[str, Any],
        *,
        again: bool = False,
        after: Callable[[Trials], None] = lambda _: None,
    ) -> None:
        self.texts, self.protocol, self.folder = texts, protocol, folder
        self._model, self._after = model, after
        self._about = {"corpus": {"name": "held out"}, CALIBRATION_FIELD: dict(about)}
        self._known = _begin(folder, run_question(model, protocol, self._about), again=again)
        self._used: dict[tuple[str, str], Measured] = {}

    def measure(self, labels: Sequence[str], text: Text) -> None:
        """Measure methods on a text; those that select the same texts in the same order are tuned once."""
        keys = [(text.id, label) for label in labels]
        if any(key not in self._known for key in keys):
            # The known ones too: what selects the same as one of them is not tuned.
            evaluate(
                self._model, [text], labels, into=self.folder, protocol=self.protocol, about=self._about, progress=False
            )
            self._known = _results(self.folder)
            if any(key not in self._known for key in keys):
                raise Conflict(f"{self.folder}: another process calibrates here at this moment; wait for its end")
        self._used |= {key: self._known[key] for key in keys}
        self._after(self)

    def used(self, label: str, text: Text) -> Measured:
        """A result that was measured before."""
        return self._used[text.id, label]

    def percents(self, label: str, texts: Sequence[Text]) -> FloatArray:
        """(texts, points) bits per byte of a method that was measured on them, in % of base."""
        found = [self._used[text.id, label] for text in texts]
        return np.array([[100 * one.at(point) / one.base for point in self.protocol.points] for one in found])

    @property
    def steps(self) -> int:
        """Steps behind these results."""
        return sum(len(one.learned) for one in self._tuned())

    @property
    def seconds(self) -> float:
        """Seconds behind these results, those before an interruption included; so a resumed race ends where it would
        have ended."""
        return sum(sum(one.seconds.values()) for one in self._tuned())

    def _tuned(self) -> Collection[Measured]:
        """These results; of those that share one tuning, the last."""
        return {
            (text, one.rows, *sorted(one.curve.items()), "use" in one.extra): one
            for (text, _), one in self._used.items()
        }.values()


@dataclass(frozen=True, eq=False)
class Standing:
    """How a method did in a race."""

    label: str
    percents: FloatArray
    """(texts,) in % of base, at the number of steps that is best on average."""
    steps: int
    """That number."""
    differences: FloatArray
    """(texts,) less the reference, which is also at its own best; empty for the reference."""
    probability: float
    """Of being so far ahead of the reference by chance; 1 for the reference."""
    dropped: bool
    won: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Ready for ``json.dumps``."""
        return {
            "setting": self.label,
            "texts": len(self.percents),
            "steps": self.steps,
            **mean(self.percents).to_dict(),
            "difference": mean(self.differences).to_dict() if len(self.differences) else None,
            "better": int((self.differences < 0).sum()),
            "probability": round(self.probability, 5),
            "dropped": self.dropped,
            "won": self.won,
        }


@dataclass(frozen=True, eq=False)
class Race:
    """The outcome of a race."""

    question: str
    standings: tuple[Standing, ...]
    """The reference first."""
    texts: tuple[Text, ...]
    """Those on which everything that did not drop out was measured."""

    @property
    def winner(self) -> str:
        """The label of the winner."""
        return next(one.label for one in self.standings if one.won)

    def to_dict(self) -> dict[str, Any]:
        """Ready for ``json.dumps``."""
        return {"question": self.question, "tried": [one.to_dict() for one in self.standings]}


def race(trials: Trials, question: str, labels: Iterable[str], until: float, *, alone: int = MIN_TEXTS) -> Race:
    """Let methods race, the first of which is the reference, until the trials have taken so many seconds.

    The reference never drops out; where nothing else is left, it goes on to ``alone`` texts. All are measured on
    `MIN_TEXTS` texts, whatever the time.
    """
    reference, *rivals = dict.fromkeys(labels)
    running = [reference, *rivals]
    seen: dict[str, list[Text]] = {label: [] for label in running}
    for count, text in enumerate(trials.texts):
        if count >= MIN_TEXTS and (trials.seconds >= until or (running == [reference] and count >= alone)):
            break
        trials.measure(running, text)
        for label in running:
            seen[label].append(text)
        if count + 1 >= MIN_TEXTS:
            running = [one for one in running if one == reference or not _is_behind(trials, one, running, seen[one])]
    standings = [_standing(trials, label, reference, seen[label], dropped=label not in running) for label in seen]
    ahead = [one for one in standings if not one.dropped and one.probability * len(rivals) <= WINNER_PROBABILITY]
    won = min(ahead, key=lambda one: float(one.percents.mean()), default=standings[0])
    return Race(question, tuple(replace(one, won=one is won) for one in standings), tuple(seen[reference]))


def _is_behind(trials: Trials, label: str, running: Sequence[str], texts: Sequence[Text]) -> bool:
    """Is a method more than some standard errors behind the best of those that are running?"""
    values = {one: _at_best(trials, one, texts)[0] for one in running}
    best = min(values, key=lambda one: float(values[one].mean()))
    behind = values[label] - values[best]
    return float(behind.mean()) > DROPPED_ERRORS * float(behind.std(ddof=1)) / math.sqrt(len(behind))


def _standing(trials: Trials, label: str, reference: str, texts: Sequence[Text], *, dropped: bool) -> Standing:
    percents, steps = _at_best(trials, label, texts)
    if label == reference:
        return Standing(label, percents, steps, np.zeros(0), 1.0, dropped=False)
    differences = percents - _at_best(trials, reference, texts)[0]
    return Standing(label, percents, steps, differences, sign_flip_probability(differences), dropped)


def _at_best(trials: Trials, label: str, texts: Sequence[Text]) -> tuple[FloatArray, int]:
    """(texts,) a method's % of base at the number of steps with the best mean, and that number."""
    percents = trials.percents(label, texts)
    at = int(np.argmin(percents.mean(axis=0)))
    return percents[:, at], trials.protocol.points[at]


# --- the folder


def _begin(folder: Path, question: Mapping[str, Any], *, again: bool) -> dict[tuple[str, str], Measured]:
    """The results in the folder that answer this question. What answers another one gives way to it."""
    if (folder / QUESTION_FILE).exists():
        if CALIBRATION_FIELD not in question_of(folder):
            raise InvalidInput(f"{folder}: is a run of siftlm eval; give {setting('out')} another folder")
        if again or not _same_question(folder, question):
            for name in (RECORDS_FILE, QUESTION_FILE):
                (folder / name).unlink(missing_ok=True)
    elif folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InvalidInput(f"{folder}: is no folder of a calibration; give {setting('out')} another one")
    with RunFolder.begin(folder, question):
        return _results(folder)


def _same_question(folder: Path, question: Mapping[str, Any]) -> bool:
    try:
        RunFolder.begin(folder, json.loads(json.dumps(question))).close()
    except Conflict:
        return False
    return True


def _results(folder: Path) -> dict[tuple[str, str], Measured]:
    if not (folder / RECORDS_FILE).exists():
        return {}
    return {(record["text"], record["method"]): Measured.of(record) for record in records_of(folder)}
