"""Selection: arrays in, a named result out. No text, no disk, no model, no state between calls."""

from siftlm.selection import kernels
from siftlm.selection.diagnose import Spread, spread
from siftlm.selection.front import select
from siftlm.selection.indexes import FaissIndex, Index, NumpyIndex
from siftlm.selection.many import select_many
from siftlm.selection.pairs import Gram
from siftlm.selection.problem import Problem
from siftlm.selection.registry import Method, Steps, method, methods
from siftlm.selection.residual import select_from

__all__ = [
    "FaissIndex",
    "Gram",
    "Index",
    "Method",
    "NumpyIndex",
    "Problem",
    "Spread",
    "Steps",
    "kernels",
    "method",
    "methods",
    "select",
    "select_from",
    "select_many",
    "spread",
]
