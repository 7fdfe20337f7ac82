"""Metrics of the server, for Prometheus."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping
from importlib.metadata import version
from typing import Any, Protocol

from siftlm import recipes
from siftlm.extras import load
from siftlm.selection import methods
from siftlm.serving.auth import Caller
from siftlm.serving.modes import AUTO_MODE, BASE_MODE, CONTEXT_MODE, LISTED_MODES, METHOD_ALIASES

OTHER_LABEL = "other"
TIMED_STAGES = ("queue", "select", "learn", "generate", "whole")
BUCKET_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
# What has two names is counted under the one that models are named with.
ALIAS_OF_METHOD = {name: alias for alias, name in METHOD_ALIASES.items()}
NUMBER_SUFFIX = re.compile(r"-[0-9]+\Z")
# Of `engine.state()`, by the name of the gauge; read when somebody asks.
GAUGES = {
    "waiting": "Requests in the queue",
    "learning": "Requests that learn",
    "speaking": "Requests that are continued",
    "slots": "Requests that can be worked on at once",
    "cached": "Adapters in the cache",
    "cached_bytes": "Bytes of the adapters in the cache",
    "ready": "1 when requests are taken",
    "closing": "1 while the server shuts down",
}


class PrometheusMetrics:
    """Counters and histograms of one server, in a registry of its own."""

    def __init__(self, *, known: Collection[str] | None = None) -> None:
        client = load("prometheus_client", "serve")
        self._known = frozenset(_known_modes() if known is None else known)
        self.registry = own = client.CollectorRegistry()
        client.ProcessCollector(registry=own)
        client.Info("siftlm", "Of this server", registry=own).info({"version": version("siftlm")})
        self._requests = client.Counter(
            "siftlm_requests", "Requests that were answered", ["route", "mode", "status"], registry=own
        )
        self._seconds = client.Histogram(
            "siftlm_seconds",
            "Where the time of a finished request went",
            ["mode", "stage"],
            buckets=BUCKET_SECONDS,
            registry=own,
        )
        self._tokens = client.Counter("siftlm_tokens", "Tokens", ["kind"], registry=own)
        self._steps = client.Counter("siftlm_steps", "Gradient steps that were taken", registry=own)
        self._cache = client.Counter("siftlm_cache", "Adapters that were looked for", ["result"], registry=own)
        self._refused = client.Counter("siftlm_refused", "Requests that found the queue full", registry=own)
        for kind in ("read", "made", "learned"):  # there from the beginning, so that rates begin at the first
            self._tokens.labels(kind)
        for result in ("hit", "miss"):
            self._cache.labels(result)

    # --- what HTTP tells

    def answered(self, route: str | None, status: int, mode: str | None = None) -> None:
        """``route`` is the template that matched, as `route_template` finds it, never the path itself."""
        self._requests.labels(route or OTHER_LABEL, "" if mode is None else self.folded(mode), str(int(status))).inc()

    def read(self, tokens: int) -> None:
        """Tokens of a prompt."""
        self._tokens.labels("read").inc(tokens)

    # --- what the engine tells

    def finished(self, mode: str, seconds: Mapping[str, float]) -> None:
        """A request is; ``whole``, where it is not said, is the sum of the others."""
        folded = self.folded(mode)
        told = {stage: float(seconds[stage]) for stage in TIMED_STAGES if stage in seconds}
        told.setdefault("whole", sum(told.values()))
        for stage, value in told.items():
            self._seconds.labels(folded, stage).observe(value)

    def refused(self) -> None:
        """The queue was full."""
        self._refused.inc()

    def cache(self, hit: bool) -> None:
        """An adapter was looked for."""
        self._cache.labels("hit" if hit else "miss").inc()

    def learned(self, steps: int, tokens: int) -> None:
        """So many steps on so many tokens were taken."""
        self._steps.inc(steps)
        self._tokens.labels("learned").inc(tokens)

    def made(self, tokens: int) -> None:
        """Tokens of answers."""
        self._tokens.labels("made").inc(tokens)

    # --- what is asked for

    def folded(self, mode: str) -> str:
        """Without its number, under one name, and only if it is known.

        >>> counts = PrometheusMetrics()
        >>> [counts.folded(mode) for mode in ("sift-50", "base", "nearest-5", "mm-itl-5", "what-ever-5")]
        ['sift', 'base', 'nn', 'mm-itl', 'other']
        """
        name = NUMBER_SUFFIX.sub("", mode)
        name = ALIAS_OF_METHOD.get(name, name)
        return name if name in self._known else OTHER_LABEL

    def watch(self, state: Callable[[], Any]) -> None:
        """Also show what the engine is doing: ``state`` is asked once each time somebody looks."""
        self.registry.register(_EngineCollector(state))

    def text(self, accept: str = "") -> tuple[bytes, str]:
        """Everything, in the format that is asked for, and that format's name."""
        exposition = load("prometheus_client.exposition", "serve")
        encode, content_type = exposition.choose_encoder(accept)
        return encode(self.registry), content_type


def _known_modes() -> set[str]:
    return {
        *methods(),
        *recipes.RECIPES,
        BASE_MODE,
        AUTO_MODE,
        CONTEXT_MODE,
        *(NUMBER_SUFFIX.sub("", mode) for mode in LISTED_MODES),
    }


class _EngineCollector:
    """Gauges that are read when they are asked for."""

    def __init__(self, state: Callable[[], Any]) -> None:
        self._state = state
        self._gauge = load("prometheus_client.core", "serve").GaugeMetricFamily

    def describe(self) -> Iterator[Any]:
        """Their names, without asking the engine."""
        for name, words in GAUGES.items():
            yield self._gauge(f"siftlm_{name}", words)

    def collect(self) -> Iterator[Any]:
        """Of one moment."""
        state = self._state()
        for name, words in GAUGES.items():
            value = getattr(state, name, None)
            if value is not None:
                yield self._gauge(f"siftlm_{name}", words, value=float(value))


def route_template(scope: Mapping[str, Any]) -> str:
    """The template that a request matched, of its ASGI scope after it was answered: ``/v1/documents/{id}``."""
    return str(getattr(scope.get("route"), "path", None) or OTHER_LABEL)


def routes(count: PrometheusMetrics, allowed: Callable[..., Caller]) -> Any:
    """The router: GET /metrics, for everybody who has a key."""
    fastapi = load("fastapi", "serve")
    router = fastapi.APIRouter(dependencies=[fastapi.Depends(allowed)])

    def metrics(accept: str = fastapi.Header("")) -> Any:
        content, content_type = count.text(accept)
        return fastapi.Response(content, media_type=content_type)

    router.add_api_route("/metrics", metrics, methods=["GET"], include_in_schema=False, response_model=None)
    return router


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
