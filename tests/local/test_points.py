"""Points on the way to a score: the last one is scored once, and is the score."""

from __future__ import annotations

import pytest

from calibration.worlds import Reader, document, needles_world
from siftlm.local import LocalModel


class Counting(Reader):
    """Counts how often it is asked."""

    asked = 0

    def likelihood(self, text, *, after="", texts=()):
        self.asked += 1
        return super().likelihood(text, after=after, texts=texts)


@pytest.fixture(scope="module")
def memory(tmp_path_factory):
    with needles_world(tmp_path_factory.mktemp("needles") / "memory") as made:
        yield made


@pytest.mark.parametrize(("at", "times"), [((), 2), ((4,), 2), ((1, 4), 3), ((0, 1), 3), ((9,), 2)])
def test_the_last_point_is_the_score_and_costs_nothing_more(memory, at, times):
    reader = Counting()
    model = LocalModel(reader, memory, n=4, method="nearest")
    score = model.score(document(0), at=at)
    plain = model.score(document(0))
    assert reader.asked == times + 2
    assert (score.tuned, score.likelihood) == (plain.tuned, plain.likelihood)
    assert score.tuned < score.base
    assert [step for step, _ in score.curve] == [step for step in sorted(at) if step <= 4]
    assert dict(score.curve).get(4, score.tuned) == score.tuned
