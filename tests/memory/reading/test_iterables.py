"""What Python holds in memory, and data sets of the Hugging Face library, offline."""

import json

import numpy as np
import pytest

from siftlm.errors import Conflict, InvalidInput, UnknownName
from siftlm.memory.reading import Record, Source, open_source
from siftlm.types import Document


def texts(source, start=0):
    return [record.document and record.document.text for record in source.read(start)]


def test_texts_mappings_and_documents_mix():
    items = ["a", {"text": "b", "n": 1}, Document("c", {"n": 2}, id="x"), 5, None, b"d", Document("", {})]
    records = list(open_source(items).read())
    assert [record.document and record.document.text for record in records] == ["a", "b", "c", None, None, None, None]
    assert [record.document.meta for record in records[:3]] == [{}, {"n": 1}, {"n": 2}]
    assert records[2].document.id == "x"
    assert "this is 5" in records[3].problem
    assert records[3].where == "item 4"


def test_documents_keep_their_vectors_and_these_are_checked():
    good, short, wrong = (Document("a", vector=np.array(v)) for v in ([1.0, 2.0], [1.0], [np.nan, 1.0]))
    first, second, third = open_source([good, short, wrong]).read()
    assert first.document.vector.tolist() == [1, 2]
    assert "has 1 numbers" in second.problem
    assert "NaN" in third.problem


def test_documents_with_meta_that_is_none():
    [record] = open_source([Document("a", 3)]).read()
    assert "not a mapping" in record.problem


@pytest.mark.parametrize("start", [0, 2, 5, 9])
def test_a_list_a_generator_and_a_set_of_keys_go_on_after_any_record(start):
    items = list("abcde")
    assert texts(open_source(items), start) == items[start:]
    assert texts(open_source(item for item in items), start) == items[start:]
    assert texts(open_source(dict.fromkeys(items).keys()), start) == items[start:]


def test_an_iterator_is_read_once_and_says_so():
    source = open_source(iter(["a"]))
    assert (source.size, source.identity()["parts"][0]["resumable"]) == (None, False)
    assert texts(source) == ["a"]
    with pytest.raises(InvalidInput, match="only once"):
        texts(source)


@pytest.mark.parametrize("corpus", [{"text": "a"}, Document("a"), b"a", 5, None])
def test_what_is_no_corpus_is_refused(corpus):
    with pytest.raises(InvalidInput, match="put it in a list"):
        open_source(corpus)


def test_settings_of_files_are_refused_for_iterables():
    with pytest.raises(Conflict, match="format and glob are for files"):
        open_source(["a"], glob="*.md")


def test_an_empty_list_has_no_records():
    assert list(open_source([]).read()) == []


@pytest.fixture(scope="module")
def datasets(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HOME", str(tmp_path_factory.mktemp("hf")))
        patch.setenv("HF_HUB_OFFLINE", "1")
        yield pytest.importorskip("datasets")


@pytest.fixture
def rows():
    return [{"text": f"text {n}", "n": n, "meta": {"k": [n]}, "v": [float(n), 1.0]} for n in range(150)]


def test_a_loaded_data_set(datasets, rows):
    dataset = datasets.Dataset.from_list(rows)
    source = open_source(dataset.with_format("numpy"), vector="v", id="n")
    records = list(source.read())
    assert [record.document.text for record in records] == [row["text"] for row in rows]
    assert records[149].document.meta == {"k": [149]}
    assert records[149].document.vector.tolist() == [149, 1]
    assert (source.size, source.unit, records[-1].position) == (150, "records", 150)
    for start in (1, 64, 149, 150, 200):
        assert texts(source, start) == [row["text"] for row in rows][start:]
    assert open_source(dataset).identity() == open_source(dataset).identity()
    assert open_source(dataset).identity() != open_source(dataset.select(range(150))).identity()
    json.dumps(source.identity())


def test_a_saved_data_set(datasets, rows, tmp_path):
    both = {"train": datasets.Dataset.from_list(rows), "test": datasets.Dataset.from_list(rows[:2])}
    datasets.DatasetDict(both).save_to_disk(tmp_path / "both")
    both["test"].save_to_disk(tmp_path / "one")
    assert len(texts(open_source(tmp_path / "both"))) == 150
    assert texts(open_source(tmp_path / "both", split="test")) == ["text 0", "text 1"]
    assert texts(open_source(str(tmp_path / "one"))) == ["text 0", "text 1"]
    assert open_source(tmp_path / "one").identity() == open_source(tmp_path / "one").identity()
    with pytest.raises(UnknownName, match="unknown split 'tset'; did you mean 'test'"):
        open_source(tmp_path / "both", split="tset")
    with pytest.raises(InvalidInput, match=r"no column 'body' \(text\)"):
        open_source(tmp_path / "one", text="body")


@pytest.mark.slow
def test_a_stream(datasets, rows, tmp_path):
    folder = tmp_path / "corpus"
    folder.mkdir()
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    dataset = datasets.load_dataset(
        "json", data_files=str(folder / "train.jsonl"), split="train", streaming=True, cache_dir=str(tmp_path / "cache")
    )
    source = open_source(dataset)
    assert texts(source) == [row["text"] for row in rows]
    assert texts(source, 140) == [row["text"] for row in rows][140:]
    assert [record.number for record in source.read(148)] == [148, 149]
    json.dumps(source.identity())
    named = open_source(f"hf:{folder}")
    assert texts(named, 147) == ["text 147", "text 148", "text 149"]
    assert named.identity() == open_source(f"hf:{folder}").identity()


def test_a_data_set_that_is_not_there_is_an_error(datasets, tmp_path):
    with pytest.raises(InvalidInput, match=r"hf:.* with split='train' cannot be opened"):
        open_source(f"hf:{tmp_path}/gone")


@pytest.mark.slow
def test_a_stream_that_breaks_off_is_an_error_that_says_where(datasets):
    def rows():
        yield {"text": "a"}
        raise ConnectionError("no route")

    source = open_source(datasets.IterableDataset.from_generator(rows))
    with pytest.raises(InvalidInput, match=r"cannot be read after row 1: .*no route"):
        list(source.read())


def test_the_protocol_is_met():
    source: Source = open_source(["a"])
    assert isinstance(next(iter(source.read())), Record)
    assert isinstance(source.name, str)
