"""``siftlm demo picks``: what it claims is what it computed, and it fits every terminal."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest

from siftlm import select, spread
from siftlm.cli import demo_picks as demo
from siftlm.cli import example
from siftlm.cli.drawing import Terminal, width_of


@pytest.fixture(scope="module")
def comparisons():
    return {name: example.compare(name) for name in demo.NAMES}


def test_the_examples_are_those_of_the_command():
    assert set(demo.NAMES) == set(example.PICKS)


@pytest.mark.parametrize("name", demo.NAMES)
def test_the_vectors_belong_to_the_texts(name):
    record = json.loads((example.DATA / f"{name}.json").read_text(encoding="utf-8"))
    with np.load(example.DATA / "vectors.npz", allow_pickle=False) as stored:
        assert str(stored[f"{name}_fingerprint"]) == example.fingerprint(record), "run examples/embed_demo.py"
        assert stored[f"{name}_texts"].dtype == np.float16
    loaded = example.load(name)
    assert len(loaded.vectors) == len(loaded.texts) == len(loaded.told) == len(set(loaded.texts))
    np.testing.assert_allclose(np.linalg.norm(loaded.vectors, axis=1), 1, atol=2e-3)


def test_the_figures_are_those_of_the_library(comparisons):
    for name, comparison in comparisons.items():
        it, n = comparison.example, example.PICKS[name]
        assert comparison.noise == pytest.approx(spread(it.vectors, it.query, n=n).noise, rel=0.05)
        for method, picked in (("nearest", comparison.nearest), ("sift", comparison.sift)):
            chosen = select(it.query, it.vectors, n, method=method, noise=comparison.noise)
            facts = {it.told[index] for index in chosen.indices} & it.asked
            assert picked.texts == tuple(it.texts[index] for index in chosen.indices)
            assert picked.found == len(facts)
            assert set(picked.missing) == it.asked - facts
            np.testing.assert_allclose(picked.uncertainty, chosen.uncertainty / chosen.uncertainty[0], atol=1e-6)


def test_sift_finds_more_facts_than_nearest_neighbours(comparisons):
    assert comparisons["jordan"].nearest.found == 1
    assert comparisons["jordan"].sift.found == 2
    assert "Michael Jordan has five children." in comparisons["jordan"].sift.texts
    assert comparisons["coffee"].nearest.found == 1
    assert comparisons["coffee"].sift.found >= 4
    assert comparisons["coffee"].sift.complete_after < comparisons["coffee"].nearest.complete_after


def test_what_is_printed_is_what_was_found(comparisons, siftlm):
    out = " ".join(siftlm("demo", "picks")[1].split())
    for comparison in comparisons.values():
        nearest, sift, facts = comparison.nearest, comparison.sift, len(comparison.example.asked)
        n = len(sift.texts)
        assert f"nearest neighbour: {nearest.found} of {facts} facts in {n} picks;" in out
        assert f"SIFT: {sift.found} of {facts}." in out
        for missing in sift.missing:
            assert f"Not found by SIFT: {missing}" in out


def test_json(comparisons, siftlm):
    records = json.loads(siftlm("demo", "picks", "--json")[1])
    assert records == json.loads(json.dumps([c.to_dict() for c in comparisons.values()]))


def test_one_example_alone(siftlm):
    out = siftlm("demo", "coffee")[1]
    assert "Michael" not in out
    status, _, err = siftlm("demo", "tea")
    assert status == 2
    assert err.count("\n") == 1


@pytest.mark.parametrize("unicode", [True, False])
@pytest.mark.parametrize("width", [40, 60, 70, 80, 100, 160])
def test_lines_keep_the_width(comparisons, width, unicode):
    terminal = Terminal(width=width, unicode=unicode)
    for comparison in comparisons.values():
        lines = demo._example(comparison, terminal, min(width, demo.WIDEST))
        assert max(map(width_of, lines)) <= width
        assert unicode or all(line.isascii() for line in lines)
        side_by_side = any("nearest neighbour" in line and line.rstrip().endswith("SIFT") for line in lines[:9])
        assert side_by_side == (width >= demo.SIDE_BY_SIDE)


def test_colour_changes_nothing_but_colour(comparisons):
    for width in (40, 120):
        plain = demo._example(comparisons["coffee"], Terminal(width=width), width)
        coloured = demo._example(comparisons["coffee"], Terminal(width=width, colour=True), width)
        assert any("\x1b[" in line for line in coloured)
        stripped = [re.sub(r"\x1b\[[0-9;]*m", "", line).rstrip() for line in coloured]
        assert stripped == [line.rstrip() for line in plain]


def test_in_a_pipe_it_is_plain(shell):
    run = shell("demo", "picks")
    assert run.returncode == 0
    assert run.stderr == b""
    assert b"\x1b" not in run.stdout
    assert "●" in run.stdout.decode("utf-8")


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252"])
def test_an_encoding_without_blocks(shell, encoding):
    run = shell("demo", "picks", PYTHONIOENCODING=encoding)
    assert run.returncode == 0
    assert run.stdout.isascii()
    questions = [b"he have?", b"do it?", b"Michael Jordan?"]
    assert run.stdout.count(b"?") == sum(run.stdout.count(question) for question in questions)
    assert b"lambda = " in run.stdout
