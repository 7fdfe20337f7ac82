"""The size of the house: how many files, how long, how many to a room, and one meaning for every class name."""

from __future__ import annotations

import ast
from collections import Counter, defaultdict
from pathlib import Path

from contracts.tree import SOURCE, imported, modules

# 180 for what stood when the house was rebuilt, and what is new since: embedding/static.py, guard.py, and of the memory
# reading/columns.py and reading/files.py; embedding/words.py and embedding/batches.py in place of two that went; the
# diagnosis in the selection room, which took half of memory/redundancy.py; the ranking that adapters share,
# and the adapters for LangChain, FAISS, sentence-transformers, datasets and MCP, LlamaIndex, Haystack and Qdrant (two
# files), with what the last three share; the data loader of training loops, its embeddings, and its trainer; the loop
# of plain SIFT, for one prompt and for many; selection/gram.py, out of a file that had become too long; the picking
# room with its command (pools in, selection, files out, report, verdict: 16), and what it needed in the selection room
# (plane.py, trace.py); the published selectors, one file each (6), with the transport and the clusters that two of them
# share, and the options of methods in the picking room; the local dimension; the review of a pool with its command (10)
# and contrastive generation (2); the choice of a batch, out of the data loader; LESS's warm-up and features (2); UDS's
# batches.
MAX_FILES = 248
MAX_FILES_IN_A_ROOM = 40
MAX_LINES = 450
# A shorter file that a single other file imports belongs into that one, unless there is a reason.
MIN_LINES = 40
SHORT_FOR_A_REASON: dict[str, str] = {}


def lines_of(path: Path) -> int:
    return len(path.read_text(encoding="utf-8").splitlines())


def room_of(module: str) -> str:
    """The folder below siftlm, or siftlm itself for the files that lie in no folder."""
    parts = module.split(".")
    return parts[1] if len(parts) > 2 or (SOURCE / "siftlm" / parts[-1]).is_dir() else "siftlm"


def importers() -> dict[str, set[str]]:
    """Module -> the modules that import it or a name of it."""
    found: dict[str, set[str]] = defaultdict(set)
    known = set(modules())
    for module, path in modules().items():
        for target, _ in imported(path.read_text(encoding="utf-8"), module, path.name == "__init__.py", known):
            found[target].add(module)
    return found


def test_the_house_keeps_its_size():
    assert 0 < len(modules()) <= MAX_FILES


def test_no_room_is_crowded():
    rooms = Counter(room_of(module) for module in modules())
    assert len(rooms) > 5
    assert {room: files for room, files in rooms.items() if files > MAX_FILES_IN_A_ROOM} == {}


def test_no_file_is_too_long():
    lengths = {module: lines_of(path) for module, path in modules().items()}
    assert {module: length for module, length in lengths.items() if length > MAX_LINES} == {}


def test_no_short_file_has_a_single_importer():
    by = importers()
    lonely = {
        module
        for module, path in modules().items()
        if path.name not in {"__init__.py", "__main__.py"} and lines_of(path) < MIN_LINES and len(by[module]) == 1
    }
    assert lonely - set(SHORT_FOR_A_REASON) == set()
    assert set(SHORT_FOR_A_REASON) - lonely == set(), "listed without need"


def test_a_public_class_name_occurs_in_one_file():
    homes: dict[str, list[str]] = defaultdict(list)
    for module, path in modules().items():
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                homes[node.name].append(module)
    assert len(homes) > 100
    assert {name: files for name, files in homes.items() if len(files) > 1} == {}
