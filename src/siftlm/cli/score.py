"""``siftlm score``: bits per byte of one text or many, before and after fine-tuning for each."""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import math
import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import IO, TYPE_CHECKING, Any

from rich.console import RenderableType

from siftlm.cli import arguments as flags
from siftlm.cli.arguments import STOPPING_NAMES, Flag, choice, switch
from siftlm.cli.charts import bar
from siftlm.cli.terminal import Terminal, finite, note, print_json, resumable, table, watched
from siftlm.cli.tuning import completion_remark, device_errors, model_settings, open_model, remark, step_line
from siftlm.errors import Conflict, InvalidInput

if TYPE_CHECKING:
    from siftlm.local import LocalModel
    from siftlm.results import Score

EPILOG = f"""\
examples:
  siftlm score memory --file fractions.py --model gpt2     the first half is the prompt, the second is scored
  siftlm score memory "Some text whose second half is scored." -n 20
  siftlm score memory - --at 1,2,5,10,20 < text.txt        also after 1, 2, 5, 10 and 20 steps
  siftlm score memory --file a.txt --context               also with the same texts in context instead
  siftlm score memory --file a.txt --compare nearest,mmr,random
  siftlm score memory --file a.txt --mode transductive     the text is its own prompt, as in the published tables
  siftlm score memory --file a.txt --engine lora --rank 64 --rate 2e-4 --set clip=1
  siftlm score memory --texts held-out.jsonl --out scores.jsonl     many texts; repeat the command to resume
  siftlm score memory --file a.txt --json | jq .scores.sift.tuned

Bits per byte is the negative log-likelihood of the scored text in bits, divided by its bytes; lower is better. The
base model is 100 %. After each text the model is restored bit for bit.
{flags.TUNING_HELP}"""
BAR_COLUMNS = 20
# Settings of the main method, not shared with the methods that it is compared with.
MAIN_METHOD_NAMES = frozenset({"n", "method", "decide", "features", "replacement", *flags.STOPPING_NAMES})


def add(commands: Any) -> None:
    """Declare the command."""
    parser = flags.command(
        commands,
        "score",
        run,
        "bits per byte of a text, before and after the model is fine-tuned for it",
        EPILOG,
        usage="siftlm score MEMORY [TEXT | - | --file FILE | --texts FILE] [options]",
    )
    many = 'score many texts: a JSON string or {"text": …} per line; writes a JSON object for each'
    modes = (
        "split (default): the first half is the prompt, the second is scored; transductive: the scored text is its own "
        "prompt"
    )
    flags.declare(
        parser,
        flags.MEMORY,
        replace(flags.PROMPT, name="text", metavar="[TEXT]"),
        Flag("--file", "FILE", str, "read the text from a file"),
        Flag("--texts", "FILE", str, many),
        choice("--mode", ("split", "transductive"), modes, default="split"),
        "comparisons",
        Flag(
            "--compare",
            "M,…",
            str,
            "also score with these methods, on the same number of texts (default: nearest; none: no other)",
        ),
        switch("--context", "also score with the same texts in context, without tuning"),
        Flag("--at", "N,…", flags.step_counts, "also score after these numbers of steps", ()),
        "output",
        flags.JSON,
        switch("--why", "with --json or --texts: list the texts it was tuned on"),
        flags.OUT.described("with --texts: append to a file, and skip the texts that it has already"),
        flags.QUIET.described("print no progress"),
        *flags.LOCAL_MODEL,
    )


def run(arguments: argparse.Namespace) -> int:
    """Score one text or many."""
    from siftlm.cli import files

    settings = model_settings(arguments)
    files.one_text(arguments, "text", "text", "file", "texts")
    if arguments.out is not None and arguments.texts is None:
        raise Conflict("--out needs --texts; redirect the output for a single text")
    if arguments.why and not (arguments.json or arguments.texts):
        raise Conflict("--why needs --json; siftlm search MEMORY TEXT prints the texts")
    plan = _plan(arguments, settings)
    return _run_one(arguments, plan) if arguments.texts is None else _run_many(arguments, plan)


# --- one text


@dataclass(frozen=True)
class ScoringPlan:
    """How to score each text."""

    mode: str
    at: tuple[int, ...]
    context: bool
    compare: tuple[str, ...]
    shared: dict[str, Any]
    """Settings shared by all methods."""
    own: dict[str, Any]
    """Settings of the main method only."""


@dataclass(frozen=True)
class TextScores:
    """The scores of one text by every method of the plan."""

    model: str
    mode: str
    scores: Mapping[str, Score]
    """Name -> score; the main method is the last."""

    @property
    def main(self) -> Score:
        """The score of the main method."""
        return list(self.scores.values())[-1]

    def to_dict(self, *, why: bool) -> dict[str, Any]:
        """A JSON record; ``why`` adds the texts that the model was tuned on."""
        size = self.main.base_likelihood
        return {
            "model": self.model,
            "mode": self.mode,
            "bytes": size.bytes,
            "tokens": size.tokens,
            "base": self.main.to_dict()["base"],
            "scores": {name: _score_record(one, why=why) for name, one in self.scores.items()},
        }


def _score_record(score: Score, *, why: bool) -> dict[str, Any]:
    record = score.to_dict()
    if not why:
        del record["found"]["hits"]
    record["percent"] = finite(score.percent)
    return {name: record[name] for name in ("tuned", "percent", "curve", "seconds", "trace", "found")}


def _plan(arguments: argparse.Namespace, settings: dict[str, Any]) -> ScoringPlan:
    """The plan of the command line, checked as far as possible without a model."""
    from siftlm.recipes import default_method, find

    names = MAIN_METHOD_NAMES | {name for name, _ in arguments.option}
    own = {name: value for name, value in settings.items() if name in names}
    shared = {name: value for name, value in settings.items() if name not in own}
    main = own.get("method", default_method(settings))
    find(main)
    if arguments.context and settings.get("use", "weights") == "context":
        raise Conflict("--context and --use context are the same; use one of them")
    compare = _compared_methods(arguments.compare, main)
    return ScoringPlan(arguments.mode, arguments.at, arguments.context, compare, shared, own)


def _compared_methods(names: str | None, main: str) -> tuple[str, ...]:
    from siftlm.recipes import find

    if names is None:
        return () if main == "nearest" else ("nearest",)
    methods = tuple(dict.fromkeys(part.strip() for part in names.split(","))) if names != "none" else ()
    for name in methods:
        find(name)
        if name == main:
            raise Conflict(f"--compare {name}: already the main method (--method)")
    return methods


def _check_text(text: str, mode: str) -> None:
    """Check that the text can be scored."""
    from siftlm.call import split_in_half

    if not text.strip():
        raise InvalidInput("the text is empty")
    if mode == "split":
        split_in_half(text)


def _score(model: LocalModel, text: str, plan: ScoringPlan, *, quiet: bool, prefix: str = "") -> TextScores:
    """Score the text by every method of the plan; the main one is the last in the result."""
    # None resets what calibration chose for the main method.
    others = {**dict.fromkeys(STOPPING_NAMES), "decide": None, "features": None}
    settings = model.settings(**plan.own)
    method = settings["method"]
    name = (
        str(method) + {"weights": "", "context": " in context", "both": ", both", "auto": ", guarded"}[settings["use"]]
    )
    main = _score_once(model, text, plan, plan.own, prefix + name, quiet=quiet)
    scores: dict[str, Score] = {}
    if plan.context:
        in_context = {**plan.own, "method": method, "use": "context", "decide": None}
        scores["in context"] = _score_once(model, text, plan, in_context, prefix + "in context", quiet=True)
    for other in plan.compare:
        if other != method:
            other_settings = {**others, "n": max(1, len(main.found)), "method": other}
            scores[other] = _score_of_same_texts(model, text, plan, other_settings, main) or _score_once(
                model, text, plan, other_settings, prefix + other, quiet=quiet
            )
    return TextScores(model.controller.name, plan.mode, {**scores, name: main})


def _score_of_same_texts(
    model: LocalModel, text: str, plan: ScoringPlan, settings: dict[str, Any], main: Score
) -> Score | None:
    """The score of a method that selects the main one's texts in the same order."""
    from siftlm.call import same_texts, split_text

    own, other = (model.call_settings(**one) for one in (plan.own, settings))
    prompt, _, _ = split_text("the text", text, plan.mode)
    other = other.for_itself() if plan.mode == "transductive" else other
    found = same_texts(model.memory, own, other, prompt, [hit.row for hit in main.found])
    return None if found is None else replace(main, found=found)


def _score_once(
    model: LocalModel, text: str, plan: ScoringPlan, settings: dict[str, Any], name: str, *, quiet: bool
) -> Score:
    line = step_line(name, model, quiet=quiet, n=settings.get("n"))
    score = None
    try:
        with device_errors():
            score = model.score(text, mode=plan.mode, at=plan.at, after=line, **settings)  # type: ignore[arg-type]
    finally:
        if line is not None:
            line.end(None if score is None else score.trace)
    return score


def _run_one(arguments: argparse.Namespace, plan: ScoringPlan) -> int:
    from siftlm.cli import files

    text = files.argument_text(arguments.text, arguments.file)
    _check_text(text, plan.mode)
    model = open_model(arguments, plan.shared)
    scores = _score(model, text, plan, quiet=arguments.quiet or (arguments.json and not watched()))
    if arguments.json:
        print_json(scores.to_dict(why=arguments.why))
        return 0
    for name, one in scores.scores.items():
        if remark(one.trace):
            note(f"{name}: {remark(one.trace)}")
    if strange := completion_remark(plan.shared, [one.found for one in scores.scores.values()]):
        note(strange)
    terminal = Terminal.of(sys.stdout)
    terminal.show(*_score_parts(scores, terminal))
    return 0


def _score_parts(scores: TextScores, terminal: Terminal) -> list[RenderableType]:
    """A table of the base model and each method, then the curves, and what was scored."""
    base = scores.main.base
    rows = table()
    rows.add_column("")
    for title in ("bits/byte", "% of base", "steps", "seconds"):
        rows.add_column(title, justify="right", no_wrap=True)
    room = terminal.limit - max(len(name) for name in ("base", *scores.scores)) - 46
    length = max(0, min(BAR_COLUMNS, room)) if room >= 8 else 0
    rows.add_row("base", f"{base:.3f}", "100.0", "", "", bar(1.0, length, terminal))
    best = min(one.tuned for one in scores.scores.values())
    for name, one in scores.scores.items():
        seconds = f"{sum(one.seconds.values()):.1f}"
        cells = (name, f"{one.tuned:.3f}", f"{one.percent:.1f}", str(one.trace.kept), seconds)
        style = "bold" if one.tuned == best < base else ""
        rows.add_row(*cells, bar(one.percent / 100, length, terminal), style=style)
    parts: list[RenderableType] = [rows, ""]
    curves = {name: dict(one.curve) for name, one in scores.scores.items() if one.curve}
    if curves:
        points = table()
        for title in ("steps", *curves):
            points.add_column(title, justify="right")
        for step in sorted({step for curve in curves.values() for step in curve}):
            points.add_row(str(step), *(f"{curve[step]:.3f}" if step in curve else "" for curve in curves.values()))
        parts += [points, ""]
    size = f"{scores.main.base_likelihood.bytes:,} bytes, {scores.main.base_likelihood.tokens:,} tokens"
    about = f"split: the first half is the prompt, the second ({size}) is scored."
    if scores.mode != "split":
        about = f"transductive: the scored text ({size}) is its own prompt."
    return [*parts, f"{about} Model: {scores.model}."]


# --- many texts: a line of JSON each, written immediately, so that a run can resume


@dataclass(frozen=True)
class ScoringTask:
    """One text of the --texts file."""

    line: int
    sha256: str
    """Of the text, so that an edited text is scored again."""
    text: str
    meta: dict[str, Any]
    """The other fields of its line."""


def _run_many(arguments: argparse.Namespace, plan: ScoringPlan) -> int:
    """Score the texts that are not in ``--out`` yet."""
    tasks = list(_tasks(arguments.texts, plan.mode))
    configuration = _configuration(arguments, plan)
    stored = {} if arguments.out is None else _read_records(arguments.out, configuration)
    records = {task.line: stored[task.sha256] for task in tasks if task.sha256 in stored}
    remaining = [task for task in tasks if task.line not in records]
    if records and not arguments.quiet:
        note(f"{arguments.out} has {len(records)} of {len(tasks)} texts already")
    if remaining:
        model = open_model(arguments, plan.shared)
        with _appending(arguments.out) as stream:
            for task in remaining:
                prefix = f"text {task.line} of {len(tasks)}, "
                scores = _score(model, task.text, plan, quiet=arguments.quiet or not watched(), prefix=prefix)
                about = {**task.meta, "line": task.line, "sha256": task.sha256}
                record = {**about, **scores.to_dict(why=arguments.why), "asked": configuration}
                stream.write(json.dumps(record) + "\n")
                stream.flush()
                records[task.line] = record
    if not arguments.quiet:
        note(_means(list(records.values())))
    return 0


def _tasks(path: str, mode: str) -> Iterator[ScoringTask]:
    """The texts of a file; each is checked."""
    from siftlm.cli import files

    count = 0
    for where, record in files.records(path, "text"):
        try:
            _check_text(record["text"], mode)
        except InvalidInput as error:
            raise InvalidInput(f"{where}: {error.marked}") from error
        count += 1
        sha = hashlib.sha256(record["text"].encode("utf-8", "surrogatepass")).hexdigest()[:16]
        yield ScoringTask(count, sha, record["text"], {name: v for name, v in record.items() if name != "text"})
    if not count:
        raise InvalidInput(f"{path}: holds no texts")


def _configuration(arguments: argparse.Namespace, plan: ScoringPlan) -> dict[str, Any]:
    """Everything that the scores depend on; one file holds scores of one configuration."""
    model = flags.values_of(arguments, ("model", "engine", "rank", "alpha", "targets", "dtype", "context_tokens"))
    settings = {
        name: value if isinstance(value, (bool, int, float, str, list, type(None))) else repr(value)
        for name, value in sorted({**plan.shared, **plan.own}.items())
    }
    return {
        "memory": os.path.basename(os.path.abspath(arguments.folder)),
        **model,
        "mode": plan.mode,
        "at": list(plan.at),
        "context": plan.context,
        "compare": list(plan.compare),
        "settings": settings,
    }


def _read_records(path: str, configuration: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """sha256 -> record, for the records in the file; a last line without its end is removed from it."""
    from siftlm.cli import files

    if not os.path.isfile(path):
        return {}
    with open(path, "rb+") as file:
        content = file.read()
        file.truncate(content.rfind(b"\n") + 1)
    records = {}
    for where, record in files.json_lines(path):
        if not isinstance(record, dict) or "sha256" not in record or not isinstance(record.get("asked"), dict):
            raise InvalidInput(f"{where}: not a record of siftlm score; choose another --out")
        stored = record["asked"]
        names = {*configuration, *stored}
        changed = sorted(name for name in names if stored.get(name) != configuration.get(name))
        if changed:
            before, now = (json.dumps(one.get(changed[0])) for one in (stored, configuration))
            change = f"{changed[0]}: {before}, now {now}"
            raise Conflict(f"{where}: scored with other settings ({change}); choose another --out")
        records[record["sha256"]] = record
    return records


@contextlib.contextmanager
def _appending(path: str | None) -> Iterator[IO[str]]:
    """Standard output, or a file to append to, which keeps its content after Ctrl-C."""
    if path is None:
        yield sys.stdout
        return
    with (
        resumable("stopped; repeat the command to resume"),
        open(path, "a", encoding="utf-8", newline="\n") as file,
    ):
        yield file


def _means(records: list[dict[str, Any]]) -> str:
    """``12 texts, means: base 2.105 bits per byte; nearest 91.3 %, sift 90.2 % of the base model``."""
    base = _mean([record["base"] for record in records])
    shares = (
        f"{name} {_mean([record['scores'][name]['percent'] for record in records]):.1f} %"
        for name in records[0]["scores"]
    )
    texts = "1 text" if len(records) == 1 else f"{len(records)} texts"
    return f"{texts}, means: base {base:.3f} bits per byte; {', '.join(shares)} of the base model"


def _mean(values: list[float | None]) -> float:
    """The mean of the values that are not None (NaN in the score)."""
    finite_values = [value for value in values if value is not None]
    return sum(finite_values) / len(finite_values) if finite_values else math.nan
