"""The corpus: of a made-up library quickly, of this Python's own slowly."""

from __future__ import annotations

import ast
import re
import sys
import types
import zipfile
from pathlib import Path

import pytest
from benchmarks.sample_corpus import corpus, families, mathematics, pieces, prose, standard

from siftlm.errors import InvalidInput, UnknownName
from siftlm.sample import KINDS

PUBLIC = sorted(name for name in sys.stdlib_module_names if not name.startswith("_"))
MODULES = [name for name in PUBLIC if name not in standard.LEFT_OUT][::2]


def source(name):
    """A module with a docstring, a function, a class with methods, comments, blank lines and a form feed."""
    return f'''\
"""The module {name}, about {name} and whatever else there is to say of {name}."""

import os

\x0c
# What follows is about {name}.
def first_{name}(a, b=1):
    """Return the first {name} of a, or the one after b of them: see {name}."""
    return a + b * {len(name)}


class Holder:
    """Holds a {name} until somebody asks for it, and then gives {name} away."""

    def get_{name}(self, *, default=None):
        """Give the {name} away, or the default where there was never any {name}."""
        return self.{name} or default

    def _hidden(self):
        """Not for anybody's eyes, whatever it is that {name} does in here."""
'''


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with a library, from which everything is read."""
    for name in MODULES:
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(source(name))
        (tmp_path / name / "inner.py").write_text(source(name + "_inner"))
    monkeypatch.setattr(standard, "where", lambda: [tmp_path])
    monkeypatch.setattr(corpus, "SHORTEST_PROMPT", 100)
    monkeypatch.setitem(corpus.SIZES, "small", corpus.Size(900, 300, 1, tables=False))
    monkeypatch.setitem(corpus.SIZES, "full", corpus.Size(None, None, 2, tables=True))
    return tmp_path


@pytest.fixture
def topics(monkeypatch):
    """A language reference of twenty topics, two of which quote the others."""
    texts = {f"topic{n}": f'The "topic{n}" statement\n\n' + f"What topic{n} does is told here. " * 5 for n in range(20)}
    texts["quoting"] = "Two in one\n\n" + texts["topic3"] + "\n\n" + texts["topic5"]
    monkeypatch.setitem(sys.modules, prose.REFERENCE, types.SimpleNamespace(topics=texts))
    return texts


def held(kind):
    """What prompts of this kind are drawn from."""
    return [one for one in corpus.held_out(only=kind) if corpus.is_prompt(one)]


def test_documents_say_what_they_are(place, topics):
    documents = list(corpus.documents())
    assert {one.meta["kind"] for one in documents} == set(KINDS)
    assert all(set(one.meta) == {"kind", "source", "name"} for one in documents)
    assert len({one.id for one in documents}) == len(documents)
    assert "abc.first_abc" in {one.meta["name"] for one in documents}
    assert not any(str(place) in f"{one.id} {one.meta} {one.text}" for one in documents)


def test_the_order_is_always_the_same(place, topics):
    first, second = ([(one.id, one.text, one.meta) for one in corpus.documents(size="full")] for _ in range(2))
    assert first == second


@pytest.mark.slow
@pytest.mark.parametrize("size", ["small", "full"])
def test_no_prompt_is_in_the_corpus(place, topics, size):
    documents = list(corpus.documents(size=size))
    everything = "\n".join(one.text for one in documents)
    for kind in KINDS:
        prompts = held(kind)
        assert {one.meta["kind"] for one in prompts} == {kind}
        assert len({one.text for one in prompts}) == len(prompts) >= 8
        for prompt in prompts:
            assert prompt.text not in everything
    sources = {one.meta["source"] for kind in ("code", "prose") for one in corpus.held_out(only=kind)}
    assert {one.meta["source"] for one in documents} & sources == {"language reference"}


@pytest.mark.slow
def test_no_held_out_problem_is_in_the_corpus(place):
    asked = {line for one in corpus.documents(only="mathematics", size="full") for line in one.text.split("\n\n")}
    for seed in range(3):
        for prompt in mathematics.documents(2, seed=seed, held_out=True):
            assert asked.isdisjoint(prompt.text.split("\n\n"))


def test_small_is_a_part_of_full(place, topics):
    small, full = ({one.id: one.text for one in corpus.documents(size=size, largest=200)} for size in ("small", "full"))
    assert small.items() <= full.items()
    assert len(small) < len(full) / 2
    found = {one.meta["source"].split(".")[0] for one in corpus.documents(only="code", largest=200)}
    assert len(found) > 40  # something of every family


def test_only_some_kinds(place, topics):
    assert {one.meta["kind"] for one in corpus.documents(only="prose")} == {"prose"}
    assert {one.meta["kind"] for one in corpus.documents(only=["code", "mathematics"])} == {"code", "mathematics"}


def test_topics_that_quote_each_other_stay_on_one_side(topics):
    found = {topic.name: topic.family for topic in prose.topics()}
    assert found["quoting"] == found["topic3"] == found["topic5"]
    assert len(set(found.values())) == 19


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("_pydecimal", "decimal"),
        ("_pyio", "io"),
        ("_pydatetime", "datetime"),
        ("encodings.cp1250", "codecs"),
        ("ntpath", "posixpath"),
        ("bz2", "compression.lzma"),
        ("email.mime.image", "imghdr"),
        ("json", "json.decoder"),
    ],
)
def test_near_copies_are_kin(one, other):
    assert families.family(one) == families.family(other)


def test_held_out_is_a_tenth():
    held = sum(families.held_out(f"family {n}") for n in range(2000))
    assert 150 < held < 250


# --- what a Python may lack


def test_a_zipped_library_is_read(place, tmp_path, monkeypatch, topics):
    archive = tmp_path / "python.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for path in place.rglob("*.py"):
            file.write(path, path.relative_to(place))
    whole = [one.text for one in corpus.documents()]
    monkeypatch.setattr(standard, "where", lambda: [tmp_path / "nothing", archive])
    assert [one.text for one in corpus.documents()] == whole


def test_without_sources_the_error_says_what_is_left(tmp_path, monkeypatch):
    (tmp_path / "json.py").write_text("x = 1")
    monkeypatch.setattr(standard, "where", lambda: [tmp_path])
    for ask in (corpus.documents, corpus.held_out, lambda: corpus.documents(only="prose")):
        with pytest.raises(InvalidInput, match=r"source text of 1 modules.*mathematics alone"):
            ask()
    assert list(corpus.documents(only="mathematics"))
    assert corpus.inventory().missing[0] == "the source texts of the standard library (1 modules found)"


def test_without_the_reference_the_rest_is_there(place, monkeypatch):
    monkeypatch.setitem(sys.modules, prose.REFERENCE, None)
    assert corpus.inventory().missing == ("the language reference (pydoc_data.topics)",)
    assert corpus.inventory().modules == 2 * len(MODULES)
    assert {one.meta["kind"] for one in corpus.documents()} == set(KINDS)
    assert len(held("prose")) >= 5


def test_only_the_library_is_read(tmp_path):
    for path in (
        "site-packages/json/a.py",
        "test/b.py",
        "json/tests/c.py",
        "config-3.11/d.py",
        "numpy/e.py",
        "_sysconfigdata__linux.py",
        "json/decoder.py",
        "json/__init__.py",
        "json/no.pyc",
    ):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text("x = 1")
    (tmp_path / "heapq.py").write_bytes("# -*- coding: latin-1 -*-\nx = 'ü'\r\n".encode("latin-1"))
    (tmp_path / "bisect.py").write_bytes(b"x = '\xff'")  # no encoding has it
    found = {module.name: module.text for module in standard.modules([tmp_path])}
    assert set(found) == {"heapq", "json", "json.decoder"}
    assert found["heapq"] == "# -*- coding: latin-1 -*-\nx = 'ü'\n"


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"only": "poems"}, UnknownName, "unknown kind 'poems'"),
        ({"only": []}, InvalidInput, "names no kind"),
        ({"size": "huge"}, UnknownName, "unknown size 'huge'"),
        ({"largest": 5}, InvalidInput, "largest=5"),
    ],
)
def test_bad_settings_are_named_at_once(settings, error, message):
    with pytest.raises(error, match=message):
        corpus.documents(**settings)


# --- pieces


@pytest.mark.parametrize("largest", [100, 300, 2000])
def test_pieces_hold_every_line_and_no_more_than_allowed(largest):
    text = source("json") * 3 + Path(pieces.__file__).read_text(encoding="utf-8").replace("from __future__", "from x")
    found = pieces.of_source("json", text, ast.parse(text), largest)
    assert "".join("".join(piece.text.split()) for piece in found) == "".join(text.split())
    whole = {line.rstrip() for line in text.split("\n")}
    if largest > 200:  # than any line
        assert all(line.rstrip() in whole for piece in found for line in piece.text.split("\n"))
    assert max(len(piece.text) for piece in found) <= largest


def test_a_piece_begins_with_a_definition_and_has_its_name():
    found = pieces.of_source("json", source("json"), ast.parse(source("json")), 300)
    starts = {piece.name: piece.text.split("\n")[0] for piece in found}
    assert starts["json.first_json"].startswith(('"""The module', "# What follows"))
    assert starts["json.Holder.get_json"].startswith(("class Holder", "    def get_json"))


def test_docstrings_come_below_signatures_without_what_is_hidden():
    text = "\n".join(piece.text for piece in prose.docstrings("_pyjson", ast.parse(source("json")), 2000))
    assert "json.first_json(a, b=1)\n\nReturn the first json" in text
    assert "json.Holder.get_json(self, *, default=None)" in text
    assert "_pyjson" not in text
    assert "hidden" not in text


# --- this Python


@pytest.mark.slow
def test_this_python_leaks_nothing():
    everything = "\n".join(one.text for one in corpus.documents(size="full", only=("code", "prose")))
    lines = set(re.split(r"\s*\n\s*", everything))
    for kind in ("code", "prose"):
        for prompt in held(kind)[:60]:
            assert prompt.text not in everything
            long = {line for line in re.split(r"\s*\n\s*", prompt.text) if len(line) > 40}
            assert len(long & lines) <= max(2, len(long) / 2), prompt.id


@pytest.mark.slow
def test_this_python_is_cut_without_loss():
    for module in standard.modules()[::10]:
        tree = pieces.parsed(module.text)
        assert tree is not None
        found = pieces.of_source(module.name, module.text, tree, 2000)
        assert "".join("".join(piece.text.split()) for piece in found) == "".join(module.text.split())


@pytest.mark.slow
def test_this_python_tells_no_path():
    for one in corpus.documents():
        told = f"{one.id} {one.meta}"
        assert sys.prefix not in told
        assert sys.base_prefix not in told
        assert not re.search(r"[/\\]", told)
