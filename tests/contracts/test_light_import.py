"""`import siftlm` costs numpy and next to nothing else."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

# Everything is measured inside a fresh interpreter, so that its own start is not counted.
PROBE = """
import json, sys
from time import process_time as spent  # of this process alone, whatever else the machine does
before = set(sys.modules)
start = spent()
import numpy
numpy_there = spent()
{statement}
end = spent()
new = {{name.partition(".")[0] for name in set(sys.modules) - before}}
print(json.dumps({{
    "libraries": sorted(new - set(sys.stdlib_module_names)),
    "beyond_numpy": end - numpy_there,
    "total": end - start,
}}))
"""
# These bring a language model in, and so torch.
LANGUAGE_MODEL = {"Calibration", "Controller", "LocalModel", "calibrate"}
EVERY_OTHER_NAME = f"import siftlm; [getattr(siftlm, name) for name in siftlm.__all__ if name not in {LANGUAGE_MODEL}]"
LIGHT = ["import siftlm", "import siftlm.selection", "import siftlm.memory", EVERY_OTHER_NAME]
# What needs no model must work without torch.
WITHOUT_TORCH = """
import json, sys
sys.modules["torch"] = sys.modules["transformers"] = None
try:
    {statement}
except Exception as error:
    print(json.dumps([type(error).__name__, str(error)]))
else:
    print(json.dumps([]))
"""


def probe(statement: str) -> dict:
    script = PROBE.format(statement=statement)
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return json.loads(run.stdout)


@pytest.mark.slow
@pytest.mark.parametrize("statement", LIGHT)
def test_nothing_but_numpy_is_loaded(statement):
    # numpy may bring private top-level helpers; a heavy library never hides behind an underscore.
    loaded = {name for name in probe(statement)["libraries"] if not name.startswith("_")}
    assert loaded == {"numpy", "siftlm"}


def test_a_heavy_library_is_seen():
    assert "pytest" in probe("import pytest")["libraries"]


def without_torch(statement: str) -> list[str]:
    script = WITHOUT_TORCH.format(statement=statement)
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return json.loads(run.stdout.splitlines()[-1])


@pytest.mark.slow
@pytest.mark.parametrize(
    "statement",
    [
        "import siftlm; siftlm.Controller",
        "import siftlm; siftlm.LocalModel",
        "import siftlm; siftlm.calibrate",
        "from siftlm.controller import Controller",
        "from siftlm.controller import span_nats",
        "from siftlm.local import LocalModel",
    ],
)
def test_a_language_model_without_torch_names_the_extra(statement):
    kind, message = without_torch(statement)
    assert (kind, message) == ("MissingExtra", "this needs the library 'torch': pip install 'siftlm[tune]'")


@pytest.mark.slow
@pytest.mark.parametrize(
    "statement",
    [
        "from siftlm.controller import Tuning",
        "import siftlm.call, siftlm.recipes, siftlm.results",
        "import siftlm.evaluation.report, siftlm.evaluation.passages",
        "from siftlm.evaluation import evaluate, read",
        "import siftlm.cli.arguments, siftlm.cli.score, siftlm.cli.serve, siftlm.cli.calibrate, siftlm.cli.demo",
    ],
)
def test_what_needs_no_language_model_works_without_torch(statement):
    assert without_torch(statement) == []


@pytest.mark.slow
def test_import_is_fast():
    # The best of five: a busy machine makes some runs slow, but work at import makes every run slow.
    runs = [probe("import siftlm") for _ in range(5)]
    assert min(run["beyond_numpy"] for run in runs) < 0.05
    assert min(run["total"] for run in runs) < 0.3
