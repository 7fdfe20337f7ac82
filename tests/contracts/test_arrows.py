"""Which room may import which: an arrow points from right to left and never back.

types, errors, validation  <-  selection, embedding, controller, sample  <-  memory
    <-  call, flow, guard, local, recipes  <-  evaluation  <-  calibration, picking, serving, integrations  <-  cli
"""

from __future__ import annotations

import sys

import pytest

from contracts.tree import imported, imported_at_top, modules

# A room imports itself and rooms of a smaller number, so rooms side by side never import each other.
LEVEL = {
    "types": 0,
    "errors": 0,
    "extras": 0,
    "network": 0,
    "progress": 0,
    "settings": 0,
    "validation": 0,
    "selection": 1,
    "embedding": 1,
    "controller": 1,
    "sample": 1,
    "memory": 2,
    "local": 3,
    "flow": 3,
    "guard": 3,
    "call": 3,
    "results": 3,
    "recipes": 3,
    "evaluation": 4,
    "calibration": 5,
    "serving": 5,
    "integrations": 5,
    "picking": 5,
    "siftlm": 6,  # the front door, src/siftlm/__init__.py: it names everything; no room goes out through it
    "cli": 7,
    "__main__": 8,
}
# The ground floor is one room: results may raise errors, and errors name extras.
GROUND = {name for name, level in LEVEL.items() if level == 0}
# The main flow, for one prompt and for many, is one room with its recipes as well.
FLOW = {name for name, level in LEVEL.items() if level == 3}
# Levels alone would allow these.
NEVER = {("memory", "controller"): "a search knows no language model"}

CORE = {"siftlm", "numpy"}
# Nothing but a person at a terminal loads this room.
ROOM_LIBRARIES = {"cli": {"rich"}}
# Files that are themselves loaded only on demand may import their library at the top. Path -> libraries.
LOADED_ON_DEMAND: dict[str, set[str]] = {
    # siftlm.controller itself, its settings and its tokens need neither.
    **{
        f"siftlm.controller.{name}": {"torch", "transformers", "huggingface_hub"}
        for name in (
            "adapters",
            "batch_tuner",
            "contrastive",
            "controller",
            "engines",
            "forward",
            "generation",
            "loading",
            "restore",
            "stacked",
            "tuner",
        )
    },
    "siftlm.embedding.gradient_passes": {"torch"},
    "siftlm.embedding.gradients": {"torch", "transformers"},
    "siftlm.embedding.less": {"torch", "transformers"},
    "siftlm.embedding.loading": {"huggingface_hub", "torch", "transformers"},
    "siftlm.embedding.transformer": {"torch", "transformers"},
    "siftlm.evaluation.dynamic": {"torch"},
    "siftlm.integrations._mcp_tools": {"pydantic"},
    "siftlm.integrations.batch_choice": {"torch"},
    "siftlm.integrations.current_embeddings": {"torch"},
    "siftlm.integrations.data_loader": {"torch"},
    "siftlm.integrations.haystack": {"haystack"},
    "siftlm.integrations.langchain": {"langchain_core", "pydantic"},
    "siftlm.integrations.llama_index": {"llama_index"},
    "siftlm.integrations.lm_eval": {"torch"},
    "siftlm.integrations.mcp": {"anyio", "mcp", "pydantic", "uvicorn"},
    "siftlm.integrations.utility_diversity": {"torch"},
    "siftlm.integrations.trainer": {"torch", "transformers"},
    "siftlm.serving.adapters": {"torch"},
    "siftlm.selection.tensors": {"torch"},
    "siftlm.selection.tensors.posterior": {"torch"},
    "siftlm.selection.tensors.steps": {"torch"},
    "siftlm.serving.app": {"fastapi"},
    "siftlm.serving.error_responses": {"fastapi", "starlette"},
    "siftlm.serving.metrics": {"fastapi", "prometheus_client"},
    "siftlm.serving.middleware": {"fastapi"},
    "siftlm.serving.routes.completions": {"fastapi"},
    "siftlm.serving.routes.documents": {"fastapi"},
    "siftlm.serving.routes.embeddings": {"fastapi"},
    "siftlm.serving.routes.selection": {"fastapi"},
    "siftlm.serving.routes.tokenizer": {"fastapi"},
    "siftlm.serving.server": {"uvicorn"},
}


def room_of(module: str) -> str:
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else parts[0]


def complaint(module: str, target: str) -> str | None:
    """Say what is wrong with ``module`` importing ``target``, or None."""
    here, there = room_of(module), room_of(target)
    for room in (here, there):
        if room not in LEVEL:
            return f"room {room!r} has no place in the house: give it one in LEVEL"
    if here == there or {here, there} <= GROUND or {here, there} <= FLOW:
        return None
    if (here, there) in NEVER:
        return f"{here} must not import {there}: {NEVER[here, there]}"
    if LEVEL[there] >= LEVEL[here]:
        return f"the arrow from {there} to {here} points backwards: {module} imports {target}"
    return None


def complaints(sources: dict[str, tuple[str, bool]]) -> list[str]:
    """Return all complaints about a package given as module -> (source text, is it a package)."""
    found = []
    for module, (source, is_package) in sources.items():
        for target, line in imported(source, module, is_package, set(sources)):
            if target.split(".")[0] == "siftlm" and (wrong := complaint(module, target)):
                found.append(f"{module}:{line}: {wrong}")
    return found


def package() -> dict[str, tuple[str, bool]]:
    return {
        module: (path.read_text(encoding="utf-8"), path.name == "__init__.py") for module, path in modules().items()
    }


def test_every_arrow_points_forwards():
    sources = package()
    assert "siftlm.selection" in sources, "the package was not found, so this test would prove nothing"
    assert not complaints(sources)


@pytest.mark.parametrize(
    ("module", "statement"),
    [
        ("siftlm.selection.sift", "from siftlm.memory import Memory"),
        ("siftlm.selection.sift", "from siftlm import memory"),
        ("siftlm.selection.sift", "from siftlm import select"),
        ("siftlm.selection.sift", "from ..embedding import hashing"),
        ("siftlm.selection.sift", "from .. import controller"),
        ("siftlm.selection.sift", "def f():\n    import siftlm.local"),
        ("siftlm.selection.sift", "importlib.import_module('siftlm.cli')"),
        ("siftlm.selection.sift", "if TYPE_CHECKING:\n    from siftlm.serving import app"),
        ("siftlm.controller", "import siftlm.selection"),
        ("siftlm.memory", "import siftlm.controller"),
        ("siftlm.errors", "import siftlm.selection"),
        ("siftlm.attic", "import siftlm.errors"),
    ],
)
def test_a_backward_arrow_is_seen(module, statement):
    house = dict.fromkeys(("siftlm.memory", "siftlm.embedding", "siftlm.controller"), ("", True))
    planted = house | {module: (statement, False)}
    assert len(complaints(planted)) == 1


@pytest.mark.parametrize(
    ("module", "statement"),
    [
        ("siftlm.selection.sift", "from siftlm.errors import InvalidInput"),
        ("siftlm.selection.sift", "from . import checks"),
        ("siftlm.selection.sift", "import numpy, memory"),
        ("siftlm.types", "from siftlm import errors"),
        ("siftlm.local", "from siftlm import controller, memory"),
        ("siftlm.cli.demo", "import siftlm"),
    ],
)
def test_a_forward_arrow_is_allowed(module, statement):
    names = ("siftlm", "siftlm.errors", "siftlm.memory", "siftlm.controller", "siftlm.selection")
    house = dict.fromkeys(names, ("", True))
    assert not complaints(house | {module: (statement, False)})


def test_only_numpy_is_imported_at_the_top():
    allowed = CORE | sys.stdlib_module_names
    found = []
    for module, path in modules().items():
        here = allowed | LOADED_ON_DEMAND.get(module, set()) | ROOM_LIBRARIES.get(room_of(module), set())
        for library, line in imported_at_top(path.read_text(encoding="utf-8")):
            if library not in here:
                found.append(f"{module}:{line}: {library} belongs into the function that needs it")
    assert not found


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("import torch.nn", {"torch"}),
        ("try:\n    from faiss import x\nexcept ImportError:\n    pass", {"faiss"}),
        ("class A:\n    import scipy", {"scipy"}),
        ("def f():\n    import torch", set()),
        ("if TYPE_CHECKING:\n    import torch\nelse:\n    import ray", {"ray"}),
        ("from . import torch", set()),
    ],
)
def test_imports_at_the_top_are_seen(source, expected):
    assert {library for library, _ in imported_at_top(source)} == expected
