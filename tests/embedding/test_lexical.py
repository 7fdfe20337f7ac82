"""TF-IDF and its SVD, fitted to a corpus."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

pytest.importorskip("scipy")

from siftlm.embedding import embedder
from siftlm.embedding.lexical import DIRECTIONS_FILE, SETTINGS_FILE, WEIGHTS_FILE, fit
from siftlm.errors import Damaged, InvalidInput
from siftlm.memory import Memory

TOPICS = {
    "sea": ["harbour", "tide", "ship", "sailor", "anchor", "wave", "storm", "mast", "keel"],
    "kitchen": ["onion", "butter", "oven", "flour", "knife", "simmer", "pepper", "salt", "pan"],
    "music": ["violin", "chord", "tempo", "melody", "choir", "rhythm", "string", "bow", "note"],
}


def texts(count=60, seed=0):
    """The words of one topic each, between words that all have."""
    generator = np.random.default_rng(seed)
    names = list(TOPICS)
    return [
        " ".join(generator.choice([*TOPICS[names[at % 3]], "the", "and", "of"], size=14).tolist())
        for at in range(count)
    ]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    where = tmp_path_factory.mktemp("lexical") / "fitted"
    fit(texts(), where, width=3, progress=False)
    return where


def test_texts_of_one_topic_are_close_even_without_a_word_in_common(folder):
    made = embedder(f"lexical:{folder}")
    sea, also_sea, kitchen = made.embed(["harbour tide ship", "sailor anchor wave", "onion butter oven"])
    assert sea @ also_sea > 0.9
    assert abs(sea @ kitchen) < 0.5


def test_a_batch_is_its_texts_one_by_one_bit_for_bit(folder):
    made = embedder(f"lexical:{folder}")
    some = [*texts(150, seed=1), "", "  ", "!!! ???", "unheard-of", "the"]
    together = made.embed(some)
    assert all((made.embed([text])[0] == together[at]).all() for at, text in enumerate(some))
    assert together.dtype == np.float32


def test_only_space_has_no_direction(folder):
    found = embedder(f"lexical:{folder}").embed(["", " \n", "!!!", "never seen before", "harbour"])
    lengths = np.linalg.norm(found, axis=1)
    assert lengths[:2].tolist() == [0, 0]
    assert lengths[2:] == pytest.approx(np.ones(3), abs=1e-6)


def test_against_a_plain_loop(folder):
    weights, directions = np.load(folder / WEIGHTS_FILE), np.load(folder / DIRECTIONS_FILE).astype(np.float64)
    from siftlm.embedding.hashing import word_hash

    text = "Harbour, harbour and the ship"
    values = {}
    for word in ("harbour", "and", "the", "ship"):
        place = word_hash(word) % len(weights)
        values[place] = (1 + np.log(text.lower().count(word))) * weights[place]
    length = np.sqrt(sum(value**2 for value in values.values()))
    expected = sum(value / length * directions[place] for place, value in values.items())
    expected /= np.linalg.norm(expected)
    np.testing.assert_allclose(embedder(f"lexical:{folder}").embed([text])[0], expected, atol=1e-6)


@pytest.mark.slow
def test_a_fit_can_be_repeated_and_another_corpus_makes_another(folder, tmp_path):
    again = fit(texts(), tmp_path / "again", width=3, progress=False)
    other = fit(texts(seed=5), tmp_path / "other", width=3, progress=False)
    first = embedder(f"lexical:{folder}")
    assert again.fingerprint == first.fingerprint != other.fingerprint


def test_a_memory_keeps_it_and_finds_by_it(folder, tmp_path):
    with Memory.build(texts(30), tmp_path / "memory", embedder=f"lexical:{folder}", progress=False) as made:
        assert made.embedder.width == 3
    with Memory.open(tmp_path / "memory") as memory:
        found = memory.search("anchor and keel", 5, method="nearest")
        assert all(set(hit.text.split()) & set(TOPICS["sea"]) for hit in found)


def test_by_name_it_is_fitted_later(tmp_path):
    unfitted = embedder("lexical", width=3)
    assert (unfitted.width, unfitted.settings, embedder("lexical").settings) == (3, {"width": 3}, {})
    assert unfitted.embed([]).shape == (0, 3)
    with pytest.raises(InvalidInput, match="has to be fitted to texts first"):
        unfitted.embed(["text"])
    with pytest.raises(InvalidInput, match="width must be a whole number"):
        embedder("lexical", width=0)
    made, known = unfitted.fit(texts()), fit(texts(), tmp_path / "known", width=3, progress=False)
    assert (made.name, made.settings, made.width) == ("lexical", {"width": 3}, 3)
    assert made.fingerprint == known.fingerprint != unfitted.fingerprint
    assert (made.embed(texts(9)) == known.embed(texts(9))).all()


def test_without_a_width_there_are_as_many_directions_as_the_texts_have():
    # 27 words of topics and 3 that are everywhere, which weigh little but not nothing.
    assert embedder("lexical").fit(texts(200)).width == 30
    assert embedder("lexical").fit(texts(40)).width == 19
    assert embedder("lexical").fit(texts(29)).width == 8
    with pytest.raises(InvalidInput, match=r"needs 29 different texts or more to be fitted to, got 28\. .* 'hashing'"):
        embedder("lexical").fit(texts(28))


@pytest.mark.parametrize("nothing", ["!!! ???", "equal words", "only{}"])
def test_texts_without_a_word_that_tells_them_apart(nothing):
    for made in (embedder("lexical"), embedder("lexical", width=5)):
        with pytest.raises(InvalidInput, match="100 texts give the embedder 'lexical' 0 directions: too few words"):
            made.fit([nothing.format(at) for at in range(100)])


def test_what_is_wrong_is_said(folder, tmp_path):
    with pytest.raises(InvalidInput, match="3 texts are too few to find width=3"):
        fit(texts(3), tmp_path / "few", width=3, progress=False)
    with pytest.raises(InvalidInput, match="width must be a whole number"):
        fit(texts(), tmp_path / "w", width=0, progress=False)
    with pytest.raises(InvalidInput, match="is not a folder"):
        embedder(f"lexical:{tmp_path / 'nowhere'}")
    broken = tmp_path / "broken"
    shutil.copytree(folder, broken)
    (broken / WEIGHTS_FILE).unlink()
    with pytest.raises(InvalidInput, match=r"holds no lexical embedder: .*weights.npy is missing"):
        embedder(f"lexical:{broken}")
    (broken / WEIGHTS_FILE).write_bytes(b"none")
    with pytest.raises(Damaged, match="cannot be read"):
        embedder(f"lexical:{broken}")
    shutil.copy(folder / WEIGHTS_FILE, broken / WEIGHTS_FILE)
    (broken / SETTINGS_FILE).write_text(json.dumps({"version": 1, "width": 7, "digest": "x"}))
    with pytest.raises(Damaged, match="fit it again"):
        embedder(str(broken))
