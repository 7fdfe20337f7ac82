"""``siftlm search``: a prompt in, the most informative passages for it out."""

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
from siftlm.errors import Conflict, InvalidInput

if TYPE_CHECKING:
    from siftlm.memory import Found, Memory

EPILOG = """\
examples:
  siftlm search memory "how are lists sorted by several keys"
  siftlm search memory "how are lists sorted" --compare        nearest neighbour beside SIFT: judge for yourself
  siftlm search memory "how are lists sorted" -n 5 --full      whole passages
  siftlm search memory "sort" --where 'suffix = ".py" and not path starts "test"'
  siftlm search memory "E1102" --candidates both               also by the very words, as for names and codes
  siftlm search memory "how are lists sorted" --k all          choose among the whole memory, exactly
  siftlm search memory "how are lists sorted" --known "list.sort takes a key." --until 0.2
  siftlm search memory - < question.txt                        or --prompt-file question.txt
  siftlm search memory --prompts prompts.jsonl --out found.jsonl
  siftlm search memory "sort" --json | jq -r '.hits[].text'

columns: score is the cosine to the prompt; gain is what a pick added, given those before it; uncertainty left is what
remains to be known about the prompt after it. What --where can say: siftlm info memory lists the fields, and
FIELD = "x", !=, <, <=, >, >=, in ["x", "y"], contains, starts, ends, exists FIELD, and, or, not, ( ) combine.
λ (--noise): small values ask for variety, large ones come close to nearest neighbour. Methods: siftlm methods.
"""
# Prompts of --prompts that are searched for together.
PROMPTS_TOGETHER = 64
# What --compare keeps for the nearest neighbours: not what decides how the other method picks, and when it stops.
COMPARED = {"k", "candidates", "where", "exact", "without_copies", "per_document", "noise", "kernel", "known"}
SWITCHES = ("residual", "exact", "opposites")
# Settings that --option must not name: they have flags of their own, or none.
RESERVED = (*flags.SEARCH_NAMES, *SWITCHES, "n", "k", "query", "kernel", "known", "exclude", "sources", "source_cap")


def add(commands: Any) -> None:
    """Declare the command."""
    parser = flags.command(
        commands, "search", run, "find the passages of a memory that are most informative about a prompt", EPILOG
    )
    many = 'many: one text or {"prompt": …} a line (.jsonl); prints one JSON object for each, on a line'
    flags.declare(
        parser,
        flags.FOLDER.but("the memory, as siftlm index made it"),
        flags.PROMPT,
        flags.PROMPT_FILE,
        Flag("--prompts", "FILE", str, many),
        Flag("--query", "FILE", str, "the prompt's vectors instead, (d,) or (m, d), as .npy"),
        flags.EMBEDDER,
        "what to choose among",
        flags.K,
        flags.CANDIDATES,
        switch("--opposites", "also among what points away from the prompt"),
        flags.WHERE,
        switch("--exact", "scan, even where there is a FAISS index"),
        flags.WITHOUT_COPIES,
        flags.PER_DOCUMENT,
        "how to choose",
        Flag("-n", "N", int, "how many (default: 10)", 10),
        flags.METHOD,
        flags.NOISE,
        flags.KERNEL,
        switch("--residual", "search anew at each step, for what is still lacking"),
        flags.REPLACEMENT,
        repeated("--known", "TEXT", str, "a text that is known already, so that it is not found again; repeatable"),
        flags.OPTION,
        "when to stop before N",
        *flags.STOPPING,
        "output",
        switch("--compare", "also show the nearest neighbours"),
        switch("--full", "print whole passages"),
        flags.JSON,
        flags.OUT,
    )


def run(arguments: argparse.Namespace) -> int:
    """Search, then print."""
    from siftlm.memory import Memory

    _check(arguments)
    with Memory.open(arguments.folder, embedder=arguments.embedder) as memory:
        if memory.manifest.embedder == "precomputed" and (arguments.query is None or arguments.known):
            raise Conflict(
                f"{arguments.folder}: its vectors were made elsewhere: give the prompt's with --query FILE.npy"
            )
        settings = _settings(arguments)
        if arguments.prompts is not None:
            with _output(arguments.out) as stream:
                for record in _search_many(arguments, memory, settings):
                    stream.write(json.dumps(record) + "\n")
            return 0
        prompt = _prompt(arguments)
        found = memory.search(prompt, arguments.n, **settings)
        nearest = _nearest(memory, prompt, found, settings) if arguments.compare else None
        text = _rendered(arguments, memory, prompt, found, nearest)
    with _output(arguments.out) as stream:
        stream.write(printable(text, stream) + "\n")
    return 0


def _check(arguments: argparse.Namespace) -> None:
    flags.one_text(arguments, "prompt", "prompt", "query", "prompt_file", "prompts")
    if arguments.compare and arguments.method == "nearest":
        raise Conflict("--compare shows nearest neighbour beside another method: leave out --method nearest")
    if arguments.full and (arguments.json or arguments.prompts is not None):
        raise Conflict("--full is for a person; JSON holds whole passages anyway")


def _settings(arguments: argparse.Namespace) -> dict[str, Any]:
    """The keyword arguments of `Memory.search`: only what was asked for."""
    settings = flags.search_settings(arguments)
    settings.update({name: True for name in SWITCHES if getattr(arguments, name)})
    flags.add_options(settings, arguments, RESERVED)
    if any(not text.strip() for text in arguments.known):
        raise InvalidInput("--known is empty")
    return {**settings, **({"known": arguments.known} if arguments.known else {})}


def _prompt(arguments: argparse.Namespace) -> Any:
    """Its text, or its vectors."""
    from siftlm.cli import files

    if arguments.query is not None:
        return files.vectors(arguments.query)
    text = flags.read_text(arguments.prompt, arguments.prompt_file).strip()
    if not text:
        raise InvalidInput("the prompt is empty")
    return text


def _nearest(memory: Memory, prompt: Any, found: Found, settings: dict[str, Any]) -> Found:
    """As many neighbours as were picked; uncertainty is measured in the same way for both."""
    kept = {name: value for name, value in settings.items() if name in COMPARED}
    return memory.search(prompt, max(1, len(found)), method="nearest", **kept)


def _search_many(arguments: argparse.Namespace, memory: Memory, settings: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """A record for each line of --prompts, in their order."""
    from siftlm.cli import files

    lines = files.prompts(arguments.prompts)
    while batch := list(itertools.islice(lines, PROMPTS_TOGETHER)):
        many = memory.search_many([line["prompt"] for line in batch], arguments.n, **settings)
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
        return terminal.render(*_why_nothing(arguments, memory))
    if nearest is not None:
        return terminal.render(*tables.comparison_parts(nearest, found, text, terminal, full=arguments.full))
    return terminal.render(*tables.found_parts(found, text, terminal, full=arguments.full))


def _why_nothing(arguments: argparse.Namespace, memory: Memory) -> list[str]:
    if len(memory) == 0:
        return ["Nothing found: the memory is empty."]
    if arguments.where is not None and not len(memory.rows(arguments.where)):
        return [f"Nothing found: no document meets --where {arguments.where}", "Which fields there are: siftlm info"]
    if arguments.candidates == "words":
        return ["Nothing found: no passage holds a word of the prompt."]
    return ["Nothing found: everything near the prompt was left out."]


@contextlib.contextmanager
def _output(path: str | None) -> Iterator[IO[str]]:
    """Standard output, or a file that is there in the end as a whole or not at all."""
    from siftlm.cli import files

    if path is None:
        yield sys.stdout
        return
    with files.replacing(path) as new, new.open("w", encoding="utf-8", errors="replace", newline="\n") as stream:
        yield stream
