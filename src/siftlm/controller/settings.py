"""How to tune and how to sample: every setting by name, with published defaults where there are any."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar

from siftlm.errors import Conflict, InvalidInput, setting
from siftlm.settings import Settings
from siftlm.validation import choice, flag, list_of_texts, number, whole_number

ORDERS = ("picked", "reversed")
REPEATS = ("steps", "grouped", "scaled")
PRECISIONS = ("auto", "float32", "bfloat16")
# Scores are divided by the temperature: below this they would be infinite.
MIN_TEMPERATURE = 1e-6
# What torch's generators take, with room for the choices that are counted on from it.
MAX_SEED = 2**63 - 1


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class Tuning(Settings):
    """How a controller learns from texts. What is ``None`` is decided when the model is known.

    >>> Tuning(rate=1e-3, passes=2)
    Tuning(rate=0.001, passes=2)
    >>> Tuning.from_dict(Tuning(rate=1e-3).to_dict()) == Tuning(rate=1e-3)
    True
    >>> Tuning(order="reverse")
    Traceback (most recent call last):
    siftlm.errors.UnknownName: unknown order 'reverse'; did you mean 'reversed'? Known: picked, reversed
    """

    kind: ClassVar[str] = "setting of tuning"

    rate: float | None = None
    """Learning rate; see `rate_for`."""
    betas: tuple[float, float] = (0.9, 0.999)
    """The decay of Adam's two moments, which begin at zero for each prompt."""
    epsilon: float = 1e-8
    decay: float = 0.0
    """Weight decay, decoupled as in AdamW."""
    clip: float | None = None
    """Largest norm of a gradient."""
    dropout: float = 0.0
    """In every dropout layer of the model, while it learns."""
    order: str = "picked"
    """``picked``: most informative first; ``reversed``: last."""
    passes: int = 1
    """How often to go over all texts."""
    windows: int = 1
    """Learn from at most so many windows of a text, each in a step of its own."""
    window: int | None = None
    """Tokens in a window; left out, the model's context."""
    completion: str | None = None
    """Learn only from what follows the first of these in a text, such as ``"\\nA: "``; without it, from all."""
    repeats: str = "steps"
    """A text that was picked several times: ``steps`` takes each pick where it comes, ``grouped`` all at its first,
    ``scaled`` one step whose rate is multiplied by the count."""
    reuse: int = 1
    """Compute the gradient of a repeated text only every so many steps on it, and take it again between."""
    seconds: float | None = None
    """Take no step after so many seconds."""
    tokens: int | None = None
    """Take no step beyond so many tokens."""
    watch_every: int | None = None
    """Steps between two looks at what is watched; left out, a quarter of all, and at least 5."""
    patience: int = 2
    """Looks without an improvement after which tuning ends."""
    explode: float = 2.0
    """A loss above so many times that of guessing every token alike ends tuning."""
    precision: str = "auto"
    """The arithmetic of a step: ``float32`` or ``bfloat16``; ``auto`` takes bfloat16 where the processor
    has instructions for it. Weights, moments and scores stay as they are."""
    checkpointing: bool = False
    """Recompute activations instead of keeping them: less memory, a third slower."""
    compile: bool = False
    """Compile the forward pass; worth it when many prompts follow."""
    seed: int = 0
    """The seed of dropout."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("rate", "clip", "seconds"):
            if getattr(self, name) is not None:
                number(name, getattr(self, name), above=0)
        number("epsilon", self.epsilon, above=0)
        number("explode", self.explode, above=0)
        number("decay", self.decay, least=0)
        number("dropout", self.dropout, least=0, below=1)
        betas: Any = self.betas
        if not isinstance(betas, (tuple, list)) or len(betas) != 2:
            raise InvalidInput(f"{setting('betas')} must be two numbers, got {betas!r}")
        for beta in betas:
            number("each of betas", beta, least=0, below=1)
        if not isinstance(betas, tuple):  # JSON has lists
            object.__setattr__(self, "betas", tuple(betas))
        whole_number("seed", self.seed, least=0, most=MAX_SEED)
        for name in ("checkpointing", "compile"):
            flag(name, getattr(self, name))
        for name in ("passes", "windows", "reuse", "patience"):
            whole_number(name, getattr(self, name))
        # The first token of a window is not learned.
        for name, least in (("window", 2), ("tokens", 1), ("watch_every", 1)):
            if getattr(self, name) is not None:
                whole_number(name, getattr(self, name), least=least)
        for name, known in (("order", ORDERS), ("repeats", REPEATS), ("precision", PRECISIONS)):
            choice(name, getattr(self, name), known)
        if self.reuse > 1 and self.repeats != "grouped":
            raise Conflict(
                f"{setting('reuse', self.reuse)} needs {setting('repeats', 'grouped')}: a gradient is reused "
                f"right after it was made"
            )
        completion: Any = self.completion
        if completion is not None and not (isinstance(completion, str) and completion):
            raise InvalidInput(f"{setting('completion')} must be a text to look for, or None, got {completion!r}")

    @property
    def draws(self) -> bool:
        """May the model draw from torch's random state while it learns? Checkpointing takes train mode."""
        return self.dropout > 0 or self.checkpointing


@cache
def setting_names() -> tuple[str, ...]:
    """The names of all settings of tuning."""
    return tuple(Tuning.names())


def rate_for(parameters: int, adapters: bool) -> float:
    """A learning rate to start from: 5e-5 is published for GPT-2; the others follow its trend and our own trials.

    >>> rate_for(124_000_000, adapters=False)
    5e-05
    """
    if adapters:
        return 1e-3 if parameters < 30e6 else 5e-4 if parameters < 500e6 else 2e-4
    return 3e-4 if parameters < 30e6 else 5e-5 if parameters < 1e9 else 1e-5


@dataclass(frozen=True)
class PlannedStep:
    """One step: the text that it learns, and how."""

    text: int
    """The text's place among all; that of the first, for one that is there several times."""
    scale: float = 1.0
    """Multiplies the learning rate."""
    reuse: bool = False
    """Take the gradient that is there already."""


def plan_steps(texts: Sequence[str], settings: Tuning) -> list[PlannedStep]:
    """All steps, in order.

    >>> [step.text for step in plan_steps(["a", "b", "a"], Tuning(repeats="grouped"))]
    [0, 0, 1]
    """
    first: dict[str, int] = {}
    places = [first.setdefault(text, place) for place, text in enumerate(texts)]
    if settings.order == "reversed":
        places.reverse()
    counts = Counter(places)
    if settings.repeats == "steps":
        once = [PlannedStep(place) for place in places]
    elif settings.repeats == "scaled":
        once = [PlannedStep(place, scale=float(counts[place])) for place in dict.fromkeys(places)]
    else:
        once = [
            PlannedStep(place, reuse=time % settings.reuse != 0)
            for place in dict.fromkeys(places)
            for time in range(counts[place])
        ]
    return once * settings.passes


@dataclass(frozen=True)
class SamplingParams:
    """How one continuation is drawn, and where it ends."""

    max_tokens: int = 16
    temperature: float = 1.0
    """0 takes the likeliest token each time; 1 draws as the model says."""
    top_p: float = 1.0
    """Draw among the likeliest tokens that together have this probability."""
    stop: tuple[str, ...] = ()
    """End before any of these texts."""
    seed: int = 0
    """The seed of the drawing; of several choices, choice i draws from a generator of its own with the seed + i."""
    top: int | None = None
    """Also say how likely each token was, and these many most likely ones (0: only the token itself)."""


def stop_strings(stop: str | Sequence[str]) -> tuple[str, ...]:
    """One stop text, or several, as `SamplingParams` takes them."""
    return (stop,) if isinstance(stop, str) else tuple(list_of_texts("stop", stop))


def check_sampling(
    max_new_tokens: Any, temperature: Any, top_p: Any, stops: Sequence[Any], context: int, seed: Any = 0
) -> None:
    """Refuse what is wrong with how to continue, by its name."""
    whole_number("max_new_tokens", max_new_tokens, most=context - 1)
    if 0 < number("temperature", temperature, least=0, below=100) < MIN_TEMPERATURE:
        raise InvalidInput(
            f"{setting('temperature')} must be 0 (the likeliest token each time) or {MIN_TEMPERATURE:g} or more, "
            f"got {temperature!r}"
        )
    number("top_p", top_p, above=0, most=1)
    if not all(isinstance(one, str) and one for one in stops):
        raise InvalidInput(f"{setting('stop')} must be non-empty strings, got {stops!r}")
    whole_number("seed", seed, least=0, most=MAX_SEED)
