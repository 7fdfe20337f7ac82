"""What Python says about itself in words: docstrings, and the language reference."""

from __future__ import annotations

import ast
import importlib
from collections.abc import Iterator
from dataclasses import dataclass

from benchmarks.sample_corpus import families, pieces
from benchmarks.sample_corpus.pieces import Piece

# Shorter docstrings tell nobody anything.
SHORTEST = 40
# Paragraphs of at least so many characters make two topics one text when both have them.
PARAGRAPH = 80
REFERENCE = "pydoc_data.topics"


@dataclass(frozen=True)
class Topic:
    """A chapter of the language reference, and what it shares its wording with."""

    name: str
    text: str
    family: str


def docstrings(module: str, tree: ast.Module, largest: int) -> list[Piece]:
    """Of a module, its public functions and classes, and their public methods, each below its signature."""
    # _pydecimal documents what a person imports as decimal.
    shown = module.removeprefix("_py").lstrip("_") if module.startswith("_py") else module
    return pieces.packed(_walk(tree, shown), largest)


def _walk(node: ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef, name: str) -> Iterator[Piece]:
    text = ast.get_docstring(node)
    if text is not None and len(text) >= SHORTEST:
        function = isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
        signature = f"({ast.unparse(node.args)})" if function and hasattr(node, "args") else ""
        yield Piece(name, f"{name}{signature}\n\n{text}")
    if isinstance(node, (ast.Module, ast.ClassDef)):
        for child in node.body:
            if isinstance(child, pieces.Definition) and not child.name.startswith("_"):
                yield from _walk(child, f"{name}.{child.name}")


def topics() -> list[Topic]:
    """The language reference as pydoc has it; empty where this Python came without."""
    try:
        found = importlib.import_module(REFERENCE).topics
    except (ImportError, AttributeError):
        return []
    texts = {str(name): text.strip() for name, text in found.items() if isinstance(text, str) and text.strip()}
    group = _groups(texts)
    return [Topic(name, text, group[name]) for name, text in sorted(texts.items())]


def _groups(texts: dict[str, str]) -> dict[str, str]:
    """Topics quote whole chapters of each other: each one's group is the first name that it is joined to."""
    group = {name: name for name in sorted(texts)}
    owner: dict[str, str] = {}
    for name in group:
        for paragraph in texts[name].split("\n\n"):
            words = " ".join(paragraph.split())
            if len(words) < PARAGRAPH:
                continue
            ours, theirs = group[name], group[owner.setdefault(words, name)]
            if ours != theirs:
                first, second = sorted((ours, theirs))
                group = {one: first if its == second else its for one, its in group.items()}
    return {name: families.family(first) for name, first in group.items()}
