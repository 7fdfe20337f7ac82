"""Selection: arrays in, a named result out. No text, no disk, no model, no state between calls."""

from siftlm.selection import kernels
from siftlm.selection.diagnosis import Diagnosis, diagnose
from siftlm.selection.dimension import LocalDimension, local_dimension
from siftlm.selection.gram import Gram
from siftlm.selection.index import FaissIndex, Index, NumpyIndex
from siftlm.selection.problem import Method, Problem, Steps, method, methods
from siftlm.selection.residual import select_from
from siftlm.selection.rules import Limits, Stopping
from siftlm.selection.select import select
from siftlm.selection.select_many import select_many
from siftlm.selection.spread import Spread, spread

__all__ = [
    "Diagnosis",
    "FaissIndex",
    "Gram",
    "Index",
    "Limits",
    "LocalDimension",
    "Method",
    "NumpyIndex",
    "Problem",
    "Spread",
    "Steps",
    "Stopping",
    "diagnose",
    "kernels",
    "local_dimension",
    "method",
    "methods",
    "select",
    "select_from",
    "select_many",
    "spread",
]
