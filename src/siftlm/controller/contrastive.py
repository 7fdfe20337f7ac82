"""Contrastive decoding: continuations that a tuned model likes and its base model does not.

At each token, with p of the tuned model and q of the base model,

    score(x) = log p(x) − scale · log q(x)   where p(x) ≥ plausible · max p,   else −∞

and the token is drawn from softmax(score / temperature). The condition keeps out what neither model would say. The
score is that of contrastive decoding (Li et al. 2023); between a model before and after training it shows what the
training data brought in (Isonuma and Titov 2024).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from inspect import signature
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import torch
import transformers

from siftlm.controller.generation import BatchDecoder, Generated, caches_tokens_alone, generate
from siftlm.controller.settings import SamplingParams
from siftlm.errors import Conflict

if TYPE_CHECKING:
    from siftlm.controller.controller import Controller


@dataclass(eq=False)
class PairedCache:
    """The keys and values of two models that read the same tokens, handled as one cache with the layers of both."""

    tuned: Any
    base: Any

    @property
    def layers(self) -> list[Any]:
        """The layers of the tuned model, and those of the base model."""
        return [*self.tuned.layers, *self.base.layers]

    def batch_select_indices(self, rows: torch.Tensor) -> None:
        """Keep these rows."""
        self.tuned.batch_select_indices(rows)
        self.base.batch_select_indices(rows)


class ContrastiveModel(torch.nn.Module):  # type: ignore[misc]
    """Two models as one, whose logits are the contrastive score; see the formula above."""

    def __init__(self, tuned: torch.nn.Module, base: torch.nn.Module, scale: float, plausible: float) -> None:
        super().__init__()
        self.tuned, self.base = tuned, base
        self._scale, self._log_plausible = scale, math.log(plausible)
        self._known = [signature(model.forward).parameters for model in (tuned, base)]
        # A decoder reads from it what the model keeps: of the two, the one that keeps more than keys and values.
        self.config: Any = tuned.config if caches_tokens_alone(base.config) else base.config

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        past_key_values: Any = None,
        use_cache: bool = False,
        logits_to_keep: int = 0,
    ) -> SimpleNamespace:
        """The score of every next token, (rows, tokens, vocabulary)."""
        caches: PairedCache | None = None
        if use_cache and past_key_values is not None:
            caches = past_key_values if isinstance(past_key_values, PairedCache) else None
            caches = caches or PairedCache(transformers.DynamicCache(), transformers.DynamicCache())
        more = {"attention_mask": attention_mask, "position_ids": position_ids, "logits_to_keep": logits_to_keep}
        both = []
        for model, known, cache in zip(
            (self.tuned, self.base),
            self._known,
            (None, None) if caches is None else (caches.tuned, caches.base),
            strict=True,
        ):
            own = {name: value for name, value in more.items() if name in known and value is not None}
            if cache is not None:
                own["past_key_values"] = cache
            logits = model(input_ids=input_ids, use_cache=cache is not None, **own).logits
            both.append(logits if logits_to_keep == 0 else logits[:, -logits_to_keep:])
        return SimpleNamespace(logits=self._score(*both), past_key_values=caches)

    def _score(self, tuned: torch.Tensor, base: torch.Tensor) -> torch.Tensor:
        words = min(tuned.shape[-1], base.shape[-1])  # models are padded to round numbers of tokens
        log_p = torch.log_softmax(tuned[..., :words].float(), dim=-1)
        log_q = torch.log_softmax(base[..., :words].float().to(log_p.device), dim=-1)
        possible = log_p >= log_p.max(dim=-1, keepdim=True).values + self._log_plausible
        return torch.where(possible, log_p - self._scale * log_q, -math.inf)


def contrastive_samples(
    tuned: Controller,
    base: Controller,
    prompts: Sequence[str],
    sampling: SamplingParams,
    *,
    scale: float = 1.0,
    plausible: float = 0.1,
) -> list[Generated]:
    """Continue each prompt by the contrastive score of the two models as they are; prompt i draws with seed + i."""
    check_same_tokens(tuned, base)

    def draw() -> list[Generated]:
        decoder = BatchDecoder(ContrastiveModel(tuned.model, base.model, scale, plausible), tuned.budget)
        many = len(prompts)
        seeds = [sampling.seed + at for at in range(many)]
        return generate(tuned, decoder, prompts, [[]] * many, [0] * many, sampling, seeds)

    return tuned.evaluating(lambda: base.evaluating(draw))


def check_same_tokens(tuned: Controller, base: Controller) -> None:
    """Raise where two models do not read the same tokens, so that their likelihoods of one cannot be compared."""
    if tuned.tokenizer is not base.tokenizer and tuned.tokenizer.get_vocab() != base.tokenizer.get_vocab():
        raise Conflict(
            f"{tuned.name!r} and {base.name!r} have different tokens, so their likelihoods of a token cannot be "
            "compared: the base must be the model that was tuned"
        )
