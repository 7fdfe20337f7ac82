"""The method ``auto`` where a text is its own prompt, and where it is not."""

from __future__ import annotations

import pytest

from siftlm import LocalModel, Memory

TEXT = "the kettle boils water for the tea and the cup waits on the table beside the open window"


@pytest.fixture(scope="module")
def local(tmp_path_factory):
    folder = tmp_path_factory.mktemp("auto") / "memory"
    others = [f"{TEXT[:40]} and then comes sentence number {at} about something else" for at in range(8)]
    Memory.build([TEXT, *others], folder).close()
    return LocalModel("siftlm-tiny", folder, n=4)


def rows(score):
    return [hit.row for hit in score.found]


@pytest.mark.slow
def test_a_text_that_is_its_own_prompt_gets_sift_with_repeats(local):
    scored = local.score(TEXT, method="auto", mode="transductive")
    published = local.score(TEXT, method="sift", replacement=True, mode="transductive")
    assert scored.found.selection.method == "sift"
    assert (rows(scored), scored.tuned) == (rows(published), published.tuned)
    assert len(set(rows(scored))) < len(rows(scored))
    [many] = local.score_many([TEXT], method="auto", mode="transductive", progress=False)
    assert (rows(many), many.tuned) == (rows(scored), scored.tuned)


@pytest.mark.parametrize("changes", [{"replacement": False}, {"step": 0.5}, {"likeness": 0.9}])
def test_what_somebody_chose_for_it_keeps_it(local, changes):
    assert local.score(TEXT, method="auto", mode="transductive", **changes).found.selection.method == "auto"


def test_half_of_a_text_asks_without_repeats(local):
    scored = local.score(TEXT, method="auto")
    assert scored.found.selection.method == "auto"
    assert len(set(rows(scored))) == len(rows(scored))
