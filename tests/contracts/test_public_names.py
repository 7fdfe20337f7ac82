"""The public names are a promise: one appears or goes only together with the list below."""

from __future__ import annotations

import ast
import inspect
from pathlib import Path

import pytest

import siftlm

PUBLIC = [
    "Answer",
    "Calibration",
    "ChoiceScores",
    "Contrast",
    "Controller",
    "Diagnosis",
    "Document",
    "Explanation",
    "Found",
    "Gram",
    "Hit",
    "Likelihood",
    "LocalDimension",
    "LocalModel",
    "Memory",
    "Picks",
    "Review",
    "Score",
    "Search",
    "Selection",
    "Step",
    "Trace",
    "Tuning",
    "__version__",
    "calibrate",
    "contrast",
    "diagnose",
    "embedder",
    "embedding",
    "errors",
    "kernels",
    "local_dimension",
    "methods",
    "pick",
    "review",
    "select",
    "select_from",
    "select_many",
    "selection",
    "spread",
]


def test_the_list_is_the_promise():
    assert sorted(siftlm.__all__) == PUBLIC
    assert len(siftlm.__all__) == len(set(siftlm.__all__))


def test_type_checkers_read_the_same_names():
    source = ast.parse(Path(siftlm.__file__).read_text(encoding="utf-8"))
    [block] = [node for node in source.body if isinstance(node, ast.If)]
    names = [alias for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names]
    assert sorted([alias.asname for alias in names if alias.name == alias.asname] + ["__version__"]) == PUBLIC


def test_dir_shows_every_name():
    assert set(PUBLIC) <= set(dir(siftlm))


@pytest.mark.parametrize("name", [name for name in PUBLIC if name != "__version__"])
def test_every_name_says_what_it_is(name):
    value = getattr(siftlm, name)
    members = {name: value}
    if inspect.isclass(value):
        members |= {f"{name}.{own}": member for own, member in vars(value).items() if is_public(own, member)}
    for member_name, member in members.items():
        assert own_words(member), f"{member_name} has no docstring"


def is_public(name: str, member: object) -> bool:
    return not name.startswith("_") and (inspect.isfunction(member) or isinstance(member, property))


def own_words(member: object) -> str:
    # Not inspect.getdoc(): it falls back on a base class. A dataclass without words repeats its signature.
    words = member.__doc__ or ""
    return "" if words.startswith(f"{getattr(member, '__name__', '')}(") else words


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no_such_name"):
        siftlm.no_such_name  # noqa: B018
