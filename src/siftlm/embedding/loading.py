"""Models are loaded in silence, and a failure says what was tried and what to do."""

from __future__ import annotations

import logging
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, TypeVar

from siftlm.errors import InvalidInput, SiftlmError
from siftlm.extras import load

LoadedModelT = TypeVar("LoadedModelT")

# What is silenced belongs to the whole process, so one model is loaded at a time.
_LOADING_LOCK = threading.Lock()
_NOISY_LOGGERS = ("transformers", "sentence_transformers", "huggingface_hub")


def load_quietly(model: str, extra: str, open_it: Callable[[], LoadedModelT]) -> LoadedModelT:
    """What ``open_it`` returns; its libraries' messages, bars and draws of random numbers leave no trace."""
    torch, _ = load("torch", extra), load("transformers", extra)
    try:
        with _LOADING_LOCK, _silence_logging(), torch.random.fork_rng(devices=[]):
            return open_it()
    except SiftlmError:
        raise
    # Missing files, no network, foreign formats, damaged weights: each library has its own errors, with no common root.
    except Exception as error:
        first_line = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InvalidInput(f"cannot load the embedder {model!r}: {first_line}. {_advice(model)}") from error


def device_or_best(device: str | None) -> str:
    """``device``, or the graphics card where there is one."""
    if device is not None:
        return device
    return "cuda" if load("torch", "hf").cuda.is_available() else "cpu"


def needs_float32(device: str, precision: str | None) -> bool:
    """Whether weights that are stored in half precision are widened: always, where halves are slow."""
    return precision == "float32" or (precision is None and device == "cpu")


def _advice(model: str) -> str:
    if Path(model).is_dir():
        return "The folder must hold a model as save_pretrained writes it: config.json, weights, tokenizer.json"
    return (
        "No folder has this name, so it was looked up on the Hugging Face hub and in its local cache. Without a "
        "network, give the folder of a downloaded model, or use 'hashing', which needs none"
    )


@contextmanager
def _silence_logging() -> Iterator[None]:
    with ExitStack() as undo:
        undo.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        for name in _NOISY_LOGGERS:
            logger = logging.getLogger(name)
            undo.callback(logger.setLevel, logger.level)
            logger.setLevel(logging.CRITICAL)
        _hide_progress_bars(undo)
        yield


def _hide_progress_bars(undo: ExitStack) -> None:
    talk: Any = load("transformers", "hf").utils.logging
    hub: Any = load("huggingface_hub", "hf").utils
    if talk.is_progress_bar_enabled():
        undo.callback(talk.enable_progress_bar)
        talk.disable_progress_bar()
    if not hub.are_progress_bars_disabled():
        undo.callback(hub.enable_progress_bars)
        hub.disable_progress_bars()
