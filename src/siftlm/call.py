"""The settings of a call of the main flow, resolved, and its texts taken apart."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from siftlm.controller import Tuning
from siftlm.errors import Conflict, InvalidInput, UnknownName, setting
from siftlm.memory import Found, Search, SearchRequest
from siftlm.memory.rerank import Features
from siftlm.validation import choice, fraction, text_with_content, whole_number

SCORE_MODES = ("split", "transductive")
PAIR_LABELS = ("the prompt", "the continuation")
PASSAGE_USES = ("weights", "context", "both", "auto")
GRADIENT_FEATURES = "gradients"
# What decides whether tuning is worth it: the least share of the uncertainty that the selection must remove, or
# a function that looks at what was found.
Decide = float | Callable[[Found], bool] | None
# Settings of `LocalModel` itself, beside those of a search and those of tuning.
LOCAL_SETTINGS = ("n", "method", "use", "decide", "features")
# The seed of the selection by name; ``seed`` by name is that of the selection and of tuning.
SELECTION_SEED = "selection_seed"


@dataclass(frozen=True)
class CallSettings:
    """Everything that decides a call beside its prompts; `LocalModel.call_settings` makes it."""

    request: SearchRequest
    """What to select, and how; without prompts."""
    tuning: Tuning
    """How to tune; with a learning rate."""
    use: str = "weights"
    """Tune on the texts (``weights``), read them before the prompt (``context``), ``both``, or ``auto``: whichever
    predicts held-out passages best, and none of them where none helps."""
    decide: Decide = None
    """Whether tuning is worth it."""
    features: Any = None
    """What the selection compares, if not the memory's own vectors: ``"gradients"`` or an `Embedder`."""
    embed: Features | None = None
    """The function that computes ``features``."""
    recipe: str | None = None
    """The word that stands for the method and some of ``tuning``."""
    chosen: frozenset[str] = frozenset()
    """Fields of the search that somebody chose, be it their default."""
    notes: Mapping[str, Any] = field(init=False)
    """What the settings of a trace say beside those of tuning."""

    def __post_init__(self) -> None:
        named = isinstance(self.features, str) and self.features == GRADIENT_FEATURES
        if self.features is not None and not named and not hasattr(self.features, "embed"):
            raise UnknownName("features", self.features, (GRADIENT_FEATURES, "an Embedder"), is_setting=True)
        choice("use", self.use, PASSAGE_USES)
        if self.decide is not None and not callable(self.decide):
            object.__setattr__(self, "decide", fraction("decide", self.decide))
        object.__setattr__(self, "notes", {} if self.recipe is None else {"recipe": self.recipe})

    @property
    def step_share(self) -> float:
        """About the share of a prompt's tuning that one step is."""
        return 1 / (self.request.n * self.tuning.passes * self.tuning.windows)


def settings_by_name(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings by name: those that the objects ``search`` and ``tuning`` choose, below the keywords.

    >>> from siftlm.memory import Search
    >>> settings_by_name({"seed": 3}), settings_by_name({"search": Search(seed=4)})
    ({'seed': 3, 'selection_seed': 3}, {'selection_seed': 4})
    """
    rest = dict(settings)
    search = Search.chosen_in("search", rest.pop("search", None))
    if "seed" in search:
        search[SELECTION_SEED] = search.pop("seed")
    if "seed" in rest:
        rest.setdefault(SELECTION_SEED, whole_number("seed", rest["seed"], least=0))
    return {**search, **Tuning.chosen_in("tuning", rest.pop("tuning", None)), **rest}


def listed(what: str, texts: Any) -> list[Any]:
    """The texts or prompts of a call for many, as a list."""
    if isinstance(texts, (str, bytes, Mapping)) or not isinstance(texts, Iterable) or getattr(texts, "ndim", 1) != 1:
        got = type(texts).__name__
        raise InvalidInput(
            f"{setting(f'{what}s')} must be a list, got {got}; for one {what} there is the method without _many"
        )
    return list(texts)


def split_text(name: str, text: Any, mode: str) -> tuple[str, str, str]:
    """The prompt, what is scored, and what is read before it, of a text or of a pair that is cut already."""
    choice("mode", mode, SCORE_MODES)
    if isinstance(text, tuple):
        if len(text) != 2 or mode == "transductive":
            raise InvalidInput(
                f"{name} is a tuple of {len(text)}; a pair (prompt, continuation) is what mode 'split' can take"
            )
        prompt, scored = (
            text_with_content(f"{part} of {name}", one) for part, one in zip(PAIR_LABELS, text, strict=True)
        )
        return prompt, scored, prompt
    text_with_content(name, text)
    if mode == "transductive":
        return text, text, ""
    prompt, rest = split_in_half(text)
    return prompt, rest, prompt


def check_after(after: Any) -> None:
    """An error where ``after`` cannot be called."""
    if after is not None and not callable(after):
        raise InvalidInput(f"{setting('after')} must be a function of a step, got {after!r:.60}")


def without_tuning(changes: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a call by name, without those of tuning alone; ``seed`` is that of the selection too."""
    return {name: value for name, value in changes.items() if name == "seed" or name not in Tuning.names()}


def check_untuned(given: Tuning, own: Tuning) -> None:
    """An error where a call that tunes nothing changes the settings of tuning that the model has of its ``own``."""
    for name in Tuning.names():
        if (value := getattr(given, name)) != getattr(own, name):
            raise Conflict(
                f"{setting(name, value)} is a setting of tuning, and with {setting('use', 'context')} nothing is tuned"
            )


def scored_steps(at: Any) -> frozenset[int]:
    """The numbers of steps to score after."""
    if isinstance(at, (str, bytes)) or not isinstance(at, Iterable) or getattr(at, "ndim", 1) != 1:
        raise InvalidInput(f"{setting('at')} must be a list of numbers of steps, such as [1, 5, 10], got {at!r}")
    return frozenset(whole_number("each of at", step, least=0) for step in at)


def split_in_half(text: str) -> tuple[str, str]:
    """Cut at the white space nearest behind the middle, so that no word is cut; the second half keeps the space.

    >>> split_in_half("one two three four")
    ('one two three', ' four')
    """
    middle = len(text) // 2
    places = [at for at in range(middle, len(text)) if text[at].isspace()]
    places += [at for at in range(middle, 0, -1) if text[at].isspace()]
    for at in places:
        if text[:at].strip() and text[at:].strip():
            return text[:at], text[at:]
    raise InvalidInput(
        f"the text {text[:40]!r} has no two words to split between; {setting('mode', 'transductive')} scores all of it"
    )
