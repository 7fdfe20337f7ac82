"""Made-up mathematics: right, without repetitions, and what is held out stays out."""

from __future__ import annotations

import itertools

import pytest
from benchmarks.sample_corpus import mathematics

from sample_corpus.recompute import CHECKS
from siftlm.errors import InvalidInput


def drawn(module, count, **settings):
    return list(itertools.islice(mathematics.problems(module, **settings), count))


def test_every_kind_of_problem_is_recomputed():
    assert set(CHECKS) == set(mathematics.MODULES)
    assert len(CHECKS) >= 12


@pytest.mark.parametrize("module", mathematics.MODULES)
def test_answers_are_right(module):
    for problem in drawn(module, 30) + drawn(module, 10, seed=1, held_out=True):
        assert CHECKS[module](problem.question, problem.answer), problem


@pytest.mark.slow
@pytest.mark.parametrize("module", mathematics.MODULES)
def test_many_answers_are_right(module):
    for problem in drawn(module, 1200, seed=7):
        assert CHECKS[module](problem.question, problem.answer), problem


@pytest.mark.parametrize("module", mathematics.MODULES)
def test_a_wrong_answer_is_seen(module):
    # Otherwise the tests above would prove nothing.
    for problem in drawn(module, 5):
        if problem.answer in {"yes", "no"}:
            wrong = "no" if problem.answer == "yes" else "yes"
        elif module == "roman_numerals" and not problem.answer.isdigit():
            wrong = problem.answer + "I" if problem.answer[-1] != "I" else problem.answer[:-1] or "V"
        elif module == "clock" and ":" in problem.answer:
            wrong = problem.answer[:-1] + ("1" if problem.answer[-1] != "1" else "2")
        else:
            wrong = problem.answer[:-1] + ("3" if problem.answer[-1] != "3" else "4")
            if module == "bases":
                wrong = problem.answer + "1"
        assert not CHECKS[module](problem.question, wrong), (problem, wrong)


@pytest.mark.parametrize("module", mathematics.MODULES)
def test_no_question_is_asked_twice(module):
    problems = drawn(module, 150)
    assert len({problem.question for problem in problems}) == len({problem.facts for problem in problems}) == 150


def test_what_is_held_out_is_so_whatever_the_seed_and_wording():
    held = {problem.facts for seed in range(3) for problem in drawn("prime_factors", 100, seed=seed, held_out=True)}
    kept = {problem.facts for seed in range(3) for problem in drawn("prime_factors", 1000, seed=seed)}
    assert held
    assert kept
    assert not held & kept


def test_documents_are_the_same_every_time_and_others_for_another_seed():
    texts = [[one.text for one in mathematics.documents(2, seed=seed)] for seed in (0, 0, 1)]
    assert texts[0] == texts[1]
    assert not set(texts[0]) & set(texts[2])
    assert len(texts[0]) == 2 * len(mathematics.MODULES)
    assert all(text.count("\n\n") == mathematics.TOGETHER - 1 for text in texts[0])


def test_a_module_without_more_problems_says_so(monkeypatch):
    monkeypatch.setitem(mathematics.MODULES, "one", lambda rng: mathematics.Exercise("1 + 1?", "2", ("+", 1, 1)))
    with pytest.raises(InvalidInput, match="one has no more problems than"):
        list(mathematics.documents(1, modules=["one"]))
