"""What cannot work is refused when it is opened, with the model's name and what to do."""

from __future__ import annotations

import copy
import json
import math
from types import SimpleNamespace

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytest.importorskip("peft")

import siftlm  # noqa: E402
from controller import tiny  # noqa: E402
from siftlm.controller import Controller  # noqa: E402
from siftlm.controller.loading import refuse_non_causal  # noqa: E402
from siftlm.errors import InvalidInput  # noqa: E402
from siftlm.results import Score  # noqa: E402
from siftlm.types import Likelihood, Trace  # noqa: E402

ENCODER = {
    "vocab_size": tiny.VOCABULARY,
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "max_position_embeddings": 64,
}


@pytest.fixture
def folder(tmp_path):
    """A whole model, to be spoiled."""
    path = tmp_path / "model"
    tiny.model("llama").save_pretrained(path)
    tiny.tokenizer().save_pretrained(path)
    return path


def bert(kind="BertLMHeadModel", **changes):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return getattr(transformers, kind)(transformers.BertConfig(**{**ENCODER, **changes})).eval()


def refused(match, model, tokenizer=None, **settings):
    with pytest.raises(InvalidInput, match=match) as caught:
        Controller(model, tokenizer, **settings)
    return str(caught.value)


# --- files


def test_a_whole_folder_is_opened(folder):
    assert Controller(folder).likelihood("rain").nats > 0


@pytest.mark.parametrize("spoil", ["cut", "garbage", "empty"])
def test_damaged_weights_are_named(folder, spoil):
    weights = folder / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes({"cut": whole[: len(whole) // 2], "garbage": b"\xff" * 2000, "empty": b""}[spoil])
    said = refused("damaged or not whole", folder)
    assert str(folder) in said
    assert "copy or download the folder again" in said


def test_a_folder_without_a_head_is_not_given_a_random_one(folder):
    refused("hold no lm_head.weight", _headless(folder))


def _headless(folder):
    model = tiny.model("llama", tie_word_embeddings=False)
    model.model.save_pretrained(folder)
    return folder


def test_a_folder_without_a_tokenizer(tmp_path):
    tiny.model("gpt2").save_pretrained(tmp_path)
    assert "tokenizer.json" in refused("cannot spell a plain text", tmp_path)


def test_an_encoder_in_a_folder(tmp_path):
    bert("BertModel").save_pretrained(tmp_path)
    tiny.tokenizer().save_pretrained(tmp_path)
    assert str(tmp_path) in refused("depends on later ones", tmp_path)


# --- tokenizers


def test_a_tokenizer_with_more_tokens_than_the_model():
    said = refused("up to number 259", tiny.model("gpt2", vocab_size=100), tiny.tokenizer())
    assert "the model knows 100" in said


def test_tokens_that_were_added_count():
    tokenizer = copy.deepcopy(tiny.tokenizer())
    tokenizer.add_tokens(["rain"])
    said = refused(f"number {tiny.VOCABULARY}", tiny.model("gpt2"), tokenizer)
    assert "'rain'" in said
    assert f"resize_token_embeddings({tiny.VOCABULARY + 1})" in said
    assert Controller(tiny.model("gpt2", vocab_size=tiny.VOCABULARY + 1), tokenizer).likelihood("rain").tokens == 1


def test_a_special_token_that_only_images_need_may_have_no_row():
    tokenizer = copy.deepcopy(tiny.tokenizer())
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"]})
    own = Controller(tiny.model("gpt2"), tokenizer)
    assert own.likelihood("rain").tokens == 4
    text, said = "rain <image>", "spells the special token '<image>', number"
    for use in (
        own.likelihood,
        lambda text: own.generate(text, max_new_tokens=2),
        lambda text: own.generate("rain", texts=[text], max_new_tokens=2),
    ):
        with pytest.raises(InvalidInput, match=said):
            use(text)
    with own.tuning() as tuner, pytest.raises(InvalidInput, match=said):
        tuner.learn([text])
    assert own.likelihood("rain").tokens == 4


def test_the_token_that_begins_a_text_needs_a_row():
    tokenizer = copy.deepcopy(tiny.tokenizer())
    tokenizer.add_special_tokens({"bos_token": "<begin>"})
    refused("'<begin>'", tiny.model("gpt2"), tokenizer)


def test_a_tokenizer_that_knows_no_letter():
    from tokenizers import Tokenizer, models

    words = Tokenizer(models.WordLevel({"<unk>": 0}, unk_token="<unk>"))
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>")
    refused("cannot spell a plain text", tiny.model("gpt2"), tokenizer)
    refused("must be one of transformers, got str", tiny.model("gpt2"), "gpt2")


# --- models


@pytest.mark.parametrize("kind", ["BertForMaskedLM", "BertLMHeadModel"])
@pytest.mark.parametrize("training", [False, True])
def test_a_model_that_looks_ahead(kind, training):
    refused("depends on later ones", bert(kind).train(training), tiny.tokenizer())


def test_a_bert_that_reads_from_left_to_right():
    assert Controller(bert(is_decoder=True), tiny.tokenizer()).likelihood("rain").tokens == 4


def test_a_model_without_a_head():
    refused("GPT2Model has no head", tiny.model("gpt2").transformer, tiny.tokenizer())
    refused("BertModel has no head", bert("BertModel"), tiny.tokenizer())
    refused("Linear is no causal language model", torch.nn.Linear(2, 2), tiny.tokenizer())
    refused("int is no causal language model", 3, tiny.tokenizer())


class Own(torch.nn.Module):
    """The smallest model of one's own: what comes next depends on the token alone, or on the mean of all."""

    def __init__(self, ahead=False, width=3):
        super().__init__()
        self.config = SimpleNamespace()
        self.table = torch.nn.Embedding(tiny.VOCABULARY, 4)
        self.head = torch.nn.Linear(4, tiny.VOCABULARY)
        self.ahead, self.width = ahead, width

    def get_output_embeddings(self):
        return self.head

    def get_input_embeddings(self):
        return self.table

    def forward(self, input_ids, use_cache=False):
        seen = self.table(input_ids)
        logits = self.head(seen + seen.mean(dim=1, keepdim=True) if self.ahead else seen)
        return SimpleNamespace(logits=logits if self.width == 3 else logits[:, 0])


def test_a_model_of_ones_own():
    assert Controller(Own(), tiny.tokenizer()).likelihood("rain").tokens == 4
    refused("Own is no causal language model", Own(ahead=True), tiny.tokenizer())
    refused("gives logits of the shape", Own(width=2), tiny.tokenizer())
    own = Own()
    own.forward = lambda ids: None
    refused("cannot be called as model", own, tiny.tokenizer())


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(tiny.ARCHITECTURES))
def test_no_causal_model_is_refused_and_none_is_changed(name, untouched):
    model = tiny.model(name).train()
    check = untouched(model)
    for dtype in (torch.float32, torch.bfloat16):
        refuse_non_causal(name, tiny.model(name).to(dtype), tiny.tokenizer(), tiny.CONTEXT)
    refuse_non_causal(name, model, tiny.tokenizer(), tiny.CONTEXT)
    check()


# --- devices


@pytest.mark.parametrize(
    ("device", "said"),
    [
        ("foo", "unknown to torch"),
        (3.5, "unknown to torch"),
        ("meta", "holds no numbers"),
        ("cuda:999", "device='cuda:999'"),
    ],
)
def test_a_device_that_is_not_there(device, said):
    refused(said, tiny.model("gpt2"), tiny.tokenizer(), device=device)
    refused(said, "siftlm-tiny", device=device)


def test_cuda_that_is_not_there(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    refused("no CUDA device here; say cpu", tiny.model("gpt2"), tiny.tokenizer(), device="cuda")


# --- scores


@pytest.fixture
def local(tmp_path):
    memory = siftlm.Memory.build(["rain fell on the harbour", "ships wait for the tide"], tmp_path / "memory")

    def opened(kind):
        return siftlm.LocalModel(Controller(tiny.model("llama"), tiny.tokenizer(kind), engine="lora"), memory, n=1)

    return opened


def test_one_token_that_nothing_stands_before_cannot_be_scored(local):
    model = local("bare")
    with pytest.raises(InvalidInput, match="nothing of the text can be scored"):
        model.score("a", mode="transductive")
    with pytest.raises(InvalidInput, match="nothing of text 'a' can be scored"):
        model.score_many(["a"], mode="transductive")
    assert model.score(("r", "a")).likelihood.tokens == 1
    assert local("plain").score("a", mode="transductive").likelihood.tokens == 1


@pytest.mark.slow
@pytest.mark.parametrize("at", [3, "12", None])
def test_at_is_a_list(local, at):
    with pytest.raises(InvalidInput, match="at must be a list of numbers of steps"):
        local("plain").score("rain fell", at=at)
    with pytest.raises(InvalidInput, match="at must be a list of numbers of steps"):
        local("plain").score_many(["rain fell"], at=at)


def test_a_score_that_is_no_number_is_strict_json(local):
    found = local("plain").memory.search("rain", 1)
    none = Likelihood(0.0, 0, 0)
    score = Score(math.nan, math.nan, "split", none, none, found, Trace((), "nothing", 0), ((0, math.nan),))
    record = json.loads(json.dumps(score.to_dict(), allow_nan=False))
    assert (record["base"], record["tuned"], record["curve"]) == (None, None, [[0, None]])
    assert math.isnan(score.percent)
    certain = Score(0.0, 0.0, "split", none, none, found, Trace((), "nothing", 0))
    assert math.isnan(certain.percent)
    assert "nan %" in str(certain)
