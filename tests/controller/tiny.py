"""Causal language models of a few thousand random weights, one of every architecture, and their tokenizers."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

VOCABULARY = 260
END = "<|end|>"
CONTEXT = 64
SHAPE = {
    "vocab_size": VOCABULARY,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": CONTEXT,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "pad_token_id": 0,
}
GROUPED = {**SHAPE, "num_key_value_heads": 1}
HEADS = {**GROUPED, "head_dim": 8}
GEMMA = {**HEADS, "query_pre_attn_scalar": 8, "tie_word_embeddings": True}

# name -> (prefix of the classes in transformers, settings)
ARCHITECTURES: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt2": (
        "GPT2",
        {
            "vocab_size": VOCABULARY,
            "n_positions": CONTEXT,
            "n_embd": 16,
            "n_layer": 2,
            "n_head": 2,
            "bos_token_id": 0,
            "eos_token_id": 0,
            "resid_pdrop": 0.1,
            "embd_pdrop": 0.1,
            "attn_pdrop": 0.1,
        },
    ),
    "gpt_neox": ("GPTNeoX", {**SHAPE, "attention_dropout": 0.1, "hidden_dropout": 0.1}),
    "llama": ("Llama", {**GROUPED, "tie_word_embeddings": True, "attention_dropout": 0.1}),
    "qwen2": (
        "Qwen2",
        {
            **GROUPED,
            "use_sliding_window": True,
            "sliding_window": 8,
            "max_window_layers": 1,
            "tie_word_embeddings": True,
        },
    ),
    "qwen3": ("Qwen3", HEADS),
    "phi": ("Phi", {**SHAPE, "resid_pdrop": 0.1, "embd_pdrop": 0.1, "partial_rotary_factor": 0.5}),
    "phi3": ("Phi3", {**GROUPED, "sliding_window": 8, "resid_pdrop": 0.1, "embd_pdrop": 0.1}),
    "gemma": ("Gemma", {**HEADS, "tie_word_embeddings": True}),
    "gemma2": ("Gemma2", {**GEMMA, "sliding_window": 8}),
    "mistral": ("Mistral", {**HEADS, "sliding_window": 8}),
    "opt": (
        "OPT",
        {
            "vocab_size": VOCABULARY,
            "hidden_size": 16,
            "ffn_dim": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "max_position_embeddings": CONTEXT,
            "word_embed_proj_dim": 16,
            "bos_token_id": 0,
            "eos_token_id": 0,
            "pad_token_id": 1,
            "dropout": 0.1,
            "attention_dropout": 0.1,
        },
    ),
}


def model(name: str, *, seed: int = 0, **changes: Any) -> Any:
    """A fresh random model, the same for the same seed."""
    prefix, settings = ARCHITECTURES[name]
    config = getattr(transformers, f"{prefix}Config")(**{**settings, **changes})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        kind = "GPT2LMHeadModel" if name == "gpt2" else f"{prefix}ForCausalLM"
        made = getattr(transformers, kind)(config).eval()
        with torch.no_grad():
            for p in made.parameters():  # further from uniform than a fresh model is, so that differences show
                if p.dim() > 1:
                    p.mul_(4)
    return made


@lru_cache
def tokenizer(kind: str = "plain") -> Any:
    """One token per byte.

    ``plain``: <|end|> begins and ends a text and the tokenizer adds nothing, as in GPT-2; ``begins``: it puts <s>
    before every text, as in Llama; ``bare``: no special tokens at all.
    """
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    special = [] if kind == "bare" else [END, "<s>", "<pad>", "<unk>"]
    bytewise = Tokenizer(models.BPE({token: place for place, token in enumerate([*special, *letters])}, merges=[]))
    bytewise.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    bytewise.decoder = decoders.ByteLevel()
    if kind == "bare":
        return transformers.PreTrainedTokenizerFast(tokenizer_object=bytewise)
    bytewise.add_special_tokens(special)
    if kind == "begins":
        bytewise.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
        return transformers.PreTrainedTokenizerFast(tokenizer_object=bytewise, bos_token="<s>", eos_token=END)
    return transformers.PreTrainedTokenizerFast(tokenizer_object=bytewise, bos_token=END, eos_token=END)
