"""``siftlm spread``: what λ means for given vectors."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from siftlm.cli.drawing import printable

EPILOG = """\
examples:
  siftlm spread --candidates vectors.npy
  siftlm spread --candidates vectors.npy --query prompts.npy -n 10
  siftlm spread --candidates vectors.npy --kernel centred --json | jq .noise

λ has no meaning of its own: the same λ picks repeats from one kind of embedding and noise from another.
Look here first, then try a few values of the range on held-out prompts.
"""


def add(commands: Any) -> None:
    """Declare the command."""
    parser = commands.add_parser(
        "spread",
        help="report how spread vectors are, and a sensible λ",
        description="Report how spread the candidates are, and which λ (--noise) is sensible for them.",
        epilog=EPILOG,
    )
    parser.add_argument("--candidates", required=True, metavar="FILE", help="(K, d) .npy, .npz:key or .jsonl")
    parser.add_argument("--query", metavar="FILE", help="(B, d) typical prompts; else the candidates themselves")
    parser.add_argument("-n", type=int, default=50, help="how many will be picked (default: 50)")
    parser.add_argument("--kernel", metavar="K", help="as for siftlm select")
    parser.add_argument("--no-normalize", action="store_true", help="leave lengths as they are")
    parser.add_argument("--seed", type=int, default=0, help="of the sample that is looked at")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print the report."""
    import siftlm
    from siftlm import validation
    from siftlm.cli import files, settings

    report = siftlm.spread(
        files.vectors(arguments.candidates),
        None if arguments.query is None else files.vectors(arguments.query),
        n=arguments.n,
        kernel=settings.kernel(arguments.kernel),
        normalize=not arguments.no_normalize,
        seed=validation.whole_number("seed", arguments.seed, least=0),
    )
    print(printable(json.dumps(report.to_dict()) if arguments.json else str(report), sys.stdout))
    return 0
