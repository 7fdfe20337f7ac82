"""How lm-evaluation-harness wants contexts read, scored and continued: as its own models do it.

A context and its continuation are cut into tokens together; what is then behind the context's tokens is the
continuation. So base figures are those of ``--model hf``, but for rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any

from siftlm.controller import Controller, check_sampling, measure_spans, token_nats_of
from siftlm.controller.tokens import IGNORE_INDEX, TokenSpan, prefix_token_ids, spans_of, start_token, text_token_ids
from siftlm.errors import InvalidInput, UnknownName

# Rows that one pass may hold, where each may have an adapter of its own.
MAX_BATCH_ROWS = 16
# Tokens of an answer where nobody says how many.
DEFAULT_MAX_TOKENS = 256
# Other names of max_gen_toks in tasks, as the harness takes them.
MAX_TOKENS_NAMES = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")


@dataclass(frozen=True)
class ContinuationScore:
    """How well a continuation is foreseen."""

    nats: float
    greedy: bool
    """Is every token of it the likeliest?"""

    def __add__(self, other: ContinuationScore) -> ContinuationScore:
        return ContinuationScore(self.nats + other.nats, self.greedy and other.greedy)


EMPTY_SCORE = ContinuationScore(0.0, True)


@dataclass(frozen=True)
class ContextTokenizer:
    """Tokens of a context and its continuation."""

    tokenizer: Any
    context: int
    """Tokens that the model reads at once."""
    bos: bool | None = None
    """Does the start token stand before a context? None: as the tokenizer has it."""

    @property
    def prefix(self) -> int:
        """What stands where there is no context."""
        token = start_token(self.tokenizer)
        if token is None:
            raise InvalidInput("the tokenizer has no bos and no eos token to stand where there is no context")
        return token

    def pair(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        """Both as tokens; white space at the context's end belongs to the continuation."""
        before = context.rstrip()
        continuation = context[len(before) :] + continuation
        if not before:
            ids = text_token_ids(self.tokenizer, continuation)
            # A text that brings its own start token needs no other.
            return (ids[:1], ids[1:]) if ids[:1] == [self.prefix] else ([self.prefix], ids)
        known, both = self._encode(before), self._encode(before + continuation)
        return known, both[len(known) :]

    def spans(self, context: Sequence[int], continuation: Sequence[int], fixed: Sequence[int] = ()) -> list[TokenSpan]:
        """What is read to score the continuation: the end of the context where not all of it fits.

        A continuation that is itself too long is scored in consecutive windows.
        """
        if not continuation:
            return []
        if fixed and list(context[:1]) == list(fixed[:1]) == [start_token(self.tokenizer)]:
            context = context[1:]  # what stands before it begins with that already
        room = self.context - len(fixed)
        if len(continuation) <= room:
            read = [*context, *continuation][-(room + 1) :]
            return [TokenSpan((*fixed, *read), len(continuation))]
        return spans_of(continuation, self.context, start=None, before=context, fixed=fixed)

    def _encode(self, text: str) -> list[int]:
        start = start_token(self.tokenizer)
        written = self.tokenizer.decode([start]) if start is not None else ""
        if self.bos is None:
            head = prefix_token_ids(self.tokenizer)
        else:
            head = [self.prefix] if self.bos else []
        if written and text.startswith(written):  # a chat template writes it out
            head = []
        return [*head, *text_token_ids(self.tokenizer, text)]


def sampling_settings(wanted: Mapping[str, Any], context: int) -> dict[str, Any]:
    """The harness's settings of a generation as ours.

    >>> greedy = {"until": ["\\n"], "do_sample": False, "temperature": 0.7, "max_gen_toks": 9}
    >>> sampling_settings(greedy, 64)["temperature"]
    0.0
    """
    given = dict(wanted)
    until = given.pop("until", None) or []
    lengths = [given.pop(name) for name in MAX_TOKENS_NAMES if name in given]
    temperature = float(given.pop("temperature", 0.0))
    how: dict[str, Any] = {
        "stop": [one for one in ([until] if isinstance(until, str) else until) if one],
        "max_new_tokens": int(lengths[0]) if lengths else min(DEFAULT_MAX_TOKENS, context // 2),
        "temperature": 0.0 if given.pop("do_sample", None) is False else temperature,
        "top_p": float(given.pop("top_p", 1.0)),
    }
    if given:
        raise UnknownName(
            "setting of a generation", next(iter(given)), (*MAX_TOKENS_NAMES, "until", "do_sample", "temperature")
        )
    check_sampling(how["max_new_tokens"], how["temperature"], how["top_p"], how["stop"], context)
    return how


def score_spans(
    controller: Controller,
    spans: Sequence[tuple[int, TokenSpan]],
    rows: Callable[[Sequence[int]], AbstractContextManager[Any]],
) -> list[ContinuationScore]:
    """Each (owner, span) by the model as the owner has tuned it; ``rows`` says to the model whose rows it reads."""
    return controller.evaluating(
        lambda: measure_spans(
            controller.model,
            [span for _, span in spans],
            _measure_continuations,
            replace(controller.budget, rows=MAX_BATCH_ROWS),
            lambda batch: rows([spans[place][0] for place in batch]),
        )
    )


def _measure_continuations(logits: Any, labels: Any) -> list[ContinuationScore]:
    nats = token_nats_of(logits, labels).double().sum(dim=1).tolist()
    greedy = ((logits.argmax(dim=-1) == labels) | (labels == IGNORE_INDEX)).all(dim=1).tolist()
    return [ContinuationScore(one, best) for one, best in zip(nats, greedy, strict=True)]
