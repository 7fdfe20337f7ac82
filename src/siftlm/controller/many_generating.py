"""Continue many prompts at once, each with the adapter of its own prompt."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from siftlm.controller.generating import (
    Generated,
    check_sampling,
    eos_token_ids,
    generated_text,
    neutral_generation_config,
    prompt_token_ids,
)
from siftlm.controller.many_batches import BatchBudget, batches
from siftlm.controller.stacked import AdapterStack
from siftlm.extras import load

if TYPE_CHECKING:
    from siftlm.controller.controller import Controller


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
    """`siftlm.controller.generating.generate` for every prompt; each row draws from a generator of its own."""
    torch = load("torch", "tune")
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
    torch, transformers = load("torch", "tune"), load("transformers", "tune")
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
        torch, transformers = load("torch", "tune"), load("transformers", "tune")
        self._warpers = [transformers.TemperatureLogitsWarper(temperature)] if temperature != 1.0 else []
        if top_p < 1.0:
            self._warpers.append(transformers.TopPLogitsWarper(top_p))
        self._sources = [torch.Generator(device).manual_seed(seed) for _ in range(rows)]

    def __call__(self, ids: Any, scores: Any) -> Any:
        torch = load("torch", "tune")
        for warper in self._warpers:
            scores = warper(ids, scores)
        likely = torch.softmax(scores, dim=-1)
        drawn = [
            torch.multinomial(row[None], num_samples=1, generator=source)
            for row, source in zip(likely, self._sources, strict=True)
        ]
        return torch.full_like(scores, -torch.inf).scatter_(1, torch.cat(drawn), 0.0)
