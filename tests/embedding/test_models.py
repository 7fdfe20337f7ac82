"""What the embedders with a model compute, and when two of them are the same."""

from __future__ import annotations

import shutil

import huggingface_hub
import numpy as np
import pytest

from siftlm.embedding import embedder
from siftlm.errors import InvalidInput, UnknownName

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from embedding import tiny  # noqa: E402

pytestmark = pytest.mark.slow

TEXT = "Rain fell on the harbour"


def states_of(folder, layer: int = -1):
    """(t, d) from the libraries by hand."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModel.from_pretrained(folder).eval()
    with torch.no_grad():
        out = model(**tokenizer(TEXT, return_tensors="pt"), output_hidden_states=True)
    return out.hidden_states[layer][0].numpy()


@pytest.mark.parametrize("kind", ["bert", "roberta"])
def test_an_encoder_is_the_mean_of_its_states(models, kind):
    expected = states_of(models(kind)).mean(axis=0)
    np.testing.assert_allclose(embedder(models(kind)).embed([TEXT])[0], expected, atol=1e-5)


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
@pytest.mark.parametrize("layer", [-1, 0, 1])
def test_later_states_weigh_more(models, kind, layer):
    states = states_of(models(kind), layer)
    weights = np.arange(1, len(states) + 1)
    expected = (weights[:, None] * states).sum(axis=0) / weights.sum()
    found = embedder(f"states:{models(kind)}", layer=layer)
    np.testing.assert_allclose(found.embed([TEXT])[0], expected, atol=1e-5)


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
@pytest.mark.parametrize(
    ("pooling", "expected"),
    [
        ("weighted", lambda states: np.arange(1, len(states) + 1) @ states / np.arange(1, len(states) + 1).sum()),
        ("mean", lambda states: states.mean(axis=0)),
        ("last", lambda states: states[-1]),
    ],
)
def test_states_are_pooled_as_named(models, kind, pooling, expected):
    found = embedder(f"states:{models(kind)}", pooling=pooling)
    others = ["rain", "a much longer text, which pads the batch for those that are shorter", ""]
    np.testing.assert_allclose(found.embed([TEXT, *others])[0], expected(states_of(models(kind))), atol=1e-5)


def test_a_pooling_is_part_of_the_fingerprint(models):
    name = f"states:{models('gpt2')}"
    prints = [embedder(name, pooling=pooling).fingerprint for pooling in ("weighted", "mean", "last")]
    assert len(set(prints)) == 3
    assert embedder(name).fingerprint == prints[0]
    with pytest.raises(UnknownName, match=r"unknown pooling 'median'.*last, mean, weighted"):
        embedder(name, pooling="median")


def test_a_layer_is_part_of_the_fingerprint(models):
    name = f"states:{models('gpt2')}"
    prints = [embedder(name, layer=layer).fingerprint for layer in (-1, 0, 1)]
    assert len(set(prints)) == 3
    assert embedder(name, layer=tiny.DEPTH).fingerprint == prints[0]
    with pytest.raises(InvalidInput, match=r"layer=3 .* has the layers 0 to 2"):
        embedder(name, layer=3).embed([TEXT])


@pytest.mark.slow
def test_sentences_are_what_their_library_computes(models):
    library = pytest.importorskip("sentence_transformers")
    from siftlm.embedding.loading import load_quietly

    theirs = load_quietly("tiny", lambda: library.SentenceTransformer(str(models("sentences")), device="cpu"))
    texts = [TEXT, "a", "", "the dog " * 50]
    ours = embedder(models("sentences"))
    np.testing.assert_allclose(ours.embed(texts), theirs.encode(texts, show_progress_bar=False), atol=1e-5)
    assert ours.fingerprint.startswith("sentences:")


@pytest.mark.slow
def test_sentences_bring_their_own_prompts(tmp_path):
    pytest.importorskip("sentence_transformers")
    folder = tiny.sentences(tmp_path / "prompted", prompts={"query": "query: ", "passage": "passage: "})
    plain = embedder(folder, query_prefix="", passage_prefix="")
    own = embedder(folder)
    np.testing.assert_allclose(own.embed([TEXT], as_query=True), plain.embed([f"query: {TEXT}"]), atol=1e-5)
    np.testing.assert_allclose(own.embed([TEXT]), plain.embed([f"passage: {TEXT}"]), atol=1e-5)
    assert own.fingerprint != plain.fingerprint
    assert own.fingerprint == embedder(folder, query_prefix="query: ", passage_prefix="passage: ").fingerprint


# --- fingerprints


@pytest.mark.parametrize("kind", ["bert", "gpt2", pytest.param("sentences", marks=pytest.mark.slow)])
def test_another_folder_is_the_same_and_other_weights_are_another(models, tmp_path, kind):
    prefix = "states:" if kind == "gpt2" else ""
    first = embedder(f"{prefix}{models(kind)}")
    shutil.copytree(models(kind), tmp_path / "moved")
    assert embedder(f"{prefix}{tmp_path / 'moved'}").fingerprint == first.fingerprint
    # the same folder, now with other weights
    shutil.rmtree(tmp_path / "moved")
    getattr(tiny, kind)(tmp_path / "moved", seed=1)
    assert embedder(f"{prefix}{tmp_path / 'moved'}").fingerprint != first.fingerprint


def test_another_tokenizer_is_another_embedder(models, tmp_path):
    shutil.copytree(models("bert"), tmp_path / "cased")
    file = tmp_path / "cased" / "tokenizer.json"
    text = file.read_text()
    assert '"lowercase": true' in text
    file.write_text(text.replace('"lowercase": true', '"lowercase": false'))
    assert embedder(tmp_path / "cased").fingerprint != embedder(models("bert")).fingerprint


def test_how_weights_are_stored_or_read_does_not_matter(models, tmp_path):
    shutil.copytree(models("bert"), tmp_path / "half")
    model = transformers.AutoModel.from_pretrained(tmp_path / "half").bfloat16()
    tiny.save(model, tmp_path / "half")
    prints = {embedder(tmp_path / "half", precision=one).fingerprint for one in (None, "float32", "bfloat16")}
    assert len(prints) == 1


def test_a_model_saved_with_a_head_is_the_same_without_it(models, tmp_path):
    shutil.copytree(models("bert"), tmp_path / "headed")
    with torch.random.fork_rng(devices=[]):
        masked = transformers.BertForMaskedLM(transformers.BertConfig.from_pretrained(models("bert")))
    masked.bert.load_state_dict(transformers.AutoModel.from_pretrained(models("bert")).state_dict(), strict=False)
    tiny.save(masked, tmp_path / "headed")
    headed, bare = embedder(tmp_path / "headed"), embedder(models("bert"))
    assert headed.fingerprint == bare.fingerprint
    np.testing.assert_allclose(headed.embed([TEXT]), bare.embed([TEXT]), atol=1e-6)


def test_kinds_are_never_the_same(models):
    folder = models("bert")
    assert embedder(f"states:{folder}").fingerprint != embedder(f"encoder:{folder}").fingerprint


# --- silence, and failures


@pytest.mark.parametrize("kind", ["bert", "gpt2", pytest.param("sentences", marks=pytest.mark.slow)])
def test_loading_says_nothing_and_leaves_the_libraries_talkative(models, kind, capfd):
    talk = transformers.utils.logging
    talk.enable_progress_bar()
    before = talk.get_verbosity()
    embedder(f"states:{models(kind)}" if kind == "gpt2" else models(kind)).embed(["text"] * 3)
    assert capfd.readouterr() == ("", "")
    assert talk.get_verbosity() == before
    assert talk.is_progress_bar_enabled()


def test_nothing_is_loaded_before_it_is_needed(models):
    before = embedder(models("bert"))
    assert before.settings == {}
    assert before._network is None
    assert before.width == tiny.WIDTH
    assert before._network is not None


@pytest.mark.parametrize("file", ["model.safetensors", "tokenizer.json", "config.json"])
def test_a_damaged_file_is_an_error_of_ours(models, tmp_path, file):
    shutil.copytree(models("bert"), tmp_path / "damaged")
    content = (tmp_path / "damaged" / file).read_bytes()
    (tmp_path / "damaged" / file).write_bytes(content[: len(content) // 2])
    with pytest.raises(InvalidInput, match=r"cannot load the embedder '.*damaged'"):
        embedder(tmp_path / "damaged").embed([TEXT])


def test_weights_that_lack_a_tensor(models, tmp_path):
    from safetensors.torch import load_file, save_file

    shutil.copytree(models("bert"), tmp_path / "partial")
    file = tmp_path / "partial" / "model.safetensors"
    weights = load_file(file)
    weights.pop("encoder.layer.1.output.dense.weight")
    save_file(weights, file, metadata={"format": "pt"})
    with pytest.raises(InvalidInput, match=r"lack 1 of the model's tensors, such as encoder\.layer\.1"):
        embedder(tmp_path / "partial").width  # noqa: B018


def test_a_hub_name_without_a_hub(monkeypatch):
    def offline(*_, **__):
        raise OSError("We couldn't connect to the hub.\nand more lines")

    monkeypatch.setattr(huggingface_hub, "model_info", offline)
    # Which would try again and again.
    monkeypatch.setattr(transformers.AutoTokenizer, "from_pretrained", None)
    absent = embedder("nobody/no-such-model")
    with pytest.raises(
        InvalidInput,
        match="cannot load the embedder 'nobody/no-such-model': We couldn't connect to the hub\\. No folder",
    ) as told:
        absent.embed(["text"])
    assert "use 'hashing'" in str(told.value)
    assert "\n" not in str(told.value)
