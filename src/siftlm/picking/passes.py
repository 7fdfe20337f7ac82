"""The passes of a review over its pool: each record's neighbours, and what models say of it, kept as it comes."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from siftlm.errors import BadRecord, setting
from siftlm.memory.reading.fields import UnusableRecord
from siftlm.picking.exchanges import Exchange, exchange_of
from siftlm.picking.measuring import MeasuredRecord, Measuring, Part, losses
from siftlm.picking.models import prompt_text
from siftlm.picking.output import check_field
from siftlm.picking.pools import Pool
from siftlm.picking.reading import COMMIT_SECONDS
from siftlm.picking.records import record_text
from siftlm.picking.review_settings import ReviewSettings
from siftlm.picking.work import Embedded, WorkFolder
from siftlm.progress import Meter, Report
from siftlm.selection.diagnosis import UnitVectors
from siftlm.types import FloatArray, IntArray, json_number

if TYPE_CHECKING:
    from siftlm.controller import Controller

# Records that go through the model together, and whose neighbours are looked for together.
MEASURED_TOGETHER, COMPARED_TOGETHER = 16, 1024
TUNED = "tuned"


@dataclass(frozen=True, eq=False)
class ExchangeReader:
    """The usable records of a pool as a model is asked them."""

    pool: Pool
    embedded: Embedded
    fields: tuple[str, ...] | None
    answer: str | None
    bad: str
    sources: dict[int, str] = field(default_factory=dict)
    """Number -> where the record stands; filled as records are read."""
    answered: dict[int, bool] = field(default_factory=dict)

    def check_field(self, added: str | None) -> None:
        """Raise where a usable record has the field that is to be added; those that are read now were checked."""
        if added is not None:
            usable = set(self.embedded.numbers.tolist())
            for block in self.pool.blocks():
                for at, record in enumerate(block.records):
                    if block.first + at in usable:
                        check_field(record, block.sources[at], added)

    def exchanges(self) -> Iterator[tuple[int, Exchange, str]]:
        """(number, exchange, source) of each usable record, in the order of the pool."""
        usable = set(self.embedded.numbers.tolist())
        for block in self.pool.blocks():
            for at, record in enumerate(block.records):
                number, source = block.first + at, block.sources[at]
                if number in usable:
                    exchange = self._exchange(record, source)
                    self.sources[number] = source
                    self.answered[number] = exchange.answer is None or bool(exchange.answer.strip())
                    yield number, exchange, source

    def _exchange(self, record: Any, source: str) -> Exchange:
        try:
            return exchange_of(record, source, self.fields, self.answer)
        except UnusableRecord as error:
            if self.bad == "fail":
                advice = f"{setting('bad', 'skip')} takes such records as plain texts"
                raise BadRecord(f"{source}: {error}; {advice}") from error
            return Exchange(record_text(record, self.fields))


# --- neighbours


def compare_neighbours(
    work: WorkFolder, embedded: Embedded, settings: ReviewSettings, report: Report | None
) -> tuple[IntArray, FloatArray]:
    """(K, k) the rows of the nearest others, and (K,) the mean cosine with them; NaN for a record alone."""
    size = len(embedded.vectors)
    k = min(settings.neighbours, size - 1)
    if "diversity" not in settings.signals or k < 1:
        return np.zeros((size, 0), dtype=np.int64), np.full(size, np.nan)
    if saved := work.picks():
        return saved["neighbours"], saved["similarity"]
    corpus, meter = UnitVectors("vectors", embedded.vectors), Meter("comparing", "records", report, total=size)
    near: IntArray = np.empty((size, k), dtype=np.int64)
    similarity: FloatArray = np.empty(size)
    for first in range(0, size, COMPARED_TOGETHER):
        own = np.arange(first, min(first + COMPARED_TOGETHER, size))
        found = corpus.nearest(corpus.rows(own), k, without=own)
        near[own] = found
        nearest = corpus.rows(found.ravel()).reshape(len(own), k, -1)
        similarity[own] = np.einsum("ikd,id->i", nearest, corpus.rows(own)) / k
        meter.at(int(own[-1]) + 1)
    meter.finish()
    work.save_picks(neighbours=near, similarity=similarity)
    return near, similarity


# --- models


def measure_pool(
    work: WorkFolder,
    reader: ExchangeReader,
    base: Controller | None,
    tuned: Controller | None,
    measuring: Measuring,
    settings: ReviewSettings,
    keys: Mapping[str, str],
    report: Report | None,
) -> dict[int, dict[str, Any]]:
    """Number -> what was measured of the record, with what earlier calls have measured under the same ``keys``."""
    parts = measuring.parts
    done: dict[str, set[int]] = {name: set() for name in (*parts, *([TUNED] if settings.trains else []))}
    lines: dict[int, dict[str, Any]] = {}
    for line in work.signals():
        stage, number = str(line.get("stage")), line.get("number")
        if stage in done and line.get("key") == keys[stage] and isinstance(number, int):
            done[stage].add(number)
            lines.setdefault(number, {}).update(line)
    passes = _Passes(work, reader, keys, done, lines, report)
    if parts:
        passes.run(base, parts, "measuring")
    if settings.trains and base is not None and len(done[TUNED]) < len(reader.embedded.numbers):
        if tuned is not None:
            passes.run(tuned, {TUNED: _losses_after}, "measuring after training")
        else:
            texts = [
                one.text if one.answer is None else prompt_text(base, one) + one.answer
                for _, one, _ in reader.exchanges()
            ]
            order = np.random.default_rng(settings.seed).permutation(len(texts))
            meter = Meter("training", "steps", report, total=len(texts))
            with base.tuning(**settings.tuning) as tuner:
                tuner.learn([texts[at] for at in order], after=lambda _: meter.add(1))
                meter.finish()
                passes.run(base, {TUNED: _losses_after}, "measuring after training")
    return lines


def _losses_after(model: Controller, batch: Sequence[MeasuredRecord]) -> list[dict[str, Any]]:
    return [{"loss_after": json_number(nats)} for nats in losses(model, [one.exchange for one in batch])]


@dataclass(frozen=True, eq=False)
class _Passes:
    """Passes over the records that measure what is not known yet."""

    work: WorkFolder
    reader: ExchangeReader
    keys: Mapping[str, str]
    """Part -> what a line about it is known by."""
    done: Mapping[str, set[int]]
    """Part -> the records of which it is known."""
    lines: dict[int, dict[str, Any]]
    report: Report | None

    def run(self, model: Controller | None, parts: Mapping[str, Part], what: str) -> None:
        """Measure these parts, a few records at a time; what is done is safe on the disk every two seconds."""
        total = len(self.reader.embedded.numbers)
        meter = Meter(what, "records", self.report, total=total)
        waiting: list[tuple[int, Exchange, str]] = []
        new: list[dict[str, Any]] = []
        saved = time.monotonic()
        try:
            for place, one in enumerate(self.reader.exchanges()):
                if any(one[0] not in self.done[name] for name in parts):
                    waiting.append(one)
                if len(waiting) == MEASURED_TOGETHER:
                    self._measure(model, parts, waiting, new)
                    waiting.clear()
                    meter.at(place + 1)
                if new and time.monotonic() - saved >= COMMIT_SECONDS:
                    self.work.add_signals(new)
                    new.clear()
                    saved = time.monotonic()
            if waiting:
                self._measure(model, parts, waiting, new)
        finally:
            if new:
                self.work.add_signals(new)
        meter.at(total)
        meter.finish()

    def _measure(
        self,
        model: Controller | None,
        parts: Mapping[str, Part],
        waiting: Sequence[tuple[int, Exchange, str]],
        new: list[dict[str, Any]],
    ) -> None:
        """Add to ``new`` what these records lack."""
        for name, measure in parts.items():
            own = [one for one in waiting if one[0] not in self.done[name]]
            if not own:
                continue
            batch = [MeasuredRecord(exchange, source, self.lines.get(number, {})) for number, exchange, source in own]
            found = measure(model, batch)  # type: ignore[arg-type]  # a judge alone needs no model
            for (number, *_), line in zip(own, found, strict=True):
                new.append({"stage": name, "key": self.keys[name], "number": number, **line})
                self.lines.setdefault(number, {}).update(line)
