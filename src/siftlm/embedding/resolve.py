"""A name resolved to an embedder: the one place that knows all kinds."""

from __future__ import annotations

import inspect
import os
import re
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from siftlm.embedding.hashing import HashingEmbedder, word_spans
from siftlm.embedding.lexical import LEXICAL, SETTINGS_FILE, LexicalEmbedder, UnfittedLexicalEmbedder
from siftlm.embedding.models import (
    LESS_FILE,
    AnySettings,
    GradientSettings,
    LessSettings,
    ModelEmbedder,
    ModelSettings,
    StatesSettings,
    open_network,
)
from siftlm.embedding.protocol import Embedder, EmbedderSource, EmbedTexts, fingerprint
from siftlm.embedding.static import StaticEmbedder
from siftlm.errors import Conflict, InvalidInput, UnknownName, setting
from siftlm.extras import TINY_MODEL, bundled_model
from siftlm.types import IntArray, Vectors
from siftlm.validation import list_of_texts, whole_number

FUNCTION_PREFIX = "function:"


class PrecomputedEmbedder:
    """The stand-in for a model that is not known: every text comes with its vector.

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
        """Words and single punctuation characters."""
        return word_spans(list_of_texts("texts", texts))


class FunctionEmbedder:
    """An embedder made of a function of one's own: texts -> vectors.

    Two are comparable when ``name`` and width agree: give different models different names. A memory that was built
    with one is opened with it: ``Memory.open(folder, embedder=function)``.

    >>> import numpy as np
    >>> embedder(lambda texts: np.ones((len(texts), 4))).width
    4
    """

    max_tokens = None

    def __init__(self, passages: EmbedTexts, queries: EmbedTexts | None = None, *, name: str | None = None) -> None:
        """``queries``: embeds prompts, for models that treat questions and passages differently."""
        self._passages, self._queries = passages, queries or passages
        self.name = f"{FUNCTION_PREFIX}{name or _function_name(passages)}"
        self.width = self._vectors(self._passages, ["a"]).shape[1]

    @property
    def settings(self) -> dict[str, Any]:
        return {}

    @property
    def fingerprint(self) -> str:
        return fingerprint("function", {"name": self.name, "width": self.width})

    def embed(self, texts: Sequence[str], *, as_query: bool = False) -> Vectors:
        """The function's vectors, checked."""
        texts = list_of_texts("texts", texts)
        if not texts:
            return np.zeros((0, self.width), dtype=np.float32)
        vectors = self._vectors(self._queries if as_query else self._passages, texts)
        if vectors.shape[1] != self.width:
            raise InvalidInput(f"{self.name!r} gave vectors of width {vectors.shape[1]}, and of {self.width} before")
        return vectors

    def _vectors(self, function: EmbedTexts, texts: list[str]) -> Vectors:
        try:
            made = np.asarray(function(texts), dtype=np.float32)
        except (TypeError, ValueError) as error:
            raise InvalidInput(
                f"{self.name!r} must turn a list of texts into a vector of numbers for each: {error}"
            ) from error
        if made.ndim != 2 or len(made) != len(texts) or not made.shape[1]:
            raise InvalidInput(
                f"{self.name!r} gave shape {made.shape} for {len(texts)} texts; it must give one vector for each"
            )
        return made

    def tokens(self, texts: Sequence[str]) -> list[IntArray]:
        """Words and single punctuation characters."""
        return word_spans(list_of_texts("texts", texts))


def _function_name(function: EmbedTexts) -> str:
    """The function's or the object's own name; of an object the model that it names, too."""
    owner = getattr(function, "__self__", None)
    if owner is None or isinstance(owner, ModuleType):
        return str(getattr(function, "__qualname__", type(function).__qualname__))
    models = (getattr(owner, attribute, None) for attribute in ("model_name", "model", "model_id"))
    model = next((f"/{one}" for one in models if isinstance(one, str)), "")
    return f"{type(owner).__qualname__}{model}"


# Of a memory for which none was named (docs/decisions/0060-default-embedder.md).
DEFAULT_EMBEDDER = "static"
EMBEDDERS_WITHOUT_MODEL: dict[str, Callable[..., Embedder]] = {
    "hashing": HashingEmbedder,
    LEXICAL: UnfittedLexicalEmbedder,
    "precomputed": PrecomputedEmbedder,
    "static": StaticEmbedder,
}
# ``kind:model``, where the model is a folder or a name on the Hugging Face hub; what can be set of each.
EMBEDDERS_WITH_MODEL: dict[str, type[AnySettings] | None] = {
    "encoder": ModelSettings,
    "gradients": GradientSettings,
    "less": LessSettings,
    "lexical": None,
    "sentences": ModelSettings,
    "states": StatesSettings,
}
# Of these the model is always a folder, which siftlm has written.
FOLDER_KINDS = ("less", "lexical")
EMBEDDER_NAMES = (
    *EMBEDDERS_WITHOUT_MODEL,
    *(f"{kind}:<model>" for kind in EMBEDDERS_WITH_MODEL),
    "<folder or name on the Hugging Face hub>",
)
MODELS_WITHOUT_OWNER = re.compile(
    "(albert|bert|camembert|distil[a-z0-9]+|gpt2|openai-gpt|roberta|t5|transfo|xlm|xlnet)(-|$)"
)
EMBEDDER_MEMBERS = ("name", "settings", "fingerprint", "width", "max_tokens", "embed", "tokens")


def embedder(name: EmbedderSource, **settings: Any) -> Embedder:
    """The embedder of that name; an embedder is returned as it is.

    A function of a list of texts, or an object with ``embed_documents`` and ``embed_query`` (LangChain's
    ``Embeddings``), becomes a `FunctionEmbedder`.

    ``static`` has its table with it, and ``hashing`` needs none; ``lexical`` weighs words as the texts that a
    memory is built from teach it, and ``lexical:folder`` as it was fitted before; ``precomputed`` is for vectors that
    come with the texts; ``states:gpt2`` reads the hidden states of a causal language model, and ``gradients:gpt2`` what
    it would learn from a text; ``less:folder`` is for what a model that was warmed up would learn; ``siftlm-tiny`` is a
    causal language model that comes with siftlm.
    Anything else is a folder or a name on the Hugging Face hub: a sentence-transformers
    model where it says so (``sentence-transformers/…``, or a folder with a ``modules.json``), otherwise an encoder
    whose states are averaged. A prefix, ``sentences:`` or ``encoder:``, decides that by hand.

    >>> embedder("hashing", width=256).width
    256
    >>> embedder("hashng")
    Traceback (most recent call last):
    siftlm.errors.UnknownName: unknown embedder 'hashng'; did you mean 'hashing'? ...
    """
    if not isinstance(name, (str, Path)):
        return _embedder_of(name, settings)
    name = str(name)
    if name.startswith(FUNCTION_PREFIX):
        own = name.removeprefix(FUNCTION_PREFIX)
        raise InvalidInput(f"the vectors were made by a caller's function, {own!r}: pass it as {setting('embedder')}")
    if name in EMBEDDERS_WITHOUT_MODEL:
        make = EMBEDDERS_WITHOUT_MODEL[name]
        _check_settings(name, make, settings)
        return make(**settings)
    kind, _, model = name.partition(":")
    if kind not in EMBEDDERS_WITH_MODEL:
        kind, model = "", name
    path = _model_folder(name, model)
    where = model if path is None else str(path)
    # The bundled model keeps its name, since it lies elsewhere on every machine.
    model = model if model == TINY_MODEL else where
    full_name = f"{kind}:{model}" if kind else model
    kind = kind or _guess_kind(model, path)
    known = EMBEDDERS_WITH_MODEL[kind]
    _check_settings(kind, known, settings)
    if known is None:
        return LexicalEmbedder.read(full_name, where)
    checked = known(**settings)
    return ModelEmbedder(full_name, kind, checked, partial(open_network, kind, where, checked))


def _model_folder(name: str, model: str) -> Path | None:
    """The absolute folder of a model, or ``None`` for a name that belongs to the hub."""
    path = bundled_model() if model == TINY_MODEL else Path(model).expanduser()
    if model and path.is_dir():
        if not any((path / file).is_file() for file in ("config.json", "modules.json", SETTINGS_FILE, LESS_FILE)):
            raise InvalidInput(
                f"the folder {str(path)!r} holds no model: it has neither a config.json nor modules.json"
            )
        return path.resolve()
    if model == TINY_MODEL:
        raise InvalidInput(f"embedder {name!r}: this installation of siftlm lacks the model that comes with it")
    kind = name.partition(":")[0]
    if not model and kind in EMBEDDERS_WITH_MODEL:
        what = "folder" if kind in FOLDER_KINDS else "folder, or the name on the Hugging Face hub,"
        raise InvalidInput(f"embedder {name!r} needs the {what} of a model: {kind}:MODEL")
    if (model and path.exists()) or model.startswith((".", "~", "/")) or model.count("/") > 1 or kind in FOLDER_KINDS:
        raise InvalidInput(f"embedder {name!r}: {model!r} is not a folder")
    if "/" not in model and kind != "sentences" and not _on_hub_without_owner(model):
        raise UnknownName("embedder", name, (*EMBEDDER_NAMES, TINY_MODEL))
    return None


def _on_hub_without_owner(model: str) -> bool:
    """Whether a name without an owner may be on the hub: only its first models have such names, and no new ones."""
    if os.environ.get("HF_ENDPOINT") or MODELS_WITHOUT_OWNER.match(model):
        return True
    home = Path(os.environ.get("HF_HOME") or "~/.cache/huggingface").expanduser()
    return (Path(os.environ.get("HF_HUB_CACHE") or home / "hub") / f"models--{model}").is_dir()


def _guess_kind(model: str, path: Path | None) -> str:
    for kind, file in (("lexical", SETTINGS_FILE), ("less", LESS_FILE)):
        if path is not None and (path / file).is_file():
            return kind
    if path is not None:
        return "sentences" if (path / "modules.json").is_file() else "encoder"
    return "sentences" if model.startswith("sentence-transformers/") else "encoder"


def _check_settings(kind: str, make: Callable[..., Any] | None, settings: dict[str, Any]) -> None:
    parameters = {} if make is None else inspect.signature(make).parameters
    for name in settings:
        if name not in parameters:
            raise UnknownName(f"setting of the embedder {kind!r}", name, parameters)
    for name, one in parameters.items():
        if one.default is one.empty and name not in settings:
            raise InvalidInput(f"the embedder {kind!r} needs {setting(name)}")


def _embedder_of(made: Any, settings: dict[str, Any]) -> Embedder:
    """An embedder, checked; or one that is made of a function or of LangChain's ``Embeddings``."""
    if settings:
        raise Conflict(
            f"settings ({', '.join(settings)}) go with an embedder's name, not with one that is made already"
        )
    # Without evaluating anything: a property may load a model.
    nothing = object()
    absent = [name for name in EMBEDDER_MEMBERS if inspect.getattr_static(made, name, nothing) is nothing]
    if not absent:
        checked: Embedder = made
        return checked
    documents, query = (getattr(made, name, None) for name in ("embed_documents", "embed_query"))
    if callable(documents) and callable(query):
        return FunctionEmbedder(documents, partial(_each_query, query))
    if callable(made) and not isinstance(made, type):
        return FunctionEmbedder(made)
    raise InvalidInput(
        f"{type(made).__name__} is no embedder: it has no {', '.join(absent)}. A name, a function of a list of texts, "
        "and an object with embed_documents and embed_query will do as well"
    )


def _each_query(embed_query: Callable[[str], Any], texts: list[str]) -> list[Any]:
    return [embed_query(text) for text in texts]
