"""What becomes a document, and what a prompt."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from benchmarks.sample_corpus import families, mathematics, pieces, prose, standard
from benchmarks.sample_corpus.pieces import Piece
from benchmarks.sample_corpus.standard import Module

from siftlm.errors import InvalidInput, UnknownName
from siftlm.sample import kinds_of
from siftlm.types import Document

# Fewer modules than this are not a standard library.
ENOUGH = 60
# Characters of a document: about three passages of 256 tokens, so that a definition mostly stays in one.
LARGEST = 2000
# A prompt is long enough to be embedded by its first half and scored on its second.
SHORTEST_PROMPT = 600
# Held-out documents of a kind of problem.
HELD_OUT_BATCHES = 10


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
    """Yield the corpus, always in the same order. What `held_out` yields is not in it.

    A document's ``meta`` has ``kind`` (``code``, ``prose`` or ``mathematics``), ``source`` (the module, the language
    reference or the kind of problem) and ``name`` (``heapq.merge``). No path of the machine is in it.

    Args:
        size: ``small`` takes some of every module, ``full`` everything.
        only: one or several kinds; left out, all three.
        largest: characters of a document of code or prose at most. Short definitions are joined, long ones are cut.
        seed: of the mathematics.
    """
    kinds = kinds_of(only)
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


def held_out(*, only: str | Iterable[str] | None = None, largest: int = LARGEST) -> Iterator[Document]:
    """Yield what prompts are drawn from, of which `documents` has none: other modules, topics and problems."""
    kinds = kinds_of(only)
    modules = _enough(standard.modules()) if {"code", "prose"} & set(kinds) else []
    return _held_out(kinds, modules, largest)


def _held_out(kinds: tuple[str, ...], modules: list[Module], largest: int) -> Iterator[Document]:
    yield from _of_library(_side(modules, held_out=True), kinds, SIZES["full"], largest)
    if "prose" in kinds:
        yield from _reference(largest, held_out=True)
    if "mathematics" in kinds:
        yield from mathematics.documents(HELD_OUT_BATCHES, held_out=True)


def is_prompt(document: Document) -> bool:
    """Is this held-out document long enough to have two halves, and no table?"""
    if document.meta["kind"] == "mathematics":
        return True
    return len(document.text) >= SHORTEST_PROMPT and (document.meta["kind"] == "prose" or "def " in document.text)


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


def _enough(modules: list[Module]) -> list[Module]:
    if len(modules) < ENOUGH:
        raise InvalidInput(
            f"this Python came with the source text of {len(modules)} modules of its standard library, fewer than "
            f"{ENOUGH}: use one that has them, or ask for mathematics alone"
        )
    return modules
