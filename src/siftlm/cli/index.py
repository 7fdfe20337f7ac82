"""``siftlm index``: a corpus in, a memory out."""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from siftlm.cli import settings, watching
from siftlm.cli.drawing import Terminal, amount, one_line, printable, wrap

if TYPE_CHECKING:
    from siftlm.embedding.protocol import Embedder
    from siftlm.memory import Memory
    from siftlm.memory.maintenance import Info
    from siftlm.progress import Report

EPILOG = """\
examples:
  siftlm index notes/ --into memory                       a folder of texts: .txt .md .html source code …
  siftlm index corpus.jsonl.zst --into memory             one {"text": …} a line; also .csv .tsv .parquet, .gz
  siftlm index a.jsonl b.jsonl --into memory --text body --id url --meta year,lang
  siftlm index hf:wikitext:wikitext-103-v1 --into memory --embedder sentence-transformers/all-MiniLM-L6-v2
  siftlm index docs/ --glob '*.md' --into memory --passage-tokens 128 --overlap 32
  siftlm index vectors.parquet --into memory --vectors embedding --storage int8
  siftlm index more.jsonl --into memory --append          add to what is there
  siftlm index --into memory --faiss hnsw                 a faster, approximate search over what is there

Interrupted? The same command goes on where it stopped, and embeds nothing twice.
Embedders: hashing (the default: no model, no download), a folder or name of a Hugging Face or sentence-transformers
model, states:MODEL for a language model's own hidden states. It is the memory's for good: texts of another one could
not be compared. Then: siftlm search memory "a question", siftlm info memory.
"""
# Arguments that go to the reading of a corpus, and what they are called there.
READING = {"text": "text", "id": "id", "vectors": "vector", "split": "split", "format": "format", "glob": "glob"}
# Settings of a memory, made once.
MAKING = ("storage", "passage_tokens", "overlap", "near_duplicates")
COMPLAINTS = 5


def add(commands: Any) -> None:
    """Declare the command."""
    parser = commands.add_parser(
        "index",
        help="build a memory: texts and their vectors in a folder",
        description="Read texts, embed them, and keep both in a folder that siftlm search looks through.",
        epilog=EPILOG,
    )
    parser.add_argument(
        "corpus", nargs="*", metavar="CORPUS", help="files, folders, or hf:NAME[:CONFIG] for a Hugging Face data set"
    )
    parser.add_argument("--into", required=True, metavar="FOLDER", help="the memory's folder")
    parser.add_argument("--append", action="store_true", help="add to the memory that is there")
    parser.add_argument(
        "--bad",
        choices=("skip", "fail"),
        default="skip",
        help="records that cannot be used: count them (default), or stop at the first",
    )
    parser.add_argument("--quiet", action="store_true", help="print nothing but what went wrong")

    data = parser.add_argument_group("what is where in the corpus")
    data.add_argument(
        "--text", metavar="FIELD", help="the field of the text, such as body or page.text (default: text)"
    )
    data.add_argument("--id", metavar="FIELD", help="your own name of each document, to find or delete it by")
    data.add_argument("--meta", metavar="FIELD,…", help="keep these fields as metadata (default: all)")
    data.add_argument("--vectors", metavar="FIELD|FILE.npy", help="the texts' vectors, where they are known already")
    data.add_argument("--format", metavar="F", help="of files whose name does not tell: csv, jsonl, parquet, text, tsv")
    data.add_argument("--glob", metavar="PATTERN", help="of folders: only such files, '*.md' or 'docs/**/*.md'")
    data.add_argument("--split", metavar="NAME", help="of a Hugging Face data set (default: train)")

    made = parser.add_argument_group("what the memory is to be (a new one)")
    made.add_argument("--embedder", metavar="NAME", help="what turns texts into vectors (default: hashing)")
    made.add_argument(
        "--embedder-option",
        action="append",
        default=[],
        type=settings.option,
        metavar="NAME=VALUE",
        help="a setting of the embedder, such as width=1024; may be repeated",
    )
    made.add_argument(
        "--storage",
        choices=("float32", "float16", "int8"),
        help="of the vectors: exact (float32, the default), half the size, or a quarter",
    )
    made.add_argument(
        "--passage-tokens",
        type=int,
        metavar="N",
        help="cut longer texts into passages of so many tokens (default: at most 256)",
    )
    made.add_argument("--overlap", type=int, metavar="N", help="tokens that neighbouring passages share (default: N/8)")
    made.add_argument("--no-full-text", action="store_true", help="leave out the index of words (smaller, faster)")
    made.add_argument(
        "--near-duplicates",
        type=float,
        metavar="S",
        help="store a text that shares so much with another (0 to 1) only once",
    )
    made.add_argument(
        "--faiss", choices=("flat", "ivf", "hnsw"), help="also build a FAISS index, for searches faster than a scan"
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Read everything in, then say what is there."""
    from siftlm.memory.maintenance import collect_info

    _check(arguments)
    report = watching.reporter(quiet=arguments.quiet)
    try:
        before = _documents(arguments)
        memory = _filled(arguments, report)
        if arguments.faiss is not None:
            memory.build_index(arguments.faiss, progress=report)
    except KeyboardInterrupt:
        if isinstance(report, watching.Line):
            report.end()
        if sys.stderr is not None:
            print("siftlm: stopped; the same command goes on from here", file=sys.stderr)
        return 130
    memory.close()
    info = collect_info(memory.path)
    _tell(arguments, info, before)
    return 0 if info.passages else 1


def _check(arguments: argparse.Namespace) -> None:
    from siftlm.errors import Conflict

    if not arguments.corpus and arguments.faiss is None:
        raise Conflict("nothing to read: name a file, a folder or hf:NAME before --into")
    if not arguments.append and arguments.corpus:
        return
    made = [name for name in (*MAKING, "no_full_text", "embedder_option") if getattr(arguments, name)]
    if made:
        flag = "--" + made[0].replace("_", "-")
        raise Conflict(f"{flag} is settled when a memory is made: leave it out, or build another memory")


def _documents(arguments: argparse.Namespace) -> int | None:
    """How many are there before; None for a new memory."""
    from siftlm.errors import NotAMemory
    from siftlm.memory.maintenance import collect_info

    try:
        return collect_info(Path(arguments.into)).documents
    except NotAMemory:
        return None


def _filled(arguments: argparse.Namespace, report: Report) -> Memory:
    from siftlm.memory import Memory

    reading = _reading(arguments)
    corpus = _corpus(arguments.corpus)
    if arguments.append or not arguments.corpus:
        memory = Memory.open(arguments.into, embedder=arguments.embedder)
        if arguments.corpus:
            memory.ingest(corpus, bad=arguments.bad, progress=report, **reading)
        return memory
    made = {name: getattr(arguments, name) for name in MAKING if getattr(arguments, name) is not None}
    return Memory.build(
        corpus,
        arguments.into,
        embedder=_embedder(arguments, corpus, reading),
        full_text=not arguments.no_full_text,
        bad=arguments.bad,
        progress=report,
        **made,
        **reading,
    )


def _corpus(given: list[str]) -> Any:
    """One input as it is; several as the list that `siftlm.memory.reading.open_source` takes for inputs."""
    if len(given) == 1:
        return given[0]
    return [name if name.startswith("hf:") else Path(name) for name in given]


def _reading(arguments: argparse.Namespace) -> dict[str, Any]:
    found = {there: getattr(arguments, here) for here, there in READING.items() if getattr(arguments, here) is not None}
    if arguments.meta is not None:
        found["meta"] = [name.strip() for name in arguments.meta.split(",") if name.strip()]
    return found


def _embedder(arguments: argparse.Namespace, corpus: Any, reading: dict[str, Any]) -> Embedder:
    """The one that was asked for; where only vectors were given, one that knows their width."""
    from siftlm.embedding import embedder
    from siftlm.errors import InvalidInput
    from siftlm.memory.reading import open_source

    options = dict(arguments.embedder_option)
    if arguments.embedder is not None or arguments.vectors is None:
        return embedder(arguments.embedder or "hashing", **options)
    for record in open_source(corpus, **reading).read():
        if record.document is not None and record.document.vector is not None:
            return embedder("precomputed", **{"width": len(record.document.vector), **options})
    raise InvalidInput(f"--vectors {arguments.vectors}: no record of the corpus has a vector that can be used")


def _tell(arguments: argparse.Namespace, info: Info, before: int | None) -> None:
    """Where it is, what is in it, what was left out, and what to do next."""
    stream = sys.stderr if arguments.quiet else sys.stdout
    if stream is None:
        return
    terminal = Terminal.of(stream)
    width = terminal.limit
    lines = [] if arguments.quiet else _summary(info, before, terminal, width)
    for one in info.inputs:
        if one.bad:
            said = f"{one.name}: {one.bad:,} {'record' if one.bad == 1 else 'records'} could not be used:"
            lines += wrap(said, width)
            for complaint in one.complaints[:COMPLAINTS]:
                lines += wrap(complaint, width, first="  ", rest="    ")
            if one.bad > COMPLAINTS:
                lines.append(f"  {terminal.pick('…', '...')} and {one.bad - COMPLAINTS:,} more")
    if not info.passages:
        lines += wrap(f"{arguments.into}: holds no text: nothing of the input could be used", width)
    elif not arguments.quiet:
        asked = "--query prompt.npy" if info.embedder == "precomputed" else '"your question"'
        command = f"siftlm search {shlex.quote(arguments.into)} {asked}"
        lines += ["", "Now try:", f"  {terminal.paint(command, 'cyan')}"]
    if lines:
        print(printable("\n".join(lines), stream), file=stream)


def _summary(info: Info, before: int | None, terminal: Terminal, width: int) -> list[str]:
    new = "" if before is None else f" ({info.documents - before:,} of them new)"
    counts = f"{info.documents:,} documents{new}, {info.passages:,} passages"
    again = [
        f"{info.duplicates:,} duplicates" if info.duplicates else "",
        f"{info.near_duplicates:,} near-duplicates" if info.near_duplicates else "",
    ]
    said = " and ".join(filter(None, again))
    counts += f"; {said} stored once" if said else ""
    made = f"embedder {info.embedder}, {info.width} wide, {info.storage}; {amount(info.bytes)} on disk"
    return [
        terminal.paint(one_line(info.path), "bold"),
        *wrap(counts, width, first="  ", rest="  "),
        *wrap(made, width, first="  ", rest="  "),
    ]
