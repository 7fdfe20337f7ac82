"""What every test of the controller starts from."""

from __future__ import annotations

import pytest

pytest.importorskip("peft")


@pytest.fixture
def untouched():
    """Call it with a model, do something, and call what it gave: fails if anything about the model has changed."""
    from controller import traces

    def watch(model):
        before = traces.of(model)

        def check():
            assert traces.differences(before, traces.of(model)) == {}

        return check

    return watch
