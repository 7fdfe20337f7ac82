"""``siftlm index``: a corpus in, a memory out."""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import RenderableType

from siftlm.cli import arguments as flags
from siftlm.cli.arguments import Flag, choice, repeated, switch
from siftlm.cli.terminal import Terminal, amount, indented, progress_line, resumable
from siftlm.errors import Conflict, InvalidInput, NotAMemory

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
READING_NAMES = {"vectors": "vector", **{name: name for name in ("text", "id", "meta", "split", "format", "glob")}}
# Settings of a new memory.
MEMORY_NAMES = ("storage", "passage_tokens", "overlap", "near_duplicates")
COMPLAINTS = 5


def add(commands: Any) -> None:
    """Declare the command."""
    parser = flags.command(
        commands, "index", run, "build a memory: read texts, embed them, and keep both in a folder", EPILOG
    )
    corpus = "files, folders, or hf:NAME[:CONFIG] for a Hugging Face data set"
    bad = "records that cannot be used: count them (default), or stop at the first"
    option = "a setting of the embedder, such as width=1024; repeatable"
    storage = "of the vectors: exact (float32, the default), half the size, or a quarter"
    flags.declare(
        parser,
        Flag("corpus", "CORPUS", str, corpus, more={"nargs": "*"}),
        Flag("--into", "FOLDER", str, "the memory's folder", more={"required": True}),
        switch("--append", "add to the memory that is there"),
        choice("--bad", ("skip", "fail"), bad, "skip"),
        flags.QUIET,
        "the corpus",
        Flag("--text", "FIELD", str, "the field of the text, such as body or page.text (default: text)"),
        Flag("--id", "FIELD", str, "your own name of each document, to find or delete it by"),
        Flag("--meta", "FIELD,…", flags.comma_list(str, "fields"), "keep these fields as metadata (default: all)"),
        Flag("--vectors", "FIELD|FILE.npy", str, "the texts' vectors, where they are known already", setting="vector"),
        Flag("--format", "F", str, "of files without a known suffix: csv, jsonl, parquet, text, tsv"),
        Flag("--glob", "PATTERN", str, "in folders: only files like '*.md' or 'docs/**/*.md'"),
        Flag("--split", "NAME", str, "of a Hugging Face data set (default: train)"),
        "a new memory",
        flags.EMBEDDER.but("what turns texts into vectors (default: hashing)"),
        repeated("--embedder-option", "NAME=VALUE", flags.option, option),
        choice("--storage", ("float32", "float16", "int8"), storage),
        Flag("--passage-tokens", "N", int, "cut longer texts into passages of N tokens (default: at most 256)"),
        Flag("--overlap", "N", int, "tokens that neighbouring passages share (default: N/8)"),
        switch("--no-full-text", "leave out the index of words (smaller, faster)", setting="full_text"),
        Flag("--near-duplicates", "S", float, "store texts that share this much (0 to 1) only once"),
        choice("--faiss", ("flat", "ivf", "hnsw"), "also build a FAISS index, for searches faster than a scan"),
    )


def run(arguments: argparse.Namespace) -> int:
    """Read everything in, then print what is there."""
    from siftlm.memory.maintenance import collect_info

    _check(arguments)
    with resumable("stopped; the same command goes on from here"), progress_line(quiet=arguments.quiet) as report:
        before = _documents(arguments)
        memory = _fill(arguments, report)
        if arguments.faiss is not None:
            memory.build_index(arguments.faiss, progress=report)
    memory.close()
    info = collect_info(memory.path)
    _print(arguments, info, before)
    return 0 if info.passages else 1


def _check(arguments: argparse.Namespace) -> None:
    if not arguments.corpus and arguments.faiss is None:
        raise Conflict("nothing to read: name a file, a folder or hf:NAME before --into")
    if not arguments.append and arguments.corpus:
        return
    made = [name for name in (*MEMORY_NAMES, "no_full_text", "embedder_option") if getattr(arguments, name)]
    if made:
        flag = "--" + made[0].replace("_", "-")
        raise Conflict(f"{flag} is settled when a memory is made: leave it out, or build another memory")


def _documents(arguments: argparse.Namespace) -> int | None:
    """The number of documents before this command; None for a new memory."""
    from siftlm.memory.maintenance import collect_info

    try:
        return collect_info(Path(arguments.into)).documents
    except NotAMemory:
        return None


def _fill(arguments: argparse.Namespace, report: Report) -> Memory:
    from siftlm.memory import Memory

    reading = {
        there: getattr(arguments, here) for here, there in READING_NAMES.items() if getattr(arguments, here) is not None
    }
    # One input as it is; several as the list that `siftlm.memory.reading.open_source` takes for inputs.
    names: list[str] = arguments.corpus
    corpus: Any = names[0] if len(names) == 1 else [name if name.startswith("hf:") else Path(name) for name in names]
    if arguments.append or not names:
        memory = Memory.open(arguments.into, embedder=arguments.embedder)
        if names:
            memory.ingest(corpus, bad=arguments.bad, progress=report, **reading)
        return memory
    return Memory.build(
        corpus,
        arguments.into,
        embedder=_embedder(arguments, corpus, reading),
        full_text=not arguments.no_full_text,
        bad=arguments.bad,
        progress=report,
        **flags.values_of(arguments, MEMORY_NAMES),
        **reading,
    )


def _embedder(arguments: argparse.Namespace, corpus: Any, reading: dict[str, Any]) -> Embedder:
    """The one that was asked for; where only vectors were given, one that knows their width."""
    from siftlm.embedding import embedder
    from siftlm.memory.reading import open_source

    options = dict(arguments.embedder_option)
    if arguments.embedder is not None or arguments.vectors is None:
        return embedder(arguments.embedder or "hashing", **options)
    for record in open_source(corpus, **reading).read():
        if record.document is not None and record.document.vector is not None:
            return embedder("precomputed", **{"width": len(record.document.vector), **options})
    raise InvalidInput(f"--vectors {arguments.vectors}: no record of the corpus has a vector that can be used")


def _print(arguments: argparse.Namespace, info: Info, before: int | None) -> None:
    """Where it is, what is in it, what was left out, and what to do next."""
    stream = sys.stderr if arguments.quiet else sys.stdout
    if stream is None:
        return
    terminal = Terminal.of(stream)
    parts: list[RenderableType] = [] if arguments.quiet else _summary(info, before, terminal)
    for one in info.inputs:
        if one.bad:
            parts.append(f"{one.name}: {one.bad:,} {'record' if one.bad == 1 else 'records'} could not be used:")
            parts += [indented(terminal.prose(complaint)) for complaint in one.complaints[:COMPLAINTS]]
            if one.bad > COMPLAINTS:
                parts.append(indented(terminal.prose(f"… and {one.bad - COMPLAINTS:,} more")))
    if not info.passages:
        parts.append(f"{arguments.into}: holds no text: nothing of the input could be used")
    elif not arguments.quiet:
        prompt = "--query prompt.npy" if info.embedder == "precomputed" else '"your question"'
        example = f"siftlm search {shlex.quote(arguments.into)} {prompt}"
        parts += ["", "Now try:", indented(terminal.prose(example, "cyan"))]
    if parts:
        terminal.show(*parts, stream=stream)


def _summary(info: Info, before: int | None, terminal: Terminal) -> list[RenderableType]:
    new = "" if before is None else f" ({info.documents - before:,} of them new)"
    counts = f"{info.documents:,} documents{new}, {info.passages:,} passages"
    repeated = [
        f"{info.duplicates:,} duplicates" if info.duplicates else "",
        f"{info.near_duplicates:,} near-duplicates" if info.near_duplicates else "",
    ]
    once = " and ".join(filter(None, repeated))
    counts += f"; {once} stored once" if once else ""
    made = f"embedder {info.embedder}, {info.width} wide, {info.storage}; {amount(info.bytes)} on disk"
    return [terminal.prose(info.path, "bold"), indented(terminal.prose(counts)), indented(terminal.prose(made))]
