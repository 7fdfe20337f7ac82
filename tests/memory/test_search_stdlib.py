"""The example that searches Python's own documentation."""

from __future__ import annotations

import importlib.util

import pytest

from contracts.tree import ROOT


@pytest.fixture
def example():
    spec = importlib.util.spec_from_file_location("search_stdlib", ROOT / "examples" / "search_stdlib.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_it_prints_both_methods_side_by_side(example, tmp_path, capsys):
    call = ["merge sorted inputs", "--modules", "heapq,bisect", "--into", str(tmp_path / "memory"), "-n", "3"]
    example.main(call)
    first = capsys.readouterr().out
    assert first.splitlines()[3].split() == ["nearest", "neighbour", "SIFT"]
    assert first.splitlines()[4].count("heapq.merge: Merge multiple sorted inputs") == 2
    example.main(call)  # over what is there
    assert capsys.readouterr().out == first


def test_names_are_those_a_person_imports(example):
    names = {document.id for document in example.documents(["_pydecimal", "heapq"])}
    assert {"decimal.Decimal.quantize", "heapq", "heapq.merge"} <= names
    assert not any(part.startswith("_") for name in names for part in name.split("."))
