"""What the server never names is pushed all the same, once, and only to whoever is offline."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from zlib import crc32

from app import events
from app.demo.standin import StandinProcess
from tests.e2e.service import Service, apns_token, offline, until
from tests.e2e.wukongim import Server

CAPTURED = Path(__file__).resolve().parents[1] / "fixtures" / "wukongim"
PAUSE_MS = 3_000
"""A captured pause longer than this is waited for, though not as long."""


def captured(*scenarios: str) -> Iterator[list[dict[str, Any]]]:
    """What v2 sent in scenarios that share no user: all that came until a pause in each, and then what came after."""
    rows = [json.loads(row) for row in (CAPTURED / "v2.jsonl").read_text().splitlines()]
    parts: dict[int, list[dict[str, Any]]] = {}
    for scenario in scenarios:
        part, before = 0, None
        for row in rows:
            if row["scenario"] == scenario:
                part += before is not None and row["at_ms"] - before > PAUSE_MS
                before = row["at_ms"]
                parts.setdefault(part, []).append(row)
    yield from parts.values()


def pushed(standin: StandinProcess) -> Counter[tuple[str, str]]:
    """How often each phone was pushed each message."""
    return Counter((dict(r["headers"])["apns-collapse-id"], r["device"]) for r in standin.requests(server="apns"))


def rescue_counts(service: Service) -> dict[str, float]:
    """The counters of rescue, without those that are nought."""
    found = {}
    for line in service.request("GET", "/metrics")[1].decode().splitlines():
        if line.startswith(("pushbridge_rescue", "pushbridge_notify")):
            name, value = line.rsplit(" ", 1)
            found[name] = float(value)
    return {name: value for name, value in found.items() if value}


def test_whoever_v2_forgets_just_after_they_left_is_pushed(
    start: Callable[..., Service], standin: StandinProcess
) -> None:
    """In `4-race-00` to `04` the receiver has just gone and v2 names nobody; in 05 it names them in time."""
    races = {f"4-race-0{n}": f"s4-{n}" for n in range(6)}
    service = start(presence={"hold": "1s"}, rescue={"after": "1s"})
    uids = [*races.values(), "s3e1", "s3e2", "s4from"]
    service.register_many(
        [
            {"uid": uid, "device_id": "phone", "provider": "ios", "token": apns_token(0x70_0000 + n)}
            for n, uid in enumerate(uids)
        ]
    )
    messages = {}
    for part in captured(*races, "3e-both-clients-online-app"):
        for row in part:
            assert service.request("POST", f"{row['path']}?{row['query']}", row["body"].encode()) == (200, b"")
            if "msg.notify" in row["query"]:
                messages.update({m.message_id: m.channel_id for m in events.notify(row["body"].encode())[0]})
        until(service.is_idle, "all of it was looked at")
    assert sorted(messages.values()) == ["s3e2", *sorted(races.values())]

    expected = {
        (str(message_id), apns_token(0x70_0000 + uids.index(uid)))
        for message_id, uid in messages.items()
        if uid != "s3e2"
    }
    assert pushed(standin) == dict.fromkeys(expected, 1)
    sources = {record["uid"]: record["source"] for record in service.records()}
    assert sources == {**dict.fromkeys(races.values(), "rescue"), "s4-5": "msg.offline"}
    counts = rescue_counts(service)
    assert counts == {
        "pushbridge_notify_messages_total": 7,
        "pushbridge_rescued_total": 5,
        'pushbridge_rescue_left_out_total{reason="named"}': 1,
        'pushbridge_rescue_left_out_total{reason="online"}': 1,
    }


def test_every_second_msg_offline_that_v3_drops_is_made_good(
    start: Callable[..., Service], standin: StandinProcess, wukongim: Server
) -> None:
    """Nothing is known of anybody but what the server says when it is asked; every third user is online."""
    service = start(presence={"hold": "200ms"}, rescue={"after": "300ms"}, wukongim={"api_url": wukongim.url})
    uids = [f"u{n}" for n in range(60)]
    here = set(uids[::3])
    wukongim.online = {uid: [0] for uid in here}
    service.register_many(
        [
            {"uid": uid, "device_id": "phone", "provider": "ios", "token": apns_token(0x80_0000 + n)}
            for n, uid in enumerate(uids)
        ]
    )
    calls, notified, expected = [], [], {}
    for n, uid in enumerate(uids):
        first, second = sorted((uid, "sender"), key=lambda name: crc32(name.encode()), reverse=True)
        body = offline([uid], channel_id=f"{first}@{second}")
        if uid not in here:
            expected[str(body["message_id"]), apns_token(0x80_0000 + n)] = 1
            calls.append(body)
        notified.append({name: value for name, value in body.items() if name != "to_uids"})
    assert service.webhooks("msg.offline", calls[::2]) == [200] * 20
    assert service.webhooks("msg.notify", [notified[n : n + 7] for n in range(0, 60, 7)]) == [200] * 9
    until(service.is_idle, "all of it was looked at")

    assert pushed(standin) == expected
    assert Counter(record["source"] for record in service.records()) == {"msg.offline": 20, "rescue": 20}
    assert rescue_counts(service)["pushbridge_rescued_total"] == 20
