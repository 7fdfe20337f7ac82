"""What is counted is what is shown, and no client can make the list of series long."""

from __future__ import annotations

import pytest
from fastapi import FastAPI
from prometheus_client.parser import text_string_to_metric_families

from serving.fake_engine import FakeEngine, allowed, client
from siftlm.serving import PrometheusMetrics
from siftlm.serving.metrics import GAUGES, route_template, routes


def shown(counts: PrometheusMetrics) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    text, content_type = counts.text()
    assert content_type.startswith("text/plain")
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
    }


def value(counts: PrometheusMetrics, name: str, **labels: str) -> float:
    return shown(counts)[name, frozenset(labels.items())]


@pytest.fixture
def counts():
    return PrometheusMetrics()


def test_what_the_engine_tells(counts):
    counts.finished("sift-50", {"queue": 0.5, "select": 0.25, "learn": 2.0, "generate": 1.0})
    counts.finished("sift-20", {"queue": 0.5, "whole": 7.0, "other things": 9.0})
    counts.refused()
    counts.cache(True)
    counts.cache(False)
    counts.cache(False)
    counts.tuned(50, 1200)
    counts.generated(16)
    counts.generated(4)
    counts.read(30)
    assert value(counts, "siftlm_seconds_sum", mode="sift", stage="queue") == 1.0
    assert value(counts, "siftlm_seconds_count", mode="sift", stage="learn") == 1
    assert value(counts, "siftlm_seconds_sum", mode="sift", stage="whole") == 3.75 + 7.0
    assert value(counts, "siftlm_seconds_bucket", mode="sift", stage="whole", le="5.0") == 1
    assert value(counts, "siftlm_refused_total") == 1
    assert value(counts, "siftlm_cache_total", result="hit") == 1
    assert value(counts, "siftlm_cache_total", result="miss") == 2
    assert value(counts, "siftlm_steps_total") == 50
    assert [value(counts, "siftlm_tokens_total", kind=kind) for kind in ("read", "learned", "made")] == [30, 1200, 20]


def test_what_http_tells(counts):
    counts.answered("/v1/completions", 200, "sift-50")
    counts.answered("/v1/completions", 200, "sift-7")
    counts.answered("/v1/documents/{id}", 404)
    counts.answered(None, 404)
    assert value(counts, "siftlm_requests_total", route="/v1/completions", mode="sift", status="200") == 2
    assert value(counts, "siftlm_requests_total", route="/v1/documents/{id}", mode="", status="404") == 1
    assert value(counts, "siftlm_requests_total", route="other", mode="", status="404") == 1


def test_zero_is_shown_before_anything_happens(counts):
    assert value(counts, "siftlm_refused_total") == 0
    assert value(counts, "siftlm_tokens_total", kind="made") == 0
    assert value(counts, "siftlm_cache_total", result="hit") == 0


@pytest.mark.parametrize(
    ("mode", "folded"),
    [
        ("base", "base"),
        ("nn-50", "nn"),
        ("nearest-50", "nn"),
        ("auto", "auto"),
        ("context-10", "context"),
        ("sift-fast", "sift-fast"),
        ("sift-fast-50", "sift-fast"),
        ("hullft-5", "hullft"),
        ("k-means++-3", "k-means++"),
        ("", "other"),
        ("sift-5\n", "other"),
        ("drop table", "other"),
        ("50", "other"),
    ],
)
def test_modes_are_folded(counts, mode, folded):
    assert counts.folded(mode) == folded


def test_users_cannot_make_the_list_long(counts):
    counts.finished("sift-1", {})
    counts.finished("x-1", {})
    before = len(shown(counts))
    for n in range(200):
        counts.finished(f"sift-{n}", {"whole": 1.0})
        counts.finished(f"made-up-{n}-name", {"whole": 1.0})
    assert len(shown(counts)) == before


def test_the_state_is_asked_once_each_time_and_not_before(counts):
    asked = []

    def state():
        asked.append(1)
        return FakeEngine({}).state

    counts.watch(state)
    assert not asked
    found = shown(counts)
    assert len(asked) == 1
    assert found["siftlm_cached_bytes", frozenset()] == 4096
    assert found["siftlm_waiting", frozenset()] == 3
    assert found["siftlm_ready", frozenset()] == 1
    assert all((f"siftlm_{name}", frozenset()) in found for name in GAUGES)


def test_two_servers_share_nothing(counts):
    counts.refused()
    assert value(PrometheusMetrics(), "siftlm_refused_total") == 0


def test_the_route(counts):
    counts.generated(5)
    engine = FakeEngine({})
    own = client(engine, lambda *_: routes(counts, allowed))
    answer = own.get("/metrics")
    assert answer.status_code == 200
    assert 'siftlm_tokens_total{kind="made"} 5.0' in answer.text
    assert answer.headers["content-type"].startswith("text/plain; version=")
    open_metrics = own.get("/metrics", headers={"Accept": "application/openmetrics-text; version=1.0.0"})
    assert open_metrics.headers["content-type"].startswith("application/openmetrics-text")
    assert open_metrics.text.endswith("# EOF\n")
    assert own.get("/metrics", headers={"Authorization": "Bearer nobody"}).status_code == 401
    engine.close()


def test_a_route_is_known_by_its_template():
    from fastapi.testclient import TestClient

    seen, app = [], FastAPI()
    app.add_api_route("/v1/documents/{id:path}", lambda id: id, methods=["DELETE"])  # noqa: A006

    @app.middleware("http")
    async def note(request, call_next):
        answer = await call_next(request)
        seen.append(route_template(request.scope))
        return answer

    own = TestClient(app)
    own.delete("/v1/documents/a/b")
    own.get("/nowhere/at/all")
    assert seen == ["/v1/documents/{id:path}", "other"]
