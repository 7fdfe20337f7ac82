"""The passes of a review over its pool: each record's neighbours, and what models say of it, kept as it comes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from siftlm.errors import BadRecord, setting
from siftlm.memory.reading.fields import UnusableRecord
from siftlm.picking.exchanges import Exchange, exchange_of
from siftlm.picking.measuring import Measuring, losses
from siftlm.picking.models import prompt_text
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
BASE, TUNED = "base", "tuned"


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
    report: Report | None,
) -> dict[int, dict[str, Any]]:
    """Number -> what was measured of the record, with what earlier calls have measured."""
    lines: dict[int, dict[str, Any]] = {}
    done: dict[str, set[int]] = {BASE: set(), TUNED: set()}
    for line in work.signals():
        if (stage := line.get("stage")) in done and isinstance(number := line.get("number"), int):
            done[stage].add(number)
            lines.setdefault(number, {}).update(line)
    if settings.asks:

        def measure(exchanges: Sequence[Exchange], sources: Sequence[str]) -> list[dict[str, Any]]:
            return measuring.measure(base, exchanges, sources)  # type: ignore[arg-type]

        _in_batches(work, reader, BASE, done[BASE], lines, measure, "measuring", report)
    if settings.trains and base is not None and len(done[TUNED]) < len(reader.embedded.numbers):

        def losses_after(model: Controller) -> None:
            _in_batches(
                work, reader, TUNED, done[TUNED], lines,
                lambda exchanges, _: [{"loss_after": json_number(nats)} for nats in losses(model, exchanges)],
                "measuring after training", report,
            )  # fmt: skip

        if tuned is not None:
            losses_after(tuned)
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
                losses_after(base)
    return lines


def _in_batches(
    work: WorkFolder,
    reader: ExchangeReader,
    stage: str,
    done: set[int],
    lines: dict[int, dict[str, Any]],
    measure: Callable[[Sequence[Exchange], Sequence[str]], list[dict[str, Any]]],
    what: str,
    report: Report | None,
) -> None:
    """Measure the records that are not done, a few at a time; what is done is safe on the disk every two seconds."""
    meter = Meter(what, "records", report, total=len(reader.embedded.numbers))
    waiting: list[tuple[int, Exchange, str]] = []
    new: list[dict[str, Any]] = []
    saved = time.monotonic()

    def work_off() -> None:
        found = measure([one for _, one, _ in waiting], [source for *_, source in waiting])
        for (number, *_), line in zip(waiting, found, strict=True):
            new.append({"stage": stage, "number": number, **line})
            lines.setdefault(number, {}).update(line)
        waiting.clear()

    try:
        for place, one in enumerate(reader.exchanges()):
            if one[0] not in done:
                waiting.append(one)
            if len(waiting) == MEASURED_TOGETHER:
                work_off()
                meter.at(place + 1)
            if new and time.monotonic() - saved >= COMMIT_SECONDS:
                work.add_signals(new)
                new.clear()
                saved = time.monotonic()
        if waiting:
            work_off()
    finally:
        if new:
            work.add_signals(new)
    meter.at(len(reader.embedded.numbers))
    meter.finish()
