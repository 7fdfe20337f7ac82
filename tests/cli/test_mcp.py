"""`siftlm mcp`: what is wrong with the command line is said at once, in one line."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from siftlm.cli import main, parser
from siftlm.cli.mcp import read_address
from siftlm.memory import Memory


@pytest.fixture
def memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    Memory.create("docs").close()
    return "docs"


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Any]]:
    """What a server would be started with; none is."""
    mcp = pytest.importorskip("siftlm.integrations.mcp")
    seen: list[tuple[str, Any]] = []
    monkeypatch.setattr(mcp, "serve_stdio", lambda memories: seen.append(("stdio", list(memories))))
    monkeypatch.setattr(mcp, "serve_http", lambda memories, **how: seen.append(("http", how)))
    return seen


def test_stdio_is_the_default_and_memories_have_names(memory: str, served: list[Any], capsys: Any) -> None:
    assert main(["mcp", "--memory", memory, "--memory", "wiki=docs"]) == 0
    assert served == [("stdio", ["docs", "wiki"])]
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("word", "address"),
    [
        ("8000", ("127.0.0.1", 8000)),
        ("localhost:0", ("localhost", 0)),
        ("0.0.0.0:65535", ("0.0.0.0", 65535)),
        ("[::1]:80", ("::1", 80)),
    ],
)
def test_an_address_is_a_port_with_or_without_a_host(
    memory: str, served: list[Any], word: str, address: tuple[str, int]
) -> None:
    assert main(["mcp", "--memory", memory, "--http", word, "--open"]) == 0
    [(kind, how)] = served
    assert (kind, (how["host"], how["port"]), how["anybody"], how["readers"]) == ("http", address, True, None)


@pytest.mark.parametrize("word", ["", "x", "65536", "host:", ":80", "::1:80", "a b:80", "-1"])
def test_what_is_no_address_is_said(word: str) -> None:
    with pytest.raises(Exception, match="expected PORT or HOST:PORT"):
        read_address(word)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("mcp --memory none", "none: there is no such folder"),
        ("mcp --memory docs --memory docs", "another memory is already named 'docs'"),
        ("mcp --memory docs --keys keys.json", "--keys and --open need --http"),
        ("mcp --memory docs --open", "--keys and --open need --http"),
        ("mcp --memory docs --http 0 --keys none.json", "none.json: no such file"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(
    memory: str, served: list[Any], words: str, message: str, capsys: Any
) -> None:
    assert main(words.split()) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert message in err
    assert err.count("\n") == 1
    assert not served


def test_nobody_listens_to_the_world_by_accident(memory: str, capsys: Any) -> None:
    pytest.importorskip("mcp")
    assert main(["mcp", "--memory", memory, "--http", "0.0.0.0:0"]) == 1
    assert "others can reach --http 0.0.0.0: set --keys to a file of API keys" in capsys.readouterr().err


@pytest.mark.parametrize("closed", ["stdin", "stdout"])
def test_a_closed_stream_is_said(memory: str, monkeypatch: pytest.MonkeyPatch, capsys: Any, closed: str) -> None:
    pytest.importorskip("mcp")
    monkeypatch.setattr(sys, closed, None)
    assert main(["mcp", "--memory", memory]) == 1
    assert "stdin or stdout is closed" in capsys.readouterr().err


def test_a_missing_library_names_the_extra(memory: str, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setitem(sys.modules, "mcp", None)
    assert main(["mcp", "--memory", memory]) == 1
    assert "pip install 'siftlm[mcp]'" in capsys.readouterr().err


def test_the_help_lists_it(siftlm: Callable[..., tuple[int, str, str]]) -> None:
    assert "mcp" in parser().description
    status, out, _ = siftlm("mcp", "--help")
    assert status == 0
    assert '{"mcpServers"' in out
