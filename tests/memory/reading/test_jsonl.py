"""JSON lines: the records that are there, and of every other line what is wrong and where."""

import gzip
import json
import random

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from siftlm.errors import InvalidInput
from siftlm.memory.reading import open_source
from siftlm.memory.reading.lines import ByteStream


def documents(source, start=0):
    return [record.document for record in source.read(start)]


def problems(source):
    return [(record.where.rpartition(":")[2], record.problem) for record in source.read() if record.document is None]


def write(path, content):
    packers = {".gz": gzip.compress, ".zst": zstandard.ZstdCompressor().compress}
    path.write_bytes(packers.get(path.suffix, bytes)(content))
    return path


def lines_of(records):
    return "".join(json.dumps(record) + "\n" for record in records).encode()


@pytest.fixture(params=["corpus.jsonl", "corpus.jsonl.gz", "corpus.jsonl.zst"])
def path(request, tmp_path):
    return tmp_path / request.param


def test_the_shape_of_the_pile(path):
    write(path, lines_of([{"text": "a", "meta": {"pile_set_name": "USPTO", "n": [1]}, "year": 3, "deep": {"x": 1}}]))
    [document] = documents(open_source(path))
    assert (document.text, document.meta) == ("a", {"year": 3, "pile_set_name": "USPTO", "n": [1]})


def test_other_shapes_keep_all_other_fields(path):
    write(path, lines_of([{"body": {"en": "a", "de": "b"}, "key": 7, "tags": ["x"], "more": {"y": None}}]))
    [document] = documents(open_source(str(path), text="body.en", id="key"))
    assert (document.text, document.id) == ("a", "7")
    assert document.meta == {"body": {"de": "b"}, "tags": ["x"], "more": {"y": None}}


def test_chosen_fields_are_found_at_the_top_below_and_in_meta(path):
    write(path, lines_of([{"text": "a", "x": {"y": 1, "z": 2}, "meta": {"source": "web", "other": 0}, "b": 5}]))
    [document] = documents(open_source(path, meta=["x.y", "source", "absent"]))
    assert document.meta == {"x.y": 1, "source": "web"}


def test_every_kind_of_bad_line_is_told_and_the_rest_delivered(path):
    good = b'{"text": "good"}'
    bad = {
        b'{"text": "cut': "invalid JSON at column 10: Unterminated string",
        b'["text"]': "not a JSON object",
        b'"text"': "not a JSON object",
        b'{"body": "x"}': "has no field 'text'",
        b'{"text": 3}': "'text' is 3, not a string",
        b'{"text": null}': "'text' is null",
        b'{"text": ["a"]}': "'text' is a list",
        b'{"text": ""}': "'text' is empty",
        b'{"text": " \\n\\t"}': "'text' is only white space",
        b'{"text": "\xff"}': "not UTF-8 at byte 11",
        b'{"text": "a\\ud800b"}': "U+D800 at character 1",
        b'{"text": "a", "m": "\\udfff"}': "U+DFFF at character 0",
        b"[" * 100_000: "cannot be read",
        b'{"text": "a", "n": ' + b"9" * 5000 + b"}": "cannot be read",
    }
    write(path, b"\n".join([good, b"", *(line for each in bad for line in (each, good))]))
    records = list(open_source(path).read())
    assert [record.number for record in records] == list(range(2 * len(bad) + 1))
    told = [record for record in records if record.document is None]
    for record, (line, problem), number in zip(told, bad.items(), range(3, 1000, 2), strict=False):
        assert problem in record.problem, line
        assert record.where == f"{path}:{number}"
    assert sum(record.document is not None for record in records) == len(bad) + 1


def test_numbers_that_json_does_not_know_become_null(tmp_path):
    path = write(tmp_path / "a.jsonl", b'{"text": "a", "x": NaN, "y": [Infinity, 1.5]}')
    assert documents(open_source(path))[0].meta == {"x": None, "y": [None, 1.5]}


def test_marks_line_ends_and_blank_lines_are_no_records_but_count_as_lines(path):
    write(path, b'\xef\xbb\xbf\r\n{"text": "a"}\r\n  \n\r\n{"text": 1}\r\n{"text": "b"}')
    source = open_source(path)
    assert [document.text for document in documents(source) if document] == ["a", "b"]
    assert [line for line, _ in problems(source)] == ["5"]


def test_two_packed_streams_in_a_row_are_one_file(tmp_path):
    halves = [b'{"text": "a"}\n{"te', b'xt": "b"}\n']
    (tmp_path / "a.jsonl.gz").write_bytes(b"".join(map(gzip.compress, halves)) + bytes(100))
    (tmp_path / "a.jsonl.zst").write_bytes(b"".join(map(zstandard.ZstdCompressor().compress, halves)))
    for name in ("a.jsonl.gz", "a.jsonl.zst"):
        assert [document.text for document in documents(open_source(tmp_path / name))] == ["a", "b"]


def test_what_is_packed_is_seen_by_its_content_not_its_name(tmp_path):
    path = tmp_path / "corpus.jsonl"
    path.write_bytes(gzip.compress(b'{"text": "a"}'))
    assert [document.text for document in documents(open_source(path))] == ["a"]


@pytest.mark.parametrize("name", ["corpus.jsonl.gz", "corpus.jsonl.zst"])
def test_a_truncated_file_gives_all_that_is_there_and_then_says_so(tmp_path, name):
    whole = lines_of({"text": f"text {n} " * 50, "n": n * 7919 % 1000} for n in range(3000))
    path = write(tmp_path / name, whole)
    packed = path.read_bytes()
    path.write_bytes(packed[: len(packed) // 2])
    *good, last = open_source(path).read()
    assert [record.document.text for record in good] == [f"text {n} " * 50 for n in range(len(good))]
    assert len(good) > 500
    assert last.document is None
    assert f"{name} ends in the middle" in last.problem
    assert last.where == f"{path}:{len(good) + 1}"


@pytest.mark.parametrize("name", ["corpus.jsonl.gz", "corpus.jsonl.zst"])
def test_damage_within_a_packed_file_is_told(tmp_path, name):
    path = write(tmp_path / name, lines_of({"text": f"text {n * 7919 % 10007}"} for n in range(20_000)))
    packed = bytearray(path.read_bytes())
    packed[len(packed) // 2 : len(packed) // 2 + 64] = bytes(range(64))
    path.write_bytes(packed)
    told = [record.problem for record in open_source(path).read() if record.document is None]
    assert name in told[-1]


def test_a_packed_name_with_other_content_is_told(tmp_path):
    path = tmp_path / "corpus.jsonl.gz"
    path.write_bytes(b'{"text": "a"}')
    assert [record.problem.split(":")[0] for record in open_source(path).read()] == [
        "corpus.jsonl.gz is not a sound gzip file"
    ]


lines = st.lists(
    st.one_of(
        st.sampled_from([b"", b" ", b"\r", b"{}", b"nonsense", b'{"text": "a\\n"}']),
        st.text(max_size=5).map(lambda text: json.dumps({"text": text}).encode()),
    ),
    max_size=30,
)


@given(lines, st.integers(0, 35), st.sampled_from([".jsonl", ".jsonl.gz", ".jsonl.zst"]))
def test_going_on_after_any_record_gives_what_one_reading_gives(tmp_path_factory, lines, start, suffix):
    path = write(tmp_path_factory.mktemp("resume") / f"a{suffix}", b"\n".join([b'{"text": "first"}', *lines]))
    source = open_source(path)

    def plain(records):
        return [(r.number, r.where, r.problem, r.position, r.document and r.document.text) for r in records]

    assert plain(source.read(start)) == plain(source.read())[start:]


@given(st.lists(st.binary(max_size=20), max_size=20), st.integers(1, 50))
def test_lines_are_those_of_python(tmp_path_factory, pieces, size):
    content = b"\n".join(pieces)
    path = tmp_path_factory.mktemp("lines") / "a"
    path.write_bytes(content)
    stream = ByteStream(path)
    stream.pieces = lambda: (content[at : at + size] for at in range(0, len(content), size))
    expected = content.removeprefix(b"\xef\xbb\xbf").split(b"\n")
    assert list(stream.lines()) == (expected[:-1] if not expected[-1] else expected)


def test_a_field_that_does_not_exist_is_an_error_that_names_those_that_do(path):
    write(path, lines_of([{"body": "x", "meta": {"k": 1}}] * 3))
    with pytest.raises(InvalidInput, match=r"no field 'text' \(text\); its fields are 'body', 'meta', 'meta.k'"):
        list(open_source(path).read())
    with pytest.raises(InvalidInput, match=r"no field 'key' \(id\)"):
        list(open_source(path, text="body", id="key").read())


def test_one_long_list_is_refused_with_advice(tmp_path):
    for name, content in (("one.json", b'[{"text": "a"}, {"text": "b"}]'), ("many.json", b'[\n{"text": "a"}\n]')):
        with pytest.raises(InvalidInput, match="one object a line"):
            list(open_source(write(tmp_path / name, content)).read())


@pytest.mark.slow
def test_positions_rise_to_the_size(path):
    write(path, lines_of({"text": f"{number:050}"} for number in random.Random(0).sample(range(10**9), 20_000)))
    source = open_source(path)
    positions = [record.position for record in source.read()]
    assert positions == sorted(positions)
    assert positions[-1] == source.size == path.stat().st_size
    assert positions[0] < source.size / 2
    assert source.unit == "bytes"


def test_a_change_changes_the_identity(path):
    write(path, b'{"text": "a"}')
    before = open_source(path).identity()
    assert before == open_source(str(path)).identity()
    assert json.loads(json.dumps(before)) == before
    assert before != open_source(path, meta=["x"]).identity()
    write(path, b'{"text": "ab"}')
    assert before != open_source(path).identity()


def test_a_negative_start_is_refused(path):
    write(path, b'{"text": "a"}')
    with pytest.raises(InvalidInput, match="start=-1"):
        open_source(path).read(-1)
