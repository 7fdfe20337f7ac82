"""siftlm: test-time fine-tuning of language models with active data selection.

Importing this package needs numpy alone. The public names are loaded when they are first used, so a room
that nobody enters costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # what type checkers and editors read; the table below is what runs
    from siftlm import embedding as embedding
    from siftlm import errors as errors
    from siftlm import selection as selection
    from siftlm.calibration import Calibration as Calibration
    from siftlm.calibration.calibrate import calibrate as calibrate
    from siftlm.controller import Controller as Controller
    from siftlm.controller import Tuning as Tuning
    from siftlm.embedding import embedder as embedder
    from siftlm.local import LocalModel as LocalModel
    from siftlm.memory import Found as Found
    from siftlm.memory import Hit as Hit
    from siftlm.memory import Memory as Memory
    from siftlm.memory import Search as Search
    from siftlm.picking import Contrast as Contrast
    from siftlm.picking import Picks as Picks
    from siftlm.picking import Review as Review
    from siftlm.picking.contrast import contrast as contrast
    from siftlm.picking.pick import pick as pick
    from siftlm.picking.review import review as review
    from siftlm.results import Answer as Answer
    from siftlm.results import ChoiceScores as ChoiceScores
    from siftlm.results import Score as Score
    from siftlm.selection import Diagnosis as Diagnosis
    from siftlm.selection import Gram as Gram
    from siftlm.selection import LocalDimension as LocalDimension
    from siftlm.selection import diagnose as diagnose
    from siftlm.selection import kernels as kernels
    from siftlm.selection import local_dimension as local_dimension
    from siftlm.selection import methods as methods
    from siftlm.selection import select_from as select_from
    from siftlm.selection.select import select as select
    from siftlm.selection.select_many import select_many as select_many
    from siftlm.selection.spread import spread as spread
    from siftlm.types import Document as Document
    from siftlm.types import Explanation as Explanation
    from siftlm.types import Likelihood as Likelihood
    from siftlm.types import Selection as Selection
    from siftlm.types import Step as Step
    from siftlm.types import Trace as Trace

__version__ = "0.1.0"

# public name -> the module that has it, or that it is
_HOME = {
    "Answer": "siftlm.results",
    "Calibration": "siftlm.calibration",
    "ChoiceScores": "siftlm.results",
    "Contrast": "siftlm.picking",
    "Controller": "siftlm.controller",
    "Diagnosis": "siftlm.selection",
    "Document": "siftlm.types",
    "Explanation": "siftlm.types",
    "Found": "siftlm.memory",
    "Gram": "siftlm.selection",
    "Hit": "siftlm.memory",
    "Likelihood": "siftlm.types",
    "LocalDimension": "siftlm.selection",
    "LocalModel": "siftlm.local",
    "Memory": "siftlm.memory",
    "Picks": "siftlm.picking",
    "Review": "siftlm.picking",
    "Score": "siftlm.results",
    "Search": "siftlm.memory",
    "Selection": "siftlm.types",
    "Step": "siftlm.types",
    "Trace": "siftlm.types",
    "Tuning": "siftlm.controller",
    "calibrate": "siftlm.calibration",
    "contrast": "siftlm.picking",
    "diagnose": "siftlm.selection",
    "embedder": "siftlm.embedding",
    "embedding": "siftlm.embedding",
    "errors": "siftlm.errors",
    "kernels": "siftlm.selection.kernels",
    "local_dimension": "siftlm.selection",
    "methods": "siftlm.selection",
    "pick": "siftlm.picking",
    "review": "siftlm.picking",
    "select": "siftlm.selection",
    "select_from": "siftlm.selection",
    "select_many": "siftlm.selection",
    "selection": "siftlm.selection",
    "spread": "siftlm.selection",
}

__all__ = ["__version__", *_HOME]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'siftlm' has no attribute {name!r}")
    module = importlib.import_module(_HOME[name])
    value = module if _HOME[name].endswith(f".{name}") else getattr(module, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
