"""The sum over many targets, carried forward without a row for each: the numbers of the form that has them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from effort import examples
from siftlm.selection import posterior
from siftlm.selection.posterior import FeaturePosterior, posterior_of
from siftlm.selection.space import space_of
from siftlm.selection.trace import TracePosterior


def space(seed, dtype=np.float64, size=60, width=6, targets=9, noise=1.0):
    draw = np.random.default_rng(seed)
    vectors = draw.normal(size=(size, width)).astype(dtype)
    return space_of(vectors, draw.normal(size=(targets, width)), kernel=None, normalize=True, noise=noise)


@settings(max_examples=examples(40))
@given(
    st.integers(0, 10**6),
    st.integers(1, 12),
    st.sampled_from([1e-6, 0.01, 1.0]),
    st.sampled_from([np.float32, np.float64]),
)
def test_gains_are_those_of_the_rows(seed, targets, noise, dtype):
    made = space(seed, dtype, targets=targets, noise=noise)
    rows, summed = FeaturePosterior(made, noise), TracePosterior(made, noise)
    draw = np.random.default_rng(seed)
    # Errors are relative to the best gain; those of float32 scans show where λ allows them.
    within = 1e-8 if made.rounding < 1e-10 else 2e-3
    for _ in range(25):
        gains = rows.trace_gain().copy()
        np.testing.assert_allclose(summed.trace_gain(), gains, atol=within * gains.max())
        np.testing.assert_allclose(summed.variance, rows.variance, atol=1e-5)
        # The best now and then, and any other between.
        index = int(gains.argmax()) if draw.random() < 0.7 else int(draw.integers(len(gains)))
        assert summed.look(index).drop == pytest.approx(rows.look(index).drop, rel=1e-9)
        rows.observe(index)
        summed.observe(index)
    np.testing.assert_allclose(
        np.trace(summed.targets), np.trace(made.target_gram()) - _dropped(made, noise, rows), rtol=1e-6
    )


def _dropped(made, noise, rows):
    """What the targets of the other form have lost."""
    return float(np.trace(made.target_gram()) - np.trace(rows.targets))


def test_a_restart_is_the_state_after_the_picks(monkeypatch):
    monkeypatch.setattr(posterior, "REFRESH_EVERY", 8)
    made = space(3)
    summed, again = TracePosterior(made, 1.0), TracePosterior(made, 1.0)
    picks = np.random.default_rng(0).integers(0, 60, 24)
    for at, index in enumerate(picks.tolist(), start=1):
        summed.observe(index)
        assert summed.refreshed == (at % 8 == 0)
    again.restart(picks)
    for index in (5, 7, 5):
        assert again.trace_gain().tolist() == summed.trace_gain().tolist()
        summed.observe(index)
        again.observe(index)


def test_it_is_taken_where_it_is_cheaper():
    many, few = space(0, width=48, size=400, targets=9), space(0, width=48, size=400, targets=2)
    assert isinstance(posterior_of(many, 1.0, 5, trace_only=True), TracePosterior)
    assert isinstance(posterior_of(few, 1.0, 5, trace_only=True), FeaturePosterior)
    assert isinstance(posterior_of(many, 1.0, 5), FeaturePosterior)
    assert posterior_of(many, 1.0, 5, trace_only=True).cross.shape == (0, 400)
