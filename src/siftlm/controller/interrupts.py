"""Ctrl-C never leaves a model half changed: while it is changed and put back, the signal waits.

``with`` alone does not promise that: a signal may arrive when ``__exit__`` has been called and has not yet done
anything, or in the ``finally`` of a generator before its first line. So the handler looks where it was called.

Only the main thread hears signals; elsewhere there is nothing to hold back.
"""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import wraps
from types import FrameType, TracebackType
from typing import Any, Generic, ParamSpec, TypeVar

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
