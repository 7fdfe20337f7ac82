"""Tiny models, each made once for all tests that only read it."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="session")
def models(tmp_path_factory):
    """Make or find the folder of a tiny model by its kind."""
    pytest.importorskip("transformers")
    from embedding import tiny

    made = {}

    def folder(kind: str):
        if kind not in made:
            made[kind] = getattr(tiny, kind)(tmp_path_factory.mktemp("models") / kind)
        return made[kind]

    return folder
