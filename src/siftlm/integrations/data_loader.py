"""Batches for a training loop, each chosen with the embeddings of the model as it is at that moment.

    loader = ActiveDataLoader(dataset, batch_size=64, model=model, target=target)
    for inputs, labels in loader:
        ...                                   # one training step; the next batch is chosen after it

`ActiveBatchSampler` is the same as a sampler, for ``DataLoader(dataset, batch_sampler=…)``; for ``transformers`` there
is `siftlm.integrations.trainer`.
"""

# ruff: noqa: E402 - a missing torch is an error of ours, which names the extra
from __future__ import annotations

from siftlm.extras import load

load("torch", "torch")

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping
from inspect import signature
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Sampler

from siftlm.errors import Conflict, InvalidInput, did_you_mean, setting
from siftlm.integrations.batch_choice import choose_rows
from siftlm.integrations.current_embeddings import (
    Collate,
    CurrentEmbeddings,
    EmbedFunction,
    checked_rows,
    device_of,
    embedding_function,
    loss_gradients,
)
from siftlm.selection import Limits, Stopping, checks
from siftlm.selection.problem import MethodFunction, find_method
from siftlm.types import IntArray, Selection
from siftlm.validation import flag, number, whole_number

__all__ = ["ActiveBatchSampler", "ActiveDataLoader", "loss_gradients"]

DEFAULT_METHOD = {"targeted": "sift", "undirected": "undirected-vtl"}
DEFAULT_NOISE = 0.01
# Settings of `select` that have one value for each candidate, or would end a batch early.
REFUSED = {"known", "prior", "limits", "stopping", *Limits.names(), *Stopping.names()}
STATE_VERSION = 1


class ActiveBatchSampler(Sampler[list[int]]):  # type: ignore[misc]
    """Batches of row indices, each chosen when it is asked for, with the current model's embeddings.

    Args:
        dataset: any map-style dataset.
        batch_size: rows in a batch.
        model: what is being trained. Without it, rows are embeddings already, or are compared as they are.
        target: what the model is to be good at: inputs as the dataset has them, (m, …), or a map-style dataset of
            them. ``None`` for a method that needs none.
        embed: the name of the model's method that turns inputs into vectors (rows, d), that method itself, or a
            function ``embed(model, inputs)``; ``"embed"`` unless given. The inputs are a collated batch on the
            device; of a tuple or list, as in (inputs, labels), the first,
            unless it is a list of str.
        method: a name (``siftlm.methods()``) or a method of your own. With a target ``sift``, which leaves the least
            variance about it; without one ``undirected-vtl``, the least variance about all candidates.
        noise, normalize: λ, and whether vectors are brought to unit length, as for ``siftlm.select``.
        labelled: rows that were learned before: they are never chosen, and condition the posterior.
        known_limit: condition on at most so many of the labelled and taken rows, the last ones; 0 on none.
        subsample: so many rows at random, anew for each batch, are the candidates; ``None``: all that are left.
        target_subsample: so many targets at random, anew for each batch.
        replacement: may a row be chosen again in a later batch? Within a batch it never is.
        drop_last: leave out a last batch that is not full.
        embed_every: keep embeddings for so many batches; ``None``: for good.
        embed_batch_size, num_workers, collate_fn: of the loading of rows that are to be embedded.
        device: of inputs and embeddings; the model's unless given.
        seed: of all that is drawn. Nothing is drawn from a global random state, though by a ``DataLoader`` around the
            sampler: one number of torch's for each pass, unless it has a ``generator``.
        **settings: of ``siftlm.select``: ``kernel``, or the method's own.

    One iteration is a pass over the dataset: rows are taken once, and ``len`` is the number of batches of a full pass.
    An iteration that was left early is continued by the next; after a whole pass the next begins anew.

    >>> rows = torch.eye(4).repeat(2, 1)
    >>> list(ActiveBatchSampler(rows, 2, target=rows[:2]))
    [[0, 1], [4, 5], [2, 3], [6, 7]]
    """

    def __init__(
        self,
        dataset: Any,
        batch_size: int,
        *,
        model: torch.nn.Module | None = None,
        target: Any = None,
        embed: str | EmbedFunction | Callable[[Any], Any] | None = None,
        method: str | MethodFunction | None = None,
        noise: float = DEFAULT_NOISE,
        normalize: bool = True,
        labelled: Iterable[int] | npt.ArrayLike = (),
        known_limit: int | None = None,
        subsample: int | None = None,
        target_subsample: int | None = None,
        replacement: bool = False,
        drop_last: bool = False,
        embed_every: int | None = 1,
        embed_batch_size: int = 256,
        num_workers: int = 0,
        collate_fn: Collate | None = None,
        device: str | torch.device | None = None,
        seed: int = 0,
        **settings: Any,
    ) -> None:
        self.dataset = checked_rows("dataset", dataset)
        self.batch_size = whole_number("batch_size", batch_size)
        self.noise, self.normalize = number("noise", noise, above=0), flag("normalize", normalize)
        self.known_limit = None if known_limit is None else whole_number("known_limit", known_limit, least=0)
        self.subsample = None if subsample is None else whole_number("subsample", subsample, least=self.batch_size)
        self.target_subsample = None if target_subsample is None else whole_number("target_subsample", target_subsample)
        self.replacement, self.drop_last = flag("replacement", replacement), flag("drop_last", drop_last)
        self.embed_every = None if embed_every is None else whole_number("embed_every", embed_every)
        self.seed = whole_number("seed", seed, least=0)
        self._method = method
        default = DEFAULT_METHOD["undirected" if target is None else "targeted"]
        self.settings = _checked_settings(settings, default if method is None else method)
        self.model = embedding_function(model, embed)[0]
        self.device = device_of(self.model) if device is None else torch.device(device)
        if method is not None and find_method(method).whole:
            name = find_method(method).name
            raise Conflict(f"method {name!r} chooses rows several times each, and a batch has each row once")
        self._loading: dict[str, Any] = {
            "model": model,
            "embed": embed,
            "device": self.device,
            "batch_size": whole_number("embed_batch_size", embed_batch_size),
            "collate_fn": collate_fn,
            "num_workers": whole_number("num_workers", num_workers, least=0),
        }
        self._embeddings = CurrentEmbeddings(self.dataset, **self._loading)
        self._targets: CurrentEmbeddings | None = None
        self._embedded = 0  # batches that were chosen with the embeddings that are there
        self._replay: list[list[int]] = []
        self.passes = 0
        """Passes that were begun before this one."""
        self.batches: list[list[int]] = []
        """The batches of this pass."""
        self.labelled = np.empty(0, np.int64)
        """Rows that were learned before, in the order in which they were named."""
        self.last: Selection | None = None
        """The picks of the latest batch, with their gains and the uncertainty left."""
        self.set_target(target)
        self.add_labelled(labelled)
        if self.batch_size > len(self.left()):
            raise InvalidInput(
                f"{setting('batch_size', self.batch_size)} is more than the {len(self.left())} rows to choose from"
            )

    @property
    def method(self) -> str | MethodFunction:
        """The method in use."""
        if self._method is not None:
            return self._method
        return DEFAULT_METHOD["undirected" if self._targets is None else "targeted"]

    def set_target(self, target: Any) -> None:
        """Choose for another target from now on; ``None`` for none."""
        rows = None if target is None else checked_rows("target", target)
        if rows is None and self._method is not None and find_method(self._method).targeted:
            raise InvalidInput(
                f"method {find_method(self._method).name!r} needs a target: pass {setting('target')}, or try "
                f"'undirected-vtl', without one"
            )
        self._targets = (
            None if rows is None else CurrentEmbeddings(rows, **self._loading, name="target", like=self._embeddings)
        )

    def add_labelled(self, rows: Iterable[int] | npt.ArrayLike) -> None:
        """These rows are known from elsewhere: they are not chosen, and condition the posterior."""
        listed = rows if hasattr(rows, "ndim") else list(rows)  # type: ignore[arg-type]
        if len(listed):  # type: ignore[arg-type]
            new = checks.item_indices("labelled", listed, len(self.dataset))
            self.labelled = np.array(list(dict.fromkeys([*self.labelled.tolist(), *new.tolist()])), np.int64)

    def taken(self) -> IntArray:
        """The rows of this pass so far, in the order in which they were chosen."""
        return np.array([row for batch in self.batches for row in batch], np.int64)

    def left(self) -> IntArray:
        """The rows that may be chosen."""
        free = np.ones(len(self.dataset), bool)
        free[self.labelled] = False
        if not self.replacement:
            free[self.taken()] = False
        return np.flatnonzero(free)

    def __len__(self) -> int:
        rows = len(self.dataset) - len(self.labelled)
        return rows // self.batch_size if self.drop_last else -(-rows // self.batch_size)

    def __iter__(self) -> Iterator[list[int]]:
        replay, self._replay = self._replay, []
        yield from replay
        if self.batches and self._complete():
            self.passes, self.batches = self.passes + 1, []
        while not self._complete():
            size = self.batch_size if self.replacement else min(self.batch_size, len(self.left()))
            yield self.next_batch(size).indices.tolist()

    def _complete(self) -> bool:
        if self.replacement:
            return len(self.batches) >= len(self)
        return len(self.left()) < (self.batch_size if self.drop_last else 1)

    def next_batch(self, size: int | None = None) -> Selection:
        """Choose the next rows, with the model as it is now; they count as taken.

        The indices are those of the dataset; ``gains`` and ``uncertainty`` are as for ``siftlm.select``, and
        ``uncertainty`` is what is left about the target, given the labelled and taken rows.
        """
        size = self.batch_size if size is None else whole_number("size", size)
        left = self.left()
        if not len(left):
            raise InvalidInput("every row was taken: iterate again for another pass, or pass replacement=True")
        if size > len(left):
            raise InvalidInput(f"a batch of {size} is more than the {len(left)} rows left")
        if self.embed_every is not None and self._embedded >= self.embed_every:
            self._forget()
        # The draws of a batch depend on its number alone, so a resumed run makes the same ones.
        draw = np.random.default_rng([self.seed, self.passes, len(self.batches)])
        seed = int(draw.integers(2**31))
        candidates = _some(left, None if self.subsample is None else max(size, self.subsample), draw)
        known = self._known()
        vectors = self._embeddings.rows(np.concatenate([candidates, known]), seed)
        targets = None
        if self._targets is not None:
            rows = _some(np.arange(len(self._targets.dataset)), self.target_subsample, draw)
            targets = self._targets.rows(rows, seed)
            if targets.shape[1] != vectors.shape[1]:
                raise InvalidInput(
                    f"{setting('target')} has embeddings of width {targets.shape[1]}, the dataset of {vectors.shape[1]}"
                )
        picks = choose_rows(
            self._directions(vectors[: len(candidates)], candidates, "dataset"),
            None if targets is None else self._directions(targets, rows, "target"),
            self._directions(vectors[len(candidates) :], known, "dataset") if len(known) else None,
            size,
            method=self.method,
            noise=self.noise,
            seed=seed,
            **self.settings,
        )
        picks = dataclasses.replace(picks, indices=candidates[picks.indices])
        self._embedded += 1
        self.batches.append(picks.indices.tolist())
        self.last = picks
        return picks

    def _known(self) -> IntArray:
        """The rows to condition on, each once, the latest last."""
        latest_first = [*self.taken()[::-1].tolist(), *self.labelled[::-1].tolist()]
        return np.array(list(dict.fromkeys(latest_first))[: self.known_limit][::-1], np.int64)

    def _forget(self) -> None:
        self._embedded = 0
        self._embeddings.forget()
        if self._targets is not None:
            self._targets.forget()

    def _directions(self, vectors: Tensor, rows: IntArray, name: str) -> Tensor:
        """The vectors in float64, where the device has it; at unit length, if so wanted."""
        vectors = vectors if vectors.device.type == "mps" else vectors.double()
        if not self.normalize or find_method(self.method).reads == "probabilities":
            return vectors
        lengths = vectors.norm(dim=1, keepdim=True)
        if not bool((lengths > 0).all()):
            row = int(rows[int((lengths[:, 0] == 0).nonzero()[0])])
            raise InvalidInput(
                f"the embedding of row {row} of the {name} is all zeros and has no direction: pass "
                f"{setting('normalize', False)}, or embed before the last activation function"
            )
        return vectors / lengths

    def state_dict(self) -> dict[str, Any]:
        """Where the sampler stands, in plain numbers and lists that JSON can hold. The model is not part of it."""
        return {
            "version": STATE_VERSION,
            "rows": len(self.dataset),
            "seed": self.seed,
            "passes": self.passes,
            "batches": [list(batch) for batch in self.batches],
            "labelled": self.labelled.tolist(),
        }

    def load_state_dict(self, state: Mapping[str, Any], *, replay: bool = False) -> None:
        """Go on where `state_dict` was called.

        With ``embed_every`` above 1 the rows are embedded anew first. ``replay``: the next iteration begins with the
        batches of this pass so far, for a framework that skips those itself.
        """
        if not isinstance(state, Mapping):
            raise InvalidInput(f"a state is what state_dict() returned, got {type(state).__name__}")
        missing = [name for name in ("version", "rows", "seed", "passes", "batches", "labelled") if name not in state]
        if missing or state["version"] != STATE_VERSION:
            what = f"it has no {missing[0]!r}" if missing else f"its version is {state['version']!r}"
            raise InvalidInput(f"this is no state of an active data loader: {what}")
        if state["rows"] != len(self.dataset):
            raise InvalidInput(
                f"the state is of a dataset of {state['rows']} rows, and this one has {len(self.dataset)}"
            )
        try:
            seed, passes = int(state["seed"]), int(state["passes"])
            batches = [[int(row) for row in batch] for batch in state["batches"]]
            labelled = np.array(state["labelled"], np.int64)
        except (TypeError, ValueError) as error:
            raise InvalidInput(f"this is no state of an active data loader: {error}") from error
        for name, rows in (("batches", [row for batch in batches for row in batch]), ("labelled", labelled)):
            if len(rows):
                checks.item_indices(name, rows, len(self.dataset))
        self.seed, self.passes, self.batches, self.labelled = seed, passes, batches, labelled
        self._replay = [list(batch) for batch in self.batches] if replay and not self._complete() else []
        self._forget()


class ActiveDataLoader(DataLoader[Any]):  # type: ignore[misc]
    """A ``DataLoader`` whose batches are chosen by an `ActiveBatchSampler`, which see for the arguments.

    Args:
        dataset, batch_size, **settings: as for `ActiveBatchSampler`.
        collate_fn: makes a batch of rows, for training and for embedding.
        pin_memory: as for ``DataLoader``.
        num_workers: processes that load rows for embedding. The batch itself is loaded in this process, because
            workers would ask for batches ahead of the model.

    >>> rows = torch.eye(4).repeat(2, 1)
    >>> loader = ActiveDataLoader(rows, 2, target=rows[2:3])
    >>> [batch.argmax(1).tolist() for batch in loader]
    [[2, 2], [0, 1], [3, 0], [1, 3]]
    """

    def __init__(
        self,
        dataset: Any,
        batch_size: int,
        *,
        collate_fn: Collate | None = None,
        pin_memory: bool = False,
        **settings: Any,
    ) -> None:
        chooser = ActiveBatchSampler(dataset, batch_size, collate_fn=collate_fn, **settings)
        super().__init__(
            chooser.dataset,
            batch_sampler=chooser,
            collate_fn=collate_fn,
            pin_memory=pin_memory,
            generator=torch.Generator(),  # a DataLoader draws a seed for workers, else from the global state
        )

    @property
    def chooser(self) -> ActiveBatchSampler:
        """The sampler that chooses the batches."""
        sampler: ActiveBatchSampler = self.batch_sampler
        return sampler

    @property
    def last(self) -> Selection | None:
        """The picks of the latest batch, with their gains and the uncertainty left."""
        return self.chooser.last

    def next_batch(self, size: int | None = None) -> Selection:
        """`ActiveBatchSampler.next_batch`: which rows to label next, without loading them."""
        return self.chooser.next_batch(size)

    def state_dict(self) -> dict[str, Any]:
        """Where the loader stands, in plain numbers and lists that JSON can hold."""
        return self.chooser.state_dict()

    def load_state_dict(self, state: Mapping[str, Any], *, replay: bool = False) -> None:
        """Go on where `state_dict` was called; see `ActiveBatchSampler.load_state_dict`."""
        self.chooser.load_state_dict(state, replay=replay)


def _some(rows: IntArray, most: int | None, draw: np.random.Generator) -> IntArray:
    """All of the rows, or so many at random, in order."""
    if most is None or most >= len(rows):
        return rows
    return np.sort(draw.choice(rows, most, replace=False))


def _checked_settings(settings: dict[str, Any], method: str | MethodFunction) -> dict[str, Any]:
    """The settings, if each is one of the method's own, or the kernel."""
    for name in settings:
        entry = find_method(method)
        if name in REFUSED:
            raise Conflict(f"{setting(name)} has no meaning for a loader, whose candidates change from batch to batch")
        if name not in entry.options and name != "kernel":
            own = [*signature(ActiveBatchSampler).parameters, "pin_memory", *entry.options, "kernel"]
            hint = did_you_mean(name, [one for one in own if one != "settings"])
            raise InvalidInput(f"neither the loader nor method {entry.name!r} has a setting {name!r}{hint}")
    return settings
