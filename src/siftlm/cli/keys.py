"""``siftlm keys``: who may ask a server, and what they may do."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from siftlm.cli.drawing import one_line, pad, printable

EPILOG = """\
examples:
  siftlm keys add keys.json ann                           ann may ask, and learn from every memory
  siftlm keys add keys.json loader --memory docs=write    may add to and delete from docs, and no other memory
  siftlm keys add keys.json ben --memory docs=write --memory '*=read'
  siftlm keys list keys.json
  siftlm keys revoke keys.json ann                        from the next request on, without a restart
  siftlm serve --memory docs=memory --keys keys.json --host 0.0.0.0

A key is shown once, when it is made: the file keeps only its hash. Clients send it as they send OpenAI's, in the header
Authorization: Bearer sift-…, so OPENAI_API_KEY or api_key= is the place for it. To change a key, add one under a new
name, hand it out, and revoke the old one. The file is for its owner alone (chmod 600).
"""


def add(commands: Any) -> None:
    """Declare the command."""
    parser = commands.add_parser(
        "keys",
        help="API keys of a server: add, list, revoke",
        description="Make, list and revoke the keys that siftlm serve --keys FILE asks for.",
        epilog=EPILOG,
    )
    actions = parser.add_subparsers(metavar="action", required=True)

    adding = actions.add_parser(
        "add", help="make a key and print it, once", description="Make a key and print it. It cannot be shown again."
    )
    _file(adding)
    adding.add_argument("name", metavar="NAME", help="whose it is; it stands in the log")
    adding.add_argument(
        "--memory",
        action="append",
        default=[],
        type=_right,
        metavar="NAME=read|write",
        help="what it may do to a memory; '*' speaks for those that are not named; may be repeated (default: '*=read')",
    )
    adding.set_defaults(run=run_add)

    listing = actions.add_parser(
        "list",
        help="whose keys there are, since when, and what they may do",
        description="Whose keys there are, since when, and what they may do.",
    )
    _file(listing)
    listing.add_argument("--json", action="store_true", help="print JSON")
    listing.set_defaults(run=run_list)

    revoking = actions.add_parser(
        "revoke", help="refuse a key from now on", description="Refuse a key from the next request on."
    )
    _file(revoking)
    revoking.add_argument("name", metavar="NAME", help="whose key")
    revoking.set_defaults(run=run_revoke)


def run_add(arguments: argparse.Namespace) -> int:
    """The key goes to stdout, alone, so that it can be piped; the rest to stderr."""
    from siftlm.serving import auth

    key = auth.add_key(arguments.file, arguments.name, dict(arguments.memory) or {auth.ANY_MEMORY: "read"})
    print(key)
    if sys.stderr is not None:
        words = f"siftlm: this is the key of {arguments.name}; it cannot be shown again"
        print(printable(words, sys.stderr), file=sys.stderr)
    return 0


def run_list(arguments: argparse.Namespace) -> int:
    """A line a key."""
    from siftlm.serving import auth

    found = auth.list_keys(arguments.file)
    if arguments.json:
        print(json.dumps([{"name": key.name, "made": key.made, "memories": dict(key.memories)} for key in found]))
        return 0
    width = max([len(one_line(key.name)) for key in found], default=0)
    for key in found:
        rights = ", ".join(f"{memory}={right}" for memory, right in key.memories.items())
        print(printable(f"{pad(one_line(key.name), width)}  {one_line(key.made)}  {one_line(rights)}", sys.stdout))
    return 0


def run_revoke(arguments: argparse.Namespace) -> int:
    """And say so."""
    from siftlm.serving import auth

    auth.revoke_key(arguments.file, arguments.name)
    print(printable(f"{arguments.file}: the key of {arguments.name} is revoked", sys.stdout))
    return 0


def _file(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE", help="the keys")


def _right(text: str) -> tuple[str, str]:
    from siftlm.serving.auth import RIGHTS

    memory, _, right = text.rpartition("=")
    if not memory or right not in RIGHTS:
        raise argparse.ArgumentTypeError(f"expected NAME=read or NAME=write, got {text!r}")
    return memory, right
