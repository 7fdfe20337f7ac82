"""Memory does not grow with the input."""

import gzip
import itertools
import json
import random
import tracemalloc

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from siftlm.memory.reading import open_source

pytestmark = pytest.mark.slow


def peak(path):
    for _ in open_source(path).read():  # imports and caches of the first reading are not what is measured
        break
    tracemalloc.start()
    try:
        for _ in open_source(path).read():
            pass
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def rows(count):
    return ({"text": random.Random(n).randbytes(1500).hex(), "n": str(n)} for n in range(count))


def write(path, count):
    lines = "".join(json.dumps(row) + "\n" for row in rows(count)).encode()
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(lines, 1))
    elif path.suffix == ".zst":
        path.write_bytes(zstandard.compress(lines))
    elif path.suffix == ".csv":
        path.write_text("text,n\n" + "".join(f'"{row["text"]}",{row["n"]}\n' for row in rows(count)))
    elif path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(list(rows(count))), path, row_group_size=250)
    elif path.suffix == "":
        for number, row in enumerate(itertools.islice(rows(count), count // 10)):
            (path / f"{number % 7}").mkdir(parents=True, exist_ok=True)
            (path / f"{number % 7}" / f"{number}.txt").write_text(row["text"])
    else:
        path.write_bytes(lines)
    return path


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.jsonl.zst", "a.csv", "a.parquet"])
def test_ten_times_the_records_need_no_more_memory(tmp_path, name):
    few, many = write(tmp_path / f"few-{name}", 250), write(tmp_path / f"many-{name}", 2500)
    assert peak(many) < 1.3 * peak(few) + 100_000


@pytest.mark.slow
def test_ten_times_the_files_need_little_more_memory(tmp_path):
    few, many = write(tmp_path / "few", 1000), write(tmp_path / "many", 10_000)
    # The names of one folder are held at a time, in order to sort them.
    assert peak(many) < 1.3 * peak(few) + 400 * 900


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
def test_what_unpacks_a_thousandfold_is_unpacked_piecemeal(tmp_path, suffix):
    line = json.dumps({"text": "a" * 5000}) + "\n"
    path = tmp_path / f"a.jsonl{suffix}"
    content = line.encode() * 4000
    path.write_bytes(gzip.compress(content, 6) if suffix == ".gz" else zstandard.compress(content))
    assert path.stat().st_size < len(content) / 300
    assert peak(path) < len(content) / 4
