"""One version, written in two places that must agree."""

from __future__ import annotations

import re

import siftlm
from contracts.tree import ROOT


def test_the_version_is_that_of_the_project_file():
    written = re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.M)
    assert written is not None
    assert siftlm.__version__ == written[1]


def test_the_changelog_has_a_place_for_what_comes_next():
    assert "## [Unreleased]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
