"""A job on its way through the engine."""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import dataclass, field

from siftlm.serving.adapters import AdapterSlot
from siftlm.serving.events import Event, EventCallback, Failed, Finished, Job


@dataclass(eq=False)
class ServedRequest:
    """Only the engine's thread touches it, but for ``cancelled``."""

    job: Job
    deliver: EventCallback
    place: AdapterSlot | None = None
    """Where what it learned is; None: it speaks as the base model."""
    context: tuple[str, ...] = ()
    """Texts to be put before its prompt."""
    cancelled: bool = False
    """Nobody waits for it any more."""
    failed: bool = False
    finished: bool = False
    clock: dict[str, float] = field(default_factory=dict)
    since: float = field(default_factory=time.monotonic)

    @property
    def over(self) -> bool:
        """Is there nothing more to do for it?"""
        return self.cancelled or self.failed

    @property
    def owner(self) -> int:
        """Whose adapter it speaks through."""
        return 0 if self.place is None else self.place.number

    def tell(self, event: Event) -> None:
        """One listener that fails is not to end the engine."""
        if not self.over:
            with suppress(Exception):
                self.deliver(event)

    def fail(self, error: Exception) -> None:
        """The last that is heard of it."""
        self.tell(Failed(error))
        self.failed = True

    def passed(self, what: str) -> None:
        """All the time since the last of these went into this."""
        now = time.monotonic()
        self.clock[what] = self.clock.get(what, 0.0) + now - self.since
        self.since = now

    def finish(self) -> dict[str, float]:
        """It is done; where its time went."""
        self.passed("generate")
        self.tell(Finished(dict(self.clock)))
        self.finished = True
        return self.clock
