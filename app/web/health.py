"""`/healthz`, `/readyz` and `/metrics`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

from flask import Blueprint, Response, jsonify
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from app import metrics
from app.admin import figures
from app.bounds import Bounds, Fault
from app.store import deliveries, health, inbox
from app.store import presence as presence_store
from app.store.dialect import Database, DatabaseError
from app.store.rows import Health
from app.web import told


def blueprint(database: Database, now: Callable[[], int], bounds: Bounds | None = None) -> Blueprint:
    """`now`: UNIX milliseconds. `bounds`: above which calls are refused; None where nothing is bounded."""
    routes = Blueprint("health", __name__)

    @routes.get("/healthz")
    def healthz() -> Response:
        return jsonify(status="ok")

    @routes.get("/readyz")
    def readyz() -> tuple[Response, int]:
        providers: dict[str, str] = {}
        try:
            with database.read() as connection:
                beats = health.beats(connection)
        except DatabaseError:
            parts = {"storage": "unreachable", "dispatcher": "unknown"}
        else:
            parts = _parts(beats, database.failed_at, _passed(bounds), now())
            providers = _said_of(figures.providers(beats, now()))
        ready = all(state == "ok" for state in parts.values())
        # A provider that is paused is no fault of this service, which goes on to take calls and to keep them.
        said = {"status": "ready" if ready else "not ready", "parts": parts, "providers": providers}
        return jsonify(said), 200 if ready else 503

    @routes.get("/metrics")
    def scrape() -> Response:
        registry = CollectorRegistry()
        registry.register(_Stored(database, now))
        if bounds is not None:
            registry.register(_Bounded(bounds))
        return Response(metrics.exposition(registry), content_type=CONTENT_TYPE_LATEST)

    return routes


def _parts(beats: Sequence[Health], failed_at: int | None, passed: Sequence[Fault], now: int) -> dict[str, str]:
    """How storage and dispatcher are. `failed_at`: when this process's last write failed; None where it did not."""
    # A beat is a write of another process: this one may have nothing to write when the database is well again.
    writable = failed_at is None or any(beat.beat_at > failed_at for beat in beats)
    faults = [*([] if writable else ["not writable"]), *(fault.title for fault in passed)]
    # Where nobody can write, no dispatcher can say that it is alive.
    silent = "not running" if writable else "unknown"
    return {
        "storage": "; ".join(faults) or "ok",
        "dispatcher": "ok" if figures.any_alive(beats, now) else silent,
    }


def _said_of(providers: Mapping[str, figures.ProviderState]) -> dict[str, str]:
    """For people: the state, with what it is about where there is something."""
    return {name: f"{each.state}: {each.reason}" if each.reason else each.state for name, each in providers.items()}


def _passed(bounds: Bounds | None) -> list[Fault]:
    """The bounds that are passed now."""
    if bounds is None:
        return []
    bounds.look()
    return [fault for fault in (bounds.disk, bounds.backlog) if fault]


class _Bounded(Collector):
    """How much room there is, as the process that is asked found it last."""

    def __init__(self, bounds: Bounds) -> None:
        self._bounds = bounds

    def collect(self) -> Iterator[GaugeMetricFamily]:
        self._bounds.look()
        yield GaugeMetricFamily(
            "pushbridge_disk_free_bytes", "Free on the file system of data_dir.", value=self._bounds.free
        )
        refusing = GaugeMetricFamily("pushbridge_refusing", "1 while calls are refused for it.", labels=["bound"])
        for bound, fault in (("disk", self._bounds.disk), ("backlog", self._bounds.backlog)):
            refusing.add_metric([bound], float(fault is not None))
        yield refusing


class _Stored(Collector):
    """Gauges that are read from the database when somebody scrapes, so that every process says the same."""

    def __init__(self, database: Database, now: Callable[[], int]) -> None:
        self._database = database
        self._now = now

    def collect(self) -> Iterator[Metric]:
        try:
            with self._database.read() as connection:
                queue = figures.queue(connection)
                pending = deliveries.pending(connection)
                waiting_for = deliveries.waiting(connection)
                beats = health.beats(connection)
                online = presence_store.online(connection)
                relayed = figures.relayed(connection)
        except DatabaseError:
            # The counters are worth having then more than ever; /readyz says what is wrong.
            return
        now = self._now()
        # They wait for somebody's word, for days if need be: as a lane they would look like a queue that stands still.
        failed, _ = queue.pop(inbox.SET_ASIDE, (0, None))
        depth = GaugeMetricFamily("pushbridge_queue_depth", "Webhook calls to be planned.", labels=["lane"])
        age = GaugeMetricFamily("pushbridge_queue_age_seconds", "Age of the oldest of them.", labels=["lane"])
        for lane, (count, oldest) in queue.items():
            depth.add_metric([lane], count)
            age.add_metric([lane], (now - oldest) / 1000 if oldest else 0)
        aside = GaugeMetricFamily("pushbridge_queue_failed", "Webhook calls that could not be planned.", value=failed)
        waiting = GaugeMetricFamily("pushbridge_pending", "Pushes that will be taken up again.", labels=["outcome"])
        for outcome, (count, _) in pending.items():
            waiting.add_metric([outcome], count)
        by_provider = GaugeMetricFamily(
            "pushbridge_provider_waiting", "Pushes that wait for the provider.", labels=["provider"]
        )
        for name in figures.providers(beats, now):
            by_provider.add_metric([name], waiting_for.get(name, 0))
        yield from (depth, age, aside, waiting, by_provider, *_relay(relayed, now), *told.families(beats, now))
        yield GaugeMetricFamily("pushbridge_online_users", "Users with a connection said to be open.", value=online)


def _relay(relayed: Mapping[tuple[str, str], tuple[int, int]], now: int) -> Iterator[GaugeMetricFamily]:
    waiting = GaugeMetricFamily("pushbridge_relay_waiting", "Events to be passed on.", labels=["target", "event"])
    age = GaugeMetricFamily("pushbridge_relay_age_seconds", "Age of the oldest of them.", labels=["target", "event"])
    for labels, (count, oldest) in relayed.items():
        waiting.add_metric(labels, count)
        age.add_metric(labels, max(0, now - oldest) / 1000)
    yield from (waiting, age)
