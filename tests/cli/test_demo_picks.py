"""``siftlm demo picks``: what it claims is what it computed, and it fits every terminal."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
from rich.cells import cell_len as width_of

from siftlm import select, spread
from siftlm.cli import demo_picks as demo
from siftlm.cli import tables
from siftlm.cli.demo import NAMES
from siftlm.cli.terminal import Terminal


def _lines(comparison, terminal):
    width = min(terminal.width, demo.WIDEST_COLUMNS)
    return terminal.render(*demo.example_parts(comparison, terminal, width), width=width).split("\n")


@pytest.fixture(scope="module")
def comparisons():
    return {name: demo.compare(name) for name in demo.EXAMPLES}


def test_the_examples_are_those_of_the_command():
    assert set(NAMES) == {"picks", *demo.EXAMPLES}


@pytest.mark.parametrize("name", demo.EXAMPLES)
def test_the_vectors_belong_to_the_texts(name):
    record = json.loads((demo.DATA / f"{name}.json").read_text(encoding="utf-8"))
    assert sum(path.stat().st_size for path in demo.DATA.glob("*.json")) < 20_000
    if "embedder" in record:
        assert record["embedder"] in ("static", "hashing")  # which need no model
    else:
        _check_stored(name, record)
    loaded = demo.load(name)
    assert len(loaded.vectors) == len(loaded.texts) == len(loaded.facts) == len(set(loaded.texts))
    np.testing.assert_allclose(np.linalg.norm(loaded.vectors, axis=1), 1, atol=2e-3)


def _check_stored(name, record):
    with np.load(demo.DATA / "vectors.npz", allow_pickle=False) as stored:
        assert str(stored[f"{name}_fingerprint"]) == demo.fingerprint(record), "run examples/embed_demo.py"
        assert stored[f"{name}_texts"].dtype == np.float16


def test_the_figures_are_those_of_the_library(comparisons):
    for name, comparison in comparisons.items():
        it, n = comparison.example, demo.EXAMPLES[name]
        assert comparison.noise == pytest.approx(spread(it.vectors, it.query, n=n).noise, rel=0.05)
        for method, picked in (("nearest", comparison.nearest), ("sift", comparison.sift)):
            chosen = select(it.query, it.vectors, n, method=method, noise=comparison.noise)
            facts = {it.facts[index] for index in chosen.indices} & it.needed
            assert picked.texts == tuple(it.texts[index] for index in chosen.indices)
            assert picked.found == len(facts)
            assert set(picked.missing) == it.needed - facts
            np.testing.assert_allclose(picked.uncertainty, chosen.uncertainty / chosen.uncertainty[0], atol=1e-6)


def test_sift_finds_more_facts_than_nearest_neighbours(comparisons):
    island = comparisons["island"]
    assert island.nearest.found <= 2
    assert island.sift.found == 5
    assert island.ended == (5, 5)
    assert {found for _, found in island.by_noise} == {5}
    assert comparisons["jordan"].nearest.found == 1
    assert comparisons["jordan"].sift.found == 2
    assert "Michael Jordan has five children." in comparisons["jordan"].sift.texts
    assert comparisons["coffee"].nearest.found == 1
    assert comparisons["coffee"].sift.found >= 4
    assert comparisons["coffee"].sift.complete_after < comparisons["coffee"].nearest.complete_after


def test_what_is_printed_is_what_was_found(comparisons, siftlm):
    out = " ".join(siftlm("demo", "picks")[1].split())
    for comparison in comparisons.values():
        nearest, sift, facts = comparison.nearest, comparison.sift, len(comparison.example.needed)
        n = len(sift.texts)
        assert f"nearest neighbour: {nearest.found} of {facts} facts in {n} picks;" in out
        assert f"SIFT: {sift.found} of {facts}." in out
        for missing in sift.missing:
            assert f"SIFT misses: {missing}" in out


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
        lines = _lines(comparison, terminal)
        assert max(map(width_of, lines)) <= width
        assert unicode or all(line.isascii() for line in lines)
        side_by_side = any("nearest neighbour" in line and line.rstrip().endswith("SIFT") for line in lines[:9])
        assert side_by_side == (width - 2 >= tables.SIDE_BY_SIDE_COLUMNS)


def test_colour_changes_nothing_but_colour(comparisons):
    for width in (40, 120):
        plain = _lines(comparisons["coffee"], Terminal(width=width))
        coloured = _lines(comparisons["coffee"], Terminal(width=width, colour=True))
        assert any("\x1b[" in line for line in coloured)
        stripped = [re.sub(r"\x1b\[[0-9;]*m", "", line).rstrip() for line in coloured]
        assert stripped == [line.rstrip() for line in plain]


def test_in_a_pipe_it_is_plain(siftlm):
    status, out, err = siftlm("demo", "picks")
    assert (status, err) == (0, "")
    assert "\x1b" not in out
    assert "●" in out


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252"])
def test_an_encoding_without_blocks(encoded, encoding):
    status, out = encoded(encoding, "demo", "picks")
    assert status == 0
    assert out.isascii()
    questions = [b"water safe?", b"he have?", b"do it?", b"Michael Jordan?"]
    assert out.count(b"?") == sum(out.count(question) for question in questions)
    assert b"lambda = " in out
