"""siftlm: test-time fine-tuning of language models with active data selection.

Importing this package needs numpy alone. The public names are loaded when they are first used, so a room
that nobody enters costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from siftlm import embedding, errors, selection
    from siftlm.calibration import Calibration
    from siftlm.calibration.calibrate import calibrate
    from siftlm.controller import Controller
    from siftlm.embedding import embedder
    from siftlm.local import LocalModel
    from siftlm.memory import Found, Hit, Memory
    from siftlm.results import Answer, Score
    from siftlm.selection import Gram, kernels, methods, select_from
    from siftlm.selection.select import select
    from siftlm.selection.select_many import select_many
    from siftlm.selection.spread import spread
    from siftlm.types import Document, Explanation, Likelihood, Selection, Step, Trace

__version__ = "0.1.0"

# public name -> (module, attribute); an empty attribute means the module itself
_HOME = {
    "Answer": ("siftlm.results", "Answer"),
    "Calibration": ("siftlm.calibration", "Calibration"),
    "Controller": ("siftlm.controller", "Controller"),
    "Document": ("siftlm.types", "Document"),
    "Explanation": ("siftlm.types", "Explanation"),
    "Found": ("siftlm.memory", "Found"),
    "Gram": ("siftlm.selection", "Gram"),
    "Hit": ("siftlm.memory", "Hit"),
    "Likelihood": ("siftlm.types", "Likelihood"),
    "LocalModel": ("siftlm.local", "LocalModel"),
    "Memory": ("siftlm.memory", "Memory"),
    "Score": ("siftlm.results", "Score"),
    "Selection": ("siftlm.types", "Selection"),
    "Step": ("siftlm.types", "Step"),
    "Trace": ("siftlm.types", "Trace"),
    "calibrate": ("siftlm.calibration", "calibrate"),
    "embedder": ("siftlm.embedding", "embedder"),
    "embedding": ("siftlm.embedding", ""),
    "errors": ("siftlm.errors", ""),
    "kernels": ("siftlm.selection.kernels", ""),
    "methods": ("siftlm.selection", "methods"),
    "select": ("siftlm.selection", "select"),
    "select_from": ("siftlm.selection", "select_from"),
    "select_many": ("siftlm.selection", "select_many"),
    "selection": ("siftlm.selection", ""),
    "spread": ("siftlm.selection", "spread"),
}

__all__ = [
    "Answer",
    "Calibration",
    "Controller",
    "Document",
    "Explanation",
    "Found",
    "Gram",
    "Hit",
    "Likelihood",
    "LocalModel",
    "Memory",
    "Score",
    "Selection",
    "Step",
    "Trace",
    "__version__",
    "calibrate",
    "embedder",
    "embedding",
    "errors",
    "kernels",
    "methods",
    "select",
    "select_from",
    "select_many",
    "selection",
    "spread",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'siftlm' has no attribute {name!r}")
    module, attribute = _HOME[name]
    loaded = importlib.import_module(module)
    value = getattr(loaded, attribute) if attribute else loaded
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
