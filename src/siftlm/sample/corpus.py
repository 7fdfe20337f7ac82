"""What becomes a document, and what a prompt."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from random import Random

from siftlm.errors import InvalidInput, UnknownName
from siftlm.sample import families, mathematics, pieces, prose, standard
from siftlm.sample.pieces import Piece
from siftlm.sample.standard import Module
from siftlm.types import Document

KINDS = ("code", "prose", "mathematics")
# Fewer modules than this are not a standard library.
ENOUGH = 60
# Characters of a document: about three passages of 256 tokens, so that a definition mostly stays in one.
LARGEST = 2000
# A prompt is long enough to be embedded by its first half and scored on its second.
SHORTEST_PROMPT = 600


@dataclass(frozen=True)
class Size:
    """How much becomes a document."""

    read: int | None
    """Characters of source text of a family of modules that are looked at; None for all."""
    family: int | None
    """Characters of code, and of docstrings, that a family has in the corpus."""
    batches: int
    """Documents of a kind of problem."""
    tables: bool
    """Also the encodings, which are tables?"""


SIZES = {"small": Size(120_000, 40_000, 30, tables=False), "full": Size(None, None, 150, tables=True)}


@dataclass(frozen=True)
class Inventory:
    """What of the corpus this Python has."""

    modules: int
    """Modules of the standard library that came with their source text."""
    topics: int
    """Chapters of the language reference."""
    missing: tuple[str, ...]
    """What is not there, in words: nothing, as a rule."""


def inventory() -> Inventory:
    """Look what is there, without building anything; some Pythons come without sources or without `pydoc_data`."""
    modules, topics = len(standard.modules()), len(prose.topics())
    missing = []
    if modules < ENOUGH:
        missing.append(f"the source texts of the standard library ({modules} modules found)")
    if not topics:
        missing.append(f"the language reference ({prose.REFERENCE})")
    return Inventory(modules, topics, tuple(missing))


def documents(
    *, size: str = "small", only: str | Iterable[str] | None = None, largest: int = LARGEST, seed: int = 0
) -> Iterator[Document]:
    """Yield the corpus, always in the same order. What is held out for `prompts` is not in it.

    A document's ``meta`` has ``kind`` (``code``, ``prose`` or ``mathematics``), ``source`` (the module, the language
    reference or the kind of problem) and ``name`` (``heapq.merge``). No path of the machine is in it.

    Args:
        size: ``small`` takes some of every module, ``full`` everything.
        only: one or several kinds; left out, all three.
        largest: characters of a document of code or prose at most. Short definitions are joined, long ones are cut.
        seed: of the mathematics.
    """
    kinds = _kinds(only)
    if size not in SIZES:
        raise UnknownName("size", size, SIZES)
    if largest < 100:
        raise InvalidInput(f"largest={largest}: a document needs at least 100 characters")
    modules = _enough(standard.modules()) if {"code", "prose"} & set(kinds) else []
    return _documents(kinds, modules, SIZES[size], largest, seed)


def _documents(
    kinds: tuple[str, ...], modules: list[Module], size: Size, largest: int, seed: int
) -> Iterator[Document]:
    kept = _side(modules, held_out=False)
    if not size.tables:
        kept = [module for module in kept if not module.name.startswith("encodings.")]
    yield from _of_library(kept, kinds, size, largest)
    if "prose" in kinds:
        yield from _reference(largest, held_out=False)
    if "mathematics" in kinds:
        yield from mathematics.documents(size.batches, seed=seed)


def prompts(kind: str | None = None, count: int = 12, *, seed: int = 0, largest: int = LARGEST) -> list[Document]:
    """Draw held-out documents, of which `documents` has none: of modules, topics and problems that are not in it.

    Without a ``kind`` they take turns: code, prose, mathematics, code, … No two are of the same module, as long as
    there are others.
    """
    kinds = _kinds(kind)
    if count < 1:
        raise InvalidInput(f"count={count}: ask for at least one prompt")
    modules = _enough(standard.modules()) if {"code", "prose"} & set(kinds) else []
    held = list(_of_library(_side(modules, held_out=True), kinds, SIZES["full"], largest))
    if "prose" in kinds:
        held += _reference(largest, held_out=True)
    drawn = {}
    for place, one in enumerate(kinds):
        wanted = len(range(place, count, len(kinds)))
        drawn[one] = iter(_drawn(one, wanted, held, seed, largest))
    return [next(drawn[kinds[number % len(kinds)]]) for number in range(count)]


def _drawn(kind: str, count: int, held: list[Document], seed: int, largest: int) -> list[Document]:
    rng = Random(f"{kind} {seed}")
    if kind == "mathematics":
        names = list(mathematics.MODULES)
        rng.shuffle(names)
        each = -(-count // len(names))
        found = list(mathematics.documents(each, seed=seed, held_out=True, modules=names[:count]))
    else:
        shortest = min(SHORTEST_PROMPT, largest // 2)
        found = [one for one in held if one.meta["kind"] == kind and len(one.text) >= shortest]
        if kind == "code":
            found = [one for one in found if "def " in one.text]  # no tables
        rng.shuffle(found)
    if len(found) < count:
        raise InvalidInput(f"count={count}: there are only {len(found)} prompts of kind {kind!r}")
    return _by_turns(found)[:count]


def _by_turns(found: list[Document]) -> list[Document]:
    """First one of each source, then a second one of each, and so on."""
    turns: dict[str, int] = {}
    keyed = []
    for place, document in enumerate(found):
        source = document.meta["source"] if document.meta["source"] != "language reference" else document.meta["name"]
        turns[source] = turns.get(source, 0) + 1
        keyed.append((turns[source], place))
    return [found[place] for _, place in sorted(keyed)]


def _of_library(modules: list[Module], kinds: tuple[str, ...], size: Size, largest: int) -> Iterator[Document]:
    """Family by family, first its code and then its docstrings."""
    by_family: dict[str, list[Module]] = {}
    for module in modules:
        by_family.setdefault(families.family(module.name), []).append(module)
    for family in sorted(by_family):
        code: list[Document] = []
        words: list[Document] = []
        for module in _first(by_family[family], size.read):
            tree = pieces.parsed(module.text)
            if tree is None:
                continue
            if "code" in kinds:
                code += _made("code", module, pieces.of_source(module.name, module.text, tree, largest))
            if "prose" in kinds:
                words += _made("prose", module, prose.docstrings(module.name, tree, largest))
        yield from _spread(code, size.family)
        yield from _spread(words, size.family)


def _made(kind: str, module: Module, parts: list[Piece]) -> Iterator[Document]:
    for number, piece in enumerate(parts):
        meta = {"kind": kind, "source": module.name, "name": piece.name}
        yield Document(piece.text, meta, f"{kind}:{module.name}:{number}")


def _side(modules: list[Module], *, held_out: bool) -> list[Module]:
    return [module for module in modules if families.held_out(families.family(module.name)) == held_out]


def _first(modules: list[Module], allowed: int | None) -> list[Module]:
    """So many characters of a family's modules, packages before what is in them; at least one module."""
    if allowed is None:
        return modules
    chosen: list[Module] = []
    for module in sorted(modules, key=lambda module: (module.name.count("."), module.name)):
        if chosen and allowed < len(module.text):
            break
        chosen.append(module)
        allowed -= len(module.text)
    return chosen


def _spread(found: list[Document], allowed: int | None) -> list[Document]:
    """About so many characters, evenly from the whole."""
    total = sum(len(document.text) for document in found)
    if allowed is None or total <= allowed:
        return found
    keep = max(1, len(found) * allowed // total)
    return [found[place * len(found) // keep] for place in range(keep)]


def _reference(largest: int, *, held_out: bool) -> Iterator[Document]:
    for topic in prose.topics():
        if families.held_out(topic.family) == held_out:
            for number, piece in enumerate(pieces.cut(Piece(topic.name, topic.text), largest)):
                meta = {"kind": "prose", "source": "language reference", "name": topic.name}
                yield Document(piece.text, meta, f"prose:topic {topic.name}:{number}")


def _kinds(only: str | Iterable[str] | None) -> tuple[str, ...]:
    wanted = set(KINDS) if only is None else {only} if isinstance(only, str) else set(only)
    for kind in wanted:
        if kind not in KINDS:
            raise UnknownName("kind", kind, KINDS)
    if not wanted:
        raise InvalidInput(f"only names no kind: choose among {', '.join(KINDS)}")
    return tuple(kind for kind in KINDS if kind in wanted)


def _enough(modules: list[Module]) -> list[Module]:
    if len(modules) < ENOUGH:
        raise InvalidInput(
            f"this Python came with the source text of {len(modules)} modules of its standard library, fewer than "
            f"{ENOUGH}: use one that has them, or ask for mathematics alone"
        )
    return modules
