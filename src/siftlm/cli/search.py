"""``siftlm search``: a prompt in, the passages that together tell most about it out."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from collections.abc import Iterator
from typing import IO, TYPE_CHECKING, Any

from siftlm.cli import settings
from siftlm.cli.drawing import Terminal, printable

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

columns: score is the cosine to the prompt; gain is what a pick added, given those before it; left is the uncertainty
about the prompt after it, drawn as a bar. What --where can say: siftlm info memory lists the fields, and
FIELD = "x", !=, <, <=, >, >=, in ["x", "y"], contains, starts, ends, exists FIELD, and, or, not, ( ) combine.
λ (--noise): small values ask for variety, large ones come close to nearest neighbour. Methods: siftlm methods.
"""
# Prompts of --prompts that are searched for together.
TOGETHER = 64
# Keyword arguments of Memory.search under their own names, when they are given.
PASSED_ON = (
    "method",
    "candidates",
    "where",
    "without_copies",
    "per_document",
    "noise",
    "replacement",
    "adaptive",
    "until",
    "min_gain",
)
# What --compare keeps for the nearest neighbours: not what decides how the other method picks, and when it stops.
COMPARED = {"k", "candidates", "where", "exact", "without_copies", "per_document", "noise", "kernel", "known"}


def add(commands: Any) -> None:
    """Declare the command."""
    parser = commands.add_parser(
        "search",
        help="search a memory for what tells most about a prompt",
        description="Find the passages of a memory that together tell most about a prompt.",
        epilog=EPILOG,
    )
    parser.add_argument("folder", metavar="FOLDER", help="the memory, as siftlm index made it")
    # Not nargs="?": argparse would give it nothing when options stand between the two.
    parser.add_argument("prompt", metavar="[PROMPT]", help="a text in quotes; - reads it from stdin").required = False
    parser.add_argument("--prompt-file", metavar="FILE", help="read the prompt from a file")
    parser.add_argument(
        "--prompts",
        metavar="FILE",
        help='many: one text or {"prompt": …} a line (.jsonl); prints one JSON object for each, on a line',
    )
    parser.add_argument("--query", metavar="FILE", help="the prompt's vectors instead, (d,) or (m, d), as .npy")

    parser.add_argument("--embedder", metavar="NAME", help="where the memory's own has moved to, such as a folder")

    what = parser.add_argument_group("what to choose among")
    what.add_argument(
        "--k",
        type=settings.number_or_all,
        metavar="K|all",
        help="so many nearest passages (default: 200), or the whole memory",
    )
    what.add_argument("--candidates", choices=("vectors", "words", "both"), help="found by these (default: vectors)")
    what.add_argument("--opposites", action="store_true", help="also among what points away from the prompt")
    what.add_argument("--where", metavar="EXPR", help="only such documents: 'source = \"wiki\" and year >= 2000'")
    what.add_argument("--exact", action="store_true", help="scan, even where there is a FAISS index")
    what.add_argument(
        "--without-copies",
        nargs="?",
        const=True,
        type=settings.share,
        metavar="S",
        help="leave out the prompt itself and what shares 80 %% (or S) of its wording",
    )
    what.add_argument("--per-document", type=int, metavar="N", help="at most so many passages of one document")

    how = parser.add_argument_group("how to choose")
    how.add_argument("-n", type=int, default=10, metavar="N", help="how many (default: 10)")
    how.add_argument("--method", metavar="M", help="see siftlm methods (default: sift)")
    how.add_argument("--noise", type=float, metavar="λ", help="default: 1")
    how.add_argument("--kernel", metavar="K", help=f"what similar means: {', '.join(settings.KERNELS)}")
    how.add_argument("--residual", action="store_true", help="search anew at each step, for what is still lacking")
    how.add_argument(
        "--replacement",
        type=settings.replacement,
        metavar="N|yes|no",
        help="may a passage be picked again: always, never (default), or N times in all",
    )
    how.add_argument(
        "--known",
        action="append",
        default=[],
        metavar="TEXT",
        help="a text that is known already, so that it is not told again; may be repeated",
    )
    how.add_argument(
        "--option",
        action="append",
        default=[],
        type=settings.option,
        metavar="NAME=VALUE",
        help="a setting of the method's own; may be repeated",
    )

    stop = parser.add_argument_group("when to stop before N")
    stop.add_argument("--adaptive", type=float, metavar="A", help="keep pick n only while σₙ ≤ 1 / (A n)")
    stop.add_argument("--until", type=float, metavar="F", help="at this fraction of the first uncertainty")
    stop.add_argument("--min-gain", type=float, metavar="F", help="when a pick takes less than this fraction away")

    output = parser.add_argument_group("output")
    output.add_argument("--compare", action="store_true", help="show the nearest neighbours beside it")
    output.add_argument("--full", action="store_true", help="print whole passages")
    output.add_argument("--json", action="store_true", help="one JSON object on one line")
    output.add_argument("--out", metavar="FILE", help="write there instead of printing, whole or not at all")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Search, then print."""
    from siftlm.errors import Conflict
    from siftlm.memory import Memory

    _check(arguments)
    with Memory.open(arguments.folder, embedder=arguments.embedder) as memory:
        if memory.manifest.embedder == "precomputed" and (arguments.query is None or arguments.known):
            raise Conflict(
                f"{arguments.folder}: its vectors were made elsewhere: give the prompt's with --query FILE.npy"
            )
        given = _settings(arguments)
        if arguments.prompts is not None:
            with _output(arguments.out) as stream:
                for line in _many(arguments, memory, given):
                    stream.write(printable(line, stream) + "\n")
            return 0
        prompt = _prompt(arguments)
        found = memory.search(prompt, arguments.n, **given)
        nearest = _nearest(memory, prompt, found, given) if arguments.compare else None
        text = _shown(arguments, memory, prompt, found, nearest)
    with _output(arguments.out) as stream:
        stream.write(printable(text, stream) + "\n")
    return 0


def _check(arguments: argparse.Namespace) -> None:
    from siftlm.errors import Conflict, InvalidInput

    given = [name for name in ("prompt", "prompt_file", "prompts", "query") if getattr(arguments, name) is not None]
    if not given:
        raise InvalidInput("there is no prompt: give a text in quotes, - for stdin, --prompt-file or --prompts")
    if len(given) > 1:
        flags = ["the prompt" if name == "prompt" else "--" + name.replace("_", "-") for name in given]
        raise Conflict(f"{flags[0]} and {flags[1]} exclude each other")
    if arguments.compare and arguments.method == "nearest":
        raise Conflict("--compare shows nearest neighbour beside another method: leave out --method nearest")
    if arguments.full and (arguments.json or arguments.prompts is not None):
        raise Conflict("--full is for a person; JSON holds whole passages anyway")


def _settings(arguments: argparse.Namespace) -> dict[str, Any]:
    """The keyword arguments of `Memory.search`: only what was asked for."""
    from siftlm.errors import InvalidInput

    given = {name: value for name in PASSED_ON if (value := getattr(arguments, name)) is not None}
    if arguments.k is not None:
        given["k"] = None if arguments.k == "all" else arguments.k
    if arguments.kernel is not None:
        given["kernel"] = settings.kernel(arguments.kernel)
    given.update({name: True for name in ("residual", "exact", "opposites") if getattr(arguments, name)})
    for name, value in arguments.option:
        if name in RESERVED:
            raise InvalidInput(f"--option {name}: that is no setting of a method; see siftlm search --help")
        given[name] = value
    if any(not text.strip() for text in arguments.known):
        raise InvalidInput("--known is empty")
    if arguments.known:
        given["known"] = arguments.known
    return given


RESERVED = {
    *PASSED_ON,
    "n",
    "k",
    "query",
    "kernel",
    "residual",
    "exact",
    "opposites",
    "known",
    "exclude",
    "sources",
    "source_cap",
}


def _prompt(arguments: argparse.Namespace) -> Any:
    """Its text, or its vectors."""
    from siftlm.cli import files
    from siftlm.errors import InvalidInput

    if arguments.query is not None:
        return files.vectors(arguments.query)
    text = arguments.prompt
    if arguments.prompt_file is not None:
        text = files.text(arguments.prompt_file)
    elif text == "-":
        text = files.text_of(sys.stdin, "standard input")
    if not text.strip():
        raise InvalidInput("the prompt is empty")
    return text.strip()


def _nearest(memory: Memory, prompt: Any, found: Found, given: dict[str, Any]) -> Found:
    """As many neighbours as were picked; uncertainty is measured in the same way for both."""
    options = {name: value for name, value in given.items() if name in COMPARED}
    return memory.search(prompt, max(1, len(found)), method="nearest", **options)


def _many(arguments: argparse.Namespace, memory: Memory, given: dict[str, Any]) -> Iterator[str]:
    """A JSON line for each line of --prompts, in their order."""
    from siftlm.cli import files

    lines = files.prompts(arguments.prompts)
    while some := [line for _, line in zip(range(TOGETHER), lines, strict=False)]:
        texts = [line["prompt"] for line in some]
        many = memory.search_many(texts, arguments.n, **given)
        for line, found in zip(some, many, strict=True):
            nearest = _nearest(memory, line["prompt"], found, given) if arguments.compare else None
            yield _json(line, found, nearest)


def _json(line: dict[str, Any], found: Found, nearest: Found | None) -> str:
    record = {**line, **found.to_dict()}
    if nearest is not None:
        record["nearest"] = nearest.to_dict()
    return json.dumps(record)


def _shown(arguments: argparse.Namespace, memory: Memory, prompt: Any, found: Found, nearest: Found | None) -> str:
    from siftlm.cli import hits

    text = prompt if isinstance(prompt, str) else None
    if arguments.json:
        return _json({} if text is None else {"prompt": text}, found, nearest)
    terminal = Terminal(width=120) if arguments.out is not None else Terminal.of(sys.stdout)
    if not len(found):
        return _why_nothing(arguments, memory)
    if nearest is not None:
        lines = hits.compared(nearest, found, text, terminal, full=arguments.full)
    else:
        lines = hits.rows(found, text, terminal, full=arguments.full)
    return "\n".join(lines)


def _why_nothing(arguments: argparse.Namespace, memory: Memory) -> str:
    if len(memory) == 0:
        return "Nothing found: the memory is empty."
    if arguments.where is not None and not len(memory.rows(arguments.where)):
        return f"Nothing found: no document meets --where {arguments.where}\nWhich fields there are: siftlm info"
    if arguments.candidates == "words":
        return "Nothing found: no passage holds a word of the prompt."
    return "Nothing found: everything near the prompt was left out."


@contextlib.contextmanager
def _output(path: str | None) -> Iterator[IO[str]]:
    """Standard output, or a file that is there in the end as a whole or not at all."""
    from siftlm.cli import files

    if path is None:
        yield sys.stdout
        return
    with files.replacing(path) as new, new.open("w", encoding="utf-8", errors="replace", newline="\n") as stream:
        yield stream
