"""Budgets, quotas, weights, and what is left out."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import siftlm
from effort import examples
from picking.conftest import TARGETS, records, write
from properties import oracle
from siftlm import pick
from siftlm.embedding.hashing import word_spans
from siftlm.errors import BadRecord, Conflict, InvalidInput
from siftlm.memory.near_duplicates import Originals, copy_mask


def plain_greedy(vectors, targets, n, *, noise, sources, caps, costs, budget, source_budgets):
    """The score of every candidate that may be picked, before each pick, with everything checked anew; takes picks."""
    world, chosen = oracle.world(targets, vectors.astype(np.float32), noise=noise), []
    while n is None or len(chosen) < n:
        held, spent = Counter(sources[at] for at in chosen), Counter()
        for at in chosen:
            spent[sources[at]] += costs[at]
        scores = {}
        for at in set(range(len(vectors))) - set(chosen):
            source = sources[at]
            if held[source] >= caps.get(source, len(vectors)):
                continue
            if sum(spent.values()) + costs[at] > budget or spent[source] + costs[at] > source_budgets.get(source, 1e9):
                continue
            scores[at] = (world.uncertainty(chosen) - world.uncertainty([*chosen, at])) / costs[at]
        if not scores:
            break
        chosen.append((yield scores))


@settings(max_examples=examples(20))
@given(st.integers(0, 10**6), st.booleans())
def test_picks_keep_all_limits_and_are_the_best_within_them(seed, budgeted):
    draw = np.random.default_rng(seed)
    size = int(draw.integers(6, 11))
    vectors, targets = draw.normal(size=(size, 3)), draw.normal(size=(2, 3))
    rows = [
        {"text": f"record {at}", "source": "abc"[int(draw.integers(3))], "cost": float(draw.integers(1, 6))}
        for at in range(size)
    ]
    for row, source in zip(rows, "abcc", strict=False):
        row["source"] = source
    quota = {"source": {"a": 0.5, "b": 1}}
    limits = {"budget": 12.0, "cost": "cost"} if budgeted else {"n": 3}
    picks = pick(rows, vectors=vectors, target_vectors=targets, quota=quota, noise=0.5, **limits)
    reference = plain_greedy(
        vectors,
        targets,
        None if budgeted else 3,
        noise=0.5,
        sources=[row["source"] for row in rows],
        caps={"b": 1} if budgeted else {"a": 1, "b": 1},
        costs=[row["cost"] if budgeted else 1.0 for row in rows],
        budget=12.0 if budgeted else 1e9,
        source_budgets={"a": 6.0} if budgeted else {},
    )
    scores = next(reference, None)
    for index in picks.numbers.tolist():
        assert scores[index] >= max(scores.values()) - 1e-5
        try:
            scores = reference.send(index)
        except StopIteration:
            scores = None
    assert scores is None


def test_a_share_of_every_source():
    pool = [{**row, "source": "tea" if "tea" in row["text"] else "other"} for row in records(300)]
    free, capped = (pick(pool, TARGETS, 30, quota={"source": {"tea": share}}) for share in (1.0, 0.2))
    assert sum(row["source"] == "tea" for row in free.records) > 6
    assert sum(row["source"] == "tea" for row in capped.records) == 6
    picks = pick(records(300), TARGETS, 30, quota={"source": {"web": 0.0, "mail": 2}})
    counts = Counter(row["source"] for row in picks.records)
    assert (counts["web"], counts["wiki"]) == (0, 28)


def test_quotas_that_cannot_be_met_are_refused():
    pool = records(300)
    with pytest.raises(InvalidInput, match=r"n=30 is more than the 27 picks that quota allows"):
        pick(pool, TARGETS, 30, quota={"source": 0.3})
    with pytest.raises(InvalidInput, match=r"source = 'book', which no record has; there are 'mail', 'web', 'wiki'"):
        pick(pool, TARGETS, 30, quota={"source": {"book": 3}})
    for quota, problem in (
        ({}, "must name one field"),
        ({"source": 1.5}, "the quota of source must be a number from 0 to 1, got 1.5"),
        ({"source": {"web": -1}}, "the quota of source=web must be a whole number ≥ 0"),
        ({"source": True}, "quota of source"),
    ):
        with pytest.raises(InvalidInput, match=problem):
            pick(pool, TARGETS, 30, quota=quota)


def test_a_field_within_metadata_is_a_source_too():
    pool = [{"text": row["text"], "meta": {"source": row["source"]}} for row in records(90)]
    pool.append({"text": "no source here at all"})
    by_name = pick(pool, TARGETS, 9, quota={"source": 0.34})
    assert by_name.numbers.tolist() == pick(pool, TARGETS, 9, quota={"meta.source": 0.34}).numbers.tolist()
    assert "(none)" in by_name.embedded.labels


@pytest.mark.parametrize("cost", ["tokens", "characters", "score"])
def test_a_budget_is_kept_in_its_own_unit(cost):
    pool = [{**row, "score": row["score"] + 1} for row in records(300)]
    picks = pick(pool, TARGETS, budget=400, cost=cost, embedder="hashing")
    size = {
        "tokens": lambda row: len(word_spans([row["text"]])[0]),
        "characters": lambda row: len(row["text"]),
        "score": lambda row: row["score"],
    }[cost]
    spent = sum(size(row) for row in picks.records)
    assert 400 - max(map(size, pool)) < spent <= 400
    assert picks.stopped == "budget"
    assert "the budget is spent: 400" in str(picks)


def test_quality_multiplies_the_gains():
    pool = records(300)
    vectors = siftlm.embedder("hashing").embed([row["text"] for row in pool])
    targets = siftlm.embedder("hashing").embed(TARGETS)
    prior = [row["score"] for row in pool]
    plain = siftlm.select(targets, vectors, 20, noise=1.0, prior=prior, replacement=False)
    picks = pick(pool, TARGETS, 20, quality="score", embedder="hashing", duplicates=True)
    assert picks.numbers.tolist() == plain.indices.tolist()
    assert all(row["score"] > 0 for row in picks.records)


def test_numbers_in_csv_are_strings_and_count_all_the_same(folder):
    pool = [{"text": row["text"], "score": row["score"] + 0.5} for row in records(60)]
    lines = ["text,score", *(f"{row['text']},{row['score']}" for row in pool)]
    (folder / "pool.csv").write_text("\n".join(lines) + "\n")
    for settings_ in ({"n": 9, "quality": "score"}, {"budget": 12, "cost": "score"}):
        picks = pick("pool.csv", TARGETS, **settings_)
        assert picks.numbers.tolist() == pick(pool, TARGETS, **settings_).numbers.tolist()
        assert isinstance(picks.records[0]["score"], str)
    found = pick("pool.csv", n=9, method="deita", options={"complexity": "score"})
    assert found.numbers.tolist() == pick(pool, n=9, method="deita", options={"complexity": "score"}).numbers.tolist()
    for word, named in (("many", "'many'"), ("", "''"), ("nan", "'nan'"), ("1e999", "'1e999'")):
        (folder / "bad.csv").write_text("\n".join([*lines, f"water freezes,{word}"]) + "\n")
        with pytest.raises(BadRecord, match=rf"bad.csv:62: 'score' \(quality\) must be a number ≥ 0, and is {named};"):
            pick("bad.csv", TARGETS, 3, quality="score")
        assert pick("bad.csv", TARGETS, 3, quality="score", bad="skip").left_out["without cost or quality"] == 1


@pytest.mark.parametrize(("name", "value"), [("quality", -1), ("quality", "high"), ("cost", 0), ("cost", None)])
def test_a_record_without_its_number_is_named_or_counted(name, value):
    pool = records(50)
    pool[7]["score"], settings_ = value, {"budget": 9.0} if name == "cost" else {}
    pool = [{**row, "score": row["score"] or (1.0 if row["n"] != 7 else value)} for row in pool]
    with pytest.raises(BadRecord, match=rf"item 8: 'score' \({name}\) must be a number"):
        pick(pool, TARGETS, 3, **{name: "score"}, **settings_)
    picks = pick(pool, TARGETS, 3, bad="skip", **{name: "score"}, **settings_)
    assert picks.left_out["without cost or quality"] == 1


def test_copies_of_targets_and_duplicates_are_left_out_and_counted(folder):
    pool = [{"text": row["text"]} for row in records(100)]
    pool[3] = {"text": f"{TARGETS[0].upper()}!"}
    pool[4] = {"text": f"Question. {TARGETS[1]}? Because of the yeast."}
    pool += [dict(pool[10]), dict(pool[10])]
    picks = pick(pool, TARGETS, 50)
    copies = sum(row["text"] == pool[10]["text"] for row in pool)
    same = len(pool) - len({row["text"] for row in pool})
    assert (picks.left_out["copies of a target"], picks.left_out["duplicates"]) == (2, same)
    assert copies >= 3
    assert not {3, 4, 100, 101} & set(picks.numbers.tolist())
    kept = pick(pool, TARGETS, 3, without_copies=False)
    assert kept.left_out.get("copies of a target", 0) == 0
    assert 3 in kept.numbers
    assert pick(pool, TARGETS, 3, without_copies=1.0).left_out["copies of a target"] == 2
    with pytest.raises(Conflict, match="without_copies compares wording"):
        pick(pool, n=3, vectors=np.eye(102), target_vectors=np.eye(102)[:1], without_copies=0.5)


WORDS = st.lists(st.sampled_from(["a", "b", "c"]), max_size=12).map(" ".join)


@given(st.lists(WORDS, min_size=1, max_size=4), st.lists(WORDS, max_size=5), st.sampled_from([0.2, 0.5, 0.8, 1.0]))
def test_a_copy_of_many_is_a_copy_of_one_of_them(originals, texts, threshold):
    together = Originals(originals).shares(texts) >= threshold
    one_by_one = [copy_mask(original, texts, threshold) for original in originals]
    assert together.tolist() == np.any(one_by_one, axis=0).tolist()


def test_settings_that_do_not_go_together_are_refused(folder):
    write(folder / "p.jsonl", records(5))
    with pytest.raises(Conflict, match="cost='characters' counts against budget"):
        pick("p.jsonl", TARGETS, 3, cost="characters")
    with pytest.raises(InvalidInput, match="must be 'skip' or 'fail'"):
        pick("p.jsonl", TARGETS, 3, bad="maybe")
    with pytest.raises(InvalidInput, match="no record of the pool may be picked"):
        pick(TARGETS, TARGETS, 1)
