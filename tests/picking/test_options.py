"""Any method of selection in `siftlm.pick`, with its options from fields, and choices without targets."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

import siftlm
from picking.conftest import TARGETS, read, records, write
from siftlm import embedder, pick
from siftlm.embedding.hashing import HashingEmbedder
from siftlm.errors import BadRecord, Conflict, InvalidInput

POOL = records(120)
TEXTS = [row["text"] for row in POOL]
SCORES = [row["score"] for row in POOL]
BOTH = [[score, at] for at, score in enumerate(SCORES)]
SOURCES = [row["source"] for row in POOL]
TAGS = [[row["source"], f"s{row['n'] % 4}"] for row in POOL]
TAGGED = [{**row, "tags": tags} for row, tags in zip(POOL, TAGS, strict=True)]
WHOLE = {"duplicates": True, "without_copies": False}


def vectors(texts: list[str]) -> np.ndarray:
    return embedder("static").embed(texts)


def selected(method: str, n: int, *, targets: list[str] | None = TARGETS, **options: Any) -> list[int]:
    query = None if targets is None else vectors(targets)
    return siftlm.select(query, vectors(TEXTS), n, method=method, replacement=None, **options).indices.tolist()


@pytest.mark.parametrize("method", ["rds", "less", "got-d", "goracs", "mmr"])
def test_with_targets_it_is_select(method):
    picks = pick(POOL, TARGETS, 10, method=method, **WHOLE)
    assert picks.numbers.tolist() == selected(method, 10)
    assert picks.uncertainty[-1] < picks.uncertainty[0]


@pytest.mark.parametrize("method", ["deita", "dac", "mig", "dealrec", "adapt-inf", "random", "max-dist"])
def test_without_targets_it_is_select_without_a_query(method):
    picks = pick(POOL, n=10, method=method, **WHOLE)
    assert picks.numbers.tolist() == selected(method, 10, targets=None)
    assert np.isnan(picks.uncertainty).all()
    assert str(picks) == "10 of 120 records of documents"


@pytest.mark.parametrize(
    ("method", "given", "values"),
    [
        ("mig", {"labels": "tags", "edge": 0.5}, {"labels": TAGS, "edge": 0.5}),
        ("mig", {"labels": TAGS}, {"labels": TAGS}),
        ("dac", {"scores": "score", "clusters": 4}, {"scores": SCORES, "clusters": 4}),
        ("deita", {"complexity": "deep.level"}, {"complexity": SCORES}),
        ("deita", {"complexity": np.array(SCORES)}, {"complexity": SCORES}),
        ("goracs", {"gradients": "score", "weight": 0.5}, {"gradients": SCORES, "weight": 0.5}),
        ("adapt-inf", {"scores": "score", "clusters": 3}, {"scores": SCORES, "clusters": 3}),
        ("adapt-inf", {"scores": BOTH}, {"scores": BOTH}),
        ("dealrec", {"labels": "source", "effort": "score"}, {"labels": SOURCES, "effort": SCORES}),
    ],
)
def test_options_are_values_or_fields_of_the_records(method, given, values):
    pool = [{**row, "deep": {"level": row["score"]}} for row in TAGGED]
    assert pick(pool, TARGETS, 10, method=method, options=given, **WHOLE).numbers.tolist() == selected(
        method, 10, **values
    )


def test_groups_of_targets_are_a_field_of_theirs(folder):
    subjects = ["kitchen", "night", "kitchen"]
    goals = [{"text": text, "subject": subject} for text, subject in zip(TARGETS, subjects, strict=True)]
    expected = selected("less", 8, groups=subjects)
    assert pick(POOL, goals, 8, method="less", options={"groups": "subject"}, **WHOLE).numbers.tolist() == expected
    assert pick(POOL, goals, 8, method="less", options={"groups": subjects}, **WHOLE).numbers.tolist() == expected
    assert expected != selected("less", 8)
    with pytest.raises(BadRecord, match=r"targets.jsonl:1: 'subject' must be the label of .* no such field"):
        pick(POOL, "targets.jsonl", 8, method="less", options={"groups": "subject"})
    with pytest.raises(Conflict, match="of targets, of which only vectors are given"):
        pick(POOL, n=3, target_vectors=vectors(TARGETS), method="less", options={"groups": "subject"})


def test_quality_is_the_prior():
    picks = pick(POOL, n=20, method="deita", quality="score", options={"threshold": 0.8}, **WHOLE)
    assert picks.numbers.tolist() == selected("deita", 20, targets=None, prior=SCORES, threshold=0.8)
    assert [POOL[number]["score"] for number in picks.numbers] == sorted(
        (SCORES[n] for n in picks.numbers), reverse=True
    )


def test_a_filter_may_leave_fewer_than_asked_for():
    picks = pick(POOL, n=100, method="deita", options={"threshold": 0.3})
    assert picks.stopped == "exhausted"
    assert len(picks) < 100
    assert "no more records" in str(picks)


def test_records_without_what_the_method_reads(folder):
    write(folder / "some.jsonl", [*TAGGED[:20], {"text": "the tea boils twice"}, {"text": "a cat", "tags": [{}]}])
    settings = {"n": 8, "method": "mig", "options": {"labels": "tags"}}
    with pytest.raises(BadRecord, match=r"some.jsonl:21: 'tags' \(option labels\) must be a label or a list of labels"):
        pick("some.jsonl", **settings)
    picks = pick("some.jsonl", bad="skip", **settings)
    assert picks.left_out["without what the method reads"] == 2
    assert max(picks.numbers.tolist()) < 20


@pytest.mark.parametrize(
    ("method", "option"), [("deita", "complexity"), ("dac", "scores"), ("goracs", "gradients"), ("dealrec", "effort")]
)
@pytest.mark.parametrize("stars", [-1, "-1", float("inf"), "nan"])
def test_numbers_that_the_method_cannot_use_are_bad_records(folder, method, option, stars):
    rows = [{**row, "stars": row["score"]} for row in records(40)]
    rows[30]["stars"] = stars
    write(folder / "stars.jsonl", rows)
    settings = {"n": 8, "method": method, "options": {option: "stars"}}
    with pytest.raises(BadRecord, match=rf"stars.jsonl:31: 'stars' \(option {option}\) must be a finite number ≥ 0"):
        pick("stars.jsonl", TARGETS, **settings)
    picks = pick("stars.jsonl", TARGETS, bad="skip", **settings)
    assert picks.left_out["without what the method reads"] == 1
    assert 30 not in picks.numbers


def test_wrong_names_of_fields_are_said_to_be_wrong():
    with pytest.raises(BadRecord, match=r"'tag' \(option labels\) must be .*no such field; did you mean 'tags'"):
        pick(TAGGED, n=3, method="mig", options={"labels": "tag"})
    with pytest.raises(BadRecord, match=r"'scores' \(quality\) must be .*no such field; did you mean 'score'"):
        pick(TAGGED, TARGETS, 3, quality="scores")
    with pytest.raises(InvalidInput, match=r"for each of 3 targets, got 3, which is no list of labels"):
        pick(TAGGED, TARGETS, 3, method="less", options={"groups": 3})


def test_no_targets_at_all_are_missed_first():
    with pytest.raises(InvalidInput, match="there are no targets: pass targets, or target_vectors"):
        pick(TAGGED, n=3, method="less", options={"groups": "subject"})


def test_work_is_resumed_for_the_same_options_and_no_others(folder):
    write(folder / "tagged.jsonl", TAGGED)
    first = {"n": 8, "out": "chosen.jsonl", "method": "mig", "options": {"labels": "tags"}}
    chosen = pick("tagged.jsonl", **first).numbers.tolist()
    assert pick("tagged.jsonl", **first).finished_before
    other = pick("tagged.jsonl", **{**first, "options": {"labels": "source"}})
    assert not other.finished_before
    assert other.numbers.tolist() != chosen
    assert not pick("tagged.jsonl", **{**first, "options": {"labels": "source", "exponent": 0.5}}).finished_before
    again = pick("tagged.jsonl", **first)
    assert not again.finished_before
    assert again.numbers.tolist() == chosen
    job = json.loads((folder / "chosen.jsonl.work" / "job.json").read_text(encoding="utf-8"))
    assert job["rows"]["options"] == {"labels": "tags"}
    assert [row["siftlm"]["pick"] for row in read(folder / "chosen.jsonl")] == list(range(1, 9))


def test_without_options_a_work_folder_is_what_it_was(folder):
    pick("pool.jsonl", "targets.jsonl", 5, out="chosen.jsonl")
    job = json.loads((folder / "chosen.jsonl.work" / "job.json").read_text(encoding="utf-8"))
    assert "options" not in job["rows"]
    assert "options" not in job["selection"]


def test_reading_goes_on_with_the_options_of_what_was_read(folder, monkeypatch):
    rows = [{**row, "tags": [f"s{row['n'] % 4}"]} for row in records(2500)]
    write(folder / "large.jsonl", rows)
    settings = {"n": 8, "method": "mig", "options": {"labels": "tags", "edge": 1}}
    expected = pick("large.jsonl", out="other.jsonl", embedder=HashingEmbedder(width=16), **settings).numbers.tolist()
    monkeypatch.setattr("siftlm.picking.reading.COMMIT_SECONDS", 0.0)
    monkeypatch.setattr("siftlm.picking.pools.BLOCK_RECORDS", 500)

    class Stops(HashingEmbedder):
        calls = 0

        def embed(self, texts, *, as_query=False):
            self.calls += 1
            if self.calls == 2:
                raise KeyboardInterrupt
            return super().embed(texts, as_query=as_query)

    with pytest.raises(KeyboardInterrupt):
        pick("large.jsonl", out="chosen.jsonl", embedder=Stops(width=16), **settings)
    state = json.loads((folder / "chosen.jsonl.work" / "state.json").read_text(encoding="utf-8"))
    assert 0 < state["records"] < 2500
    picks = pick("large.jsonl", out="chosen.jsonl", embedder=HashingEmbedder(width=16), **settings)
    assert picks.numbers.tolist() == expected


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"method": "mig", "options": {"lables": "tags"}}, InvalidInput, "no setting 'lables'; did you mean 'labels'"),
        ({"method": "sift", "options": {"labels": "tags"}}, InvalidInput, "its own are: none"),
        ({"options": "labels"}, InvalidInput, "must be a mapping"),
        ({"method": "dac", "options": {"scores": lambda _: []}}, InvalidInput, "'scores' must be a number, a word"),
        ({"method": "dac", "options": {"scores": [1.0]}}, InvalidInput, "a value for each of the 120 records"),
        ({"method": "dac", "options": {"scores": 3}}, InvalidInput, "a value for each of the 120 records, got 3"),
        ({"method": "dac", "options": {"rounds": 0}}, InvalidInput, "rounds must be"),
        ({"method": "hull"}, Conflict, "picks a record several times"),
        ({"method": "eig"}, InvalidInput, "probabilities"),
        ({"method": "goracs", "quality": "score"}, Conflict, "decides on all picks at once: leave out quality"),
        ({"method": "goracs", "quota": {"source": 0.5}}, Conflict, "decides on all picks at once: leave out quota"),
        ({"method": "got-d", "quality": "score"}, Conflict, "negative gains: leave out quality"),
        ({"method": "got-d", "budget": 100}, Conflict, "negative gains: leave out budget"),
        ({"method": "rds", "targets": None}, InvalidInput, "there are no targets"),
    ],
)
def test_what_cannot_be_is_refused(settings, error, message):
    with pytest.raises(error, match=message):
        pick(TAGGED, **{"targets": TARGETS, "n": 5, **settings})


def test_quotas_hold_for_signed_methods():
    picks = pick(POOL, TARGETS, 10, method="got-d", quota={"source": 0.4})
    assert max(np.unique([POOL[number]["source"] for number in picks.numbers], return_counts=True)[1]) <= 4


def test_the_report_without_targets(folder):
    files = pick("pool.jsonl", n=12, method="dac").report().write("report")
    assert [file.name for file in files] == ["report.html", "report.md", "report-plane.svg"]
    text = (folder / "report.md").read_text(encoding="utf-8")
    assert "There are no targets" in text
    assert "nan" not in text
    assert "what dac maximises" in text


def test_a_verdict_without_targets_needs_a_test():
    with pytest.raises(Conflict, match="there are no targets; pass test"):
        pick(POOL, n=5, method="mig").verdict()


def test_halves_of_targets_keep_their_groups():
    picks = pick(POOL, TARGETS, 5, method="less", options={"groups": ["a", "b", "a"]})
    half = picks.candidates.for_targets(np.array([1, 2]))
    assert half.options["groups"] == ["b", "a"]
    assert len(half.targets) == 2
