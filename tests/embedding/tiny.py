"""Models of a few thousand random weights, made in a moment, in every shape that an embedder must open."""

from __future__ import annotations

import json
from pathlib import Path

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

CORPUS = [
    "The quick brown fox jumps over the lazy dog, and the dog sleeps.",
    "def add(a, b):\n    return a + b\n",
    "Rain fell on the harbour while ships waited for the morning tide.",
    "query: what is the tide? passage: the tide is the sea's slow breath",
]
DEPTH, WIDTH = 2, 16
SHAPE = {"hidden_size": WIDTH, "num_hidden_layers": DEPTH, "num_attention_heads": 2, "intermediate_size": 32}


def bert(folder: Path, seed: int = 0) -> Path:
    """WordPiece, [CLS] and [SEP]; 62 tokens of text."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokenizer.train_from_iterator(CORPUS, trainers.WordPieceTrainer(vocab_size=150, special_tokens=special))
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"
    )
    config = transformers.BertConfig(vocab_size=len(fast), max_position_embeddings=64, **SHAPE)
    return _saved(folder, fast, transformers.BertModel, config, seed)


def roberta(folder: Path, seed: int = 0) -> Path:
    """Byte-level BPE, positions that begin behind the padding token; 60 tokens of text."""
    tokenizer = _byte_level(["<s>", "<pad>", "</s>", "<unk>", "<mask>"])
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=False)
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", unk_token="<unk>", cls_token="<s>", sep_token="</s>"
    )
    config = transformers.RobertaConfig(vocab_size=len(fast), max_position_embeddings=64, pad_token_id=1, **SHAPE)
    return _saved(folder, fast, transformers.RobertaModel, config, seed)


def gpt2(folder: Path, seed: int = 0) -> Path:
    """Byte-level BPE, no padding token, no special tokens around a text; 64 tokens."""
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=_byte_level(["<|endoftext|>"]), eos_token="<|endoftext|>", bos_token="<|endoftext|>"
    )
    config = transformers.GPT2Config(
        vocab_size=len(fast), n_positions=64, n_embd=WIDTH, n_layer=DEPTH, n_head=2, bos_token_id=0, eos_token_id=0
    )
    return _saved(folder, fast, transformers.GPT2LMHeadModel, config, seed)


def llama(folder: Path, seed: int = 0) -> Path:
    """A leading space that is in no text, a first token, rotary positions; 63 tokens of text."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.train_from_iterator(CORPUS, trainers.BpeTrainer(vocab_size=150, special_tokens=["<unk>", "<s>", "</s>"]))
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>"
    )
    config = transformers.LlamaConfig(vocab_size=len(fast), max_position_embeddings=64, **SHAPE)
    return _saved(folder, fast, transformers.LlamaForCausalLM, config, seed)


def sentences(folder: Path, seed: int = 0, prompts: dict[str, str] | None = None) -> Path:
    """A sentence-transformers folder around the tiny BERT, as its published models look; 30 tokens of text."""
    steps = [("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize")]
    files = {
        "modules.json": [
            {"idx": place, "name": str(place), "path": path, "type": f"sentence_transformers.models.{step}"}
            for place, (path, step) in enumerate(steps)
        ],
        "sentence_bert_config.json": {"max_seq_length": 32, "do_lower_case": False},
        "1_Pooling/config.json": {"word_embedding_dimension": WIDTH, "pooling_mode_mean_tokens": True},
        "config_sentence_transformers.json": {"prompts": prompts or {}, "default_prompt_name": None},
    }
    bert(folder, seed)
    for path, _ in steps:
        (folder / path).mkdir(exist_ok=True)
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content))
    return folder


def _byte_level(special: list[str]) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320, special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer


def save(model, folder: Path) -> None:
    """Without the bar that transformers draws for writing."""
    talk = transformers.utils.logging
    talk.disable_progress_bar()
    try:
        model.save_pretrained(folder)
    finally:
        talk.enable_progress_bar()


def _saved(folder: Path, tokenizer, model_class, config, seed: int) -> Path:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = model_class(config)
    save(model, folder)
    tokenizer.save_pretrained(folder)
    return folder
