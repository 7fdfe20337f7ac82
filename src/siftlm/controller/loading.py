"""A causal language model and its tokenizer from a name, a folder, or what the caller has in hand."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from siftlm.bundled import TINY, bundled
from siftlm.controller.checks import whole
from siftlm.errors import InvalidInput
from siftlm.extras import load

# Where a model's tokenizer and configuration give no limit at all.
CONTEXT = 2048
# Tokenizers say "no limit" with a number like 1e30.
NO_LIMIT = 10**9


@dataclass(frozen=True)
class Loaded:
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
) -> Loaded:
    """A model by name or folder, or a transformers model with its tokenizer."""
    torch, transformers = load("torch", "tune"), load("transformers", "tune")
    if isinstance(model, (str, os.PathLike)):
        name = os.fspath(model)
        source = os.fspath(bundled()) if name == TINY else name
        wanted = getattr(torch, dtype, None) if dtype else torch.float32
        if not isinstance(wanted, torch.dtype) or not wanted.is_floating_point:
            raise InvalidInput(f"dtype must be float32, bfloat16 or float16, got {dtype!r}")
        try:
            with _without_bars(transformers):
                made = transformers.AutoModelForCausalLM.from_pretrained(source, **{_dtype_name(transformers): wanted})
                tokenizer = transformers.AutoTokenizer.from_pretrained(source) if tokenizer is None else tokenizer
        except (OSError, ValueError, KeyError) as error:
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise InvalidInput(
                f"{name!r} is no causal language model that can be loaded: {reason}. Give a folder, a name on the "
                f"Hugging Face hub, or {TINY!r}, which comes with siftlm"
            ) from error
        made = made.to(device or ("cuda" if torch.cuda.is_available() else "cpu")).eval()
    else:
        made, name = model, str(getattr(getattr(model, "config", None), "_name_or_path", "") or type(model).__name__)
        if tokenizer is None:
            raise InvalidInput("a model that is loaded already needs its tokenizer: Controller(model, tokenizer)")
        if not hasattr(made, "get_output_embeddings") or made.config.is_encoder_decoder:
            raise InvalidInput(f"{type(made).__name__} is no causal language model of transformers")
        if device is not None:
            made = made.to(device)
    return Loaded(name, made, tokenizer, _context(made, tokenizer, context))


@contextmanager
def _without_bars(transformers: Any) -> Iterator[None]:
    """Downloads keep theirs: those take long enough to be watched."""
    talk = transformers.utils.logging
    if not talk.is_progress_bar_enabled():
        yield
        return
    # It hides the bars of downloads, too, so those are brought back.
    bars = load("huggingface_hub", "tune").utils
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


def _dtype_name(transformers: Any) -> str:
    """The argument was renamed in 4.56."""
    major, minor = (int(part) for part in transformers.__version__.split(".")[:2])
    return "dtype" if (major, minor) >= (4, 56) else "torch_dtype"


def _context(model: Any, tokenizer: Any, asked: int | None) -> int:
    limits = [getattr(model.config, name, None) for name in ("max_position_embeddings", "n_positions", "seq_length")]
    limits.append(getattr(tokenizer, "model_max_length", None))
    known = [int(limit) for limit in limits if isinstance(limit, int) and 0 < limit < NO_LIMIT]
    if asked is not None:
        whole("context", asked, least=2)
        if known and asked > min(known):
            raise InvalidInput(f"context={asked}: the model reads at most {min(known)} tokens")
        return asked
    return min(known, default=CONTEXT)
