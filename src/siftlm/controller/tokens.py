"""Texts as a language model reads them: tokens, windows to learn from, spans to score."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from siftlm.errors import InvalidInput

# Not 0: cross entropy leaves out what is labelled so.
IGNORE_INDEX = -100


@dataclass(frozen=True)
class Window:
    """Consecutive tokens of a text, to learn from."""

    ids: tuple[int, ...]
    labels: tuple[int, ...]
    """The same, `IGNORE_INDEX` where nothing is to be learned."""
    learned: int
    """How many tokens are predicted from those before them."""

    def beginning(self, size: int) -> Window:
        """Its first tokens, where they have something to learn; else all of it."""
        labels = self.labels[:size]
        learned = sum(label != IGNORE_INDEX for label in labels[1:])
        return Window(self.ids[:size], labels, learned) if learned else self


@dataclass(frozen=True)
class TokenSpan:
    """The tokens that a model reads at once when it scores; the last of them are predicted."""

    ids: tuple[int, ...]
    scored: int
    """ids[-scored:] are predicted; the last of them is not read."""


def start_token(tokenizer: Any) -> int | None:
    """The token before a text, so that its first token can be predicted: a beginning, or the end of another text."""
    for token in (tokenizer.bos_token_id, tokenizer.eos_token_id):
        if isinstance(token, int):
            return token
    return None


def text_token_ids(tokenizer: Any, text: str, rows: int | None = None) -> list[int]:
    """The tokens of the text alone, without special ones; an error for one beyond the ``rows`` of the model."""
    if not isinstance(text, str):
        raise InvalidInput(f"a text must be a str, got {type(text).__name__}")
    readable = text.encode("utf-8", "replace").decode()  # lone surrogates have no tokens
    ids = list(tokenizer(readable, add_special_tokens=False, verbose=False)["input_ids"]) if readable else []
    if rows is not None and ids and (largest := max(ids)) >= rows:
        raise InvalidInput(
            f"a text spells the special token {tokenizer.convert_ids_to_tokens(largest)!r}, number {largest}, and "
            f"the model has rows for {rows:,} tokens only: take it out of the text, or write it with a space inside"
        )
    return ids


def prefix_token_ids(tokenizer: Any) -> list[int]:
    """The tokens that the tokenizer itself puts before every text, which its model is used to: often none."""
    ids = list(tokenizer("", add_special_tokens=True)["input_ids"])
    return ids[:1] if ids and ids[0] == tokenizer.bos_token_id else []


def windows_of(
    tokenizer: Any,
    head: Sequence[int],
    text: str,
    size: int,
    most: int,
    completion: str | None = None,
    rows: int | None = None,
) -> list[Window]:
    """The first ``most`` windows of ``size`` tokens, ``head`` included, that there is something to learn from."""
    at = text.find(completion) if completion is not None else -1
    if completion is not None and at >= 0:
        at += len(completion)
        prompt, answer = text_token_ids(tokenizer, text[:at], rows), text_token_ids(tokenizer, text[at:], rows)
        ids, labels = prompt + answer, [IGNORE_INDEX] * len(prompt) + answer
    else:
        ids = text_token_ids(tokenizer, text, rows)
        labels = ids
    room = max(1, size - len(head))
    windows: list[Window] = []
    for start in range(0, len(ids), room):
        own = (*[IGNORE_INDEX] * len(head), *labels[start : start + room])
        learned = sum(label != IGNORE_INDEX for label in own[1:])
        if learned:
            windows.append(Window((*head, *ids[start : start + room]), own, learned))
        if len(windows) == most:
            break
    return windows


def spans_of(
    ids: Sequence[int], size: int, *, start: int | None, before: Sequence[int] = (), fixed: Sequence[int] = ()
) -> list[TokenSpan]:
    """Consecutive spans that score every token of ``ids`` once.

    The first one begins with ``start`` (where there is one and nothing is ``before``); each later one with the last
    token of the one before, and the last one reaches back as far as the context goes. ``fixed`` stands in front of all.

    >>> [(span.ids, span.scored) for span in spans_of([1, 2, 3, 4, 5], 3, start=0)]
    [((0, 1, 2, 3), 3), ((2, 3, 4, 5), 2)]
    """
    size -= len(fixed)
    if size < 2:
        raise InvalidInput(f"{len(fixed)} tokens of context leave no room to score in {size + len(fixed)}")
    # Half of what is read at once is left for what is scored.
    before = list(before)[-(size // 2) :]
    if start is not None and not fixed and len(before) < size // 2:
        before = [start, *before]
    stream = before + list(ids)
    # Without anything before it the first token cannot be predicted.
    done = len(before) if before or fixed else 1
    spans = []
    first = True
    while done < len(stream):
        take = size - (done if first else 1) + 1
        end = min(done + take, len(stream))
        begin = max(0, end - 1 - size)
        spans.append(TokenSpan((*fixed, *stream[begin:end]), end - done))
        done, first = end, False
    return spans


@dataclass(frozen=True)
class ScoredText:
    """A text that is to be scored."""

    spans: tuple[TokenSpan, ...]
    tokens: int
    """How many of its tokens are scored."""
    bytes: int
    """How many bytes those tokens spell."""


def text_to_score(
    tokenizer: Any, text: str, after: str, context: int, *, start: int | None, fixed: Sequence[int], rows: int
) -> ScoredText:
    """Spans of ``context`` tokens that score every token of ``text`` behind ``after``; see `spans_of`."""
    ids, before = text_token_ids(tokenizer, text, rows), text_token_ids(tokenizer, after, rows)
    spans = spans_of(ids, context, start=start, before=before, fixed=fixed)
    scored = sum(span.scored for span in spans)
    # Without a start token the first token is not scored, and its bytes do not count.
    left = ids[: len(ids) - scored]
    decoded = tokenizer.decode(left) if left else ""
    if text.startswith(decoded):
        unscored = len(decoded.encode())
    else:  # the last one ends inside a character: it is written as <0xE2>, or with one letter for each byte
        unscored = sum(1 if one.startswith("<0x") else len(one) for one in tokenizer.convert_ids_to_tokens(left))
    return ScoredText(tuple(spans), scored, max(len(text.encode("utf-8", "replace")) - unscored, 0))
