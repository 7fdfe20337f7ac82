"""A causal language model and its tokenizer from a name, a folder, or what the caller has in hand."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from siftlm.bundled import TINY_MODEL, bundled_model
from siftlm.controller.checks import whole_number
from siftlm.controller.suitable import refuse_headless, refuse_new_head, refuse_non_causal, refuse_tokenizer
from siftlm.errors import InvalidInput
from siftlm.extras import load

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
        made, tokenizer = _load_pretrained(name, tokenizer, dtype)
        made = made.to(place or ("cuda" if load("torch", "tune").cuda.is_available() else "cpu")).eval()
    else:
        made, name = model, str(getattr(getattr(model, "config", None), "_name_or_path", "") or type(model).__name__)
        if tokenizer is None:
            raise InvalidInput("a model that is loaded already needs its tokenizer: Controller(model, tokenizer)")
        refuse_headless(name, made)
        if place is not None:
            made = made.to(place)
    refuse_tokenizer(name, made, tokenizer)
    reach = _context_tokens(made, tokenizer, context)
    refuse_non_causal(name, made, tokenizer, reach)
    return LoadedModel(name, made, tokenizer, reach)


def checked_device(device: Any) -> Any:
    """The torch device of this name, if it is there; None stays None."""
    torch = load("torch", "tune")
    if device is None:
        return None
    try:
        place = torch.device(device)
    except (RuntimeError, TypeError, ValueError) as error:
        raise InvalidInput(f"device={device!r} is none that torch knows; say cpu, cuda or cuda:1") from error
    if place.type == "meta":
        raise InvalidInput("device='meta' holds no numbers; say cpu, cuda or cuda:1")
    if place.type == "cuda":
        there = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if not 0 <= (place.index or 0) < there:  # a number that is far too large comes out negative
            has = f"the last one here is cuda:{there - 1}" if there else "torch finds no CUDA device here; say cpu"
            raise InvalidInput(f"device={str(device)!r}: {has}")
    else:
        try:
            torch.empty(0, device=place)
        except (RuntimeError, AssertionError, ImportError) as error:
            raise InvalidInput(f"device={str(device)!r} cannot be used: {_failure_reason(error)}; say cpu") from error
    return place


def _load_pretrained(name: str, tokenizer: Any, dtype: str | None) -> tuple[Any, Any]:
    torch, transformers = load("torch", "tune"), load("transformers", "tune")
    source = os.fspath(bundled_model()) if name == TINY_MODEL else name
    wanted = getattr(torch, str(dtype), None) if dtype else torch.float32
    if not isinstance(wanted, torch.dtype) or not wanted.is_floating_point:
        raise InvalidInput(f"dtype must be float32, bfloat16 or float16, got {dtype!r}")
    try:
        with _without_progress_bars(transformers):
            made, info = transformers.AutoModelForCausalLM.from_pretrained(
                source, output_loading_info=True, **{_dtype_argument(transformers): wanted}
            )
            tokenizer = transformers.AutoTokenizer.from_pretrained(source) if tokenizer is None else tokenizer
    # Missing files, no network, foreign formats, damaged weights: each library has its own errors, with no common root.
    except Exception as error:
        if isinstance(error, MemoryError) or "out of memory" in str(error) or "allocate memory" in str(error):
            raise
        raise InvalidInput(
            f"{name!r} is no causal language model that can be loaded: {_failure_reason(error)}. "
            f"{_loading_advice(source, error)}"
        ) from error
    refuse_headless(name, made)
    refuse_new_head(name, made, set(info["missing_keys"]))
    return made, tokenizer


def _failure_reason(error: BaseException) -> str:
    said = str(error).strip()
    return said.splitlines()[0].rstrip(". ") if said else type(error).__name__


def _loading_advice(source: str, error: Exception) -> str:
    if os.path.isdir(source) and not isinstance(error, (OSError, ValueError, KeyError)):
        return (
            "A file in that folder is damaged or not whole: copy or download the folder again "
            "(model.safetensors holds the weights)"
        )
    return f"Give a folder, a name on the Hugging Face hub, or {TINY_MODEL!r}, which comes with siftlm"


@contextmanager
def _without_progress_bars(transformers: Any) -> Iterator[None]:
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


def _dtype_argument(transformers: Any) -> str:
    """The argument was renamed in 4.56."""
    major, minor = (int(part) for part in transformers.__version__.split(".")[:2])
    return "dtype" if (major, minor) >= (4, 56) else "torch_dtype"


def _context_tokens(model: Any, tokenizer: Any, asked: int | None) -> int:
    limits = [getattr(model.config, name, None) for name in ("max_position_embeddings", "n_positions", "seq_length")]
    limits.append(getattr(tokenizer, "model_max_length", None))
    known = [int(limit) for limit in limits if isinstance(limit, int) and 0 < limit < NO_CONTEXT_LIMIT]
    if asked is not None:
        whole_number("context", asked, least=2)
        if known and asked > min(known):
            raise InvalidInput(f"context={asked}: the model reads at most {min(known)} tokens")
        return asked
    return min(known, default=DEFAULT_CONTEXT_TOKENS)
