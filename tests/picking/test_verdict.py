"""The verdict: a model trained on the choice against models trained on random records."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("torch")

from calibration.worlds import Reader, words
from siftlm import pick
from siftlm.errors import Conflict, InvalidInput


def pool(topic=3, poison=""):
    """Ten records about each of eight topics; those about ``topic`` may hold a word more."""
    draw = np.random.default_rng(0)
    return [
        " ".join([*draw.choice(words(about, "p", 12), 5, replace=False), f"n{at}", *([poison] * (about == topic))])
        for about in range(8)
        for at in range(10)
    ]


def about(topic, count):
    draw = np.random.default_rng(1)
    return [" ".join(draw.choice(words(topic, "p", 12), 4, replace=False)) for _ in range(count)]


def judged(texts, targets, n=8, model=None, **settings):
    picks = pick(texts, targets, n, embedder="hashing")
    return picks.verdict(proxy=model or Reader(), rate=3e-4, **settings)


def test_records_about_the_targets_are_better_than_random_ones():
    model = Reader()
    found = judged(pool(), about(3, 12), model=model)
    assert found.verdict == "better"
    assert found.difference.high < 0
    assert found.won == 1
    assert found.chosen.value - found.random.value == pytest.approx(found.difference.value)
    assert (found.tests, found.records, model.tunings) == (12, 8, 2 * 4)
    assert "is better than a random one of the same size" in found.sentence
    assert found.to_dict()["verdict"] == "better"


def test_records_that_harm_are_worse():
    assert judged(pool(poison="poison"), about(3, 12)).verdict == "worse"


def test_a_pool_that_is_all_the_same_makes_no_difference():
    same = [f"{' '.join(words(3, 'p', 12))} n{at}" for at in range(40)]
    found = judged(same, about(3, 12))
    assert found.verdict == "no significant difference"
    assert found.difference.value == 0
    assert found.won == 0.5


def test_few_targets_decide_nothing():
    found = judged(pool(), about(3, 4))
    assert found.verdict == "inconclusive"
    assert "fewer than 5 targets are too few" in found.sentence


def test_a_test_of_ones_own_is_judged_by_the_choice_itself():
    targets, test = about(3, 12)[:6], about(3, 12)[6:]
    model = Reader()
    found = judged(pool(), targets, model=model, test=[{"text": text} for text in test], records=5)
    assert (found.verdict, found.tests, found.records, model.tunings) == ("better", 6, 5, 4)
    with pytest.raises(Conflict, match="item 1: this test is a target too"):
        judged(pool(), targets, test=targets[:1])


def test_the_held_out_half_has_no_part_in_the_choice():
    # All targets but the first are about topic 3, so whatever is chosen for the others is not about topic 5.
    targets = [*about(3, 11), about(5, 1)[0]]
    found = judged(pool(), targets)
    outlier = targets.index(about(5, 1)[0])
    order = np.random.default_rng(0).permutation(12)
    place = [*np.sort(order[0::2]), *np.sort(order[1::2])].index(outlier)
    base, chosen, _ = found.losses
    assert chosen[place] == base[place]
    assert (np.delete(chosen, place) < np.delete(base, place)).all()


def test_what_cannot_be_judged_is_refused():
    vectors = np.eye(80)
    picks = pick(pool(), n=3, vectors=vectors, target_vectors=vectors[:2])
    with pytest.raises(Conflict, match="a verdict needs the texts of targets"):
        picks.verdict(proxy=Reader())
    with pytest.raises(InvalidInput, match="one target cannot be both"):
        judged(pool(), about(3, 1))


@pytest.mark.slow
def test_it_goes_into_the_report(tmp_path):
    picks = pick(pool(), about(3, 12), 8, embedder="hashing")
    report = picks.report(verdict=picks.verdict(proxy=Reader(), rate=3e-4))
    report.write(tmp_path / "a")
    assert "is better than a random one" in report.to_html()
    assert (tmp_path / "a-verdict.svg").read_text(encoding="utf-8").startswith("<svg")


def test_a_model_of_weights_learns_from_the_choice(tmp_path):
    tiny = pytest.importorskip("embedding.tiny")
    found = judged(pool(), about(3, 6), model=str(tiny.gpt2(tmp_path / "gpt2")), records=4)
    base, chosen, random = found.losses
    assert (chosen < base).all()
    assert (random < base).all()
    assert found.proxy.endswith("gpt2")
