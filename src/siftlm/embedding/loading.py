"""Models and tokenizers of Hugging Face: loaded in silence, identified by their weights, limited in length."""

from __future__ import annotations

import hashlib
import logging
import re
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import huggingface_hub
import numpy as np
import torch
import transformers

from siftlm.errors import InvalidInput, SiftlmError, setting
from siftlm.types import IntArray

LoadedModelT = TypeVar("LoadedModelT")

# What is silenced belongs to the whole process, so one model is loaded at a time.
_LOADING_LOCK = threading.Lock()
HUB_TIMEOUT_SECONDS = 10.0
_NOISY_LOGGERS = ("transformers", "sentence_transformers", "huggingface_hub")


def load_quietly(model: str, open_it: Callable[[], LoadedModelT]) -> LoadedModelT:
    """The model that ``open_it`` loads; the libraries' messages, bars and draws of random numbers leave no trace."""
    try:
        with _LOADING_LOCK, _silence_logging(), torch.random.fork_rng(devices=[]):
            _ask_hub(model)
            return open_it()
    except SiftlmError:
        raise
    # Missing files, no network, foreign formats, damaged weights: each library has its own errors, with no common root.
    except Exception as error:
        first_line = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InvalidInput(
            f"cannot load the embedder {model!r}: {first_line.rstrip(' .')}. {_advice(model)}"
        ) from error


def _ask_hub(model: str) -> None:
    """One question to the hub about a model that is not here: without a network the loaders would ask for a minute."""
    if Path(model).is_dir() or huggingface_hub.constants.HF_HUB_OFFLINE:
        return
    cached = (huggingface_hub.try_to_load_from_cache(model, file) for file in ("config.json", "modules.json"))
    # sentence-transformers completes names without an owner by itself.
    if "/" in model and not any(isinstance(file, str) for file in cached):
        huggingface_hub.model_info(model, timeout=HUB_TIMEOUT_SECONDS)


def device_or_best(device: str | None) -> str:
    """``device``, or the graphics card where there is one."""
    if device is not None:
        return device
    return "cuda" if torch.cuda.is_available() else "cpu"


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
    messages: Any = transformers.utils.logging
    hub: Any = huggingface_hub.utils
    if messages.is_progress_bar_enabled():
        undo.callback(messages.enable_progress_bar)
        messages.disable_progress_bar()
    if not hub.are_progress_bars_disabled():
        undo.callback(hub.enable_progress_bars)
        hub.disable_progress_bars()


# Values of each tensor that a digest reads, evenly spread: training moves practically all of them.
DIGEST_SAMPLE_VALUES = 256

# Texts on which tokenizers differ: case, accents, spaces, digits, code, other scripts.
TOKENIZER_PROBE = (
    "Hello hello HELLO naïve Straße 12345 3.14 don't\tx_1 = fooBar(y[0]);\n\n  日本語 привет مرحبا 😀 e\u0301 <b>"
)


def weights_digest(model: Any) -> str:
    """A digest of names, shapes and a sample of values in float32; neither device nor precision of loading matters.

    Poolers are left out: nothing here reads them, and where a file holds none they are made up at random.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        if "pooler." in name:
            continue
        flat = tensor.detach().reshape(-1)
        step = max(1, flat.numel() // DIGEST_SAMPLE_VALUES)
        values = flat[::step].to(device="cpu", dtype=torch.float32).numpy()
        digest.update(f"{name} {tuple(tensor.shape)}\n".encode())
        digest.update(np.ascontiguousarray(values, dtype="<f4").tobytes())
    return digest.hexdigest()


def tokenizer_digest(tokenizer: Any) -> str:
    """A digest of the vocabulary and of the tokens of a text on which tokenizers differ."""
    digest = hashlib.sha256()
    for token, number in sorted(tokenizer.get_vocab().items(), key=lambda item: (item[1], item[0])):
        digest.update(f"{number} {token}\n".encode("utf-8", "surrogatepass"))
    digest.update(str(tokenizer(TOKENIZER_PROBE, verbose=False)["input_ids"]).encode())
    return digest.hexdigest()


# Tokenizers without a limit say so with an absurdly large one.
NO_TOKENIZER_LIMIT = 1_000_000


@dataclass(frozen=True)
class TokenLimits:
    """How many tokens a model reads, and of what."""

    text: int | None
    """The limit of the text alone; ``None`` for no limit."""
    special: int
    """Special tokens that the tokenizer adds."""
    prefixes: dict[bool, int]
    """Tokens of the prefix of a query (True) and of a passage (False)."""

    def with_prefix(self, as_query: bool) -> int | None:
        """The limit of everything that goes into the model."""
        return None if self.text is None else self.text + self.special + self.prefixes[as_query]


def token_limits(
    tokenizer: Any, positions: int | None, prefixes: dict[bool, str], max_tokens: int | None
) -> TokenLimits:
    """The smallest of what the positions, the tokenizer and the user allow."""
    prefix_tokens = {
        which: len(tokenizer(prefix, add_special_tokens=False)["input_ids"]) if prefix else 0
        for which, prefix in prefixes.items()
    }
    special = tokenizer.num_special_tokens_to_add()
    bounds = [
        bound for bound in (positions, tokenizer.model_max_length) if bound is not None and bound < NO_TOKENIZER_LIMIT
    ]
    most = min(bounds) - special - max(prefix_tokens.values()) if bounds else None
    if most is not None and most < 1:
        raise InvalidInput(f"the prefixes leave no room for a text: the model reads {min(bounds)} tokens")
    if most is not None and max_tokens is not None and max_tokens > most:
        raise InvalidInput(f"{setting('max_tokens', max_tokens)} is more than the model can read: at most {most}")
    return TokenLimits(most if max_tokens is None else max_tokens, special, prefix_tokens)


def check_complete(missing: Iterable[str]) -> None:
    """Raise where tensors of a model are missing from its weights, which would be made up at random."""
    absent = sorted(missing)
    if absent:
        raise InvalidInput(f"the weights lack {len(absent)} of the model's tensors, such as {absent[0]}")


def position_limit(model: Any) -> int | None:
    """How many positions the model knows; ``None`` where they are relative."""
    most = getattr(model.config, "max_position_embeddings", None)
    if not isinstance(most, int) or most < 1:
        return None
    # RoBERTa and its relatives number positions from after the padding token's number.
    table = getattr(getattr(model, "embeddings", None), "position_embeddings", None)
    padding = getattr(table, "padding_idx", None)
    return most if padding is None else most - padding - 1


# Half of a character that came alone: Python allows it, the tokenizers' Unicode does not.
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")


def without_surrogates(text: str) -> str:
    """The text as a tokenizer can take it, of the same length."""
    return _LONE_SURROGATE.sub("\ufffd", text)


def checked_fast_tokenizer(tokenizer: Any, model: str) -> Any:
    """The tokenizer, unless it cannot say where its tokens are."""
    if not getattr(tokenizer, "is_fast", False):
        raise InvalidInput(
            f"the tokenizer of {model!r} does not say where its tokens are in a text: it needs a tokenizer.json "
            "(transformers writes one: AutoTokenizer.from_pretrained(…).save_pretrained(…))"
        )
    return tokenizer


def token_ids(tokenizer: Any, texts: list[str], longest: int | None) -> list[list[int]]:
    """The token ids of each text with special tokens, cut to ``longest``."""
    if not texts:
        return []
    options = {"truncation": True, "max_length": longest} if longest is not None else {"truncation": False}
    ids: list[list[int]] = tokenizer(texts, return_attention_mask=False, verbose=False, **options)["input_ids"]
    return ids


def token_spans(tokenizer: Any, texts: list[str]) -> list[IntArray]:
    """For each text, (t, 2): where its tokens start and end, without special tokens and without a limit."""
    if not texts:
        return []
    texts = [without_surrogates(text) for text in texts]
    encoded = tokenizer(
        texts,
        add_special_tokens=False,
        truncation=False,
        return_offsets_mapping=True,
        return_attention_mask=False,
        verbose=False,
    )
    return [_ordered_spans(text, own) for text, own in zip(texts, encoded["offset_mapping"], strict=True)]


def _ordered_spans(text: str, offsets: list[tuple[int, int]]) -> IntArray:
    spans: IntArray = np.array(offsets, dtype=np.int64).reshape(-1, 2)
    # Some tokenizers cut spaces off their tokens' ends, so that a token of nothing but space has no width left. It
    # is read like any other, so it must be counted: it gets its last space back.
    for place in np.flatnonzero(spans[:, 0] >= spans[:, 1]):
        end = spans[place, 0]
        if end > 0 and text[end - 1].isspace():
            spans[place] = end - 1, end
    # What is left without width stands for nothing in the text, such as an invented leading space.
    spans = spans[spans[:, 0] < spans[:, 1]]
    return spans[np.argsort(spans[:, 0], kind="stable")]
