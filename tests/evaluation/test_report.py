"""A report says the same of the same records, whatever their order; more methods change nothing for the others."""

from __future__ import annotations

import html
import math
import random
import re
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from evaluation.invented import question, records, saved
from siftlm.errors import Conflict, InvalidInput, UnknownName
from siftlm.evaluation import passages, results
from siftlm.evaluation.comparison import reference_method
from siftlm.evaluation.report import WRITTEN_FILES_LIST, compose_report, report, report_to_html, write

METHODS = ("base", "context", "nn", "sift", "sift+noise=0.1")


def bytes_of(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return saved(tmp_path_factory.mktemp("runs") / "a", records(METHODS))


def test_the_order_of_records_changes_no_byte(run, tmp_path):
    found = records(METHODS)
    random.Random(3).shuffle(found)
    other = saved(tmp_path / "shuffled", found)
    write(report([run]), tmp_path / "one")
    write(report([other]), tmp_path / "two")
    assert bytes_of(tmp_path / "one") == bytes_of(tmp_path / "two")


def test_one_method_more_leaves_the_others_as_they_were(run, tmp_path):
    more = saved(tmp_path / "more", records((*METHODS, "mmr")))
    before, after = report([run]).main, report([more]).main
    for old, new in zip(before.rows, after.rows, strict=True):
        one, two = (dict(zip(table.head, row, strict=True)) for table, row in ((before, old), (after, new)))
        assert "mmr" in two
        assert {name: two[name] for name in one} == one  # intervals too


def test_runs_of_one_memory_are_put_together(run, tmp_path):
    parts = [
        saved(tmp_path / str(at), [one for one in records(METHODS) if (one["domain"] == "code") == bool(at)])
        for at in (0, 1)
    ]
    write(report([run]), tmp_path / "whole")
    write(report(parts), tmp_path / "parts")
    assert bytes_of(tmp_path / "whole") == bytes_of(tmp_path / "parts")


def test_the_page_needs_nothing_else(run, tmp_path):
    page = report_to_html(report([run]))
    assert not re.search(r"<script|<link|<img|https?://|src=|url\(", page)
    assert page.count("<svg") == 6  # differences, steps, tokens, seconds, λ, uncertainty
    depth: list[str] = []

    class Balanced(HTMLParser):
        def handle_starttag(self, tag, attrs):
            if tag not in ("meta", "line", "polyline", "circle"):
                depth.append(tag)

        def handle_endtag(self, tag):
            if tag not in ("meta", "line", "polyline", "circle"):
                assert depth.pop() == tag

    Balanced().feed(page)
    assert not depth


def test_every_table_says_what_it_is_of(run):
    for _, parts in report([run]).sections:
        for part in parts:
            assert "Protocol split; 12 texts in 2 domains of toys.jsonl; n = 10; toy (1,234 parameters" in part.caption
            assert "memory: 1,000 passages (hashing)" in part.caption


def test_every_table_and_figure_has_its_files(run, tmp_path):
    made = report([run])
    files = {str(path.relative_to(tmp_path)) for path in write(made, tmp_path)}
    assert files == set(bytes_of(tmp_path)) - {WRITTEN_FILES_LIST}
    parts = [part for _, some in made.sections for part in some]
    names = [part.name for part in parts]
    assert len(set(names)) == len(names)
    assert {"report.md", "report.html", "tables/percent.csv", "tables/percent.tex", "figures/steps.csv"} <= files
    markdown = (tmp_path / "report.md").read_text(encoding="utf-8")
    for part in parts:
        assert f"### {part.title}" in markdown
    for link in re.findall(r"\]\(([^)]+)\)", markdown):
        assert (tmp_path / link).is_file()


def test_a_narrower_report_leaves_nothing_of_the_one_before(run, tmp_path):
    texts = {"texts/3f.html": "a page"}
    write(report([run]), tmp_path / "a", texts)
    own = tmp_path / "a" / "tables" / "mine.csv"
    own.write_text("somebody's")
    (tmp_path / "kept.csv").write_text("not of the report")
    listed = tmp_path / "a" / WRITTEN_FILES_LIST
    listed.write_text(listed.read_text() + "../kept.csv\ntables/../../kept.csv\n")
    write(report([run], methods=["nn"]), tmp_path / "a")
    write(report([run], methods=["nn"]), tmp_path / "b")
    assert bytes_of(tmp_path / "a") == {**bytes_of(tmp_path / "b"), "tables/mine.csv": b"somebody's"}
    assert (tmp_path / "kept.csv").exists()


def test_a_method_has_one_colour_in_all_pictures(tmp_path):
    methods = ("base", "context", "dynamic", "mmr", "nn", "random", "sift")
    found = records(methods)
    for one in found:
        if one["method"] == "dynamic":  # is in the first picture and in no other
            one.pop("learned")
    saved(tmp_path / "run", found)
    made = write(report([tmp_path / "run"]), tmp_path / "out")
    colours = {}
    for path in made:
        if path.match("figures/*.svg") and path.stem != "differences":
            for colour, name in re.findall(r'style="fill:var\(--(.)\)"[^>]*>([a-z]+)</text>', path.read_text()):
                colours.setdefault(name, set()).add(colour)
    assert colours.keys() >= {"mmr", "nn", "random", "sift", "dynamic"}
    assert all(len(some) == 1 for some in colours.values())


def test_fewer_texts_than_steps_are_said(tmp_path):
    found = records(("base", "nn", "sift"))
    one = next(one for one in found if one["method"] == "nn")
    one["rows"] = one["rows"][:3]
    said = report([saved(tmp_path / "run", found)]).about
    assert [line.split(";")[0] for line in said if "fewer texts" in line] == [
        "nn: fewer texts than n = 10 were chosen for 1 text (at least 3)"
    ]


def test_no_folder_of_a_machine_is_named(tmp_path):
    away = "/somewhere/deep"
    run = saved(
        tmp_path / "run",
        records(),
        model={"name": f"{away}/gpt2", "parameters": 5},
        corpus={"name": f"{away}/test.jsonl"},
        memory={"passages": 7, "embedder": f"{away}/minilm", "contents": "c"},
    )
    write(report([run]), tmp_path / "out")
    for content in bytes_of(tmp_path / "out").values():
        assert away.encode() not in content
        assert str(tmp_path).encode() not in content
    assert b"gpt2 (5 parameters" in (tmp_path / "out/report.md").read_bytes()


@pytest.mark.slow
def test_another_process_without_torch_writes_the_same_bytes(run, tmp_path):
    code = (
        "import sys; sys.modules['torch'] = None; from siftlm.evaluation.report import report, write; "
        "write(report([sys.argv[1]]), sys.argv[2])"
    )
    subprocess.run([sys.executable, "-c", code, str(run), str(tmp_path / "there")], check=True)
    write(report([run]), tmp_path / "here")
    assert bytes_of(tmp_path / "here") == bytes_of(tmp_path / "there")


def test_only_the_base_model_is_a_report_too():
    made = compose_report(results.results_from_records(records(("base",)), question()))
    assert made.main.name == "absolute"
    assert made.sentences == []
    assert "<h1>" in report_to_html(made)


def test_left_out_texts_are_said(tmp_path):
    fewer = [one for one in records() if (one["text"], one["method"]) != ("code-000", "sift")]
    assert "1 text left out, without a result of some method so far." in report([saved(tmp_path / "f", fewer)]).about


def test_the_reference_is_nn_or_what_was_asked():
    it = results.results_from_records(records(METHODS), question())
    assert (reference_method(it), reference_method(it, "sift")) == ("nn", "sift")
    assert reference_method(results.results_from_records(records(("sift",)), question())) == "base"
    with pytest.raises(UnknownName, match="unknown method of this run 'knn'"):
        compose_report(it, against="knn")


def test_what_is_no_run_is_said(run, tmp_path):
    with pytest.raises(InvalidInput, match="is no run"):
        report([tmp_path / "nowhere"])
    with pytest.raises(InvalidInput, match="no results yet"):
        report([saved(tmp_path / "empty", [])])
    other = saved(tmp_path / "prefix", records(), protocol={"name": "prefix", "n": 10, "at": [10], "copies": "report"})
    with pytest.raises(Conflict, match=r'"prefix".*of one model and protocol'):
        report([run, other])


def test_a_result_that_is_no_number_is_said_and_decides_nothing(tmp_path):
    found = records()
    at = next(at for at, one in enumerate(found) if (one["text"], one["method"]) == ("code-002", "sift"))
    found[at] = {**found[at], "curve": [[0, found[at]["base"]], [10, None]]}
    made = report([saved(tmp_path / "run", found)])
    assert any(line.startswith("sift: 1 result") for line in made.about)
    assert {one.method: one.verdict for one in made.differences}["sift"] == "inconclusive"
    write(made, tmp_path / "out")
    assert "nan" not in (tmp_path / "out/report.md").read_text(encoding="utf-8").lower()
    assert "NaN" not in (tmp_path / "out/report.html").read_text(encoding="utf-8")
    rows = (tmp_path / "out/tables/percent.csv").read_text(encoding="utf-8").splitlines()
    assert rows[1].endswith(",,,,6")  # nothing for sift in code
    assert not rows[2].endswith(",,,,6")


def test_the_weight_of_an_interpolation_is_chosen_on_other_texts():
    weights, found = [0.0, 0.1], records(("base",), per_domain=2)
    # On all texts but the first, 0.1 is better; the first alone would choose 0.
    nats = [[100.0, 200.0], [300.0, 10.0], [300.0, 20.0], [300.0, 30.0]]
    for one, own in list(zip(found, nats, strict=True)):
        found.append(
            {
                **one,
                "method": "interpolation",
                "curve": [[0, one["base"]], [10, one["base"]]],
                "extra": {"weights": weights, "nats": own},
            }
        )
    it = results.results_from_records(found, question())
    for one, own, bits in zip(found[:4], nats, it.tuned("interpolation"), strict=True):
        assert bits == pytest.approx(own[1] / math.log(2) / one["bytes"])
    assert any("best on all other texts" in line for line in compose_report(it).about)


def test_a_weighted_mean_is_in_the_sentences(tmp_path):
    made = report([saved(tmp_path / "run", records())], weights={"code": 1.0, "prose": 0.0})
    (one,) = [one for one in made.differences if one.method == "sift"]
    assert one.weighted.value == pytest.approx(one.domains["code"].value)
    assert "; weighted " in one.sentence()
    assert "Domains without a weight, left out of the weighted mean: prose." in made.about


def test_several_memories_are_compared_on_common_texts(tmp_path):
    small = saved(tmp_path / "small", records(per_domain=4), memory={"passages": 10, "embedder": "hashing"})
    large = saved(tmp_path / "large", records(per_domain=6), memory={"passages": 99, "embedder": "hashing"})
    made = report([large, small])
    assert len(made.results.texts) == 12
    parts = {part.name: part for _, some in made.sections for part in some}
    assert "on the 8 texts that all" in parts["memory"].caption
    assert [row[0] for row in parts["memories"].rows] == ["10 passages (hashing)", "99 passages (hashing)"]


# --- single texts


@pytest.fixture(scope="module")
def memory(tmp_path_factory):
    from siftlm.memory import Memory

    words = ["tea", "oak", "sea", "fox", "ink", "hay", "jar", "owl"]
    texts = [f"Passage number {at} about <{word}>." for at, word in enumerate(words)]
    with Memory.build(texts, tmp_path_factory.mktemp("memory") / "m", progress=False) as memory:
        yield memory


def of_memory(memory, found):
    from siftlm.evaluation.fingerprints import contents_fingerprint
    from siftlm.evaluation.fingerprints import memory_fingerprint as identity

    known = {**identity(memory), "contents": contents_fingerprint(memory)}
    return results.results_from_records(found, question(memory=known))


def test_a_page_shows_what_each_method_chose(memory):
    found = records(METHODS)
    it = of_memory(memory, found)
    ((name, page),) = passages.passage_pages(it, memory, ["worst"]).items()
    share = {(r["text"], r["method"]): r["curve"][-1][1] / r["base"] for r in found}
    gaps = {text: share[text, "sift"] - share[text, "nn"] for text in it.texts}
    worst = max(gaps, key=gaps.get)
    assert name == f"texts/{worst}.html"
    one = next(r for r in found if (r["text"], r["method"]) == (worst, "sift"))
    for row in set(one["rows"]):
        assert f"Passage number {row} about &lt;" in page
    assert page.count("<li ") == 10 * 4
    assert list(passages.passage_pages(it, memory, ["best"])) == [f"texts/{min(gaps, key=gaps.get)}.html"]


def test_the_text_itself_is_shown_from_its_corpus(memory):
    from siftlm.evaluation import read

    corpus = [
        {"text": f"The keeper of light {at} <writes> a log by day and by night.", "meta": {"domain": "code"}}
        for at in range(3)
    ]
    ids = {one.id: one.text for one in read(corpus, longest=50)}
    found = [{**one, "text": name} for name in ids for one in records(per_domain=1)[:3]]
    it = of_memory(memory, found)
    it = replace(it, question={**it.question, "corpus": {"name": "c", "domain": "domain", "longest": 50}})
    for name, page in passages.passage_pages(it, memory, list(ids), corpus=corpus).items():
        shown = html.unescape("".join(re.findall(r"<h3>(?:The prompt|The scored part)</h3><pre>(.*?)</pre>", page)))
        assert shown == ids[Path(name).stem]
    with pytest.raises(InvalidInput, match="is not in the corpus"):
        passages.passage_pages(of_memory(memory, records()), memory, ["worst"], corpus=corpus)


def shown(memory, corpus, corpus_of_run, ids):
    """The texts on the pages of these ids."""
    found = [{**one, "text": name} for name in ids for one in records(per_domain=1)[:3]]
    it = of_memory(memory, found)
    it = replace(it, question={**it.question, "corpus": corpus_of_run})
    return {
        Path(name).stem: html.unescape(
            "".join(re.findall(r"<h3>(?:The prompt|The scored part)</h3><pre>(.*?)</pre>", page))
        )
        for name, page in passages.passage_pages(it, memory, list(ids), corpus=corpus).items()
    }


def test_the_text_is_found_in_the_field_that_the_run_read(memory):
    from siftlm.evaluation import read

    corpus = [
        {"text": f"A title {at} that is not what was read.", "body": f"The body of the {at}th text, all that was read."}
        for at in range(3)
    ]
    ids = {one.id: one.text for one in read(corpus, text="body")}
    assert shown(memory, corpus, {"name": "c", "text": "body"}, ids) == ids


def test_a_text_of_the_sample_is_found_however_it_was_drawn(memory, monkeypatch):
    from types import SimpleNamespace

    from siftlm import sample
    from siftlm.evaluation import read

    def prompts(kind, count, seed):
        if count > 110:
            raise InvalidInput("there are only 110")
        return [SimpleNamespace(text=f"A {kind} number {at} of {seed}, long enough to be cut.") for at in range(count)]

    monkeypatch.setattr(sample, "prompts", prompts)
    drawn = read("sample", per_domain=2, skip=60, seed=5)
    ids = {one.id: one.text for one in drawn[:3]}
    assert shown(memory, "sample", {"name": "sample", "seed": 5}, ids) == ids
    with pytest.raises(InvalidInput, match="is not in the corpus 'sample'"):
        shown(memory, "sample", {"name": "sample", "seed": 6}, ids)


def test_one_model_under_two_names_is_one(run, tmp_path):
    known = question()["model"]
    moved = saved(tmp_path / "moved", records(METHODS), model={**known, "name": "/models/toy-2"})
    assert report([run, moved]).results.question["model"]["name"] == "toy"
    other = saved(tmp_path / "other", records(METHODS), model={**known, "fingerprint": "g"})
    with pytest.raises(Conflict, match="of one model"):
        report([run, other])


def test_one_text_a_domain_has_figures_without_intervals(tmp_path):
    made = report([saved(tmp_path / "run", records(per_domain=1))])
    write(made, tmp_path / "out")
    table = (tmp_path / "out/tables/differences.csv").read_text(encoding="utf-8")
    assert ",,," in table.splitlines()[-1]
    assert "\\[–\\]" in (tmp_path / "out/report.md").read_text(encoding="utf-8")
    for one in (tmp_path / "out").rglob("*.*"):
        assert "nan" not in re.sub(r"[a-z]*[fg]inan[a-z]*", "", one.read_text(encoding="utf-8").lower()), one
    assert all(one.verdict == "inconclusive" for one in made.differences)


def test_texts_cut_to_another_length_are_not_put_together(tmp_path):
    def cut(name, **corpus):
        return saved(tmp_path / name, records(), corpus={"name": "toys.jsonl", "domain": "subset", **corpus})

    one, unknown = cut("a", longest=1000), cut("b")
    assert report([one, unknown]).results.question["corpus"]["longest"] == 1000
    other = saved(tmp_path / "d", records(), corpus={"name": "more.jsonl", "domain": "subset", "longest": 1000})
    assert report([one, other]).results.question["corpus"] == {
        "name": "toys.jsonl and more.jsonl",
        "domain": "subset",
        "longest": 1000,
    }
    with pytest.raises(Conflict, match=r"c: has longest=None, and .*a has 1000"):
        report([one, cut("c", longest=None)])


def test_the_reference_is_kept_when_methods_are_named(run):
    assert report([run], methods=["sift"], against="nn").results.methods == ("base", "nn", "sift")


def test_a_file_may_be_named_as_it_was_for_the_run(tmp_path):
    one = saved(tmp_path / "one", records(("nn", "mine+by=2")))
    assert report([one], methods=["./mine.py+by=2"]).results.others == ("mine+by=2",)
    old = saved(tmp_path / "old", records(("nn", "./mine.py")))
    assert report([old], methods=["./mine.py"]).results.others == ("./mine.py",)


def test_results_of_two_versions_of_a_file_are_not_put_together(tmp_path):
    parts = [
        [{**one, "settings": {"way": "mine", "way_file": domain}} for one in records(("mine",), (domain,))]
        for domain in ("code", "prose")
    ]
    with pytest.raises(Conflict, match="'mine' is of two files that differ"):
        report([saved(tmp_path / one[0]["domain"], one) for one in parts])


def test_a_text_is_found_by_the_beginning_of_its_id(memory):
    it = of_memory(memory, records())
    assert list(passages.passage_pages(it, memory, ["code-003", "prose-00" + "1"])) == [
        "texts/code-003.html",
        "texts/prose-001.html",
    ]
    with pytest.raises(UnknownName, match="unknown text of this run 'code'"):
        passages.passage_pages(it, memory, ["code"])


def test_an_id_cannot_lead_out_of_the_folder(memory):
    found = [{**one, "text": f"../../{one['text']}"} for one in records()]
    (name,) = passages.passage_pages(of_memory(memory, found), memory, ["worst"])
    assert re.fullmatch(r"texts/[\w-]+\.html", name)


def test_another_memory_is_refused(memory):
    it = results.results_from_records(records(), question())
    with pytest.raises(Conflict, match="its rows are not those"):
        passages.passage_pages(it, memory, ["worst"])


def test_a_report_holds_no_text_unless_it_is_asked_for(memory, tmp_path):
    write(compose_report(of_memory(memory, records())), tmp_path)
    assert all(b"Passage number" not in content for content in bytes_of(tmp_path).values())
    assert not Path(tmp_path / "texts").exists()
