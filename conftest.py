"""How every test runs: away from the network and the home directory, with documents executed like tests."""

from __future__ import annotations

import doctest
import importlib.util
import os
import re
import shlex
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from sybil import Example, Sybil
from sybil.parsers.markdown import CodeBlockParser, PythonCodeBlockParser, SkipParser

ROOT = Path(__file__).parent
# Files that import an extra at their top are not collected without it.
NEEDS = {
    "src/siftlm/calibration/*": "torch",
    "src/siftlm/controller/*": "torch",
    "src/siftlm/evaluation/baselines.py": "torch",
    "src/siftlm/evaluation/dynamic.py": "torch",
    "src/siftlm/flow.py": "torch",
    "src/siftlm/integrations/current_embeddings.py": "torch",
    "src/siftlm/integrations/data_loader.py": "torch",
    "src/siftlm/integrations/haystack.py": "haystack",
    "src/siftlm/integrations/langchain.py": "langchain_core",
    "src/siftlm/integrations/llama_index.py": "llama_index",
    "src/siftlm/integrations/lm_eval.py": "torch",
    "src/siftlm/integrations/*mcp*.py": "mcp",
    "src/siftlm/integrations/trainer.py": "accelerate",
    "src/siftlm/local.py": "torch",
    "src/siftlm/selection/tensors/*": "torch",
    "src/siftlm/serving/*": "fastapi",
    "src/siftlm/serving/[!_]*": "torch",
    "src/siftlm/embedding/gradient*.py": "transformers",
    "src/siftlm/embedding/loading.py": "transformers",
    "src/siftlm/embedding/transformer.py": "transformers",
}
collect_ignore_glob = [files for files, library in NEEDS.items() if importlib.util.find_spec(library) is None]
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
RUNS_A_MODEL = re.compile(r"LocalModel\(|Controller\(|^\$ siftlm (score|generate|eval)", re.MULTILINE)
RUN_SIFTLM = [sys.executable, "-c", "import sys; from siftlm.cli import main; sys.exit(main())"]

# The same examples in every run, and no deadline: a busy machine is no failure.
# `pytest --hypothesis-profile=explore` looks for new counterexamples.
hypothesis.settings.register_profile("steady", deadline=None, derandomize=True)
hypothesis.settings.register_profile("explore", deadline=None, max_examples=1000)
# Of properties that name no number of their own; those that do ask tests/effort.py.
hypothesis.settings.register_profile("quick", deadline=None, derandomize=True, max_examples=20)
hypothesis.settings.load_profile("quick" if os.environ.get("SIFTLM_TESTS") == "quick" else "steady")


# --- no network, no home directory


def pytest_configure(config: pytest.Config) -> None:
    """Point everything that looks for a home or a cache elsewhere, before any test module is imported."""
    home = tempfile.TemporaryDirectory(prefix="siftlm-home-")
    config.add_cleanup(home.cleanup)
    cache = ROOT / ".cache"
    patch = pytest.MonkeyPatch()
    config.add_cleanup(patch.undo)
    patch.setenv("HOME", home.name)
    patch.setenv("USERPROFILE", home.name)
    patch.setenv("XDG_CACHE_HOME", str(cache))
    patch.setenv("MPLCONFIGDIR", str(cache / "matplotlib"))  # kept: the font list takes seconds to build
    patch.setenv("MPLBACKEND", "agg")
    patch.setenv("HAYSTACK_TELEMETRY_ENABLED", "False")
    patch.delenv("COLUMNS", raising=False)  # tests that depend on the width of the terminal set it themselves
    connect = socket.socket.connect

    def connect_locally(self: socket.socket, address: Any) -> None:
        host = address[0] if isinstance(address, tuple) else "localhost"
        if host not in {"127.0.0.1", "::1", "localhost"}:
            raise RuntimeError(f"tests need no network, and this one called {address}")
        connect(self, address)

    patch.setattr(socket.socket, "connect", connect_locally)


@pytest.fixture(scope="session", autouse=True)
def home_stays_empty() -> Iterator[None]:
    """Fail at the end of a run that wrote into the home directory."""
    yield
    left = [str(path) for path in Path(os.environ["HOME"]).rglob("*")]
    assert not left, "tests touch no home directory"


# --- README.md and docs/: python blocks run, and so do `$ siftlm …` lines of console blocks


def start_document(namespace: dict[str, Any]) -> None:
    """Give each document a folder of its own, shared by its python and its console blocks."""
    folder = tempfile.TemporaryDirectory(prefix="siftlm-doc-")
    namespace["__name__"] = "__main__"
    namespace["_leave"] = (folder, os.getcwd())
    os.chdir(folder.name)
    # for `<!--- skip: next if(missing("faiss"), reason="needs siftlm[faiss]") --->`
    namespace["missing"] = lambda library: importlib.util.find_spec(library) is None


def end_document(namespace: dict[str, Any]) -> None:
    """Leave the document's folder and remove it."""
    folder, before = namespace.pop("_leave")
    os.chdir(before)
    folder.cleanup()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Pages whose examples run a language model are no quick tests; the README is tested in any case."""
    for item in items:
        page = item.path
        if page.suffix == ".md" and page.parent.name == "guide" and RUNS_A_MODEL.search(page.read_text("utf-8")):
            item.add_marker(pytest.mark.slow)


def run_console(example: Example) -> str | None:
    """Run each ``$ siftlm …`` line and compare what it prints with the lines below it, if there are any.

    Lines with another command are there to be read, not run.
    """
    for entry in f"\n{example.parsed}".split("\n$ ")[1:]:
        command, _, expected = entry.partition("\n")
        if not command.startswith("siftlm "):
            continue
        arguments = shlex.split(command)[1:]
        run = subprocess.run([*RUN_SIFTLM, *arguments], capture_output=True, text=True, check=False)
        if run.returncode:
            return f"$ {command}\nended with status {run.returncode}:\n{run.stdout}{run.stderr}"
        expected = expected.strip("\n")
        if expected and not doctest.OutputChecker().check_output(f"{expected}\n", run.stdout, FLAGS):
            return f"$ {command}\nshould print:\n{expected}\n\nand printed:\n{run.stdout}"
    return None


pytest_collect_file = Sybil(
    parsers=[
        PythonCodeBlockParser(doctest_optionflags=FLAGS),
        CodeBlockParser(language="console", evaluator=run_console),
        SkipParser(),
    ],
    patterns=["README.md", "CONTRIBUTING.md", "docs/*.md", "docs/**/*.md"],
    setup=start_document,
    teardown=end_document,
).pytest()
