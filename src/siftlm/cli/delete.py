"""``siftlm delete``: what was said about a document is taken back."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from typing import Any

from siftlm.cli.drawing import printable

EPILOG = """\
examples:
  siftlm delete memory --where 'source = "mail" and year < 2020'
  siftlm delete memory --where '@id = "doc-7"'
  siftlm delete memory --where 'source = "mail"' --dry-run        how much that would be

No search finds it from that moment on. A text that other documents share stays until the last of them is deleted.
siftlm compact then takes it off the disk.
"""


def add(commands: Any) -> None:
    """Declare the command."""
    parser = commands.add_parser(
        "delete",
        help="delete documents from a memory",
        description="Delete the documents whose metadata meet a condition.",
        epilog=EPILOG,
    )
    parser.add_argument("folder", metavar="FOLDER", help="the memory")
    parser.add_argument("--where", required=True, metavar="EXPR", help="which documents, as in siftlm search")
    parser.add_argument("--dry-run", action="store_true", help="only say how many passages stand in such documents")
    parser.add_argument("--wait", type=float, default=0.0, metavar="SECONDS", help="for another writer (default: 0)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Delete; print how much."""
    from siftlm.memory import Memory

    with Memory.open(arguments.folder) as memory:
        if arguments.dry_run:
            found = {"passages": len(memory.rows(arguments.where))}
            words = f"{found['passages']:,} passages stand in such documents; nothing was deleted"
        else:
            done = memory.delete(arguments.where, wait=arguments.wait)
            found = asdict(done)
            words = f"{done.documents:,} documents deleted, and {done.passages:,} passages that only they held"
            if done.documents:
                words += f"; siftlm compact {arguments.folder} takes them off the disk"
    print(json.dumps(found) if arguments.json else printable(f"{arguments.folder}: {words}", sys.stdout))
    return 0
