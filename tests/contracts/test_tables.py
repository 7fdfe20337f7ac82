"""Tables in the documentation are what their source says: the benchmark's JSON, the registry of methods."""

from __future__ import annotations

import subprocess
import sys

import pytest

from contracts.tree import ROOT


@pytest.mark.slow
def test_tables_are_fresh() -> None:
    run = subprocess.run(
        [sys.executable, "docs/tables.py", "--check"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stdout + run.stderr
