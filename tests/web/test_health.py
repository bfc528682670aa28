from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from itertools import product
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, Counter
from prometheus_client.parser import text_string_to_metric_families as parse

from app import metrics
from app.admin.figures import ALIVE_WITHIN
from app.clock import now_ms
from app.events import KINDS
from app.model import Connection, Outcome
from app.store import deliveries, dialect, health, inbox, presence, relay
from app.store.opening import open_database
from app.store.rows import Delivery, Health
from tests.web.bridge import NOW, Bridge


def beat(bridge: Bridge, owner: str = "me", at: int = NOW, **states: str) -> None:
    """`states`: of providers by name."""
    said = {"providers": {name: {"state": state} for name, state in states.items()}} if states else {}
    with bridge.database.write() as connection:
        health.beat(connection, Health(owner, at, json.dumps(said)))


@contextmanager
def unreachable(bridge: Bridge, folder: Path) -> Iterator[None]:
    """The database cannot be opened meanwhile."""
    bridge.database.close()
    file, away = folder / "pushbridge.db", folder / "away"
    file.rename(away)
    file.mkdir()
    yield
    file.rmdir()
    away.rename(file)


def ready(bridge: Bridge) -> tuple[int, dict[str, str]]:
    answer = bridge.client.get("/readyz")
    document = answer.get_json()
    assert document["status"] == ("ready" if answer.status_code == 200 else "not ready")
    return answer.status_code, document["parts"]


def figures(bridge: Bridge) -> dict[str, float]:
    """Every sample by its name and labels."""
    answer = bridge.client.get("/metrics")
    assert answer.status_code == 200
    assert answer.content_type.startswith("text/plain")
    return {
        sample.name + "".join(f" {value}" for _, value in sorted(sample.labels.items())): sample.value
        for family in parse(answer.text)
        for sample in family.samples
    }


def test_the_process_is_up(bridge: Bridge, store_folder: Path) -> None:
    assert bridge.client.get("/healthz").get_json() == {"status": "ok"}
    with unreachable(bridge, store_folder):
        assert bridge.client.get("/healthz").status_code == 200


def test_refusals_are_told_before_the_first(bridged: Callable[..., Bridge], monkeypatch: pytest.MonkeyPatch) -> None:
    fresh = Counter("pushbridge_webhooks", "", ["event", "status"], registry=CollectorRegistry())
    monkeypatch.setattr(metrics, "WEBHOOKS", fresh)
    bridged()
    (family,) = fresh.collect()
    told = {(sample.labels["event"], sample.labels["status"]) for sample in family.samples}
    assert told == set(product([*KINDS, "other"], ["401", "403", "503"]))
    assert {sample.value for sample in family.samples if sample.name.endswith("_total")} == {0}


def test_ready_while_a_dispatcher_beats(bridge: Bridge) -> None:
    assert ready(bridge) == (503, {"storage": "ok", "dispatcher": "not running"})
    beat(bridge)
    assert ready(bridge) == (200, {"storage": "ok", "dispatcher": "ok"})
    bridge.now = NOW + ALIVE_WITHIN
    assert ready(bridge)[0] == 200
    bridge.now += 1
    assert ready(bridge) == (503, {"storage": "ok", "dispatcher": "not running"})
    beat(bridge, "another", bridge.now)
    assert ready(bridge)[0] == 200


def test_not_ready_without_storage(bridge: Bridge, store_folder: Path) -> None:
    beat(bridge)
    with unreachable(bridge, store_folder):
        assert ready(bridge) == (503, {"storage": "unreachable", "dispatcher": "unknown"})
    assert ready(bridge)[0] == 200


def test_not_ready_while_nothing_can_be_written(
    bridged: Callable[..., Bridge], store_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dialect, "BUSY", 10)
    bridge = bridged()
    bridge.now = now_ms()
    beat(bridge, at=bridge.now)
    with closing(sqlite3.connect(store_folder / "pushbridge.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        assert ready(bridge)[0] == 200, "nobody has tried"
        assert bridge.post("user.onlinestatus", b"[]").status_code == 503
        assert ready(bridge) == (503, {"storage": "not writable", "dispatcher": "ok"})
        bridge.now += ALIVE_WITHIN + 1
        assert ready(bridge) == (503, {"storage": "not writable", "dispatcher": "unknown"})
    assert ready(bridge) == (503, {"storage": "not writable", "dispatcher": "unknown"}), "nobody has tried again"
    assert bridge.post("user.onlinestatus", b"[]").status_code == 200
    assert ready(bridge) == (503, {"storage": "ok", "dispatcher": "not running"})


def test_ready_again_when_a_dispatcher_has_written(
    bridged: Callable[..., Bridge], store_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dialect, "BUSY", 10)
    bridge = bridged()
    with closing(sqlite3.connect(store_folder / "pushbridge.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        assert bridge.post("user.onlinestatus", b"[]").status_code == 503
    bridge.now = now_ms() + 1
    with closing(open_database(store_folder)) as another, another.write() as connection:
        health.beat(connection, Health("me", bridge.now, "{}"))
    assert ready(bridge) == (200, {"storage": "ok", "dispatcher": "ok"})


def test_the_figures_of_the_store(bridge: Bridge) -> None:
    bridge.post("user.onlinestatus", b"[]")
    beat(bridge, "alive")
    beat(bridge, "dead", NOW - 10 * ALIVE_WITHIN)
    with bridge.database.write() as connection:
        presence.put(connection, {"u1": {0: Connection(True, NOW, NOW)}, "u2": {0: Connection(False, NOW, NOW)}})
        held = Delivery(
            message_id=1, uid="u1", device_id="", provider="", outcome=Outcome.HELD, first_at=NOW, at=NOW, due_at=NOW
        )
        deliveries.insert_new(connection, [held])
    found = figures(bridge)
    assert found["pushbridge_queue_depth status"] == 1
    assert found["pushbridge_pending held"] == 1
    assert found["pushbridge_dispatchers"] == 1
    assert found["pushbridge_online_users"] == 1


def test_the_age_of_the_oldest_call_is_in_seconds(bridge: Bridge) -> None:
    bridge.post("msg.offline", b'{"message_id":1,"to_uids":["u"]}')
    with bridge.database.write() as connection:
        connection.exec_driver_sql(f"UPDATE events SET received_at = {NOW - 2_500}")
    assert figures(bridge)["pushbridge_queue_age_seconds now"] == 2.5


def test_webhooks_are_counted_by_event_and_status(bridge: Bridge) -> None:
    name = "pushbridge_webhooks_total msg.notify 400"
    before = figures(bridge).get(name, 0)
    bridge.post("msg.notify", b"x")
    after = figures(bridge)
    assert after[name] == before + 1
    assert after["pushbridge_webhook_seconds_count msg.notify"] >= 1


def test_elements_of_what_was_taken_are_counted(bridge: Bridge) -> None:
    name = "pushbridge_elements_total user.onlinestatus"
    before = figures(bridge).get(name, 0)
    bridge.post("user.onlinestatus", b'["u-1-1","u-2-1","v-1-1"]')
    bridge.post("user.onlinestatus", b'["u-1-1"')
    assert figures(bridge)[name] == before + 3


def test_what_was_counted_is_told_without_storage_too(bridge: Bridge, store_folder: Path) -> None:
    bridge.post("msg.notify", b"x")
    with unreachable(bridge, store_folder):
        found = figures(bridge)
    assert found["pushbridge_webhooks_total msg.notify 400"] >= 1
    assert "pushbridge_dispatchers" not in found


def test_an_empty_lane_is_told_as_empty(bridge: Bridge) -> None:
    bridge.post("user.onlinestatus", b"[]")
    found = figures(bridge)
    for lane, depth in {"status": 1, "now": 0, "normal": 0, "bulk": 0, "notify": 0}.items():
        assert found[f"pushbridge_queue_depth {lane}"] == depth
        assert (f"pushbridge_queue_age_seconds {lane}" in found) is True
    assert found["pushbridge_queue_age_seconds bulk"] == 0


def test_calls_that_were_set_aside_are_no_queue_that_stands_still(bridge: Bridge) -> None:
    assert figures(bridge)["pushbridge_queue_failed"] == 0
    bridge.post("msg.offline", b'{"message_id":1,"to_uids":["u"]}')
    with bridge.database.write() as connection:
        inbox.set_aside(connection, 1)
    found = figures(bridge)
    assert found["pushbridge_queue_failed"] == 1
    assert {name: value for name, value in found.items() if name.startswith("pushbridge_queue_depth") and value} == {}
    assert "pushbridge_queue_age_seconds failed" not in found


def test_a_provider_that_is_paused_is_told(bridge: Bridge) -> None:
    assert not any(name.startswith("pushbridge_provider_paused ") for name in figures(bridge))
    beat(bridge, "one", a="ok", b="ok", c="paused", d="probing")
    beat(bridge, "two", a="ok", b="paused", c="ok", d="ok")
    beat(bridge, "dead", NOW - 10 * ALIVE_WITHIN, a="paused", e="paused")
    beat(bridge, "new")
    found = figures(bridge)
    paused = {name[-1]: value for name, value in found.items() if name.startswith("pushbridge_provider_paused ")}
    assert paused == {"a": 0, "b": 1, "c": 1, "d": 1}


def test_what_waits_to_be_passed_on(bridge: Bridge) -> None:
    assert not any(name.startswith("pushbridge_relay_waiting") for name in figures(bridge))
    copies = [
        ("a", "msg.offline", 1_500),
        ("a", "msg.offline", 0),
        ("a", "too", 100),
        ("a", "made.up", 200),
        ("b", "x", 0),
    ]
    with bridge.database.write() as connection:
        for number, (target, kind, age) in enumerate(copies):
            relay.put(connection, [relay.Copy(target, kind, b"%d" % number, NOW - age, True)])
    found = figures(bridge)
    ours = "pushbridge_relay_waiting", "pushbridge_relay_age"  # labels are sorted by name: event, target
    assert {name: value for name, value in found.items() if name.startswith(ours)} == {
        "pushbridge_relay_waiting msg.offline a": 2,
        "pushbridge_relay_waiting other a": 2,
        "pushbridge_relay_waiting other b": 1,
        "pushbridge_relay_age_seconds msg.offline a": 1.5,
        "pushbridge_relay_age_seconds other a": 0.2,
        "pushbridge_relay_age_seconds other b": 0,
    }
