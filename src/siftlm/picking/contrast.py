"""`contrast`: what tuning brought into a model, shown by texts that it likes and its base does not."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from siftlm import validation
from siftlm.errors import BadRecord, Conflict, InvalidInput, counted, setting
from siftlm.memory.create import check_bad
from siftlm.memory.reading.fields import UnusableRecord
from siftlm.picking.models import opened_model, tuned_model
from siftlm.picking.pick import DEFAULT_PROXY
from siftlm.picking.pools import check_reading, open_pool
from siftlm.picking.records import record_text, text_fields
from siftlm.picking.review_settings import tuning_changes
from siftlm.progress import Meter, Report, reporter
from siftlm.types import json_number

if TYPE_CHECKING:
    from siftlm.controller import Controller, Generated, SamplingParams, Tuning

WORD = re.compile(r"\w+")
# Samples, phrases and characters that are printed.
SHOWN_SAMPLES, SHOWN_PHRASES, SHOWN_CHARACTERS = 5, 10, 100
Phrase = tuple[str, ...]


@dataclass(frozen=True)
class ContrastiveSample:
    """A text that the tuned model likes and its base does not."""

    text: str
    prompt: str
    """What it continues; often empty."""
    gain: float
    """By how many nats per token it is more likely under the tuned model."""
    tuned: float
    """Nats per token under the tuned model."""
    base: float
    """Nats per token under the base model."""
    record: str | None = None
    """Where the record of the data stands that has most of its phrases, as ``file:line``; ``None`` without data."""
    shown: float | None = None
    """The share of its phrases that this record has."""


@dataclass(frozen=True)
class ShownPhrase:
    """Words in a row that the samples and the data share."""

    text: str
    samples: int
    """In how many samples they are."""
    records: int
    """In how many records of the data they are."""
    gain: float
    """The gains of these samples added up."""


@dataclass(frozen=True, eq=False)
class Contrast:
    """What tuning brought in: samples, and what of the data they show; printing it gives a summary."""

    samples: Sequence[ContrastiveSample]
    """Those that gained most first."""
    phrases: Sequence[ShownPhrase]
    """Those in the samples that gained most first; empty without data."""
    base: str
    tuned: str
    """The names of the models."""
    scale: float
    records: int | None
    """How many records of data were compared; ``None`` without data."""
    drawn: int
    """How many samples were drawn: equal ones are here once, and empty ones not at all."""

    @property
    def mean_gain(self) -> float:
        """The mean gain of the samples, in nats per token."""
        return float(np.mean([one.gain for one in self.samples]))

    def __str__(self) -> str:
        samples = counted(len(self.samples), "sample")
        lines = [f"{samples} of {self.tuned} against {self.base}: {self.mean_gain:+.2f} nats per token"]
        if len(self.samples) < self.drawn:
            lines.append(f"  {self.drawn:,} were drawn; the others repeat these, or ended at once")
        for one in self.samples[:SHOWN_SAMPLES]:
            text = " ".join(one.text.split())[:SHOWN_CHARACTERS]
            where = "" if one.record is None else f"  [{one.record}, {one.shown:.0%} of its phrases]"
            lines.append(f"  {one.gain:+.2f}  {text}{where}")
        if self.records is not None:
            lines.append(
                f"phrases that they share with {counted(self.records, 'record')}:" if self.phrases else "nothing shared"
            )
        lines += [
            f"  {one.text}  (samples {one.samples:,}, records {one.records:,})"
            for one in self.phrases[:SHOWN_PHRASES]
        ]  # fmt: skip
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """Ready for ``json.dumps``."""
        return {
            "base": self.base,
            "tuned": self.tuned,
            "scale": self.scale,
            "records": self.records,
            "drawn": self.drawn,
            "mean_gain": json_number(self.mean_gain, 6),
            "samples": [asdict(one) for one in self.samples],
            "phrases": [asdict(one) for one in self.phrases],
        }


def contrast(
    base: Any = DEFAULT_PROXY,
    tuned: Any = None,
    data: Any = None,
    *,
    prompts: str | Sequence[str] = "",
    samples: int = 20,
    rounds: int = 1,
    scale: float = 1.0,
    plausible: float = 0.1,
    temperature: float = 1.0,
    max_new_tokens: int = 40,
    words: int = 3,
    tuning: Tuning | None = None,
    text: str | Sequence[str] | None = None,
    bad: str = "fail",
    seed: int = 0,
    progress: bool | Report | None = None,
    **reading: Any,
) -> Contrast:
    """Show what tuning brought into a model, by texts that it likes and its base model does not.

    Tokens are drawn by log p − scale · log q, where p is the tuned model's probability and q that of the base model.

    Args:
        base: the model before tuning: a name or folder, a `siftlm.Controller`, or a `siftlm.LocalModel`.
        tuned: the same model afterwards, or the folder of a PEFT adapter. Left out, a copy of the base learns from the
            data, one step on each record.
        data: whatever `siftlm.pick` takes as a pool; the samples are compared with it. May be left out with ``tuned``.
        prompts: what the samples continue; nothing, unless you say otherwise.
        samples: how many are drawn for each prompt.
        rounds: draw them in so many rounds; after each, a copy of the base learns what was drawn, so that the next
            round shows something else.
        scale: how much of the base model is subtracted; 0 samples from the tuned model alone.
        plausible: only tokens that the tuned model gives this share of its likeliest token's probability.
        temperature, max_new_tokens: of each sample.
        words: the length of the phrases that are looked for in the data.
        tuning: how the copy learns from the data.
        text: the fields of a record's text, as for `siftlm.pick`.
        bad: ``fail`` at the first unusable record, or ``skip`` them.
        seed: of the samples, and of the order in which the data is learned.
        progress: as for `siftlm.pick`.
        **reading: ``format``, ``split`` and ``glob``, as for `siftlm.memory.reading.open_source`.
    """
    # 1. Settings.
    check_reading(contrast, reading)
    asked = [prompts] if isinstance(prompts, str) else validation.list_of_texts("prompts", prompts)
    if not asked:
        raise InvalidInput(f"{setting('prompts')} is empty: leave it out to begin with nothing")
    samples, words = validation.whole_number("samples", samples), validation.whole_number("words", words)
    rounds = validation.whole_number("rounds", rounds, most=samples)
    scale, seed = validation.number("scale", scale, least=0), validation.whole_number("seed", seed, least=0)
    plausible = validation.number("plausible", plausible, above=0, most=1)
    if tuned is None and data is None:
        raise InvalidInput(f"there is nothing to contrast: pass {setting('tuned')}, or {setting('data')} to learn from")
    if tuned is not None and tuning is not None:
        raise Conflict(f"{setting('tuned')} was trained already, so {setting('tuning')} has nothing to say")
    check_bad(bad)
    changes = {} if tuning is None else tuning_changes(tuning)
    texts = None if data is None else list(_texts_of(data, text_fields("text", text), bad, reading))
    # 2. The models, and samples of both.
    from siftlm.controller import SamplingParams, check_same_tokens, check_sampling

    before = opened_model(base, "base")
    check_sampling(max_new_tokens, temperature, 1.0, (), before.context, seed)
    report = reporter(progress)
    with ExitStack() as stack:
        if tuned is not None:
            after = tuned_model(before, tuned)
            name = " after tuning" if after.name == before.name else ""
        else:
            after, name = before.copy(), " after learning the data"
            order = np.random.default_rng(seed).permutation(len(texts or ()))
            meter = Meter("training", "steps", report, total=len(order))
            tuner = stack.enter_context(after.tuning(**changes))
            trace = tuner.learn([(texts or [])[at][1] for at in order], after=lambda _: meter.add(1))
            meter.finish()
            if not trace.steps:
                raise InvalidInput(f"{setting('data')}: there is nothing to learn in texts of a single token")
        check_same_tokens(after, before)
        sampling = SamplingParams(max_new_tokens, temperature, seed=seed)
        drawn = _drawn(after, before, asked, samples, rounds, sampling, scale, plausible, report)
        found = _scored(after, before, drawn)
    # 3. What of the data they show.
    phrases: list[ShownPhrase] = []
    if texts is not None:
        found, phrases = _compared(found, texts, words)
    records = None if texts is None else len(texts)
    return Contrast(found, phrases, before.name, f"{after.name}{name}", scale, records, samples * len(asked))


def _texts_of(data: Any, fields: Sequence[str] | None, bad: str, reading: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """(source, text) of each usable record."""
    pool, usable = open_pool("data", data, **reading), False
    for block in pool.blocks():
        for record, source in zip(block.records, block.sources, strict=True):
            try:
                text = record_text(record, fields)
            except UnusableRecord as error:
                if bad == "fail":
                    raise BadRecord(f"{source}: {error}; {setting('bad', 'skip')} leaves such records out") from error
                continue
            usable = True
            yield source, text
    if not usable:
        raise InvalidInput(f"{pool.name}: holds no usable record")


def _drawn(
    after: Controller,
    before: Controller,
    prompts: Sequence[str],
    samples: int,
    rounds: int,
    sampling: SamplingParams,
    scale: float,
    plausible: float,
    report: Report | None,
) -> list[tuple[str, str]]:
    """(prompt, text) of each sample that is more than white space; equal ones once."""
    from siftlm.controller import contrastive_samples

    meter = Meter("sampling", "samples", report, total=samples * len(prompts))
    drawn: dict[tuple[str, str], None] = {}
    with ExitStack() as stack:
        against, tuner = before, None
        if rounds > 1:
            against = before.copy()
            tuner = stack.enter_context(against.tuning())
        for part in np.array_split(np.arange(samples), rounds):
            asked = [prompt for prompt in prompts for _ in part]
            how = replace(sampling, seed=sampling.seed + int(part[0]) * len(prompts))
            made: list[Generated] = contrastive_samples(after, against, asked, how, scale=scale, plausible=plausible)
            new = [(prompt, one.text) for prompt, one in zip(asked, made, strict=True) if one.text.strip()]
            drawn.update(dict.fromkeys(new))
            meter.add(len(asked))
            if tuner is not None:
                tuner.learn([prompt + text for prompt, text in new])
    meter.finish()
    if not drawn:
        raise InvalidInput(
            f"every sample ended at once; pass {setting('prompts')} that a text of the data could begin with"
        )
    return list(drawn)


def _scored(after: Controller, before: Controller, drawn: Sequence[tuple[str, str]]) -> list[ContrastiveSample]:
    """The samples with their likelihoods under both models, those that gained most first."""
    pairs = [(text, prompt) for prompt, text in drawn]
    found = []
    for (text, prompt), new, old in zip(pairs, after.likelihoods(pairs), before.likelihoods(pairs), strict=True):
        gain = old.nats_per_token - new.nats_per_token
        found.append(ContrastiveSample(text, prompt, gain, new.nats_per_token, old.nats_per_token))
    return sorted((one for one in found if one.gain == one.gain), key=lambda one: -one.gain)


def _compared(
    samples: Sequence[ContrastiveSample], texts: Sequence[tuple[str, str]], words: int
) -> tuple[list[ContrastiveSample], list[ShownPhrase]]:
    """The samples with the records that they show most of, and the phrases that they share with any."""
    own = [phrases_of(one.prompt + one.text, words) for one in samples]
    holders: dict[Phrase, list[int]] = defaultdict(list)
    for at, phrases in enumerate(own):
        for phrase in phrases:
            holders[phrase].append(at)
    records: Counter[Phrase] = Counter()
    best: list[tuple[int, str | None]] = [(0, None)] * len(samples)
    for source, text in texts:
        shared: Counter[int] = Counter()
        for phrase in phrases_of(text, words) & holders.keys():
            records[phrase] += 1
            shared.update(holders[phrase])
        for at, count in shared.items():
            if count > best[at][0]:
                best[at] = (count, source)
    found = [
        replace(one, record=source, shown=count / len(phrases) if phrases else 0.0)
        for one, (count, source), phrases in zip(samples, best, own, strict=True)
    ]
    shown = [
        ShownPhrase(" ".join(phrase), len(holders[phrase]), count, sum(samples[at].gain for at in holders[phrase]))
        for phrase, count in records.items()
    ]
    return found, sorted(shown, key=lambda one: (-one.gain, one.text))


def phrases_of(text: str, words: int) -> set[Phrase]:
    """Every so many words in a row, without case and punctuation.

    >>> sorted(phrases_of("Tea, tea is hot!", 3))
    [('tea', 'is', 'hot'), ('tea', 'tea', 'is')]
    """
    found = WORD.findall(text.casefold())
    return {tuple(found[at : at + words]) for at in range(len(found) - words + 1)}
