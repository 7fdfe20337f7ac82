"""``siftlm select``: vectors in files in, a table or JSON out."""

from __future__ import annotations

import argparse
import json
import sys
from typing import TYPE_CHECKING, Any

from siftlm.cli import settings
from siftlm.cli.drawing import Terminal, printable

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from siftlm.types import Selection

EPILOG = """\
examples:
  siftlm select --candidates vectors.npy --query q.npy -n 10
  siftlm select --candidates vectors.npy --query q.npy -n 10 --texts texts.txt --explain
  siftlm select --candidates store.npz:texts --query store.npz:prompt --noise 0.1 --json --out picks.json
  siftlm select --candidates docs.jsonl --texts docs.jsonl --query q.npy --until 0.05
  siftlm select --candidates vectors.npy --query prompts.npy --queries-are prompts --json > picks.jsonl
  siftlm select --candidates vectors.npy --query q.npy --costs tokens.npy --budget 4096
  siftlm select --candidates vectors.npy --query q.npy -n 20 --figure trade-off.png

vectors: (rows, d) in file.npy, file.npz:key, or file.jsonl with a field "embedding" or "vector" on each line.
Large .npy files are mapped, not read. Which λ (--noise) is sensible: siftlm spread. Methods: siftlm methods.
"""
# Arguments that go to siftlm.select under their own names, when they are given.
PASSED_ON = (
    "method",
    "noise",
    "replacement",
    "source_cap",
    "budget",
    "adaptive",
    "until",
    "min_gain",
    "at_least",
    "seed",
)


def add(commands: Any) -> None:
    """Declare the command."""
    parser = commands.add_parser(
        "select",
        help="select the most informative candidates for a prompt",
        description="Select the candidates that together tell most about the query.",
        epilog=EPILOG,
    )
    data = parser.add_argument_group("data")
    data.add_argument("--candidates", required=True, metavar="FILE", help="(K, d) vectors to choose from")
    data.add_argument("--query", metavar="FILE", help="(d,) or (m, d) vectors of the prompt; some methods need none")
    data.add_argument(
        "--queries-are",
        choices=("targets", "prompts"),
        default="targets",
        help="what several rows of --query are: embeddings of one prompt (default), or prompts "
        "of their own, with one selection each, in their order",
    )
    data.add_argument("--texts", metavar="FILE", help="one text per candidate: lines, or 'text' in .jsonl")
    data.add_argument("--known", metavar="FILE", help="(j, d) vectors of texts that are known already")

    how = parser.add_argument_group("how to select")
    how.add_argument("-n", type=int, metavar="N", help="how many to pick (default: 50, or all if there are fewer)")
    how.add_argument("--method", metavar="NAME", help="see siftlm methods (default: sift)")
    how.add_argument("--noise", type=float, metavar="λ", help="see siftlm spread (default: 0.01)")
    how.add_argument("--kernel", metavar="K", help=f"what similar means: {', '.join(settings.KERNELS)}")
    how.add_argument("--no-normalize", action="store_true", help="leave the vectors' lengths as they are")
    how.add_argument(
        "--option",
        action="append",
        default=[],
        type=settings.option,
        metavar="NAME=VALUE",
        help="a setting of the method's own, such as balance=0.3; may be repeated",
    )
    how.add_argument("--seed", type=int, metavar="S", help="of methods that involve chance (default: 0)")

    limits = parser.add_argument_group("limits and weights")
    limits.add_argument(
        "--replacement",
        type=settings.replacement,
        metavar="N|yes|no",
        help="may a candidate be picked again: always, never, or N times in all",
    )
    limits.add_argument("--exclude", metavar="FILE", help="indices that must not be picked, one a line, or .npy")
    limits.add_argument("--sources", metavar="FILE", help="one label per candidate, one a line")
    limits.add_argument("--source-cap", type=int, metavar="N", help="at most so many picks share a label")
    limits.add_argument("--costs", metavar="FILE", help="one number per candidate; gains count per cost")
    limits.add_argument("--budget", type=float, metavar="B", help="the picks' costs add up to no more")
    weight = limits.add_mutually_exclusive_group()
    weight.add_argument("--prior", metavar="FILE", help="one number per candidate that multiplies its gains")
    weight.add_argument(
        "--relevance-prior",
        type=float,
        metavar="POWER",
        help="multiply gains by similarity to the prompt, to this power",
    )

    stop = parser.add_argument_group("when to stop before N")
    stop.add_argument("--adaptive", type=float, metavar="A", help="keep pick n only while σₙ ≤ 1 / (A n)")
    stop.add_argument("--until", type=float, metavar="F", help="at this fraction of the first uncertainty")
    stop.add_argument("--min-gain", type=float, metavar="F", help="when a pick takes less than this fraction away")
    stop.add_argument("--at-least", type=int, metavar="N", help="keep so many whatever the rules say (default: 1)")

    output = parser.add_argument_group("output")
    output.add_argument("--json", action="store_true", help="one JSON object per selection, on one line")
    output.add_argument("--explain", action="store_true", help="say of each pick how relevant and how redundant it is")
    output.add_argument("--out", metavar="FILE", help="write there instead of printing, whole or not at all")
    output.add_argument(
        "--figure", metavar="FILE", help="also draw relevance against redundancy over λ (.png, .svg, .pdf)"
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Read, select, print."""
    import siftlm
    from siftlm.cli import files

    candidates = files.vectors(arguments.candidates)
    query = None if arguments.query is None else files.vectors(arguments.query)
    texts = None if arguments.texts is None else files.texts(arguments.texts, len(candidates))
    given = _settings(arguments, len(candidates))
    several = arguments.queries_are == "prompts"
    _check(arguments, query, several=several)
    if several and query is not None:
        found = siftlm.select_many(query[None] if query.ndim == 1 else query, candidates, arguments.n, **given)
    else:
        found = [siftlm.select(query, candidates, arguments.n, **given)]
    if arguments.figure is not None:
        _figure(arguments, query, candidates, given, len(found[0]))
    _print(arguments, found, texts, len(candidates))
    return 0


def _settings(arguments: argparse.Namespace, size: int) -> dict[str, Any]:
    """The keyword arguments of ``siftlm.select``: only what was asked for."""
    from siftlm import kernels
    from siftlm.cli import files
    from siftlm.errors import InvalidInput

    given = {name: value for name in PASSED_ON if (value := getattr(arguments, name)) is not None}
    if arguments.kernel is not None:
        given["kernel"] = settings.kernel(arguments.kernel)
    if arguments.no_normalize:
        given["normalize"] = False
    if arguments.known is not None:
        given["known"] = files.vectors(arguments.known)
    if arguments.exclude is not None:
        given["exclude"] = files.ids(arguments.exclude)
    if arguments.sources is not None:
        given["sources"] = files.labels(arguments.sources, size)
    if arguments.costs is not None:
        given["costs"] = files.numbers(arguments.costs)
    if arguments.prior is not None:
        given["prior"] = files.numbers(arguments.prior)
    if arguments.relevance_prior is not None:
        given["prior"] = kernels.relevance(arguments.relevance_prior)
    for name, value in arguments.option:
        if name in RESERVED:
            raise InvalidInput(f"--option {name}: that is no setting of a method; see siftlm select --help")
        given[name] = value
    return given


RESERVED = {
    *PASSED_ON,
    "query",
    "candidates",
    "n",
    "kernel",
    "normalize",
    "known",
    "exclude",
    "sources",
    "costs",
    "prior",
}


def _check(arguments: argparse.Namespace, query: npt.NDArray[Any] | None, *, several: bool) -> None:
    from siftlm.errors import Conflict

    if several and query is None:
        raise Conflict("--queries-are prompts needs --query")
    if arguments.figure is not None and (several or query is None):
        raise Conflict("--figure needs --query, and draws one prompt at a time")


def _figure(
    arguments: argparse.Namespace,
    query: npt.NDArray[Any] | None,
    candidates: npt.NDArray[Any],
    given: dict[str, Any],
    picks: int,
) -> None:
    """Save the figure; its format is that of the file's name."""
    from pathlib import Path

    from siftlm.cli import files
    from siftlm.errors import InvalidInput
    from siftlm.selection.figures import relevance_redundancy

    kind = Path(arguments.figure).suffix[1:].lower()
    if kind not in ("png", "svg", "pdf"):
        raise InvalidInput(f"{arguments.figure}: a figure is a .png, .svg or .pdf")
    about = {name: given[name] for name in ("kernel", "normalize", "seed") if name in given}
    figure = relevance_redundancy(query, candidates, n=max(1, picks), **about)
    with files.replacing(arguments.figure) as new:
        figure.savefig(new, format=kind, dpi=200)


def _print(arguments: argparse.Namespace, found: Sequence[Selection], texts: list[str] | None, size: int) -> None:
    from siftlm.cli import files, table

    terminal = Terminal(width=120) if arguments.out is not None else Terminal.of(sys.stdout)
    if arguments.json:
        text = "\n".join(json.dumps(table.record(s, texts, explain=arguments.explain)) for s in found)
    else:
        blocks = []
        for at, selection in enumerate(found):
            head = [terminal.paint(f"prompt {at}", "bold")] if arguments.queries_are == "prompts" else []
            rows = table.rows(selection, texts, size, terminal, explain=arguments.explain)
            blocks.append("\n".join(head + rows))
        text = "\n\n".join(blocks)
    if arguments.out is not None:
        files.write(arguments.out, text + "\n")
    else:
        print(printable(text, sys.stdout))
