"""The verdict on a choice: is a small model that is trained on it better on held-out targets than one trained on random
records?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from siftlm.errors import Conflict, InvalidInput, counted, setting
from siftlm.evaluation import html
from siftlm.evaluation.comparison import BETTER, INCONCLUSIVE, MIN_TEXTS_PER_DOMAIN, NO_DIFFERENCE, WORSE, verdict
from siftlm.evaluation.statistics import Draws, Mean, less, over_domains, percent_of_base
from siftlm.evaluation.tables import Column, Table, format_cell
from siftlm.picking.choose import choose
from siftlm.picking.coverage import random_choices
from siftlm.picking.models import opened_model
from siftlm.picking.pools import fetch
from siftlm.picking.records import record_text
from siftlm.picking.targets import target_texts
from siftlm.progress import Meter, Report, reporter
from siftlm.selection.problem import find_method
from siftlm.types import FloatArray, IntArray
from siftlm.validation import whole_number

if TYPE_CHECKING:
    from siftlm.controller import Controller
    from siftlm.picking.pick import Picks

# Random choices that a choice is compared with.
RANDOM_DRAWS = 3
FOLDS = 2


@dataclass(frozen=True, eq=False)
class Verdict:
    """Losses of a proxy model on held-out targets, trained on a choice and on random records."""

    chosen: Mean
    """Bits per byte after training on the choice, in % of the base model's."""
    random: Mean
    """The same for random records, a mean over several choices."""
    difference: Mean
    """chosen − random, paired by target; below zero the choice is better."""
    won: float
    """The share of targets on which the choice needs fewer bits; ties count half."""
    tests: int
    """The number of held-out targets."""
    records: int
    """The number of records that each proxy was trained on."""
    proxy: str
    """The name of the model."""
    held_out: str
    """How the targets were held out, in words."""
    losses: FloatArray
    """(3, tests) bits per byte: of the base model, after the choice, after random records."""

    @property
    def verdict(self) -> str:
        """``better``, ``worse``, ``no significant difference``, or ``inconclusive`` with fewer than five targets."""
        return verdict(self.difference, self.tests >= MIN_TEXTS_PER_DOMAIN)

    @property
    def sentence(self) -> str:
        """The verdict in words."""
        words = {
            BETTER: "The choice is better than a random one of the same size",
            WORSE: "The choice is worse than a random one of the same size",
            NO_DIFFERENCE: "The choice and a random one of the same size do not differ significantly",
            INCONCLUSIVE: "The choice against a random one is inconclusive",
        }[self.verdict]
        figures = format_cell(self.difference, Column("", interval=True, signed=True))
        few = "" if self.tests >= MIN_TEXTS_PER_DOMAIN else f"; fewer than {MIN_TEXTS_PER_DOMAIN} targets are too few"
        return (
            f"{words}: {figures} % of the base model's bits on {counted(self.tests, 'held-out target')}, fewer bits on "
            f"{100 * self.won:.0f} % of them, after {self.proxy} was trained on {counted(self.records, 'record')}{few}."
        )

    def table(self) -> Table:
        """The figures, with intervals."""
        name = Column("records"), Column("% of base", interval=True), Column("bits per byte", 3)
        base, chosen, random = self.losses.mean(axis=1)
        caption = (
            f"Bits per byte on {counted(self.tests, 'target')} {self.held_out}, in % of the base model's; lower is "
            "better. Mean over targets at the right. Intervals: 95 %, bootstrap over targets, paired for the "
            f"difference. {self.proxy} was trained on {counted(self.records, 'record')}, one step each; random: mean "
            f"of {RANDOM_DRAWS} choices."
        )
        rows = (
            ("none", 100.0, float(base)),
            ("picked", self.chosen, float(chosen)),
            ("random", self.random, float(random)),
            ("picked − random", self.difference, float(chosen - random)),
        )
        return Table("verdict", "A small model trained on the choice", caption, name, rows)

    def picture(self) -> str:
        """The difference with its interval."""
        colour = {BETTER: "e", WORSE: "f"}.get(self.verdict, "d")
        row = ("picked − random", self.difference.value, self.difference.low, self.difference.high, colour)
        title = "Difference to random records: green is better, red is worse, grey is not significant"
        return html.interval_chart([row], title=title, x_name="% of base, with a 95 % interval")

    def to_dict(self) -> dict[str, Any]:
        """The verdict for ``json.dumps``."""
        return {
            "verdict": self.verdict,
            "difference": self.difference.to_dict(),
            "chosen": self.chosen.to_dict(),
            "random": self.random.to_dict(),
            "won": self.won,
            "tests": self.tests,
            "records": self.records,
            "proxy": self.proxy,
        }


def judge(
    picks: Picks,
    test: Any,
    *,
    proxy: Any,
    records: int,
    seed: int,
    progress: bool | Report | None,
    tuning: dict[str, Any],
) -> Verdict:
    """See `siftlm.picking.Picks.verdict`."""
    records, seed = whole_number("records", records), whole_number("seed", seed, least=0)
    folds = _cross_folds(picks, records, seed) if test is None else [_given_fold(picks, test, records)]
    model = opened_model(proxy)
    trainings = [rows for fold in folds for rows in (fold.chosen, *fold.random(picks, seed))]
    texts = _texts_of(picks, trainings)
    meter = Meter("training", "steps", reporter(progress), total=sum(map(len, trainings)))
    losses = []
    for at, fold in enumerate(folds):
        base = _bits(model, fold.tests)
        own = trainings[at * (1 + RANDOM_DRAWS) : (at + 1) * (1 + RANDOM_DRAWS)]
        tuned = [_trained(model, [texts[row] for row in rows], fold.tests, seed, meter, tuning) for rows in own]
        losses.append(np.stack([base, tuned[0], np.mean(tuned[1:], axis=0)]))
    meter.finish()
    sizes = np.array([len(text.encode()) for fold in folds for text in fold.tests], dtype=np.float64)
    held_out = "that were given as a test" if test is not None else "held out, half of them at a time"
    return _verdict(np.concatenate(losses, axis=1), sizes, len(folds[0].chosen), model.name, held_out, seed)


@dataclass(frozen=True, eq=False)
class _Fold:
    """A choice that was made without looking at the texts that it is tested on."""

    chosen: IntArray
    tests: Sequence[str]

    def random(self, picks: Picks, seed: int) -> list[IntArray]:
        """Random choices of as many records."""
        return random_choices(replace(picks.candidates, budget=None), len(self.chosen), seed)[:RANDOM_DRAWS]


def _given_fold(picks: Picks, test: Any, records: int) -> _Fold:
    """The first picks, and test texts that had no part in the choice."""
    texts, sources = target_texts("test", test, picks.target_fields)
    known = set(picks.targets.texts or ())
    if shared := [source for source, text in zip(sources, texts, strict=True) if text in known]:
        raise Conflict(f"{shared[0]}: this test is a target too, so it had a part in the choice")
    return _Fold(picks.indices[:records], texts)


def _cross_folds(picks: Picks, records: int, seed: int) -> list[_Fold]:
    """Two halves of the targets: for each a choice is made, and tested on the other."""
    texts, count = picks.targets.texts, len(picks.targets)
    if not count:
        raise Conflict(f"a verdict needs texts to test on, and there are no targets; pass {setting('test')}")
    if texts is None:
        raise Conflict(f"a verdict needs the texts of targets, and only vectors are given; pass {setting('test')}")
    if count < FOLDS:
        raise InvalidInput(f"one target cannot be both chosen for and held out; pass {setting('test')}")
    order = np.random.default_rng(seed).permutation(count)
    folds = []
    for at in range(FOLDS):
        tests = np.sort(order[at::FOLDS])
        others = np.setdiff1d(order, tests)
        candidates = picks.candidates.for_targets(others)
        chosen = choose(candidates, min(records, len(picks)), find_method(picks.method), seed=seed)
        folds.append(_Fold(chosen.indices, [texts[one] for one in tests]))
    return folds


def _texts_of(picks: Picks, trainings: Sequence[IntArray]) -> dict[int, str]:
    """Row -> the text of its record."""
    rows = np.unique(np.concatenate(trainings))
    records, _ = fetch(picks.source, picks.embedded.numbers[rows])
    return {row: record_text(record, picks.fields) for row, record in zip(rows.tolist(), records, strict=True)}


def _trained(
    model: Controller, texts: Sequence[str], tests: Sequence[str], seed: int, meter: Meter, tuning: dict[str, Any]
) -> FloatArray:
    """(tests,) bits per byte after one step on each text, in random order."""
    order = np.random.default_rng(seed).permutation(len(texts))
    with model.tuning(**tuning) as tuner:
        tuner.learn([texts[at] for at in order], after=lambda _: meter.add(1))
        return _bits(model, tests)


def _bits(model: Controller, tests: Sequence[str]) -> FloatArray:
    return np.array([one.bits_per_byte for one in model.likelihoods([(text, "") for text in tests])])


def _verdict(losses: FloatArray, sizes: FloatArray, records: int, proxy: str, held_out: str, seed: int) -> Verdict:
    base, chosen, random = losses
    draws = Draws.of(["all"] * len(sizes), seed)
    after, chance = percent_of_base(chosen, base, sizes), percent_of_base(random, base, sizes)
    return Verdict(
        over_domains(after, draws),
        over_domains(chance, draws),
        over_domains(less(after, chance), draws),
        float(((chosen < random) + 0.5 * (chosen == random)).mean()),
        len(sizes),
        records,
        proxy,
        held_out,
        losses,
    )
