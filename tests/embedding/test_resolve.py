"""From a name to an embedder, or to an error that helps."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from siftlm.embedding import HashingEmbedder, embedder
from siftlm.errors import Conflict, InvalidInput, MissingExtra, UnknownName


@pytest.mark.parametrize("name", ["hashng", "Hashing", "precomputd", "lexicl"])
def test_a_misspelled_name_is_not_looked_up(name):
    with pytest.raises(UnknownName, match=r"did you mean '(hashing|lexical|precomputed)'"):
        embedder(name)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("roberta-large", "encoder"),
        ("intfloat/e5-small", "encoder"),
        ("states:gpt2", "states"),
        ("sentence-transformers/all-MiniLM-L6-v2", "sentences"),
        ("sentences:BAAI/bge-small-en", "sentences"),
        ("encoder:sentence-transformers/all-MiniLM-L6-v2", "encoder"),
    ],
)
def test_names_of_the_hub_are_not_loaded_yet(name, kind):
    made = embedder(name)
    assert made.kind == kind
    assert made.name == name
    assert made.settings == {}


@pytest.mark.parametrize(
    "name", ["./nowhere", "/nowhere/at/all", "~/nowhere", "states:./nowhere", "a/b/c", "lexical:nowhere"]
)
def test_a_folder_that_is_not_there(name):
    with pytest.raises(InvalidInput, match="is not a folder"):
        embedder(name)


@pytest.mark.parametrize("kind", ["lexical", "states", "gradients", "sentences", "encoder"])
def test_a_kind_without_a_model_says_what_is_missing(kind):
    for name in (kind, f"{kind}:") if kind != "lexical" else ("lexical:",):
        with pytest.raises(InvalidInput, match=f"embedder '{name}' needs the folder.* of a model: {kind}:MODEL"):
            embedder(name)


@pytest.mark.parametrize("name", ["foo", "states:foo", "all-MiniLM-L6-v2", "bertha", ""])
def test_a_name_without_an_owner_that_the_hub_cannot_have(monkeypatch, tmp_path, name):
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    with pytest.raises(UnknownName, match=r"unknown embedder .* hashing, less:<model>, lexical, .* siftlm-tiny"):
        embedder(name)
    if name:  # a hub of one's own may have any name
        monkeypatch.setenv("HF_ENDPOINT", "https://hub.example")
        assert embedder(name).name == name


def test_a_cached_name_without_an_owner_is_known(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    (tmp_path / "hub" / "models--foo").mkdir(parents=True)
    assert embedder("foo").name == "foo"


def test_a_folder_without_a_model(tmp_path):
    with pytest.raises(InvalidInput, match=r"holds no model: it has neither a config\.json"):
        embedder(tmp_path)


def test_a_relative_folder_is_remembered_in_full(tmp_path, monkeypatch):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    assert embedder("model").name == str(tmp_path / "model")
    assert embedder("states:model").name == f"states:{tmp_path / 'model'}"


def test_an_unknown_setting():
    with pytest.raises(UnknownName, match="unknown setting of the embedder 'hashing' 'widht'; did you mean 'width'"):
        embedder("hashing", widht=3)
    with pytest.raises(UnknownName, match="layer"):
        embedder("roberta-large", layer=3)


def test_an_unknown_precision():
    with pytest.raises(InvalidInput, match=r"precision must be .* not 'bf16'"):
        embedder("roberta-large", precision="bf16")


def test_settings_belong_to_a_name():
    with pytest.raises(Conflict, match="width"):
        embedder(HashingEmbedder(), width=3)


@pytest.mark.parametrize("thing", [None, 3, object(), HashingEmbedder])
def test_what_is_no_embedder(thing):
    with pytest.raises(InvalidInput, match="is no embedder: it has no"):
        embedder(thing)


def test_an_own_embedder_is_welcome():
    class Own:
        name, settings, fingerprint, width, max_tokens = "own", {}, "own:1", 2, None

        def embed(self, texts, *, as_query=False):
            return np.ones((len(texts), 2), np.float32)

        def tokens(self, texts):
            return [np.zeros((0, 2), np.int64) for _ in texts]

    own = Own()
    assert embedder(own) is own


# --- vectors that are given


def test_precomputed_embeds_nothing():
    given = embedder("precomputed", width=3, label="openai-3-small")
    assert given.embed([]).shape == (0, 3)
    with pytest.raises(InvalidInput, match="give a vector with every text"):
        given.embed(["text"])
    assert given.tokens(["two words"])[0].tolist() == [[0, 3], [4, 9]]


def test_precomputed_is_told_apart_by_width_and_label():
    prints = [
        embedder("precomputed", **settings).fingerprint
        for settings in ({"width": 3}, {"width": 4}, {"width": 3, "label": "other"})
    ]
    assert len(set(prints)) == 3
    again = embedder("precomputed", width=3)
    assert again.fingerprint == prints[0]
    assert embedder(again.name, **again.settings).fingerprint == prints[0]


def test_precomputed_needs_a_width():
    with pytest.raises(InvalidInput, match="'precomputed' needs width"):
        embedder("precomputed")


# --- libraries that are not there


@pytest.mark.parametrize(
    ("name", "absent", "command"),
    [
        ("roberta-large", "transformers", r"siftlm\[hf\]"),
        ("states:gpt2", "torch", r"siftlm\[hf\]"),
        ("sentence-transformers/x", "torch", r"siftlm\[embed\]"),
        ("sentence-transformers/x", "sentence_transformers", r"siftlm\[embed\]"),
    ],
)
def test_a_missing_library_names_its_extra(monkeypatch, name, absent, command):
    import importlib

    real = importlib.import_module

    def without(library, package=None):
        if library.split(".")[0] == absent:
            raise ModuleNotFoundError(f"No module named {library!r}", name=library)
        return real(library, package)

    monkeypatch.setattr(importlib, "import_module", without)
    pytest.importorskip("transformers") if absent == "sentence_transformers" else None
    with pytest.raises(MissingExtra, match=command):
        embedder(name).embed(["text"])


def test_the_room_needs_numpy_alone():
    script = (
        "import sys; from siftlm.embedding import embedder;"
        "embedder('hashing').embed(['text']); embedder('states:gpt2');"
        "sys.exit(len({'torch', 'transformers', 'sentence_transformers'} & set(sys.modules)))"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


@pytest.mark.slow
@pytest.mark.parametrize("absent", ["torch", "transformers"])
def test_a_room_without_a_library_still_embeds_and_says_what_to_install(absent):
    script = (
        f"import sys; sys.modules[{absent!r}] = None\n"
        "from siftlm.embedding import embedder\n"
        "from siftlm.errors import MissingExtra\n"
        "assert embedder('hashing').embed(['text']).any()\n"
        "for name in ('roberta-large', 'states:gpt2', 'gradients:gpt2'):\n"
        "    try: embedder(name).embed(['text'])\n"
        "    except MissingExtra as error: assert 'siftlm[hf]' in str(error), error\n"
        "    else: raise AssertionError(name)\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
