"""Opening a causal language model and its tokenizer, and refusing what is none."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import huggingface_hub
import torch
import transformers

from siftlm.controller.tokens import start_token, text_token_ids
from siftlm.errors import InvalidInput, setting
from siftlm.extras import TINY_MODEL, bundled_model, load
from siftlm.validation import whole_number

# Letters, digits and scripts of many kinds: who can spell none of them can spell no text.
SPELLING_PROBE = "a b A C 0 1 . я 中"
CAUSALITY_PROBE_TOKENS = 12
# How far rounding may move the logits before the last token, as a share of how far its own move. Causal models were
# at 0 exactly, masked ones with random weights at 0.0007 to 0.002 in float32, and trained ones are far above.
CAUSALITY_TOLERANCES = {"torch.float32": 1e-4, "torch.float64": 1e-4}
HALF_CAUSALITY_TOLERANCE = 0.02
HEAD_ADVICE = "load it with transformers.AutoModelForCausalLM"


def refuse_headless(name: str, model: Any) -> None:
    """It must give logits of the next token."""
    kind = type(model).__name__
    if not hasattr(model, "get_output_embeddings") or not hasattr(model, "config"):
        raise InvalidInput(f"{name!r}: {kind} is no causal language model of transformers; {HEAD_ADVICE}")
    if getattr(model.config, "is_encoder_decoder", False):
        raise InvalidInput(
            f"{name!r}: {kind} is an encoder with a decoder, and no causal language model: take one that continues "
            "its own input, such as gpt2"
        )
    if "ForMaskedLM" in kind:
        raise _non_causal_error(name, kind)
    try:
        head = model.get_output_embeddings()
    except (NotImplementedError, AttributeError):
        head = None
    if getattr(head, "weight", None) is None:
        raise InvalidInput(f"{name!r}: {kind} has no head that predicts tokens (no output embeddings); {HEAD_ADVICE}")


def refuse_new_head(name: str, model: Any, missing: set[str]) -> None:
    """A head that the files lack has just been drawn at random."""
    head = model.get_output_embeddings().weight
    new = sorted(key for key, p in model.named_parameters(remove_duplicate=False) if p is head and key in missing)
    if new:
        raise InvalidInput(
            f"{name!r}: its weights hold no {new[0]}, the head that predicts tokens; take the files of a whole causal "
            f"language model, as {type(model).__name__}.save_pretrained writes them"
        )


def refuse_tokenizer(name: str, model: Any, tokenizer: Any) -> None:
    """It must spell texts, with tokens that the model knows."""
    if not callable(tokenizer) or not hasattr(tokenizer, "bos_token_id"):
        raise InvalidInput(
            f"{name!r}: the {setting('tokenizer')} must be one of transformers, got {type(tokenizer).__name__}; "
            "transformers.AutoTokenizer.from_pretrained opens it"
        )
    if not set(text_token_ids(tokenizer, SPELLING_PROBE)) - {getattr(tokenizer, "unk_token_id", None)}:
        raise InvalidInput(
            f"{name!r}: its tokenizer of {len(tokenizer):,} tokens cannot spell a plain text; are the tokenizer's "
            "files (tokenizer.json or vocab.json) in the folder? Copy those of the model, or hand the tokenizer over"
        )
    rows = _embedding_rows(model)
    vocabulary = tokenizer.get_vocab()
    if rows is None or max(vocabulary.values()) < rows:
        return
    token, largest = max(vocabulary.items(), key=lambda item: item[1])
    # Some published models have no row for a special token that no plain text contains, such as that of an image.
    added = getattr(tokenizer, "added_tokens_decoder", {})
    special = {number for number, one in added.items() if getattr(one, "special", False)} - {start_token(tokenizer)}
    if any(number >= rows and number not in special for number in vocabulary.values()):
        raise InvalidInput(
            f"{name!r}: its tokenizer makes tokens up to number {largest:,} ({token!r}), and the model knows "
            f"{rows:,}, the last of them number {rows - 1:,}: take the tokenizer that the model was trained with, or "
            f"call model.resize_token_embeddings({largest + 1}) and train the new rows"
        )


def refuse_non_causal(name: str, model: Any, tokenizer: Any, context: int) -> None:
    """The prediction of a token must not depend on later ones, or a text would be predicted from itself."""
    ids = text_token_ids(tokenizer, SPELLING_PROBE)[: min(CAUSALITY_PROBE_TOKENS, context)]
    others = [token for token in text_token_ids(tokenizer, SPELLING_PROBE) if token != ids[-1]]
    if len(ids) < 2 or not others:
        return
    # In one batch, so that both are computed in the same way.
    pair = torch.tensor([ids, [*ids[:-1], others[0]]], device=next(model.parameters()).device)
    kind = type(model).__name__
    modes = [(module, module.training) for module in model.modules() if module.training]
    model.eval()
    try:
        with torch.no_grad():
            logits = model(input_ids=pair, use_cache=False).logits
    except (TypeError, AttributeError, ValueError, IndexError) as error:
        raise InvalidInput(
            f"{name!r}: {kind} cannot be called as model(input_ids=…, use_cache=False).logits, as causal language "
            f"models can: {type(error).__name__}: {error!s:.200}"
        ) from error
    finally:
        for module, training in modes:
            module.training = training
    if logits.dim() != 3 or logits.shape[:2] != pair.shape:
        raise InvalidInput(
            f"{name!r}: {kind} gives logits of the shape {tuple(logits.shape)} for {len(pair)} texts of {len(ids)} "
            "tokens; a causal language model gives (texts, tokens, vocabulary)"
        )
    moved = (logits[0].float() - logits[1].float()).abs().amax(dim=1)
    allowed = CAUSALITY_TOLERANCES.get(str(next(model.parameters()).dtype), HALF_CAUSALITY_TOLERANCE)
    if moved[:-1].max() > allowed * moved[-1]:
        raise _non_causal_error(name, kind)


def _non_causal_error(name: str, kind: str) -> InvalidInput:
    return InvalidInput(
        f"{name!r}: {kind} is no causal language model: what it says about a token depends on later ones, as in a "
        "masked language model. Take a model that reads from left to right, such as gpt2 (a BERT that was trained so "
        "needs is_decoder=True in its configuration)"
    )


def _embedding_rows(model: Any) -> int | None:
    """How many tokens have an embedding, where the model tells."""
    try:
        weight = getattr(model.get_input_embeddings(), "weight", None)
    except (NotImplementedError, AttributeError):
        return None
    # Weights that are spread over machines have no rows here.
    return int(weight.shape[0]) if weight is not None and weight.dim() == 2 and len(weight) else None


# Where a model's tokenizer and configuration give no limit at all.
DEFAULT_CONTEXT_TOKENS = 2048
# Tokenizers say "no limit" with a number like 1e30.
NO_CONTEXT_LIMIT = 10**9


@dataclass(frozen=True)
class LoadedModel:
    """A model that is ready to be used."""

    name: str
    model: Any
    tokenizer: Any
    context: int
    """The most tokens that the model reads at once."""


def open_model(
    model: Any,
    tokenizer: Any = None,
    *,
    device: str | None = None,
    dtype: str | None = None,
    context: int | None = None,
) -> LoadedModel:
    """A model by name or folder, or a transformers model with its tokenizer."""
    place = checked_device(device)
    if isinstance(model, (str, os.PathLike)):
        name = os.fspath(model)
        opened, tokenizer = _load_pretrained(name, tokenizer, dtype)
        opened = opened.to(place or ("cuda" if torch.cuda.is_available() else "cpu")).eval()
    else:
        opened, name = model, str(getattr(getattr(model, "config", None), "_name_or_path", "") or type(model).__name__)
        if tokenizer is None:
            raise InvalidInput("a model that is loaded already needs its tokenizer: Controller(model, tokenizer)")
        refuse_headless(name, opened)
        if place is not None:
            opened = opened.to(place)
    refuse_tokenizer(name, opened, tokenizer)
    reach = _context_tokens(opened, tokenizer, context)
    refuse_non_causal(name, opened, tokenizer, reach)
    return LoadedModel(name, opened, tokenizer, reach)


def checked_device(device: Any) -> Any:
    """The torch device of this name, if it is there; None stays None."""
    if device is None:
        return None
    try:
        place = torch.device(device)
    except (RuntimeError, TypeError, ValueError) as error:
        raise InvalidInput(f"{setting('device', device)} is unknown to torch; use cpu, cuda or cuda:1") from error
    if place.type == "meta":
        raise InvalidInput("device='meta' holds no numbers; say cpu, cuda or cuda:1")
    if place.type == "cuda":
        there = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if not 0 <= (place.index or 0) < there:  # a number that is far too large comes out negative
            has = f"the last one here is cuda:{there - 1}" if there else "torch finds no CUDA device here; say cpu"
            raise InvalidInput(f"{setting('device', str(device))}: {has}")
    else:
        try:
            torch.empty(0, device=place)
        except (RuntimeError, AssertionError, ImportError) as error:
            raise InvalidInput(
                f"{setting('device', str(device))} cannot be used: {_failure_reason(error)}; say cpu"
            ) from error
    return place


def _load_pretrained(name: str, tokenizer: Any, dtype: str | None) -> tuple[Any, Any]:
    source = os.fspath(bundled_model()) if name == TINY_MODEL else name
    weight_type = torch.float32 if dtype is None else getattr(torch, str(dtype), None)
    if not isinstance(weight_type, torch.dtype) or not weight_type.is_floating_point:
        raise InvalidInput(f"{setting('dtype')} must be float32, bfloat16 or float16, got {dtype!r}")
    source, place = _gguf_file(source)
    try:
        with _without_progress_bars():
            opened, info = transformers.AutoModelForCausalLM.from_pretrained(
                source, output_loading_info=True, **place, **{_dtype_argument(): weight_type}
            )
            if tokenizer is None:
                tokenizer = transformers.AutoTokenizer.from_pretrained(source, **place)
    # Missing files, no network, foreign formats, damaged weights: each library has its own errors, with no common root.
    except Exception as error:
        if isinstance(error, MemoryError) or "out of memory" in str(error) or "allocate memory" in str(error):
            raise
        raise InvalidInput(
            f"{name!r} is no causal language model that can be loaded: {_failure_reason(error)}. "
            f"{_loading_advice(source, error)}"
        ) from error
    refuse_headless(name, opened)
    refuse_new_head(name, opened, set(info["missing_keys"]))
    if place:  # the weights are plain numbers from here on, and can be tuned and saved
        opened.hf_quantizer = None
        if hasattr(opened.config, "quantization_config"):
            del opened.config.quantization_config
    return opened, tokenizer


def _gguf_file(source: str) -> tuple[str, dict[str, str]]:
    """The folder and transformers' argument for a GGUF file, or for a folder that holds one such file and no config.

    Its quantised weights are converted to floating point; what quantisation lost stays lost.
    """
    path = Path(source)
    if path.is_dir() and not (path / "config.json").exists():
        files = sorted(path.glob("*.gguf"))
        if len(files) > 1:
            raise InvalidInput(f"{source!r} holds {len(files)} GGUF files: give one of them, such as {str(files[0])!r}")
        path = files[0] if files else path
    if path.suffix != ".gguf":
        return source, {}
    if not path.is_file():
        raise InvalidInput(f"{source!r}: there is no such file")
    load("gguf", "gguf")
    return str(path.parent), {"gguf_file": path.name}


def _failure_reason(error: BaseException) -> str:
    message = str(error).strip()
    return message.splitlines()[0].rstrip(". ") if message else type(error).__name__


def _loading_advice(source: str, error: Exception) -> str:
    if os.path.isdir(source) and not isinstance(error, (OSError, ValueError, KeyError)):
        return (
            "A file in that folder is damaged or not whole: copy or download the folder again "
            "(model.safetensors holds the weights)"
        )
    return f"Give a folder, a name on the Hugging Face hub, or {TINY_MODEL!r}, which comes with siftlm"


@contextmanager
def _without_progress_bars() -> Iterator[None]:
    """Downloads keep theirs: those take long enough to be watched."""
    talk = transformers.utils.logging
    if not talk.is_progress_bar_enabled():
        yield
        return
    # It hides the bars of downloads, too, so those are brought back.
    bars = huggingface_hub.utils
    hidden = bars.are_progress_bars_disabled()
    talk.disable_progress_bar()
    if not hidden:
        bars.enable_progress_bars()
    try:
        yield
    finally:
        talk.enable_progress_bar()
        if hidden:
            bars.disable_progress_bars()


def _dtype_argument() -> str:
    """The argument was renamed in 4.56."""
    major, minor = (int(part) for part in transformers.__version__.split(".")[:2])
    return "dtype" if (major, minor) >= (4, 56) else "torch_dtype"


def _context_tokens(model: Any, tokenizer: Any, chosen: int | None) -> int:
    limits = [getattr(model.config, name, None) for name in ("max_position_embeddings", "n_positions", "seq_length")]
    limits.append(getattr(tokenizer, "model_max_length", None))
    known = [int(limit) for limit in limits if isinstance(limit, int) and 0 < limit < NO_CONTEXT_LIMIT]
    if chosen is not None:
        whole_number("context", chosen, least=2)
        if known and chosen > min(known):
            raise InvalidInput(f"{setting('context', chosen)}: the model reads at most {min(known)} tokens")
        return chosen
    return min(known, default=DEFAULT_CONTEXT_TOKENS)
