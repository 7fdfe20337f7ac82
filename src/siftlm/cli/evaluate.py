"""``siftlm eval`` and ``report``: bits per byte of many texts by several methods, and the report of the results."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.text import Text

from siftlm.cli import arguments as flags
from siftlm.cli.arguments import Flag, choice, repeated
from siftlm.cli.terminal import Terminal, print_json, progress_line, resumable
from siftlm.cli.tuning import device_errors, open_model
from siftlm.errors import InvalidInput, counted

if TYPE_CHECKING:
    from siftlm.evaluation import Evaluation
    from siftlm.evaluation.report import Report as EvaluationReport

EVAL_EPILOG = """\
examples:
  siftlm eval --memory memory --test test.jsonl.gz --out runs/a             base, nearest neighbour, auto
  siftlm eval --memory memory --test test.jsonl.gz --methods base,context,nn,nn-f,random,mmr,dpp,hull,sift \\
              -n 50 --per-domain 12 --longest 3000 --out runs/a
  siftlm eval … --methods sift,sift+noise=0.1,sift+noise=1+kernel=power:4+k=1000     one method, several settings
  siftlm eval … --methods nn+rate=1e-4,nn+rate=3e-4                                   the same with several rates
  siftlm eval … --methods base,sift,./mine.py                                         a custom method
  siftlm eval --memory sample-memory --test sample --methods base,nn,sift --out runs/sample
  siftlm report runs/a                                                                tables and figures of the results

Every result is appended to OUT/records.jsonl at once. Repeat the command to resume after Ctrl-C, kill -9 or a power
cut, which lose at most one result (with --engine lora: one method's results of 16 texts). Several processes with the
same --out share the work. Methods and texts can be added to a run later; its model, memory, corpus and protocol are
fixed.

protocols (every table names its own; results of different protocols are not comparable):
  split         the first half of a text is the prompt, the second half is scored (default)
  prefix        the first --prefix characters are the prompt, the rest is scored
  transductive  the scored text is its own prompt, as in the published tables
Weights, optimiser and random state are reset before every text.
"""
REPORT_EPILOG = """\
examples:
  siftlm report runs/a                                   tables and figures of a run, in runs/a/report
  siftlm report runs/a --against base                    compare with the base model instead of nearest neighbours
  siftlm report runs/a --methods nn,sift                 these two, on the texts that both have
  siftlm report runs/small runs/large --out report       the same texts with memories of several sizes
  siftlm report runs/pile --weights pile                 a mean over domains with the weights of the Pile
  siftlm report runs/a --texts memory --show worst       the selections for the text where SIFT lost most

Writes report.html (a single file), report.md, each table as CSV and LaTeX (for booktabs and graphicx), and each
figure's points as CSV. The output does not depend on the order of the records.

  % of base   bits of a domain's texts after fine-tuning, in % of the base model's; lower is better
  all         mean over domains with equal weights
  better      the 95 % interval of the difference is below zero (paired bootstrap over the texts of each domain)

No difference is called better with fewer than five texts in a domain. Methods are compared on the texts for which all
have a result; an unfinished run can be reported with --methods.
Records and reports hold no texts: --texts MEMORY --show reads the passages from the memory.
"""


def add(commands: Any) -> None:
    """Declare the commands."""
    _add_eval(commands)
    report = flags.command(
        commands, "report", run_report, "tables, figures and significance of the results of siftlm eval", REPORT_EPILOG
    )
    page = (
        "also write a page of every method's selection for this text, or for the one where --of loses or gains most "
        "against --against; repeatable"
    )
    json = flags.JSON.described("print one JSON object on one line instead of the table")
    flags.declare(
        report,
        Flag(
            "runs",
            "RUN",
            str,
            "folder of siftlm eval --out; several must share a protocol",
            more={"nargs": "+"},
        ),
        Flag("--out", "FOLDER", str, "folder of the report (default: RUN/report of the first run)", setting="into"),
        Flag("--against", "M", str, "compare with this method (default: nn if the run has it, else base)"),
        Flag("--methods", "M,…", str, "only these (default: all)"),
        Flag("--weights", "FILE", str, "weights of the domains: a JSON file {domain: weight}, or pile"),
        "single texts",
        Flag("--texts", "MEMORY", str, "memory of the run, to read the selected passages from"),
        repeated("--show", "ID|worst|best", str, page),
        Flag("--test", "FILE", str, "texts of the run, to also show the text itself"),
        Flag("--of", "M", str, "method of --show worst and best (default: sift)"),
        "output",
        json,
        flags.QUIET.described("print nothing"),
    )


def _add_eval(commands: Any) -> None:
    parser = flags.command(
        commands,
        "eval",
        run,
        "compare methods on many texts; runs can resume",
        EVAL_EPILOG,
        usage="siftlm eval --memory MEMORY --test FILE --out FOLDER [options]",
    )
    test = "texts: JSON lines, Parquet, CSV, a folder …; sample: the held-out texts of the sample memory"
    methods = "methods to compare, including any of siftlm methods (default: base,nn,auto)"
    copies = "passages that overlap with the scored text: report them (default), or exclude them from the selection"
    skip = "skip the first N texts of each domain, such as those used for tuning hyperparameters"
    flags.declare(
        parser,
        Flag(
            "--memory",
            "MEMORY",
            str,
            "the folder of a memory, built by siftlm index",
            more={"required": True, "dest": "folder"},
        ),
        Flag("--test", "FILE", str, test, more={"required": True}),
        Flag("--out", "FOLDER", str, "folder of the run, new or to resume", more={"required": True}, setting="into"),
        Flag("--methods", "M,…", str, methods, "base,nn,auto"),
        "protocol",
        choice(
            "--protocol",
            ("split", "prefix", "transductive"),
            "how texts are split and scored (see below)",
            default="split",
        ),
        Flag("-n", "N", int, "number of texts to select (default: 50)", 50),
        Flag("--at", "N,…", flags.step_counts, "steps after which to score (default: 1,2,5,10,20,50 up to N)", ()),
        Flag("--prefix", "N", int, "characters of the prompt with --protocol prefix (default: 500)", 500),
        choice("--copies", ("report", "exclude"), copies, default="report"),
        "texts",
        Flag("--per-domain", "N", int, "number of texts of each domain (default: all)"),
        Flag("--skip", "N", int, skip, 0),
        Flag("--longest", "N", int, "truncate texts to N characters"),
        Flag("--domain", "FIELD", str, "field that names the domain (default: pile_set_name, domain or subset)"),
        Flag("--domains", "NAME,…", str, "only these domains"),
        Flag("--text", "FIELD", str, "field that holds the text (default: text)"),
        flags.SEED.described("random seed of the sample of texts (default: 0)", default=0),
        "model",
        *flags.MODEL,
        flags.SETTING.described("a setting of tuning for all methods, such as clip=1; repeatable"),
        "output",
        flags.JSON,
        flags.QUIET.described("print no progress"),
    )


# --- eval


def run(arguments: argparse.Namespace) -> int:
    """Evaluate, then print a summary."""
    from siftlm.evaluation import Protocol, evaluate, read
    from siftlm.evaluation.corpus import SkippedRecords
    from siftlm.evaluation.fingerprints import file_fingerprint
    from siftlm.evaluation.methods import parse_methods

    protocol = Protocol(arguments.protocol, arguments.n, arguments.at, arguments.prefix, arguments.copies)
    parse_methods(arguments.methods)  # checked before anything is read
    domains = None if arguments.domains is None else [name.strip() for name in arguments.domains.split(",")]
    fields = {} if arguments.text is None else {"text": arguments.text}
    corpus: dict[str, Any] = {"domain": arguments.domain, "longest": arguments.longest, "seed": arguments.seed}
    skipped = SkippedRecords()
    sample = {"per_domain": arguments.per_domain, "skip": arguments.skip, "domains": domains}
    texts = read(arguments.test, left_out=skipped, **sample, **corpus, **fields)
    # Identifies the corpus for siftlm report --show; the path stays private.
    contents = file_fingerprint(arguments.test)
    name = Path(arguments.test).name or arguments.test
    about = {"corpus": {"name": name, **({"contents": contents} if contents else {}), **corpus, **fields}}
    model = open_model(arguments, dict(arguments.sets))
    remark = "stopped; the results are kept: repeat the command to resume"
    with resumable(remark), progress_line(quiet=arguments.quiet or arguments.json) as report, device_errors():
        evaluation = evaluate(
            model, texts, arguments.methods, into=arguments.out, protocol=protocol, about=about, progress=report
        )
    if arguments.json:
        omitted = {"unreadable": skipped.unreadable, "short": skipped.short}
        print_json({**vars(evaluation), "path": str(evaluation.path), **omitted})
        return 0
    Terminal.of(sys.stdout).show(*_evaluation_lines(evaluation), *filter(None, [skipped.sentence()]))
    return 0


def _evaluation_lines(evaluation: Evaluation) -> list[str]:
    results = f"{counted(evaluation.done, 'new result')}, {evaluation.known} from before"
    lines = [f"{counted(evaluation.texts, 'text')}: {results}; next: siftlm report {evaluation.path}"]
    if evaluation.unusable:
        reason = "too short for the protocol, or without a word that the memory can search for"
        lines.append(f"{counted(evaluation.unusable, 'text')} left out: {reason}")
    if evaluation.missing:
        workers = "another process is" if evaluation.missing == 1 else "other processes are"
        lines.append(f"{workers} still computing {counted(evaluation.missing, 'result')}")
    return lines


# --- report


def run_report(arguments: argparse.Namespace) -> int:
    """Write the report, then print its main table."""
    from siftlm.evaluation.labels import split_labels
    from siftlm.evaluation.report import report, write

    if bool(arguments.show) != (arguments.texts is not None):
        raise InvalidInput("--show and --texts go together: the text to show, and the memory of its passages")
    methods = None if arguments.methods is None else split_labels(arguments.methods)
    if methods == []:
        raise InvalidInput("--methods is empty; leave it out for all methods")
    evaluation_report = report(arguments.runs, against=arguments.against, methods=methods, weights=arguments.weights)
    out = Path(arguments.runs[0]) / "report" if arguments.out is None else Path(arguments.out)
    pages = _text_pages(evaluation_report, arguments)
    files = write(evaluation_report, out, pages)
    if arguments.quiet:
        return 0
    if arguments.json:
        print_json(_report_record(evaluation_report, files))
        return 0
    _show_report(evaluation_report, Terminal.of(sys.stdout))
    written = [str(one) for one in (files[0], *(out / name for name in pages))]
    Terminal.of(sys.stdout).show(f"wrote {', '.join(written)} and {len(files) - len(written)} more files")
    return 0


def _text_pages(evaluation_report: EvaluationReport, arguments: argparse.Namespace) -> dict[str, str]:
    """The pages of single texts, rendered before anything is written."""
    if not arguments.show:
        return {}
    from siftlm.evaluation.passages import passage_pages
    from siftlm.memory import Memory

    with Memory.open(arguments.texts) as memory:
        return passage_pages(
            evaluation_report.results,
            memory,
            arguments.show,
            method=arguments.of,
            against=arguments.against,
            corpus=arguments.test,
        )


def _show_report(evaluation_report: EvaluationReport, terminal: Terminal) -> None:
    from siftlm.evaluation.tables import to_lines

    lines = to_lines(evaluation_report.main, terminal.width if terminal.fixed else None)
    rows = [Text(terminal.spell(line), no_wrap=True, overflow="ignore") for line in lines]
    terminal.show(*rows, "", *evaluation_report.sentences, *evaluation_report.about)


def _report_record(evaluation_report: EvaluationReport, files: list[Path]) -> dict[str, Any]:
    return {
        "texts": len(evaluation_report.results.texts),
        "left_out": evaluation_report.results.left_out,
        "against": [
            {
                "method": one.method,
                "percent": one.percent.to_dict(),
                "against": one.against,
                **one.mean.to_dict(),
                "texts_won": round(one.texts_won, 4),
                "domains_won": one.won,
                "domains": len(one.domains),
                "verdict": one.verdict,
            }
            for one in evaluation_report.differences
        ],
        "files": [str(file) for file in files],
    }
