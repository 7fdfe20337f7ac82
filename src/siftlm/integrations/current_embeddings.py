"""Embeddings of a dataset's rows by a model that is being trained: computed when asked for, kept until outdated."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from inspect import ismethod
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Subset, default_collate

from siftlm.controller.restore import (
    RANDOM_STATE_LOCK,
    PendingRestores,
    UninterruptibleContext,
    preserved_model,
    restoring,
    seeded_random_state,
)
from siftlm.errors import Conflict, InvalidInput, setting
from siftlm.types import IntArray
from siftlm.validation import whole_number

EmbedFunction = Callable[[Any, Any], Any]
"""``embed(model, inputs)`` returns (rows, d)"""
Collate = Callable[[list[Any]], Any]


@dataclass(eq=False)
class CurrentEmbeddings:
    """The rows of a dataset as the model sees them now.

    The model is in eval mode meanwhile, without gradients; afterwards the model and the random states of torch, numpy
    and Python are what they were, bit for bit.
    """

    dataset: Any
    model: torch.nn.Module | None
    embed: str | EmbedFunction | Callable[[Any], Any] | None
    device: torch.device
    collate_fn: Collate | None = None
    batch_size: int = 256
    num_workers: int = 0
    name: str = "dataset"
    """What the error messages call the dataset."""
    like: CurrentEmbeddings | None = None
    """Rows that the model can embed, for an error about those that it cannot."""
    _form: str = field(default="", init=False, repr=False)
    _function: Callable[[Any], Any] = field(init=False, repr=False)
    _positions: IntArray = field(init=False, repr=False)
    _vectors: Tensor | None = field(default=None, init=False, repr=False)
    _pending: PendingRestores = field(default_factory=PendingRestores, init=False, repr=False)

    def __post_init__(self) -> None:
        self.model, self._function = embedding_function(self.model, self.embed)
        self.forget()

    def forget(self) -> None:
        """The model has changed: rows are embedded anew when they are asked for again."""
        self._positions = np.full(len(self.dataset), -1, np.int64)
        self._vectors = None

    def rows(self, indices: npt.ArrayLike, seed: int) -> Tensor:
        """Embeddings (rows, d), float32 or float64, on the device; only rows that are not there yet are computed.

        ``seed`` is torch's while the rows are loaded and embedded.
        """
        wanted = np.asarray(indices, np.int64)
        missing = np.unique(wanted[self._positions[wanted] < 0])
        if len(missing):
            start = 0 if self._vectors is None else len(self._vectors)
            found = self._compute(missing, seed)
            if self._vectors is not None and found.shape[1] != self._vectors.shape[1]:
                widths = f"{self._vectors.shape[1]} and then {found.shape[1]}"
                raise InvalidInput(f"{setting('embed')} returned vectors of different widths: {widths}")
            self._vectors = found if self._vectors is None else torch.cat([self._vectors, found])
            self._positions[missing] = np.arange(start, start + len(missing))
        if self._vectors is None:
            return torch.empty(0, 0, device=self.device)
        return self._vectors[torch.from_numpy(self._positions[wanted]).to(self.device)]

    def _compute(self, indices: IntArray, seed: int) -> Tensor:
        parts, at = [], 0
        with _embedding_state(self.model, seed, self._pending):
            for batch in self._batches(indices):
                own = indices[at : at + self.batch_size]
                at += len(own)
                inputs = to_device(model_inputs(batch), self.device)
                self._form = _form_of(inputs)
                try:
                    parts.append(self._checked(self._function(inputs), own))
                except (RuntimeError, TypeError, ValueError, IndexError) as error:
                    if self.like is None or self.like._form in ("", self._form):
                        raise
                    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
                    raise InvalidInput(
                        f"{setting(self.name)} cannot be embedded: each of its rows is {self._form}, each of the "
                        f"dataset's {self.like._form}: {reason}"
                    ) from error
        if len({part.shape[1] for part in parts}) > 1:
            widths = sorted({part.shape[1] for part in parts})
            raise InvalidInput(f"{setting('embed')} returned vectors of different widths: {widths}")
        return torch.cat(parts)

    def _batches(self, indices: IntArray) -> Iterator[Any]:
        if isinstance(self.dataset, Tensor):  # no collate_fn for rows was written for a bare tensor
            for start in range(0, len(indices), self.batch_size):
                yield self.dataset[torch.from_numpy(indices[start : start + self.batch_size])]
            return
        yield from DataLoader(
            Subset(self.dataset, indices.tolist()),
            batch_size=self.batch_size,
            collate_fn=self.collate_fn or partial(_collated, self.name),
            num_workers=self.num_workers,
        )

    def _checked(self, vectors: Any, indices: IntArray) -> Tensor:
        if not isinstance(vectors, Tensor):
            try:
                vectors = torch.as_tensor(np.asarray(vectors))
            except (TypeError, ValueError) as error:
                raise InvalidInput(
                    f"{setting('embed')} must return a tensor (rows, d), got {type(vectors).__name__}"
                ) from error
        if vectors.ndim != 2 or vectors.shape[1] == 0:
            raise InvalidInput(
                f"{setting('embed')} must return one vector for each row, (rows, d), got shape {tuple(vectors.shape)}"
            )
        if len(vectors) != len(indices):
            raise InvalidInput(
                f"{setting('embed')} returned {len(vectors)} vectors for {len(indices)} rows of the {self.name}"
            )
        vectors = vectors.detach().to(self.device)
        vectors = vectors if vectors.dtype == torch.float64 else vectors.float()
        finite = vectors.isfinite().all(1)
        if not bool(finite.all()):
            row = int(indices[int((~finite).nonzero()[0])])
            raise InvalidInput(f"the embedding of row {row} of the {self.name} is not finite: it holds NaN or infinity")
        return vectors


def embedding_function(
    model: torch.nn.Module | None, embed: str | EmbedFunction | Callable[[Any], Any] | None
) -> tuple[torch.nn.Module | None, Callable[[Any], Any]]:
    """The model, and the function from a batch of inputs to vectors."""
    if ismethod(embed) and isinstance(embed.__self__, torch.nn.Module):
        if model is not None and model is not embed.__self__:
            raise Conflict(f"{setting('embed')} is a method of another module than {setting('model')}")
        return embed.__self__, embed
    if model is not None and not isinstance(model, torch.nn.Module):
        raise InvalidInput(f"{setting('model')} must be a torch.nn.Module, got {type(model).__name__}")
    if callable(embed):
        return model, partial(embed, model)
    if embed is not None and not isinstance(embed, str):
        raise InvalidInput(f"{setting('embed')} must be a function or the name of a method, got {type(embed).__name__}")
    if model is None:
        if embed is not None:
            raise InvalidInput(f"{setting('embed', embed)} is a method of a model: pass {setting('model')}")
        return None, _raw_inputs
    method = getattr(model, embed or "embed", None)
    if not callable(method):
        raise InvalidInput(
            f"{type(model).__name__} has no method {embed or 'embed'!r}: pass {setting('embed')}, the name of the "
            f"method that returns embeddings or a function embed(model, inputs)"
        )
    return model, method


def loss_gradients(hidden: Tensor, logits: Tensor, *, width: int | None = None, seed: int = 0) -> Tensor:
    """Gradients of a classifier's loss by its last layer, if the likeliest class were the right one: (rows, C·d).

    (p − e_ŷ) ⊗ h, with p the softmax of the logits (rows, C), ŷ its largest and h the last hidden state (rows, d).
    Their length says how unsure the classifier is, so pass ``normalize=False``; hidden states say nothing of that.

    Args:
        width: project to so many numbers at random, which keeps inner products approximately.
        seed: of the projection.

    >>> loss_gradients(torch.tensor([[1.0, 2.0]]), torch.zeros(1, 2)).tolist()
    [[-0.5, -1.0, 0.5, 1.0]]
    """
    if hidden.ndim != 2 or logits.ndim != 2 or len(hidden) != len(logits):
        shapes = f"{tuple(hidden.shape)} and {tuple(logits.shape)}"
        raise InvalidInput(f"hidden states and logits must be (rows, d) and (rows, C), got {shapes}")
    errors = logits.softmax(1)
    errors = errors - torch.nn.functional.one_hot(errors.argmax(1), errors.shape[1])
    gradients = (errors[:, :, None] * hidden[:, None, :]).flatten(1)
    if width is None:
        return gradients
    draw = torch.Generator().manual_seed(whole_number("seed", seed, least=0))
    projection = torch.randn(gradients.shape[1], whole_number("width", width), generator=draw)
    return gradients @ projection.to(gradients) / width**0.5


def _raw_inputs(inputs: Any) -> Tensor:
    """Inputs as vectors: without a model, the rows are embeddings already, or are compared as they are."""
    if not isinstance(inputs, Tensor):
        raise InvalidInput(
            f"rows are no tensors but {type(inputs).__name__}: pass {setting('model')} or {setting('embed')}"
        )
    return inputs.reshape(len(inputs), -1)


def _collated(name: str, rows: list[Any]) -> Any:
    """A batch of rows that are all alike."""
    try:
        return default_collate(rows)
    except (RuntimeError, TypeError) as error:
        raise InvalidInput(
            f"rows of the {name} do not fit into one batch: {error}; pass {setting('collate_fn')}"
        ) from error


def _form_of(inputs: Any) -> str:
    """The shape and type of one row of a batch."""
    if not isinstance(inputs, Tensor):
        return f"of a {type(inputs).__name__}"
    return f"{tuple(inputs.shape[1:])} {str(inputs.dtype).removeprefix('torch.')}"


def model_inputs(batch: Any) -> Any:
    """The inputs of a collated batch: the first of a tuple or list, as in (inputs, labels).

    Anything else as it is, and so is a list of str.
    """
    if isinstance(batch, (tuple, list)) and batch and not isinstance(batch[0], str):
        return batch[0]
    return batch


def to_device(value: Any, device: torch.device) -> Any:
    """The same structure with its tensors on a device."""
    if hasattr(value, "to") and not isinstance(value, Mapping):
        return value.to(device)
    if isinstance(value, Mapping):
        return {name: to_device(one, device) for name, one in value.items()}
    if isinstance(value, (tuple, list)):
        return type(value)(to_device(one, device) for one in value) if not hasattr(value, "_fields") else value
    return value


def device_of(model: torch.nn.Module | None) -> torch.device:
    """Where the model's parameters are."""
    first = None if model is None else next(iter(model.parameters()), None)
    return torch.device("cpu") if first is None else first.device


@restoring
def _embedding_state(model: torch.nn.Module | None, seed: int, pending: PendingRestores) -> Iterator[torch.nn.Module]:
    """Eval mode, no gradients, a seed; all of it as before at the end. Ctrl-C waits for the restoring."""
    pending.finish()
    with RANDOM_STATE_LOCK, UninterruptibleContext(_changed(model or torch.nn.Module(), seed, pending)) as changed:
        yield changed


@contextmanager
def _changed(model: torch.nn.Module, seed: int, pending: PendingRestores) -> Iterator[torch.nn.Module]:
    # Datasets that augment their rows draw from these.
    python, numbers = random.getstate(), np.random.get_state()  # noqa: NPY002 (read and restored, never drawn from)
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002
    try:
        with seeded_random_state(seed, model, pending), preserved_model(model, pending), torch.no_grad():
            model.eval()
            yield model
    finally:
        random.setstate(python)
        np.random.set_state(numbers)  # noqa: NPY002


def checked_rows(name: str, value: Any) -> Any:
    """A map-style dataset with at least one row; arrays become tensors."""
    if isinstance(value, np.ndarray):
        try:
            value = torch.from_numpy(value)
        except TypeError as error:
            raise InvalidInput(f"{setting(name)} must be an array of numbers, got {value.dtype}") from error
    if isinstance(value, Tensor) and not value.ndim:
        raise InvalidInput(f"{setting(name)} must have rows, got a single number")
    if not hasattr(value, "__getitem__") or not hasattr(value, "__len__"):
        raise InvalidInput(
            f"{setting(name)} must be a map-style dataset with __getitem__ and __len__, got {type(value).__name__}"
        )
    if isinstance(value, (str, bytes, Mapping)):
        raise InvalidInput(f"{setting(name)} must be a map-style dataset of rows, got {type(value).__name__}")
    if len(value) == 0:
        raise InvalidInput(f"{setting(name)} has no rows")
    return value
