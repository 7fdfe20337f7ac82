"""``siftlm info``: what is in a memory."""

from __future__ import annotations

import argparse
import json
import sys
from typing import TYPE_CHECKING, Any

from siftlm.cli import watching
from siftlm.cli.drawing import Terminal, amount, clip, one_line, pad, paragraphs, printable, wrap

if TYPE_CHECKING:
    from siftlm.memory.maintenance import Field, Info, Input

EPILOG = """\
examples:
  siftlm info memory                        what is in it, how large it is, where it came from
  siftlm info memory --redundancy           will diversity matter for this corpus?
  siftlm info memory --redundancy --sample 5000 --threshold 0.95
  siftlm info memory --json | jq .fields    which fields --where can ask for

--redundancy counts, in a random sample of passages, how many have others above a cosine (--threshold) in the sample:
where many do, nearest neighbours repeat each other and SIFT has something to gain. Compare corpora only at equal
--sample: a larger one finds more neighbours for each passage.
"""
LABEL = 12


def add(commands: Any) -> None:
    """Declare the command."""
    parser = commands.add_parser(
        "info",
        help="say what is in a memory",
        description="Say what is in a memory: counts, sizes, embedder, inputs, metadata.",
        epilog=EPILOG,
    )
    parser.add_argument("folder", metavar="FOLDER", help="the memory")
    parser.add_argument(
        "--redundancy", action="store_true", help="also measure how much its passages repeat each other"
    )
    parser.add_argument("--sample", type=int, metavar="N", help="passages that are looked at for that")
    parser.add_argument("--seed", type=int, metavar="S", help="of the sample (default: 0)")
    parser.add_argument("--threshold", type=float, metavar="C", help="cosine from which two are alike (default: 0.9)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Look, then print."""
    from siftlm.errors import Conflict
    from siftlm.memory import Memory

    given = {name: getattr(arguments, name) for name in ("sample", "seed", "threshold")}
    given = {name: value for name, value in given.items() if value is not None}
    if given and not arguments.redundancy:
        raise Conflict(f"--{next(iter(given))} is about --redundancy, which was not asked for")
    with Memory.open(arguments.folder) as memory:
        info = memory.info()
        report = watching.reporter(quiet=arguments.json)
        measured = memory.redundancy(**given, progress=report) if arguments.redundancy else None
    if arguments.json:
        text = json.dumps(info.to_dict() | ({} if measured is None else {"redundancy": measured.to_dict()}))
    else:
        terminal = Terminal.of(sys.stdout)
        lines = rows(info, terminal)
        lines += [] if measured is None else ["", *paragraphs(terminal.spell(str(measured)), terminal.limit)]
        text = "\n".join(lines)
    print(printable(text, sys.stdout))
    return 0


def rows(info: Info, terminal: Terminal) -> list[str]:
    """A name and what is to be said of it, line by line."""
    width = terminal.limit
    lines = [terminal.paint(clip(one_line(info.path), width, terminal.pick("…", "...")), "bold")]
    for label, texts in _said(info, terminal).items():
        for at, text in enumerate(texts):
            head = pad(label if at == 0 else "", LABEL)
            first, *rest = wrap(terminal.spell(text), width, first=head + "  ", rest=" " * (LABEL + 2))
            lines += [first.replace(head, terminal.paint(head, "dim"), 1) if label and at == 0 else first, *rest]
    return lines


def _said(info: Info, terminal: Terminal) -> dict[str, list[str]]:
    again = f"{info.duplicates:,} duplicates stored once"
    if info.near_duplicates_from is not None:
        again += f", {info.near_duplicates:,} near-duplicates (from {info.near_duplicates_from:g})"
    options = ", ".join(f"{name}={value!r}" for name, value in info.embedder_settings.items())
    said = {
        "passages": [f"{info.passages:,} of {info.documents:,} documents; {again}"],
        "deleted": [f"{info.deleted:,} rows, until siftlm compact takes them off the disk"] if info.deleted else [],
        "embedder": [info.embedder + (f" ({options})" if options else ""), f"fingerprint {info.fingerprint}"],
        "vectors": [f"{info.width} wide, {info.storage}, {info.metric}"],
        "texts": [
            f"passages of up to {info.passage_tokens:,} tokens, {info.overlap:,} of them shared with the next; "
            + ("searched by words too" if info.full_text else "not searched by words")
        ],
        "size": [f"{amount(info.bytes)} in all", *(f"{name}: {amount(size)}" for name, size in info.files.items())],
        "FAISS index": _index(info),
        "inputs": [_input(one) for one in info.inputs] or ["none"],
        "metadata": _fields(info, terminal),
        "calibrated": [_calibrated(name, settings) for name, settings in info.calibration.items()],
        "made": [f"{info.created} by {info.made_by}, format {info.format}, generation {info.generation}"],
    }
    return {label: texts for label, texts in said.items() if texts}


def _index(info: Info) -> list[str]:
    if info.index is None:
        return ["none: searches scan all vectors"]
    options = ", ".join(f"{name}={value}" for name, value in info.index.settings.items())
    later = info.passages + info.deleted - info.index.rows
    said = f"{info.index.kind or 'unreadable'}" + (f" ({options})" if options else "")
    said += f"; {later:,} newer rows are scanned" if later and info.index.problem is None else ""
    return [said] + ([] if info.index.problem is None else [f"not used: {info.index.problem}"])


def _input(one: Input) -> str:
    bad = f", {one.bad:,} bad records" if one.bad else ""
    return f"{one.name}: {one.documents:,} documents{bad}" + ("" if one.finished else "; not read to its end")


def _calibrated(name: str, settings: dict[str, Any]) -> str:
    known = ", ".join(f"{setting}={value}" for setting, value in settings.items() if value is not None)
    return f"for {one_line(name)}: {known}"


def _fields(info: Info, terminal: Terminal) -> list[str]:
    if not info.fields:
        return ["none"]
    return [_field(field, info, terminal) for field in info.fields] + [f"(in a sample of {info.sampled:,} documents)"]


def _field(field: Field, info: Info, terminal: Terminal) -> str:
    dots = terminal.pick("…", "...")
    values = ", ".join(clip(one_line(json.dumps(value, ensure_ascii=False)), 30, dots) for value in field.examples)
    share = "" if field.documents >= info.sampled else f" ({100 * field.documents / info.sampled:.0f} %)"
    return f"{field.name}{share}: {values}"
