"""``siftlm search``: the most informative passages of a memory for a prompt."""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import sys
from collections.abc import Iterator
from typing import IO, TYPE_CHECKING, Any

from siftlm.cli import arguments as flags
from siftlm.cli import tables
from siftlm.cli.arguments import Flag, repeated, switch
from siftlm.cli.terminal import Terminal, printable
from siftlm.cli.tuning import check_counts, not_recipe
from siftlm.errors import Conflict, InvalidInput

if TYPE_CHECKING:
    from siftlm.memory import Found, Memory

EPILOG = """\
examples:
  siftlm search memory "how are lists sorted by several keys"
  siftlm search memory "how are lists sorted" --compare        nearest neighbours and SIFT side by side
  siftlm search memory "how are lists sorted" -n 5 --full      whole passages
  siftlm search memory "sort" --where 'suffix = ".py" and not path starts "test"'
  siftlm search memory "E1102" --candidates both               also full-text search, as for names and codes
  siftlm search memory "how are lists sorted" --k all          select from the whole memory, exactly
  siftlm search memory "how are lists sorted" --known "list.sort takes a key." --until 0.2
  siftlm search memory - < question.txt                        or --prompt-file question.txt
  siftlm search memory --prompts prompts.jsonl --out found.jsonl
  siftlm search memory "sort" --json | jq -r '.hits[].text'

columns:
  score             cosine similarity to the prompt
  words, fused      with --candidates words or both: BM25, and 0.6 score + 0.4 of BM25 as a share of the best one's
  gain              reduction of the uncertainty by this pick, given the picks before it
  uncertainty left  posterior uncertainty about the prompt after this pick

--where tests the fields that siftlm info MEMORY lists: FIELD = "x", !=, <, <=, >, >=, in ["x", "y"], contains,
starts, ends, exists FIELD, combined with and, or, not and ( ).

--noise is SIFT's λ: small values favour diversity, large ones approach nearest neighbour. Methods: siftlm methods.
"""
DEFAULT_N = 10
# Prompts of --prompts that are searched in one batch.
PROMPT_BATCH = 64
# Settings that --compare also uses for the nearest neighbours: all but those of the method and of its stopping.
COMPARED = {"k", "candidates", "where", "exact", "without_copies", "per_document", "noise", "kernel", "known"}
SWITCHES = ("residual", "exact", "opposites")
# Settings that --option must not name.
RESERVED = (*flags.SEARCH_NAMES, *SWITCHES, "n", "k", "query", "kernel", "known", "exclude", "sources", "source_cap")


def add(commands: Any) -> None:
    """Declare the command."""
    parser = flags.command(
        commands,
        "search",
        run,
        "find the most informative passages of a memory for a prompt",
        EPILOG,
        usage="siftlm search MEMORY [PROMPT | - | --prompt-file FILE | --prompts FILE | --query FILE] [options]",
    )
    many = 'search for many prompts: a JSON string or {"prompt": …} per line; prints a JSON object for each'
    flags.declare(
        parser,
        flags.MEMORY,
        flags.PROMPT,
        flags.PROMPT_FILE,
        Flag("--prompts", "FILE", str, many),
        Flag("--query", "FILE", str, "vectors of the prompt, (d,) or (m, d), as .npy"),
        flags.EMBEDDER,
        "candidates",
        flags.K,
        flags.CANDIDATES,
        switch("--opposites", "also retrieve and pick passages that point away from the prompt"),
        flags.WHERE,
        switch("--exact", "scan all vectors, even if there is a FAISS index"),
        flags.WITHOUT_COPIES,
        flags.PER_DOCUMENT,
        "selection",
        Flag("-n", "N", int, "number of passages (default: 10)"),
        flags.METHOD,
        flags.NOISE,
        flags.KERNEL,
        switch("--residual", "retrieve new candidates at each step, for what the picks do not cover"),
        flags.REPLACEMENT,
        repeated("--known", "TEXT", str, "condition the selection on a known text; repeatable"),
        flags.OPTION,
        "early stopping",
        *flags.STOPPING,
        "output",
        switch("--compare", "print the nearest neighbours beside the selection"),
        switch("--full", "print whole passages"),
        flags.JSON,
        flags.OUT,
    )


def run(arguments: argparse.Namespace) -> int:
    """Search for one prompt or many."""
    from siftlm.memory import Memory

    _check(arguments)
    with Memory.open(arguments.folder, embedder=arguments.embedder) as memory:
        if memory.manifest.embedder == "precomputed" and (arguments.query is None or arguments.known):
            raise Conflict(
                f"{arguments.folder}: its vectors are precomputed, so siftlm cannot embed a prompt or --known text: "
                "pass the prompt's vectors with --query FILE.npy"
            )
        settings = _settings(arguments)
        if arguments.prompts is not None:
            with _output(arguments.out) as stream:
                for record in _search_many(arguments, memory, settings):
                    stream.write(json.dumps(record) + "\n")
            return 0
        prompt = _prompt(arguments)
        found = memory.search(prompt, DEFAULT_N if arguments.n is None else arguments.n, **settings)
        nearest = _nearest(memory, prompt, found, settings) if arguments.compare else None
        text = _rendered(arguments, memory, prompt, found, nearest)
    with _output(arguments.out) as stream:
        stream.write(printable(text, stream) + "\n")
    return 0


def _check(arguments: argparse.Namespace) -> None:
    from siftlm.cli import files

    files.one_text(arguments, "prompt", "prompt", "query", "prompt_file", "prompts")
    if arguments.compare and arguments.method == "nearest":
        raise Conflict("--compare and --method nearest exclude each other: --compare adds the nearest neighbours")
    if arguments.full and (arguments.json or arguments.prompts is not None):
        raise Conflict("--full and JSON output exclude each other: JSON always holds whole passages")


def _settings(arguments: argparse.Namespace) -> dict[str, Any]:
    """The keyword arguments of `Memory.search`."""
    settings = flags.search_settings(arguments)
    settings.update({name: True for name in SWITCHES if getattr(arguments, name)})
    flags.add_options(settings, arguments, RESERVED)
    not_recipe(arguments.method)
    check_counts({**settings, "query": arguments.query}, arguments.n)
    if any(not text.strip() for text in arguments.known):
        raise InvalidInput("--known is empty")
    return {**settings, **({"known": arguments.known} if arguments.known else {})}


def _prompt(arguments: argparse.Namespace) -> Any:
    """The prompt's text or vectors."""
    from siftlm.cli import files

    if arguments.query is not None:
        return files.vectors(arguments.query)
    text = files.argument_text(arguments.prompt, arguments.prompt_file).strip()
    if not text:
        raise InvalidInput("the prompt is empty")
    return text


def _nearest(memory: Memory, prompt: Any, found: Found, settings: dict[str, Any]) -> Found:
    """As many nearest neighbours as there are picks, with comparable uncertainty."""
    kept = {name: value for name, value in settings.items() if name in COMPARED}
    return memory.search(prompt, max(1, len(found)), method="nearest", **kept)


def _search_many(arguments: argparse.Namespace, memory: Memory, settings: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """A record for each line of --prompts, in order."""
    from siftlm.cli import files

    lines = files.prompts(arguments.prompts)
    while batch := list(itertools.islice(lines, PROMPT_BATCH)):
        many = memory.search_many(
            [line["prompt"] for line in batch], DEFAULT_N if arguments.n is None else arguments.n, **settings
        )
        for line, found in zip(batch, many, strict=True):
            nearest = _nearest(memory, line["prompt"], found, settings) if arguments.compare else None
            yield _record(line, found, nearest)


def _record(line: dict[str, Any], found: Found, nearest: Found | None) -> dict[str, Any]:
    return {**line, **found.to_dict(), **({} if nearest is None else {"nearest": nearest.to_dict()})}


def _rendered(arguments: argparse.Namespace, memory: Memory, prompt: Any, found: Found, nearest: Found | None) -> str:
    text = prompt if isinstance(prompt, str) else None
    if arguments.json:
        return json.dumps(_record({} if text is None else {"prompt": text}, found, nearest))
    terminal = Terminal(width=120) if arguments.out is not None else Terminal.of(sys.stdout)
    if not len(found):
        return terminal.render(*_no_results(arguments, memory))
    if nearest is not None:
        return terminal.render(*tables.comparison_parts(nearest, found, text, terminal, full=arguments.full))
    return terminal.render(*tables.found_parts(found, text, terminal, full=arguments.full))


def _no_results(arguments: argparse.Namespace, memory: Memory) -> list[str]:
    if len(memory) == 0:
        return ["No results: the memory is empty."]
    if arguments.where is not None and not len(memory.rows(arguments.where)):
        return [f"No results: no document matches --where {arguments.where}", "siftlm info MEMORY lists the fields."]
    if arguments.candidates == "words":
        return ["No results: no passage has a word of the prompt."]
    if arguments.where is None and arguments.method in (None, "sift"):
        return ["No results: nothing points towards the prompt; --method nearest lists what is closest."]
    return ["No results: every candidate was filtered out."]


@contextlib.contextmanager
def _output(path: str | None) -> Iterator[IO[str]]:
    """Standard output, or a file that is replaced atomically."""
    from siftlm.cli import files

    if path is None:
        yield sys.stdout
        return
    with files.replacing(path) as new, new.open("w", encoding="utf-8", errors="replace", newline="\n") as stream:
        yield stream
