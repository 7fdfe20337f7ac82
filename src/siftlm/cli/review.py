"""``siftlm review``: which records of a pool to keep, to drop and to refine."""

from __future__ import annotations

import argparse
import importlib
import os
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import RenderableType

from siftlm.cli import arguments as flags
from siftlm.cli.arguments import DEFAULT_MODEL, Flag, choice, switch
from siftlm.cli.pick import corpus_of
from siftlm.cli.terminal import Terminal, indented, print_json, progress_line, resumable
from siftlm.errors import InvalidInput

if TYPE_CHECKING:
    from siftlm.picking import Review

EPILOG = """\
examples:
  siftlm review --pool pool.jsonl --model gpt2 --out reviewed.jsonl --report review
  siftlm review --pool pool.jsonl --signals diversity --out reviewed.jsonl          no model is needed
  siftlm review --pool chats/ --model Qwen/Qwen2.5-0.5B-Instruct --confidence 0.2 --out reviewed.jsonl
  siftlm review --pool pool.jsonl --model gpt2 --tuned my-adapter/ --signals complexity --out reviewed.jsonl
  siftlm review --pool pool.jsonl --judge my_judges:score --refine my_judges:rewrite --out reviewed.jsonl
  siftlm review --pool faq.csv --text question,reply --answer reply --out reviewed.jsonl --dropped dropped.jsonl

Four signals decide:

  confidence    drop an answer that the model's own answers contradict and the judge thinks little of (CLEAR)
  complexity    refine what is hard for the model before and after training (Middo)
  diversity     refine what has few records like it: write more like it (Middo)
  quality       refine what the judge thinks little of; only with --judge, unless you name it in --signals (Middo)

Confidence is compared with the median, which drops half of the answers (--confidence 0.2 names a number); of the others
what lies one standard deviation beyond the mean is refined (--deviations). Plain texts have no answer to doubt, and a
question without an answer is dropped.

The model is the one that you mean to train: what is hard or doubtful for another one is something else. Without --tuned
it learns from the pool, one step on each record, and is put back.

A judge is a Python function of (question, answer) that returns a number from 0 to 1, or several by name.
MODULE:FUNCTION names it; the module is looked for here and among what is installed. With a judge, an answer is replaced
by a sampled one that it prefers. Without one, an answer's score is its likelihood. --refine names a function of
(record, finding) that returns a record in its place, a list of several, or None.

The records that are kept and refined are written in their order. A field siftlm, {"verdict": "refine", "reasons":
[...], "source": "pool.jsonl:17", "signals": {...}}, is added (--field none leaves it out).

An interrupted command resumes when it is repeated: what was measured stays in the folder OUT.work. Other thresholds
measure nothing again, other --signals only what is new. Delete the folder when you are done.
"""
# Arguments whose Python names are theirs.
REVIEW_NAMES = (
    *("signals", "model", "tuned", "out", "text", "answer", "embedder", "vectors", "neighbours", "samples"),
    *("temperature", "max_new_tokens", "confidence", "deviations", "better", "bad", "seed", "format", "split", "glob"),
)
# The signals of `siftlm.picking.signals`; repeated here, so that --help imports nothing.
SIGNALS = ("confidence", "complexity", "diversity", "quality")


def _confidence(word: str) -> float | str:
    """A number from 0 to 1, or ``median``."""
    try:
        return word if word == "median" else float(word)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected a number from 0 to 1, or median, got {word!r:.40}") from None


def add(commands: Any) -> None:
    """Declare the command."""
    parser = flags.command(
        commands,
        "review",
        run,
        "say which records of a pool to keep, to drop and to refine, and why",
        EPILOG,
        usage="siftlm review --pool FILE… --out FILE [options]",
    )
    flags.declare(
        parser,
        Flag(
            "--pool",
            "FILE",
            str,
            "files or folders of .jsonl .parquet .csv (.gz .zst), hf:NAME[:CONFIG], or the folder of a memory",
            more={"nargs": "+", "required": True},
        ),
        Flag(
            "--out",
            "FILE",
            str,
            "file for what is kept and refined: .jsonl, .jsonl.gz or .parquet",
            more={"required": True},
        ),
        Flag("--dropped", "FILE", str, "file for the records that are dropped"),
        "records",
        Flag("--text", "FIELD,…", flags.comma_list(str, "fields"), "fields of the text (default: see siftlm pick)"),
        Flag("--answer", "FIELD", str, "the one of --text that is the answer, where the record has no known form"),
        choice(
            "--bad",
            ("fail", "skip"),
            "records that cannot be used: fail at the first (default), or skip and count them",
        ),
        Flag("--format", "F", str, "format of files without a known suffix: csv, jsonl, parquet, text, tsv"),
        Flag("--glob", "PATTERN", str, "in folders, read only files that match"),
        Flag("--split", "NAME", str, "split of a Hugging Face dataset (default: train)"),
        "signals",
        Flag("--signals", "NAME,…", flags.comma_list(str, "signals"), f"{', '.join(SIGNALS)} (default: see below)"),
        Flag("--confidence", "C|median", _confidence, "drop answers below it (default: median, which drops half)"),
        Flag("--deviations", "M", float, "refine what lies M standard deviations beyond the mean (default: 1)"),
        Flag("--neighbours", "K", int, "compare a record with its K nearest (default: 2)"),
        flags.EMBEDDER.described("static (default), hashing, or a model: see siftlm index; of a memory its own"),
        Flag("--vectors", "FILE.npy", str, "vectors of the pool's records, which are then not embedded"),
        "model and judge",
        Flag("--model", "M", str, f"the model that you mean to train (default: {DEFAULT_MODEL})"),
        Flag("--tuned", "M", str, "the same model after training, or the folder of a PEFT adapter"),
        Flag("--samples", "N", int, "answers drawn for each question (default: 5)"),
        Flag("--temperature", "T", float, "temperature of these (default: 1)"),
        Flag("--max-new-tokens", "N", int, "tokens of each at most (default: 64)"),
        Flag("--seed", "S", int, "random seed of the answers and of the order of training (default: 0)"),
        Flag("--judge", "MODULE:FUNCTION", str, "scores an answer from 0 to 1"),
        Flag(
            "--agreement", "MODULE:FUNCTION", str, "says from 0 to 1 whether two answers agree (default: by embedding)"
        ),
        Flag("--refine", "MODULE:FUNCTION", str, "writes another record in the place of one to refine"),
        Flag(
            "--better",
            "P",
            float,
            "replace an answer if the judge prefers another with this probability (default: 0.8)",
        ),
        "output",
        Flag("--report", "NAME", str, "write NAME.html and NAME.md: verdicts, signals, records to look at, a picture"),
        Flag("--field", "NAME|none", str, "field for the verdict and the source of a record (default: siftlm)"),
        switch("--restart", "begin anew, whatever an earlier command left in OUT.work"),
        flags.JSON,
        flags.QUIET,
    )


def run(arguments: argparse.Namespace) -> int:
    """Review, then print a summary."""
    from siftlm.picking import output, review

    pool, dropped = corpus_of(arguments.pool), None if arguments.dropped is None else Path(arguments.dropped)
    if dropped is not None:  # before hours of work
        output.check_output(dropped, "dropped")
        output.check_no_input("dropped", dropped, [*output.input_files(pool), Path(arguments.out)])
        if dropped.resolve() == Path(arguments.out).resolve():
            raise InvalidInput(f"--dropped {arguments.dropped} is the file of the other records: name another")
    if arguments.report is not None:
        output.report_stem(arguments.report)
    settings = flags.values_of(arguments, REVIEW_NAMES)
    for name in ("judge", "agreement", "refine"):
        if (word := getattr(arguments, name)) is not None:
            settings[name] = _function(name, word)
    field = output.DEFAULT_FIELD if arguments.field is None else None if arguments.field == "none" else arguments.field
    quiet = arguments.quiet or arguments.json
    with resumable("stopped; repeat the command to resume"), progress_line(quiet=quiet) as report:
        found = review(pool, field=field, restart=arguments.restart, progress=report, **settings)
    files: list[Path] = []
    if dropped is not None:
        found.write_file(dropped, ("drop",), field)
        files.append(dropped)
    if arguments.report is not None:
        files += found.report().write(arguments.report)
    if arguments.json:
        print_json(_record(found, arguments.out, files))
    elif not arguments.quiet:
        terminal = Terminal.of(sys.stdout)
        terminal.show(*_parts(found, arguments.out, files, terminal))
    return 0


def _function(name: str, word: str) -> Callable[..., Any]:
    """The function that ``module:function`` names."""
    module, colon, function = word.partition(":")
    if not colon or not module or not function:
        raise InvalidInput(f"--{name} {word}: expected MODULE:FUNCTION, such as my_judges:score")
    here = os.getcwd()
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        found: Any = importlib.import_module(module)
        for part in function.split("."):
            found = getattr(found, part)
    except ModuleNotFoundError as error:
        raise InvalidInput(
            f"--{name} {word}: {error}; modules are looked for in {here} and among what is installed"
        ) from error
    except (ImportError, SyntaxError, AttributeError) as error:
        raise InvalidInput(f"--{name} {word}: {error}") from error
    made: Callable[..., Any] = found
    return made


def _record(found: Review, out: str, files: list[Path]) -> dict[str, Any]:
    return {
        "out": out,
        "pool": found.pool,
        "records": found.pool_records,
        "reviewed": len(found),
        "unusable": found.unusable,
        "verdicts": found.counts,
        "reasons": found.causes,
        "thresholds": dict(found.thresholds),
        "signals": list(found.signals),
        "model": found.model,
        "files": [str(file) for file in files],
    }


def _parts(found: Review, out: str, files: list[Path], terminal: Terminal) -> list[RenderableType]:
    first, *rest = str(found).splitlines()
    parts: list[RenderableType] = [terminal.prose(first), *(indented(terminal.prose(line)) for line in rest)]
    parts += [indented(terminal.prose(complaint)) for complaint in found.complaints]
    written = [Path(out), *(file for file in files if file.suffix != ".svg")]
    return [*parts, *(terminal.prose(f"{shlex.quote(str(file))}: written") for file in written)]
