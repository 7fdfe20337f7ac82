"""RDS+ as published: a language model's states, weighted by position, and every target in turn."""

from __future__ import annotations

import numpy as np
import pytest

import siftlm
from picking.conftest import TARGETS, records

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

pytestmark = pytest.mark.slow


def plain_vectors(texts, weigh):
    """(n, d) in float64 of unit length, one text after the other."""
    from siftlm.extras import bundled_model

    folder = str(bundled_model())
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder).double().eval()
    rows = []
    for text in texts:
        with torch.no_grad():
            out = model(**tokenizer(text, return_tensors="pt"), output_hidden_states=True)
        states = out.hidden_states[-1][0].numpy()
        pooled = weigh(len(states)) @ states
        rows.append(pooled / np.linalg.norm(pooled))
    return np.array(rows)


def by_position(count):
    return np.arange(1, count + 1) / np.arange(1, count + 1).sum()


def last(count):
    return np.eye(count)[-1]


@pytest.mark.parametrize(("pooling", "weigh"), [("weighted", by_position), ("last", last)])
def test_every_target_in_turn_takes_the_nearest_by_states(pooling, weigh):
    pool = [record["text"] for record in records(60)]
    pool = list(dict.fromkeys(pool))
    cosines = plain_vectors(TARGETS, weigh) @ plain_vectors(pool, weigh).T
    left, expected = set(range(len(pool))), []
    for turn in range(12):
        best = max(left, key=lambda at: cosines[turn % len(TARGETS), at])
        left.remove(best)
        expected.append(best)
    states = siftlm.embedder("states:siftlm-tiny", pooling=pooling)
    picks = siftlm.pick(pool, TARGETS, 12, method="rds", embedder=states, without_copies=False)
    assert picks.records == [pool[at] for at in expected]
    np.testing.assert_allclose(
        picks.gains, [(1 + cosines[at % len(TARGETS), one]) / 2 for at, one in enumerate(expected)], atol=1e-5
    )
