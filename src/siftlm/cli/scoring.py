"""One text, scored in every way that was asked for."""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from siftlm.cli import learning, local

if TYPE_CHECKING:
    from siftlm.local import LocalModel
    from siftlm.results import Score


@dataclass(frozen=True)
class Plan:
    """What is to be done with each text."""

    mode: str
    at: tuple[int, ...]
    watch: bool
    context: bool
    compare: tuple[str, ...]
    shared: dict[str, Any]
    """Settings of the model, whichever method selects."""
    own: dict[str, Any]
    """Settings of the main method's selection alone."""


@dataclass(frozen=True)
class Scored:
    """A text, before and after each way of learning."""

    model: str
    mode: str
    scores: Mapping[str, Score]
    """Name of the way -> how it did; the main one is the last."""

    @property
    def main(self) -> Score:
        """By the method that was asked for."""
        return list(self.scores.values())[-1]

    @property
    def base(self) -> float:
        """Bits per byte of the base model."""
        return self.main.base

    @property
    def bytes(self) -> int:
        """Of what was scored."""
        return self.main.base_likelihood.bytes

    @property
    def tokens(self) -> int:
        """Of what was scored."""
        return self.main.base_likelihood.tokens

    def to_dict(self, *, why: bool) -> dict[str, Any]:
        """Ready for ``json.dumps``; with the texts that were learned from, if somebody asks why."""
        head = {
            "model": self.model,
            "mode": self.mode,
            "bytes": self.bytes,
            "tokens": self.tokens,
            "base": self.main.to_dict()["base"],
        }
        return {**head, "scores": {name: _record(one, why=why) for name, one in self.scores.items()}}


def _record(score: Score, *, why: bool) -> dict[str, Any]:
    record = score.to_dict()
    found = record.pop("found")
    kept = {name: record[name] for name in ("tuned", "curve", "seconds", "trace")}
    if not why:
        del found["hits"]
    percent = score.percent if math.isfinite(score.percent) else None
    return {"tuned": kept.pop("tuned"), "percent": percent, **kept, "found": found}


def steps(given: str) -> tuple[int, ...]:
    """``1,2,5``; for argparse."""
    parts = [part.strip() for part in given.split(",")]
    if not all(part.isascii() and part.isdigit() for part in parts):
        raise argparse.ArgumentTypeError(f"{given!r} is no list of whole numbers such as 1,2,5,10")
    return tuple(sorted({int(part) for part in parts}))


def plan(arguments: argparse.Namespace, given: dict[str, Any]) -> Plan:
    """What the flags ask for, checked as far as that goes without a model."""
    from siftlm.errors import Conflict
    from siftlm.recipes import find

    own = local.chosen(arguments, given)
    shared = {name: value for name, value in given.items() if name not in own}
    main = own.get("method", "sift")
    find(main)
    if arguments.watch and arguments.mode == "transductive":
        raise Conflict("--watch with --mode transductive would watch the very text that is scored")
    if arguments.context and given.get("use", "weights") == "context":
        raise Conflict("--context puts the texts in the prompt for comparison; with --use context they are there")
    compare = _compared(arguments.compare, main)
    return Plan(arguments.mode, arguments.at, arguments.watch, arguments.context, compare, shared, own)


def _compared(asked: str | None, main: str) -> tuple[str, ...]:
    from siftlm.errors import Conflict
    from siftlm.recipes import find

    if asked is None:
        return () if main == "nearest" else ("nearest",)
    names = tuple(dict.fromkeys(part.strip() for part in asked.split(","))) if asked != "none" else ()
    for name in names:
        find(name)
        if name == main:
            raise Conflict(f"--compare {name}: that is the method itself")
    return names


def check(text: str, mode: str) -> None:
    """Is there something to score?"""
    from siftlm.call import split_in_half
    from siftlm.errors import InvalidInput

    if not text.strip():
        raise InvalidInput("the text is empty")
    if mode == "split":
        split_in_half(text)


def score(model: LocalModel, text: str, plan: Plan, *, quiet: bool, name: str = "") -> Scored:
    """In every way of the plan: others first in the result, the method that was asked for last."""
    # None takes back what calibration may have chosen for another method.
    others = {"adaptive": None, "until": None, "min_gain": None, "decide": None, "features": None}
    method = model.settings(**plan.own)["method"]
    main = _one(model, text, plan, plan.own, name + _called(method, plan, model), quiet=quiet)
    scores: dict[str, Score] = {}
    if plan.context:
        scores["in context"] = _one(
            model, text, plan, {**plan.own, "use": "context", "decide": None}, name + "in context", quiet=True
        )
    for other in plan.compare:
        if other != method:
            asked = {**others, "n": max(1, len(main.found)), "method": other}
            scores[other] = _one(model, text, plan, asked, name + other, quiet=quiet)
    return Scored(model.controller.name, plan.mode, {**scores, _called(method, plan, model): main})


def _called(method: Any, plan: Plan, model: LocalModel) -> str:
    use = model.settings(**plan.own)["use"]
    return str(method) + {"weights": "", "context": " in context", "both": ", both"}[use]


def _one(model: LocalModel, text: str, plan: Plan, asked: dict[str, Any], name: str, *, quiet: bool) -> Score:
    live = learning.live(name, model, quiet=quiet, n=asked.get("n"))
    found = None
    try:
        with local.explained():
            found = model.score(text, mode=plan.mode, at=plan.at, watch=plan.watch, after=live, **asked)  # type: ignore[arg-type]
    finally:
        if live is not None:
            live.end(None if found is None else found.trace)
    return found


def remark(score: Score) -> str:
    """Why learning ended, where that is worth saying."""
    return learning.remark(score.trace)
