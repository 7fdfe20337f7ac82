"""The report: what is left of each target's uncertainty, against other choices, in files that need no other."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import siftlm
from effort import examples
from picking.conftest import TARGETS, records
from properties import oracle
from siftlm import pick
from siftlm.errors import InvalidInput
from siftlm.picking.choose import Candidates
from siftlm.picking.coverage import curve_counts, nearest_choice, random_choices, repeated_share, target_uncertainty


@pytest.fixture(scope="module")
def picks():
    pool = [{**row, "source": row["source"] + ("" if row["n"] % 3 else " <b>")} for row in records(300)]
    return pick([*pool, {"text": TARGETS[0]}], TARGETS, 40, quota={"source": {"mail": 0.2, "web <b>": 30}})


@settings(max_examples=examples(20))
@given(st.integers(0, 10**6), st.sampled_from([0.01, 1.0, 30.0]))
def test_what_is_left_is_the_posterior_variance_of_each_target(seed, noise):
    draw = np.random.default_rng(seed)
    n, width, goals = int(draw.integers(1, 9)), int(draw.integers(1, 6)), int(draw.integers(1, 4))
    vectors, targets = oracle.unit(draw.normal(size=(n, width))), oracle.unit(draw.normal(size=(goals, width)))
    world = oracle.world(targets, vectors, noise=noise)
    left = target_uncertainty(vectors.astype(float), targets.astype(float), noise, range(n + 1))
    for count in range(n + 1):
        _, _, covariance = world.state(list(range(count)))
        np.testing.assert_allclose(left[count], np.diagonal(covariance).astype(float), atol=1e-12)


def test_the_end_of_the_curve_is_what_the_selection_said(picks):
    text = picks.report().to_markdown()
    row = re.search(r"\| picked \| 40 \| ([0-9.]+) \|", text)
    assert float(row[1]) == pytest.approx(100 * picks.uncertainty[-1], abs=0.06)
    plain = siftlm.select(picks.targets.vectors, picks.embedded.vectors, 40, noise=1.0, replacement=False)
    assert plain.uncertainty[-1] <= picks.uncertainty[-1] + 1e-6


def world(seed=0, size=60, goals=4, **more):
    draw = np.random.default_rng(seed)
    vectors, targets = oracle.unit(draw.normal(size=(size, 5))), oracle.unit(draw.normal(size=(goals, 5)))
    allowed = draw.random(size) < 0.7
    return Candidates(vectors.astype(np.float32), targets.astype(np.float32), allowed, 1.0, **more)


@pytest.mark.parametrize("n", [1, 5, 30])
def test_the_nearest_are_taken_in_turns(n):
    candidates = world()
    cosines = candidates.targets @ candidates.vectors.T
    cosines[:, ~candidates.allowed] = -np.inf
    order = np.argsort(-cosines, axis=1)
    expected = list(dict.fromkeys(int(order[at % 4, at // 4]) for at in range(4 * candidates.allowed.sum())))[:n]
    assert nearest_choice(candidates, n).tolist() == expected


def test_random_choices_differ_and_keep_what_is_allowed_and_the_budget():
    costs = np.random.default_rng(3).integers(1, 9, 60).astype(float)
    for candidates in (world(), world(costs=costs, budget=40.0)):
        choices = random_choices(candidates, 10, seed=0)
        assert len({tuple(one.tolist()) for one in choices}) == len(choices)
        for one in choices:
            assert candidates.allowed[one].all()
            if candidates.budget is not None:
                assert 32 < costs[one].sum() <= 40
            else:
                assert len(one) == 10


def test_repeats_are_counted_among_the_chosen():
    vectors = np.eye(6, dtype=np.float32)[[0, 0, 1, 2, 3]]
    assert repeated_share(vectors, np.arange(5)) == pytest.approx(0.4)
    assert repeated_share(vectors, np.array([1, 2, 3])) == 0
    assert repeated_share(vectors, np.array([2])) == 0


@pytest.mark.parametrize("n", [0, 1, 3, 100, 12345])
def test_the_curve_ends_with_the_choice(n):
    counts = curve_counts(n)
    assert (counts[0], counts[-1]) == (0, n)
    assert counts == sorted(set(counts))


class Page(HTMLParser):
    """Collects tags and their balance."""

    def __init__(self):
        super().__init__()
        self.open, self.tags, self.links = [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.links += [value for name, value in attrs if name in ("src", "href")]
        if tag not in ("meta", "circle", "line", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_files_are_whole_and_need_nothing_else(picks, tmp_path):
    files = picks.report().write(tmp_path / "chosen")
    assert [file.name for file in files] == ["chosen.html", "chosen.md", "chosen-curve.svg", "chosen-plane.svg"]
    page = Page()
    page.feed((tmp_path / "chosen.html").read_text(encoding="utf-8"))
    assert not page.open
    assert not page.links
    assert "script" not in page.tags
    assert page.tags.count("svg") == 2
    assert page.tags.count("circle") == 301 + len(TARGETS) + 3  # pool, picks, targets and the legend
    text = (tmp_path / "chosen.md").read_text(encoding="utf-8")
    for name in re.findall(r"\]\(([^)]+)\)", text):
        assert (tmp_path / name).read_text(encoding="utf-8").startswith("<svg")
    with pytest.raises(InvalidInput, match="must be the beginning of a file's name"):
        picks.report().write(tmp_path)


def test_tables_say_what_was_left_out_and_what_each_source_has(picks):
    text = picks.report().to_markdown()
    held = sum(row["source"] == "mail" for row in records(300))
    mail = sum(one.get("source") == "mail" for one in picks.records)
    assert f"| mail | {held:,} |" in text
    assert re.search(rf"\| mail \| .* \| {mail} \| {100 * mail / 40:.1f} \| 20 % \|", text)
    assert re.search(r"\| web \\<b> \| .* \| 30 records \|", text)
    assert "| copies of a target | 1 |" in text
    assert "<b>" not in picks.report().to_html()


def test_it_is_the_same_every_time(picks):
    assert picks.report(seed=3).to_html() == picks.report(seed=3).to_html()


def test_a_choice_by_vectors_alone_has_a_report_too():
    draw = np.random.default_rng(0)
    by_vectors = pick(records(50), n=5, vectors=draw.normal(size=(50, 4)), target_vectors=draw.normal(size=(2, 4)))
    assert "| row 0 |" in by_vectors.report().to_markdown()
