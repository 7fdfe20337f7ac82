"""``siftlm eval``: bits per byte of many texts by many methods, kept as it goes."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from siftlm.cli import local, scoring, settings, watching
from siftlm.cli.drawing import Terminal, one_line, printable

EPILOG = """\
examples:
  siftlm eval --memory memory --test test.jsonl.gz --methods base,nn,sift --out runs/a
  siftlm eval --memory memory --test test.jsonl.gz --methods base,context,nn,nn-f,random,mmr,dpp,hull,sift \\
              -n 50 --per-domain 12 --longest 3000 --out runs/a
  siftlm eval … --methods sift,sift+noise=0.1,sift+noise=1+kernel=power:4+k=1000     settings of one method
  siftlm eval … --methods nn+rate=1e-4,nn+rate=3e-4                                   each at its own best rate
  siftlm eval … --methods base,sift,./mine.py                                         a way of your own
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


def add(commands: Any) -> None:
    """Declare the command."""
    parser = commands.add_parser(
        "eval",
        help="compare methods on many texts, resumably",
        description="Bits per byte of a corpus: of the base model, and tuned for each text by each method.",
        epilog=EPILOG,
    )
    parser.add_argument("--memory", required=True, metavar="MEMORY", dest="folder", help="as siftlm index made it")
    parser.add_argument(
        "--test",
        required=True,
        metavar="FILE",
        help="the texts: JSON lines, Parquet, CSV, a folder …; sample: what the sample memory holds out",
    )
    parser.add_argument("--out", required=True, metavar="FOLDER", help="of the run; begun there, or gone on with")
    parser.add_argument(
        "--methods",
        default="base,nn,sift",
        metavar="M,…",
        help="default: base,nn,sift; siftlm methods lists those of selection",
    )

    how = parser.add_argument_group("protocol")
    how.add_argument("--protocol", choices=("split", "prefix", "transductive"), default="split", help="see below")
    how.add_argument("-n", type=int, default=50, metavar="N", help="texts to learn from (default: 50)")
    how.add_argument(
        "--at",
        type=scoring.steps,
        default=(),
        metavar="N,…",
        help="score after so many steps (default: 1,2,5,10,20,50 up to N)",
    )
    how.add_argument("--prefix", type=int, default=500, metavar="N", help="characters (default: 500)")
    how.add_argument(
        "--copies",
        choices=("report", "exclude"),
        default="report",
        help="passages that give the scored text away: count those that were learned from (default), or keep them out",
    )

    which = parser.add_argument_group("which texts")
    which.add_argument("--per-domain", type=int, metavar="N", help="so many of each domain (default: all)")
    which.add_argument(
        "--skip",
        type=int,
        default=0,
        metavar="N",
        help="leave out the first N of each domain: those that settings were chosen on",
    )
    which.add_argument("--longest", type=int, metavar="N", help="keep so many characters of a text")
    which.add_argument(
        "--domain", metavar="FIELD", help="that names the domain (default: pile_set_name, domain or subset)"
    )
    which.add_argument("--domains", metavar="NAME,…", help="only these")
    which.add_argument("--text", metavar="FIELD", help="that holds the text (default: text)")
    which.add_argument("--seed", type=int, default=0, metavar="S", help="of the sample (default: 0)")

    local.add_model(parser)
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        type=settings.option,
        metavar="NAME=VALUE",
        dest="sets",
        help="a setting of tuning for all methods, such as clip=1; may be repeated",
    )
    output = parser.add_argument_group("output")
    output.add_argument("--json", action="store_true", help="one JSON object on one line")
    output.add_argument("--quiet", action="store_true", help="draw no progress")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Evaluate, then say how far it is."""
    from siftlm.evaluation import Protocol, evaluate, read
    from siftlm.evaluation.corpus import SkippedRecords
    from siftlm.evaluation.fingerprints import file_fingerprint
    from siftlm.evaluation.methods import parse_methods

    protocol = Protocol(arguments.protocol, arguments.n, arguments.at, arguments.prefix, arguments.copies)
    parse_methods(arguments.methods)  # what is wrong with them is said before anything is read
    domains = None if arguments.domains is None else [name.strip() for name in arguments.domains.split(",")]
    fields = {} if arguments.text is None else {"text": arguments.text}
    cut: dict[str, Any] = {"domain": arguments.domain, "longest": arguments.longest, "seed": arguments.seed}
    left_out = SkippedRecords()
    texts = read(
        arguments.test,
        per_domain=arguments.per_domain,
        skip=arguments.skip,
        domains=domains,
        left_out=left_out,
        **cut,
        **fields,
    )
    # What finds the texts again, for siftlm report --show.
    file = file_fingerprint(arguments.test)
    contents = {"contents": file} if file else {}
    about = {"corpus": {"name": corpus_name(arguments.test), **contents, **cut, **fields}}
    model = local.opened(arguments, dict(arguments.sets))
    report = watching.reporter(quiet=arguments.quiet or arguments.json)
    try:
        with local.explained():
            done = evaluate(
                model,
                texts,
                arguments.methods,
                into=arguments.out,
                protocol=protocol,
                about=about,
                progress=report,
            )
    except KeyboardInterrupt:
        if isinstance(report, watching.Line):
            report.end()
        local.note("stopped; what was measured is kept, and the same command goes on from there")
        return 130
    if arguments.json:
        missed = {"unreadable": left_out.unreadable, "short": left_out.short}
        print(json.dumps({**vars(done), "path": str(done.path), **missed}))
        return 0
    for line in (*_said(done), *filter(None, [left_out.sentence()])):
        print(printable(one_line(Terminal.of(sys.stdout).spell(line)), sys.stdout))
    return 0


def corpus_name(given: str) -> str:
    """Without the folders of this machine."""
    from pathlib import Path

    return Path(given).name or given


def _said(done: Any) -> list[str]:
    texts, made = _count(done.texts, "text"), _count(done.done, "result")
    lines = [f"{texts}: {made} made, {done.known} there before; siftlm report {done.path}"]
    if done.unusable:
        left, why = _count(done.unusable, "text"), "or without a word that the memory can search for"
        lines.append(f"{left} left out: too short for the protocol, {why}")
    if done.missing:
        who = "another process is" if done.missing == 1 else "other processes are"
        lines.append(f"{who} still at work on {_count(done.missing, 'result')}")
    return lines


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
