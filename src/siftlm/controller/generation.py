"""Generation: prompts are continued token by token."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import transformers

from siftlm.controller.batching import BatchBudget, batches
from siftlm.controller.stacked import AdapterStack
from siftlm.controller.tokens import prefix_token_ids, start_token, text_token_ids
from siftlm.errors import InvalidInput
from siftlm.validation import number, whole_number

if TYPE_CHECKING:
    from siftlm.controller.controller import Controller

# Tokens of the prompt that are looked at: enough to tell whether the first new one begins with a space.
DETOKENIZER_PREFIX_TOKENS = 8
REPLACEMENT_CHARACTER = "\ufffd"
"""What a tokenizer writes for bytes that are not yet a character."""


class Detokenizer:
    """The text of tokens that arrive one by one.

    A token alone would lose the space that it begins with, or be half a character; so it is spelled behind those before
    it, and half a character waits for the rest.
    """

    def __init__(self, tokenizer: Any, before: Sequence[int] = ()) -> None:
        self._tokenizer = tokenizer
        self._ids = list(before)[-DETOKENIZER_PREFIX_TOKENS:]
        self._from, self._said = 0, len(self._ids)

    def add(self, token: int) -> str:
        """What this token adds; empty where it ends inside a character."""
        self._ids.append(token)
        return self._new(wait=True)

    def rest(self) -> str:
        """What was still waited for, when no token follows."""
        return self._new(wait=False)

    def _new(self, *, wait: bool) -> str:
        before = self._text(self._ids[self._from : self._said])
        now = self._text(self._ids[self._from :])
        if wait and now.endswith(REPLACEMENT_CHARACTER):
            return ""
        # Only what later tokens may still change is spelled again.
        self._from, self._said = self._said, len(self._ids)
        return now[len(before) :] if now.startswith(before) else now

    def _text(self, ids: Sequence[int]) -> str:
        return str(self._tokenizer.decode(ids, skip_special_tokens=True)) if ids else ""


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
    model.generation_config = transformers.GenerationConfig()
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
    if 0 < number("temperature", temperature, least=0, below=100) < MIN_TEMPERATURE:
        raise InvalidInput(
            f"temperature must be 0 (the likeliest token each time) or {MIN_TEMPERATURE:g} or more, got {temperature!r}"
        )
    number("top_p", top_p, above=0, most=1)
    if not all(isinstance(one, str) and one for one in stops):
        raise InvalidInput(f"stop must be texts with something in them, got {stops!r}")


def generate_batch(
    controller: Controller,
    stack: AdapterStack,
    room: BatchBudget,
    prompts: Sequence[str],
    owners: Sequence[int],
    fixed: Sequence[Sequence[int]],
    max_new_tokens: int,
    *,
    temperature: float = 0.0,
    top_p: float = 1.0,
    stop: str | Sequence[str] = (),
    seed: int = 0,
) -> list[Generated]:
    """`siftlm.controller.generation.generate` for every prompt; each row draws from a generator of its own."""
    stops = [stop] if isinstance(stop, str) else list(stop)
    check_sampling(max_new_tokens, temperature, top_p, stops, controller.context)
    read = [
        prompt_token_ids(controller, prompt, own, max_new_tokens) for prompt, own in zip(prompts, fixed, strict=True)
    ]
    made: list[Generated] = [Generated("", 0, "length")] * len(prompts)
    # The cache holds what is read and what is made.
    for batch in batches([len(ids) + max_new_tokens for ids, _ in read], room):
        draw = _RowSampler(len(batch), temperature, top_p, seed, stack.weights.device) if temperature > 0 else None
        with torch.inference_mode(), stack.rows([owners[place] for place in batch]):
            rows = _generate_ids(controller, [read[place][0] for place in batch], max_new_tokens, stops, draw)
        for place, ids in zip(batch, rows, strict=True):
            made[place] = _to_generated(controller, read[place], ids, stops)
    return made


def _generate_ids(
    controller: Controller, read: Sequence[Sequence[int]], most: int, stops: Sequence[str], draw: _RowSampler | None
) -> list[list[int]]:
    tokenizer, model = controller.tokenizer, controller.model
    device = next(model.parameters()).device
    ends = eos_token_ids(controller)
    filling = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    width = max(len(ids) for ids in read)
    # On the left, so that all continue at the same place.
    rows = torch.tensor([[filling or 0] * (width - len(ids)) + list(ids) for ids in read], device=device)
    mask = torch.tensor([[0] * (width - len(ids)) + [1] * len(ids) for ids in read], device=device)
    config = transformers.GenerationConfig(
        max_new_tokens=most, do_sample=False, pad_token_id=filling, eos_token_id=ends or None
    )
    extra: dict[str, Any] = {"stop_strings": list(stops), "tokenizer": tokenizer} if stops else {}
    if draw is not None:
        extra["logits_processor"] = transformers.LogitsProcessorList([draw])
    with neutral_generation_config(model):
        made = model.generate(input_ids=rows, attention_mask=mask, generation_config=config, **extra)[:, width:]
    # What follows a row's end is padding that waits for the longest.
    return [ids[: next((at for at, one in enumerate(ids, 1) if one in ends), None)] for ids in made.tolist()]


def _to_generated(
    controller: Controller, read: tuple[Sequence[int], int], ids: Sequence[int], stops: Sequence[str]
) -> Generated:
    (*_, last), cut = read
    text = generated_text(controller.tokenizer, last, ids)
    places = [text.find(one) for one in stops if one in text]
    if not places:
        ended = bool(ids) and ids[-1] in eos_token_ids(controller)
        return Generated(text, len(ids), "end" if ended else "length", cut)
    # The row ended with the token that completed a stop text, and was padded from there on.
    heard = (generated_text(controller.tokenizer, last, ids[:n]) for n in range(1, len(ids) + 1))
    count = next(n for n, text in enumerate(heard, 1) if any(one in text for one in stops))
    return Generated(text[: min(places)], count, "stop", cut)


class _RowSampler:
    """Leaves one token a row: the one that a prompt alone, with the same seed, would have drawn."""

    def __init__(self, rows: int, temperature: float, top_p: float, seed: int, device: Any) -> None:
        self._warpers = [transformers.TemperatureLogitsWarper(temperature)] if temperature != 1.0 else []
        if top_p < 1.0:
            self._warpers.append(transformers.TopPLogitsWarper(top_p))
        self._sources = [torch.Generator(device).manual_seed(seed) for _ in range(rows)]

    def __call__(self, ids: Any, scores: Any) -> Any:
        for warper in self._warpers:
            scores = warper(ids, scores)
        likely = torch.softmax(scores, dim=-1)
        drawn = [
            torch.multinomial(row[None], num_samples=1, generator=source)
            for row, source in zip(likely, self._sources, strict=True)
        ]
        return torch.full_like(scores, -torch.inf).scatter_(1, torch.cat(drawn), 0.0)
