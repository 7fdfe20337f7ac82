"""`review`: a report on a pool that says which records to drop or to refine, and why."""

from __future__ import annotations

import json
import os
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import replace
from shutil import rmtree
from typing import TYPE_CHECKING, Any

import numpy as np

from siftlm.embedding.protocol import EmbedderSource
from siftlm.errors import InvalidInput, setting
from siftlm.memory.reading.fields import plain_value
from siftlm.picking import output
from siftlm.picking.exchanges import with_answer
from siftlm.picking.findings import Finding, Refine, Review, in_words
from siftlm.picking.measuring import Agreement, Judge, called, mean_score
from siftlm.picking.models import opened_model, tuned_model
from siftlm.picking.passes import ExchangeReader, compare_neighbours, measure_pool
from siftlm.picking.pick import DEFAULT_PROXY
from siftlm.picking.pools import Pool, check_reading, embedder_for, fetch, open_pool, vector_rows
from siftlm.picking.reading import embed_pool
from siftlm.picking.records import record_text, text_fields
from siftlm.picking.review_settings import ReviewSettings, callback_name, measuring_keys, review_job
from siftlm.picking.signals import BETTER_ANSWER, KEEP, MEDIAN, REFINE, Measures, decide
from siftlm.picking.work import WorkFolder, work_folder
from siftlm.progress import Meter, Report, reporter
from siftlm.types import Document, FloatArray, IntArray
from siftlm.validation import flag

if TYPE_CHECKING:
    from siftlm.controller import Tuning

REFINED = "refined"


def review(
    pool: Any,
    *,
    signals: Sequence[str] | None = None,
    model: Any = DEFAULT_PROXY,
    tuned: Any = None,
    judge: Judge | None = None,
    agreement: Agreement | None = None,
    refine: Refine | None = None,
    out: str | os.PathLike[str] | None = None,
    text: str | Sequence[str] | None = None,
    answer: str | None = None,
    embedder: EmbedderSource | None = None,
    vectors: Any = None,
    neighbours: int = 2,
    samples: int = 5,
    temperature: float = 1.0,
    max_new_tokens: int = 64,
    confidence: float | str = MEDIAN,
    deviations: float = 1.0,
    better: float = 0.8,
    tuning: Tuning | None = None,
    bad: str = "fail",
    field: str | None = output.DEFAULT_FIELD,
    restart: bool = False,
    seed: int = 0,
    progress: bool | Report | None = None,
    **reading: Any,
) -> Review:
    """Say of every record of a pool whether to keep, drop or refine it, and why.

    With ``out``, a call that was stopped goes on where it was when it is repeated: no record is measured twice.

    Args:
        pool: whatever `siftlm.pick` takes as a pool.
        signals: which of ``confidence`` (drop answers that the model's own answers and the judge speak against),
            ``complexity`` (refine what is hard before and after training), ``diversity`` (refine what has few like
            it) and ``quality`` (refine what the judge thinks little of). Left out: the first three, and ``quality``
            with a judge.
        model: the model that you mean to train: a name or folder, or a `siftlm.Controller`. Not needed for
            ``diversity`` alone.
        tuned: the same model after training, or the folder of a PEFT adapter, for ``complexity``. Left out, the model
            learns from the pool, one step on each record, and is put back.
        judge: a function of (question, answer) that returns a score from 0 to 1, or several by name. Without one, an
            answer's score is its likelihood under the model, the mean per token, and for ``quality`` the model is asked
            itself whether the record is clear, complete and true.
        agreement: a function of (question, answer, other answer): from 0, they contradict each other, to 1, they say
            the same. Left out, the cosine of their vectors.
        refine: a function of (record, `Finding`) that returns a record in its place, a list of several, or ``None`` to
            leave it. Left out, an answer is replaced by a sampled one that the judge prefers, and the rest stays.
        out: a file for the records that are kept and refined; see `Review.write`. Beside it lies a folder ``….work``.
        text: the fields of a record's text, as for `siftlm.pick`.
        answer: the one of these that is the answer, where the record has no known form.
        embedder: see `siftlm.embedder`; ``static`` unless given, and of a memory its own.
        vectors: (records, d), or a ``.npy`` file, where the pool's vectors are known.
        neighbours: compare a record with so many nearest ones.
        samples: answers that are drawn for each question, of at most ``max_new_tokens`` at this ``temperature``.
        confidence: drop answers below it: a number, or ``median``, which drops half.
        deviations: refine what lies so many standard deviations beyond the mean.
        better: replace an answer if the judge prefers another one with this probability.
        tuning: how the model learns from the pool.
        bad: ``fail`` at the first unusable record, or ``skip`` them and count them.
        field: of the verdict in each record that is written; ``None`` writes records as they are.
        restart: begin anew, whatever lies in the work folder.
        seed: of the drawn answers and the order of training.
        progress: as for `siftlm.pick`.
        **reading: ``format``, ``split`` and ``glob``, as for `siftlm.memory.reading.open_source`.

    >>> texts = ["Tea is brewed hot.", "Tea is served hot.", "Tea is brewed cold.", "Lists are sorted by a key."]
    >>> found = review(texts, signals=["diversity"], embedder="hashing")
    >>> [one.verdict for one in found.findings], found[3].causes
    (['keep', 'keep', 'keep', 'refine'], ('few records like it',))
    """
    # 1. Settings.
    check_reading(review, reading)
    settings = ReviewSettings.of(
        signals, neighbours, samples, temperature, max_new_tokens, confidence, deviations, better, bad, seed,
        judge=judge, agreement=agreement, refine=refine, tuned=tuned, tuning=tuning,
    )  # fmt: skip
    restart = flag("restart", restart)
    path, field = output.output_file("out", out), output.field_name(field)
    inputs = output.input_files(pool, vectors)
    if path is not None:
        output.check_no_input("out", path, inputs)
    # 2. The pool and the models.
    source, fields = open_pool("pool", pool, **reading), text_fields("text", text)
    if answer is not None and (fields is None or answer not in fields or len(fields) < 2):
        raise InvalidInput(f"{setting('answer', answer)} must be one of the fields in {setting('text')}")
    given = None if vectors is None else vector_rows("vectors", vectors)
    vectors = vectors if given is None or isinstance(vectors, (str, os.PathLike)) else given
    made = embedder_for(source, embedder, needed=given is None)
    base = opened_model(model) if settings.needs_model else None
    other = None if base is None or tuned is None or not settings.trains else tuned_model(base, tuned)
    job = review_job(settings, source, fields, made, vectors)
    report = reporter(progress)
    with work_folder(path, "review") as folder, WorkFolder.hold(folder, "review") as work:
        # 3. Read, embed, and compare each record with its nearest.
        added, read_before = field if path is not None else None, work.read_state().complete
        how = settings.reading(fields, made, given, added)
        embedded = embed_pool(work, source, how, job, report, restart=restart)
        near, similarity = compare_neighbours(work, embedded, settings, report)
        # 4. Ask the models.
        reader = ExchangeReader(source, embedded, fields, answer, bad)
        if read_before:
            reader.check_field(added)
        measuring = settings.measuring(judge, agreement, made)
        keys = measuring_keys(settings, measuring, answer, base, other)
        lines = measure_pool(work, reader, base, other, measuring, settings, keys, report)
        # 5. Decide, and refine.
        measures = _measures(reader, lines, similarity, settings)
        findings = _findings(reader, lines, measures, near, settings)
        findings = _refined(work, source, findings, reader, refine, answer, keys["refined"], report)
        cuts = {name: cut for name, cut in settings.rules.cuts(measures).items() if np.isfinite(cut)}
        result = Review(
            findings, cuts, settings.signals, settings, source.name, embedded.state.records, embedded.state.unusable,
            tuple(embedded.state.complaints), None if base is None else base.name, source, fields, embedded,
            tuple(inputs),
        )  # fmt: skip
        if path is not None:
            result.write_file(path, (KEEP, REFINE), field)
    if path is None:  # the result reads its vectors there
        weakref.finalize(result, rmtree, folder, ignore_errors=True)
    return result


# --- decisions


def _measures(
    reader: ExchangeReader, lines: Mapping[int, Mapping[str, Any]], similarity: FloatArray, settings: ReviewSettings
) -> Measures:
    """The signals as arrays, in the order of the pool."""
    numbers = reader.embedded.numbers.tolist()
    if not reader.sources:
        for _ in reader.exchanges():
            pass

    def column(name: str, signal: str) -> FloatArray:
        if signal not in settings.signals:
            return np.full(len(numbers), np.nan)
        values = [lines.get(number, {}).get(name) for number in numbers]
        return np.array([np.nan if value is None else value for value in values], dtype=np.float64)

    scores = [lines.get(number, {}).get("scores") for number in numbers]
    quality = [mean_score(own) if own and "quality" in settings.signals else np.nan for own in scores]
    return Measures(
        np.array([reader.answered[number] for number in numbers], dtype=np.bool_),
        column("confidence", "confidence"),
        column("loss", "complexity"),
        column("loss_after", "complexity"),
        similarity,
        np.array(quality, dtype=np.float64),
        column("preferred", "confidence"),
    )


def _findings(
    reader: ExchangeReader,
    lines: Mapping[int, Mapping[str, Any]],
    measures: Measures,
    near: IntArray,
    settings: ReviewSettings,
) -> list[Finding]:
    cuts = settings.rules.cuts(measures)
    numbers = reader.embedded.numbers
    found = []
    for at, (number, decision) in enumerate(zip(numbers.tolist(), decide(measures, settings.rules), strict=True)):
        line = lines.get(number, {})
        signals = {
            name: float(value)
            for name, value in (
                ("confidence", measures.confidence[at]),
                ("consistency", line.get("consistency")),
                ("reflection", line.get("reflection")),
                ("loss", measures.loss[at]),
                ("loss_after", measures.loss_after[at]),
                ("similarity", measures.similarity[at]),
                ("quality", measures.quality[at]),
                *((line.get("scores") or {}).items()),
                ("preferred", measures.preferred[at]),
            )
            if value is not None and np.isfinite(value)
        }
        candidate = line.get("candidate") if BETTER_ANSWER in decision.reasons else None
        found.append(
            Finding(
                number,
                reader.sources[number],
                decision.verdict,
                in_words(decision, signals, cuts, median=settings.rules.confidence == MEDIAN),
                decision.reasons,
                signals,
                tuple(numbers[near[at]].tolist()),
                candidate=candidate,
            )
        )
    return found


# --- refinement


def _refined(
    work: WorkFolder,
    pool: Pool,
    findings: list[Finding],
    reader: ExchangeReader,
    refine: Refine | None,
    answer: str | None,
    key: str,
    report: Report | None,
) -> list[Finding]:
    """The findings with what stands in the place of the records to refine."""
    todo = [at for at, one in enumerate(findings) if one.verdict == REFINE]
    if not todo:
        return findings
    known = {
        one["number"]: one
        for one in work.signals()
        if one.get("stage") == REFINED and one.get("key") == key and refine is not None and "number" in one
    }
    needed = sorted({number for at in todo for number in (findings[at].number, *findings[at].neighbours)})
    records = dict(zip(needed, fetch(pool, np.array(needed, dtype=np.int64))[0], strict=True))
    by = callback_name(refine)
    meter = Meter("refining", "records", report if refine is not None else None, total=len(todo))
    for at in todo:
        one = findings[at]
        similar = tuple(record_text(records[number], reader.fields) for number in one.neighbours)
        one = replace(one, similar=similar)
        if refine is None:
            new = None if one.candidate is None else [with_answer(records[one.number], one.candidate, answer)]
        elif (line := known.get(one.number)) is not None and line.get("why") == [by, *one.causes]:
            new = line.get("records")
        else:
            new = _checked_refinement(called("refine", refine, one.source, records[one.number], one), one.source)
            why = [by, *one.causes]
            work.add_signals([{"stage": REFINED, "key": key, "number": one.number, "why": why, "records": new}])
        findings[at] = replace(one, refined=new)
        meter.add(1)
    meter.finish()
    return findings


def _checked_refinement(given: Any, source: str) -> list[Any] | None:
    """What the callback returned as a list of records that JSON can hold."""
    if given is None:
        return None
    found = []
    for one in given if isinstance(given, (list, tuple)) else [given]:
        if not isinstance(one, (str, Mapping, Document)) or not one:
            wanted = "it returns a record, a list of records, or None"
            raise InvalidInput(f"{setting('refine')} returned {one!r:.60} for {source}; {wanted}")
        plain = one if isinstance(one, str) else output.as_mapping(one)
        try:
            found.append(json.loads(json.dumps(plain, default=plain_value)))
        except (TypeError, ValueError, RecursionError) as error:
            raise InvalidInput(
                f"{setting('refine')} returned a record for {source} that JSON cannot hold: {error}"
            ) from error
    return found
