"""What travels between HTTP and the thread that owns the model: jobs one way, events the other."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from siftlm.controller import SamplingParams
from siftlm.memory import Found
from siftlm.types import Step, Trace


@dataclass(frozen=True)
class Mode:
    """How a request wants the model to learn."""

    name: str
    """As in the name of the model: ``base``, ``sift-50``, ``nn-50``, ``context-10``, ``auto``."""
    memory: str | None
    """The name of the memory that is learned from; None for the base model."""
    settings: Mapping[str, Any]
    """What `siftlm.LocalModel` takes: ``n``, ``method``, ``use``, ``rate``, …"""


@dataclass(frozen=True)
class Job:
    """One prompt to be continued, or scored."""

    ids: tuple[int, ...]
    """The prompt as the model reads it, special tokens included."""
    learn_for: str
    """The prompt as the memory reads it."""
    mode: Mode
    sampling: SamplingParams = field(default_factory=SamplingParams)
    choices: int = 1
    echo: bool = False
    """Also say the prompt, and with ``sampling.top`` how likely each of its tokens was."""
    deadline: float | None = None
    """``time.monotonic()`` from which on nobody waits for it."""
    export: Callable[[Hashable], Path | None] | None = None
    """It is continued elsewhere: asked where its adapter goes, in PEFT's format, once there is one; None: it is there.

    The adapters of equal keys are the same. The engine's thread calls it; for the base model nobody does.
    """
    asker: str = ""
    """Whose it is: what one key's requests have learned is not used for another's, who would see what was asked."""


@dataclass(frozen=True)
class Token:
    """A token that was read or made."""

    id: int
    text: str
    """What it adds to the text; the texts of all tokens together are the text."""
    logprob: float | None = None
    """Natural logarithm; None where nobody asked, and for the first of a prompt."""
    top: tuple[tuple[int, str, float], ...] = ()
    """(id, text, logprob) of the likeliest, best first; the likeliest is always there, and so is the token itself."""


# --- events, in the order in which they come. Every job ends with `Finished` or `Failed`, and nothing follows them.


@dataclass(frozen=True)
class Selected:
    """What is learned from."""

    found: Found
    cached: bool = False
    """True: the model has learned from it before, so no `Stepped` follows."""


@dataclass(frozen=True)
class Stepped:
    """A step was taken."""

    step: Step
    taken: int
    """So many by now."""
    planned: int


@dataclass(frozen=True)
class Tuned:
    """The model is ready for this prompt."""

    trace: Trace
    """Its ``ended`` says how that went; empty for the base model."""
    context: tuple[str, ...] = ()
    """Texts that are put before the prompt."""


@dataclass(frozen=True)
class PromptRead:
    """With ``echo``: the prompt's tokens."""

    tokens: tuple[Token, ...]


@dataclass(frozen=True)
class ChoiceDelta:
    """More of one choice."""

    choice: int
    text: str
    """To be shown now; may be empty while a stop text or half a character is waited for."""
    tokens: tuple[Token, ...]


@dataclass(frozen=True)
class ChoiceEnded:
    """One choice is complete."""

    choice: int
    reason: str
    """As OpenAI says it: ``stop`` (the model ended it, or a stop text was met) or ``length``."""
    tokens: int
    """That were made for it."""


@dataclass(frozen=True)
class Finished:
    """All choices are."""

    seconds: Mapping[str, float]
    """``queue``, ``select``, ``learn``, ``generate``."""


@dataclass(frozen=True)
class Failed:
    """Nothing more comes."""

    error: Exception
    """A `siftlm.errors.SiftlmError` where the request is to blame or its time was up (`TooLate`)."""


Event = Selected | Stepped | Tuned | PromptRead | ChoiceDelta | ChoiceEnded | Finished | Failed
EventCallback = Callable[[Event], None]
"""Called by the engine's thread: it must return at once and never raise."""
