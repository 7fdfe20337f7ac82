"""From a name to an embedder: the one place that knows all kinds."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from siftlm.embedding.gradients import gradients_embedder
from siftlm.embedding.hashing import HashingEmbedder, word_spans
from siftlm.embedding.lexical import SETTINGS_FILE, LexicalEmbedder
from siftlm.embedding.protocol import Embedder, fingerprint
from siftlm.embedding.sentences import SentencesEmbedder
from siftlm.embedding.transformer import encoder_embedder, states_embedder
from siftlm.errors import Conflict, InvalidInput, UnknownName
from siftlm.extras import TINY_MODEL, bundled_model
from siftlm.types import IntArray, Vectors
from siftlm.validation import list_of_texts, whole_number


class PrecomputedEmbedder:
    """Stands where an embedder is asked for, and embeds nothing.

    Two are comparable when width and ``label`` agree: give different models different labels.
    """

    name = "precomputed"
    max_tokens = None

    def __init__(self, *, width: int, label: str = "vectors") -> None:
        self.width = whole_number("width", width)
        self._label = label

    @property
    def settings(self) -> dict[str, Any]:
        return {"width": self.width, "label": self._label}

    @property
    def fingerprint(self) -> str:
        return fingerprint("precomputed", self.settings)

    def embed(self, texts: Sequence[str], *, as_query: bool = False) -> Vectors:
        """An error, unless there is nothing to embed."""
        del as_query
        if list_of_texts("texts", texts):
            raise InvalidInput(
                f"these are precomputed vectors ({self._label!r}, {self.width} wide) and no model that made them is "
                "known: give a vector with every text, for documents and for prompts alike"
            )
        return np.zeros((0, self.width), dtype=np.float32)

    def tokens(self, texts: Sequence[str]) -> list[IntArray]:
        """Words and single signs."""
        return word_spans(list_of_texts("texts", texts))


# Of these there is one each.
EMBEDDERS_WITHOUT_MODEL: dict[str, Callable[..., Embedder]] = {
    "hashing": HashingEmbedder,
    "precomputed": PrecomputedEmbedder,
}
# ``kind:model``, where the model is a folder or a name on the Hugging Face hub.
EMBEDDERS_WITH_MODEL: dict[str, Callable[..., Embedder]] = {
    "encoder": encoder_embedder,
    "gradients": gradients_embedder,
    "lexical": LexicalEmbedder,
    "sentences": SentencesEmbedder,
    "states": states_embedder,
}
EMBEDDER_NAMES = (
    *EMBEDDERS_WITHOUT_MODEL,
    *(f"{kind}:<model>" for kind in EMBEDDERS_WITH_MODEL),
    "<folder or name on the Hugging Face hub>",
)
EMBEDDER_MEMBERS = ("name", "settings", "fingerprint", "width", "max_tokens", "embed", "tokens")


def embedder(name: str | Embedder, **settings: Any) -> Embedder:
    """The embedder of that name; one that is already there is returned as it is.

    ``hashing`` needs no model; ``precomputed`` is for vectors that are given; ``states:gpt2`` reads the hidden states
    of a causal language model, and ``gradients:gpt2`` what it would learn from a text; ``lexical:folder`` weighs words
    as it was fitted to; ``siftlm-tiny`` is such a model
    that comes with siftlm. Anything else is a folder or a name on the Hugging Face hub: a sentence-transformers
    model where it says so (``sentence-transformers/…``, or a folder with a ``modules.json``), otherwise an encoder
    whose states are averaged. ``sentences:`` or ``encoder:`` before it decides that by hand.

    >>> embedder("hashing", width=256).width
    256
    >>> embedder("hashng")
    Traceback (most recent call last):
    siftlm.errors.UnknownName: unknown embedder 'hashng'; did you mean 'hashing'? ...
    """
    if not isinstance(name, (str, Path)):
        return _checked_embedder(name, settings)
    name = str(name)
    if name in EMBEDDERS_WITHOUT_MODEL:
        return _build_embedder(name, EMBEDDERS_WITHOUT_MODEL[name], settings)
    kind, _, model = name.partition(":")
    if kind not in EMBEDDERS_WITH_MODEL:
        kind, model = "", name
    path = _model_folder(name, model)
    where = model if path is None else str(path)
    # The bundled model keeps its name, since it lies elsewhere on every machine.
    model = model if model == TINY_MODEL else where
    if not kind and path is not None and (path / SETTINGS_FILE).is_file():
        kind = "lexical"
    kind_or_guess = kind or ("sentences" if _is_sentence_transformer(model, path) else "encoder")
    make = partial(EMBEDDERS_WITH_MODEL[kind_or_guess], f"{kind}:{model}" if kind else model, where)
    return _build_embedder(kind_or_guess, make, settings)


def _model_folder(name: str, model: str) -> Path | None:
    """The absolute folder of a model, or ``None`` for a name that belongs to the hub."""
    path = bundled_model() if model == TINY_MODEL else Path(model).expanduser()
    if model and path.is_dir():
        if not any((path / file).is_file() for file in ("config.json", "modules.json", SETTINGS_FILE)):
            raise InvalidInput(
                f"the folder {str(path)!r} holds no model: it has neither a config.json nor modules.json"
            )
        return path.resolve()
    if model == TINY_MODEL:
        raise InvalidInput(f"embedder {name!r}: this installation of siftlm lacks the model that comes with it")
    if not model or path.exists() or model.startswith((".", "~", "/")) or model.count("/") > 1:
        raise InvalidInput(f"embedder {name!r}: {model!r} is no folder")
    if "/" not in model and difflib.get_close_matches(model.lower(), EMBEDDERS_WITHOUT_MODEL, n=1, cutoff=0.75):
        raise UnknownName("embedder", name, EMBEDDER_NAMES)
    return None


def _is_sentence_transformer(model: str, path: Path | None) -> bool:
    if path is not None:
        return (path / "modules.json").is_file()
    return model.startswith("sentence-transformers/")


def _build_embedder(kind: str, make: Callable[..., Embedder], settings: dict[str, Any]) -> Embedder:
    parameters = inspect.signature(make).parameters.values()
    known = [one.name for one in parameters if one.kind is one.KEYWORD_ONLY]
    for name in settings:
        if name not in known:
            raise UnknownName(f"setting of the embedder {kind!r}", name, known)
    missing = [one.name for one in parameters if one.default is one.empty and one.name not in settings]
    if missing:
        raise InvalidInput(f"the embedder {kind!r} needs {missing[0]}=")
    return make(**settings)


def _checked_embedder(given: Embedder, settings: dict[str, Any]) -> Embedder:
    # Without evaluating anything: a property may load a model.
    nothing = object()
    absent = [name for name in EMBEDDER_MEMBERS if inspect.getattr_static(given, name, nothing) is nothing]
    if absent:
        raise InvalidInput(f"{type(given).__name__} is no embedder: it has no {', '.join(absent)}")
    if settings:
        raise Conflict(
            f"settings ({', '.join(settings)}) go with an embedder's name, not with one that is made already"
        )
    return given
