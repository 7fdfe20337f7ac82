"""CSV, TSV and Parquet: rows are records, and the reader agrees with the libraries about what they hold."""

import csv
import datetime
import gzip
import io

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from siftlm.errors import InvalidInput
from siftlm.memory.reading import open_source

FIRST = datetime.datetime(2020, 1, 1, tzinfo=datetime.timezone.utc)
cells = st.text(st.sampled_from('ab",;\r\n\t é'), max_size=8)


@given(st.lists(st.lists(cells, min_size=3, max_size=3), max_size=8), st.sampled_from([",", "\t"]))
def test_rows_are_those_of_the_csv_module(tmp_path_factory, rows, delimiter):
    written = io.StringIO(newline="")
    csv.writer(written, delimiter=delimiter, quoting=csv.QUOTE_ALL).writerows([["text", "b", "c"], *rows])
    path = tmp_path_factory.mktemp("csv") / ("a.csv" if delimiter == "," else "a.tsv")
    path.write_bytes(written.getvalue().encode())
    records = list(open_source(path).read())
    assert len(records) == len(rows)
    for record, (text, *others) in zip(records, rows, strict=True):
        assert (record.document is not None) == bool(text.strip())
        if record.document is not None:
            assert [record.document.text, *record.document.meta.values()] == [text, *others]


@given(st.text(st.sampled_from('ab", \n'), max_size=30))
def test_whatever_stands_there_is_read_as_the_csv_module_reads_it(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("csv") / "a.csv"
    path.write_text("text,b\n" + content, newline="")
    records = list(open_source(path).read())
    found = [[r.document.text, *r.document.meta.values()] for r in records if r.document is not None]
    expected = [row for row in csv.reader(io.StringIO(content, newline="")) if len(row) == 2 and row[0].strip()]
    # A quote still open at the end is an error here and a short record there.
    unclosed = any("closed" in (record.problem or "") for record in records)
    assert found == (expected[: len(found)] if unclosed else expected)


def test_bad_rows_are_told_with_the_line_they_begin_in(tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes(b'text,n\r\n"one\ntwo",1\r\n\r\nshort\r\nx,1,2\r\n\xff,3\r\n,4\r\nlast,5\r\n"open,6\r\n')
    records = list(open_source(path).read())
    assert records[0].document.text == "one\ntwo"
    assert [(r.where.rpartition(":")[2], r.problem) for r in records if r.document is None] == [
        ("5", "has 1 fields, there are 2 columns"),
        ("6", "has 3 fields, there are 2 columns"),
        ("7", "not UTF-8"),
        ("8", "'text' is empty"),
        ("10", "a quote is opened here and never closed"),
    ]
    assert [r.number for r in records] == list(range(7))
    assert records[5].document.meta == {"n": "5"}
    for start in range(9):
        assert [r.where for r in open_source(path).read(start)] == [r.where for r in records[start:]]


def test_long_fields_and_packed_files_are_read_and_no_limit_of_the_process_is_changed(tmp_path):
    limit = csv.field_size_limit()
    path = tmp_path / "a.csv.gz"
    path.write_bytes(gzip.compress(b'text\n"' + b"long, " * 100_000 + b'"\n'))
    [record] = open_source(path).read()
    assert len(record.document.text) == 600_000
    assert csv.field_size_limit() == limit


@pytest.mark.parametrize(
    ("head", "settings", "problem"),
    [
        ("body,b", {}, r"no column 'text' \(text\); its columns are 'body', 'b'"),
        ("text,b", {"meta": ["b", "c"]}, r"no column 'c' \(meta\)"),
        ("text,b,b", {}, "two columns are called 'b'"),
        ('text,"b', {}, "never closed"),
    ],
)
def test_columns_that_do_not_exist_are_an_error(tmp_path, head, settings, problem):
    (tmp_path / "a.csv").write_text(f"{head}\nx,y\n")
    with pytest.raises(InvalidInput, match=problem):
        list(open_source(tmp_path / "a.csv", **settings).read())


@pytest.fixture
def table(tmp_path):
    rows = [
        {"text": f"text {n}", "n": n, "when": FIRST + datetime.timedelta(n), "tags": ["a"] * n, "v": [n, 1.5]}
        for n in range(20)
    ]
    schema = pa.schema(
        [
            ("text", pa.large_string()),
            ("n", pa.int32()),
            ("when", pa.timestamp("ns", "UTC")),
            ("tags", pa.list_(pa.string())),
            ("v", pa.list_(pa.float32(), 2)),
        ]
    )
    path = tmp_path / "a.parquet"
    pq.write_table(pa.Table.from_pylist(rows, schema), path, row_group_size=6)
    return path


def test_parquet_rows(table):
    records = list(open_source(table, vector="v", id="n").read())
    assert [r.document.text for r in records] == [f"text {n}" for n in range(20)]
    assert records[3].document.meta == {"when": "2020-01-04T00:00:00+00:00", "tags": ["a"] * 3}
    assert records[3].document.id == "3"
    assert records[3].document.vector.tolist() == [3, 1.5]
    assert records[3].where == f"{table}: row 4"
    assert records[-1].position == table.stat().st_size
    assert [r.document.meta for r in open_source(table, meta=["n"]).read(18)] == [{"n": 18}, {"n": 19}]


def test_parquet_goes_on_after_any_row_without_reading_the_groups_before(table, monkeypatch):
    whole = [(r.number, r.where, r.document.text) for r in open_source(table).read()]
    for start in range(22):
        assert [(r.number, r.where, r.document.text) for r in open_source(table).read(start)] == whole[start:]
    read, original = [], pq.ParquetFile.iter_batches
    monkeypatch.setattr(
        pq.ParquetFile,
        "iter_batches",
        lambda self, *args, row_groups, **rest: (
            read.extend(row_groups) or original(self, *args, row_groups=row_groups, **rest)
        ),
    )
    list(open_source(table).read(12))
    assert read == [2, 3]


def test_parquet_values_that_cannot_be_had_are_told(tmp_path):
    raw = pa.array([b"good", b"\xff", b"good", None], pa.binary())
    texts = pa.StringArray.from_buffers(4, *raw.buffers()[1:], raw.buffers()[0])
    pq.write_table(pa.table({"text": texts, "b": pa.array([b"x", b"x", None, None])}), tmp_path / "a.parquet")
    records = list(open_source(tmp_path / "a.parquet").read())
    assert records[2].document.text == "good"
    assert ["bytes" in records[0].problem, records[1].problem] == [True, "not UTF-8"]
    assert "null, not a string" in records[3].problem


def test_a_damaged_row_group_is_bad_rows_and_the_others_are_read(tmp_path):
    path = tmp_path / "a.parquet"
    texts = [f"text {n * 7919 % 1009}" for n in range(300)]
    pq.write_table(pa.table({"text": texts}), path, row_group_size=100, compression="gzip", use_dictionary=False)
    column = pq.ParquetFile(path).metadata.row_group(1).column(0)
    content = bytearray(path.read_bytes())
    begin = column.data_page_offset
    content[begin + 40 : begin + column.total_compressed_size] = bytes(column.total_compressed_size - 40)
    path.write_bytes(content)
    records = list(open_source(path).read())
    assert [r.number for r in records] == list(range(300))
    assert [r.document and r.document.text for r in records] == [*texts[:100], *[None] * 100, *texts[200:]]
    assert "row group 1 of a.parquet cannot be read" in records[100].problem
    assert [r.number for r in open_source(path).read(150)] == list(range(150, 300))


def test_what_is_no_parquet_is_told(tmp_path):
    (tmp_path / "a.parquet").write_bytes(b"PAR1 nonsense")
    [record] = open_source(tmp_path / "a.parquet").read()
    assert "a.parquet is not a sound Parquet file" in record.problem


def test_parquet_columns_that_do_not_exist_are_an_error(table):
    with pytest.raises(InvalidInput, match=r"no column 'body' \(text\); its columns are 'text', 'n'"):
        list(open_source(table, text="body").read())


def test_nested_columns(tmp_path):
    rows = [{"doc": {"body": "a", "lang": "en"}, "meta": {"k": 1}, "v": np.float64(2)}]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    [record] = open_source(tmp_path / "a.parquet", text="doc.body", meta=["doc.lang", "k"]).read()
    assert (record.document.text, record.document.meta) == ("a", {"doc.lang": "en", "k": 1})
