"""Restoring a model bit for bit, whatever happens: Ctrl-C waits, and a part that fails keeps no other from it."""

from __future__ import annotations

import re
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from functools import partial, wraps
from types import FrameType, TracebackType
from typing import Any, Generic, ParamSpec, TypeVar

import torch

from siftlm.errors import InvalidInput, SiftlmError, setting

RestoreStep = Callable[[], object]
Params = ParamSpec("Params")
Entered = TypeVar("Entered")


@dataclass(eq=False)
class PendingRestores:
    """Restore steps that failed: they are repeated before anything else is done with the model.

    Every step may run twice, so each sets a state and none changes one.
    """

    left: list[RestoreStep] = field(default_factory=list)

    def run(self, steps: Iterable[RestoreStep]) -> None:
        """Take every step, whatever becomes of the others; those that fail stay here, and the first error is raised."""
        errors: list[BaseException] = []
        for step in steps:
            try:
                step()
            except BaseException as error:  # noqa: BLE001, PERF203 (raised when the others have had their turn)
                self.left.append(step)
                errors.append(error)
        if errors:
            raise errors[0]

    def finish(self) -> None:
        """Repeat what failed before; nothing can go on without it."""
        if not self.left:
            return
        try:
            with InterruptShield():
                steps, self.left = self.left, []
                self.run(steps)
        except Exception as error:
            raise SiftlmError(
                f"the model is not what it was: an earlier call could not put it back, nor could this one ({error}). "
                f"Free memory and call again, or load the model anew"
            ) from error


# --- Ctrl-C


@dataclass(eq=False)
class InterruptShield:
    """A context in which Ctrl-C waits: it stands before the handler of the signal."""

    protected: Callable[[FrameType | None], bool] | None = None
    """In which frames it waits; None: in all."""
    held: bool = field(default=False, init=False)
    """Has a signal arrived?"""
    _before: Any = field(default=None, init=False)
    _mine: Any = field(default=None, init=False)

    def __enter__(self) -> None:
        if threading.current_thread() is not threading.main_thread():
            return
        before = signal.getsignal(signal.SIGINT)
        if callable(before):  # else it is ignored, deadly, or not of Python: nothing to hold back
            self._before, self._mine = before, self._handle
            signal.signal(signal.SIGINT, self._mine)

    def __exit__(self, *_: object) -> None:
        # Somebody else may have put another handler into its place, which is then to stay.
        if self._mine is not None and signal.getsignal(signal.SIGINT) is self._mine:
            signal.signal(signal.SIGINT, self._before)
        self._mine = None
        self.deliver()

    def deliver(self) -> None:
        """Hand over the signal that was held back, if there was one."""
        if self.held:
            self.held = False
            self._before(signal.SIGINT, sys._getframe())

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._mine is not None and (self.protected is None or self.protected(frame)):
            self.held = True
        else:
            self._before(number, frame)


@dataclass(eq=False)
class RestoringContext(AbstractContextManager[Entered], Generic[Entered]):
    """A context manager around an `UninterruptibleContext`: once entered, it is always left through that one."""

    inner: AbstractContextManager[Entered]

    def __enter__(self) -> Entered:
        try:
            return self.inner.__enter__()
        except BaseException as error:
            self.__exit__(type(error), error, error.__traceback__)  # perhaps just after it had been entered
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> bool | None:
        return self.inner.__exit__(kind, error, where)


@dataclass(eq=False)
class UninterruptibleContext(RestoringContext[Entered]):
    """A context manager whose beginning and end cannot be interrupted; the block can."""

    _shield: InterruptShield = field(default_factory=lambda: InterruptShield(_in_protected_frame))

    def __enter__(self) -> Entered:
        self._shield.__enter__()
        try:
            value = self.inner.__enter__()
        except BaseException:
            self._shield.__exit__()
            raise
        try:
            self._shield.deliver()
        except BaseException as error:
            self.__exit__(type(error), error, error.__traceback__)
            raise
        return value

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> bool | None:
        try:
            return self.inner.__exit__(kind, error, where)
        finally:
            self._shield.__exit__()


def restoring(make: Callable[Params, Iterator[Entered]]) -> Callable[Params, AbstractContextManager[Entered]]:
    """``contextlib.contextmanager`` for a function with an `UninterruptibleContext` inside."""
    manager = contextmanager(make)

    @wraps(make)
    def open_context(*args: Params.args, **kwargs: Params.kwargs) -> AbstractContextManager[Entered]:
        return RestoringContext(manager(*args, **kwargs))

    return open_context


_PROTECTED_CODE = frozenset(
    method.__code__
    for method in (RestoringContext.__exit__, UninterruptibleContext.__enter__, UninterruptibleContext.__exit__)
)


def _in_protected_frame(frame: FrameType | None) -> bool:
    """Is a model being changed or restored in this frame, or in one that called it?"""
    while frame is not None:
        if frame.f_code in _PROTECTED_CODE:
            return True
        frame = frame.f_back
    return False


# --- the model

# Rates that models keep as plain numbers and hand to a function, instead of having a layer for them.
DROPOUT_ATTRIBUTES = re.compile(r"dropout|layerdrop")


@contextmanager
def preserved_model(model: torch.nn.Module, pending: PendingRestores) -> Iterator[list[RestoreStep]]:
    """Restores all of the model at the end; the weights by the steps that are added to the list that this yields.

    What cannot be restored stays in ``pending``.
    """
    # Modes, dropout rates, checkpointing, what rotary embeddings remember: all are attributes of modules.
    attributes = [vars(module) for module in model.modules()]
    # transformers leaves hooks on the embeddings when checkpointing is switched off.
    inner = [
        own for named in attributes for name, own in named.items() if name == "_buffers" or name.endswith("_hooks")
    ]
    tables = [(table, dict(table)) for table in (*attributes, *(own for own in inner if isinstance(own, dict)))]
    buffers = [
        (buffer, buffer.detach().clone())
        for module in model.modules()
        for buffer in module._buffers.values()
        if buffer is not None
    ]
    parameters = [(p, p.requires_grad, p.grad) for p in model.parameters()]
    weights: list[RestoreStep] = []
    try:
        for p, _, _ in parameters:
            p.grad = None
        yield weights
    finally:
        with InterruptShield():
            pending.run(
                [
                    *weights,
                    *(partial(_restore_table, *one) for one in tables),
                    *(partial(p.requires_grad_, required) for p, required, _ in parameters),
                    *(partial(setattr, p, "grad", gradient) for p, _, gradient in parameters),
                    *(partial(restore_tensor, *one) for one in buffers),
                ]
            )


# torch has one random state, which all threads share: whoever seeds it and draws from it holds this lock meanwhile.
RANDOM_STATE_LOCK = threading.RLock()


@contextmanager
def seeded_random_state(seed: int, model: torch.nn.Module, pending: PendingRestores) -> Iterator[None]:
    """Seeds torch's random state on all devices of the model, and restores it; for who holds `RANDOM_STATE_LOCK`."""
    devices = sorted({p.device.index for p in model.parameters() if p.device.type == "cuda"})
    state = torch.get_rng_state()
    cuda = [torch.cuda.get_rng_state(device) for device in devices]
    try:
        torch.manual_seed(seed)
        yield
    finally:
        with InterruptShield():
            pending.run(
                [
                    partial(torch.set_rng_state, state),
                    *(partial(torch.cuda.set_rng_state, *one) for one in zip(cuda, devices, strict=True)),
                ]
            )


def restore_tensor(tensor: torch.Tensor, saved: torch.Tensor) -> None:
    """Copy the saved numbers back, whichever mode the tensor was made in."""
    with torch.inference_mode():
        tensor.copy_(saved)


def _restore_table(table: dict[str, Any], saved: dict[str, Any]) -> None:
    table.clear()
    table.update(saved)


@contextmanager
def training_mode(model: torch.nn.Module, rate: float, checkpointing: bool) -> Iterator[None]:
    """All dropout at ``rate``; a model that learns without any stays in eval mode. Eval mode afterwards."""
    if not rate and not checkpointing:
        model.eval()
        yield
        return
    before: list[tuple[torch.nn.Module, str, Any]] = []
    for module in model.modules():
        layer = isinstance(module, torch.nn.modules.dropout._DropoutNd)
        for name, value in vars(module).items():
            rated = isinstance(value, float) and ((layer and name == "p") or DROPOUT_ATTRIBUTES.search(name))
            if rated or name == "gradient_checkpointing":
                before.append((module, name, value))
    try:
        if checkpointing:
            _gradient_checkpointing(model)
        for module, name, value in before:
            if isinstance(value, float):
                setattr(module, name, 0.0 if name == "layerdrop" else rate)
        model.train()  # checkpointing works in train mode only
        yield
    finally:
        for module, name, value in before:
            setattr(module, name, value)
        model.eval()


def _gradient_checkpointing(model: torch.nn.Module) -> None:
    # The older name warns from transformers 5.23 on.
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    try:
        enable({"use_reentrant": False})
    except ValueError as error:
        raise InvalidInput(f"{setting('checkpointing', True)}: {error}") from error
