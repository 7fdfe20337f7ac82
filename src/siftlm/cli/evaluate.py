"""``siftlm eval`` and ``report``: bits per byte of many texts by many methods, and the tables and figures of that."""

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
from siftlm.errors import InvalidInput

if TYPE_CHECKING:
    from siftlm.evaluation import Evaluation
    from siftlm.evaluation.report import Report as EvaluationReport

EVAL_EPILOG = """\
examples:
  siftlm eval --memory memory --test test.jsonl.gz --methods base,nn,sift --out runs/a
  siftlm eval --memory memory --test test.jsonl.gz --methods base,context,nn,nn-f,random,mmr,dpp,hull,sift \\
              -n 50 --per-domain 12 --longest 3000 --out runs/a
  siftlm eval … --methods sift,sift+noise=0.1,sift+noise=1+kernel=power:4+k=1000     settings of one method
  siftlm eval … --methods nn+rate=1e-4,nn+rate=3e-4                                   each at its own best rate
  siftlm eval … --methods base,sift,./mine.py                                         a method of your own
  siftlm eval --memory sample-memory --test sample --methods base,nn,sift --out runs/sample
  siftlm report runs/a                                                                tables and figures of it

Every result is a line in OUT/records.jsonl the moment it is known. Ctrl-C, kill -9 or a power cut loses at most what
was being computed (one result; with --engine lora one method's results of 16 texts): the same command goes on. Several
processes with the same --out share the work; methods and texts may be added to a run later. Its question (model,
memory, corpus, protocol) must stay the same.

Protocols, written on every table, and not to be compared with one another:
  split         the first half of a text is the prompt, the second half is scored (default)
  prefix        the first --prefix characters are the prompt, the rest is scored
  transductive  the scored text is the prompt as well, as in the published tables
Before every text weights, optimiser and random state are those of the beginning.
"""
REPORT_EPILOG = """\
examples:
  siftlm report runs/a                                   tables and figures of a run, into runs/a/report
  siftlm report runs/a --against base                    compare with the base model instead of nearest neighbours
  siftlm report runs/a --methods nn,sift                 these two, on all texts that both have
  siftlm report runs/small runs/large --out report       the same texts with memories of several sizes
  siftlm report runs/pile --weights pile                 a mean over domains as the Pile weighs them
  siftlm report runs/a --texts memory --show worst       what each method chose for the text where it went worst

Written are report.html (one file that needs nothing else), report.md, and each table as CSV and LaTeX (for booktabs and
graphicx), each figure's points as CSV. The same records give the same bytes, whatever their order.

  % of base   all bits of a domain's texts after learning, in % of what the base model needs for them; less is better
  all         the mean over domains, each of which counts the same
  better      the whole 95 % interval of the difference is below zero: a bootstrap over texts, in pairs, within domains;
              with fewer than five texts in a domain nothing is called better

Only texts for which all methods have a result are compared. A run that is not finished can be reported: name methods
that are far enough. Records hold no texts, and neither does a report: --texts --show reads passages from a memory.
"""


def add(commands: Any) -> None:
    """Declare the commands."""
    _add_eval(commands)
    report = flags.command(
        commands, "report", run_report, "tables, figures and verdicts from the results of siftlm eval", REPORT_EPILOG
    )
    page = (
        "a page of what each method chose for this text, or for the one where --of lost or gained most against "
        "--against; repeatable"
    )
    json = flags.JSON.but("one JSON object on one line instead of the table")
    flags.declare(
        report,
        Flag("runs", "RUN", str, "as siftlm eval --out made it; several of one protocol", more={"nargs": "+"}),
        Flag("--out", "FOLDER", str, "to write into (default: RUN/report, of the first run)", setting="into"),
        Flag("--against", "M", str, "compare with this method (default: nn if there, else base)"),
        Flag("--methods", "M,…", str, "only these (default: all)"),
        Flag("--weights", "FILE", str, "of domains, as JSON {domain: weight}; or pile"),
        "single texts",
        Flag("--texts", "MEMORY", str, "of the run, to read the chosen passages from"),
        repeated("--show", "ID|worst|best", str, page),
        Flag("--test", "FILE", str, "of the run, to show the text itself as well"),
        Flag("--of", "M", str, "see --show (default: sift)"),
        "output",
        json,
        flags.QUIET.but("write the files and print nothing"),
    )


def _add_eval(commands: Any) -> None:
    parser = flags.command(commands, "eval", run, "compare methods on many texts, resumably", EVAL_EPILOG)
    test = "the texts: JSON lines, Parquet, CSV, a folder …; sample: what the sample memory holds out"
    methods = "default: base,nn,sift; siftlm methods lists those of selection"
    copies = "passages that give the scored text away: count those that were learned from (default), or keep them out"
    skip = "leave out the first N of each domain: those that settings were chosen on"
    flags.declare(
        parser,
        Flag("--memory", "MEMORY", str, "as siftlm index made it", more={"required": True, "dest": "folder"}),
        Flag("--test", "FILE", str, test, more={"required": True}),
        Flag("--out", "FOLDER", str, "of the run; begun there, or resumed", more={"required": True}, setting="into"),
        Flag("--methods", "M,…", str, methods, "base,nn,sift"),
        "protocol",
        choice("--protocol", ("split", "prefix", "transductive"), "see below", default="split"),
        Flag("-n", "N", int, "number of texts to learn from (default: 50)", 50),
        Flag("--at", "N,…", flags.step_counts, "numbers of steps to score after (default: 1,2,5,10,20,50 up to N)", ()),
        Flag("--prefix", "N", int, "characters (default: 500)", 500),
        choice("--copies", ("report", "exclude"), copies, default="report"),
        "which texts",
        Flag("--per-domain", "N", int, "texts of each domain (default: all)"),
        Flag("--skip", "N", int, skip, 0),
        Flag("--longest", "N", int, "cut texts to N characters"),
        Flag("--domain", "FIELD", str, "that names the domain (default: pile_set_name, domain or subset)"),
        Flag("--domains", "NAME,…", str, "only these"),
        Flag("--text", "FIELD", str, "that holds the text (default: text)"),
        flags.SEED.but("of the sample (default: 0)", default=0),
        "the model",
        *flags.MODEL,
        flags.SETTING.but("a setting of tuning for all methods, such as clip=1; repeatable"),
        "output",
        flags.JSON,
        flags.QUIET.but("draw no progress"),
    )


# --- eval


def run(arguments: argparse.Namespace) -> int:
    """Evaluate, then print how far it is."""
    from siftlm.evaluation import Protocol, evaluate, read
    from siftlm.evaluation.corpus import SkippedRecords
    from siftlm.evaluation.fingerprints import file_fingerprint
    from siftlm.evaluation.methods import parse_methods

    protocol = Protocol(arguments.protocol, arguments.n, arguments.at, arguments.prefix, arguments.copies)
    parse_methods(arguments.methods)  # errors come before anything is read
    domains = None if arguments.domains is None else [name.strip() for name in arguments.domains.split(",")]
    fields = {} if arguments.text is None else {"text": arguments.text}
    cut: dict[str, Any] = {"domain": arguments.domain, "longest": arguments.longest, "seed": arguments.seed}
    left_out = SkippedRecords()
    how = {"per_domain": arguments.per_domain, "skip": arguments.skip, "domains": domains}
    texts = read(arguments.test, left_out=left_out, **how, **cut, **fields)
    # What finds the texts again, for siftlm report --show. The name goes without the folders of this machine.
    file = file_fingerprint(arguments.test)
    name = Path(arguments.test).name or arguments.test
    about = {"corpus": {"name": name, **({"contents": file} if file else {}), **cut, **fields}}
    model = open_model(arguments, dict(arguments.sets))
    remark = "stopped; what was measured is kept, and the same command goes on from there"
    with resumable(remark), progress_line(quiet=arguments.quiet or arguments.json) as report, device_errors():
        done = evaluate(
            model, texts, arguments.methods, into=arguments.out, protocol=protocol, about=about, progress=report
        )
    if arguments.json:
        missed = {"unreadable": left_out.unreadable, "short": left_out.short}
        print_json({**vars(done), "path": str(done.path), **missed})
        return 0
    Terminal.of(sys.stdout).show(*_evaluation_lines(done), *filter(None, [left_out.sentence()]))
    return 0


def _evaluation_lines(done: Evaluation) -> list[str]:
    made = f"{_count(done.done, 'result')} made, {done.known} there before"
    lines = [f"{_count(done.texts, 'text')}: {made}; siftlm report {done.path}"]
    if done.unusable:
        why = "too short for the protocol, or without a word that the memory can search for"
        lines.append(f"{_count(done.unusable, 'text')} left out: {why}")
    if done.missing:
        who = "another process is" if done.missing == 1 else "other processes are"
        lines.append(f"{who} still at work on {_count(done.missing, 'result')}")
    return lines


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


# --- report


def run_report(arguments: argparse.Namespace) -> int:
    """Write the report, then print its main table."""
    from siftlm.evaluation.labels import split_labels
    from siftlm.evaluation.report import report, write

    if bool(arguments.show) != (arguments.texts is not None):
        raise InvalidInput("--show names a text and --texts the memory to read from; they go together")
    methods = None if arguments.methods is None else split_labels(arguments.methods)
    if methods == []:
        raise InvalidInput("--methods names none; leave it out for all")
    found = report(arguments.runs, against=arguments.against, methods=methods, weights=arguments.weights)
    out = Path(arguments.runs[0]) / "report" if arguments.out is None else Path(arguments.out)
    pages = _text_pages(found, arguments)
    files = write(found, out, pages)
    if arguments.quiet:
        return 0
    if arguments.json:
        print_json(_report_record(found, files))
        return 0
    _show_report(found, Terminal.of(sys.stdout))
    written = [str(one) for one in (files[0], *(out / name for name in pages))]
    Terminal.of(sys.stdout).show(f"written: {', '.join(written)} and {len(files) - len(written)} more files")
    return 0


def _text_pages(found: EvaluationReport, arguments: argparse.Namespace) -> dict[str, str]:
    """The pages of single texts, made first: errors come before anything is written."""
    if not arguments.show:
        return {}
    from siftlm.evaluation.passages import passage_pages
    from siftlm.memory import Memory

    with Memory.open(arguments.texts) as memory:
        return passage_pages(
            found.results, memory, arguments.show, method=arguments.of, against=arguments.against, corpus=arguments.test
        )


def _show_report(found: EvaluationReport, terminal: Terminal) -> None:
    from siftlm.evaluation.tables import to_lines

    lines = to_lines(found.main, terminal.width if terminal.fixed else None)
    rows = [Text(terminal.spell(line), no_wrap=True, overflow="ignore") for line in lines]
    terminal.show(*rows, "", *found.sentences, *found.about)


def _report_record(found: EvaluationReport, files: list[Path]) -> dict[str, Any]:
    return {
        "texts": len(found.results.texts),
        "left_out": found.results.left_out,
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
            for one in found.differences
        ],
        "files": [str(file) for file in files],
    }
