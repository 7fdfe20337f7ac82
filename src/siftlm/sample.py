"""Sample corpus: Python's own library and language reference, and school mathematics, in one file that ships.

    memory = Memory.build(sample.documents(), into="sample-memory")
    prompt = sample.prompts("code", count=1)[0]
    memory.search(prompt.text)

Some modules, topics and problems are held out: no document holds them, so prompts are made of them. What the texts are
and whose stands in ``data/README.md``; ``benchmarks/sample_corpus`` makes the file.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from random import Random

from siftlm.errors import Damaged, InvalidInput, UnknownName
from siftlm.types import Document

__all__ = ["KINDS", "documents", "prompts"]

KINDS = ("code", "prose", "mathematics")
FILE = Path(__file__).parent / "data" / "sample.jsonl.xz"
# Size -> the parts of the file that it takes.
SIZES = {"small": ("small",), "full": ("small", "full")}
# The parts that come before any document.
HELD_OUT = ("prompt", "held-out")


def documents(*, size: str = "small", only: str | Iterable[str] | None = None) -> Iterator[Document]:
    """Yield the corpus, always in the same order. What is held out for `prompts` is not in it.

    A document's ``meta`` has ``kind`` (``code``, ``prose`` or ``mathematics``), ``source`` (the module, the language
    reference or the kind of problem) and ``name`` (``heapq.merge``).

    Args:
        size: ``small`` takes some of every module, ``full`` everything.
        only: one or several kinds; left out, all three.
    """
    kinds = kinds_of(only)
    if size not in SIZES:
        raise UnknownName("size", size, SIZES)
    return (document for part, document in _records() if part in SIZES[size] and document.meta["kind"] in kinds)


def prompts(kind: str | None = None, count: int = 12, *, seed: int = 0) -> list[Document]:
    """Draw held-out documents, of which `documents` has none: of modules, topics and problems that are not in it.

    Without a ``kind`` they take turns: code, prose, mathematics, code, … No two are of the same module, as long as
    there are others. A larger ``count`` begins with what a smaller one draws.
    """
    kinds = kinds_of(kind)
    if count < 1:
        raise InvalidInput(f"count={count}: ask for at least one prompt")
    found: dict[str, list[Document]] = {one: [] for one in kinds}
    for part, document in _records():
        if part not in HELD_OUT:
            break
        if part == "prompt" and document.meta["kind"] in kinds:
            found[document.meta["kind"]].append(document)
    for place, one in enumerate(kinds):
        if len(found[one]) < len(range(place, count, len(kinds))):
            raise InvalidInput(f"count={count}: there are only {len(found[one])} prompts of kind {one!r}")
    drawn = {one: iter(_drawn(one, found[one], seed)) for one in kinds}
    return [next(drawn[kinds[number % len(kinds)]]) for number in range(count)]


def _drawn(kind: str, found: list[Document], seed: int) -> list[Document]:
    """In an order by lot: first one of each source, then a second one of each, and so on."""
    rng = Random(f"{kind} {seed}")
    if kind == "mathematics":
        sheets = _by_source(found)
        names = list(sheets)
        rng.shuffle(names)
        # Every source has equally many: another seed begins with others of them.
        each = len(sheets[names[0]])
        return [sheets[name][(turn + seed) % each] for turn in range(each) for name in names]
    rng.shuffle(found)
    turns = {id(one): turn for sheet in _by_source(found).values() for turn, one in enumerate(sheet)}
    return sorted(found, key=lambda one: turns[id(one)])


def _by_source(found: list[Document]) -> dict[str, list[Document]]:
    """The documents of each module, topic or kind of problem."""
    groups: dict[str, list[Document]] = defaultdict(list)
    for one in found:
        groups[one.meta["name" if one.meta["source"] == "language reference" else "source"]].append(one)
    return groups


def _records() -> Iterator[tuple[str, Document]]:
    """Read one by one: a record's part, and its document."""
    try:
        import lzma
    except ImportError as error:
        raise InvalidInput("this Python was built without lzma, in which the sample corpus is compressed") from error
    try:
        with lzma.open(FILE) as lines:
            lines.readline()  # says what the others are
            for line in lines:
                one = json.loads(line)
                meta = {key: one[key] for key in ("kind", "source", "name")}
                yield one["part"], Document(one["text"], meta, one["id"])
    except (OSError, EOFError, lzma.LZMAError, ValueError, KeyError, TypeError) as error:
        raise Damaged(
            f"{FILE}: not the sample corpus that ships with siftlm ({error}); install siftlm again"
        ) from error


def kinds_of(only: str | Iterable[str] | None) -> tuple[str, ...]:
    """One or several kinds, or all for None, in the order of `KINDS`."""
    wanted = set(KINDS) if only is None else {only} if isinstance(only, str) else set(only)
    for kind in wanted:
        if kind not in KINDS:
            raise UnknownName("kind", kind, KINDS)
    if not wanted:
        raise InvalidInput(f"only names no kind: choose among {', '.join(KINDS)}")
    return tuple(kind for kind in KINDS if kind in wanted)
