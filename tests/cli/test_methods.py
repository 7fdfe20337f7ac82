"""``siftlm methods``: every method, found and explained."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from rich.cells import cell_len as width_of

import siftlm as library
from siftlm.cli import select
from siftlm.cli.terminal import Terminal
from siftlm.selection import problem


def _lines(found, width):
    terminal = Terminal(width=width, fixed=True)
    return terminal.render(*select._methods_parts(found, [], terminal)).split("\n")


def test_every_method_has_one_line(siftlm):
    status, out, err = siftlm("methods")
    assert (status, err) == (0, "")
    named = [line.split()[0] for line in out.splitlines() if line.startswith("  ")]
    assert sorted(named) == sorted(library.methods())


@pytest.mark.parametrize(
    "words", ["methods hullft", "select --candidates no.npy --method hullft", "search memory tea --method hullft"]
)
def test_a_recipe_is_no_method_and_says_where_it_is_one(siftlm, sixty, words):
    status, _, err = siftlm(*words.replace("memory", str(sixty)).split())
    assert status == 1
    assert "'hullft' is a recipe of siftlm score, generate and chat: method 'hull', tuned with --set" in err


def test_methods_stand_in_their_group(siftlm):
    out = siftlm("methods")[1]
    blocks = {block.split("\n")[0]: block for block in out.split("\n\n")}
    assert "\n  sift " in blocks["for a prompt"]
    assert "\n  random " in blocks["without a prompt"]
    assert "\n  max-entropy " in blocks["on softmax outputs"]


def test_json_has_all_there_is_to_know(siftlm):
    records = {record["name"]: record for record in json.loads(siftlm("methods", "--json")[1])}
    assert set(records) == set(library.methods())
    assert records["sift"]["needs_query"]
    assert not records["random"]["needs_query"]
    assert records["mmr"]["options"]["balance"] == problem.find_method("mmr").options["balance"]


@pytest.mark.parametrize("name", library.methods())
def test_one_method_in_full(siftlm, name):
    method = problem.find_method(name)
    status, out, _ = siftlm("methods", name)
    assert status == 0
    assert method.summary in out
    assert method.formula.split()[0] in out
    for option in method.options:
        assert f"--option {option}=" in out
    assert json.loads(siftlm("methods", name, "--json")[1])["name"] == name


def test_an_unknown_name_is_one_line(siftlm):
    status, out, err = siftlm("methods", "shift")
    assert (status, out) == (1, "")
    assert err.startswith("siftlm: unknown method 'shift'; did you mean 'sift'?")
    assert err.count("\n") == 1


@pytest.mark.parametrize("width", [40, 80, 160])
def test_on_a_screen_lines_keep_the_width(width):
    found = [problem.find_method(name) for name in library.methods()]
    lines = _lines(found, width)
    assert max(map(width_of, lines)) <= width


def test_a_method_of_another_package_that_cannot_be_loaded_is_named(monkeypatch, siftlm):
    class Entry:
        def load(self):
            raise ImportError("no module named 'elsewhere'")

    monkeypatch.setattr(problem, "_entry_points", lambda: {"theirs": Entry()})
    status, out, _ = siftlm("methods")
    assert status == 0
    message = [line for line in out.splitlines() if "theirs" in line]
    assert len(message) == 1
    assert "cannot be loaded" in message[0]
    assert "no module named 'elsewhere'" in message[0]
    assert "\n  sift " in out
    status, out, err = siftlm("methods", "--json")
    assert "sift" in {record["name"] for record in json.loads(out)}
    assert (status, err) == (0, message[0] + "\n")


@pytest.mark.slow
@pytest.mark.parametrize("words", ["methods", "demo picks", "--version", "--help", "methods --help"])
def test_a_closed_stdout_is_one_line(words):
    command = f"{sys.executable} -m siftlm {words} >&-"
    run = subprocess.run(command, shell=True, capture_output=True, text=True, check=False)
    assert (run.returncode, run.stderr) == (1, "siftlm: standard output is closed\n")


def test_a_closed_stdout_is_fine_where_nothing_is_printed(folder):
    words = "select --candidates vectors.npy --query q.npy -n 2 --json --out picks.json"
    command = f"{sys.executable} -m siftlm {words} >&-"
    run = subprocess.run(command, shell=True, capture_output=True, text=True, check=False)
    assert (run.returncode, run.stderr) == (0, "")
    assert len(json.loads((folder / "picks.json").read_text(encoding="utf-8"))["indices"]) == 2


@pytest.mark.parametrize(("words", "status"), [("methods shift", 1), ("selekt", 2)])
def test_with_stderr_closed_the_status_is_left(words, status):
    command = f"{sys.executable} -m siftlm {words} 2>&-"
    run = subprocess.run(command, shell=True, capture_output=True, text=True, check=False)
    assert (run.returncode, run.stdout) == (status, "")


def test_a_reader_that_leaves_early_is_no_error():
    command = f"{sys.executable} -m siftlm methods | head -1"
    run = subprocess.run(command, shell=True, capture_output=True, text=True, check=False)
    assert (run.returncode, run.stderr) == (0, "")
    assert run.stdout == "for a prompt\n"


def test_a_closed_pipe_is_quiet():
    # head may read everything before it leaves; a reader that is gone from the start cannot.
    program = [sys.executable, "-m", "siftlm", "methods"]
    run = subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    run.stdout.close()
    errors = run.stderr.read()
    run.stderr.close()
    assert (run.wait(), errors) == (141, b"")


def test_help_loads_no_numpy():
    probe = (
        "import sys; from siftlm.cli import main; main(['--help']); "
        "sys.stderr.write(' '.join({'numpy', 'torch', 'matplotlib'} & set(sys.modules)))"
    )
    run = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert run.stderr == ""


@pytest.mark.slow
def test_a_command_needs_numpy_alone():
    probe = (
        "import sys; from siftlm.cli import main; main(['demo', 'picks']); main(['methods']); "
        "sys.stderr.write(' '.join({'torch', 'matplotlib', 'scipy', 'faiss'} & set(sys.modules)))"
    )
    run = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert run.stderr == ""
