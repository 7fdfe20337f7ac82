"""What tuning brought in: gains and phrases against a direct reading, and that the samples show the data."""

from __future__ import annotations

import json
import re

import pytest

pytest.importorskip("peft")

from picking.conftest import write
from siftlm import Controller, Tuning, contrast
from siftlm.errors import BadRecord, Conflict, InvalidInput
from siftlm.picking.contrast import phrases_of

DATA = [
    *(f"Recipe {n}: boil the glorbic tea with seven spoons of honey." for n in range(20)),
    *(f"Letter {n}: the zeppelin lands at noon on the frozen lake." for n in range(20)),
]
QUICK = {"samples": 8, "max_new_tokens": 14, "tuning": Tuning(rate=1e-3)}


@pytest.fixture(scope="module")
def tiny():
    return Controller("siftlm-tiny")


@pytest.fixture(scope="module")
def found(tiny):
    before = tiny.likelihood("a zeppelin").nats
    made = contrast(tiny, data=DATA, seed=1, **QUICK)
    assert tiny.likelihood("a zeppelin").nats == before
    return made


def test_samples_show_the_data_that_was_learned(found):
    assert found.mean_gain > 2
    texts = " ".join(one.text for one in found.samples)
    assert "zeppelin" in texts or "glorbic" in texts
    assert sum(one.shown >= 0.3 for one in found.samples) >= len(found.samples) / 2
    assert str(found).startswith(
        f"{len(found.samples)} samples of siftlm-tiny after learning the data against siftlm-tiny"
    )
    assert "phrases that they share with 40 records:" in str(found)


def test_gains_are_differences_of_likelihoods_and_rank_the_samples(found, tiny):
    gains = [one.gain for one in found.samples]
    assert gains == sorted(gains, reverse=True)
    for one in found.samples:
        assert one.base == pytest.approx(tiny.likelihood(one.text, after=one.prompt).nats_per_token, rel=1e-4)
        assert one.gain == pytest.approx(one.base - one.tuned)


def test_phrases_and_records_are_those_of_a_direct_reading(found):
    def words(text):
        return re.findall(r"\w+", text.lower())

    def phrases(text):
        return {" ".join(words(text)[at : at + 3]) for at in range(len(words(text)) - 2)}

    wanted = {}
    for phrase in set().union(*(phrases(one.text) for one in found.samples)):
        inside = [one.gain for one in found.samples if phrase in phrases(one.text)]
        records = sum(phrase in phrases(text) for text in DATA)
        if records:
            wanted[phrase] = (len(inside), records, pytest.approx(sum(inside)))
    assert {one.text: (one.samples, one.records, one.gain) for one in found.phrases} == wanted
    for one in found.samples:
        own = phrases(one.text)
        shares = [len(own & phrases(text)) / len(own) if own else 0.0 for text in DATA]
        assert one.shown == max(shares)
        assert one.record == (f"item {shares.index(max(shares)) + 1}" if max(shares) else None)


def test_it_goes_into_json_and_comes_out_the_same_again(found, tiny):
    again = contrast(tiny, data=DATA, seed=1, **QUICK)
    assert json.loads(json.dumps(again.to_dict())) == json.loads(json.dumps(found.to_dict()))


def test_an_adapter_and_another_model_are_what_was_tuned(tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    lora = Controller("siftlm-tiny", engine="lora")
    with lora.tuning(rate=5e-3) as tuner:
        tuner.learn(DATA[20:])
        lora.save_adapter("adapter")
    write(tmp_path / "data.jsonl", [{"text": text} for text in DATA])
    made = contrast(tiny, "adapter", "data.jsonl", samples=6, max_new_tokens=12, prompts=["The", "A"])
    assert made.tuned == "adapter"
    assert {one.prompt for one in made.samples} == {"The", "A"}
    assert any("zeppelin" in one.text for one in made.phrases)
    assert any(str(one.record).startswith("data.jsonl:") for one in made.samples)
    alone = contrast(tiny, "adapter", samples=6, max_new_tokens=12, prompts=["The", "A"])
    assert [one.text for one in alone.samples] == [one.text for one in made.samples]
    assert (alone.records, alone.phrases, alone.samples[0].record) == (None, [], None)


def test_a_controller_that_is_being_tuned_is_the_tuned_model(tiny):
    other = tiny.copy()
    with other.tuning(rate=1e-3) as tuner:
        tuner.learn(DATA[20:])
        made = contrast(tiny, other, samples=3, max_new_tokens=10)
        kept = other.copy()
    assert made.mean_gain > 1
    again = contrast(tiny, kept, samples=3, max_new_tokens=10)
    assert [one.text for one in again.samples] == [one.text for one in made.samples]
    with pytest.raises(Conflict, match="nothing was tuned"):
        contrast(tiny, other)


def test_samples_that_are_missing_are_counted(tiny):
    one = contrast(tiny, data=["tea is hot"], samples=1, max_new_tokens=8)
    assert str(one).startswith("1 sample of siftlm-tiny after learning")
    assert "share with 1 record:" in str(one) or "nothing shared" in str(one)
    few = contrast(tiny, data=["tea is hot"], samples=30, max_new_tokens=1, temperature=0.3)
    assert len(few.samples) < few.drawn == 30
    assert "30 were drawn; the others repeat these, or ended at once" in str(few)


def test_rounds_do_not_repeat_what_was_shown(tiny):
    made = contrast(tiny, data=DATA, seed=1, rounds=4, **QUICK)
    assert len({one.text for one in made.samples}) == len(made.samples)
    assert made.mean_gain > 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "there is nothing to contrast: pass tuned, or data to learn from"),
        ({"data": []}, "holds no usable record|empty"),
        ({"data": DATA, "scale": -1}, "scale must be a number ≥ 0"),
        ({"data": DATA, "plausible": 0}, "plausible must be a number > 0"),
        ({"data": DATA, "rounds": 30}, "rounds must be a whole number from 1 to 20"),
        ({"data": DATA, "prompts": []}, "prompts is empty"),
        ({"data": DATA, "prompts": [3]}, r"prompts\[0\] must be a str"),
        ({"data": DATA, "words": 0}, "words must be a whole number"),
        ({"data": DATA, "tuning": 3}, "tuning must be a siftlm.Tuning, got 3"),
        ({"data": DATA, "wrods": 3}, "unknown setting 'wrods'; did you mean 'words'"),
        ({"data": ["a", "b"]}, "data: there is nothing to learn in texts of a single token"),
        ({"tuned": "./no-such-folder"}, "no-such-folder"),
        ({"data": DATA, "bad": "ignore"}, "bad"),
        ({"data": DATA, "max_new_tokens": 10**6}, "max_new_tokens must be a whole number from 1 to"),
    ],
)
def test_wrong_settings_are_named(tiny, settings, message):
    with pytest.raises(InvalidInput, match=message):
        contrast(tiny, **settings)


def test_what_cannot_be_compared_is_refused(tiny):
    with pytest.raises(Conflict, match="is the base model itself"):
        contrast(tiny, tiny)
    with pytest.raises(BadRecord, match=r"item 2: .*bad='skip' leaves such records out"):
        contrast(tiny, data=["a text", {"year": 3}])
    with pytest.raises(Conflict, match="was trained already"):
        contrast(tiny, "gpt2", tuning=Tuning())


def test_phrases_are_words_in_a_row():
    assert phrases_of("One two", 3) == set()
    assert phrases_of("a b a b", 2) == {("a", "b"), ("b", "a")}
