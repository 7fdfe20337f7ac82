"""Folders and single texts: which files are read, in which order, and as what."""

import gzip
import json
import os

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from siftlm import Memory
from siftlm.errors import Conflict, InvalidInput, UnknownName
from siftlm.memory.reading import open_source


def fill(folder, files):
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    return folder


def texts(source, start=0):
    return [record.document and record.document.text for record in source.read(start)]


@pytest.fixture
def project(tmp_path):
    files = {
        "README.md": "# Read me\n",
        "src/b.py": "b = 1\r\n",
        "src/a.py": "\ufeffa = 1",
        "src/deep/c.rs": "fn c() {}",
        "Makefile": "all:",
        "table.csv": "x,y\n1,2",
        ".git/config": "no",
        "src/.hidden.py": "no",
        "src/__pycache__/a.pyc": "no",
        "logo.png": b"\x89PNG\0\0",
        "latin.txt": b"caf\xe9",
        "empty.txt": " \n",
        "notes.txt.gz": gzip.compress(b"packed"),
    }
    return fill(tmp_path / "project", files)


def test_a_folder_is_a_text_a_file(project):
    records = {record.where[len(str(project)) + 1 :]: record for record in open_source(project).read()}
    assert list(records) == [
        "Makefile",
        "README.md",
        "empty.txt",
        "latin.txt",
        "logo.png",
        "notes.txt.gz",
        "src/a.py",
        "src/b.py",
        "src/deep/c.rs",
        "table.csv",
    ]
    assert {name: record.problem for name, record in records.items() if record.problem} == {
        "empty.txt": "'text' is only white space",
        "latin.txt": "latin.txt is not UTF-8 at byte 4",
        "logo.png": "logo.png is no text: it holds zero bytes",
    }
    assert records["src/a.py"].document.text == "a = 1"
    assert records["src/b.py"].document.text == "b = 1\n"
    assert records["src/a.py"].document.meta == {"path": "src/a.py", "suffix": ".py", "language": "python"}
    assert records["notes.txt.gz"].document.text == "packed"
    assert records["notes.txt.gz"].document.meta["suffix"] == ".txt"
    assert records["Makefile"].document.meta == {"path": "Makefile", "suffix": ""}


def test_a_folder_counts_files_and_goes_on_after_any(project):
    source = open_source(project)
    whole = [(r.number, r.where, r.position) for r in source.read()]
    assert (source.size, source.unit, whole[-1][2]) == (10, "files", 10)
    for start in range(12):
        assert [(r.number, r.where, r.position) for r in source.read(start)] == whole[start:]


def test_a_path_can_be_the_id_and_meta_can_be_chosen(project):
    [record, *_] = open_source(project, id="path", meta="suffix", glob="*.py").read()
    assert (record.document.id, record.document.meta) == ("src/a.py", {"suffix": ".py"})


@pytest.mark.parametrize(
    ("glob", "names"),
    [
        ("*.py", ["src/a.py", "src/b.py"]),
        ("src/*", ["src/a.py", "src/b.py"]),
        ("src/**/*", ["src/a.py", "src/b.py", "src/deep/c.rs"]),
        ("**/[bc].*", ["src/b.py", "src/deep/c.rs"]),
        ("src/?.py", ["src/a.py", "src/b.py"]),
    ],
)
def test_globs(project, glob, names):
    source = open_source(project, glob=glob)
    assert [record.document.meta["path"] for record in source.read()] == names
    with pytest.raises(InvalidInput, match=r"no files like 'x\.y'"):
        open_source(project, glob="x.y")
    with pytest.raises(Conflict, match="is a file"):
        open_source(project / "README.md", glob="*.md")


def test_links_to_files_are_followed_and_circles_are_not(project):
    (project / "circle").symlink_to(project)
    (project / "src" / "up").symlink_to("..")
    (project / "linked.md").symlink_to(project / "README.md")
    (project / "broken.md").symlink_to(project / "gone")
    paths = [record.where[len(str(project)) + 1 :] for record in open_source(project).read()]
    assert len(paths) == 11
    assert "linked.md" in paths


def test_a_file_that_is_too_large_is_told(tmp_path):
    fill(tmp_path, {"a.txt": "x" * 100, "b.txt.gz": gzip.compress(b"x" * 101)})
    records = list(open_source(tmp_path, largest=100).read())
    assert records[0].document is not None
    assert "larger than 100 bytes" in records[1].problem


def test_a_name_that_is_no_utf8_is_told_in_a_way_that_can_be_stored(tmp_path):
    with open(os.fsencode(tmp_path) + b"/\xff.txt", "w") as file:
        file.write("text")
    [record] = open_source(tmp_path).read()
    assert "'meta path' holds half of a surrogate pair" in record.problem
    record.where.encode()
    json.dumps(open_source(tmp_path).identity()).encode()


def test_every_change_to_a_folder_changes_its_identity(tmp_path):
    fill(tmp_path, {"a.txt": "a", "b.txt": "b"})
    seen = [open_source(tmp_path).identity()]
    assert seen == [open_source(str(tmp_path)).identity()]
    (tmp_path / "a.txt").write_text("ab")
    seen.append(open_source(tmp_path).identity())
    (tmp_path / "a.txt").rename(tmp_path / "c.txt")
    seen.append(open_source(tmp_path).identity())
    os.utime(tmp_path / "c.txt", (1, 1))
    seen.append(open_source(tmp_path).identity())
    (tmp_path / "d.txt").touch()
    seen.append(open_source(tmp_path).identity())
    assert len({json.dumps(identity) for identity in seen}) == 5


@pytest.fixture
def shards(tmp_path):
    def lines(*words):
        return "".join(json.dumps({"text": word}) + "\n" for word in words).encode()

    folder = fill(
        tmp_path / "shards",
        {
            "b/01.jsonl": lines("c", "", "d"),
            "a.jsonl.gz": gzip.compress(lines("a", "b")),
            "README.md": "about",
            "_SUCCESS": "",
            "dataset_infos.json": "{}",
            "stats.json": "{}",
        },
    )
    pq.write_table(pa.table({"text": ["e", "f"]}), folder / "c.parquet")
    return folder


def test_a_folder_of_data_is_all_of_its_records(shards):
    source = open_source(shards)
    assert texts(source) == ["a", "b", "c", None, "d", "e", "f"]
    assert [record.number for record in source.read()] == list(range(7))
    assert list(source.read())[-1].position == source.size
    assert source.unit == "bytes"
    for start in range(9):
        assert texts(source, start) == texts(source)[start:]
    assert texts(open_source(shards, glob="*.parquet")) == ["e", "f"]


def test_data_among_texts_is_a_question(shards):
    fill(shards, {"guide.md": "text"})
    with pytest.raises(InvalidInput, match=r"holds data \(a.jsonl.gz\) and texts \(guide.md\); say which with glob"):
        open_source(shards)
    assert len(texts(open_source(shards, glob="*.jsonl*"))) == 5
    assert len(texts(open_source(shards, format="text"))) == 7  # an empty one is passed over


def test_tables_alone_in_a_folder_are_data(tmp_path):
    fill(tmp_path, {"a.csv": "text,n\nx,1\n", "b.tsv": "text\tn\ny\t2\n", "c.json": '{"text": "z"}\n'})
    assert texts(open_source(tmp_path)) == ["x", "y", "z"]


def test_a_list_of_inputs_is_read_one_after_the_other(shards, project):
    source = open_source([shards / "a.jsonl.gz", str(shards / "b"), project / "README.md"])
    assert texts(source) == ["a", "b", "c", None, "d", "# Read me\n"]
    assert source.unit == "bytes"
    assert list(source.read())[-1].position == source.size
    for start in range(8):
        assert [r.number for r in source.read(start)] == list(range(start, 6))
    mixed = open_source([project, shards / "a.jsonl.gz"])
    assert (mixed.unit, mixed.size) == ("inputs", 2)
    assert len(mixed.identity()["parts"]) == 2
    with pytest.raises(InvalidInput, match=r"there is no file or folder 'gone\.jsonl'"):
        open_source([shards / "a.jsonl.gz", "gone.jsonl"])
    with pytest.raises(InvalidInput, match="neither a path nor a data set"):
        open_source([shards / "a.jsonl.gz", {"text": "x"}])


def test_a_name_that_does_not_tell_is_told_by_format(tmp_path):
    fill(tmp_path, {"data": '{"text": "a"}\n', "x.dat": "text;b\n", "prose": "just a text"})
    assert texts(open_source(tmp_path / "data", format="jsonl")) == ["a"]
    assert texts(open_source(tmp_path / "prose")) == ["just a text"]
    with pytest.raises(UnknownName, match="did you mean 'jsonl'"):
        open_source(tmp_path / "data", format="json")


def test_a_page_becomes_text_with_its_title(tmp_path):
    fill(tmp_path, {"a.html": "<title>T</title><p>Hello &amp; <b>bye</b></p>", "b.html": "<p>x<![bad[ y"})
    first, second = open_source(tmp_path).read()
    assert first.document.text == "Hello & bye"
    assert first.document.meta == {"path": "a.html", "suffix": ".html", "language": "html", "title": "T"}
    assert second.problem is None or "cannot be read as HTML" in second.problem


@pytest.mark.parametrize("corpus", ["gone.jsonl", "not\0a path", "x" * 5000, ""])
def test_a_path_that_is_none_is_an_error(corpus, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InvalidInput):
        open_source(corpus)


def test_a_memory_within_the_folder_is_no_part_of_it(tmp_path):
    fill(tmp_path, {"a.txt": "one text", "deep/b.md": "another"})
    into = tmp_path / "deep" / "memory"
    for _ in range(2):  # and the second time there is nothing to do
        with Memory.build(tmp_path, into=into) as memory:
            assert sorted(memory.texts(memory.rows())) == ["another", "one text"]
            assert memory.info().documents == 2


def test_the_name_of_nothing_is_not_the_current_folder():
    with pytest.raises(InvalidInput, match="the name of the corpus is empty"):
        open_source("")
