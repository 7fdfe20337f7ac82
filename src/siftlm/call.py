"""The settings of a call of the main flow, resolved, and its texts taken apart."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from siftlm.controller import Tuning, check_sampling
from siftlm.controller.settings import stop_strings
from siftlm.errors import Conflict, InvalidInput, UnknownName, setting
from siftlm.memory import Found, Memory, Search, Searcher, SearchRequest
from siftlm.memory.rerank import Features
from siftlm.validation import choice, fraction, list_of_texts, number, text_with_content, whole_number

if TYPE_CHECKING:
    from siftlm.controller import Controller

logger = logging.getLogger(__name__)

SCORE_MODES = ("split", "transductive")
PAIR_LABELS = ("the prompt", "the continuation")
PASSAGE_USES = ("weights", "context", "both", "auto")
GRADIENT_FEATURES = "gradients"
# What decides whether tuning is worth it: the least share of the uncertainty that the selection must remove, or
# a function that looks at what was found.
Decide = float | Callable[[Found], bool] | None
# Settings of `LocalModel` itself, beside those of a search and those of tuning.
LOCAL_SETTINGS = ("n", "method", "use", "decide", "guard", "features")
# The factor by which a memory may have grown or shrunk since it was calibrated.
GROWTH = 2
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
    guard: tuple[float, float] | None = None
    """For ``auto``: intercept and slope of the gain to expect over that of held-out passages, in % of the base model's
    loss; None: what was measured on other memories."""
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
        if self.guard is not None:
            object.__setattr__(self, "guard", _line("guard", self.guard))
        object.__setattr__(self, "notes", {} if self.recipe is None else {"recipe": self.recipe})

    def for_itself(self) -> CallSettings:
        """The settings where a text is its own prompt: there ``auto`` is SIFT with repeats.

        What is selected for a text teaches that text the more, the more it is like it, and goes on teaching when it is
        repeated; the continuation of a prompt gains little from repeats.
        """
        request = self.request
        chosen = request.options or request.search.replacement is not None
        if request.method != "auto" or chosen:
            return self
        search = request.search.with_({"replacement": True})
        return replace(self, request=replace(request, method="sift", search=search))

    @property
    def step_share(self) -> float:
        """About the share of a prompt's tuning that one step is."""
        return 1 / (self.request.n * self.tuning.passes * self.tuning.windows)

    def to_dict(self) -> dict[str, Any]:
        """The settings by name, as `LocalModel` takes them; see `LocalModel.settings`."""
        request = self.request
        return {
            "n": request.n,
            "method": self.recipe or request.method,
            "use": self.use,
            "decide": self.decide,
            "guard": self.guard,
            "features": self.features,
            **{name: getattr(request.search, name) for name in self.chosen},
            **({} if request.search.seed == self.tuning.seed else {SELECTION_SEED: request.search.seed}),
            **{name: request.selection[name] for name in ("noise", "replacement") if name in request.selection},
            **request.options,
            **self.tuning.to_dict(),
        }


def same_texts(
    memory: Searcher, known: CallSettings, other: CallSettings, prompt: str, rows: Sequence[int]
) -> Found | None:
    """What ``other`` selects for the prompt if these are the rows that ``known`` selected, to be learned alike.

    Where nothing repeats, ``auto`` does what ``nearest`` does, and tuning would come out the same to the bit.
    """
    plain = [(one.use, one.decide, one.embed) == ("weights", None, None) for one in (known, other)]
    if not all(plain) or known.tuning != other.tuning:
        return None
    [own] = memory.run(replace(other.request, prompts=[prompt]))
    return own if [hit.row for hit in own] == list(rows) else None


def _line(name: str, value: Any) -> tuple[float, float]:
    """An intercept and a slope."""
    if isinstance(value, (str, bytes)) or not isinstance(value, Sequence) or len(value) != 2:
        raise InvalidInput(f"{setting(name)} must be a pair, intercept and slope, got {value!r:.60}")
    intercept, slope = value
    return number(f"the intercept of {name}", intercept), number(f"the slope of {name}", slope, above=0)


def calibrated_settings(memory: Searcher, controller: Controller) -> dict[str, Any]:
    """The settings that calibration chose for this memory and this model."""
    if not isinstance(memory, Memory):
        return {}
    record = memory.manifest.calibration.get(controller.name, {})
    made_with = record.get("model", {}).get("engine", {}).get("engine", "full")
    if record and (made_with != "full") != controller.adapters:
        # All of them were chosen with a rate and a number of steps that do not fit this engine.
        own = "lora" if controller.adapters else "full"
        logger.warning(
            "the calibration of this memory was made with engine=%r and is left out: "
            "siftlm calibrate MEMORY --engine %s makes one for this model",
            made_with,
            own,
        )
        return {}
    then, now = record.get("memory", {}).get("passages"), len(memory)
    if then and not then / GROWTH <= now <= then * GROWTH:
        logger.warning(
            "this memory was calibrated with %s passages, and it has %s now: siftlm calibrate MEMORY measures again",
            f"{then:,}",
            f"{now:,}",
        )
    return dict(record.get("settings", {}))


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


def checked_prompts(prompts: Any) -> list[str]:
    """The prompts of a call for many."""
    return [text_with_content(f"prompt {place}", text) for place, text in enumerate(listed("prompt", prompts))]


def checked_question(prompt: Any, choices: Any, name: str = "") -> tuple[str, list[str]]:
    """The prompt and the choices of a question, which errors call by its ``name``."""
    of = f" of {name}" if name else ""
    text_with_content(f"the prompt{of}", prompt)
    texts = list_of_texts(f"the choices{of}" if of else "choices", choices)
    for place, text in enumerate(texts):
        text_with_content(f"choice {place}{of}", text)
    if len(texts) < 2:
        raise InvalidInput(
            f"{setting('choices')}{of} must be two or more texts, got {texts!r:.60}; "
            "score((prompt, continuation)) scores a single one"
        )
    if repeated := next((text for place, text in enumerate(texts) if text in texts[:place]), None):
        raise InvalidInput(f"{setting('choices')}{of} has {repeated!r:.60} twice; give each once")
    return prompt, texts


def checked_questions(questions: Any) -> list[tuple[str, list[str]]]:
    """The questions of a call for many."""
    checked = []
    for place, one in enumerate(listed("question", questions)):
        if not isinstance(one, (tuple, list)) or len(one) != 2:
            raise InvalidInput(f"question {place} must be a pair (prompt, choices), got {one!r:.60}")
        prompt, choices = one
        checked.append(checked_question(prompt, choices, f"question {place}"))
    return checked


def checked_sampling(
    context: int, max_new_tokens: int, temperature: float, top_p: float, stop: str | Sequence[str], seed: int
) -> dict[str, Any]:
    """How to draw tokens, as `Controller.generate` takes it; checked before any tuning."""
    stops = list(stop_strings(stop))
    check_sampling(max_new_tokens, temperature, top_p, stops, context, seed)
    return {
        "max_new_tokens": max_new_tokens,
        "temperature": temperature,
        "top_p": top_p,
        "stop": stops,
        "seed": seed,
    }


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
