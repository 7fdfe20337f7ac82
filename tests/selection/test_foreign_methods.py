"""A method may come from anywhere: what it yields is checked before it is believed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import siftlm
from siftlm.errors import InvalidInput
from siftlm.selection import Problem, method
from siftlm.selection import problem as registry

VECTORS = np.random.default_rng(0).normal(size=(6, 3))


def yields(*values: Any) -> Any:
    """A method that yields these, one after the other, and then stops."""

    @method("foreign", "whatever it is told", repeats=True)
    def foreign(problem: Problem) -> Iterator[Any]:
        """What it is told"""
        for value in values:
            _ = yield value  # not `yield from`: a tuple cannot be sent anything

    return foreign


def test_lists_and_integers_are_numbers() -> None:
    gains = [3, 1, 2, 0, 5, 4]
    for first in (gains, np.array(gains), np.array(gains, np.float32)):
        assert siftlm.select(VECTORS[0], VECTORS, 1, method=yields(first)).indices.tolist() == [4]
    assert siftlm.select(VECTORS[0], VECTORS, 1, method=yields(gains), costs=np.ones(6)).indices.tolist() == [4]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ((np.ones(6),), "stopped yielding"),
        ((), "stopped yielding"),
        ((np.ones(5),), r"\(6,\) gains, got shape \(5,\)"),
        ((np.ones((6, 1)),), "got shape"),
        (("gains",), "array of numbers"),
        ((None,), "got shape|array of numbers"),
        ((np.full(6, np.nan),), "NaN"),
    ],
)
def test_anything_else_is_refused(values: tuple[Any, ...], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        siftlm.select(VECTORS[0], VECTORS, 3, method=yields(*values), replacement=True)


def test_a_package_that_fails_to_load(monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken:
        def load(self) -> None:
            raise RuntimeError("boom")

    monkeypatch.setattr(registry, "_entry_points", lambda: {"broken": Broken()})
    with pytest.raises(InvalidInput, match=r"'broken' of another package cannot be loaded: RuntimeError\('boom'\)"):
        siftlm.select(VECTORS[0], VECTORS, 1, method="broken")
    assert len(siftlm.select(VECTORS[0], VECTORS, 1)) == 1


def test_a_query_that_no_kernel_gives() -> None:
    with pytest.raises(InvalidInput, match=r"query\[0, 1\] is 3"):
        siftlm.select([0.5, 3.0], siftlm.Gram(np.eye(2)), 1)
