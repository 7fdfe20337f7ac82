"""Continue many prompts token by token, each through its own adapter; rows join and leave between two tokens.

Rows that are under way share one forward pass and one cache of keys and values, padded on the left to the longest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from inspect import signature
from typing import TYPE_CHECKING, Any

import torch
import transformers

from siftlm.controller.batching import BatchBudget, batches

if TYPE_CHECKING:
    from siftlm.controller.controller import Controller
    from siftlm.controller.stacked import AdapterStack


@dataclass(eq=False)
class DecodingRow:
    """One continuation."""

    ids: tuple[int, ...]
    """What is read before it, at least one token."""
    owner: int
    """Whose adapter it passes through."""
    most: int
    """Tokens to be made; 0: only read."""
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    top: int | None = None
    """Say how likely each token was, and these many likeliest."""
    echo: bool = False
    """Say that of the tokens that are read, too."""
    read: tuple[SampledToken, ...] = ()
    """With ``echo``: the tokens behind the first."""
    made: int = 0
    source: Any = field(default=None, repr=False)
    """Draws for this row alone."""


@dataclass(frozen=True)
class SampledToken:
    """A token, and what is known of it."""

    id: int
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()
    """Likeliest first; the token itself is there as well."""


@dataclass(eq=False)
class _RowGroup:
    """Rows that go through the model together."""

    rows: list[DecodingRow]
    cache: Any
    mask: Any
    """(rows, tokens so far): 0 where there is padding."""
    last: Any
    """(rows, 1) the newest tokens, which are still to be read."""
    factors: Any
    """Of the rows' adapters, gathered once."""


class BatchDecoder:
    """The rows under way."""

    def __init__(self, controller: Controller, stack: AdapterStack, room: BatchBudget) -> None:
        self._model, self._stack, self._room = controller.model, stack, room
        known = signature(self._model.forward).parameters
        self._placed, self._few = "position_ids" in known, "logits_to_keep" in known
        self._groups: list[_RowGroup] = []

    def __len__(self) -> int:
        return sum(len(group.rows) for group in self._groups)

    def join(self, rows: Sequence[DecodingRow]) -> list[tuple[DecodingRow, SampledToken]]:
        """Read what stands before them; the first token of each that is to be continued."""
        found: list[tuple[DecodingRow, SampledToken]] = []
        with torch.inference_mode():
            for batch in batches([len(row.ids) for row in rows], self._room):
                group, drawn = self._begun([rows[place] for place in batch])
                found += drawn
                if group.rows:
                    self._groups.append(group)
            self._unite()
        return found

    def step(self) -> list[tuple[DecodingRow, SampledToken]]:
        """The next token of every row."""
        found: list[tuple[DecodingRow, SampledToken]] = []
        with torch.inference_mode():
            for group in self._groups:
                found += self._continued(group)
            self._keep(lambda row: row.made < row.most)
        return found

    def leave(self, rows: Sequence[DecodingRow]) -> None:
        """These are complete, or nobody waits for them."""
        gone = {id(row) for row in rows}
        if any(id(row) in gone for group in self._groups for row in group.rows):
            with torch.inference_mode():
                self._keep(lambda row: id(row) not in gone)

    # --- inside

    def _begun(self, rows: Sequence[DecodingRow]) -> tuple[_RowGroup, list[tuple[DecodingRow, SampledToken]]]:
        device = self._stack.weights.device
        width = max(len(row.ids) for row in rows)
        # On the left, so that all continue at the same place.
        ids = torch.tensor([[0] * (width - len(row.ids)) + list(row.ids) for row in rows], device=device)
        mask = torch.tensor([[0] * (width - len(row.ids)) + [1] * len(row.ids) for row in rows], device=device)
        goes_on = any(row.most for row in rows)
        cache = transformers.DynamicCache() if goes_on else None
        factors = self._stack.factors([row.owner for row in rows])
        echo = any(row.echo for row in rows)
        logits = self._logits(ids, mask, cache, factors, all_of_them=echo)
        for place, row in enumerate(rows):
            if row.echo and row.top is not None:
                scores = logits[place, width - len(row.ids) : -1]
                row.read = tuple(_with_logprobs(scores, list(row.ids[1:]), row.top))
            if row.temperature:
                row.source = torch.Generator(device).manual_seed(row.seed)
        going = [place for place, row in enumerate(rows) if row.most]
        group = _RowGroup(list(rows), cache, mask, ids[:, -1:], factors)
        drawn = self._drawn(group, logits[:, -1], going) if going else []
        _keep_rows(group, [place for place in going if rows[place].made < rows[place].most], self._stack)
        return group, drawn

    def _continued(self, group: _RowGroup) -> list[tuple[DecodingRow, SampledToken]]:
        group.mask = torch.cat([group.mask, torch.ones_like(group.mask[:, :1])], dim=1)
        logits = self._logits(group.last, group.mask, group.cache, group.factors)
        return self._drawn(group, logits[:, -1], range(len(group.rows)))

    def _logits(self, ids: Any, mask: Any, cache: Any, factors: Any, *, all_of_them: bool = False) -> Any:
        """(rows, 1 or read, vocabulary) float32."""
        more: dict[str, Any] = {}
        if self._placed:
            more["position_ids"] = (mask.cumsum(dim=1) - 1).clamp(min=0)[:, -ids.shape[1] :]
        if self._few and not all_of_them:
            more["logits_to_keep"] = 1
        with self._stack.through(factors):
            return self._model(
                input_ids=ids, attention_mask=mask, past_key_values=cache, use_cache=cache is not None, **more
            ).logits.float()

    def _drawn(self, group: _RowGroup, scores: Any, places: Sequence[int]) -> list[tuple[DecodingRow, SampledToken]]:
        """The next token of these rows; each is what the row alone would have drawn."""
        likeliest = scores.argmax(dim=-1).tolist()
        found = []
        for place in places:
            row = group.rows[place]
            token = likeliest[place]
            if row.temperature:
                likely = torch.softmax(_warped_logits(scores[place : place + 1], row), dim=-1)
                if torch.isfinite(likely).all():  # what is odd about one row must not end the others
                    token = int(torch.multinomial(likely, 1, generator=row.source))
            known = SampledToken(token)
            if row.top is not None:
                (known,) = _with_logprobs(scores[place : place + 1], [token], row.top)
            row.made += 1
            found.append((row, known))
            likeliest[place] = token
        group.last = torch.tensor(likeliest, device=scores.device)[:, None]
        return found

    def _keep(self, wanted: Any) -> None:
        for group in self._groups:
            places = [place for place, row in enumerate(group.rows) if wanted(row)]
            if len(places) < len(group.rows):
                _keep_rows(group, places, self._stack)
        self._groups = [group for group in self._groups if group.rows]

    def _unite(self) -> None:
        """One pass for all costs hardly more than one for some: the weights are read once."""
        if len(self._groups) < 2 or not all(_is_mergeable_cache(group.cache) for group in self._groups):
            return
        widths = [group.mask.shape[1] for group in self._groups]
        # Of a group's last token the keys are not yet there.
        short = [max(widths) - width for width in widths]
        rows = [row for group in self._groups for row in group.rows]
        first = self._groups[0].cache
        for number, layer in enumerate(first.layers):
            own = [group.cache.layers[number] for group in self._groups]
            layer.keys = torch.cat([_left_padded(one.keys, n) for one, n in zip(own, short, strict=True)])
            layer.values = torch.cat([_left_padded(one.values, n) for one, n in zip(own, short, strict=True)])
        mask = torch.cat(
            [torch.nn.functional.pad(group.mask, (n, 0)) for group, n in zip(self._groups, short, strict=True)]
        )
        last = torch.cat([group.last for group in self._groups])
        self._groups = [_RowGroup(rows, first, mask, last, self._stack.factors([row.owner for row in rows]))]


def _keep_rows(group: _RowGroup, places: Sequence[int], stack: AdapterStack) -> None:
    """Only these rows go on, without the padding that only others needed."""
    rows = [group.rows[place] for place in places]
    if not rows or group.cache is None:
        group.rows = []
        return
    if len(rows) == len(group.rows):
        return
    at = torch.tensor(list(places), device=group.mask.device)
    group.cache.batch_select_indices(at)
    group.mask, group.last, group.rows = group.mask[at], group.last[at], rows
    spare = int((group.mask.cumsum(dim=1) == 0).sum(dim=1).min())
    if spare and _is_mergeable_cache(group.cache):
        group.mask = group.mask[:, spare:]
        for layer in group.cache.layers:
            layer.keys, layer.values = layer.keys[:, :, spare:], layer.values[:, :, spare:]
    group.factors = stack.factors([row.owner for row in rows])


def _is_mergeable_cache(cache: Any) -> bool:
    """Is it keys and values of every token, and nothing else?"""
    plain = getattr(transformers.cache_utils, "DynamicLayer", None)
    layers = getattr(cache, "layers", None)
    return layers is not None and plain is not None and all(type(layer) is plain for layer in layers)


def _left_padded(states: Any, columns: int) -> Any:
    """(rows, heads, columns + tokens, width), zeros in front."""
    return torch.nn.functional.pad(states, (0, 0, columns, 0))


def _warped_logits(scores: Any, row: DecodingRow) -> Any:
    if row.temperature != 1.0:
        scores = transformers.TemperatureLogitsWarper(row.temperature)(None, scores)
    if row.top_p < 1.0:
        scores = transformers.TopPLogitsWarper(row.top_p)(None, scores)
    return scores


def _with_logprobs(scores: Any, ids: Sequence[int], top: int) -> list[SampledToken]:
    """(n, vocabulary) scores, and the token that came at each: how likely it was, and what was likelier."""
    logprobs = torch.log_softmax(scores, dim=-1)
    best = logprobs.topk(min(max(1, top), logprobs.shape[-1]), dim=-1)
    came = torch.tensor(list(ids), dtype=torch.long, device=logprobs.device)  # of a prompt of one token none
    own = logprobs[torch.arange(len(ids), device=logprobs.device), came]
    found = []
    for token, its, places, values in zip(ids, own.tolist(), best.indices.tolist(), best.values.tolist(), strict=True):
        likely = dict(zip(places, values, strict=True))
        likely.setdefault(token, its)
        found.append(SampledToken(token, its, tuple(likely.items())))
    return found
