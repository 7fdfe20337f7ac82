"""Continue a prompt."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from siftlm.controller.checks import number, whole_number
from siftlm.controller.tokens import prefix_token_ids, start_token, text_token_ids
from siftlm.errors import InvalidInput
from siftlm.extras import load

if TYPE_CHECKING:
    from siftlm.controller.controller import Controller


# Scores are divided by the temperature: below this they would be infinite.
MIN_TEMPERATURE = 1e-6


@dataclass(frozen=True)
class Generated:
    """A continuation."""

    text: str
    """Without the prompt."""
    tokens: int
    """That were made."""
    stopped: str
    """``end``: the model ended it; ``stop``: a stop text was met; ``length``: there was no room for more."""
    cut: int = 0
    """Tokens of the prompt's beginning that did not fit into the context."""


def generate(
    controller: Controller,
    prompt: str,
    fixed: Sequence[int],
    max_new_tokens: int,
    *,
    temperature: float = 0.0,
    top_p: float = 1.0,
    stop: str | Sequence[str] = (),
    seed: int = 0,
) -> Generated:
    """Continue ``prompt``.

    Args:
        controller: whose model is asked, as it is now.
        prompt: its beginning is left out where it is too long.
        fixed: tokens in front of it.
        max_new_tokens: the longest continuation.
        temperature: 0 takes the likeliest token each time; 1 draws as the model says.
        top_p: draw among the likeliest tokens that together have this probability.
        stop: end before any of these texts.
        seed: of the drawing. The random state of the caller stays as it is.
    """
    torch, transformers = load("torch", "tune"), load("transformers", "tune")
    stops = [stop] if isinstance(stop, str) else list(stop)
    check_sampling(max_new_tokens, temperature, top_p, stops, controller.context)
    tokenizer, model = controller.tokenizer, controller.model
    device = next(model.parameters()).device
    read, cut = prompt_token_ids(controller, prompt, fixed, max_new_tokens)
    row = torch.tensor([read], device=device)
    ends = eos_token_ids(controller)
    config = transformers.GenerationConfig(
        max_new_tokens=max_new_tokens,
        do_sample=temperature > 0,
        pad_token_id=tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id,
        eos_token_id=ends or None,
        **({"temperature": temperature, "top_p": top_p, "top_k": 0} if temperature > 0 else {}),
    )
    extra = {"stop_strings": stops, "tokenizer": tokenizer} if stops else {}
    with (
        torch.random.fork_rng(devices=[device.index or 0] if device.type == "cuda" else []),
        torch.inference_mode(),
        neutral_generation_config(model),
    ):
        torch.manual_seed(seed)
        made = model.generate(input_ids=row, attention_mask=torch.ones_like(row), generation_config=config, **extra)[
            0, len(read) :
        ].tolist()
    text = generated_text(tokenizer, read[-1], made)
    places = [text.find(one) for one in stops if one in text]
    stopped = "stop" if places else "end" if made and made[-1] in ends else "length"
    return Generated(text[: min(places)] if places else text, len(made), stopped, cut)


def prompt_token_ids(controller: Controller, prompt: str, fixed: Sequence[int], most: int) -> tuple[list[int], int]:
    """The tokens to continue with up to ``most``, and how many of the prompt's did not fit."""
    ids = text_token_ids(controller.tokenizer, prompt)
    left = controller.context - most
    fixed = fixed[: max(left // 2, left - len(ids))]
    head = [] if fixed else prefix_token_ids(controller.tokenizer)
    room = max(1, left - len(fixed) - len(head))
    start = start_token(controller.tokenizer)
    read = [*fixed, *head, *ids[-room:]]
    if not read and start is None:
        raise InvalidInput("the prompt is empty, and the model has no token to begin with")
    return read or [start or 0], max(0, len(ids) - room)


def eos_token_ids(controller: Controller) -> list[int]:
    """Every token that ends a text: chat models have several, and the tokenizer knows of one."""
    known = getattr(controller.model.generation_config, "eos_token_id", None)
    several = list(known) if isinstance(known, (list, tuple)) else [known]
    return [end for end in dict.fromkeys([controller.tokenizer.eos_token_id, *several]) if isinstance(end, int)]


@contextmanager
def neutral_generation_config(model: Any) -> Iterator[None]:
    """Inside, nothing is added to what was asked for: models come with penalties and temperatures of their own."""
    before = model.generation_config
    model.generation_config = load("transformers", "tune").GenerationConfig()
    try:
        yield
    finally:
        model.generation_config = before


def generated_text(tokenizer: Any, last: int, made: Sequence[int]) -> str:
    """The tokens that were made, as text behind ``last``: by themselves some would lose the space they begin with."""
    before = tokenizer.decode([last], skip_special_tokens=True)
    whole = tokenizer.decode([last, *made], skip_special_tokens=True)
    return str(whole[len(before) :] if whole.startswith(before) else tokenizer.decode(made, skip_special_tokens=True))


def check_sampling(most: Any, temperature: Any, top_p: Any, stops: Sequence[Any], context: int) -> None:
    """All that can be wrong with how to continue."""
    whole_number("max_new_tokens", most, most=context - 1)
    if 0 < number("temperature", temperature, below=100) < MIN_TEMPERATURE:
        raise InvalidInput(
            f"temperature must be 0 (the likeliest token each time) or {MIN_TEMPERATURE:g} or more, got {temperature!r}"
        )
    if number("top_p", top_p, above=True) > 1:
        raise InvalidInput(f"top_p must be above 0 and up to 1, got {top_p!r}")
    if not all(isinstance(one, str) and one for one in stops):
        raise InvalidInput(f"stop must be texts with something in them, got {stops!r}")
