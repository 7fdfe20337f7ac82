"""``siftlm compact``: take what was deleted off the disk."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from typing import Any

from siftlm.cli import watching
from siftlm.cli.drawing import amount, printable

EPILOG = """\
examples:
  siftlm compact memory
  siftlm compact memory --wait 600          while another process is writing

What was deleted is in no search from that moment on, and in no file after this. Everything that stays is copied, so
it takes as much free space again while it runs. Interrupted, it leaves the memory as it was.
"""


def add(commands: Any) -> None:
    """Declare the command."""
    parser = commands.add_parser(
        "compact",
        help="take deleted texts and vectors off the disk",
        description="Copy what is alive in a memory, and remove the rest from the disk.",
        epilog=EPILOG,
    )
    parser.add_argument("folder", metavar="FOLDER", help="the memory")
    parser.add_argument("--wait", type=float, default=0.0, metavar="SECONDS", help="for another writer (default: 0)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--quiet", action="store_true", help="print nothing but what went wrong")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Compact; print what that freed."""
    from siftlm.memory import Memory

    with Memory.open(arguments.folder) as memory:
        done = memory.compact(progress=watching.reporter(quiet=arguments.quiet), wait=arguments.wait)
    if arguments.json:
        print(json.dumps(asdict(done)))
    elif not arguments.quiet:
        rows = f"{done.dropped_rows:,} deleted rows are gone" if done.dropped_rows else "nothing deleted was there"
        sizes = f"{amount(done.before_bytes)} before, {amount(done.after_bytes)} now"
        print(printable(f"{arguments.folder}: {rows}; {done.passages:,} passages; {sizes}", sys.stdout))
    return 0
