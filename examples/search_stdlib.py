"""Search the documentation that comes with Python: nearest neighbour and SIFT, side by side.

    python examples/search_stdlib.py
    python examples/search_stdlib.py "how do I read a file line by line?" -n 8
    python examples/search_stdlib.py --embedder path/to/all-MiniLM-L6-v2 --precision bfloat16

The corpus is on every machine that has Python: the docstrings of the standard library's modules, each with its
signature, and the topics of the language reference (``pydoc_data``). The first run reads and embeds them into a folder
of the temporary directory (``--into`` names another); the next ones open that. An embedder other than ``hashing`` is
the name or the folder of a sentence-transformers or Hugging Face model, and needs ``pip install 'siftlm[embed]'``.
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import pydoc_data.topics
import sysconfig
import tempfile
import textwrap
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from siftlm import Document, Found, Hit, Memory, embedder
from siftlm.embedding import Embedder

PROMPTS = (
    "Read a CSV file, compute the median of a column, and send the result by e-mail.",
    "How do I compare two files and print the differences, ignoring white space?",
    "What is the difference between a process and a thread, and how do they share data?",
    "How do I raise, catch and clean up after an exception?",
    "How do I pick a random element, and shuffle a list?",
    "How do I copy a file together with its permissions and times?",
)
# Shorter docstrings tell nobody anything.
SHORTEST = 40
COLUMN = 54


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("prompts", nargs="*", default=list(PROMPTS), metavar="PROMPT")
    parser.add_argument("--embedder", default="hashing", help="name or folder of a model (default: hashing)")
    parser.add_argument("--precision", help="of a model: float32, bfloat16 or float16")
    parser.add_argument("--modules", help="only these, such as heapq,bisect (default: all at the top level)")
    parser.add_argument("--into", type=Path, help="the memory's folder")
    parser.add_argument("-n", type=int, default=6, help="picks for each prompt (default: 6)")
    parser.add_argument("--noise", type=float, default=1.0, help="SIFT's λ (default: 1)")
    parser.add_argument("--k", type=int, default=200, help="choose among so many nearest passages (default: 200)")
    given = parser.parse_args(arguments)

    made = embedder(given.embedder, **({"precision": given.precision} if given.precision else {}))
    corpus = documents(None if given.modules is None else given.modules.split(","))
    with Memory.build(corpus, given.into or folder_for(corpus, made), embedder=made) as memory:
        print(f"{len(memory):,} passages of {len(corpus):,} documents")
        for prompt in given.prompts:
            # For reading: what was shown once is not shown again.
            nearest = memory.search(prompt, given.n, method="nearest")
            sift = memory.search(prompt, given.n, k=given.k, noise=given.noise)
            print(f"\n{prompt}\n{side_by_side(memory, nearest, sift)}")


def folder_for(corpus: Sequence[Document], made: Embedder) -> Path:
    """Another corpus (or Python, or embedder) is another memory."""
    digest = hashlib.sha256(made.fingerprint.encode())
    for document in corpus:
        digest.update(document.text.encode())
    return Path(tempfile.gettempdir()) / f"siftlm-stdlib-{digest.hexdigest()[:12]}"


# --- the corpus


def documents(modules: Sequence[str] | None = None) -> list[Document]:
    """Docstrings and topics, always in the same order."""
    found: list[Document] = []
    for file in sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py")):
        if modules is None or file.stem in modules:
            found += docstrings(file)
    if modules is None:
        for name, text in sorted(pydoc_data.topics.topics.items()):
            found.append(Document(text, {"name": name, "kind": "topic"}, f"topic:{name}"))
    return found


def docstrings(file: Path) -> Iterator[Document]:
    """Of a module, its public functions and classes, and their public methods."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # some modules show what not to write
        tree = ast.parse(file.read_bytes())
    yield from walk(tree, file.stem.removeprefix("_py"))  # _pyio and _pydecimal are io and decimal, in Python


def walk(node: ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef, name: str) -> Iterator[Document]:
    text = ast.get_docstring(node)
    signature, kind = "", "class" if isinstance(node, ast.ClassDef) else "module"
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
        signature, kind = f"({ast.unparse(node.args)})", "function"
    if text is not None and len(text) >= SHORTEST:
        yield Document(f"{name}{signature}\n\n{text}", {"name": name, "kind": kind}, name)
    if kind != "function":
        for child in node.body:
            if isinstance(child, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)) and child.name[0] != "_":
                yield from walk(child, f"{name}.{child.name}")


# --- what is shown


def side_by_side(memory: Memory, nearest: Found, sift: Found) -> str:
    lines = [("nearest neighbour", "SIFT")]
    lines += [(shown(left), shown(right)) for left, right in zip(nearest, sift, strict=True)]
    lines += [(summary(memory, nearest), summary(memory, sift))]
    return "\n".join(f"  {left:<{COLUMN}}  {right}".rstrip() for left, right in lines)


def shown(hit: Hit) -> str:
    """The cosine to the prompt, the name, and as much of the passage as fits."""
    name = hit.meta["name"]
    text = hit.text.partition("\n\n")[2] if hit.part == 0 and hit.meta["kind"] != "topic" else hit.text
    return textwrap.shorten(f"{hit.score:.2f} {name}: {' '.join(text.split())}", COLUMN, placeholder=" …")


def summary(memory: Memory, found: Found) -> str:
    """How much the picks repeat each other, and how near to the prompt they are."""
    vectors = memory.vectors(found.selection.indices)
    cosines = (vectors @ vectors.T)[np.triu_indices(len(vectors), k=1)]
    scores = [hit.score for hit in found]
    return f"cosine to the prompt {np.mean(scores):.2f}, to each other {cosines.mean():.2f}"


if __name__ == "__main__":
    main()
