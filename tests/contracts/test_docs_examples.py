"""Documents are executed (conftest.py does it); here is what execution alone would not notice."""

from __future__ import annotations

import re

from contracts.tree import ROOT, modules

FENCE = re.compile(r"^[ \t]*(?:```+|~~~+)[ \t]*(\S[^\n]*)$", re.M)
# The languages of blocks that are read and never run. Python and console blocks run.
READ_ONLY = {"bash", "json", "jsonl", "text", "toml", "yaml"}
RUN = {"python", "console"}
ROLE = re.compile(r":(?:attr|class|data|exc|func|meth|mod|obj|ref):`[^`\n]*`")


def documents():
    return [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


def test_every_block_says_whether_it_runs():
    # ```py, ```python3 or ```python title="x" would look like an example and silently never run.
    wrong = [
        f"{path.relative_to(ROOT)}: ```{info}"
        for path in documents()
        for info in FENCE.findall(path.read_text(encoding="utf-8"))
        if info.strip() not in READ_ONLY | RUN
    ]
    assert not wrong


def test_docstrings_are_markdown():
    # The reference is made by mkdocstrings, which prints reStructuredText roles as they stand.
    wrong = [
        f"{module}: {role}"
        for module, path in modules().items()
        for role in ROLE.findall(path.read_text(encoding="utf-8"))
    ]
    assert not wrong


def test_the_readme_opens_with_its_two_commands():
    first_block = re.search(r"```bash\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.S)
    assert first_block is not None
    assert [line.split("#")[0].strip() for line in first_block[1].splitlines()] == ["make demo", "make test"]


def test_every_target_of_the_makefile_is_documented():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z]+):.*## ", makefile, re.M)) - {"help"}
    contributing = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    assert targets
    assert targets == set(re.findall(r"`make ([a-z]+)`", contributing))
