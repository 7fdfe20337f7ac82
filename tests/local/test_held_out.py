"""What the guard holds out for a prompt, and the rules by which it chooses."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from effort import examples
from siftlm import Memory
from siftlm.guard import HELD_OUT_PASSAGES, UNCALIBRATED, Guard, halves, make_guards
from siftlm.memory import Search, SearchRequest

ALIKE = [f"the tide comes in at {hour} and the tide goes out at {hour + 6}." for hour in range(12)]
PROMPT = "the tide comes in at"


@pytest.fixture(scope="module")
def memory(tmp_path_factory):
    with Memory.create(tmp_path_factory.mktemp("guard") / "memory") as memory:
        memory.add(ALIKE)
        yield memory


# --- what is held out


def guard_of(memory, prompt=PROMPT, n=3, **search):
    request = SearchRequest(n, "sift", Search(**search), prompts=[prompt])
    [found] = memory.run(request)
    [guard] = make_guards(memory, request, [found])
    return guard, found


def whole(pair):
    after, before = pair
    return before + after


def test_the_nearest_that_were_not_selected_are_held_out(memory):
    guard, found = guard_of(memory)
    near = [hit.text for hit in memory.search(PROMPT, 12, method="nearest") if hit.text not in found.texts]
    assert [whole(pair) for pair in guard.pairs] == near[:HELD_OUT_PASSAGES]
    assert guard.texts == tuple(found.texts)


@pytest.mark.parametrize("search", [{}, {"k": 4}, {"k": None}, {"exact": True}, {"candidates": "both"}], ids=str)
def test_nothing_that_is_learned_is_held_out(memory, search):
    guard, found = guard_of(memory, n=4, **search)
    assert len(guard.pairs) == HELD_OUT_PASSAGES
    assert not {whole(pair) for pair in guard.pairs} & set(found.texts)


def test_no_copy_of_what_is_learned_is_held_out_and_nothing_twice(memory):
    class WithCopies:
        """A store of somebody else's in which every text is there several times."""

        def run(self, request):
            return [
                replace(found, hits=tuple(hit for hit in found.hits for _ in "ab")) for found in memory.run(request)
            ]

    request = SearchRequest(2, "nearest", Search(), prompts=[PROMPT])
    [found] = memory.run(request)
    copies = tuple(replace(hit, row=100 + hit.row) for hit in found.hits)
    [guard] = make_guards(WithCopies(), request, [replace(found, hits=copies)])
    held_out = [whole(pair) for pair in guard.pairs]
    assert len(set(held_out)) == len(held_out) == HELD_OUT_PASSAGES
    assert not set(held_out) & set(found.texts)


def test_what_must_not_be_found_is_not_held_out_either(tmp_path):
    with Memory.create(tmp_path / "some") as memory:
        memory.add(ALIKE, [{"part": "odd" if row % 2 else "even"} for row in range(len(ALIKE))])
        guard, _ = guard_of(memory, n=2, where='part = "odd"')
        assert {whole(pair) for pair in guard.pairs} <= set(ALIKE[1::2])
        assert len(guard.pairs) == 3
        free, _ = guard_of(memory, n=2)
        excluded = [ALIKE.index(whole(pair)) for pair in free.pairs]
        guard, _ = guard_of(memory, n=2, exclude=excluded)
        assert guard.pairs
        assert not {whole(pair) for pair in guard.pairs} & {ALIKE[row] for row in excluded}


def test_without_copies_the_prompt_itself_is_not_held_out(tmp_path):
    other = [f"no. {number}: ships wait for {word} below the hill" for number, word in enumerate(("rain", "sun"))]
    prompt = "the tide comes in at 3 and the tide goes out at 9."
    with Memory.create(tmp_path / "copy") as memory:
        memory.add([prompt, *other, "and a lamp is lit in the harbour"])
        [row] = [hit.row for hit in memory.search(prompt, 1, method="nearest")]
        request = SearchRequest(1, "nearest", Search(), prompts=[prompt])
        found = memory.run(SearchRequest(1, "nearest", Search(exclude=[row]), prompts=[prompt]))
        [with_copy] = make_guards(memory, request, found)
        [without] = make_guards(memory, replace(request, search=Search(without_copies=True)), found)
        assert prompt in {whole(pair) for pair in with_copy.pairs}
        assert prompt not in {whole(pair) for pair in without.pairs}
        assert without.pairs


@given(st.text(max_size=900))
def test_halves_are_the_beginning_of_a_passage_or_nothing(text):
    pair = halves(text)
    if pair is None:
        assert len(text[:400].split()) < 2
    else:
        assert whole(pair) == text[:400]
        assert all(half.strip() for half in pair)


# --- the rules


NATS = st.one_of(
    st.floats(0, 1e4), st.floats(90, 110), st.sampled_from([0.0, 1e-300, 1e300, math.inf, math.nan, 100.0, 99.0])
)
LOOKS = st.integers(1, 4).flatmap(
    lambda count: st.lists(st.lists(NATS, min_size=count, max_size=count), min_size=1, max_size=8)
)


@settings(max_examples=examples(300), deadline=None)
@given(LOOKS, st.none() | NATS, st.none() | NATS, st.sampled_from([UNCALIBRATED, (5.0, 0.5)]))
def test_what_is_watched_falls_exactly_when_a_state_is_kept(looks, context, both, line):
    guard = Guard((("b", "a"),) * len(looks[0]), ("text",), line)
    lowest = guard.observe(looks[0])
    assert lowest == 100
    if context is not None:
        guard.observe_context("context", [context])
    kept = None
    for nats in looks[1:]:
        # The rule in words: worth more than the base model, and not worse than the state that is kept by more than 2.
        shares = [now / base for now, base in zip(nats, looks[0], strict=True) if 0 < base < math.inf]
        percent = 100 * sum(shares) / len(shares) if shares else 100
        estimate = 100 - line[0] - line[1] * (100 - percent)
        is_kept = estimate < 100 and (kept is None or estimate <= kept + 2)
        value = guard.observe(nats)
        assert not math.isnan(value)
        assert (value < lowest) is is_kept
        if is_kept:
            kept, lowest = estimate, value
            assert guard.estimates["weights"] == pytest.approx(estimate)
        assert (guard.estimates["weights"] < 100) is (kept is not None)
    if both is not None and kept is not None and guard.may_need_both:
        guard.observe_context("both", [both])
    choice = guard.choice()
    assert (choice.use != "none") is any(estimate < 100 for estimate in choice.estimates.values())
    if choice.use != "none":
        assert choice.estimates[choice.use] == min(choice.estimates.values())
    assert not any(math.isnan(estimate) for estimate in choice.estimates.values())
    json.dumps(choice.to_dict(), allow_nan=False)
