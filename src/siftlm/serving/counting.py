"""What the engine says of its work to whoever keeps count."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol


class Metrics(Protocol):
    """Who keeps count; see `siftlm.serving.metrics`."""

    def finished(self, mode: str, seconds: Mapping[str, float]) -> None:
        """A request is done; where its time went."""

    def refused(self) -> None:
        """The queue was full."""

    def cache(self, hit: bool) -> None:
        """Somebody had asked for the same before, or not."""

    def learned(self, steps: int, tokens: int) -> None:
        """A prompt has learned."""

    def made(self, tokens: int) -> None:
        """Tokens were made."""


class NoMetrics:
    """Counts nothing."""

    def finished(self, mode: str, seconds: Mapping[str, float]) -> None: ...
    def refused(self) -> None: ...
    def cache(self, hit: bool) -> None: ...
    def learned(self, steps: int, tokens: int) -> None: ...
    def made(self, tokens: int) -> None: ...
