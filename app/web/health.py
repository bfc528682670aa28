"""`/healthz`, `/readyz` and `/metrics`."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from flask import Blueprint, Response, jsonify
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from app import metrics
from app.admin import figures
from app.store import deliveries, health
from app.store import presence as presence_store
from app.store.dialect import Database, DatabaseError


def blueprint(database: Database, now: Callable[[], int]) -> Blueprint:
    """`now`: UNIX milliseconds."""
    routes = Blueprint("health", __name__)

    @routes.get("/healthz")
    def healthz() -> Response:
        return jsonify(status="ok")

    @routes.get("/readyz")
    def readyz() -> tuple[Response, int]:
        parts = {"storage": "ok", "dispatcher": "ok"}
        try:
            with database.read() as connection:
                beats = health.beats(connection)
            if not figures.any_alive(beats, now()):
                parts["dispatcher"] = "not running"
        except DatabaseError:
            parts = {"storage": "unreachable", "dispatcher": "unknown"}
        ready = all(state == "ok" for state in parts.values())
        return jsonify(status="ready" if ready else "not ready", parts=parts), 200 if ready else 503

    @routes.get("/metrics")
    def scrape() -> Response:
        registry = CollectorRegistry()
        registry.register(_Stored(database, now))
        return Response(metrics.exposition(registry), content_type=CONTENT_TYPE_LATEST)

    return routes


class _Stored(Collector):
    """Gauges that are read from the database when somebody scrapes, so that every process says the same."""

    def __init__(self, database: Database, now: Callable[[], int]) -> None:
        self._database = database
        self._now = now

    def collect(self) -> Iterator[GaugeMetricFamily]:
        try:
            with self._database.read() as connection:
                queue = figures.queue(connection)
                pending = deliveries.pending(connection)
                beats = health.beats(connection)
                online = presence_store.online(connection)
        except DatabaseError:
            # The counters are worth having then more than ever; /readyz says what is wrong.
            return
        now = self._now()
        depth = GaugeMetricFamily("pushbridge_queue_depth", "Webhook calls to be planned.", labels=["lane"])
        age = GaugeMetricFamily("pushbridge_queue_age_seconds", "Age of the oldest of them.", labels=["lane"])
        for lane, (count, oldest) in queue.items():
            depth.add_metric([lane], count)
            age.add_metric([lane], (now - oldest) / 1000 if oldest else 0)
        waiting = GaugeMetricFamily("pushbridge_pending", "Pushes that will be taken up again.", labels=["outcome"])
        for outcome, (count, _) in pending.items():
            waiting.add_metric([outcome], count)
        alive = sum(figures.any_alive([beat], now) for beat in beats)
        paused = GaugeMetricFamily("pushbridge_provider_paused", "1 while nothing is sent to it.", labels=["provider"])
        for provider, is_paused in figures.paused(beats, now).items():
            paused.add_metric([provider], is_paused)
        yield from (depth, age, waiting, paused)
        yield GaugeMetricFamily("pushbridge_dispatchers", "Dispatcher processes alive.", value=alive)
        yield GaugeMetricFamily("pushbridge_online_users", "Users with a connection said to be open.", value=online)
