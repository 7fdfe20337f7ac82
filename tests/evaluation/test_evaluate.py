"""A run goes on where it stopped, is shared, and its records are what they say."""

from __future__ import annotations

import json
import math
import os
import signal
import time

import numpy as np
import pytest

from calibration.worlds import Reader, document, words
from evaluation.cases import METHODS, PROTOCOL, TEXTS, known, lines, model, needles_world, plain, run, worker
from siftlm.embedding import HashingEmbedder
from siftlm.errors import Conflict, InvalidInput, SiftlmError
from siftlm.evaluation import Measured, Protocol, Text, evaluate, question_of, records_of
from siftlm.local import LocalModel
from siftlm.memory import Memory
from siftlm.selection.kernels import relevance

COUNT = len(TEXTS) * len(METHODS.split(","))


@pytest.fixture(scope="module")
def memory(tmp_path_factory):
    with needles_world(tmp_path_factory.mktemp("needles") / "memory") as made:
        yield made


@pytest.fixture(scope="module")
def tiny():
    """A model that is tuned."""
    pytest.importorskip("transformers")
    from siftlm.controller import Controller

    return Controller("siftlm-tiny")


@pytest.fixture(scope="module")
def whole(memory, tmp_path_factory):
    """The records of a run that nobody disturbed."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    done = run(memory, folder)
    assert (done.texts, done.done, done.known, done.missing, done.unusable) == (len(TEXTS), COUNT, 0, 0, 0)
    return known(folder)


def test_every_method_begins_at_the_base_model_and_has_every_point(whole):
    base = {one["text"]: one["base"] for one in whole if one["method"] == "base"}
    assert len(base) == len(TEXTS)
    for one in whole:
        measured = Measured.of(one)
        assert measured.base == measured.curve[0] == base[one["text"]]
        assert measured.tuned == measured.curve[max(measured.curve)]
        assert sorted(measured.curve) == ([0] if one["method"] == "base" else [0, 1, 2, 5])
    assert all(one["curve"][-1][1] < one["base"] for one in whole if one["method"] == "nn")


@pytest.mark.parametrize("at", [1, 6, 15])
def test_an_interrupted_run_goes_on_to_the_same_records(memory, whole, tmp_path, at):
    reader = Reader()
    reader.interrupt_at = at
    with pytest.raises(KeyboardInterrupt):
        run(memory, tmp_path, reader=reader)
    there = len(records_of(tmp_path))
    done = run(memory, tmp_path, reader=reader)
    assert (done.known, done.done) == (there, COUNT - there)
    assert known(tmp_path) == whole
    selections = {(one["text"], *one["rows"]) for one in whole if one["method"] in ("nn", "sift")}
    assert reader.tunings == len(selections) + 1, "what was being done, and nothing else, is done again"


def test_methods_that_select_the_same_are_tuned_once(memory, tmp_path):
    reader = Reader()
    run(memory, tmp_path / "together", "nn,sift,auto+likeness=1", reader=reader)
    together = records_of(tmp_path / "together")
    assert reader.tunings == len({(one["text"], *one["rows"]) for one in together}) <= 2 * len(TEXTS)
    # And the records are those of a run in which nothing is shared.
    for method in ("nn", "sift", "auto+likeness=1"):
        run(memory, tmp_path / "alone", method)
    names = ("text", "method", "rows", "curve", "losses", "uncertainty")
    alone = records_of(tmp_path / "alone")
    assert sorted([one[name] for name in names] for one in together) == sorted(
        [one[name] for name in names] for one in alone
    )


def test_methods_and_texts_may_be_added(memory, whole, tmp_path):
    reader = Reader()
    assert run(memory, tmp_path, "nn", TEXTS[:3], reader=reader).done == 3
    assert run(memory, tmp_path, "sift,nn", TEXTS[:3], reader=reader).done == 3
    assert run(memory, tmp_path, "nn", reader=reader).done == len(TEXTS) - 3
    assert reader.tunings == len(TEXTS) + 3
    done = run(memory, tmp_path, reader=reader)
    assert (done.known, done.done) == (len(TEXTS) + 3, COUNT - len(TEXTS) - 3)
    assert known(tmp_path) == whole
    assert run(memory, tmp_path, reader=reader).done == 0


def test_the_settings_of_each_method_are_written_once(memory, tmp_path):
    run(memory, tmp_path, "base,sift+noise=1e+3+kernel=power:4")
    noted = [one for one in records_of(tmp_path) if "settings" in one]
    assert [one["method"] for one in noted] == ["base", "sift+noise=1e+3+kernel=power:4"]
    assert noted[0]["settings"] == {"way": "base"}
    settings = noted[1]["settings"]
    assert (settings["noise"], settings["method"], settings["n"]) == (1000.0, "sift", 5)
    assert "Power" in settings["kernel"]
    assert "4" in settings["kernel"]


def test_a_prior_that_is_named_is_the_prior_of_that_name(memory, tmp_path):
    run(memory, tmp_path / "named", "sift+prior=relevance:8")
    run(memory, tmp_path / "plain", "sift")
    picked = {one["text"]: one["rows"] for one in records_of(tmp_path / "named")}
    assert picked != {one["text"]: one["rows"] for one in records_of(tmp_path / "plain")}
    for text in TEXTS:
        given = memory.search(PROTOCOL.parts(text.text).prompt, n=PROTOCOL.n, method="sift", prior=relevance(8.0))
        assert [hit.row for hit in given] == picked[text.id]


def other_weights(name):
    reader = Reader(name=name)
    reader.fingerprint = "other"
    return reader


def test_a_model_is_told_by_its_weights_and_not_by_the_folder_it_is_in(memory, tmp_path):
    folder = tmp_path / "models" / "reader"
    run(memory, tmp_path / "run", "base", reader=Reader(name=str(folder)))
    assert str(tmp_path) not in (tmp_path / "run/run.json").read_text(encoding="utf-8")
    assert question_of(tmp_path / "run")["model"]["name"] == "reader"
    assert run(memory, tmp_path / "run", "base", reader=Reader(name="moved")).done == 0


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"protocol": Protocol(n=4)}, r"protocol\.at=\[1, 2, 5\], and this one has \[1, 2, 4\]"),
        ({"protocol": Protocol("transductive", n=5)}, r"protocol\.name"),
        ({"protocol": Protocol(n=5, copies="exclude")}, r"protocol\.copies"),
        ({"reader": other_weights("reader")}, r'model\.fingerprint="\w+", and this one has "other"'),
        ({"about": {"corpus": {"name": "b"}}}, r'corpus\.name="a", and this one has "b"'),
    ],
)
def test_another_question_is_refused_by_name(memory, tmp_path, change, said):
    asked = {"about": {"corpus": {"name": "a"}}}
    run(memory, tmp_path, "base", **asked)
    with pytest.raises(Conflict, match=said):
        run(memory, tmp_path, "base,nn", **{**asked, **change})
    assert len(lines(tmp_path)) == len(TEXTS)


def test_a_memory_made_alike_of_other_texts_is_another_question(tmp_path):
    made = []
    for name in "ab":
        made.append(Memory.create(tmp_path / name))
        made[-1].add([f"{name} text {number} of a few words" for number in range(5)])
    run(made[0], tmp_path / "run", "base")
    with pytest.raises(Conflict, match=r"memory\.contents"):
        run(made[1], tmp_path / "run", "base")


def test_what_the_model_was_made_with_counts_and_may_not_change(memory, tmp_path):
    slow = LocalModel(Reader(), memory, rate=1e-5)
    evaluate(slow, TEXTS, "nn", into=tmp_path, protocol=PROTOCOL, progress=False)
    assert records_of(tmp_path)[0]["settings"]["rate"] == 1e-5
    with pytest.raises(Conflict, match=r"holds results of nn with rate=1e-05, and now it is 0\.0003"):
        run(memory, tmp_path, "base,nn")
    run(memory, tmp_path, "nn+rate=3e-4")
    curves = {one["method"]: one["curve"][-1][1] for one in records_of(tmp_path) if one["text"] == "t0"}
    assert curves["nn+rate=3e-4"] < curves["nn"]


def test_two_that_begin_at_once_with_other_settings_do_not_mix(memory, tmp_path):
    slow = LocalModel(Reader(), memory, rate=1e-5)

    def other_begins(seen):
        if not (tmp_path / "records.jsonl").exists():  # ours has looked at the settings, and has no record yet
            evaluate(slow, TEXTS[:1], "nn", into=tmp_path, protocol=PROTOCOL, progress=False)

    with pytest.raises(Conflict, match=r"holds results of nn with rate=1e-05"):
        evaluate(model(memory), TEXTS, "base,nn", into=tmp_path, protocol=PROTOCOL, progress=other_begins)
    assert {one["method"] for one in records_of(tmp_path)} == {"nn"}
    assert len(lines(tmp_path)) == 1


@pytest.mark.parametrize(
    ("label", "said"),
    [
        ("sift+nois=1", "unknown setting 'nois'; did you mean 'noise'"),
        ("sift+noise=-1", "noise must be a number > 0"),
        ("sift+kernel=pwer:4", "unknown kernel"),
        ("sift+prior=relevanc:2", "unknown prior 'relevanc:2'; did you mean"),
        ("sift+prior=relevance:-2", "prior 'relevance:-2': power must be"),
        ("sift+prior=relevance:two", "needs a number: relevance:2"),
        ("context+k=-3", "k must be"),
        ("nn+rate=0", "rate must be"),
        ("hullft+reuse=0", "reuse must be"),
        ("sift+features=grad", "unknown features"),
        ("sift+watch=True", "unknown setting 'watch'; did you mean 'watch_every'"),
        ("sift+use=maybe", "unknown use 'maybe'"),
        ("sift+after=3", "unknown setting 'after'"),
        ("base+rate=1", "unknown setting of base"),
        ("calibrated", "no calibration of this memory for reader"),
    ],
)
def test_a_wrong_setting_is_refused_before_any_work(memory, tmp_path, label, said):
    with pytest.raises(SiftlmError, match=said):
        run(memory, tmp_path / "run", ["base", label])
    assert not (tmp_path / "run").exists()


def test_texts_twice_count_once_and_texts_too_short_are_counted(memory, tmp_path):
    short = [Text("s1", "word", "d0"), Text("s2", "", "d1")]
    done = run(memory, tmp_path, "base", [*TEXTS, *short, *TEXTS[:3]])
    assert (done.texts, done.unusable, done.done) == (len(TEXTS), 2, len(TEXTS))
    assert len(lines(tmp_path)) == len(TEXTS)


def test_a_text_that_nothing_can_be_searched_for_is_left_out_of_all_methods(tmp_path):
    class Knowing(HashingEmbedder):
        def embed(self, texts, *, as_query=False):
            return super().embed(texts, as_query=as_query) * np.array([["zzz" not in text] for text in texts])

    memory = Memory.create(tmp_path / "memory", embedder=Knowing(width=64))
    memory.add([document(topic) for topic in range(5)])
    strange = Text("z", "zzz zzzz zzz zzzz", "d0")
    for _ in range(2):
        done = run(memory, tmp_path / "run", "base,nn,sift+noise=0.1", [strange, *TEXTS[:2]])
        assert (done.texts, done.unusable, done.missing) == (2, 1, 0)
    assert {one["text"] for one in records_of(tmp_path / "run")} == {"t0", "t1"}
    with pytest.raises(InvalidInput, match="none of 1 texts has a word that the memory's embedder 'hashing' knows"):
        run(memory, tmp_path / "other", "base,nn", [strange])
    assert not (tmp_path / "other").exists()


def test_no_texts_at_all(memory, tmp_path):
    done = run(memory, tmp_path, texts=[])
    assert (done.texts, done.done, done.missing) == (0, 0, 0)


@pytest.mark.parametrize("copies", ["report", "exclude"])
def test_an_empty_memory_leaves_the_base_model(tmp_path, copies):
    empty = Memory.create(tmp_path / "memory")
    run(empty, tmp_path / "run", "base,nn,sift,context,random,mmr,hullft", protocol=Protocol(n=5, copies=copies))
    for one in map(Measured.of, records_of(tmp_path / "run")):
        assert set(one.curve.values()) == {one.base}
        assert one.rows == ()


@pytest.mark.slow
def test_copies_are_counted_alike_for_all_or_kept_out_of_all(tmp_path):
    memory = needles_world(tmp_path / "memory")
    prompt, rest = words(0, "p", 12), words(0, "q", 12)
    memory.add([" ".join(prompt), document(0), " ".join([*prompt[-6:], *rest[:6]])])
    copies = set(range(len(memory) - 3, len(memory)))
    methods = ["nn", "sift", "context", "random+k=3"]
    for kind in ("report", "exclude"):
        run(memory, tmp_path / kind, methods, protocol=Protocol(n=5, copies=kind))
    reported = [one for one in records_of(tmp_path / "report") if one["text"] == "t0"]
    assert len(reported) == len(methods)
    for one in reported:
        assert one["copies"] == sum(row in copies for row in one["rows"]) > 0
    excluded = records_of(tmp_path / "exclude")
    assert all("copies" not in one and not copies & set(one["rows"]) for one in excluded)
    assert len(excluded[0]["rows"]) == 5
    # Copies of one text are nothing to the others.
    assert sum("copies" in one for one in records_of(tmp_path / "report") if one["text"] != "t0") == 0


def test_a_passage_across_the_cut_gives_the_text_away_too(tmp_path):
    memory = Memory.create(tmp_path / "memory")
    memory.add([" ".join([*words(0, "p", 12)[-6:], *words(0, "q", 12)[:6]]), document(3), document(4)])
    run(memory, tmp_path / "report", "nn,context", TEXTS[:1])
    for one in records_of(tmp_path / "report"):
        assert one["copies"] == one["rows"].count(0) >= 1
    run(memory, tmp_path / "exclude", "nn", TEXTS[:1], Protocol(n=5, copies="exclude"))
    [one] = records_of(tmp_path / "exclude")
    assert sorted(one["rows"]) == [1, 2]


@pytest.mark.slow
def test_more_steps_than_texts_end_at_what_the_model_says_after_the_last(tiny, tmp_path):
    memory = Memory.create(tmp_path / "memory")
    memory.add([f"The lamp of station {number} was lit at dusk; oil burned: {number} pints." for number in range(9)])
    text = Text("t", "The lamp of station 20 was lit late; oil burned: 4 pints, and no more of it.", "a")
    used = LocalModel(tiny, memory)
    evaluate(used, [text], "nn+passes=2", into=tmp_path / "run", protocol=Protocol(n=3), progress=False)
    [one] = map(Measured.of, records_of(tmp_path / "run"))
    assert sorted(one.curve) == [0, 1, 2, 3, 6]
    score = used.score(text.text, n=3, method="nearest", passes=2, at=[3])
    assert one.tuned == pytest.approx(score.tuned, rel=1e-8)
    assert one.at(3) == pytest.approx(score.curve[0][1], rel=1e-8)
    assert one.tuned != one.at(3)


def test_progress_counts_what_is_left_and_no_more(memory, tmp_path):
    run(memory, tmp_path, "base")
    seen = []
    evaluate(model(memory), TEXTS, "base,nn", into=tmp_path, protocol=PROTOCOL, progress=seen.append)
    assert {one.total for one in seen} == {len(TEXTS)}
    assert (seen[-1].done, seen[-1].finished) == (len(TEXTS), True)


def test_a_record_is_read_back_as_it_was():
    one = Measured(2.0, {0: 2.0, 5: math.nan}, 10, 3, rows=(1, 2), losses=(1.0, None), extra={"a": [1]})
    again = Measured.of(json.loads(json.dumps(one.to_dict())))
    assert math.isnan(again.curve[5])
    assert (again.rows, again.losses, again.extra, again.bytes) == ((1, 2), (1.0, None), {"a": [1]}, 10)
    assert math.isnan(Measured.of(Measured(math.nan, {0: math.nan}, 0, 0).to_dict()).base)


def test_a_baseline_of_ones_own(memory, tmp_path):
    (tmp_path / "mine.py").write_text(
        "from siftlm.evaluation import Measured, baseline\n"
        '@baseline("mine", "half of it")\n'
        "def mine(case, share=0.5):\n"
        "    base = case.model.controller.likelihood(case.scored, after=case.before)\n"
        "    bits = base.bits_per_byte\n"
        "    return Measured(bits, {0: bits, case.points[-1]: bits * share}, base.bytes, base.tokens)\n"
    )
    run(memory, tmp_path / "run", ["base", f"{tmp_path / 'mine.py'}+share=0.25"])
    found = [Measured.of(one).percent for one in records_of(tmp_path / "run") if one["method"] == "mine+share=0.25"]
    assert found == [25.0] * len(TEXTS)


WRONG = {
    "raise KeyError('oh')": "mine: KeyError: 'oh' \\(mine.py, line 5; the text begins '",
    "return 1.5": "mine: run must return a Measured, got float",
    "return Measured(float('nan'), {0: 1.0}, base.bytes, 5)": "mine: base=nan is no number of bits",
    "return Measured(bits, {0: bits}, 10, 5)": "mine scored 10 bytes of text .*, and base [0-9]+",
    "return Measured(1.1 * bits, {0: bits}, base.bytes, 5)": "some baseline has left the model changed",
}


@pytest.mark.parametrize("ending", WRONG)
def test_a_baseline_of_ones_own_that_is_wrong_is_refused_and_leaves_no_record(memory, tmp_path, ending):
    (tmp_path / "mine.py").write_text(
        "from siftlm.evaluation import Measured, baseline\n"
        '@baseline("mine", "wrong")\n'
        "def mine(case):\n"
        "    base = case.model.controller.likelihood(case.scored, after=case.before); bits = base.bits_per_byte\n"
        f"    {ending}\n"
    )
    with pytest.raises(SiftlmError, match=WRONG[ending]):
        run(memory, tmp_path / "run", ["base", str(tmp_path / "mine.py")])
    assert [one["method"] for one in records_of(tmp_path / "run")] == ["base"]


def test_a_protocol_that_no_text_is_long_enough_for(memory, tmp_path):
    with pytest.raises(InvalidInput, match="long enough for the protocol 'prefix' \\(the longest has"):
        run(memory, tmp_path / "run", protocol=Protocol("prefix", n=2, prefix=10**6))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("signature", ["case, by=0.5", "case, by=0.5, **more"])
def test_a_baseline_whose_file_was_changed_is_another_one(memory, tmp_path, signature):
    file = tmp_path / "mine.py"
    text = (
        "from siftlm.evaluation import Measured, baseline\n"
        '@baseline("mine", "some of it")\n'
        f"def mine({signature}):\n"
        "    return Measured(1.0, {0: 1.0, case.points[-1]: by}, 10, 5)\n"
    )
    file.write_text(text)
    run(memory, tmp_path / "run", str(file), TEXTS[:1])
    assert run(memory, tmp_path / "run", str(file), TEXTS[:2]).done == 1
    file.write_text(text.replace("): by}", "): 0.1}").replace("]: by}", "]: 0.1}"))
    with pytest.raises(Conflict, match="holds results of mine with another file"):
        run(memory, tmp_path / "run", str(file))
    run(memory, tmp_path / "again", str(file), TEXTS[:1])
    assert Measured.of(records_of(tmp_path / "again")[0]).tuned == 0.1


@pytest.mark.slow
def test_three_processes_share_the_work_without_a_double_or_a_lost_record(memory, whole, tmp_path):
    with_them = [worker(memory.path, tmp_path, 0.01) for _ in range(3)]
    said = [json.loads(one.communicate()[0]) for one in with_them]
    assert [one.returncode for one in with_them] == [0, 0, 0]
    assert sum(one["done"] for one in said) == COUNT == len(lines(tmp_path))
    assert min(one["done"] for one in said) > 0
    assert known(tmp_path) == whole


@pytest.mark.slow
def test_killed_again_and_again_it_comes_to_the_same_records(memory, whole, tmp_path):
    kills, counts = 0, [0]
    for pause in (0.05, 0.2, 0.11, 0.16, 0.3, 0.08):
        child = worker(memory.path, tmp_path, 0.005)
        log = tmp_path / "records.jsonl"
        size = log.stat().st_size if log.exists() else 0
        while child.poll() is None and (not log.exists() or log.stat().st_size == size):
            time.sleep(0.005)  # until it is at work
        time.sleep(pause)
        if child.poll() is None:
            os.kill(child.pid, signal.SIGKILL)
            kills += 1
        child.communicate()
        counts.append(len(records_of(tmp_path)))
    assert kills >= 3
    assert counts == sorted(counts)
    run(memory, tmp_path)
    assert known(tmp_path) == whole
    assert len(lines(tmp_path)) <= COUNT + kills


@pytest.mark.slow
def test_adapters_of_many_texts_at_once_are_those_of_one_at_a_time(tmp_path):
    pytest.importorskip("peft")
    from siftlm.controller import Controller

    memory = Memory.create(tmp_path / "memory")
    memory.add([f"The answer to question {number} is {number * number}, said the clerk." for number in range(30)])
    texts = [
        Text(f"t{n}", f"What is the answer to question {n}? The answer to it is {n * n}, said he.", "a")
        for n in (3, 8, 12, 25)
    ]
    controller = Controller("siftlm-tiny", engine="lora", rank=4, rate=1e-3)
    for folder, some in (("together", [texts]), ("alone", [[one] for one in texts])):
        for batch in some:
            evaluate(
                LocalModel(controller, memory, precision="float32"),
                batch,
                "base,nn,sift",
                into=tmp_path / folder,
                protocol=Protocol(n=4, at=(1, 2)),
                progress=False,
            )
    together, alone = known(tmp_path / "together"), known(tmp_path / "alone")
    assert len(together) == len(alone) == 12
    for one, other in zip(together, alone, strict=True):
        assert plain({**one, "curve": 0, "base": 0, "losses": 0}) == plain(
            {**other, "curve": 0, "base": 0, "losses": 0}
        )
        for (step, bits), (_, other_bits) in zip(one["curve"], other["curve"], strict=True):
            assert bits == pytest.approx(other_bits, rel=1e-5), step
        if one["method"] != "base":
            assert one["curve"][-1][1] < one["base"]


@pytest.mark.slow
def test_the_real_model_is_restored_between_texts_and_methods(tiny, tmp_path):
    memory = Memory.create(tmp_path / "memory")
    memory.add([f"The lamp of station {number} was lit at dusk; oil burned: {number} pints." for number in range(20)])
    texts = [
        Text(f"t{n}", f"The lamp of station {n} was lit late; oil burned: {n} pints, no more.", "a") for n in (3, 9)
    ]
    used = LocalModel(tiny, memory)
    one, other = tmp_path / "one", tmp_path / "other"
    evaluate(used, texts, "base,nn,context,sift", into=one, protocol=Protocol(n=3), progress=False)
    for method in ("sift", "base", "nn", "context"):
        evaluate(used, texts[::-1], method, into=other, protocol=Protocol(n=3), progress=False)
    assert known(one) == known(other)
    assert len({one["base"] for one in known(one)}) == len(texts)
    with pytest.raises(InvalidInput):
        evaluate(used, texts, "", into=one)
