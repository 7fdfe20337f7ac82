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
EVERY_NAME = "import siftlm; [getattr(siftlm, name) for name in siftlm.__all__]"


def probe(statement: str) -> dict:
    script = PROBE.format(statement=statement)
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return json.loads(run.stdout)


@pytest.mark.parametrize("statement", ["import siftlm", "import siftlm.selection", EVERY_NAME])
def test_nothing_but_numpy_is_loaded(statement):
    # numpy may bring private top-level helpers; a heavy library never hides behind an underscore.
    loaded = {name for name in probe(statement)["libraries"] if not name.startswith("_")}
    assert loaded == {"numpy", "siftlm"}


def test_a_heavy_library_is_seen():
    assert "pytest" in probe("import pytest")["libraries"]


def test_import_is_fast():
    # The best of five: a busy machine makes some runs slow, but work at import makes every run slow.
    runs = [probe("import siftlm") for _ in range(5)]
    assert min(run["beyond_numpy"] for run in runs) < 0.05
    assert min(run["total"] for run in runs) < 0.3
