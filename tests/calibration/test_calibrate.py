"""`siftlm.calibrate`, in worlds where it is known what is best."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace

import pytest

import siftlm
from calibration.worlds import TOPICS, Reader, copies_world, document, needles_world, plain
from siftlm.calibration.evidence import GUARD_CAUTION
from siftlm.calibration.held_out import draw_from_memory
from siftlm.errors import Conflict, InvalidInput, UnknownName
from siftlm.evaluation import Protocol, records_of
from siftlm.memory import Memory

# A world in which SIFT with little noise finds what tells.
SIFT = "sift+noise=0.1+k=50"
SMALL = {"minutes": None, "n": 8, "methods": (SIFT, "nearest"), "progress": False}
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


@pytest.mark.slow
def test_what_is_better_replaces_the_first_method(memory):
    found = siftlm.calibrate(Reader(), memory, texts=TEXTS, **{**SMALL, "methods": ("nearest", SIFT)})
    assert {name: found.settings[name] for name in ("method", "noise", "k")} == {
        "method": "sift",
        "noise": 0.1,
        "k": 50,
    }
    [first, other] = found.races[-1]["tried"]
    assert (first["won"], other["won"]) == (False, True)
    assert first["mean"] == pytest.approx(100)
    assert other["difference"]["interval"][1] < -10
    assert other["probability"] == pytest.approx(2**-TOPICS, abs=1e-5)
    assert found.percent <= other["mean"] / (1 - 0.05)  # fewer steps with nearly all of the gain
    assert f"{SIFT}+rate=0.0003 is better than nearest+rate=0.0003" in str(found)
    assert "tuning helps" in str(found)


@pytest.mark.slow
def test_the_first_method_stays_where_the_others_are_no_better(memory):
    found = siftlm.calibrate(
        Reader(), memory, texts=TEXTS, **{**SMALL, "methods": (SIFT, "nearest", "sift+noise=0.11+k=50")}
    )
    assert found.settings["noise"] == 0.1
    nearest = found.races[-1]["tried"][1]
    assert nearest["dropped"]
    assert nearest["texts"] == 4  # which was enough


@pytest.mark.slow
def test_what_selects_the_same_as_a_known_result_is_not_tuned(memory):
    reader = Reader()
    # The nearest are measured in the race of rates already, and at this likeness auto is the nearest.
    methods = ("nearest", "auto+likeness=1")
    found = siftlm.calibrate(reader, memory, texts=TEXTS, **{**SMALL, "methods": methods, "rates": [3e-4]})
    [first, other] = found.races[-1]["tried"]
    assert [other[name] for name in ("texts", "mean", "steps")] == [first[name] for name in ("texts", "mean", "steps")]
    records = records_of(memory.path / "calibration")
    selections = {(one["text"], *one["rows"], "use" in one.get("extra", {})) for one in records}
    assert reader.tunings == len(selections) == 2 * TOPICS  # those with the guard are others


@pytest.mark.slow
def test_nearest_neighbour_is_kept_where_variety_does_harm(tmp_path):
    with needles_world(tmp_path / "m") as memory:
        found = siftlm.calibrate(Reader(), memory, texts=TEXTS, **{**SMALL, "methods": ("nearest", "sift+noise=0.001")})
    assert found.settings["method"] == "nearest"
    assert found.races[-1]["tried"][1]["difference"]["mean"] > 5
    assert set(found.settings) == {"method", "rate", "n", "guard"}


@pytest.mark.slow
@pytest.mark.parametrize("best", [3e-4, 3e-3, 3e-2])
def test_the_rate_is_found(memory, best):
    found = siftlm.calibrate(Reader(best), memory, texts=TEXTS, **SMALL)
    usual = Reader().tuning_settings().rate
    tried = [row["setting"].partition("+rate=")[2] for one in found.races[:-1] for row in one["tried"]]
    nearest = min(tried, key=lambda rate: max(float(rate) / best, best / float(rate)))
    assert found.settings["rate"] == float(nearest)
    assert (found.settings["rate"] == pytest.approx(usual, rel=0.05)) == (best == 3e-4)


@pytest.mark.slow
def test_no_more_steps_than_do_good(memory):
    reader = Reader()
    plain_likelihood = reader.likelihood

    def likelihood(text, *, after="", texts=()):
        known = plain_likelihood(text, after=after, texts=texts)
        return replace(known, nats=known.nats * 1.5) if len(reader._read) > 5 else known

    reader.likelihood = likelihood
    # So little noise that the first picks are not one text again and again: five of them tell something.
    found = siftlm.calibrate(reader, memory, texts=TEXTS, **{**SMALL, "methods": ("sift+noise=0.001",)})
    assert found.settings["n"] == 5


@pytest.mark.slow
def test_where_learning_harms_the_base_model_answers(tmp_path):
    with copies_world(tmp_path / "m", copy="poison", telling="poison") as memory:
        found = siftlm.calibrate(Reader(), memory, texts=TEXTS, **SMALL)
        assert (found.settings["decide"], found.settings["n"]) == (1.0, 1)
        assert found.evidence["chosen"]["tuning"] == "harms"
        assert "did not help" in str(found)
        score = siftlm.LocalModel(Reader(), memory).score(TEXTS[0])
    assert score.trace.ended == "declined"
    assert score.tuned == score.base


@pytest.mark.slow
def test_a_local_model_uses_what_was_found_and_a_call_may_say_otherwise(memory):
    method = "sift+noise=0.01+kernel=power:2+k=50"
    found = siftlm.calibrate(Reader(), memory, texts=TEXTS, **{**SMALL, "methods": (method,)})
    assert found.evidence["chosen"]["texts"] == TOPICS
    assert found.settings["kernel"] == "power:2"
    model = siftlm.LocalModel(Reader(), memory)
    learned = model.select(TEXTS[0])
    assert (learned.selection.noise, len(learned)) == (0.01, found.settings["n"])
    expected = memory.search(TEXTS[0], len(learned), noise=0.01, k=50, kernel=siftlm.kernels.power(2))
    assert [hit.row for hit in learned] == [hit.row for hit in expected]
    assert model.select(TEXTS[0], n=3, noise=2.0, kernel="linear").selection.noise == 2.0
    assert siftlm.LocalModel(Reader(name="another"), memory).select(TEXTS[0]).selection.noise == 1.0


@pytest.mark.slow
def test_a_score_is_what_the_calibration_measured(memory):
    found = siftlm.calibrate(Reader(), memory, texts=TEXTS, **SMALL)
    model = siftlm.LocalModel(Reader(), memory)
    mean = sum(model.score(text).percent for text in TEXTS) / len(TEXTS)
    assert found.percent == pytest.approx(mean, abs=0.001)


@pytest.mark.slow
def test_texts_are_drawn_from_the_memory_and_never_learned_from(tmp_path):
    with copies_world(tmp_path / "m") as memory:
        # Each text is there, and once more with another ending.
        memory.add([*TEXTS, *(f"{text} and more" for text in TEXTS)])
        found = siftlm.calibrate(Reader(), memory, count=30, **SMALL)
        held = {one.id: one for one in draw_from_memory(memory, 30, 0, Protocol("split", n=8))}
        records = records_of(memory.path / "calibration")
        assert {record["text"] for record in records} <= set(held)
        for record in records:
            text = held[record["text"]]
            assert not set(record["rows"]) & set(text.exclude)
            for learned in memory.texts(sorted(set(record["rows"]))):
                assert text.text not in learned
                assert learned not in text.text
    assert found.evidence["texts"]["drawn"] == len(held)
    assert len({one.exclude for one in held.values()}) == len(held)


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
def test_a_memory_that_has_grown_much_is_told_to_be_calibrated_again(memory, caplog):
    siftlm.calibrate(Reader(), memory, texts=TEXTS, **SMALL)
    siftlm.LocalModel(Reader(), memory)
    assert not caplog.records
    memory.add([f"another text about {number} things" for number in range(2 * len(memory))])
    model = siftlm.LocalModel(Reader(), memory)
    assert re.search(r"calibrated with 112 passages, and it has 336 now: siftlm calibrate MEMORY", caplog.text)
    assert model.settings()["noise"] == 0.1  # but they count


@pytest.mark.slow
def test_nothing_is_noted_where_nobody_wants_it(memory, tmp_path):
    found = siftlm.calibrate(Reader(), memory, texts=TEXTS, note=False, out=tmp_path / "elsewhere", **SMALL)
    assert not found.noted
    assert not memory.manifest.calibration
    assert not (memory.path / "calibration").exists()
    assert json.loads(json.dumps(found.to_dict()))["settings"] == dict(found.settings)


@pytest.mark.slow
def test_a_budget_is_kept_to(memory):
    reader = Reader()
    reader.seconds = 0.005
    found = siftlm.calibrate(reader, memory, texts=TEXTS, **{**SMALL, "minutes": 0.001})
    # Four texts are measured in any case: three rates and nearest neighbour.
    assert found.evidence["chosen"]["texts"] == 4
    assert sum(len(one["tried"]) for one in found.races) == 3 + 2


@pytest.mark.slow
def test_what_held_out_passages_say_is_compared_with_what_came_of_it(memory):
    found = siftlm.calibrate(Reader(), memory, texts=TEXTS, **SMALL)
    guard = found.evidence["guard"]
    intercept, slope = found.settings["guard"]
    assert guard["texts"] == TOPICS
    assert guard["gained"] == pytest.approx(100 - found.races[-1]["tried"][0]["mean"], abs=0.01)
    # The line goes nearly through the means, less the caution.
    assert intercept + slope * guard["expected"] == pytest.approx(guard["gained"] - GUARD_CAUTION, abs=3)
    assert f"held-out passages let expect a gain of {guard['expected']:.1f} %" in str(found)
    model = siftlm.LocalModel(Reader(), memory)
    estimate = model.score(TEXTS[0], use="auto").trace.choice.estimates["weights"]
    raw = siftlm.LocalModel(Reader(), memory, guard=(0.0, 1.0)).score(TEXTS[0], use="auto").trace.choice
    assert 100 - estimate == pytest.approx(intercept + slope * (100 - raw.estimates["weights"]))


@pytest.mark.slow
def test_given_rates_are_what_is_tried(memory):
    found = siftlm.calibrate(Reader(3e-2), memory, texts=TEXTS, rates=(1e-3, 2e-3), **SMALL)
    [rates, methods] = found.races
    assert [row["setting"] for row in rates["tried"]] == [f"{SIFT}+rate=0.001", f"{SIFT}+rate=0.002"]
    assert [row["setting"] for row in methods["tried"]] == [f"{SIFT}+rate=0.002", "nearest+rate=0.002"]


@pytest.mark.slow
def test_the_same_question_has_the_same_answer(memory, tmp_path):
    first = siftlm.calibrate(Reader(), memory, texts=TEXTS, note=False, out=tmp_path / "a", **SMALL)
    second = siftlm.calibrate(Reader(), memory, texts=TEXTS, note=False, out=tmp_path / "b", **SMALL)
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
        ({"rates": (0.0,)}, "each of rates must be a number > 0"),
        ({"methods": "nearest"}, "methods must be a list of at least one value, got 'nearest'"),
        ({"methods": ["nearst"]}, "unknown method 'nearst'; did you mean 'nearest'?"),
        ({"methods": ["context"]}, "context: calibration compares methods of selection"),
        ({"methods": ["sift+rate=0.1"]}, "all methods race at the same rate; give it in rates"),
        ({"methods": ["sift+kernel=power:x"]}, "kernel 'power:x' needs a number"),
        ({"mode": "half"}, "unknown mode 'half'"),
    ],
)
def test_bad_input_is_named_and_nothing_is_written(memory, given, said):
    with pytest.raises(InvalidInput, match=re.escape(said)):
        siftlm.calibrate(Reader(), memory, **{**SMALL, "texts": TEXTS, **given})
    assert not (memory.path / "calibration" / "records.jsonl").exists()
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
