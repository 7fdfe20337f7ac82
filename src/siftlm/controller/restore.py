"""Restoring a model bit for bit, whatever happens: Ctrl-C waits, and a part that fails keeps no other from it."""

from __future__ import annotations

import re
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial, wraps
from types import FrameType, TracebackType
from typing import Any, Generic, ParamSpec, TypeVar

import torch

from siftlm.errors import InvalidInput, SiftlmError

RestoreStep = Callable[[], object]


def run_restores(work: Iterable[RestoreStep]) -> None:
    """Do all of it, whatever becomes of the others; then raise the first error."""
    PendingRestores().run(work)


class PendingRestores:
    """What could not be put back: it is done before anything else is."""

    def __init__(self) -> None:
        self._left: list[RestoreStep] = []

    def run(self, work: Iterable[RestoreStep]) -> None:
        """All of ``work``; what fails stays here, and the first error is raised at the end."""
        failed = [(one, error) for one in work if (error := _restore_error(one)) is not None]
        if failed:
            self._left.extend(one for one, _ in failed)
            raise failed[0][1]

    def finish(self) -> None:
        """What has failed before, once more; nothing can go on without it."""
        if not self._left:
            return
        try:
            with uninterrupted():
                work, self._left = self._left, []
                self.run(work)
        except Exception as error:
            raise SiftlmError(
                f"the model is not what it was: an earlier call could not put it back, nor could this one ({error}). "
                f"Free memory and call again, or load the model anew"
            ) from error


def _restore_error(one: RestoreStep) -> BaseException | None:
    try:
        one()
    except BaseException as error:  # noqa: BLE001 (raised when the others have had their turn)
        return error
    return None


Params = ParamSpec("Params")
Entered = TypeVar("Entered")


class _InterruptShield:
    """Stands before the handler of Ctrl-C, and holds back what arrives where ``protected`` says so."""

    def __init__(self, protected: Callable[[FrameType | None], bool]) -> None:
        self._protected = protected
        self._before: Any = None
        self._mine: Any = None
        self.held = False

    def up(self) -> None:
        """From now on."""
        if threading.current_thread() is not threading.main_thread():
            return
        before = signal.getsignal(signal.SIGINT)
        if callable(before):  # else it is ignored, deadly, or not of Python: nothing to hold back
            self._before, self._mine = before, self._called
            signal.signal(signal.SIGINT, self._mine)

    def down(self) -> None:
        """No longer; what was held back is heard."""
        # Somebody else may have put another handler into its place, which is then to stay.
        if self._mine is not None and signal.getsignal(signal.SIGINT) is self._mine:
            signal.signal(signal.SIGINT, self._before)
        self._mine = None
        self.hear()

    def hear(self) -> None:
        """What was held back, now."""
        if self.held:
            self.held = False
            self._before(signal.SIGINT, sys._getframe())

    def _called(self, number: int, frame: FrameType | None) -> None:
        if self._mine is not None and self._protected(frame):
            self.held = True
        else:
            self._before(number, frame)


class RestoringContext(AbstractContextManager[Entered], Generic[Entered]):
    """A context manager around a `UninterruptibleContext`: once entered, nothing comes before the end of that."""

    def __init__(self, inner: AbstractContextManager[Entered]) -> None:
        self._inner = inner

    def __enter__(self) -> Entered:
        try:
            return self._inner.__enter__()
        except BaseException as error:
            self.__exit__(type(error), error, error.__traceback__)  # perhaps just after it had been entered
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> bool | None:
        return self._inner.__exit__(kind, error, where)


class UninterruptibleContext(RestoringContext[Entered]):
    """A context manager whose beginning and end cannot be interrupted; the block can."""

    def __init__(self, inner: AbstractContextManager[Entered]) -> None:
        super().__init__(inner)
        self._shield = _InterruptShield(_in_protected_frame)

    def __enter__(self) -> Entered:
        self._shield.up()
        try:
            value = self._inner.__enter__()
        except BaseException:
            self._shield.down()
            raise
        try:
            self._shield.hear()
        except BaseException as error:
            self.__exit__(type(error), error, error.__traceback__)
            raise
        return value

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> bool | None:
        try:
            return self._inner.__exit__(kind, error, where)
        finally:
            self._shield.down()


def restoring(make: Callable[Params, Iterator[Entered]]) -> Callable[Params, AbstractContextManager[Entered]]:
    """``contextlib.contextmanager`` for a function with a `UninterruptibleContext` inside."""
    manager = contextmanager(make)

    @wraps(make)
    def made(*args: Params.args, **kwargs: Params.kwargs) -> AbstractContextManager[Entered]:
        return RestoringContext(manager(*args, **kwargs))

    return made


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Inside, Ctrl-C waits."""
    shield = _InterruptShield(lambda _: True)
    shield.up()
    try:
        yield
    finally:
        shield.down()


_PROTECTED_CODE = frozenset(
    method.__code__
    for method in (RestoringContext.__exit__, UninterruptibleContext.__enter__, UninterruptibleContext.__exit__)
)


def _in_protected_frame(frame: FrameType | None) -> bool:
    """Is a model being changed or put back in this frame, or in one that called it?"""
    while frame is not None:
        if frame.f_code in _PROTECTED_CODE:
            return True
        frame = frame.f_back
    return False


__all__ = ["preserved_model", "preserved_random_state", "training_mode", "uninterrupted"]

# Rates that models keep as plain numbers and hand to a function, instead of having a layer for them.
DROPOUT_ATTRIBUTES = re.compile(r"dropout|layerdrop")


@contextmanager
def preserved_model(model: Any, unfinished: PendingRestores) -> Iterator[list[RestoreStep]]:
    """All of the model; the weights by what is added to the list that this yields.

    What cannot be put back stays in ``unfinished``.
    """
    # Modes, dropout rates, checkpointing, what rotary embeddings remember: all are attributes of modules.
    attributes = [(module, dict(vars(module))) for module in model.modules()]
    hooks = [  # transformers leaves some on the embeddings when checkpointing is switched off
        (hooked, dict(hooked))
        for _, before in attributes
        for name, hooked in before.items()
        if name.endswith("_hooks") and isinstance(hooked, dict)
    ]
    buffers = [
        (module, name, buffer, None if buffer is None else buffer.detach().clone())
        for module in model.modules()
        for name, buffer in module._buffers.items()
    ]
    wanted = [(p, p.requires_grad, p.grad) for p in model.parameters()]
    weights: list[RestoreStep] = []
    try:
        for p, _, _ in wanted:
            p.grad = None
        yield weights
    finally:
        with uninterrupted():
            unfinished.run(
                [
                    *weights,
                    *(partial(_restore_attributes, *one) for one in attributes),
                    *(partial(_restore_hooks, *one) for one in hooks),
                    *(partial(_restore_grad, *one) for one in wanted),
                    *(partial(_restore_buffer, *one) for one in buffers),
                ]
            )


@contextmanager
def preserved_random_state(model: Any, unfinished: PendingRestores) -> Iterator[None]:
    """Torch's random state on all devices of the model; only for those who draw from it, as all threads share it."""
    devices = sorted({p.device.index for p in model.parameters() if p.device.type == "cuda"})
    state = torch.get_rng_state()
    cuda = [torch.cuda.get_rng_state(device) for device in devices]
    try:
        yield
    finally:
        with uninterrupted():
            unfinished.run(
                [
                    partial(torch.set_rng_state, state),
                    *(partial(torch.cuda.set_rng_state, *one) for one in zip(cuda, devices, strict=True)),
                ]
            )


def _restore_attributes(module: Any, before: dict[str, Any]) -> None:
    vars(module).clear()
    vars(module).update(before)


def _restore_hooks(hooked: dict[Any, Any], before: dict[Any, Any]) -> None:
    if hooked.keys() != before.keys():
        hooked.clear()
        hooked.update(before)


def _restore_grad(p: Any, required: bool, gradient: Any) -> None:
    p.requires_grad_(required)
    p.grad = gradient


def _restore_buffer(module: Any, name: str, buffer: Any, value: Any) -> None:
    module._buffers[name] = buffer
    if buffer is not None:
        with torch.inference_mode():  # where each buffer may be changed, whichever mode made it
            buffer.copy_(value)


@contextmanager
def training_mode(model: Any, rate: float, checkpointing: bool) -> Iterator[None]:
    """All dropout at ``rate``; a model that learns without any stays in eval mode. Eval mode afterwards."""
    if not rate and not checkpointing:
        model.eval()
        yield
        return
    before: list[tuple[Any, str, Any]] = []
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


def _gradient_checkpointing(model: Any) -> None:
    # The older name warns from transformers 5.23 on.
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    try:
        enable({"use_reentrant": False})
    except ValueError as error:
        raise InvalidInput(f"checkpointing=True: {error}") from error
