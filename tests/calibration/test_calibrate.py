"""`siftlm.calibrate`, in worlds where it is known what is best."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace

import pytest

import siftlm
from calibration.worlds import TOPICS, Reader, copies_world, document, needles_world, plain
from siftlm.errors import Conflict, InvalidInput, UnknownName
from siftlm.memory import Memory

SMALL = {"minutes": None, "n": 8, "noises": (0.1, 10.0), "kernels": ("linear",), "ks": (50,), "progress": False}
TEXTS = [document(topic) for topic in range(TOPICS)]


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    """Nearest neighbours repeat each other and tell nothing."""
    folder = tmp_path_factory.mktemp("template") / "memory"
    copies_world(folder).close()
    return folder


@pytest.fixture
def memory(template, tmp_path):
    """A copy, to be written into."""
    shutil.copytree(template, tmp_path / "memory")
    with Memory.open(tmp_path / "memory") as made:
        yield made


def test_variety_is_chosen_where_neighbours_repeat_each_other(memory):
    found = siftlm.calibrate(Reader(), memory, texts=TEXTS, **SMALL)
    assert (found.settings["method"], found.settings["noise"], found.settings["n"]) == ("sift", 0.1, 8)
    against = found.evidence["against"]["nearest neighbour"]
    assert against["percent"] == pytest.approx(100)
    assert against["interval"][1] < -10
    assert found.percent == pytest.approx(100 + against["mean"], abs=0.01)
    assert "the same as" not in str(found)


@pytest.mark.slow
def test_nearest_neighbour_is_chosen_where_variety_does_harm(tmp_path):
    with needles_world(tmp_path / "m") as memory:
        found = siftlm.calibrate(Reader(), memory, texts=TEXTS, **{**SMALL, "noises": (1e-3,)})
    sift = [row for row in found.tried if row["stage"] == "confirm" and row["method"] == "sift"]
    assert found.settings["method"] == "nearest"
    assert found.percent <= min(row["mean"] for row in sift)
    assert found.percent < max(row["mean"] for row in sift) - 5
    assert set(found.settings) <= {"method", "rate", "n", "adaptive", "decide"}
    assert "no SIFT setting was better than nearest neighbour" in str(found)


@pytest.mark.slow
@pytest.mark.parametrize("best", [3e-4, 3e-3])
def test_the_rate_is_found(memory, best):
    found = siftlm.calibrate(Reader(best), memory, texts=TEXTS, **{**SMALL, "noises": (0.1,)})
    # Where nearest neighbour learns nothing, all rates of the first stage are equal: the finer one must find it.
    assert found.settings["rate"] == 3e-4 if best == 3e-4 else found.settings["rate"] > 3e-4


@pytest.mark.slow
def test_no_more_steps_than_do_good(memory):
    reader = Reader()
    plain_likelihood = reader.likelihood

    def likelihood(text, *, after=""):
        known = plain_likelihood(text, after=after)
        return replace(known, nats=known.nats * 1.5) if len(reader._read) > 5 else known

    reader.likelihood = likelihood
    # So little noise that the first picks are not one text again and again: five of them tell something.
    found = siftlm.calibrate(reader, memory, texts=TEXTS, **{**SMALL, "noises": (1e-3,)})
    assert found.settings["n"] == 5


@pytest.mark.slow
def test_where_learning_harms_the_base_model_answers(tmp_path):
    with copies_world(tmp_path / "m", copy="poison", telling="poison") as memory:
        found = siftlm.calibrate(Reader(), memory, texts=TEXTS, **SMALL)
        assert (found.settings["decide"], found.settings["n"]) == (1.0, 1)
        assert "did not help" in str(found)
        model = siftlm.LocalModel(Reader(), memory)
        score = model.score(TEXTS[0])
    assert score.trace.ended == "declined"
    assert score.tuned == score.base


@pytest.mark.slow
def test_a_local_model_uses_what_was_found_and_a_call_may_say_otherwise(memory):
    found = siftlm.calibrate(Reader(), memory, texts=TEXTS, **{**SMALL, "kernels": ("power:2",), "noises": (0.01,)})
    assert found.settings["kernel"] == "power:2"
    model = siftlm.LocalModel(Reader(), memory)
    learned = model.select(TEXTS[0])
    assert (learned.selection.noise, len(learned)) == (0.01, 8)
    expected = memory.search(TEXTS[0], 8, noise=0.01, k=50, kernel=siftlm.kernels.power(2))
    assert [hit.row for hit in learned] == [hit.row for hit in expected]
    assert model.select(TEXTS[0], n=3, noise=2.0, kernel="linear").selection.noise == 2.0
    assert siftlm.LocalModel(Reader(name="another"), memory).select(TEXTS[0]).selection.noise == 1.0


@pytest.mark.slow
def test_a_score_is_what_the_calibration_measured(memory):
    found = siftlm.calibrate(Reader(), memory, texts=TEXTS, **SMALL)
    confirmed = TEXTS[len(TEXTS) // 2 :]
    model = siftlm.LocalModel(Reader(), memory)
    mean = sum(model.score(text).percent for text in confirmed) / len(confirmed)
    assert found.percent == pytest.approx(mean, abs=0.001)


@pytest.mark.slow
def test_texts_are_drawn_from_the_memory_and_never_learned_from(tmp_path):
    with copies_world(tmp_path / "m") as memory:
        # Each text is there, and once more with another ending.
        memory.add([*TEXTS, *(f"{text} and more" for text in TEXTS)])
        found = siftlm.calibrate(Reader(), memory, count=30, **SMALL)
        runs = [json.loads(line) for line in (memory.path / "calibration.jsonl").read_text().splitlines()]
        runs = [line["run"] for line in runs if "run" in line]
        held = siftlm.calibration.trials.draw_held_out(memory, 30, 0, "split")
        for run in runs:
            text = held[run["text"]]
            assert not set(run["rows"]) & set(text.exclude)
            for learned in memory.texts(sorted(set(run["rows"]))):
                assert text.text not in learned
                assert learned not in text.text
    assert found.evidence["texts"]["drawn"] == len(held)
    assert len({one.document for one in held}) == len(held)


@pytest.mark.slow
def test_the_memory_is_whole_afterwards_and_keeps_it_through_a_compaction(memory):
    before = [hit.row for hit in memory.search(TEXTS[0])]
    memory.note_calibration("old", {"settings": {"n": 3}})
    found = siftlm.calibrate(Reader(), memory, texts=TEXTS, **SMALL)
    assert memory.verify().ok
    assert [hit.row for hit in memory.search(TEXTS[0])] == before
    memory.compact()
    with Memory.open(memory.path) as again:
        assert set(again.manifest.calibration) == {"old", "reader"}
        assert again.manifest.calibration["reader"] == json.loads(json.dumps(found.record()))
        assert again.verify().ok
    assert (memory.path / "manifest.json").stat().st_size < 100_000


@pytest.mark.slow
def test_nothing_is_noted_where_nobody_wants_it(memory, tmp_path):
    found = siftlm.calibrate(Reader(), memory, texts=TEXTS, note=False, log=tmp_path / "elsewhere", **SMALL)
    assert not found.noted
    assert not memory.manifest.calibration
    assert not (memory.path / "calibration.jsonl").exists()
    assert json.loads(json.dumps(found.to_dict()))["settings"] == dict(found.settings)


@pytest.mark.slow
def test_a_budget_is_kept_to(memory):
    reader = Reader()
    reader.seconds = 0.002
    found = siftlm.calibrate(reader, memory, texts=TEXTS, **{**SMALL, "minutes": 0.01})
    assert found.evidence["seconds"] < 1.5  # 0.6 were asked for; four texts are confirmed in any case
    assert found.evidence["texts"]["confirmed_on"] >= 4


@pytest.mark.slow
def test_given_values_are_what_is_tried(memory):
    found = siftlm.calibrate(Reader(), memory, texts=TEXTS, rates=(1e-3, 2e-3), **{**SMALL, "noises": (0.1, 1.0, 10.0)})
    early = [row for row in found.tried if row["stage"] in ("rates", "selection")]
    assert {row["rate"] for row in early if row["stage"] == "rates"} == {1e-3, 2e-3}
    assert {row.get("noise") for row in early} == {None, 0.1, 1.0, 10.0}
    assert {row.get("kernel") for row in early} == {None, "linear"}


@pytest.mark.slow
def test_the_same_question_has_the_same_answer(memory, tmp_path):
    first = siftlm.calibrate(Reader(), memory, texts=TEXTS, note=False, log=tmp_path / "a", **SMALL)
    second = siftlm.calibrate(Reader(), memory, texts=TEXTS, note=False, log=tmp_path / "b", **SMALL)
    assert plain(first) == plain(second)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"texts": TEXTS[:3]}, "at least 4 texts, got 3"),
        ({"texts": "one text"}, "got one str"),
        ({"texts": [*TEXTS, " "]}, "text 8 is empty"),
        ({"texts": [*TEXTS, "word"]}, "'word' has no two words to split"),
        ({"count": 3}, "count must be a whole number ≥ 4, got 3"),
        ({"minutes": 0}, "minutes must be a number > 0"),
        ({"n": 0}, "n must be a whole number ≥ 1, got 0"),
        ({"seed": -1}, "seed must be a whole number ≥ 0, got -1"),
        ({"rates": ()}, "rates must be a list of at least one value"),
        ({"noises": (0,)}, "each of noises must be a number > 0, got 0"),
        ({"kernels": "linear"}, "kernels must be a list of at least one value, got 'linear'"),
        ({"kernels": ["power:x"]}, "kernel 'power:x' needs a number"),
        ({"ks": (0,)}, "each of ks must be a whole number ≥ 1"),
        ({"mode": "half"}, "unknown mode 'half'"),
    ],
)
def test_bad_input_is_named_and_nothing_is_written(memory, given, said):
    with pytest.raises(InvalidInput, match=re.escape(said)):
        siftlm.calibrate(Reader(), memory, **{**SMALL, "texts": TEXTS, **given})
    assert not (memory.path / "calibration.jsonl").exists()
    assert not memory.manifest.calibration


def test_a_memory_that_is_too_small_says_so(tmp_path):
    with Memory.create(tmp_path / "m") as memory:
        with pytest.raises(InvalidInput, match=r"only 0 documents .* pass representative prompts with texts"):
            siftlm.calibrate(Reader(), memory, **SMALL)
        memory.add(["short", "also short", *TEXTS[:3]])
        with pytest.raises(InvalidInput, match="only 3 documents of 100 characters or more"):
            siftlm.calibrate(Reader(), memory, **SMALL)


def test_a_controller_that_learns_in_another_order_is_refused(memory):
    reader = Reader()
    reader.settings = siftlm.controller.Tuning(order="reversed")
    with pytest.raises(Conflict, match="order='reversed'; leave order at 'picked'"):
        siftlm.calibrate(reader, memory, texts=TEXTS, **SMALL)


def test_a_kernel_by_a_wrong_name_is_refused_by_a_local_model(memory):
    with pytest.raises(UnknownName, match="unknown kernel 'powr:4'; did you mean 'power:P'"):
        siftlm.LocalModel(Reader(), memory, kernel="powr:4")


def test_what_is_no_json_is_not_noted(memory):
    with pytest.raises(InvalidInput, match="cannot be written down as JSON"):
        memory.note_calibration("m", {"settings": {"rate": float("nan")}})
    with pytest.raises(InvalidInput, match="cannot be written down as JSON"):
        memory.note_calibration("m", {"settings": object()})
    assert not memory.manifest.calibration
