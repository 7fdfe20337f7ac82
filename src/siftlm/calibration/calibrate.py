"""`calibrate`: does tuning on a memory help a model, at which rate, by which method, and what says so for a prompt?"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from siftlm.calibration.evidence import GUARDED, MIN_GUARDED_TEXTS, Calibration, evidence_record
from siftlm.calibration.held_out import MIN_TEXTS, draw_from_memory, texts_of_caller
from siftlm.calibration.race import Race, Trials, race
from siftlm.controller import Controller
from siftlm.errors import Conflict, InvalidInput, setting
from siftlm.evaluation.corpus import Text
from siftlm.evaluation.methods import parse_method
from siftlm.evaluation.protocol import Protocol
from siftlm.local import LocalModel
from siftlm.memory import Memory
from siftlm.memory.searcher import Searcher
from siftlm.progress import Meter, Report, reporter
from siftlm.validation import choice, number, whole_number

DEFAULT_COUNT = 48
DEFAULT_MINUTES = 2.0
DEFAULT_STEPS = 20
# The selections that are compared where none are named; the default of `LocalModel` is the reference.
DEFAULT_METHODS = ("nearest", "sift", "auto")
# The factor between two learning rates, and how often another is tried while the best is at the end of those tried.
RATE_FACTOR, MORE_RATES = 3.0, 4
# The shares of the time after which the rate and the method are found; the rest is for the guard.
RATE_SHARE, METHOD_SHARE = 0.4, 0.75
# Texts on which the worth of the winner and its guard are measured, if there is time.
ENOUGH_TEXTS = 12
FOLDER = "calibration"
# Seconds to wait for another writer of the memory before the result is lost.
WRITER_WAIT_SECONDS = 600.0


def calibrate(
    model: Any,
    memory: str | os.PathLike[str] | Searcher,
    *,
    texts: Sequence[str] | None = None,
    count: int = DEFAULT_COUNT,
    minutes: float | None = DEFAULT_MINUTES,
    n: int = DEFAULT_STEPS,
    mode: str = "split",
    rates: Sequence[float] | None = None,
    methods: Sequence[str] | None = None,
    seed: int = 0,
    out: str | os.PathLike[str] | None = None,
    again: bool = False,
    note: bool = True,
    progress: bool | Report | None = None,
) -> Calibration:
    """Measure whether tuning on this memory helps this model, and with which settings; store them in its manifest.

    From then on `LocalModel` uses them for this model and memory, except where a call names others. Learning rates, and
    then methods of selection, race on held-out texts: rows that would leak a text (its own document, near-copies) are
    excluded from its search, a setting that is clearly behind drops out, and the default is replaced only by one that
    is better by more than chance explains. Then the guard of ``use="auto"`` is compared with what really came of it.

    Args:
        model: a `Controller`, or its argument: a name, a folder, ``siftlm-tiny``.
        memory: a `Memory` or its folder; an `Outside` database needs ``texts=``, ``out=`` and ``note=False``.
        texts: texts like the future prompts, not in the memory; by default drawn from all parts of the memory.
        count: the most texts to draw.
        minutes: the time limit, which decides how many texts are used; ``None``: all of them.
        n: the most steps.
        mode: ``split`` or ``transductive``, as for `LocalModel.score`.
        rates: learning rates, the first of which the others must beat; by default the model's usual one, three times
            as much and a third, and further ones where the best is at the end.
        methods: labels as for `siftlm.evaluation.evaluate`, such as ``sift+noise=10``, the first of which the others
            must beat; by default that of `LocalModel`, then ``nearest``, ``sift`` and ``auto``.
        seed: the seed of the draw.
        out: the folder of the measurements, which `siftlm report` reads; by default ``calibration`` in the memory's.
            The same call resumes from it, and one with more time, rates or methods goes on from it.
        again: measure everything anew.
        note: store the result in the memory's manifest.
        progress: draw progress (``True``), don't (``False``), pass it to a function, or draw it on a terminal
            (default).
    """
    own = memory if isinstance(memory, Searcher) else Memory.open(memory)
    if texts is None or note or out is None:
        _require_memory(own)
    whole_number("count", count, least=MIN_TEXTS)
    seconds = float("inf") if minutes is None else 60 * number("minutes", minutes, above=0)
    protocol = Protocol(choice("mode", mode, ("split", "transductive")), n=n, copies="exclude")
    whole_number("seed", seed, least=0)
    controller = model if isinstance(model, Controller) else Controller(model)
    local = LocalModel(controller, own, calibrated=False)
    usual = float(controller.tuning_settings().rate or 0.0)
    tried_rates = _rates(rates, usual)
    tried_methods = _methods(methods, local)
    held = (
        texts_of_caller(own, texts, protocol)
        if texts is not None
        else draw_from_memory(_require_memory(own), count, seed, protocol)
    )
    meter = Meter("calibrating", "steps", reporter(progress), total=None)
    trials = Trials(
        local,
        held,
        protocol,
        Path(out) if out is not None else _require_memory(own).path / FOLDER,
        {"texts": _digest(held), "from": "memory" if texts is None else "caller"},
        again=again,
        after=lambda some: _show(meter, some, seconds),
    )
    first = tried_methods[0]
    alone = ENOUGH_TEXTS if len(tried_methods) == 1 else MIN_TEXTS
    races = _race_rates(trials, first, tried_rates, RATE_SHARE * seconds, alone, further=rates is None)
    if len(tried_methods) > 1:
        rate = parse_method(races[-1].winner).settings["rate"]
        labels = [races[-1].winner, *(_at_rate(label, rate) for label in tried_methods[1:])]
        races.append(race(trials, "method", labels, METHOD_SHARE * seconds, alone=ENOUGH_TEXTS))
    guarded = _guarded_texts(trials, races[-1], seconds)
    meter.finish()
    settings, evidence = evidence_record(trials, races, guarded, local)
    result = Calibration(controller.name, settings, evidence, noted=note)
    if note:
        _require_memory(own).note_calibration(controller.name, result.record(), wait=WRITER_WAIT_SECONDS)
    return result


def _race_rates(
    trials: Trials, method: str, rates: Sequence[float], until: float, alone: int, *, further: bool
) -> list[Race]:
    """Find the rate; while the best of those tried is the lowest or the highest, and ``further``, try the next one."""
    races = [race(trials, "learning rate", [_at_rate(method, rate) for rate in rates], until, alone=alone)]
    tried = sorted(rates)
    for _ in range(MORE_RATES if further and len(rates) > 1 else 0):
        winner = parse_method(races[-1].winner).settings["rate"]
        if winner == rates[0] or winner not in (tried[0], tried[-1]):
            break
        beyond = _rounded(winner * RATE_FACTOR if winner == tried[-1] else winner / RATE_FACTOR)
        races.append(race(trials, "learning rate", [races[-1].winner, _at_rate(method, beyond)], until, alone=alone))
        tried = sorted([*tried, beyond])
    return races


def _guarded_texts(trials: Trials, last: Race, until: float) -> list[Text]:
    """Measure the winner with its guard as well, and return the texts on which that was done; none if they are few."""
    done: list[Text] = []
    for text in last.texts[:ENOUGH_TEXTS] if len(last.texts) >= MIN_GUARDED_TEXTS else ():
        if len(done) >= MIN_GUARDED_TEXTS and trials.seconds >= until:
            break
        trials.measure([f"{last.winner}{GUARDED}"], text)
        done.append(text)
    return done


def _rates(given: Sequence[float] | None, usual: float) -> list[float]:
    if given is None:
        return [_rounded(usual), _rounded(usual * RATE_FACTOR), _rounded(usual / RATE_FACTOR)]
    _check_list("rates", given)
    return list(dict.fromkeys(number("each of rates", rate, above=0) for rate in given))


def _methods(given: Sequence[str] | None, local: LocalModel) -> list[str]:
    """The labels of the methods; an error for one that is no selection with one step on each text in turn."""
    if given is None:
        labels = list(dict.fromkeys([str(local.settings()["method"]), *DEFAULT_METHODS]))
    else:
        _check_list("methods", given)
        labels = list(dict.fromkeys(label.strip() for label in given))
    for label in labels:
        method = parse_method(label)
        if method.baseline is not None or method.calibrated:
            raise InvalidInput(f"{label}: calibration compares methods of selection, of which this is none")
        if "use" in method.settings:
            raise InvalidInput(
                f"{label}: calibration tunes on what is selected, and {setting('use')} is something else"
            )
        if "rate" in method.settings:
            raise InvalidInput(f"{label}: all methods race at the same rate; give it in {setting('rates')}")
        tuning = local.tuning_settings(**method.settings)
        for name, plain in (("order", "picked"), ("passes", 1), ("windows", 1), ("repeats", "steps")):
            if getattr(tuning, name) != plain:
                raise Conflict(
                    "calibration takes one step on each text in the order of the picks, and there is "
                    f"{setting(name, getattr(tuning, name))}; leave {setting(name)} at {plain!r}"
                )
    return labels


def _check_list(name: str, given: Any) -> None:
    if isinstance(given, (str, bytes)) or not isinstance(given, Sequence) or not given:
        raise InvalidInput(f"{setting(name)} must be a list of at least one value, got {given!r:.60}")


def _at_rate(label: str, rate: float) -> str:
    return f"{label}+rate={rate:g}"


def _rounded(rate: float) -> float:
    """The rate at two digits, by which it is known in labels."""
    return float(f"{rate:.2g}")


def _require_memory(memory: Searcher) -> Memory:
    if not isinstance(memory, Memory):
        raise Conflict(
            f"only a Memory can be drawn from and written into: give {setting('texts')}, {setting('out')} and "
            f"{setting('note', False)}"
        )
    return memory


def _digest(texts: Sequence[Text]) -> str:
    plain = json.dumps([[one.id, list(one.exclude)] for one in texts])
    return hashlib.blake2b(plain.encode(), digest_size=8).hexdigest()


def _show(meter: Meter, trials: Trials, seconds: float) -> None:
    """Show the steps so far, and those that the time allows."""
    if seconds < float("inf") and trials.seconds > 0:
        meter.total = max(trials.steps, round(trials.steps * seconds / trials.seconds))
    meter.at(trials.steps)
