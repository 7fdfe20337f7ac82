"""``siftlm index``, ``info``, ``delete``, ``compact`` and ``verify``: building and maintaining a memory."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from siftlm.cli import arguments as flags
from siftlm.cli.arguments import Flag, choice, repeated, switch
from siftlm.cli.terminal import (
    Terminal,
    amount,
    clip,
    indented,
    one_line,
    print_json,
    progress_line,
    resumable,
)
from siftlm.errors import Conflict, InvalidInput, NotAMemory, counted

if TYPE_CHECKING:
    from siftlm.embedding.protocol import Embedder
    from siftlm.memory import Memory
    from siftlm.memory.maintenance import Field, Info, Input
    from siftlm.memory.verify import Verification
    from siftlm.progress import Report

INDEX_EPILOG = """\
examples:
  siftlm index notes/ --into memory               a folder of texts: .txt .md .html source code …
  siftlm index corpus.jsonl.zst --into memory     one {"text": …} per line; also .csv .tsv .parquet .gz
  siftlm index a.jsonl b.jsonl --into memory --text body --id url --meta year,lang
  siftlm index hf:wikitext:wikitext-103-v1 --into memory --embedder sentence-transformers/all-MiniLM-L6-v2
  siftlm index docs/ --glob '*.md' --into memory --embedder lexical --passage-tokens 128 --overlap 32
  siftlm index vectors.parquet --into memory --vectors embedding --storage int8
  siftlm index more.jsonl --into memory --append  add texts to a memory
  siftlm index --into memory --faiss hnsw         add a FAISS index, for faster approximate searches

An interrupted command resumes when it is repeated, and embeds nothing twice.

Embedders: static (default: no download), whose table knows what words mean; hashing, words alone; lexical, fitted to
the corpus in a first pass, or lexical:FOLDER, fitted before; the folder or name of a Hugging Face or
sentence-transformers model; states:MODEL, a language model's states. A memory keeps its embedder.

Next: siftlm search memory "a question", siftlm info memory.
"""
INFO_EPILOG = """\
examples:
  siftlm info memory                        counts, sizes, embedder, inputs, metadata fields
  siftlm info memory --redundancy           does the corpus repeat itself, so that diversity matters?
  siftlm info memory --redundancy --sample 5000 --threshold 0.95
  siftlm info memory --json | jq .fields    the fields that --where can test

--redundancy counts the passages of a random sample that have others above a cosine (--threshold) in the sample: where
there are many, nearest neighbours repeat each other and SIFT can gain. Compare corpora at the same --sample only,
since a larger one finds more neighbours for each passage.
"""
DELETE_EPILOG = """\
examples:
  siftlm delete memory --where 'source = "mail" and year < 2020'
  siftlm delete memory --where '@id = "doc-7"'
  siftlm delete memory --where 'source = "mail"' --dry-run        only count

Deleted passages are in no search from then on. A text that several documents share stays until the last of them is
deleted. siftlm compact removes deleted data from the disk.
"""
COMPACT_EPILOG = """\
examples:
  siftlm compact memory
  siftlm compact memory --wait 600          wait for another writer to finish

Everything else is copied, so compaction needs as much free disk space as the memory takes. If interrupted, it leaves
the memory unchanged.
"""
VERIFY_EPILOG = """\
examples:
  siftlm verify memory
  siftlm verify memory && siftlm compact memory
  siftlm verify memory --json | jq -r '.problems[]'

Every text, document and vector is compared with its checksum. Nothing is changed, and other processes can go on
searching. Rebuild a damaged memory from its corpus (siftlm info names it), or restore a backup.

exit status: 0 intact; 1 damaged, with a line for each problem that names the file.
"""
# Arguments of the corpus reader -> their Python names.
READING_NAMES = {"vectors": "vector", **{name: name for name in ("text", "id", "meta", "split", "format", "glob")}}
# Settings of a new memory.
MEMORY_NAMES = ("storage", "passage_tokens", "overlap", "near_duplicates")
COMPLAINTS = 5


def add(commands: Any) -> None:
    """Declare the commands."""
    _add_index(commands)
    info = flags.command(
        commands, "info", run_info, "describe a memory: counts, sizes, embedder, inputs, metadata", INFO_EPILOG
    )
    flags.declare(
        info,
        flags.FOLDER,
        switch("--redundancy", "also measure how much the passages repeat each other"),
        Flag("--sample", "N", int, "passages to sample for --redundancy"),
        Flag("--seed", "S", int, "random seed of the sample (default: 0)"),
        Flag("--threshold", "C", float, "cosine at which two passages count as similar (default: 0.9)"),
        flags.JSON,
    )
    delete = flags.command(
        commands, "delete", run_delete, "delete the documents of a memory that match a condition", DELETE_EPILOG
    )
    where = Flag("--where", "EXPR", str, "condition on the documents, as in siftlm search", more={"required": True})
    dry = switch("--dry-run", "only count the passages that match")
    flags.declare(delete, flags.FOLDER, where, dry, flags.WAIT, flags.JSON)
    compact = flags.command(
        commands, "compact", run_compact, "remove deleted texts and vectors from the disk", COMPACT_EPILOG
    )
    flags.declare(compact, flags.FOLDER, flags.WAIT, flags.JSON, flags.QUIET)
    verify = flags.command(
        commands, "verify", run_verify, "check the files of a memory against their checksums", VERIFY_EPILOG
    )
    flags.declare(verify, flags.FOLDER, flags.JSON, flags.QUIET.described("print problems only"))


def _add_index(commands: Any) -> None:
    parser = flags.command(
        commands,
        "index",
        run_index,
        "build a memory: embed texts, and store both in a folder",
        INDEX_EPILOG,
        usage="siftlm index CORPUS… --into FOLDER [options]",
    )
    corpus = "files, folders, or hf:NAME[:CONFIG] for a Hugging Face dataset"
    bad = "unusable records: skip and count them (default), or fail at the first"
    option = "a setting of the embedder, such as width=1024; repeatable"
    storage = "type of the stored vectors: float32 (default), float16 (half the size) or int8 (a quarter)"
    flags.declare(
        parser,
        Flag("corpus", "CORPUS", str, corpus, more={"nargs": "*"}),
        Flag("--into", "FOLDER", str, "the memory's folder", more={"required": True}),
        switch("--append", "add to an existing memory"),
        choice("--bad", ("skip", "fail"), bad, "skip"),
        flags.QUIET,
        "corpus",
        Flag("--text", "FIELD", str, "field that holds the text, such as body or page.text (default: text)"),
        Flag("--id", "FIELD", str, "field that holds a document's ID, to find or delete it by"),
        Flag("--meta", "FIELD,…", flags.comma_list(str, "fields"), "fields to keep as metadata (default: all)"),
        Flag("--vectors", "FIELD|FILE.npy", str, "precomputed vectors of the texts", setting="vector"),
        Flag("--format", "F", str, "format of files without a known suffix: csv, jsonl, parquet, text, tsv"),
        Flag("--glob", "PATTERN", str, "in folders, read only files that match, such as '*.md' or 'docs/**/*.md'"),
        Flag("--split", "NAME", str, "split of a Hugging Face dataset (default: train)"),
        "new memory",
        flags.EMBEDDER.described("static (default), hashing, lexical, or a model: see below"),
        repeated("--embedder-option", "NAME=VALUE", flags.option, option),
        choice("--storage", ("float32", "float16", "int8"), storage),
        Flag("--passage-tokens", "N", int, "split longer texts into passages of N tokens (default: at most 256)"),
        Flag("--overlap", "N", int, "tokens shared by neighbouring passages (default: N/8)"),
        switch("--no-full-text", "build no full-text index (smaller, faster)", setting="full_text"),
        Flag("--near-duplicates", "S", float, "store texts that share this fraction of their wording only once"),
        choice("--faiss", ("flat", "ivf", "hnsw"), "also build a FAISS index, for searches faster than a full scan"),
    )


# --- index


def run_index(arguments: argparse.Namespace) -> int:
    """Build or extend the memory, then print a summary."""
    from siftlm.memory.maintenance import collect_info

    _check_index(arguments)
    with resumable("stopped; repeat the command to resume"), progress_line(quiet=arguments.quiet) as report:
        before = _count_documents(arguments)
        memory = _fill_memory(arguments, report)
        if arguments.faiss is not None:
            memory.build_index(arguments.faiss, progress=report)
    memory.close()
    info = collect_info(memory.path)
    _print_index(arguments, info, before, memory.ingested.empty if memory.ingested else 0)
    return 0 if info.passages else 1


def _check_index(arguments: argparse.Namespace) -> None:
    if not arguments.corpus and arguments.faiss is None:
        raise Conflict("no corpus: pass files, folders or hf:NAME")
    if not arguments.append and arguments.corpus:
        return
    if fixed := [name for name in (*MEMORY_NAMES, "no_full_text", "embedder_option") if getattr(arguments, name)]:
        flag = "--" + fixed[0].replace("_", "-")
        raise Conflict(f"{flag} cannot be changed after a memory is built: leave it out, or build a new memory")


def _count_documents(arguments: argparse.Namespace) -> int | None:
    """The number of documents before this command; None for a new memory."""
    from siftlm.memory.maintenance import collect_info

    try:
        return collect_info(Path(arguments.into)).documents
    except NotAMemory:
        return None


def _fill_memory(arguments: argparse.Namespace, report: Report) -> Memory:
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
        embedder=_new_embedder(arguments, corpus, reading),
        full_text=not arguments.no_full_text,
        bad=arguments.bad,
        progress=report,
        **flags.values_of(arguments, MEMORY_NAMES),
        **reading,
    )


def _new_embedder(arguments: argparse.Namespace, corpus: Any, reading: dict[str, Any]) -> Embedder | None:
    """The embedder of a new memory, None for whatever is the default; for precomputed vectors, one of their width."""
    from siftlm.embedding import DEFAULT_EMBEDDER, embedder
    from siftlm.memory.reading import open_source

    options = dict(arguments.embedder_option)
    if arguments.embedder is None and arguments.vectors is None and not options:
        return None
    if arguments.embedder is not None or arguments.vectors is None:
        return embedder(arguments.embedder or DEFAULT_EMBEDDER, **options)
    for record in open_source(corpus, **reading).read():
        if record.document is not None and record.document.vector is not None:
            return embedder("precomputed", **{"width": len(record.document.vector), **options})
    raise InvalidInput(f"--vectors {arguments.vectors}: no record of the corpus has a usable vector")


def _print_index(arguments: argparse.Namespace, info: Info, before: int | None, empty: int) -> None:
    """Print a summary, the records that were skipped, and a command to try next."""
    stream = sys.stderr if arguments.quiet else sys.stdout
    if stream is None:
        return
    terminal = Terminal.of(stream)
    parts: list[RenderableType] = [] if arguments.quiet else _index_summary(info, before, terminal)
    for one in info.inputs:
        if one.bad:
            parts.append(f"{one.name}: skipped {one.bad:,} unusable {'record' if one.bad == 1 else 'records'}:")
            parts += [indented(terminal.prose(complaint)) for complaint in one.complaints[:COMPLAINTS]]
            if one.bad > COMPLAINTS:
                parts.append(indented(terminal.prose(f"… and {one.bad - COMPLAINTS:,} more")))
    if not arguments.quiet and empty:
        parts.append(f"{counted(empty, 'empty file')} passed over")
    if not info.passages:
        parts.append(f"{arguments.into}: holds no text: no record of the input was usable")
    elif not arguments.quiet:
        prompt = "--query prompt.npy" if info.embedder == "precomputed" else '"your question"'
        example = f"siftlm search {shlex.quote(arguments.into)} {prompt}"
        parts += ["", "Next:", indented(terminal.prose(example, "cyan"))]
    if parts:
        terminal.show(*parts, stream=stream)


def _index_summary(info: Info, before: int | None, terminal: Terminal) -> list[RenderableType]:
    new = "" if before is None else f" ({info.documents - before:,} new)"
    counts = f"{counted(info.documents, 'document')}{new}, {counted(info.passages, 'passage')}"
    repeated = [
        f"{info.duplicates:,} duplicates" if info.duplicates else "",
        f"{info.near_duplicates:,} near-duplicates" if info.near_duplicates else "",
    ]
    counts += f"; {' and '.join(filter(None, repeated))} stored once" if any(repeated) else ""
    storage = f"embedder {info.embedder}, {info.width} wide, {info.storage}; {amount(info.bytes)} on disk"
    lines = [counts, storage, *(f"FAISS index {text}" for text in _index_texts(info) if info.index is not None)]
    return [terminal.prose(info.path, "bold"), *(indented(terminal.prose(line)) for line in lines)]


# --- info, delete, compact, verify


def run_info(arguments: argparse.Namespace) -> int:
    """Describe the memory."""
    from siftlm.memory import Memory

    settings = flags.values_of(arguments, ("sample", "seed", "threshold"))
    if settings and not arguments.redundancy:
        raise Conflict(f"--{next(iter(settings))} needs --redundancy")
    with Memory.open(arguments.folder) as memory, progress_line(quiet=arguments.json) as report:
        info = memory.info()
        redundancy = memory.redundancy(**settings, progress=report) if arguments.redundancy else None
    if arguments.json:
        print_json(info.to_dict() | ({} if redundancy is None else {"redundancy": redundancy.to_dict()}))
        return 0
    terminal = Terminal.of(sys.stdout)
    more = [] if redundancy is None else ["", terminal.verbatim(str(redundancy))]
    terminal.show(*_info_parts(info, terminal), *more)
    return 0


def run_delete(arguments: argparse.Namespace) -> int:
    """Delete documents, or count them."""
    from siftlm.memory import Memory

    with Memory.open(arguments.folder) as memory:
        if arguments.dry_run:
            record = {"passages": len(memory.rows(arguments.where))}
            summary = f"nothing was deleted; {counted(record['passages'], 'passage')} would be"
        else:
            deleted = memory.delete(arguments.where, wait=arguments.wait)
            record = asdict(deleted)
            documents, passages = counted(deleted.documents, "document"), counted(deleted.passages, "passage")
            summary = f"deleted {documents} and {passages} that nothing else held"
            if deleted.documents:
                summary += f"; siftlm compact {arguments.folder} removes them from the disk"
    _print(arguments, record, summary)
    return 0


def run_compact(arguments: argparse.Namespace) -> int:
    """Compact the memory, and print its size before and after."""
    from siftlm.memory import Memory

    with Memory.open(arguments.folder) as memory, progress_line(quiet=arguments.quiet) as report:
        compaction = memory.compact(progress=report, wait=arguments.wait)
    dropped = compaction.dropped_rows
    rows = f"removed {counted(dropped, 'deleted row')}" if dropped else "nothing to remove"
    sizes = f"{amount(compaction.before_bytes)} before, {amount(compaction.after_bytes)} now"
    if arguments.json or not arguments.quiet:
        _print(arguments, asdict(compaction), f"{rows}; {counted(compaction.passages, 'passage')} left; {sizes}")
    return 0


def _print(arguments: argparse.Namespace, record: dict[str, Any], summary: str) -> None:
    if arguments.json:
        print_json(record)
    else:
        Terminal.of(sys.stdout).show(f"{arguments.folder}: {summary}")


def run_verify(arguments: argparse.Namespace) -> int:
    """Verify the memory, and print its problems."""
    from siftlm.memory.verify import verify

    with progress_line(quiet=arguments.quiet) as report:
        verification = verify(Path(arguments.folder), report)
    if arguments.json:
        print_json({**asdict(verification), "ok": verification.ok})
        return 0 if verification.ok else 1
    terminal = Terminal.of(sys.stdout)
    if parts := _verification_parts(verification, arguments, terminal):
        terminal.show(*parts)
    return 0 if verification.ok else 1


def _verification_parts(
    verification: Verification, arguments: argparse.Namespace, terminal: Terminal
) -> list[RenderableType]:
    parts: list[RenderableType] = [terminal.prose(problem, "red") for problem in verification.problems]
    if arguments.quiet:
        return parts
    parts += [f"note: {note}" for note in verification.notes]
    counts = ", ".join(f"{number:,} {name}" for name, number in verification.checked.items())
    verdict = "intact" if verification.ok else f"damaged ({counted(len(verification.problems), 'problem')})"
    return [*parts, f"{arguments.folder}: {verdict}" + (f"; checked {counts}" if counts else "")]


def _info_parts(info: Info, terminal: Terminal) -> list[RenderableType]:
    """The folder, then a table of labels and values."""
    rows = Table.grid(padding=(0, 2, 0, 0))
    rows.add_column(style="dim", no_wrap=True, min_width=12)
    rows.add_column()
    for label, texts in _info_texts(info, terminal).items():
        for at, text in enumerate(texts):
            rows.add_row(Text(label if at == 0 else ""), terminal.prose(text))
    return [terminal.line(info.path, "bold"), rows]


def _info_texts(info: Info, terminal: Terminal) -> dict[str, list[str]]:
    repeated = f"{counted(info.duplicates, 'duplicate')} stored once"
    if info.near_duplicates_from is not None:
        repeated += f", {info.near_duplicates:,} near-duplicates (from {info.near_duplicates_from:g})"
    options = ", ".join(f"{name}={value!r}" for name, value in info.embedder_settings.items())
    texts = {
        "passages": [f"{info.passages:,} of {counted(info.documents, 'document')}; {repeated}"],
        "deleted": [f"{info.deleted:,} rows, until siftlm compact removes them from the disk"] if info.deleted else [],
        "embedder": [info.embedder + (f" ({options})" if options else ""), f"fingerprint {info.fingerprint}"],
        "vectors": [f"{info.width} wide, {info.storage}, {info.metric}"],
        "texts": [
            f"passages of up to {info.passage_tokens:,} tokens, {info.overlap:,} of them shared with the next; "
            + ("full-text index" if info.full_text else "no full-text index")
        ],
        "size": [f"{amount(info.bytes)} in total", *(f"{name}: {amount(size)}" for name, size in info.files.items())],
        "FAISS index": _index_texts(info),
        "inputs": [_input_text(one) for one in info.inputs] or ["none"],
        "metadata": _field_texts(info, terminal),
        "calibrated": [_calibrated(name, settings) for name, settings in info.calibration.items()],
        "created": [f"{info.created} by {info.made_by}, format {info.format}, generation {info.generation}"],
    }
    return {label: lines for label, lines in texts.items() if lines}


def _index_texts(info: Info) -> list[str]:
    if info.index is None:
        return ["none (searches scan all vectors)"]
    options = ", ".join(f"{name}={value}" for name, value in info.index.settings.items())
    kind = f"{info.index.kind} of {counted(info.index.rows, 'row')}" if info.index.kind else "unreadable"
    newer = 0 if info.index.problem else info.passages + info.deleted - info.index.rows
    text = kind + (f" ({options})" if options else "") + (f"; {newer:,} newer rows are scanned" if newer else "")
    return [text] + ([] if info.index.problem is None else [f"not used: {info.index.problem}"])


def _input_text(one: Input) -> str:
    bad = f", {counted(one.bad, 'bad record')}" if one.bad else ""
    return f"{one.name}: {counted(one.documents, 'document')}{bad}" + ("" if one.finished else "; not read to the end")


def _calibrated(name: str, settings: dict[str, Any]) -> str:
    values = ", ".join(f"{setting}={value}" for setting, value in settings.items() if value is not None)
    return f"for {name}: {values}"


def _field_texts(info: Info, terminal: Terminal) -> list[str]:
    if not info.fields:
        return ["none"]
    return [_field_text(field, info, terminal) for field in info.fields] + [
        f"(in a sample of {info.sampled:,} documents)"
    ]


def _field_text(field: Field, info: Info, terminal: Terminal) -> str:
    dots = terminal.pick("…", "...")
    values = ", ".join(clip(one_line(json.dumps(value, ensure_ascii=False)), 30, dots) for value in field.examples)
    share = "" if field.documents >= info.sampled else f" ({100 * field.documents / info.sampled:.0f} %)"
    return f"{field.name}{share}: {values}"
