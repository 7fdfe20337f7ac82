"""What of a record becomes its document, and what no memory can hold."""

import datetime
import decimal
import json
import math
import uuid

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from siftlm.errors import InvalidInput
from siftlm.memory.reading import open_source
from siftlm.types import Document


def read(items, **settings):
    return list(open_source(items, **settings).read())


@pytest.mark.parametrize(
    ("value", "kept"),
    [
        (datetime.date(2020, 1, 2), "2020-01-02"),
        (datetime.datetime(2020, 1, 2, 3, 4, tzinfo=datetime.timezone.utc), "2020-01-02T03:04:00+00:00"),
        (datetime.timedelta(minutes=2), 120.0),
        (np.float32(0.5), 0.5),
        (np.int8(3), 3),
        (np.bool_(True), True),
        (np.array([[1, 2], [3, 4]]), [[1, 2], [3, 4]]),
        (np.datetime64("2020-01-02"), "2020-01-02"),
        (math.nan, None),
        (-math.inf, None),
        (decimal.Decimal("1.5"), 1.5),
        (uuid.UUID(int=5), "00000000-0000-0000-0000-000000000005"),
        ((1, (2,)), [1, [2]]),
        ({3, 1}, [1, 3]),
        ({1: {"a": None}}, {"1": {"a": None}}),
    ],
)
def test_values_become_what_json_can_hold(value, kept):
    [record] = read([{"text": "a", "x": value}])
    assert record.document.meta == {"x": kept}
    assert json.loads(json.dumps(record.document.meta, allow_nan=False)) == {"x": kept}


@pytest.mark.parametrize("value", [b"bytes", object(), 1j, [b"x"], {"deep": {"er": b""}}])
def test_values_that_json_cannot_hold_are_told(value):
    [record] = read([{"text": "a", "x": value}])
    assert record.document is None
    assert "which JSON cannot hold" in record.problem


def test_meta_without_end_is_told():
    endless = []
    endless.append(endless)
    [record] = read([{"text": "a", "x": endless}])
    assert "nested too deeply" in record.problem


@pytest.mark.parametrize(("levels", "taken"), [(1, True), (49, True), (50, False), (900, False)])
def test_meta_of_many_levels_is_told(levels, taken):
    deep = 1
    for _ in range(levels):
        deep = [deep]
    [record] = read([{"text": "a", "x": deep}])
    assert (record.document is not None) == taken
    assert taken or "nested too deeply, in more than 50 levels" in record.problem


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


@given(st.dictionaries(st.text(), json_values, max_size=4))
def test_json_stays_what_it_is(meta):
    [record] = read([Document("a", meta)])
    assert record.document.meta == meta


@given(st.text(st.characters(), min_size=1))
def test_texts_are_kept_exactly_or_refused(text):
    [_, record] = read(["the first decides whether these are texts or names of files", text])
    try:
        storable = bool(text.encode() and text.strip())
    except UnicodeEncodeError:
        storable = False
    assert (record.document is not None) == storable
    assert record.document is None or record.document.text == text


def test_the_record_of_the_caller_is_left_alone():
    item = {"text": "a", "meta": {"k": {"v": 1}}, "x": {"id": 4}}
    [record] = read([item], id="x.id")
    record.document.meta["k"]["v"] = 2
    assert item == {"text": "a", "meta": {"k": {"v": 1}}, "x": {"id": 4}}
    assert record.document.id == "4"


@pytest.mark.parametrize(("value", "problem"), [(None, "has no id"), (1.5, "the id is 1.5"), (True, "the id is True")])
def test_ids_are_strings_or_whole_numbers(value, problem):
    first, second = read([{"text": "a", "key": "k"}, {"text": "a", "key": value}], id="key")
    assert first.document.id == "k"
    assert first.document.meta == {}
    assert problem in second.problem


def test_bad_vectors_are_told():
    vectors = [[1, 2], [1.5, 2], [1, 2, 3], [1, None], "no", [], [[1, 2]], [math.nan, 1], [1e300, 1], None, "[3, 4]"]
    records = read([{"text": "a", "v": vector} for vector in vectors], vector="v")
    told = [
        "has 3 numbers, the first one of this input had 2",
        "not a list of numbers",
        "a string that holds no JSON",
        "not a list",
        "not a list",
        "NaN",
        "too large for float32",
        "has no vector",
    ]
    assert [record.document is not None for record in records] == [True] * 2 + [False] * 8 + [True]
    for record, problem in zip(records[2:10], told, strict=True):
        assert problem in record.problem
    assert [records[n].document.vector.tolist() for n in (0, 1, 10)] == [[1, 2], [1.5, 2], [3, 4]]
    assert records[0].document.vector.dtype == np.float32
    assert records[0].document.meta == {}


def test_the_width_is_that_of_the_first_vector_wherever_reading_begins():
    items = [{"text": "a", "v": [1, 2]}, {"text": "a", "v": [1]}]
    [record] = open_source(items, vector="v").read(1)
    assert "has 1 numbers" in record.problem


@pytest.mark.parametrize("how", ["array", "path", "beside"])
def test_vectors_beside_a_corpus_belong_to_records_by_number(tmp_path, how):
    (tmp_path / "a.jsonl").write_text('{"text": "a"}\n\nbad\n{"text": "c"}\n')
    array = np.arange(6, dtype=np.float16).reshape(3, 2)
    np.save(tmp_path / "vectors.npy", array)
    vector = {"array": array, "path": tmp_path / "vectors.npy", "beside": "vectors.npy"}[how]
    source = open_source(tmp_path / "a.jsonl", vector=vector)
    assert [r.document and r.document.vector.tolist() for r in source.read()] == [[0, 1], None, [4, 5]]
    assert [r.document.vector.tolist() for r in source.read(2)] == [[4, 5]]
    json.dumps(source.identity())


@pytest.mark.parametrize(("rows", "problem"), [(1, "more records"), (3, "only 2 records")])
def test_vectors_that_do_not_fit_are_an_error(rows, problem):
    with pytest.raises(InvalidInput, match=problem):
        read(["a", "b"], vector=np.ones((rows, 2)))


def test_files_of_vectors_that_are_none_are_errors(tmp_path):
    (tmp_path / "a.npy").write_bytes(b"nonsense")
    np.save(tmp_path / "flat.npy", np.ones(3))
    for vector, problem in (("gone.npy", "there is no file"), ("a.npy", "cannot be read"), ("flat.npy", "shape")):
        with pytest.raises(InvalidInput, match=problem):
            open_source(["a"], vector=tmp_path / vector)
