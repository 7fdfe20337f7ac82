"""No tracked file knows the machine it was written on: no absolute path of it, no package index of it."""

from __future__ import annotations

import re

import pytest

from contracts.tree import ROOT, tracked_files

# Without their slashes, so that this file does not find itself.
FOLDERS = "work|root|farm|home/[A-Za-z0-9_.-]+|Users/[A-Za-z0-9_.-]+"
MACHINE_PATH = re.compile(rf"(?<![\w.~*)}}>-])/(?:{FOLDERS})/")
PACKAGE_INDEX = re.compile(r"(?:index-url|index_url|find-links|find_links|trusted-host)\s*[= ]\s*\S", re.I)


def offences(text: str) -> list[str]:
    return [
        f"{number}: {line.strip()[:100]}"
        for number, line in enumerate(text.splitlines(), start=1)
        if MACHINE_PATH.search(line) or PACKAGE_INDEX.search(line)
    ]


@pytest.mark.slow
def test_no_file_knows_its_machine():
    found = []
    for path in tracked_files():
        text = path.read_text(encoding="utf-8", errors="ignore")
        found += [f"{path.relative_to(ROOT)}:{offence}" for offence in offences(text)]
    assert not found


@pytest.mark.parametrize(
    "line",
    [
        "see /" + "work/notes.txt",
        'open("/' + 'home/ada/x")',
        "PATH=/" + "root/bin",
        "pip install --index" + "-url https://example.org x",
        "find" + "-links = wheels",
    ],
)
def test_an_offence_is_seen(line):
    assert offences(line)


@pytest.mark.parametrize(
    "line", ["docs/" + "work/flow.md", "https://example.org/" + "home/x/", "a/" + "root/b", "~/" + "work/"]
)
def test_an_innocent_line_passes(line):
    assert not offences(line)
