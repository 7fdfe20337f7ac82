"""``siftlm verify``: is a memory what was written?"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from typing import Any

from siftlm.cli import watching
from siftlm.cli.drawing import Terminal, printable

EPILOG = """\
examples:
  siftlm verify memory
  siftlm verify memory && siftlm compact memory
  siftlm verify memory --json | jq -r '.problems[]'

Every text, document and vector is compared with its checksum; nothing is changed, and others may go on searching.
What can be done about a damaged memory: build it again from its corpus (siftlm info names it), or restore a copy.

exit status: 0 all is as it was written; 1 something is not, and each line names the file.
"""


def add(commands: Any) -> None:
    """Declare the command."""
    parser = commands.add_parser(
        "verify",
        help="check that a memory is as it was written",
        description="Check every text, document and vector of a memory.",
        epilog=EPILOG,
    )
    parser.add_argument("folder", metavar="FOLDER", help="the memory")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--quiet", action="store_true", help="print problems only")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Look at everything; print what is wrong."""
    from pathlib import Path

    from siftlm.memory.verify import verify

    report = watching.reporter(quiet=arguments.quiet)
    found = verify(Path(arguments.folder), report)
    if arguments.json:
        text = json.dumps({**asdict(found), "ok": found.ok})
    else:
        text = "\n".join(_lines(found, arguments, Terminal.of(sys.stdout)))
    if text:
        print(printable(text, sys.stdout))
    return 0 if found.ok else 1


def _lines(found: Any, arguments: argparse.Namespace, terminal: Terminal) -> list[str]:
    lines = [terminal.paint(" ".join(problem.split()), "red") for problem in found.problems]
    if arguments.quiet:
        return lines
    lines += [f"note: {' '.join(note.split())}" for note in found.notes]
    counts = ", ".join(f"{number:,} {name}" for name, number in found.checked.items())
    verdict = (
        "as it was written"
        if found.ok
        else f"damaged ({len(found.problems)} problem{'s' * (len(found.problems) != 1)})"
    )
    return [*lines, f"{arguments.folder}: {verdict}" + (f"; looked at {counts}" if counts else "")]
