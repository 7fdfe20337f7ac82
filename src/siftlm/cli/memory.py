"""``siftlm info``, ``delete``, ``compact`` and ``verify``: a memory looked at and looked after."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from siftlm.cli import arguments as flags
from siftlm.cli.arguments import Flag, switch
from siftlm.cli.terminal import Terminal, amount, clip, one_line, print_json, progress_line
from siftlm.errors import Conflict

if TYPE_CHECKING:
    from siftlm.memory.maintenance import Field, Info, Input
    from siftlm.memory.verify import Verification

INFO_EPILOG = """\
examples:
  siftlm info memory                        what is in it, how large it is, where it came from
  siftlm info memory --redundancy           will diversity matter for this corpus?
  siftlm info memory --redundancy --sample 5000 --threshold 0.95
  siftlm info memory --json | jq .fields    which fields --where can ask for

--redundancy counts, in a random sample of passages, how many have others above a cosine (--threshold) in the sample:
where many do, nearest neighbours repeat each other and SIFT has something to gain. Compare corpora only at equal
--sample: a larger one finds more neighbours for each passage.
"""
DELETE_EPILOG = """\
examples:
  siftlm delete memory --where 'source = "mail" and year < 2020'
  siftlm delete memory --where '@id = "doc-7"'
  siftlm delete memory --where 'source = "mail"' --dry-run        how much that would be

No search finds it from that moment on. A text that other documents share stays until the last of them is deleted.
siftlm compact then takes it off the disk.
"""
COMPACT_EPILOG = """\
examples:
  siftlm compact memory
  siftlm compact memory --wait 600          while another process is writing

What was deleted is in no search from that moment on, and in no file after this. Everything that stays is copied, so
it takes as much free space again while it runs. Interrupted, it leaves the memory as it was.
"""
VERIFY_EPILOG = """\
examples:
  siftlm verify memory
  siftlm verify memory && siftlm compact memory
  siftlm verify memory --json | jq -r '.problems[]'

Every text, document and vector is compared with its checksum; nothing is changed, and others may go on searching.
What can be done about a damaged memory: build it again from its corpus (siftlm info names it), or restore a copy.

exit status: 0 all is as it was written; 1 something is not, and each line names the file.
"""


def add(commands: Any) -> None:
    """Declare the commands."""
    info = flags.command(
        commands, "info", run_info, "show what is in a memory: counts, sizes, embedder, inputs, metadata", INFO_EPILOG
    )
    flags.declare(
        info,
        flags.FOLDER,
        switch("--redundancy", "also measure how much its passages repeat each other"),
        Flag("--sample", "N", int, "passages that are looked at for that"),
        Flag("--seed", "S", int, "of the sample (default: 0)"),
        Flag("--threshold", "C", float, "cosine from which two are alike (default: 0.9)"),
        flags.JSON,
    )
    delete = flags.command(
        commands, "delete", run_delete, "delete the documents of a memory that meet a condition", DELETE_EPILOG
    )
    where = Flag("--where", "EXPR", str, "which documents, as in siftlm search", more={"required": True})
    dry = switch("--dry-run", "only count the passages of such documents")
    flags.declare(delete, flags.FOLDER, where, dry, flags.WAIT, flags.JSON)
    compact = flags.command(
        commands, "compact", run_compact, "take deleted texts and vectors off the disk", COMPACT_EPILOG
    )
    flags.declare(compact, flags.FOLDER, flags.WAIT, flags.JSON, flags.QUIET)
    verify = flags.command(
        commands,
        "verify",
        run_verify,
        "check that every text, document and vector of a memory is as it was written",
        VERIFY_EPILOG,
    )
    flags.declare(verify, flags.FOLDER, flags.JSON, flags.QUIET.but("print problems only"))


def run_info(arguments: argparse.Namespace) -> int:
    """Look, then print."""
    from siftlm.memory import Memory

    how = flags.values_of(arguments, ("sample", "seed", "threshold"))
    if how and not arguments.redundancy:
        raise Conflict(f"--{next(iter(how))} is about --redundancy, which was not asked for")
    with Memory.open(arguments.folder) as memory, progress_line(quiet=arguments.json) as report:
        info = memory.info()
        redundancy = memory.redundancy(**how, progress=report) if arguments.redundancy else None
    if arguments.json:
        print_json(info.to_dict() | ({} if redundancy is None else {"redundancy": redundancy.to_dict()}))
        return 0
    terminal = Terminal.of(sys.stdout)
    parts = _info_parts(info, terminal)
    parts += [] if redundancy is None else ["", terminal.verbatim(str(redundancy))]
    terminal.show(*parts)
    return 0


def run_delete(arguments: argparse.Namespace) -> int:
    """Delete; print how much."""
    from siftlm.memory import Memory

    with Memory.open(arguments.folder) as memory:
        if arguments.dry_run:
            record = {"passages": len(memory.rows(arguments.where))}
            summary = f"{record['passages']:,} passages belong to such documents; nothing was deleted"
        else:
            done = memory.delete(arguments.where, wait=arguments.wait)
            record = asdict(done)
            summary = f"{done.documents:,} documents deleted, and {done.passages:,} passages that only they held"
            if done.documents:
                summary += f"; siftlm compact {arguments.folder} takes them off the disk"
    _print(arguments, record, summary)
    return 0


def run_compact(arguments: argparse.Namespace) -> int:
    """Compact; print what that freed."""
    from siftlm.memory import Memory

    with Memory.open(arguments.folder) as memory, progress_line(quiet=arguments.quiet) as report:
        done = memory.compact(progress=report, wait=arguments.wait)
    rows = f"{done.dropped_rows:,} deleted rows are gone" if done.dropped_rows else "nothing deleted was there"
    sizes = f"{amount(done.before_bytes)} before, {amount(done.after_bytes)} now"
    if arguments.json or not arguments.quiet:
        _print(arguments, asdict(done), f"{rows}; {done.passages:,} passages; {sizes}")
    return 0


def _print(arguments: argparse.Namespace, record: dict[str, Any], summary: str) -> None:
    if arguments.json:
        print_json(record)
    else:
        Terminal.of(sys.stdout).show(f"{arguments.folder}: {summary}")


def run_verify(arguments: argparse.Namespace) -> int:
    """Look at everything; print what is wrong."""
    from siftlm.memory.verify import verify

    with progress_line(quiet=arguments.quiet) as report:
        found = verify(Path(arguments.folder), report)
    if arguments.json:
        print_json({**asdict(found), "ok": found.ok})
        return 0 if found.ok else 1
    terminal = Terminal.of(sys.stdout)
    parts = _verification_parts(found, arguments, terminal)
    if parts:
        terminal.show(*parts)
    return 0 if found.ok else 1


def _verification_parts(found: Verification, arguments: argparse.Namespace, terminal: Terminal) -> list[RenderableType]:
    parts: list[RenderableType] = [terminal.prose(problem, "red") for problem in found.problems]
    if arguments.quiet:
        return parts
    parts += [f"note: {note}" for note in found.notes]
    counts = ", ".join(f"{number:,} {name}" for name, number in found.checked.items())
    many = f"{len(found.problems)} problem{'s' * (len(found.problems) != 1)}"
    verdict = "as it was written" if found.ok else f"damaged ({many})"
    return [*parts, f"{arguments.folder}: {verdict}" + (f"; looked at {counts}" if counts else "")]


# --- what is in a memory


def _info_parts(info: Info, terminal: Terminal) -> list[RenderableType]:
    """The folder, then labels with their values, line by line."""
    rows = Table.grid(padding=(0, 2, 0, 0))
    rows.add_column(style="dim", no_wrap=True, min_width=12)
    rows.add_column()
    for label, texts in _info_texts(info, terminal).items():
        for at, text in enumerate(texts):
            rows.add_row(Text(label if at == 0 else ""), terminal.prose(text))
    return [terminal.line(info.path, "bold"), rows]


def _info_texts(info: Info, terminal: Terminal) -> dict[str, list[str]]:
    repeated = f"{info.duplicates:,} duplicates stored once"
    if info.near_duplicates_from is not None:
        repeated += f", {info.near_duplicates:,} near-duplicates (from {info.near_duplicates_from:g})"
    options = ", ".join(f"{name}={value!r}" for name, value in info.embedder_settings.items())
    texts = {
        "passages": [f"{info.passages:,} of {info.documents:,} documents; {repeated}"],
        "deleted": [f"{info.deleted:,} rows, until siftlm compact takes them off the disk"] if info.deleted else [],
        "embedder": [info.embedder + (f" ({options})" if options else ""), f"fingerprint {info.fingerprint}"],
        "vectors": [f"{info.width} wide, {info.storage}, {info.metric}"],
        "texts": [
            f"passages of up to {info.passage_tokens:,} tokens, {info.overlap:,} of them shared with the next; "
            + ("searched by words too" if info.full_text else "not searched by words")
        ],
        "size": [f"{amount(info.bytes)} in all", *(f"{name}: {amount(size)}" for name, size in info.files.items())],
        "FAISS index": _index_texts(info),
        "inputs": [_input_text(one) for one in info.inputs] or ["none"],
        "metadata": _field_texts(info, terminal),
        "calibrated": [_calibrated(name, settings) for name, settings in info.calibration.items()],
        "made": [f"{info.created} by {info.made_by}, format {info.format}, generation {info.generation}"],
    }
    return {label: lines for label, lines in texts.items() if lines}


def _index_texts(info: Info) -> list[str]:
    if info.index is None:
        return ["none: searches scan all vectors"]
    options = ", ".join(f"{name}={value}" for name, value in info.index.settings.items())
    later = info.passages + info.deleted - info.index.rows
    text = f"{info.index.kind or 'unreadable'}" + (f" ({options})" if options else "")
    text += f"; {later:,} newer rows are scanned" if later and info.index.problem is None else ""
    return [text] + ([] if info.index.problem is None else [f"not used: {info.index.problem}"])


def _input_text(one: Input) -> str:
    bad = f", {one.bad:,} bad records" if one.bad else ""
    return f"{one.name}: {one.documents:,} documents{bad}" + ("" if one.finished else "; not read to its end")


def _calibrated(name: str, settings: dict[str, Any]) -> str:
    known = ", ".join(f"{setting}={value}" for setting, value in settings.items() if value is not None)
    return f"for {name}: {known}"


def _field_texts(info: Info, terminal: Terminal) -> list[str]:
    if not info.fields:
        return ["none"]
    return [_field_text(field, info, terminal) for field in info.fields] + [
        f"(in a sample of {info.sampled:,} documents)"
    ]


def _field_text(field: Field, info: Info, terminal: Terminal) -> str:
    dots = terminal.pick("…", "...")
    values = ", ".join(clip(one_line(json.dumps(value, ensure_ascii=False)), 30, dots) for value in field.examples)
    part = "" if field.documents >= info.sampled else f" ({100 * field.documents / info.sampled:.0f} %)"
    return f"{field.name}{part}: {values}"
