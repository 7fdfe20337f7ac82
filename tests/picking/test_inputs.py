"""What is read is never written over, and a first reading that fails binds nobody."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from siftlm import Memory, pick
from siftlm.errors import BadRecord, Conflict, InvalidInput

POOL = [{"text": f"tea number {at} is brewed hot", "source": "wiki" if at % 2 else "web"} for at in range(12)]
TARGETS = [{"text": "How is tea brewed?"}]


def written(path: Path, records: list[dict[str, object]]) -> Path:
    path.write_text("".join(json.dumps(one) + "\n" for one in records), encoding="utf-8")
    return path


@pytest.fixture
def files(tmp_path):
    return written(tmp_path / "pool.jsonl", POOL), written(tmp_path / "targets.jsonl", TARGETS)


@pytest.mark.parametrize("which", [0, 1])
def test_the_output_is_no_input(files, which):
    before = files[which].read_bytes()
    with pytest.raises(Conflict, match="is read as well, and would be overwritten"):
        pick(*files, 3, out=files[which])
    with pytest.raises(Conflict, match="is read as well, and would be overwritten"):
        pick([files[0], files[1]], TARGETS, 3, out=files[which].parent / "." / files[which].name)
    assert files[which].read_bytes() == before
    assert pick(*files, 3, out=files[0].with_name("out.jsonl")).numbers.size == 3


def test_an_export_is_no_input_and_no_output(tmp_path, files):
    pool = files[0].rename(tmp_path / "siftlm_picks.jsonl")
    before = pool.read_bytes()
    chosen = pick(pool, files[1], 3, out=tmp_path / "out.jsonl")
    with pytest.raises(Conflict, match="is read as well"):
        chosen.export("trl", tmp_path)
    assert pool.read_bytes() == before
    (tmp_path / "there").mkdir()
    chosen = pick(pool, files[1], 3, out=tmp_path / "there" / "siftlm_picks.jsonl")
    kept = (tmp_path / "there" / "siftlm_picks.jsonl").read_bytes()
    with pytest.raises(Conflict, match="is read as well"):
        chosen.export("trl", tmp_path / "there")
    assert (tmp_path / "there" / "siftlm_picks.jsonl").read_bytes() == kept


def test_after_a_bad_record_its_advice_can_be_followed(tmp_path, files):
    pool = written(tmp_path / "bad.jsonl", [*POOL, {"other": 1}])
    out = tmp_path / "out.jsonl"
    with pytest.raises(BadRecord, match="skip"):
        pick(pool, files[1], 2, out=out)
    assert pick(pool, files[1], 2, out=out, bad="skip").left_out["unusable"] == 1
    with pytest.raises(Conflict, match="another"):
        pick(pool, files[1], 2, out=out, bad="skip", text="source", target_text="text")


def test_a_memory_is_a_pool_alone(tmp_path, files):
    Memory.build(["tea is brewed"], tmp_path / "memory", progress=False).close()
    with pytest.raises(Conflict, match="a memory is a pool alone"):
        pick([tmp_path / "memory", files[0]], TARGETS, 1)


def test_a_field_that_no_record_has_limits_nothing(files):
    with pytest.raises(InvalidInput, match="'sorce', which no record has"):
        pick(*files, 2, quota={"sorce": 1.0})


def test_a_budget_below_every_record_is_named():
    with pytest.raises(InvalidInput, match="the cheapest record costs"):
        pick(POOL, TARGETS, budget=1.0)


def test_numbers_that_no_float_holds_are_bad_records(tmp_path):
    huge = [{**POOL[0], "q": 10**400}, *({**one, "q": 1} for one in POOL[1:])]
    with pytest.raises(BadRecord, match="'q'"):
        pick(huge, TARGETS, 2, quality="q")
    assert pick(huge, TARGETS, 2, quality="q", bad="skip").left_out
    with pytest.raises(InvalidInput, match="Parquet"):
        pick([{**one, "q": 2**70} for one in POOL], TARGETS, 2, out=tmp_path / "out.parquet")


def test_vectors_may_be_a_list():
    rows = np.eye(12).tolist()
    assert pick(POOL, n=1, vectors=rows, target_vectors=[rows[5]]).numbers.tolist() == [5]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"nois": 1}, "unknown setting 'nois'; did you mean 'noise'"),
        ({"out": 3}, "out must be the name of a file, got 3"),
        ({"text": 3}, "text must be a field or a list of fields, got 3"),
        ({"target_text": 3}, "target_text must be a field or a list of fields, got 3"),
        ({"field": ""}, "field is empty"),
        ({"n": 2}, "n=2 is more than the 1 record that may be picked"),
    ],
)
def test_wrong_settings_are_named_in_words(settings, message):
    with pytest.raises(InvalidInput, match=message):
        pick(["tea is hot"], ["is tea hot?"], **{"n": 1, **settings})


def test_one_of_a_thing_and_large_budgets_are_written_as_people_do():
    picks = pick(["tea is hot"], ["is tea hot?"], 1)
    assert str(picks).startswith("1 of 1 record of documents for 1 target; ")
    pool = [{"text": text, "price": 6e307} for text in ("tea is hot", "tea is cold")]
    large = pick(pool, ["is tea hot?"], budget=1e308, cost="price")
    assert str(large).splitlines()[-1] == "the budget is spent: 1e+308"


def test_a_report_needs_a_folder(folder):
    picks = pick("pool.jsonl", "targets.jsonl", 3)
    with pytest.raises(InvalidInput, match=r"report='nofolder.x': there is no folder"):
        picks.report().write("nofolder/x")
    assert not (folder / "nofolder").exists()
