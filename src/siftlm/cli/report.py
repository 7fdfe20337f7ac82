"""``siftlm report``: tables and figures of runs of ``siftlm eval``."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from siftlm.cli.drawing import Terminal, one_line, printable, wrap

EPILOG = """\
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
    """Declare the command."""
    parser = commands.add_parser(
        "report",
        help="tables and figures of siftlm eval's results",
        description="Tables with intervals, figures and verdicts from the results of siftlm eval.",
        epilog=EPILOG,
    )
    parser.add_argument("runs", nargs="+", metavar="RUN", help="as siftlm eval --out made it; several of one protocol")
    parser.add_argument("--out", metavar="FOLDER", help="to write into (default: RUN/report, of the first run)")
    parser.add_argument("--against", metavar="M", help="compare with this method (default: nn if there, else base)")
    parser.add_argument("--methods", metavar="M,…", help="only these (default: all)")
    parser.add_argument("--weights", metavar="FILE", help="of domains, as JSON {domain: weight}; or pile")
    single = parser.add_argument_group("single texts")
    single.add_argument("--texts", metavar="MEMORY", help="of the run, to read the chosen passages from")
    single.add_argument(
        "--show",
        action="append",
        default=[],
        metavar="ID|worst|best",
        help="a page of what each method chose for this text, or for the one where --of lost or gained "
        "most against --against; may be repeated",
    )
    single.add_argument("--test", metavar="FILE", help="of the run, to show the text itself as well")
    single.add_argument("--of", metavar="M", help="see --show (default: sift)")
    output = parser.add_argument_group("output")
    output.add_argument("--json", action="store_true", help="one JSON object on one line instead of the table")
    output.add_argument("--quiet", action="store_true", help="write the files and say nothing")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Write the report, then print its main table."""
    from siftlm.errors import InvalidInput
    from siftlm.evaluation.labels import split_labels
    from siftlm.evaluation.report import report, write

    if bool(arguments.show) != (arguments.texts is not None):
        raise InvalidInput("--show names a text and --texts the memory to read from; they go together")
    methods = None if arguments.methods is None else split_labels(arguments.methods)
    if methods == []:
        raise InvalidInput("--methods names none; leave it out for all")
    found = report(arguments.runs, against=arguments.against, methods=methods, weights=arguments.weights)
    out = Path(arguments.runs[0]) / "report" if arguments.out is None else Path(arguments.out)
    texts = _shown(found, arguments)
    files = write(found, out, texts)
    shown = [out / name for name in texts]
    if arguments.quiet:
        return 0
    if arguments.json:
        print(json.dumps(_record(found, files)))
        return 0
    terminal = Terminal.of(sys.stdout)
    for line in _said(found, terminal):
        print(printable(line, sys.stdout))
    pages = [str(one) for one in [files[0], *shown]]
    more = f" and {len(files) - len(pages)} more files"
    print(printable(one_line(terminal.spell(f"written: {', '.join(pages)}{more}")), sys.stdout))
    return 0


def _shown(found: Any, arguments: argparse.Namespace) -> dict[str, str]:
    """The pages of single texts, made first: what is wrong with them is said before anything is written."""
    if not arguments.show:
        return {}
    from siftlm.evaluation.passages import passage_pages
    from siftlm.memory import Memory

    with Memory.open(arguments.texts) as memory:
        return passage_pages(
            found.results, memory, arguments.show, method=arguments.of, against=arguments.against, corpus=arguments.test
        )


def _said(found: Any, terminal: Terminal) -> list[str]:
    from siftlm.evaluation.tables import to_lines

    lines = to_lines(found.main, terminal.width if terminal.fixed else None)
    lines.append("")
    for sentence in (*found.sentences, *found.about):
        lines += wrap(terminal.spell(sentence), terminal.limit, rest="  ")
    return [terminal.spell(line) for line in lines]


def _record(found: Any, files: list[Path]) -> dict[str, Any]:
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
