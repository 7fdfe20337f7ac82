"""What is changed is put back, one thing after another; what fails keeps nothing else from it, and is tried again."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from siftlm.controller.interrupts import uninterrupted
from siftlm.errors import SiftlmError

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
