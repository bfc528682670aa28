"""What the dispatchers say of themselves, as `/readyz`, `/metrics` and the stats tell it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from msgspec.structs import replace
from prometheus_client.parser import text_string_to_metric_families as parse

from app.admin import figures as admin_figures
from app.admin.figures import ALIVE_WITHIN, ProviderState
from app.model import Outcome
from app.store import deliveries, health
from app.store.rows import Delivery, Health
from tests.web.bridge import NOW, Bridge
from tests.web.test_health import figures

ANSWERS = {"le": [0.01, 0.5, 10], "counts": [1, 4, 5], "count": 6, "sum": 21.5}
FULL = {
    "state": "paused",
    "reason": "the key is refused",
    "paused_since": NOW - 90_000,
    "next_probe_at": NOW + 5_000,
    "answers": ANSWERS,
    "reasons": {"dead": {"too old": 3}, "rejected": {"BadTopic": 1, "other": 2}},
    "token_refreshes": 4,
    "tokens_doubted": True,
    "queued": 1,
    "inflight": 2,
}


def beat(bridge: Bridge, said: Any, owner: str = "one", at: int = NOW) -> None:
    with bridge.database.write() as connection:
        health.beat(connection, Health(owner, at, json.dumps(said)))


def beat_of(bridge: Bridge, owner: str = "one", at: int = NOW, **providers: Any) -> None:
    beat(bridge, {"providers": providers}, owner, at)


def told(bridge: Bridge, name: str) -> dict[str, float]:
    """The samples of one name by their labels."""
    return {key.removeprefix(f"{name} "): value for key, value in figures(bridge).items() if key.split()[0] == name}


def test_the_answers_of_each_dispatcher_are_a_histogram(bridge: Bridge) -> None:
    beat_of(bridge, ios=FULL)
    beat_of(bridge, "two", ios={"answers": {**ANSWERS, "count": 5, "sum": 1}}, android={"answers": ANSWERS})
    name = "pushbridge_provider_answer_seconds"
    buckets = told(bridge, f"{name}_bucket")
    assert {key: buckets[f"one {key} ios"] for key in ("0.01", "0.5", "10.0", "+Inf")} == {
        "0.01": 1,
        "0.5": 4,
        "10.0": 5,
        "+Inf": 6,
    }
    assert told(bridge, f"{name}_count") == {"one ios": 6, "two ios": 5, "two android": 6}
    assert told(bridge, f"{name}_sum") == {"one ios": 21.5, "two ios": 1, "two android": 21.5}


def test_counts_are_told_by_dispatcher_so_that_none_goes_down_when_another_starts_anew(bridge: Bridge) -> None:
    beat(bridge, {"planned": 12, "providers": {"ios": FULL}})
    beat(bridge, {"planned": 1, "providers": {"ios": {"token_refreshes": 1}}}, "two")
    assert told(bridge, "pushbridge_planned_total") == {"one": 12, "two": 1}
    assert told(bridge, "pushbridge_token_refreshes_total") == {"one ios": 4, "two ios": 1}
    reasons = {
        (sample["outcome"], sample["reason"]): value for sample, value in samples(bridge, "pushbridge_reasons_total")
    }
    assert reasons == {("dead", "too old"): 3, ("rejected", "BadTopic"): 1, ("rejected", "other"): 2}


def samples(bridge: Bridge, name: str) -> list[tuple[dict[str, str], float]]:
    families = parse(bridge.client.get("/metrics").text)
    return [(s.labels, s.value) for family in families for s in family.samples if s.name == name]


def test_gauges_of_providers(bridge: Bridge) -> None:
    beat_of(bridge, ios=FULL)
    with bridge.database.write() as connection:
        row = Delivery(message_id=1, uid="bob", device_id="d", provider="ios", outcome=Outcome.QUEUED, first_at=1, at=1)
        deliveries.insert_new(connection, [replace(row, due_at=1), replace(row, message_id=2)])
    beat_of(bridge, "two", ios={"queued": 0}, android={"state": "ok", "paused_since": None, "tokens_doubted": False})
    assert told(bridge, "pushbridge_provider_waiting") == {"ios": 1, "android": 0}
    assert told(bridge, "pushbridge_provider_queued") == {"one ios": 1, "two ios": 0}
    assert told(bridge, "pushbridge_provider_inflight") == {"one ios": 2}
    assert told(bridge, "pushbridge_provider_paused") == {"ios": 1, "android": 0}
    assert told(bridge, "pushbridge_provider_paused_seconds") == {"ios": 90, "android": 0}
    assert told(bridge, "pushbridge_provider_tokens_doubted") == {"one ios": 1, "two android": 0}
    assert told(bridge, "pushbridge_dispatchers") == {"pushbridge_dispatchers": 2}


def test_a_dispatcher_that_is_dead_says_nothing(bridge: Bridge) -> None:
    beat(bridge, {"planned": 1, "providers": {"ios": FULL}}, at=NOW - ALIVE_WITHIN - 1)
    assert not [name for name in figures(bridge) if "ios" in name.split() and "provider" in name]
    assert told(bridge, "pushbridge_planned_total") == {}
    assert bridge.client.get("/readyz").get_json()["providers"] == {}


@pytest.mark.parametrize(
    "said",
    [
        {},
        [],
        {"providers": []},
        {"providers": {"ios": 1}},
        {"planned": "many", "providers": {"ios": {"reasons": {"dead": 1}, "queued": None, "answers": {"le": [1]}}}},
        {"providers": {"ios": {"answers": [], "reasons": [], "token_refreshes": True, "paused_since": "then"}}},
    ],
    ids=str,
)
def test_what_is_not_said_is_not_told_and_its_name_is(bridge: Bridge, said: Any) -> None:
    beat(bridge, said)
    assert told(bridge, "pushbridge_dispatchers") == {"pushbridge_dispatchers": 1}
    text = bridge.client.get("/metrics").text
    for name in ("planned", "reasons", "token_refreshes", "provider_queued", "provider_answer_seconds"):
        assert f"# TYPE pushbridge_{name}" in text
        assert told(bridge, f"pushbridge_{name}") == {}


def test_a_paused_provider_is_shown_and_leaves_the_service_ready(bridge: Bridge) -> None:
    beat_of(bridge, ios=FULL, android={"state": "ok", "reason": ""})
    beat_of(bridge, "two", ios={"state": "ok", "reason": ""}, android={"state": "probing", "reason": "quota"})
    answer = bridge.client.get("/readyz")
    assert answer.status_code == 200
    assert answer.get_json()["providers"] == {"ios": "paused: the key is refused", "android": "probing: quota"}
    stats = admin_figures.stats(bridge.database, NOW)
    assert stats["providers"] == {
        "ios": ProviderState("paused", "the key is refused", NOW - 90_000, NOW + 5_000),
        "android": ProviderState("probing", "quota", None, None),
    }
