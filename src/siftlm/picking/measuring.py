"""What a language model and a judge say of each record: losses, sampled answers and their agreement, scores."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import TYPE_CHECKING, Any

import numpy as np

from siftlm.embedding.protocol import Embedder
from siftlm.errors import InvalidInput, SiftlmError, setting
from siftlm.memory.vectors import embed_checked, unit_rows
from siftlm.picking.exchanges import Exchange
from siftlm.picking.models import prompt_text
from siftlm.picking.signals import confidence, preference
from siftlm.types import Vectors, json_number

if TYPE_CHECKING:
    from siftlm.controller import Controller

Judge = Callable[[str, str], "float | Mapping[str, float]"]
"""(question, answer) -> a score from 0 to 1, or several by name; of a text alone the question is empty."""
Agreement = Callable[[str, str, str], float]
"""(question, answer, other answer) -> from 0, they contradict each other, to 1, they say the same."""
# What a model is asked about its own data where nobody judges.
ASPECTS = {
    "clarity": "Is the text above clear and easy to follow?",
    "completeness": "Does the text above say everything that is needed?",
    "factuality": "Is everything in the text above true?",
}
YES_OR_NO = "Answer yes or no:"


@dataclass(frozen=True)
class MeasuredRecord:
    """A record that is being measured."""

    exchange: Exchange
    source: str
    known: Mapping[str, Any]
    """What was measured of it before."""


Part = Callable[["Controller", Sequence[MeasuredRecord]], "list[dict[str, Any]]"]
"""What it finds of each record, ready for JSON."""


@dataclass(frozen=True, eq=False)
class Measuring:
    """What is measured, and how."""

    signals: frozenset[str]
    samples: int
    temperature: float
    max_new_tokens: int
    seed: int
    judge: Judge | None
    agreement: Agreement | None
    embedder: Embedder
    """Compares answers where no ``agreement`` is given."""

    @property
    def parts(self) -> dict[str, Part]:
        """What is measured of each record by the model as it is, in this order, each kept by itself."""
        judged = self.judge is not None
        wanted = {
            "loss": "complexity" in self.signals or ("confidence" in self.signals and not judged),
            "scores": "quality" in self.signals or ("confidence" in self.signals and judged),
            "confidence": "confidence" in self.signals,
        }
        functions: dict[str, Part] = {"loss": _losses, "scores": self._scored, "confidence": self._confidence}
        return {name: functions[name] for name, there in wanted.items() if there}

    def _scored(self, model: Controller, batch: Sequence[MeasuredRecord]) -> list[dict[str, Any]]:
        """The scores of each record, by the judge or by the model itself."""
        if self.judge is None:
            return [{"scores": scores} for scores in self_judged(model, [one.exchange for one in batch])]
        found: list[dict[str, Any]] = []
        for one in batch:
            answer = one.exchange.text if one.exchange.answer is None else one.exchange.answer
            found.append({"scores": self._scores(one.exchange, answer, one.source)} if answer else {})
        return found

    def _confidence(self, model: Controller, batch: Sequence[MeasuredRecord]) -> list[dict[str, Any]]:
        """How far the model's own answers agree with each record's, and its own score, as one figure."""
        found: list[dict[str, Any]] = [{} for _ in batch]
        answered = [at for at, one in enumerate(batch) if one.exchange.answer]
        if not answered:
            return found
        exchanges, sources = [one.exchange for one in batch], [one.source for one in batch]
        prompts = [prompt_text(model, exchanges[at]) for at in answered]
        drawn = [
            model.generate_many(
                prompts, max_new_tokens=self.max_new_tokens, temperature=self.temperature, seed=self.seed + number
            )
            for number in range(self.samples)
        ]
        others = {at: [one[place].text.strip() for one in drawn] for place, at in enumerate(answered)}
        agreements = self._agreements(exchanges, sources, others)
        for at in answered:
            known, own = batch[at].known, str(exchanges[at].answer).strip()
            if self.judge is not None:
                reflection = mean_score(known["scores"])
            else:
                reflection = math.exp(-known["loss"]) if known["loss"] is not None else 0.0
            same = [other == own for other in others[at]]
            consistency, sure = confidence(agreements[at], same, reflection)
            found[at] = {"consistency": consistency, "reflection": reflection, "confidence": sure}
            if self.judge is not None:
                found[at] |= self._best_candidate(exchanges[at], others[at], reflection, sources[at])
        return found

    def _agreements(
        self, exchanges: Sequence[Exchange], sources: Sequence[str], others: Mapping[int, Sequence[str]]
    ) -> dict[int, list[float]]:
        """Place -> how far the record's answer agrees with each of the others."""
        if self.agreement is not None:
            agree = self.agreement

            def score(at: int, other: str) -> float:
                one, source = exchanges[at], sources[at]
                return _checked_score(
                    "agreement", called("agreement", agree, source, one.question, str(one.answer), other), source
                )

            return {at: [score(at, other) for other in several] for at, several in others.items()}
        texts = [text for at, several in others.items() for text in (str(exchanges[at].answer), *several)]
        vectors = self._directions(texts)
        found, place = {}, 0
        for at, several in others.items():
            cosines = vectors[place + 1 : place + 1 + len(several)] @ vectors[place]
            found[at] = np.clip(cosines, 0.0, 1.0).tolist()
            place += 1 + len(several)
        return found

    def _directions(self, texts: Sequence[str]) -> Vectors:
        """Unit vectors; zero where the embedder sees nothing in a text."""
        known = [at for at, text in enumerate(texts) if text.strip()]
        vectors = np.zeros((len(texts), self.embedder.width), dtype=np.float32)
        if known:
            own = embed_checked(self.embedder, [texts[at] for at in known], self.embedder.width)
            vectors[known] = np.nan_to_num(unit_rows(own), nan=0.0)
        return vectors

    def _best_candidate(self, exchange: Exchange, others: Sequence[str], own: float, source: str) -> dict[str, Any]:
        """The sampled answer that the judge likes best, and how probably it is better than the record's."""
        new = [one for one in dict.fromkeys(others) if one and one != str(exchange.answer).strip()]
        scores = [mean_score(self._scores(exchange, one, source)) for one in new]
        if not scores:
            return {}
        best = int(np.argmax(scores))
        return {"candidate": new[best], "preferred": preference(scores[best], own)}

    def _scores(self, exchange: Exchange, answer: str, source: str) -> dict[str, float]:
        """The judge's scores of an answer, by name."""
        if self.judge is None:
            raise RuntimeError("there is no judge")
        given = called("judge", self.judge, source, exchange.question, answer)
        if isinstance(given, Mapping):
            if not given:
                raise InvalidInput(f"{setting('judge')} returned no score for {source}")
            return {str(name): _checked_score("judge", value, source) for name, value in given.items()}
        return {"score": _checked_score("judge", given, source)}


def called(name: str, function: Callable[..., Any], source: str, *given: Any) -> Any:
    """What a callback returns for a record; whatever it raises is an error that names both."""
    try:
        return function(*given)
    except SiftlmError:
        raise
    except Exception as error:
        what = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        raise InvalidInput(f"{setting(name)} failed for {source}: {what}") from error


def mean_score(scores: Mapping[str, float]) -> float:
    """The mean of several scores."""
    return sum(scores.values()) / len(scores)


def losses(model: Controller, exchanges: Sequence[Exchange]) -> list[float]:
    """The nats per token of each answer behind its question, and of a text alone, by the model as it is."""
    pairs = [
        (one.text, "") if one.answer is None else (one.answer, prompt_text(model, one))
        for one in exchanges
        if one.answer is None or one.answer
    ]
    known = iter(model.likelihoods(pairs)) if pairs else iter(())
    return [next(known).nats_per_token if one.answer is None or one.answer else math.nan for one in exchanges]


def _losses(model: Controller, batch: Sequence[MeasuredRecord]) -> list[dict[str, Any]]:
    return [{"loss": json_number(nats)} for nats in losses(model, [one.exchange for one in batch])]


def self_judged(model: Controller, exchanges: Sequence[Exchange]) -> list[dict[str, float]]:
    """The model's own scores of each record: the probability of yes against no, to each of three questions."""
    pairs, owners = [], []
    for at, one in enumerate(exchanges):
        for name, question in ASPECTS.items():
            ask = Exchange(
                "", ({"role": "user", "content": f"{one.text}\n\n{question} {YES_OR_NO}"},),
                f"{one.text}\n\n{question} {YES_OR_NO}", "",
            )  # fmt: skip
            prompt = prompt_text(model, ask)
            words = ("Yes", "No") if prompt != ask.prompt else (" yes", " no")
            pairs += [(word, prompt) for word in words]
            owners.append((at, name))
    known = model.likelihoods(pairs)
    scores: list[dict[str, float]] = [{} for _ in exchanges]
    for place, (at, name) in enumerate(owners):
        against = known[2 * place].nats - known[2 * place + 1].nats
        scores[at][name] = 1 / (1 + math.exp(min(against, 700.0)))
    return scores


def _checked_score(name: str, value: Any, source: str) -> float:
    """A number from 0 to 1 that a callback returned."""
    known = isinstance(value, (Real, np.number, np.bool_)) and math.isfinite(float(value))
    if not known or not 0 <= float(value) <= 1 + 1e-6:
        raise InvalidInput(f"{setting(name)} returned {value!r:.60} for {source}; a score is a number from 0 to 1")
    return min(float(value), 1.0)
