"""``siftlm search``: what is found, and how it is shown."""

from __future__ import annotations

import io
import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from rich.cells import cell_len as width_of

from cli.corpora import TOPICS, Screen, corpus
from siftlm.cli import main, tables
from siftlm.memory import Memory

PROMPT = "How are lists sorted by several keys?"
CODES = re.compile(r"\x1b\[[\d;]*m")


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Thirty texts, and one that is hard to draw. Searches leave a memory as it was, so one is enough."""
    home = tmp_path_factory.mktemp("memory")
    with Memory.build(corpus(home / "c.jsonl"), home / "memory", embedder="hashing") as memory:
        memory.add(
            [f"lists are sorted: {'naïve 一二三 keys ' * 20}"], [{"path": "a/very/long/path/" * 4 + "sorted.py"}]
        )
        yield memory


@pytest.fixture
def memory(folder, built):
    """What the command line calls ``memory``."""
    (folder / "memory").symlink_to(built.path, target_is_directory=True)
    return built


def found(siftlm, *words):
    status, out, err = siftlm("search", "memory", *words, "--json")
    assert (status, err) == (0, "")
    return json.loads(out)


def indices(record):
    return record["selection"]["indices"]


def test_json_is_what_the_memory_finds(memory, siftlm):
    record = found(siftlm, PROMPT, "-n", "4")
    expected = memory.search(PROMPT, n=4).to_dict()
    assert record.pop("prompt") == PROMPT
    assert {**record, "seconds": {}} == {**expected, "seconds": {}}


@pytest.mark.parametrize(
    ("words", "given"),
    [
        ("--method mmr --option balance=0.3", {"method": "mmr", "balance": 0.3}),
        ("--k all", {"k": None}),
        ("--k 7", {"k": 7}),
        ("--noise 1 --kernel power:2", {"noise": 1.0, "kernel": "power:2"}),
        ("--candidates both", {"candidates": "both"}),
        ("--residual --k 7", {"residual": True, "k": 7}),
        ("--per-document 1", {"per_document": 1}),
        ("--adaptive 2", {"adaptive": 2.0}),
        ("--until 0.9", {"until": 0.9}),
        ("--min-gain 0.05", {"min_gain": 0.05}),
        ("--min-growth 0.1", {"min_growth": 0.1}),
        ("--exact", {"exact": True}),
    ],
)
def test_every_flag_is_an_argument_of_the_search(memory, siftlm, words, given):
    from siftlm.cli import arguments

    if "kernel" in given:
        given = {**given, "kernel": arguments.kernel(given["kernel"])}
    record = found(siftlm, PROMPT, "-n", "6", *words.split())
    assert record["selection"] == memory.search(PROMPT, n=6, **given).selection.to_dict()


def test_filters_known_texts_and_copies(memory, siftlm):
    record = found(siftlm, PROMPT, "-n", "4", "--where", 'source = "book1" and year >= 2010')
    assert {hit["meta"]["source"] for hit in record["hits"]} == {"book1"}
    first = found(siftlm, PROMPT, "-n", "1")["hits"][0]["text"]
    known = memory.embedder.embed([first])
    record = found(siftlm, PROMPT, "-n", "3", "--known", first)
    assert indices(record) == memory.search(PROMPT, n=3, known=known).selection.indices.tolist()
    assert record["selection"]["uncertainty"][0] < 0.99
    assert first not in [hit["text"] for hit in found(siftlm, first, "-n", "4", "--without-copies", "0.9")["hits"]]


def test_the_prompt_comes_from_words_a_file_or_stdin_and_options_may_stand_anywhere(memory, siftlm, monkeypatch):
    expected = indices(found(siftlm, PROMPT, "-n", "3"))
    Path("p.txt").write_text(f"\ufeff{PROMPT}\n", encoding="utf-8")
    assert indices(found(siftlm, "--prompt-file", "p.txt", "-n", "3")) == expected
    assert indices(json.loads(siftlm("search", "--json", "memory", "-n", "3", PROMPT)[1])) == expected
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(f"{PROMPT}\n".encode()), encoding="ascii"))
    assert indices(found(siftlm, "-", "-n", "3")) == expected
    np.save("prompt.npy", memory.embedder.embed([PROMPT]))
    assert indices(found(siftlm, "--query", "prompt.npy", "-n", "3")) == expected


def test_many_prompts_are_json_lines_in_their_order(memory, siftlm, monkeypatch):
    monkeypatch.setattr("siftlm.cli.search.PROMPT_BATCH", 2)
    lines = [json.dumps(TOPICS[0]), json.dumps({"prompt": TOPICS[1], "id": 7}), "", json.dumps({"prompt": TOPICS[2]})]
    Path("prompts.jsonl").write_text("\n".join(lines), encoding="utf-8")
    status, out, _ = siftlm("search", "memory", "--prompts", "prompts.jsonl", "-n", "3", "--compare")
    records = [json.loads(line) for line in out.splitlines()]
    assert status == 0
    assert [record["prompt"] for record in records] == list(TOPICS)
    assert records[1]["id"] == 7
    for record in records:
        assert indices(record) == memory.search(record["prompt"], n=3).selection.indices.tolist()
        nearest = memory.search(record["prompt"], n=3, method="nearest")
        assert record["nearest"]["selection"]["indices"] == nearest.selection.indices.tolist()
    assert siftlm("search", "memory", "--prompts", "prompts.jsonl", "-n", "3", "--out", "found.jsonl")[1] == ""
    saved = [json.loads(line) for line in Path("found.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [indices(record) for record in saved] == [indices(record) for record in records]


def test_the_table_shows_every_pick_with_its_source(memory, siftlm):
    status, out, _ = siftlm("search", "memory", PROMPT, "-n", "4")
    expected = memory.search(PROMPT, n=4)
    assert status == 0
    assert out.startswith("sift, λ = 1: 4 of 31 passages")
    for row, hit in zip(out.splitlines()[4:], expected, strict=True):
        assert f"{hit.score:.3f}" in row
        assert f"{hit.uncertainty:.4f}" in row
        assert hit.meta.get("source", "sorted.py") in row
        assert row.endswith(hit.text) or "…" in row


def test_full_keeps_the_lines_of_a_text_and_disarms_it(folder, siftlm):
    with Memory.create("memory") as memory:
        memory.add(["def sort(keys):\n\treturn keys\x1b[2J\n\nthe end"], [{"path": "a/b.py"}])
    out = siftlm("search", "memory", "sort keys", "-n", "1", "--full")[1]
    assert "     def sort(keys):\n         return keys?[2J\n\n     the end\n" in out
    assert "a/b.py" in out
    assert "\x1b" not in out


@pytest.mark.parametrize(
    ("candidates", "columns"),
    [("vectors", ["score"]), ("words", ["score", "words"]), ("both", ["score", "words", "fused"])],
)
def test_the_scores_that_count_are_shown(memory, siftlm, candidates, columns):
    settings = ("-n", "3", "--candidates", candidates, "--method", "nearest")
    hits = found(siftlm, PROMPT, *settings)["hits"]
    assert hits == [hit.to_dict() for hit in memory.search(PROMPT, 3, candidates=candidates, method="nearest")]
    status, out, err = siftlm("search", "memory", PROMPT, *settings)
    assert (status, err) == (0, "")
    lines = out.splitlines()
    assert re.findall(r"score|words|fused", lines[2]) == columns
    names = {"score": "score", "words": "words_score", "fused": "fused_score"}
    assert lines[4].split()[1 : 1 + len(columns)] == [f"{hits[0][names[column]]:.3f}" for column in columns]
    assert [name for name in names.values() if hits[0][name] is not None] == [names[column] for column in columns]


@pytest.mark.parametrize("columns", [20, 40, 80, 200])
@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
@pytest.mark.parametrize("words", [(), ("--full",), ("--compare",), ("--compare", "--full")])
def test_nothing_is_wider_than_the_screen(memory, monkeypatch, columns, encoding, words):
    screen = Screen(encoding)
    monkeypatch.setattr(sys, "stdout", screen)
    monkeypatch.setenv("COLUMNS", str(columns))
    assert main(["search", "memory", PROMPT, "-n", "3", *words]) == 0
    lines = [CODES.sub("", line) for line in screen.getvalue().splitlines()]
    # The numbers of a pick alone take 28 columns.
    limit = max(columns, 29)
    assert max(width_of(line) for line in lines) <= limit
    if columns >= 40:
        assert "sorted.py" in "".join(line.strip() for line in lines)


def test_words_of_the_prompt_are_bold_on_a_screen_and_nowhere_else(memory, siftlm, monkeypatch):
    assert "\x1b" not in siftlm("search", "memory", PROMPT, "-n", "2")[1]
    for colour, expected in (("", True), ("1", False)):
        screen = Screen()
        monkeypatch.setattr(sys, "stdout", screen)
        monkeypatch.setenv("COLUMNS", "100")
        monkeypatch.setenv("NO_COLOR", colour)
        main(["search", "memory", PROMPT, "-n", "2"])
        assert ("\x1b[1msorted\x1b[0m" in screen.getvalue()) is expected
        assert "\x1b[1mare" not in screen.getvalue()


def test_a_comparison_shows_both_and_marks_what_they_share(memory, siftlm, monkeypatch):
    out = siftlm("search", "memory", PROMPT, "-n", "3", "--compare")[1]
    nearest, sift = memory.search(PROMPT, n=3, method="nearest"), memory.search(PROMPT, n=3)
    both = {hit.row for hit in nearest} & {hit.row for hit in sift}
    assert "nearest neighbour" in out
    assert f"picked by both: {len(both)} of 3." in out
    assert f"nearest {nearest.selection.uncertainty[-1]:.4f}, sift {sift.selection.uncertainty[-1]:.4f}" in out
    marks = [line for line in out.splitlines() if re.match(r"\d ·", line)]
    assert len(marks) == sum(hit.row in both for hit in nearest)


def test_a_comparison_stops_where_the_other_method_stopped(memory, siftlm):
    record = found(siftlm, PROMPT, "-n", "9", "--compare", "--until", "0.95")
    assert 0 < len(record["hits"]) < 9
    assert len(record["nearest"]["hits"]) == len(record["hits"])


def test_nothing_found_says_why(memory, siftlm):
    for words, why in (
        (("tea", "--where", 'source = "none"'), 'no document matches --where source = "none"'),
        (("zzz", "--candidates", "words"), "no passage has a word of the prompt"),
    ):
        status, out, err = siftlm("search", "memory", *words)
        assert (status, err) == (0, "")
        assert out.startswith(f"No results: {why}")
    Memory.create("empty").close()
    assert siftlm("search", "empty", "tea") == (0, "No results: the memory is empty.\n", "")
    assert json.loads(siftlm("search", "empty", "tea", "--json")[1])["hits"] == []


def test_a_wrong_filter_is_shown_with_a_caret_under_the_place(memory, siftlm):
    status, out, err = siftlm("search", "memory", "tea", "--where", 'source = "book1" und k=None')
    assert (status, out) == (1, "")
    message, line, caret = err.splitlines()
    assert line == '  source = "book1" und k=None'
    assert message.startswith("siftlm: --where, column 18: ")
    assert line[caret.index("^") :].startswith("und")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("search none tea", "none: there is no such folder; build a memory with siftlm index"),
        ("search c.jsonl tea", "c.jsonl: is a file, and a memory is a folder"),
        ("search . tea", "holds no manifest.json, so it is no memory"),
        ("search memory", "no prompt: pass it in quotes"),
        ("search memory tea --prompt-file p.txt", "the prompt and --prompt-file exclude each other"),
        ("search memory --prompt-file none.txt", "none.txt: No such file"),
        (
            "search memory --prompts bad.jsonl",
            "bad.jsonl:2: is neither a JSON string nor an object with a 'prompt' text",
        ),
        ("search memory --prompts empty.jsonl", "empty.jsonl: holds no prompts"),
        ("search memory --query narrow.npy", "width 512"),
        ("search memory tea --method shift", "unknown method 'shift'; did you mean 'sift'?"),
        ("search memory tea --noise 0", "noise"),
        ("search memory tea -n 0", "n must be a whole number ≥ 1"),
        ("search memory tea -n 3 --k 1", "-n 3 is more than the 1 candidates of --k 1: raise --k, or lower -n"),
        ("search memory tea --option k=3", "--option k: not a setting of a selection method"),
        ("search memory tea --k all --candidates both", "--candidates both needs a limited --k, and"),
        ("search memory tea --k all --per-document 1", "--per-document needs a number of candidates: pass --k, not"),
        ("search memory tea --compare --method nearest", "--compare and --method nearest exclude each other"),
        ("search memory tea --full --json", "--full and JSON output exclude each other"),
        ("search memory tea --out nowhere/x.txt", "nowhere/x.txt: No such file or directory"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(memory, siftlm, words, message):
    corpus(Path("c.jsonl"))
    Path("bad.jsonl").write_text('"fine"\n{"text": "tea"}\n', encoding="utf-8")
    Path("empty.jsonl").write_text("\n", encoding="utf-8")
    np.save("narrow.npy", np.ones(3))
    status, out, err = siftlm(*words.split())
    assert (status, out) == (1, "")
    assert err.startswith("siftlm: ")
    assert message in err
    assert err.count("\n") == 1


def test_a_damaged_memory_is_one_line(folder, siftlm):
    Memory.build(corpus(folder / "c.jsonl"), folder / "broken").close()
    with open(folder / "broken" / "g0001" / "vectors.f32", "r+b") as file:
        file.truncate(100)
    status, out, err = siftlm("search", "broken", "tea")
    assert (status, out) == (1, "")
    assert "broken/g0001/vectors.f32: has 100 bytes" in err
    assert err.count("\n") == 1


def test_a_flag_that_swallows_the_prompt_says_so(memory, siftlm):
    status, _, err = siftlm("search", "memory", "--without-copies", "a prompt")
    assert status == 2
    assert "put the flag after the text" in err


def test_where_a_passage_comes_from():
    from siftlm.memory import Hit

    numbers = {"score": 0.5, "gain": 0.1, "uncertainty": 0.4, "row": 0}
    assert tables.origin(Hit("", {"path": "a.py", "title": "x"}, **numbers)) == "a.py"
    assert tables.origin(Hit("", {"path": 3, "title": "x"}, **numbers, part=1, parts=3)) == "x 2/3"
    assert tables.origin(Hit("", {}, **numbers, id="mine")) == "mine"
    assert tables.origin(Hit("", {}, **numbers)) == ""
    assert tables.clip_start("a/long/path.py", 8) == "…path.py"
