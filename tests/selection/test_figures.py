"""The figure of relevance against redundancy: its numbers, and that it is drawn without global state."""

from __future__ import annotations

import io
import subprocess
import sys

import numpy as np
import pytest

from siftlm import extras
from siftlm.errors import InvalidInput, MissingExtra
from siftlm.selection import figures, kernels, select


@pytest.fixture
def data():
    rng = np.random.default_rng(0)
    facts = rng.normal(size=(6, 24))
    candidates = np.repeat(facts, 10, axis=0) + 0.2 * rng.normal(size=(60, 24))
    return facts[0] + 0.8 * facts[1] + 0.6 * facts[2], candidates


def test_trade_off_is_what_it_says(data):
    query, candidates = data
    s = select(query, candidates, 6)
    unit = candidates / np.linalg.norm(candidates, axis=1, keepdims=True)
    picked = unit[s.indices]
    similar = np.abs(picked @ picked.T)
    at = figures.trade_off(s)
    assert at.relevance == pytest.approx(np.abs(picked @ query / np.linalg.norm(query)).mean())
    assert at.redundancy == pytest.approx(np.mean([similar[n, :n].max() for n in range(1, 6)]))


def test_one_pick_repeats_nothing(data):
    assert figures.trade_off(select(*data, n=1)).redundancy == 0


@pytest.fixture
def drawn():
    pytest.importorskip("matplotlib")


def texts_of(figure):
    return {text.get_text() for axes in figure.axes for text in axes.texts}


def test_the_curve_holds_the_sweep(data, drawn):
    noises = [1e-3, 1e-1, 1e1]
    figure = figures.relevance_redundancy(*data, n=6, noises=noises)
    (line,) = figure.axes[0].lines
    expected = [figures.trade_off(select(*data, 6, noise=noise)) for noise in noises]
    np.testing.assert_allclose(line.get_xdata(), [p.redundancy for p in expected])
    np.testing.assert_allclose(line.get_ydata(), [p.relevance for p in expected])


@pytest.mark.slow
def test_references_and_noises_are_named(data, drawn):
    named = texts_of(figures.relevance_redundancy(*data, n=6))
    assert {"nearest neighbours", "random"} < named
    assert any(text.startswith("λ = 0.001") for text in named)
    assert any("100" in text for text in named)


def test_labels_do_not_cover_each_other(data, drawn):
    figure = figures.relevance_redundancy(*data, n=6)
    figure.savefig(io.BytesIO(), format="png")
    boxes = [text.get_window_extent() for text in figure.axes[0].texts]
    for at, box in enumerate(boxes):
        assert not any(box.overlaps(other) for other in boxes[:at])


def test_equal_points_share_a_label(drawn):
    # Two orthogonal texts: every λ picks both, so the whole sweep is one point.
    figure = figures.relevance_redundancy([1.0, 1.0], np.eye(2), n=2, noises=[0.01, 0.1, 1.0])
    assert "λ = 0.01 … 1" in texts_of(figure)


def test_noises_that_are_no_powers_of_ten_are_labelled_too(data, drawn):
    named = texts_of(figures.relevance_redundancy(*data, n=6, noises=[0.3, 0.02]))
    assert any(text.startswith("λ = 0.02") for text in named)


@pytest.mark.slow
def test_settings_are_passed_on(data, drawn):
    figure = figures.relevance_redundancy(*data, n=6, noises=[0.1], kernel=kernels.power(2), normalize=False)
    expected = figures.trade_off(select(*data, 6, noise=0.1, kernel=kernels.power(2), normalize=False))
    assert figure.axes[0].lines[0].get_ydata()[0] == pytest.approx(expected.relevance)


@pytest.mark.slow
def test_the_same_seed_gives_the_same_picture(data, drawn):
    def picture():
        file = io.BytesIO()
        figures.relevance_redundancy(*data, n=6, noises=[0.1, 1.0], seed=3).savefig(file, format="png")
        return file.getvalue()

    assert picture() == picture()


@pytest.mark.parametrize(
    ("given", "message"),
    [({"n": 1}, "n must"), ({"noises": []}, "noises is empty"), ({"noises": [0.0]}, "noise")],
)
def test_bad_settings(data, drawn, given, message):
    with pytest.raises(InvalidInput, match=message):
        figures.relevance_redundancy(*data, **{"n": 4, **given})


def test_it_needs_a_query(data):
    with pytest.raises(InvalidInput, match="need a query"):
        figures.relevance_redundancy(None, data[1])


def test_without_matplotlib_the_extra_is_named(data, monkeypatch):
    def absent(library, extra):
        raise MissingExtra(library, extra)

    monkeypatch.setattr(extras, "load", absent)
    with pytest.raises(MissingExtra, match=r"siftlm\[plot\]"):
        figures.relevance_redundancy(*data, n=4)


@pytest.mark.slow
def test_pyplot_is_never_loaded(drawn):
    program = (
        "import sys, numpy as np; from siftlm.selection.figures import relevance_redundancy; "
        "relevance_redundancy(np.ones(4), np.eye(4), n=2, noises=[0.1]); "
        "sys.exit('matplotlib.pyplot' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
