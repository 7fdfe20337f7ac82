"""`siftlm.pick`: which records it chooses, from which pools, and what it says about bad ones."""

from __future__ import annotations

import datetime
import decimal
import gzip
import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import siftlm
from effort import examples
from picking.conftest import TARGETS, read, records, write
from properties import oracle
from siftlm import embedder, pick
from siftlm.errors import BadRecord, Conflict, InvalidInput, WrongEmbedder


def test_the_records_come_out_as_they_were_with_their_gain_and_source(folder):
    picks = pick("pool.jsonl", "targets.jsonl", 20, out="chosen.jsonl")
    pool, written = records(300), read(folder / "chosen.jsonl")
    assert list(picks.records) == [pool[number] for number in picks.numbers]
    for at, (row, number) in enumerate(zip(written, picks.numbers.tolist(), strict=True)):
        note = row.pop("siftlm")
        assert row == pool[number]
        assert note == {"pick": at + 1, "gain": pytest.approx(picks.gains[at], rel=1e-5), "source": picks.sources[at]}
        assert note["source"] == f"pool.jsonl:{number + 1}"
    assert len(set(picks.numbers.tolist())) == 20
    assert picks.stopped == "n"


def test_it_is_select_with_the_whole_pool_as_candidates():
    texts, static = [row["text"] for row in records(300)], embedder("static")
    picks = pick(texts, TARGETS, 40, noise=0.3, duplicates=True, without_copies=False)
    plain = siftlm.select(static.embed(TARGETS), static.embed(texts), 40, noise=0.3, replacement=False)
    assert picks.numbers.tolist() == plain.indices.tolist()
    np.testing.assert_allclose(picks.gains, plain.gains, rtol=1e-5)
    np.testing.assert_allclose(picks.uncertainty, plain.uncertainty, rtol=1e-4, atol=1e-7)


@settings(max_examples=examples(20))
@given(st.integers(0, 10**6), st.sampled_from([0.1, 1.0, 10.0]))
def test_every_pick_leaves_the_least_uncertainty(seed, noise):
    draw = np.random.default_rng(seed)
    size, width, goals = int(draw.integers(3, 9)), int(draw.integers(2, 5)), int(draw.integers(1, 4))
    vectors, targets = draw.normal(size=(size, width)), draw.normal(size=(goals, width))
    texts = [f"record {at}" for at in range(size)]
    n = int(draw.integers(1, size + 1))
    picks = pick(texts, n=n, vectors=vectors, target_vectors=targets, noise=noise)
    world, chosen = oracle.world(targets, vectors.astype(np.float32), noise=noise), []
    for index, gain, left in zip(picks.numbers.tolist(), picks.gains, picks.uncertainty[1:], strict=True):
        after = {at: world.uncertainty([*chosen, at]) for at in range(size) if at not in chosen}
        assert after[index] <= min(after.values()) + 1e-5
        assert gain == pytest.approx(world.uncertainty(chosen) - after[index], abs=1e-5)
        assert left == pytest.approx(after[index], abs=1e-5)
        chosen.append(index)


@pytest.mark.parametrize("kind", ["gz", "folder", "csv", "parquet", "dataset", "list", "iterator", "several"])
def test_any_pool_gives_the_same_picks(folder, kind):
    rows = records(300)
    if kind == "csv":  # which holds strings alone
        rows = [{"text": row["text"], "source": row["source"]} for row in rows]
    pools = {
        "gz": lambda: _gzipped(folder / "packed.jsonl.gz", rows),
        "folder": lambda: _shards(folder / "shards", rows),
        "csv": lambda: _csv(folder / "pool.csv", rows),
        "parquet": lambda: _parquet(folder / "pool.parquet", rows),
        "dataset": lambda: pytest.importorskip("datasets").Dataset.from_list(rows),
        "list": lambda: rows,
        "iterator": lambda: iter(rows),
        "several": lambda: [write(folder / f"part{at}.jsonl", rows[at * 100 : at * 100 + 100]) for at in range(3)],
    }
    picks = pick(pools[kind](), TARGETS, 10)
    assert picks.numbers.tolist() == pick(records(300), TARGETS, 10).numbers.tolist()
    assert list(picks.records) == [rows[number] for number in picks.numbers]
    assert picks.pool_records == 300


def _gzipped(path: Path, rows: list[dict[str, object]]) -> Path:
    path.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode()))
    return path


def _shards(path: Path, rows: list[dict[str, object]]) -> Path:
    path.mkdir()
    for at in range(3):
        write(path / f"shard-{at}.jsonl", rows[at * 100 : at * 100 + 100])
    return path


def _csv(path: Path, rows: list[dict[str, object]]) -> Path:
    path.write_text("text,source\n" + "".join(f"{row['text']},{row['source']}\n" for row in rows), encoding="utf-8")
    return path


def _parquet(path: Path, rows: list[dict[str, object]]) -> Path:
    arrow = pytest.importorskip("pyarrow")
    pytest.importorskip("pyarrow.parquet").write_table(arrow.Table.from_pylist(rows), path)
    return path


def test_a_memory_is_a_pool_with_its_own_vectors(folder):
    texts = [row["text"] for row in records(60)]
    with siftlm.Memory.create("memory", embedder="hashing") as memory:
        memory.add(texts, [{"year": at} for at in range(60)], ids=[f"r{at}" for at in range(60)])
        memory.delete({"year": {"<": 10}})
        picks = pick(memory, TARGETS, 5)
    assert picks.numbers.tolist() == pick(texts[10:], TARGETS, 5, embedder="hashing").numbers.tolist()
    first = picks.records[0]
    assert first == {"text": texts[first["meta"]["year"]], "id": f"r{first['meta']['year']}", "meta": first["meta"]}
    assert pick("memory", TARGETS, 5).numbers.tolist() == picks.numbers.tolist()
    with pytest.raises(WrongEmbedder, match="built with embedder 'hashing'"):
        pick("memory", TARGETS, 5, embedder="static")
    with pytest.raises(Conflict, match="glob is for files"):
        pick("memory", TARGETS, 5, glob="*.md")


def test_given_vectors_take_the_place_of_an_embedder(folder):
    draw = np.random.default_rng(1)
    vectors, targets = draw.normal(size=(300, 6)), draw.normal(size=(2, 6))
    np.save("v.npy", vectors)
    np.save("t.npy", targets.astype(np.float16))
    picks = pick("pool.jsonl", n=7, vectors="v.npy", target_vectors="t.npy")
    plain = siftlm.select(targets.astype(np.float16), vectors, 7, noise=1.0, replacement=False)
    assert picks.numbers.tolist() == plain.indices.tolist()
    with pytest.raises(Conflict, match="target_vectors"):
        pick("pool.jsonl", "targets.jsonl", 7, vectors="v.npy")
    with pytest.raises(InvalidInput, match="different widths, 6 and 768"):
        pick("pool.jsonl", "targets.jsonl", 7, vectors="v.npy", embedder="static")
    for rows in (299, 301):
        with pytest.raises(InvalidInput, match=f"vectors has {rows} rows"):
            pick("pool.jsonl", n=7, vectors=draw.normal(size=(rows, 6)), target_vectors="t.npy")


def test_nothing_to_pick_and_too_much_are_refused(folder):
    write(folder / "empty.jsonl", [])
    with pytest.raises(InvalidInput, match=r"empty.jsonl: holds no usable record"):
        pick("empty.jsonl", TARGETS, 1)
    with pytest.raises(InvalidInput, match=r"empty.jsonl: holds no target"):
        pick("pool.jsonl", "empty.jsonl", 1)
    with pytest.raises(InvalidInput, match=r"n=301 is more than the \d+ records that may be picked"):
        pick("pool.jsonl", TARGETS, 301)
    with pytest.raises(InvalidInput, match="there are no targets"):
        pick("pool.jsonl", n=3)
    with pytest.raises(InvalidInput, match="how many"):
        pick("pool.jsonl", TARGETS)
    with pytest.raises(InvalidInput, match=r"no file or folder 'nowhere.jsonl'"):
        pick("nowhere.jsonl", TARGETS, 3)
    with pytest.raises(Conflict, match=r"lies in .*, which is read, and would become a part of it"):
        pick(folder, TARGETS, 3, out="a.jsonl")
    with pytest.raises(InvalidInput, match=r"out='a.txt': records are written to .jsonl"):
        pick("pool.jsonl", TARGETS, 3, out="a.txt")


def test_a_bad_record_is_named_by_file_and_line_or_counted(folder):
    lines = (folder / "pool.jsonl").read_text(encoding="utf-8").splitlines()
    lines[4:4] = ["{broken", json.dumps({"text": " "}), json.dumps({"title": "x"}), "", json.dumps({"text": "!!!"})]
    (folder / "pool.jsonl").write_text("\n".join(lines), encoding="utf-8")
    with pytest.raises(BadRecord, match=r"pool.jsonl:5: invalid JSON at column 2.*bad='skip'"):
        pick("pool.jsonl", TARGETS, 3)
    picks = pick("pool.jsonl", TARGETS, 3, bad="skip", embedder="hashing")
    assert picks.left_out["unusable"] >= 3
    assert picks.embedded.state.complaints[2].startswith("pool.jsonl:7: has no text in a known form")
    write(folder / "targets.jsonl", [{"text": "good"}, {"text": ""}])
    with pytest.raises(BadRecord, match=r"targets.jsonl:2: this target cannot be used: 'text' is empty"):
        pick("pool.jsonl", "targets.jsonl", 3, bad="skip")


def test_a_field_of_the_records_is_never_overwritten(folder, monkeypatch):
    pick("pool.jsonl", TARGETS, 3, out="a.jsonl")
    with pytest.raises(Conflict, match=r"a.jsonl:1: the record has a field 'siftlm' already"):
        pick("a.jsonl", TARGETS, 1, out="b.jsonl")
    later = [folder / "pool.jsonl", folder / "a.jsonl"]
    with monkeypatch.context() as patch:  # before a choice is made
        patch.setattr("siftlm.picking.work.WorkFolder.picks", None)
        with pytest.raises(Conflict, match=r"a.jsonl:1: the record has a field 'siftlm' already; field names another"):
            pick(later, TARGETS, 3, out="c.jsonl")
    assert len(pick(later, TARGETS, 3)) == 3  # nothing is written
    pick("a.jsonl", TARGETS, 1, out="b.jsonl", field="again")
    assert set(read(folder / "b.jsonl")[0]) == {"text", "source", "score", "n", "deep", "siftlm", "again"}
    pick("pool.jsonl", TARGETS, 3, out="a.jsonl", field=None)
    assert all(row in records(300) for row in read(folder / "a.jsonl"))


def test_records_are_written_packed_and_as_parquet(folder):
    plain = pick("pool.jsonl", TARGETS, 5, out="a.jsonl", field=None)
    pick("pool.jsonl", TARGETS, 5, out="a.jsonl.gz", field=None)
    assert gzip.decompress((folder / "a.jsonl.gz").read_bytes()) == (folder / "a.jsonl").read_bytes()
    parquet = pytest.importorskip("pyarrow.parquet")
    pick("pool.jsonl", TARGETS, 5, out="a.parquet", field=None)
    assert parquet.read_table("a.parquet").to_pylist() == list(plain.records)


@pytest.mark.parametrize("shards", [False, True])
def test_parquet_keeps_the_types_of_its_columns(folder, shards):
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    kinds = {
        "text": arrow.large_string(),
        "small": arrow.int8(),
        "score": arrow.float32(),
        "day": arrow.date32(),
        "language": arrow.dictionary(arrow.int32(), arrow.string()),
        "price": arrow.decimal128(9, 2),
        "vector": arrow.list_(arrow.float32(), 2),
        "empty": arrow.string(),
        "deep": arrow.struct([("a", arrow.uint16())]),
    }
    day, price = datetime.date(2020, 1, 2), decimal.Decimal("1.50")
    rows = [
        {**dict.fromkeys(kinds), "text": row["text"], "small": 3, "score": 0.1, "day": day, "language": "de"}
        | {"price": price, "vector": [0.5, 1.0], "deep": {"a": at}}
        for at, row in enumerate(records(40))
    ]
    table = arrow.Table.from_pylist(rows, schema=arrow.schema(kinds.items()))
    (folder / "pool").mkdir()
    parquet.write_table(table.slice(0, 20), folder / "pool" / "a.parquet")
    parquet.write_table(table.slice(20).drop_columns("small"), folder / "pool" / "b.parquet")
    pool = folder / "pool" if shards else [folder / "pool" / "a.parquet", folder / "pool" / "b.parquet"]
    picks = pick(pool, TARGETS, 9, out="chosen.parquet")
    written = parquet.read_table(folder / "chosen.parquet")
    assert {field.name: field.type for field in written.schema if field.name != "siftlm"} == kinds
    every = table.to_pylist()
    for at, number in enumerate(picks.numbers.tolist()):
        row = written.slice(at, 1).to_pylist()[0]
        assert row.pop("siftlm")["pick"] == at + 1
        assert row == {**every[number], "small": 3 if number < 20 else None}


def test_parquet_has_every_field_that_a_record_has(folder):
    parquet = pytest.importorskip("pyarrow.parquet")
    pool = [{"text": text, f"note {at}": at} for at, text in enumerate(TARGETS)]
    picks = pick(pool, TARGETS, 3, out="a.parquet", field=None, without_copies=False)
    names = {name: None for record in picks.records for name in record}
    assert len(names) == 4
    assert parquet.read_table("a.parquet").to_pylist() == [{**names, **record} for record in picks.records]


def test_what_is_written_is_json_whatever_the_numbers(folder):
    text = '{"text": "tea boils in the kitchen", "huge": 1e400, "low": [-1e400], "word": "Infinity, \\"NaN"}\n'
    (folder / "huge.jsonl").write_text(text)
    picks = pick("huge.jsonl", TARGETS, 1, out="a.jsonl", field=None)
    picks.export("trl", folder / "trl")
    row = json.loads((folder / "a.jsonl").read_text(), parse_constant=pytest.fail)
    assert row == next(iter(picks.records)) == json.loads(text)
    pick([{**row, "none": math.nan}], TARGETS, 1, out="b.jsonl", field=None)
    assert json.loads((folder / "b.jsonl").read_text(), parse_constant=pytest.fail) == {**row, "none": None}


def test_other_methods_of_selection_choose_too():
    pool = records(300)
    near = pick(pool, TARGETS, 5, method="nearest", without_copies=False)
    assert near.numbers.tolist() != pick(pool, TARGETS, 5, without_copies=False).numbers.tolist()
    assert near.uncertainty[-1] >= pick(pool, TARGETS, 5, without_copies=False).uncertainty[-1]
    with pytest.raises(Conflict, match="reads a classifier's outputs"):
        pick(pool, TARGETS, 5, method="max-entropy")
