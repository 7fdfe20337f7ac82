"""What one or several runs have found, put in order: methods by texts, nothing left of the order of the records.

found = gather(["runs/a", "runs/b"])
found.methods, found.measured["sift"][0].percent
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from siftlm.errors import Conflict, InvalidInput, UnknownName
from siftlm.evaluation.fingerprints import model_fingerprint
from siftlm.evaluation.labels import BASE_METHOD, INTERPOLATION_METHOD, method_name, method_sort_key, without_folder
from siftlm.evaluation.measured import Measured
from siftlm.evaluation.methods import BASELINE_FILE_SETTING
from siftlm.evaluation.run_folder import question_of, records_of
from siftlm.evaluation.statistics import Draws, Figure, percent_of_base
from siftlm.types import FloatArray

# Bits per byte of the base model that differ by less are the same; processors add in different orders.
BASE_TOLERANCE = 1e-3


@dataclass(frozen=True, eq=False)
class Results:
    """Several methods on the same texts, with the same model, memory and protocol."""

    question: Mapping[str, Any]
    """Of the run; see `siftlm.evaluation.evaluate.run_question`."""
    methods: tuple[str, ...]
    """In the order of the tables; ``base`` is always there."""
    texts: tuple[str, ...]
    """That every method has; by domain, then by id."""
    domains: tuple[str, ...]
    """Of each text."""
    measured: Mapping[str, tuple[Measured, ...]]
    """Method -> one for each text."""
    settings: Mapping[str, Mapping[str, Any]]
    """Method -> all that decided its results."""
    left_out: int
    """Texts that some method has no result for."""

    @property
    def names(self) -> tuple[str, ...]:
        """Of the domains."""
        return tuple(sorted(set(self.domains)))

    @property
    def others(self) -> tuple[str, ...]:
        """The methods without the base model."""
        return tuple(one for one in self.methods if one != BASE_METHOD)

    @property
    def bytes(self) -> FloatArray:
        """(texts,) of the scored texts."""
        return np.array([one.bytes for one in self.measured[BASE_METHOD]], dtype=np.float64)

    @property
    def base(self) -> FloatArray:
        """(texts,) bits per byte of the base model."""
        return np.array([one.base for one in self.measured[BASE_METHOD]])

    def tuned(self, method: str, steps: int | None = None) -> FloatArray:
        """(texts,) bits per byte after so many steps, or at the end."""
        return np.array([one.tuned if steps is None else one.at(steps) for one in self.measured[method]])

    def points(self, method: str) -> list[int]:
        """After how many steps this method was measured on every text, and the end of the longest."""
        every = [set(one.curve) for one in self.measured[method]]
        return sorted({0, max(max(some) for some in every)}.union(set.intersection(*every)))

    def percent(self, method: str, steps: int | None = None) -> Figure:
        """The figure of the published tables, in % of the base model's bits."""
        return percent_of_base(self.tuned(method, steps), self.base, self.bytes)

    def draws(self) -> Draws:
        """The resampled texts that all comparisons share."""
        return Draws.of(self.domains)

    def mean(self, values: Sequence[float] | FloatArray) -> float:
        """Over domains, each counts the same; over texts within one."""
        known, where = np.asarray(values, dtype=np.float64), np.array(self.domains)
        return float(np.mean([known[where == name].mean() for name in self.names]))

    def only(self, texts: Iterable[str]) -> Results:
        """The same on some of its texts."""
        wanted = set(texts)
        kept = [at for at, text in enumerate(self.texts) if text in wanted]
        return replace(
            self,
            texts=tuple(self.texts[at] for at in kept),
            domains=tuple(self.domains[at] for at in kept),
            measured={name: tuple(some[at] for at in kept) for name, some in self.measured.items()},
            left_out=self.left_out + len(self.texts) - len(kept),
        )

    def check(self, method: str) -> str:
        """The method, if there is one of that name."""
        if method not in self.methods:
            raise UnknownName("method of this run", method, self.methods)
        return method


def gather(paths: Sequence[str | os.PathLike[str]], methods: Sequence[str] | None = None) -> list[Results]:
    """One `Results` for each memory, that of the first run first.

    Args:
        paths: the runs. Of the same model and protocol; runs with the same memory are put together.
        methods: only these; all that there are, if left out.
    """
    if not paths:
        raise InvalidInput("a report needs at least one run")
    groups: dict[str, tuple[Mapping[str, Any], dict[tuple[str, str], dict[str, Any]]]] = {}
    asked = [question_of(path) for path in paths]
    for path, question in zip(paths, asked, strict=True):
        for name in ("protocol", "model", "engine"):
            if model_fingerprint(question.get(name)) != model_fingerprint(asked[0].get(name)):
                raise Conflict(
                    f"{path}: has {name}={_shown_value(question.get(name))}, and {paths[0]} has "
                    f"{_shown_value(asked[0].get(name))}; one report is of one model and protocol"
                )
        _check_same_length(paths[0], asked[0], path, question)
        found = records_of(path)
        if not found:
            raise InvalidInput(f"{path}: holds no results yet; `siftlm eval --out {path}` makes them")
        where = json.dumps(question.get("memory"), sort_keys=True)
        first, known = groups.setdefault(where, (question, {}))
        groups[where] = _with_corpus(first, question), known
        for record in found:
            known.setdefault((record["text"], record["method"]), record)
    return [results_from_records(known.values(), question, methods) for question, known in groups.values()]


def _check_same_length(first: Any, one: Mapping[str, Any], path: Any, other: Mapping[str, Any]) -> None:
    """What was cut elsewhere is another text, and as easy or hard as it is long."""
    known = [asked.get("corpus") or {} for asked in (one, other)]
    if all("longest" in corpus for corpus in known) and known[0]["longest"] != known[1]["longest"]:
        raise Conflict(
            f"{path}: has longest={known[1]['longest']}, and {first} has {known[0]['longest']}; one report is of texts "
            "cut alike"
        )


def _with_corpus(question: Mapping[str, Any], other: Mapping[str, Any]) -> Mapping[str, Any]:
    """Both corpora named, where they differ, with what is the same of both."""
    one, two = (asked.get("corpus") or {} for asked in (question, other))
    names = [str(corpus.get("name", "")) for corpus in (one, two)]
    if not names[1] or names[1] in names[0].split(" and "):
        return question
    same = {key: value for key, value in one.items() if key in two and two[key] == value}
    return {**question, "corpus": {**same, "name": " and ".join(name for name in names if name)}}


def results_from_records(
    records: Iterable[Mapping[str, Any]], question: Mapping[str, Any], methods: Sequence[str] | None = None
) -> Results:
    """Records of one memory, in any order."""
    by_text: dict[str, dict[str, Mapping[str, Any]]] = {}
    settings: dict[str, Mapping[str, Any]] = {}
    for record in records:
        by_text.setdefault(record["text"], {})[record["method"]] = record
        if "settings" in record:
            _check_same_settings(record, settings.setdefault(record["method"], record["settings"]))
    there = {name for some in by_text.values() for name in some} | {BASE_METHOD}
    for name in there:
        if method_name(name) == INTERPOLATION_METHOD:
            _choose_weights(by_text, name)
    # Records have the name of a file alone, and those of earlier versions its folders.
    methods = None if methods is None else [name if name in there else without_folder(name) for name in methods]
    for name in methods or ():
        if name not in there:
            raise UnknownName("method of this run", name, there)
    kept = sorted({*methods, BASE_METHOD} if methods else there, key=method_sort_key)
    wanted = {name for name in kept if name != BASE_METHOD} or {BASE_METHOD}
    domains = {text: str(next(iter(some.values())).get("domain", "all")) for text, some in by_text.items()}
    common = sorted((text for text, some in by_text.items() if wanted <= set(some)), key=lambda t: (domains[t], t))
    if not common:
        raise InvalidInput(
            f"no text has a result of each of {', '.join(sorted(wanted))}; let siftlm eval finish, or name fewer "
            "methods=…"
        )
    measured = {name: tuple(_measured(by_text[text], text, name) for text in common) for name in kept}
    return Results(
        question,
        tuple(kept),
        tuple(common),
        tuple(domains[text] for text in common),
        measured,
        {name: settings[name] for name in kept if name in settings},
        len(by_text) - len(common),
    )


def _choose_weights(by_text: dict[str, dict[str, Mapping[str, Any]]], method: str) -> None:
    """An interpolation's weight is the one that is best on all other texts; see `interpolation.at_chosen_weight`."""
    from siftlm.evaluation.baselines import at_chosen_weight

    texts = sorted(text for text, some in by_text.items() if "nats" in (some.get(method, {}).get("extra") or {}))
    for text, record in zip(texts, at_chosen_weight([by_text[text][method] for text in texts]), strict=True):
        by_text[text][method] = record


def on_common_texts(memories: Sequence[Results]) -> list[Results]:
    """Several memories on the texts that all of them have; nothing if that are none, or there is one memory only."""
    if len(memories) < 2:
        return []
    shared = set(memories[0].texts).intersection(*(one.texts for one in memories))
    return [one.only(shared) for one in memories] if shared else []


def _measured(some: Mapping[str, Mapping[str, Any]], text: str, method: str) -> Measured:
    """One result. That of the base model is known from every other; all must agree on it."""
    first = some[min(some)]
    given = some.get(method, first)
    base, common = given.get("base"), first.get("base")
    for value in (base, common):
        if not isinstance(value, (int, float)) or not (math.isfinite(value) and value > 0):
            raise InvalidInput(
                f"text {text}, method {given['method']}: base={value!r} is no number of bits per byte of the base "
                "model; run siftlm eval on it again"
            )
    if abs(base - common) > BASE_TOLERANCE * common:  # type: ignore[operator]  # both are numbers, see above
        raise Conflict(
            f"text {text}: the base model needs {base:g} bits per byte where {given['method']} was measured, and "
            f"{common:g} where {first['method']} was; these results are of different models"
        )
    one = Measured.of(given)
    if method not in some:
        one = Measured(one.base, {0: one.base}, one.bytes, one.tokens)
    return one if one.curve else replace(one, curve={0: one.base})


def _check_same_settings(record: Mapping[str, Any], known: Mapping[str, Any]) -> None:
    given = record["settings"]
    for name in sorted({*known} & {*given}):  # another version may have more
        if known[name] != given[name]:
            if name == BASELINE_FILE_SETTING:
                raise Conflict(f"method {record['method']!r} is of two files that differ: measure one again")
            raise Conflict(
                f"method {record['method']!r} was measured with {name}={known[name]!r} and with {name}={given[name]!r};"
                f" write the setting into its name, as in {record['method']}+{name}=…"
            )


def _shown_value(value: Any) -> str:
    return f"{value!r:.200}"
