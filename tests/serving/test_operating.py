"""What the operators' guide says is so: backups, limits, flags, metrics, the unit and the container file."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import threading
import time
from pathlib import Path

import pytest

from siftlm.cli import main, parser
from siftlm.errors import Locked
from siftlm.memory import Memory, durability
from siftlm.serving import PrometheusMetrics, RequestLimits, modes
from siftlm.serving.routes import documents

ROOT = Path(__file__).parents[2]
GUIDE = (ROOT / "docs/guide/operating.md").read_text("utf-8")
UNIT = (ROOT / "examples/serving/siftlm.service").read_text("utf-8")
CONTAINER = (ROOT / "examples/serving/Containerfile").read_text("utf-8")


def arguments_of(command: str) -> list[str]:
    return shlex.split(command.replace("\\\n", " "))


# --- backup while serving


@pytest.fixture
def memory(tmp_path):
    with Memory.create(tmp_path / "docs") as made:
        made.add([f"text number {n}" for n in range(20)])
        yield made


@pytest.mark.slow
def test_a_copy_under_the_lock_is_a_memory_whoever_reads_and_wants_to_write(memory, tmp_path):
    stop, errors = threading.Event(), []

    def until_told(work):
        try:
            while not stop.wait(0.1):  # in between, others take the lock
                work()
        except Exception as error:  # noqa: BLE001
            errors.append(error)

    with Memory.open(memory.path) as other:
        work = (lambda: memory.search("text", 3), lambda: other.add([f"new {time.monotonic_ns()}"], wait=30))
        threads = [threading.Thread(target=until_told, args=(one,)) for one in work]
        for thread in threads:
            thread.start()
        try:
            for at in range(2):
                with durability.writer_lock(memory.path, "backup", wait=30):  # what flock(1) takes
                    version, count = memory.version, len(memory)
                    shutil.copytree(memory.path, tmp_path / f"copy{at}")
                    time.sleep(0.25)
                    assert memory.version == version
                with Memory.open(tmp_path / f"copy{at}") as copy:
                    assert copy.verify().ok
                    assert (copy.version, len(copy)) == (version, count)
                while memory.version == version:  # writing goes on
                    time.sleep(0.01)
        finally:
            stop.set()
            for thread in threads:
                thread.join()
    assert not errors


def test_a_copy_has_what_is_only_in_the_journal(memory, tmp_path):
    with memory.snapshot():  # keeps the journal from being emptied
        with Memory.open(memory.path) as other:
            other.add(["the last word"])
        with durability.writer_lock(memory.path, "backup"):
            assert next(memory.path.glob("g*/*-wal")).stat().st_size > 0
            shutil.copytree(memory.path, tmp_path / "copy")
    with Memory.open(tmp_path / "copy") as copy:
        assert copy.verify().ok
        assert copy.search("the last word", 1).texts == ["the last word"]


@pytest.mark.skipif(shutil.which("flock") is None, reason="needs flock(1)")
def test_flock_takes_the_lock_of_the_writers(memory):
    assert f"flock {memory.path.name}/{durability.LOCK_FILE} cp -a" in GUIDE
    words = ["flock", str(memory.path / durability.LOCK_FILE), "sh", "-c", "echo held; cat"]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holding:
        assert holding.stdout.readline() == b"held\n"
        with pytest.raises(Locked):
            memory.add(["not now"])
        assert len(memory.search("text", 5)) == 5
        holding.stdin.close()
    memory.add(["now"], wait=5)


# --- flags and limits


def serve_flags() -> dict[str, object]:
    commands = next(one for one in parser()._actions if one.choices)
    return {flag: one.default for one in commands.choices["serve"]._actions for flag in one.option_strings}


def test_the_flags_are_there_with_their_defaults():
    flags = serve_flags()
    rows = re.findall(r"^\| (`--.*?) \|.*\| (.*?) ?\|$", GUIDE, re.MULTILINE)
    assert len(rows) == 10
    for names, default in rows:
        for name, value in zip(re.findall(r"--[a-z]+", names), default.split(", "), strict=True):
            assert name in flags
            if name != "--rank":  # the controller's own default
                assert str(flags[name] if flags[name] is not None else "").removesuffix(".0") == value.strip("` ")


def test_the_limits_are_those_of_the_code():
    assert f"body of a request | {RequestLimits().body // 2**20} MiB" in GUIDE
    assert f"prompts in a request | {RequestLimits().prompts}, or `--queue` where that is less |" in GUIDE
    assert f"| `n` | {RequestLimits().choices} choices |" in GUIDE
    assert f"messages of a chat | {RequestLimits().messages:,} |" in GUIDE
    assert f"an answer | {RequestLimits().entries:,} entries" in GUIDE
    assert f"`siftlm.prompt` included | {RequestLimits().text:,} characters |" in GUIDE
    assert f"texts to embed | {RequestLimits().inputs:,}, of {RequestLimits().texts:,} characters together |" in GUIDE
    assert f"tokens to detokenize | {RequestLimits().ids:,} |" in GUIDE
    assert f"`id` | {documents.MAX_ID_CHARACTERS:,} characters, one line" in GUIDE
    assert f"| {modes.SETTING_MAXIMA['n']}, from among {modes.SETTING_MAXIMA['k']:,} |" in GUIDE
    assert f"documents of one request | {documents.MAX_DOCUMENTS:,} |" in GUIDE
    assert f"wait | {documents.MAX_WAITING_CHANGES} |" in GUIDE
    assert f"writes | {documents.LOCK_WAIT_SECONDS:g} s |" in GUIDE


# --- metrics


def test_every_metric_of_the_guide_is_shown():
    from serving.fake_engine import FakeEngine

    counts, engine = PrometheusMetrics(), FakeEngine({})
    counts.watch(lambda: engine.state)
    counts.answered("/x", 200, "base")
    counts.finished("base", {"queue": 0.0})
    shown = counts.text()[0].decode()
    engine.close()
    rules = GUIDE[GUIDE.index("## What to watch") : GUIDE.index("## Backup")]
    named = {name for name in re.findall(r"\bsiftlm_[a-z_]+|process_[a-z_]+", rules) if not name.endswith("_")}
    assert len(named) > 15
    assert not [name for name in named if not re.search(rf"^(# TYPE )?{name}(\{{| )", shown, re.MULTILINE)]


def test_the_rules_can_be_read():
    yaml = pytest.importorskip("yaml")
    blocks = [yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", GUIDE, re.DOTALL)]
    assert [list(block) for block in blocks] == [["scrape_configs"], ["groups"]]
    assert all({"alert", "expr", "for"} <= set(rule) for rule in blocks[1]["groups"][0]["rules"])


# --- the unit and the container


def test_the_unit_says_what_the_command_line_takes():
    start = re.search(r"^ExecStart=/opt/siftlm/bin/siftlm (.*?[^\\])$", UNIT, re.MULTILINE | re.DOTALL)[1]
    given = parser().parse_args(arguments_of(start))
    assert (given.memories, given.keys, given.host) == (
        ["docs=%S/siftlm/docs"],
        "%E/siftlm/keys.json",
        "127.0.0.1",
    )
    assert int(re.search(r"^TimeoutStopSec=(\d+)$", UNIT, re.MULTILINE)[1]) > given.grace


def test_the_container_asks_for_keys_and_runs_as_nobody_special():
    given = parser().parse_args(json.loads(re.search(r"^CMD (\[.*\])$", CONTAINER, re.MULTILINE)[1]))
    assert (given.memories, given.keys, given.host) == (["docs=/memory/docs"], "/keys/keys.json", "0.0.0.0")
    assert CONTAINER.count("FROM python:3.12-slim") == 2
    assert CONTAINER.index("USER siftlm") > CONTAINER.rindex("FROM")
    assert f"http://127.0.0.1:{given.port}/ready" in CONTAINER
    for line in re.findall(r"^# +docker run .* siftlm (index|keys) (.*)$", CONTAINER, re.MULTILINE):
        parser().parse_args([line[0], *shlex.split(line[1])])


def test_the_server_refuses_to_be_reached_without_keys(memory, capsys):
    assert main(["serve", "--memory", f"docs={memory.path}", "--host", "0.0.0.0", "--port", "0"]) == 1
    assert "keys to a file of API keys" in capsys.readouterr().err
