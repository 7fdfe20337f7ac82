"""The settings of a review, checked, and what its work folder belongs to."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from siftlm import validation
from siftlm.embedding import DEFAULT_EMBEDDER
from siftlm.embedding import embedder as make_embedder
from siftlm.embedding.protocol import Embedder
from siftlm.errors import Conflict, InvalidInput, UnknownName, setting
from siftlm.memory.create import check_bad
from siftlm.memory.reading.records import VectorFile
from siftlm.picking.measuring import Agreement, Judge, Measuring
from siftlm.picking.pools import Pool
from siftlm.picking.reading import Reading
from siftlm.picking.signals import MEDIAN, SIGNALS, Rules
from siftlm.picking.work import FORMAT
from siftlm.types import Vectors

if TYPE_CHECKING:
    from siftlm.controller import Controller


@dataclass(frozen=True)
class ReviewSettings:
    """The settings of `siftlm.review`, checked."""

    signals: tuple[str, ...]
    neighbours: int
    samples: int
    temperature: float
    max_new_tokens: int
    rules: Rules
    bad: str
    seed: int
    judged: bool
    tuning: Mapping[str, Any]
    callbacks: Mapping[str, str | None]
    """Callback -> its name, by which a later call knows that it is the same."""

    @classmethod
    def of(
        cls,
        signals: Sequence[str] | None,
        neighbours: int,
        samples: int,
        temperature: float,
        max_new_tokens: int,
        confidence: float | str,
        deviations: float,
        better: float,
        bad: str,
        seed: int,
        *,
        judge: Any,
        agreement: Any,
        refine: Any,
        tuned: Any,
        tuning: Any,
    ) -> ReviewSettings:
        """The settings, checked one by one and against each other."""
        callbacks = {"judge": judge, "agreement": agreement, "refine": refine}
        for name, given in callbacks.items():
            if given is not None and not callable(given):
                raise InvalidInput(f"{setting(name)} must be a function, got {given!r:.60}")
        chosen = cls._chosen(signals, judged=judge is not None)
        if agreement is not None and "confidence" not in chosen:
            raise Conflict(f"{setting('agreement')} compares answers for the signal 'confidence', which is not wanted")
        if judge is not None and not {"confidence", "quality"} & set(chosen):
            raise Conflict(
                f"{setting('judge')} scores answers for the signals 'confidence' and 'quality'; neither is wanted"
            )
        if (tuned is not None or tuning is not None) and "complexity" not in chosen:
            name = "tuned" if tuned is not None else "tuning"
            raise Conflict(f"{setting(name)} is for the signal 'complexity', which is not wanted")
        if tuned is not None and tuning is not None:
            raise Conflict(f"{setting('tuned')} was trained already, so {setting('tuning')} has nothing to say")
        if isinstance(confidence, str) and confidence != MEDIAN:
            raise InvalidInput(f"{setting('confidence')} must be a number from 0 to 1, or 'median', got {confidence!r}")
        check_bad(bad)
        rules = Rules(
            confidence if isinstance(confidence, str) else validation.fraction("confidence", confidence),
            validation.number("deviations", deviations, above=0),
            validation.number("better", better, above=0.5, most=1),
        )
        return cls(
            chosen,
            validation.whole_number("neighbours", neighbours),
            validation.whole_number("samples", samples),
            validation.number("temperature", temperature, above=0, below=100),
            validation.whole_number("max_new_tokens", max_new_tokens),
            rules,
            bad,
            validation.whole_number("seed", seed, least=0),
            judge is not None,
            {} if tuning is None else tuning_changes(tuning),
            {name: callback_name(given) for name, given in callbacks.items() if name != "refine"},
        )

    @staticmethod
    def _chosen(signals: Sequence[str] | None, *, judged: bool) -> tuple[str, ...]:
        if signals is None:
            return SIGNALS if judged else SIGNALS[:3]
        given = [signals] if isinstance(signals, str) else validation.list_of_texts("signals", signals)
        if unknown := [one for one in given if one not in SIGNALS]:
            raise UnknownName("signal", unknown[0], SIGNALS)
        wanted = set(given)
        if not wanted:
            raise InvalidInput(f"{setting('signals')} names none; there are {', '.join(SIGNALS)}")
        return tuple(name for name in SIGNALS if name in wanted)

    @property
    def trains(self) -> bool:
        """Is the loss compared before and after training?"""
        return "complexity" in self.signals

    @property
    def asks(self) -> bool:
        """Is there anything to measure of each record beside its neighbours?"""
        return bool({"confidence", "complexity", "quality"} & set(self.signals))

    @property
    def needs_model(self) -> bool:
        """Is a language model needed?"""
        return bool({"confidence", "complexity"} & set(self.signals)) or (self.asks and not self.judged)

    def reading(
        self, fields: Sequence[str] | None, embedder: Embedder | None, vectors: Vectors | None, added: str | None
    ) -> Reading:
        """How the pool is read."""
        return Reading(fields, embedder, vectors, None, None, None, None, self.bad, added=added)

    def measuring(self, judge: Judge | None, agreement: Agreement | None, embedder: Embedder | None) -> Measuring:
        """What is measured of each record."""
        return Measuring(
            frozenset(self.signals), self.samples, self.temperature, self.max_new_tokens, self.seed, judge, agreement,
            embedder if embedder is not None else make_embedder(DEFAULT_EMBEDDER),
        )  # fmt: skip


def tuning_changes(tuning: Any) -> Mapping[str, Any]:
    """The settings of training that were chosen."""
    from siftlm.controller import Tuning

    if not isinstance(tuning, Tuning):
        raise InvalidInput(f"{setting('tuning')} must be a siftlm.Tuning, got {tuning!r:.60}")
    chosen: Mapping[str, Any] = tuning.chosen()
    return chosen


def callback_name(callback: Callable[..., Any] | None) -> str | None:
    """The name by which a callback is known; another one of the same name is taken for the same."""
    if callback is None:
        return None
    kind = type(callback)
    return str(getattr(callback, "__qualname__", f"{kind.__module__}.{kind.__qualname__}"))


def review_job(
    settings: ReviewSettings,
    pool: Pool,
    fields: Sequence[str] | None,
    embedder: Embedder | None,
    vectors: Any,
) -> dict[str, Any]:
    """What the work folder belongs to: JSON, equal for calls that may share it. Thresholds are free to change."""
    return {
        "format": FORMAT,
        "reading": {
            "command": "review",
            "pool": pool.identity(),
            "text": None if fields is None else list(fields),
            "embedder": embedder.fingerprint if vectors is None and embedder is not None else None,
            "vectors": None if vectors is None else VectorFile(vectors, None).identity(),
            "bad": settings.bad,
        },
        "rows": {},
        "neighbours": settings.neighbours,
    }


def measuring_keys(
    settings: ReviewSettings,
    measuring: Measuring,
    answer: str | None,
    base: Controller | None,
    tuned: Controller | None,
) -> dict[str, str]:
    """Part -> a digest of what it depends on: what was measured under the same one is not measured again."""
    model = None if base is None else base.current_fingerprint()
    names, judged = settings.callbacks, settings.judged
    drawn = [settings.samples, settings.temperature, settings.max_new_tokens, settings.seed]
    agreement = names["agreement"] if measuring.agreement is not None else measuring.embedder.fingerprint
    trained = [{name: str(value) for name, value in settings.tuning.items()}, settings.seed]
    after = trained if tuned is None else tuned.current_fingerprint()
    depends: dict[str, list[Any]] = {
        "loss": [model],
        "scores": [names["judge"] if judged else model, judged],
        "confidence": [model, names["judge"], judged, agreement, drawn],
        "tuned": [model if tuned is None else None, after],
    }
    depends["refined"] = [depends["confidence"], depends["tuned"]]
    digests = {part: json.dumps([answer, *own], sort_keys=True) for part, own in depends.items()}
    return {part: hashlib.sha256(text.encode()).hexdigest()[:16] for part, text in digests.items()}
