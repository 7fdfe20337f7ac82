"""What a call of the main flow asks for: its settings sorted by who needs them, and its texts taken apart."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from inspect import signature
from typing import Any

from siftlm import recipes
from siftlm.controller import setting_names
from siftlm.errors import InvalidInput, UnknownName
from siftlm.memory import Found
from siftlm.memory.searcher import Searcher
from siftlm.selection import select
from siftlm.types import Likelihood, Trace
from siftlm.validation import fraction, text_with_content, whole_number

SCORE_MODES = ("split", "transductive")
PAIR_LABELS = ("the prompt", "the continuation")
PASSAGE_USES = ("weights", "context", "both")
GRADIENT_FEATURES = "gradients"
# What decides whether tuning is worth it: the least share of the uncertainty that the selection must remove, or
# a function that looks at what was found.
Decide = float | Callable[[Found], bool] | None
# Settings of `LocalModel` itself, beside those of a search and those of tuning.
LOCAL_SETTINGS = ("n", "method", "use", "decide", "features")


@dataclass(frozen=True)
class CallSettings:
    """Everything that a call may say, sorted by who needs it."""

    tuning: dict[str, Any]
    search: dict[str, Any]
    n: int = 50
    method: Any = "sift"
    use: str = "weights"
    decide: Decide = None
    features: Any = None
    recipe: str | None = None
    """The word that method and some of tuning came from."""

    def __post_init__(self) -> None:
        whole_number("n", self.n)
        if self.features is not None and self.features != GRADIENT_FEATURES and not hasattr(self.features, "embed"):
            raise UnknownName("features", self.features, (GRADIENT_FEATURES, "an Embedder"))
        if self.use not in PASSAGE_USES:
            raise UnknownName("use", self.use, PASSAGE_USES)
        if self.decide is not None and not callable(self.decide):
            fraction("decide", self.decide)

    def context(self, found: Found) -> tuple[str, ...]:
        """Of what was found, what is read before the text."""
        return () if self.use == "weights" else tuple(found.texts)

    def noted(self, trace: Trace) -> Trace:
        """The same, with the recipe among its settings, if there is one."""
        if self.recipe is None:
            return trace
        return replace(trace, settings={**trace.settings, "recipe": self.recipe})


def check_setting_names(search: Mapping[str, Any], method: Any) -> None:
    """Whatever is neither ours nor a setting of tuning must be one of the search, the selection or the method."""
    taken = [name for call in (Searcher.search, select) for name in signature(call).parameters]
    known = {*taken, *recipes.find(method).options} - {"self", "query", "settings", "options"}
    for name in search:
        if name not in known:
            raise UnknownName("setting", name, known | {*setting_names(), *LOCAL_SETTINGS})


def is_worth_tuning(found: Found, decide: Decide) -> bool:
    """Is what was found worth learning?"""
    if decide is None:
        return True
    if callable(decide):
        return bool(decide(found))
    left = found.selection.uncertainty
    return bool(len(found)) and bool(left[0] > 0) and float(1 - left[-1] / left[0]) >= decide


def split_text(name: str, text: Any, mode: str) -> tuple[str, str, str]:
    """The prompt, what is scored, and what is read before it, of a text or of a pair that is cut already."""
    if mode not in SCORE_MODES:
        raise UnknownName("mode", mode, SCORE_MODES)
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


def scored_steps(at: Any) -> set[int]:
    """The numbers of steps to score after."""
    if isinstance(at, (str, bytes)) or not isinstance(at, Iterable):
        raise InvalidInput(f"at must be a list of numbers of steps, such as [1, 5, 10], got {at!r}")
    return {whole_number("each of at", step, least=0) for step in at}


def refuse_unscored(name: str, base: Likelihood) -> None:
    """Where no token can be predicted, learning for it would tell nothing."""
    if not base.tokens or not base.bytes:
        raise InvalidInput(
            f"nothing of {name} can be scored: the tokenizer makes no token of it, or a single one that nothing "
            "stands before (the tokenizer has no start token). Give a longer text, or a pair (prompt, continuation)"
        )


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
        f"the text {text[:40]!r} has no two words to split between; mode='transductive' scores all of it"
    )
