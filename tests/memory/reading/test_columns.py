"""Columns of a whole batch hold what the records give one by one, whatever is among them."""

import datetime
import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from siftlm.errors import InvalidInput
from siftlm.memory import Memory, database
from siftlm.memory.reading import open_source
from siftlm.types import Document

TEXTS = st.sampled_from(["tea", "rain in Bergen", "naïve", " ", "", "half\ud800", None, 3])
PLAIN = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-5, 5),
    st.just(2**70),
    st.floats(),
    st.sampled_from(["a", 'b"\\\n', "é%s", "\udc00"]),
    st.just(datetime.date(2020, 1, 2)),
    st.just(b"bytes"),
)
VALUES = st.one_of(PLAIN, st.lists(PLAIN, max_size=2), st.dictionaries(st.sampled_from("xy"), PLAIN, max_size=2))
COLUMNS = st.fixed_dictionaries({}, optional={"a": PLAIN, "b%": VALUES, "meta": st.one_of(VALUES, PLAIN)})
VECTORS = st.sampled_from([[1, 2], [1.5, 2.0], [0, 0], [1, 2, 3], None, "[3, 4]", [math.nan, 1], np.ones(2)])


@st.composite
def alike(draw):
    """Rows of the same fields, in which a column is mostly of one kind."""
    names = draw(st.lists(st.sampled_from(["a", "b%", "meta"]), unique=True))
    kinds = {
        name: draw(st.sampled_from([st.integers(), st.text(), st.floats(), st.booleans(), VALUES])) for name in names
    }
    count = draw(st.integers(1, 6))
    return [{"text": draw(TEXTS), **{name: draw(kind) for name, kind in kinds.items()}} for _ in range(count)]


ROWS = st.one_of(
    alike(),
    st.lists(st.builds(lambda text, rest: {"text": text, **rest}, TEXTS, COLUMNS), min_size=1, max_size=6),
    st.lists(
        st.one_of(TEXTS, st.builds(Document, st.sampled_from(["tea", ""]), COLUMNS), st.just({"no": "text"})),
        min_size=1,
    ),
)


def told(records):
    return [
        (r.number, r.problem, r.document and (r.document.text, json.dumps(r.document.meta), r.document.id))
        for r in records
    ]


def first_then(rows):
    """A first record that has every field, so that it does not decide what the others must have."""
    return [{"text": "first", "key": 0, "v": [3, 4]}, *rows]


@given(ROWS, st.sampled_from([None, ["a"], ["meta", "x"], ["x"]]))
def test_a_batch_is_what_its_rows_are_one_by_one(rows, meta):
    together = told(open_source(first_then(rows), meta=meta).read())[1:]
    alone = [told(open_source(first_then([row]), meta=meta).read())[1] for row in rows]
    assert [one[1:] for one in together] == [one[1:] for one in alone]
    assert [number for number, *_ in together] == list(range(1, len(rows) + 1))


@given(st.lists(st.tuples(TEXTS, VECTORS, st.sampled_from(["k", 7, None, 1.5])), min_size=1, max_size=6))
def test_ids_and_vectors_of_a_batch_are_those_of_its_rows(rows):
    records = [{"text": text, "v": vector, "key": key} for text, vector, key in rows]
    settings = {"id": "key", "vector": "v"}
    together = list(open_source(first_then(records), **settings).read())[1:]
    alone = [list(open_source(first_then([record]), **settings).read())[1] for record in records]
    assert [one[1:] for one in told(together)] == [one[1:] for one in told(alone)]
    for one, other in zip(together, alone, strict=True):
        if one.document is not None:
            np.testing.assert_array_equal(one.document.vector, other.document.vector)


@given(ROWS, st.integers(0, 7))
def test_columns_are_the_records(rows, start):
    source = open_source(first_then(rows))
    records = list(source.read(start))
    batches = list(source.batches(start))
    assert told(records) == told(record for batch in batches for record in batch.records())
    assert [number for batch in batches for number in batch.numbers] == [r.number for r in records if r.document]
    for batch in batches:
        halves = [batch.slice(0, batch.count // 2), batch.slice(batch.count // 2, batch.count)]
        assert told(type(batch).joined(halves).records()) == told(batch.records())


NUMBERS = st.one_of(
    st.integers(),
    st.floats(allow_nan=False, allow_infinity=False),
    st.sampled_from([2**63, 2**64, -(2**63) - 1, 10**30, -0.0]),
)


@given(
    st.lists(st.dictionaries(st.text(max_size=4), st.one_of(NUMBERS, st.text()), max_size=3), min_size=1, max_size=5)
)
def test_lines_are_read_exactly_with_orjson_and_without(tmp_path_factory, rows):
    """Which of them reads depends on what is installed."""
    path = tmp_path_factory.mktemp("numbers") / "a.jsonl"
    path.write_text("".join(json.dumps({**row, "text": "a"}) + "\n" for row in rows))
    expected = [{key: value for key, value in row.items() if key != "text"} for row in rows]
    found = [record.document.meta for record in open_source(path, meta=None).read() if record.document]
    assert repr(found) == repr(expected) or any("meta" in row for row in rows)


@given(
    st.lists(
        st.tuples(
            st.one_of(st.none(), st.text()),
            st.one_of(st.none(), st.text()),
            st.lists(st.tuples(st.integers(0, 99), st.integers(0, 1), st.binary(min_size=16, max_size=16)), min_size=1),
        )
    )
)
def test_digests_of_many_documents_are_those_of_each(documents):
    keys, metas, held = zip(*documents, strict=True) if documents else ((), (), ())
    places = [place for own in held for place in own]
    starts, nears, digests = zip(*places, strict=True) if places else ((), (), ())
    expected = [
        database.record_digest(key, meta, map(database.PassagePosition._make, own)) for key, meta, own in documents
    ]
    counts = [len(own) for own in held]
    try:
        encoded = "".join(text for text in (*keys, *metas) if text is not None).encode()
    except UnicodeEncodeError:
        return
    del encoded
    assert database.record_digests(keys, metas, counts, starts, nears, digests) == expected
    if set(counts) <= {1}:
        assert database.record_digests(keys, metas, None, starts, nears, digests) == expected


@pytest.mark.parametrize(
    "value",
    [datetime.date(2020, 1, 2), datetime.timedelta(hours=1), np.float32(0.5), np.int8(3), np.arange(3), np.bool_(1)],
)
def test_what_is_added_is_kept_as_what_is_read(tmp_path, value):
    with Memory.create(tmp_path / "memory") as memory:
        memory.add(["an added text"], [{"x": value}])
        memory.ingest([{"text": "a text that was read", "x": value}])
        added, read = (dict(hit.meta) for hit in memory.search("text", n=2))
        assert added == read
        with pytest.raises(InvalidInput, match="metadata must be what JSON can hold"):
            memory.add(["another"], [{"x": np.float32("nan")}])
