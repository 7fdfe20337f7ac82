"""The controller's work once more, in the plainest torch: nothing is kept, shared, batched or put back.

Nothing here is taken from `siftlm.controller`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

MASK = -100


def steps(
    model: Any,
    parameters: Sequence[Any],
    windows: Sequence[Sequence[int]],
    *,
    rate: float,
    scales: Sequence[float] = (),
    ignored: Sequence[int] = (),
    clip: float | None = None,
    decay: float = 0.0,
    betas: tuple[float, float] = (0.9, 0.999),
    epsilon: float = 1e-8,
) -> list[tuple[float, float]]:
    """(loss, norm of the gradient) of one step of Adam on each window of tokens; the model is changed.

    ``ignored``: so many tokens at the beginning of each window are read and not learned.
    """
    moments = [(torch.zeros_like(p), torch.zeros_like(p)) for p in parameters]
    found = []
    for number, window in enumerate(windows, 1):
        ids = torch.tensor([list(window)])
        labels = ids.clone()
        labels[0, : ignored[number - 1] if ignored else 0] = MASK
        loss = model(input_ids=ids, labels=labels).loss
        gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
        gradients = [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, gradients, strict=True)]
        norm = math.sqrt(sum(float((g.double() ** 2).sum()) for g in gradients))
        shrink = 1.0 if clip is None or norm <= clip else clip / norm
        own = rate * (scales[number - 1] if scales else 1.0)
        with torch.no_grad():
            for p, g, (mean, square) in zip(parameters, gradients, moments, strict=True):
                g = g * shrink
                p.sub_(own * decay * p)
                mean.mul_(betas[0]).add_(g * (1 - betas[0]))
                square.mul_(betas[1]).add_(g * g * (1 - betas[1]))
                step = mean / (1 - betas[0] ** number)
                p.sub_(own * step / (torch.sqrt(square / (1 - betas[1] ** number)) + epsilon))
        found.append((float(loss.detach()), norm))
    return found


def nats(model: Any, read: Sequence[int], predicted: Sequence[int]) -> float:
    """-log p of ``predicted``, each from those of ``read`` up to its place; both end one token apart."""
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([list(read)])).logits[0].double()
    total = 0.0
    for place, token in enumerate(predicted, len(read) - len(predicted)):
        row = logits[place]
        total -= float(row[token] - torch.logsumexp(row, 0))
    return total


def rolling(tokens: Sequence[int], prefix: int, most: int) -> Iterator[tuple[list[int], list[int]]]:
    """The windows in which lm-evaluation-harness scores a text of any length, with one token of context.

    Its documentation says: every token is predicted exactly once; the first window begins with the prefix token and
    predicts up to ``most`` tokens; every later one begins with the last token of the one before, and where the last
    has fewer tokens left than it could predict, it is filled up from the left. A window is (what is read, what is
    predicted), and at most ``most`` tokens are read.
    """
    everything = [prefix, *tokens]  # place i + 1 holds token i, and is predicted from the places before it
    done = 0
    while done < len(tokens):
        upto = min(done + most, len(tokens))
        read = everything[:upto][-most:] if done else everything[:upto]
        yield read, list(tokens[done:upto])
        done = upto


def bits_per_byte(total: float, text: str) -> float:
    return total / math.log(2) / len(text.encode())


def turns(texts: Sequence[str], order: str, repeats: str, reuse: int, passes: int) -> list[tuple[int, float, bool]]:
    """(place of the text, factor of the rate, is the gradient an old one) of each step, by the words of the manual."""
    line = [texts.index(text) for text in texts]
    if order == "reversed":
        line = line[::-1]
    once: list[tuple[int, float, bool]] = []
    for at, place in enumerate(line):
        before, count = line[:at].count(place), line.count(place)
        if repeats == "steps":
            once.append((place, 1.0, False))
        elif before == 0 and repeats == "scaled":
            once.append((place, float(count), False))
        elif before == 0:
            once.extend((place, 1.0, time % reuse > 0) for time in range(count))
    return [turn for _ in range(passes) for turn in once]


def greedy(model: Any, read: Sequence[int], count: int, end: int | None, choose: Callable[[Any], int]) -> list[int]:
    """Continue one token at a time, reading everything again each time."""
    made: list[int] = []
    while len(made) < count and (not made or made[-1] != end):
        with torch.no_grad():
            made.append(choose(model(input_ids=torch.tensor([[*read, *made]])).logits[0, -1]))
    return made
