"""Generation: prompts are continued token by token, each through its own adapter; rows join and leave between tokens.

Rows that are under way share one forward pass and one cache of keys and values, padded on the left to the longest.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from inspect import signature
from typing import TYPE_CHECKING, Any

import torch
import transformers
from transformers import TemperatureLogitsWarper, TopPLogitsWarper

from siftlm.controller.detokenizer import Detokenizer, StopStrings
from siftlm.controller.forward import BatchBudget, batches
from siftlm.controller.settings import SamplingParams, check_sampling
from siftlm.controller.tokens import text_token_ids
from siftlm.errors import InvalidInput

if TYPE_CHECKING:
    from siftlm.controller.controller import Controller
    from siftlm.controller.stacked import AdapterStack, LoraFactors

# Under which a model takes and returns what it keeps of the tokens it has read.
CACHE_NAMES = ("past_key_values", "cache_params", "state")
# Layers of a cache that hold the keys and values of single tokens.
TOKEN_CACHE_LAYERS = {"DynamicLayer", "DynamicSlidingWindowLayer"}


@dataclass(frozen=True)
class Generated:
    """A continuation."""

    text: str
    """Without the prompt."""
    tokens: int
    """How many were made."""
    stopped: str
    """``end``: the model ended it; ``stop``: a stop text was met; ``length``: there was no room for more."""
    cut: int = 0
    """Tokens of the prompt's beginning that did not fit into the context."""


@dataclass(frozen=True)
class SampledToken:
    """A token, and what is known of it."""

    id: int
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()
    """Likeliest first; the token itself is there as well."""


@dataclass(eq=False)
class DecodingRow:
    """One continuation."""

    ids: tuple[int, ...]
    """The tokens that are read before it, at least one."""
    owner: int = 0
    """The prompt whose adapter it passes through."""
    sampling: SamplingParams = field(default_factory=SamplingParams)
    """Its ``max_tokens`` may be 0: then it is only read. Stop texts are for who reads the tokens."""
    echo: bool = False
    """With ``sampling.top``: fill in `read`."""
    read: tuple[SampledToken, ...] = ()
    """The tokens of ``ids`` behind the first."""
    made: int = 0
    generator: Any = field(default=None, repr=False)
    """Draws for this row alone."""

    @property
    def complete(self) -> bool:
        """Has it all the tokens that it may have?"""
        return self.made >= self.sampling.max_tokens


DrawnTokens = list[tuple[DecodingRow, SampledToken]]


def generate(
    controller: Controller,
    decoder: BatchDecoder,
    prompts: Sequence[str],
    contexts: Sequence[Sequence[int]],
    owners: Sequence[int],
    sampling: SamplingParams,
    seeds: Sequence[int] | None = None,
) -> list[Generated]:
    """Continue every prompt behind the tokens of its context, with what it would be continued with alone.

    The beginning of a prompt is left out where it is too long. Every row draws from a generator of its own, with the
    same seed or with that of ``seeds``; the random state of the caller stays as it is.
    """
    own = sampling
    check_sampling(own.max_tokens, own.temperature, own.top_p, own.stop, controller.context, own.seed)
    ends = set(eos_token_ids(controller))
    rows: list[DecodingRow] = []
    texts: dict[int, _ContinuationText] = {}
    own_seeds = [sampling.seed] * len(prompts) if seeds is None else seeds
    for prompt, context, owner, seed in zip(prompts, contexts, owners, own_seeds, strict=True):
        ids, cut = prompt_token_ids(controller, prompt, context, sampling.max_tokens)
        rows.append(DecodingRow(tuple(ids), owner, replace(sampling, seed=seed)))
        texts[id(rows[-1])] = _ContinuationText(controller.tokenizer, rows[-1], ends, cut)
    # The cache holds what is read and what is made.
    for batch in decoder.batches([len(row.ids) + sampling.max_tokens for row in rows]):
        drawn = decoder.join([rows[place] for place in batch])
        while drawn:
            decoder.leave([row for row, token in drawn if texts[id(row)].add(token.id)])
            drawn = decoder.step()
    return [Generated(text.text, text.row.made, text.reason, text.cut) for text in texts.values()]


def prompt_token_ids(controller: Controller, prompt: str, fixed: Sequence[int], most: int) -> tuple[list[int], int]:
    """The tokens to continue with up to ``most``, and how many of the prompt's did not fit."""
    ids = text_token_ids(controller.tokenizer, prompt, controller.vocabulary)
    left = controller.context - most
    fixed = fixed[: max(left // 2, left - len(ids))]
    head = [] if fixed else controller.prefix_tokens
    room = max(1, left - len(fixed) - len(head))
    start = controller.start_token
    read = [*fixed, *head, *ids[-room:]]
    if not read and start is None:
        raise InvalidInput("the prompt is empty, and the model has no token to begin with")
    return read or [start or 0], max(0, len(ids) - room)


def eos_token_ids(controller: Controller) -> list[int]:
    """Every token that ends a text: chat models have several, and the tokenizer knows of one."""
    known = getattr(controller.model.generation_config, "eos_token_id", None)
    several = list(known) if isinstance(known, (list, tuple)) else [known]
    return [end for end in dict.fromkeys([controller.tokenizer.eos_token_id, *several]) if isinstance(end, int)]


class _ContinuationText:
    """The text of one row, up to a stop text or its end."""

    def __init__(self, tokenizer: Any, row: DecodingRow, ends: Collection[int], cut: int) -> None:
        self.row, self.cut = row, cut
        self._ends = ends
        self._detokenizer, self._stops = Detokenizer(tokenizer, row.ids), StopStrings(row.sampling.stop)
        self.text = ""
        self.reason = ""
        """As `Generated.stopped`; empty while it goes on."""

    def add(self, token: int) -> bool:
        """Is it over with this token?"""
        ended = token in self._ends
        self.text += self._stops.add(self._detokenizer.add(token))
        if ended or self.row.complete:
            self.text += self._stops.add(self._detokenizer.flush()) + self._stops.flush()
            self.reason = "end" if ended else "length"
        if self._stops.stopped:
            self.reason = "stop"
        return bool(self.reason)


@dataclass(eq=False)
class _RowGroup:
    """Rows that go through the model together."""

    rows: list[DecodingRow]
    unread: torch.Tensor
    """(rows, tokens) that the model has not read yet: at first all, then the newest, or all again without a cache."""
    mask: torch.Tensor
    """(rows, tokens so far): 0 where there is padding."""
    cache: dict[str, Any]
    """Those of `CACHE_NAMES` that the model uses."""
    factors: LoraFactors
    """The rows' adapters, gathered once."""


class BatchDecoder:
    """The rows under way.

    Args:
        model: continues them.
        budget: what one pass may hold.
        adapters: each row passes through that of its owner; without, through the model alone.

    Models that keep something other than the keys and values of each token, such as recurrent ones, read every row for
    itself.
    """

    def __init__(self, model: Any, budget: BatchBudget, adapters: AdapterStack | None = None) -> None:
        self._model, self._budget, self._adapters = model, budget, adapters
        self._device = next(model.parameters()).device if adapters is None else adapters.weights.device
        self._known = signature(model.forward).parameters
        self._shared = "past_key_values" in self._known and caches_tokens_alone(model.config)
        self._groups: list[_RowGroup] = []

    def __len__(self) -> int:
        return sum(len(group.rows) for group in self._groups)

    def batches(self, lengths: Sequence[int]) -> list[list[int]]:
        """Places of the rows that go through the model together."""
        return batches(lengths, self._budget) if self._shared else [[place] for place in range(len(lengths))]

    def join(self, rows: Sequence[DecodingRow]) -> DrawnTokens:
        """Read what stands before them; the first token of each that is to be continued."""
        drawn: DrawnTokens = []
        with torch.inference_mode():
            for batch in self.batches([len(row.ids) for row in rows]):
                drawn += self._start([rows[place] for place in batch])
            self._unite()
        return drawn

    def step(self) -> DrawnTokens:
        """The next token of every row."""
        drawn: DrawnTokens = []
        with torch.inference_mode():
            for group in self._groups:
                group.mask = torch.cat([group.mask, torch.ones_like(group.mask[:, :1])], dim=1)
                drawn += self._draw(group, self._logits(group)[:, -1], range(len(group.rows)))
            self._keep(lambda row: not row.complete)
        return drawn

    def leave(self, rows: Sequence[DecodingRow]) -> None:
        """These are complete, or nobody waits for them."""
        gone = {id(row) for row in rows}
        if any(id(row) in gone for group in self._groups for row in group.rows):
            with torch.inference_mode():
                self._keep(lambda row: id(row) not in gone)

    # --- inside

    def _start(self, rows: list[DecodingRow]) -> DrawnTokens:
        width = max(len(row.ids) for row in rows)
        # On the left, so that all continue at the same place.
        ids = torch.tensor([[0] * (width - len(row.ids)) + list(row.ids) for row in rows], device=self._device)
        mask = torch.tensor([[0] * (width - len(row.ids)) + [1] * len(row.ids) for row in rows], device=self._device)
        going = [place for place, row in enumerate(rows) if not row.complete]
        cache = {"past_key_values": transformers.DynamicCache()} if going and self._shared else {}
        group = _RowGroup(list(rows), ids, mask, cache, self._factors(rows))
        logits = self._logits(group, use_cache=bool(going), every=any(row.echo for row in rows))
        for place, row in enumerate(rows):
            if row.echo and row.sampling.top is not None:
                scores = logits[place, width - len(row.ids) : -1]
                row.read = tuple(_with_logprobs(scores, list(row.ids[1:]), row.sampling.top))
            if row.sampling.temperature:
                row.generator = torch.Generator(self._device).manual_seed(row.sampling.seed)
        drawn = self._draw(group, logits[:, -1], going) if going else []
        self._groups.append(group)
        self._keep(lambda row: not row.complete)
        return drawn

    def _factors(self, rows: Sequence[DecodingRow]) -> LoraFactors:
        return [] if self._adapters is None else self._adapters.factors([row.owner for row in rows])

    def _logits(self, group: _RowGroup, *, use_cache: bool = True, every: bool = False) -> torch.Tensor:
        """(rows, 1 or unread, vocabulary) float32."""
        more: dict[str, Any] = dict(group.cache)
        if self._shared:  # a row for itself has no padding
            more["attention_mask"] = group.mask
        if "position_ids" in self._known:
            more["position_ids"] = (group.mask.cumsum(dim=1) - 1).clamp(min=0)[:, -group.unread.shape[1] :]
        if "logits_to_keep" in self._known and not every:
            more["logits_to_keep"] = 1
        with nullcontext() if self._adapters is None else self._adapters.apply_factors(group.factors):
            output = self._model(input_ids=group.unread, use_cache=use_cache, **more)
        kept = {name: getattr(output, name, None) for name in CACHE_NAMES}
        group.cache = {name: cache for name, cache in kept.items() if cache is not None}
        return output.logits.float()

    def _draw(self, group: _RowGroup, scores: torch.Tensor, places: Sequence[int]) -> DrawnTokens:
        """The next token of these rows; each is what the row alone would have drawn."""
        tokens = scores.argmax(dim=-1).tolist()
        drawn: DrawnTokens = []
        for place in places:
            row = group.rows[place]
            if row.sampling.temperature:
                likely = torch.softmax(_warped_logits(scores[place : place + 1], row.sampling), dim=-1)
                if torch.isfinite(likely).all():  # what is odd about one row must not end the others
                    tokens[place] = int(torch.multinomial(likely, 1, generator=row.generator))
            token = SampledToken(tokens[place])
            if row.sampling.top is not None:
                (token,) = _with_logprobs(scores[place : place + 1], [tokens[place]], row.sampling.top)
            row.made += 1
            drawn.append((row, token))
        newest = torch.tensor(tokens, device=scores.device)[:, None]
        group.unread = newest if group.cache else torch.cat([group.unread, newest], dim=1)
        return drawn

    def _keep(self, goes_on: Callable[[DecodingRow], bool]) -> None:
        """Only such rows go on, without the padding that only others needed."""
        for group in self._groups:
            places = [place for place, row in enumerate(group.rows) if goes_on(row)]
            if places and len(places) < len(group.rows):
                self._select_rows(group, places)
            elif not places:
                group.rows = []
        self._groups = [group for group in self._groups if group.rows]

    def _select_rows(self, group: _RowGroup, places: Sequence[int]) -> None:
        at = torch.tensor(list(places), device=group.mask.device)
        cache = group.cache.get("past_key_values")
        if cache is not None:
            cache.batch_select_indices(at)
        group.mask, group.unread, group.rows = group.mask[at], group.unread[at], [group.rows[place] for place in places]
        spare = int((group.mask.cumsum(dim=1) == 0).sum(dim=1).min())
        if cache is not None and spare and _is_mergeable(cache):
            group.mask = group.mask[:, spare:]
            for layer in cache.layers:
                layer.keys, layer.values = layer.keys[:, :, spare:], layer.values[:, :, spare:]
        group.factors = self._factors(group.rows)

    def _unite(self) -> None:
        """One pass for all costs hardly more than one for some: the weights are read once."""
        caches = [group.cache.get("past_key_values") for group in self._groups]
        if len(caches) < 2 or not all(_is_mergeable(cache) for cache in caches):
            return
        widths = [group.mask.shape[1] for group in self._groups]
        # The keys of a group's last token are not yet there.
        short = [max(widths) - width for width in widths]
        rows = [row for group in self._groups for row in group.rows]
        first: Any = caches[0]
        for number, layer in enumerate(first.layers):
            own = [cache.layers[number] for cache in caches if cache is not None]
            layer.keys = torch.cat([_left_padded(one.keys, n) for one, n in zip(own, short, strict=True)])
            layer.values = torch.cat([_left_padded(one.values, n) for one, n in zip(own, short, strict=True)])
        mask = torch.cat(
            [torch.nn.functional.pad(group.mask, (n, 0)) for group, n in zip(self._groups, short, strict=True)]
        )
        unread = torch.cat([group.unread for group in self._groups])
        self._groups = [_RowGroup(rows, unread, mask, {"past_key_values": first}, self._factors(rows))]


def caches_tokens_alone(config: Any) -> bool:
    """Does a model keep nothing of a text but keys and values, so that a plain cache serves it?"""
    try:
        layers = transformers.DynamicCache(config=config.get_text_config(decoder=True)).layers
    except (TypeError, AttributeError):  # before transformers 4.56 there was no other cache to be made here
        return True
    except (KeyError, ValueError):  # a kind of layer that transformers does not know
        return False
    return {type(layer).__name__ for layer in layers} <= TOKEN_CACHE_LAYERS


def _is_mergeable(cache: Any) -> bool:
    """Does it hold the keys and values of every token, and nothing else?"""
    layers = getattr(cache, "layers", None)
    return layers is not None and all(type(layer).__name__ == "DynamicLayer" for layer in layers)


def _left_padded(states: torch.Tensor, columns: int) -> torch.Tensor:
    """(rows, heads, columns + tokens, width), zeros in front."""
    return torch.nn.functional.pad(states, (0, 0, columns, 0))


def _warped_logits(scores: torch.Tensor, sampling: SamplingParams) -> torch.Tensor:
    if sampling.temperature != 1.0:
        scores = TemperatureLogitsWarper(float(sampling.temperature))(None, scores)
    if sampling.top_p < 1.0:
        scores = TopPLogitsWarper(float(sampling.top_p))(None, scores)
    return scores


def _with_logprobs(scores: torch.Tensor, ids: Sequence[int], top: int) -> list[SampledToken]:
    """(n, vocabulary) scores, and the token that came at each: how likely it was, and what was likelier."""
    logprobs = torch.log_softmax(scores, dim=-1)
    best = logprobs.topk(min(max(1, top), logprobs.shape[-1]), dim=-1)
    came = torch.tensor(list(ids), dtype=torch.long, device=logprobs.device)  # of a prompt of one token none
    own = logprobs[torch.arange(len(ids), device=logprobs.device), came]
    tokens = []
    for token, its, places, values in zip(ids, own.tolist(), best.indices.tolist(), best.values.tolist(), strict=True):
        likely = dict(zip(places, values, strict=True))
        likely.setdefault(token, its)
        tokens.append(SampledToken(token, its, tuple(likely.items())))
    return tokens
