"""Metrics of the server, for Prometheus."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping
from importlib.metadata import version
from typing import Any

import prometheus_client
from fastapi import APIRouter, Depends, Header
from fastapi.responses import Response
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.exposition import choose_encoder

from siftlm import recipes
from siftlm.selection import methods
from siftlm.serving.auth import Caller
from siftlm.serving.events import EngineState, Metrics
from siftlm.serving.modes import AUTO_MODE, BASE_MODE, CONTEXT_MODE, LISTED_MODES, METHOD_ALIASES

OTHER_LABEL = "other"
TIMED_STAGES = ("queue", "select", "learn", "generate", "whole")
BUCKET_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
# A method with an alias is counted under the alias, which is what models are named with.
ALIAS_OF_METHOD = {name: alias for alias, name in METHOD_ALIASES.items()}
NUMBER_SUFFIX = re.compile(r"-[0-9]+\Z")
# Gauge -> (field of `EngineState`, help). Dashboards know the gauges by these names.
GAUGES = {
    "waiting": ("waiting", "Requests in the queue"),
    "learning": ("tuning", "Requests that are being tuned"),
    "speaking": ("decoding", "Choices that are being decoded"),
    "slots": ("slots", "Requests that can be tuned at once"),
    "cached": ("cached", "Adapters in the cache"),
    "cached_bytes": ("cached_bytes", "Bytes of the adapters in the cache"),
    "ready": ("ready", "1 when the server accepts requests"),
    "closing": ("closing", "1 while the server shuts down"),
}


class PrometheusMetrics(Metrics):
    """Counters and histograms of one server, in a registry of its own."""

    def __init__(self, *, known: Collection[str] | None = None) -> None:
        self._known = frozenset(_known_modes() if known is None else known)
        self.registry = own = prometheus_client.CollectorRegistry()
        prometheus_client.ProcessCollector(registry=own)
        prometheus_client.Info("siftlm", "This server", registry=own).info({"version": version("siftlm")})
        self._requests = prometheus_client.Counter(
            "siftlm_requests", "Requests answered", ["route", "mode", "status"], registry=own
        )
        self._seconds = prometheus_client.Histogram(
            "siftlm_seconds",
            "Time that finished requests spent in each stage",
            ["mode", "stage"],
            buckets=BUCKET_SECONDS,
            registry=own,
        )
        self._tokens = prometheus_client.Counter("siftlm_tokens", "Tokens", ["kind"], registry=own)
        self._steps = prometheus_client.Counter("siftlm_steps", "Gradient steps taken", registry=own)
        self._cache = prometheus_client.Counter("siftlm_cache", "Cache look-ups of adapters", ["result"], registry=own)
        self._refused = prometheus_client.Counter(
            "siftlm_refused", "Requests refused because the queue was full", registry=own
        )
        for kind in ("read", "made", "learned"):  # present from the start, so that rates include the first
            self._tokens.labels(kind)
        for result in ("hit", "miss"):
            self._cache.labels(result)

    def answered(self, route: str | None, status: int, mode: str | None = None) -> None:
        self._requests.labels(route or OTHER_LABEL, "" if mode is None else self.folded(mode), str(int(status))).inc()

    def read(self, tokens: int) -> None:
        self._tokens.labels("read").inc(tokens)

    def finished(self, mode: str, seconds: Mapping[str, float]) -> None:
        """A request has finished; ``whole`` defaults to the sum of the other stages."""
        folded = self.folded(mode)
        by_stage = {stage: float(seconds[stage]) for stage in TIMED_STAGES if stage in seconds}
        by_stage.setdefault("whole", sum(by_stage.values()))
        for stage, value in by_stage.items():
            self._seconds.labels(folded, stage).observe(value)

    def refused(self) -> None:
        self._refused.inc()

    def cache(self, hit: bool) -> None:
        self._cache.labels("hit" if hit else "miss").inc()

    def tuned(self, steps: int, tokens: int) -> None:
        self._steps.inc(steps)
        self._tokens.labels("learned").inc(tokens)

    def generated(self, tokens: int) -> None:
        self._tokens.labels("made").inc(tokens)

    def folded(self, mode: str) -> str:
        """The label of a mode: without its number, under one name, and ``other`` for an unknown one.

        >>> counts = PrometheusMetrics()
        >>> [counts.folded(mode) for mode in ("sift-50", "base", "nearest-5", "mm-itl-5", "what-ever-5")]
        ['sift', 'base', 'nn', 'mm-itl', 'other']
        """
        name = NUMBER_SUFFIX.sub("", mode)
        name = ALIAS_OF_METHOD.get(name, name)
        return name if name in self._known else OTHER_LABEL

    def watch(self, state: Callable[[], EngineState]) -> None:
        """Show the engine's load as well; ``state`` is called once for every scrape."""
        self.registry.register(_EngineCollector(state))

    def text(self, accept: str = "") -> tuple[bytes, str]:
        """All metrics in the format that the ``Accept`` header requests, and its content type."""
        encode, content_type = choose_encoder(accept)
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
    """The gauges of `GAUGES`, read at every scrape."""

    def __init__(self, state: Callable[[], EngineState]) -> None:
        self._state = state

    def describe(self) -> Iterator[Any]:
        """The gauges without values."""
        for name, (_, words) in GAUGES.items():
            yield GaugeMetricFamily(f"siftlm_{name}", words)

    def collect(self) -> Iterator[Any]:
        """The gauges with their current values."""
        state = self._state()
        for name, (field, words) in GAUGES.items():
            value = getattr(state, field, None)
            if value is not None:
                yield GaugeMetricFamily(f"siftlm_{name}", words, value=float(value))


def route_template(scope: Mapping[str, Any]) -> str:
    """The template of the route that an answered request matched, such as ``/v1/documents/{id}``."""
    return str(getattr(scope.get("route"), "path", None) or OTHER_LABEL)


def routes(count: PrometheusMetrics, allowed: Callable[..., Caller]) -> APIRouter:
    """The router of ``/metrics``, which any valid key may read."""
    router = APIRouter(dependencies=[Depends(allowed)])

    def metrics(accept: str = Header("")) -> Response:
        content, content_type = count.text(accept)
        return Response(content, media_type=content_type)

    router.add_api_route("/metrics", metrics, methods=["GET"], include_in_schema=False, response_model=None)
    return router
