"""What the service does with messages, seen from both ends: webhooks in, requests at the vendors out."""

from __future__ import annotations

import base64
import gzip
import json
import re
from collections.abc import Callable
from urllib.parse import quote

from app.demo.standin import StandinProcess
from tests.deploy.names import explained, samples, told, used
from tests.e2e.service import Service, apns_token, offline, until


def header(request: dict, name: str) -> str | None:
    return dict(request["headers"]).get(name)


def test_a_message_reaches_both_phones_of_an_offline_user(service: Service, standin: StandinProcess) -> None:
    token = apns_token(0xA1)
    service.register("both", token, "ios", "iphone")
    service.register("both", "fcm-both", "android", "pixel")
    service.admin("PUT", "/users/ann/settings", {"name": "Ann"})

    message_id = service.offline(["both"], sender="ann", text="dinner?")

    apns = standin.wait(1, server="apns", token=token)[0]
    assert json.loads(apns["body"])["aps"]["alert"] == {"title": "Ann", "body": "dinner?"}
    assert header(apns, "apns-collapse-id") == str(message_id)
    fcm = json.loads(standin.wait(1, server="fcm", token="fcm-both")[0]["body"])["message"]
    assert fcm["notification"] == {"title": "Ann", "body": "dinner?"}
    assert fcm["android"]["notification"]["tag"] == str(message_id)
    assert fcm["data"]["channel_id"] == "ann"
    service.outcome(message_id, "both", "sent")
    records = until(
        lambda: (r := service.trace(message_id=message_id)) and len(r) == 2 and r, "both outcomes are written"
    )
    assert {(r["device_id"], r["provider"], r["outcome"]) for r in records} == {
        ("iphone", "ios", "sent"),
        ("pixel", "android", "sent"),
    }
    assert all(r["provider_id"] and r["attempts"] == 1 and r["source"] == "msg.offline" for r in records)


def test_an_online_user_is_left_in_peace(service: Service, standin: StandinProcess) -> None:
    service.register("online", apns_token(0xB1))
    service.statuses("online-0-1-5-1-1")
    message_id = service.offline(["online"])
    assert service.outcome(message_id, "online", "held")["reason"] == "online"
    assert service.outcome(message_id, "online", "suppressed")["reason"] == "online"
    assert service.pushes(standin, message_id) == []


def test_a_held_push_goes_out_at_once_when_the_offline_event_is_late(
    start: Callable[..., Service], standin: StandinProcess
) -> None:
    service = start(presence={"hold": "60s"})
    service.register("leaving", apns_token(0xB2))
    service.statuses("leaving-0-1-5-1-1")
    message_id = service.offline(["leaving"])
    service.outcome(message_id, "leaving", "held")
    assert service.pushes(standin, message_id) == []

    service.statuses("leaving-0-0-5-0-0")

    standin.wait(1, server="apns", token=apns_token(0xB2))
    service.outcome(message_id, "leaving", "sent")
    assert [r["device_id"] for r in service.trace(message_id=message_id)] == ["phone"]


def test_statuses_that_arrive_swapped_or_twice_leave_the_user_offline(
    service: Service, standin: StandinProcess
) -> None:
    service.register("swapped", apns_token(0xB3))
    service.statuses("swapped-0-0-82-0-0")
    service.statuses("swapped-0-1-82-1-1")
    service.statuses("swapped-0-0-82-0-0")
    service.statuses("swapped-0-1-82-1-1")
    message_id = service.offline(["swapped"])
    service.outcome(message_id, "swapped", "sent")


def test_uids_of_every_kind(service: Service, standin: StandinProcess) -> None:
    uids = [
        "a-b-c",
        "u-1-1-1-1-1",
        "用户-张三-0",
        "😀-1",
        "with space",
        "a/b?c=d",
        "q\"uo'te",
        "x" * 3_000,
        "%2F",
        "..",
    ]
    for number, uid in enumerate(uids):
        service.register(uid, apns_token(0xC000 + number))
        service.statuses(f"{uid}-0-1-{number + 1}-1-1", f"{uid}-0-0-{number + 1}-0-0")
    message_id = service.offline(uids)
    for number, uid in enumerate(uids):
        standin.wait(1, server="apns", token=apns_token(0xC000 + number))
        assert service.outcome(message_id, uid, "sent")["uid"] == uid


def test_a_compressed_list_of_a_thousand(service: Service, standin: StandinProcess) -> None:
    uids = [f"zip-{number}" for number in range(1_000)]
    service.register_many(
        [
            {"uid": uid, "device_id": "phone", "provider": "ios", "token": apns_token(0x10_0000 + n)}
            for n, uid in enumerate(uids)
        ]
    )
    body = offline([], channel_type=2, channel_id="group")
    del body["to_uids"]
    body["compress"] = "gzip"
    body["compress_to_uids"] = base64.b64encode(gzip.compress(json.dumps(uids).encode())).decode()
    assert service.webhook("msg.offline", body) == 200

    standin.wait(1_000, server="apns")
    pushed = {r["device"] for r in service.pushes(standin, body["message_id"])}
    assert pushed == {apns_token(0x10_0000 + number) for number in range(1_000)}


def test_a_failing_vendor_is_tried_again_under_the_same_ids(service: Service, standin: StandinProcess) -> None:
    token = apns_token(0xD1)
    service.register("again", token)
    standin.script(token, [{"status": 503, "body": {"reason": "ServiceUnavailable"}}, {"action": "drop"}])
    message_id = service.offline(["again"])

    first, second, third = standin.wait(3, server="apns", token=token)

    assert len({header(r, "apns-id") for r in (first, second, third)}) == 1
    assert header(third, "apns-collapse-id") == str(message_id)
    assert service.outcome(message_id, "again", "sent")["attempts"] == 3


def test_a_dead_token_is_removed_unless_it_was_registered_since(service: Service, standin: StandinProcess) -> None:
    gone, back = apns_token(0xE1), apns_token(0xE2)
    service.register("gone", gone)
    service.register("back", back)
    later, earlier = 4_102_444_800_000, 1_000_000_000_000
    standin.script(gone, [{"status": 410, "body": {"reason": "Unregistered", "timestamp": later}}])
    standin.script(back, [{"status": 410, "body": {"reason": "Unregistered", "timestamp": earlier}}])
    message_id = service.offline(["gone", "back"])

    assert service.outcome(message_id, "gone", "invalid_token")["reason"] == "Unregistered"
    assert service.devices("gone") == []
    service.outcome(message_id, "back", "sent")
    assert len(service.devices("back")) == 1

    (kept,) = service.admin("GET", "/users/gone/devices?removed=true")["devices"]
    assert kept["removed_reason"] == "Unregistered"
    service.admin("POST", "/devices/restore", {"provider": "ios", "since": "1h"})
    service.outcome(service.offline(["gone"]), "gone", "sent")


def test_a_token_that_changes_while_its_push_is_under_way(service: Service, standin: StandinProcess) -> None:
    old, new = apns_token(0xE3), apns_token(0xE4)
    service.register("changes", old)
    standin.script(old, [{"status": 410, "body": {"reason": "Unregistered", "timestamp": 4_102_444_800_000}}])
    standin.hold("apns")
    message_id = service.offline(["changes"])
    standin.wait(1, server="apns", token=old)
    service.register("changes", new)
    standin.release("apns")

    service.outcome(message_id, "changes", "sent")
    assert len(standin.requests(token=new)) == 1


def test_a_repeat_of_a_webhook_delivers_once(service: Service, standin: StandinProcess) -> None:
    token = apns_token(0xF1)
    service.register("once", token)
    body = json.dumps(offline(["once"])).encode()
    message_id = json.loads(body)["message_id"]
    standin.hold("apns")
    for _ in range(3):
        assert service.webhook("msg.offline", body) == 200
    standin.wait(1, server="apns", token=token)
    standin.release("apns")
    service.outcome(message_id, "once", "sent")
    # The first call is gone from the inbox by now; its outcome is what stops this one.
    assert service.webhook("msg.offline", body) == 200
    after = service.offline(["once"], text="next")
    service.outcome(after, "once", "sent")
    assert len(service.pushes(standin, message_id)) == 1


def test_goaway_in_mid_flight_loses_no_push(start: Callable[..., Service], standin: StandinProcess) -> None:
    service = start()
    uids = [f"goaway-{number}" for number in range(200)]
    service.register_many(
        [
            {"uid": uid, "device_id": "phone", "provider": "ios", "token": apns_token(0x20_0000 + n)}
            for n, uid in enumerate(uids)
        ]
    )
    warm = service.offline(uids[:1])
    service.outcome(warm, uids[0], "sent")
    standin.hold("apns")
    message_id = service.offline(uids, channel_type=2, channel_id="g")
    standin.wait(201, server="apns")
    standin.goaway("apns", last="some")
    standin.release("apns")

    until(lambda: len(service.trace(message_id=message_id, outcome="sent", limit=1000)) == 200, "all are sent", 30)
    answered = {r["device"] for r in service.pushes(standin, message_id) if r["answered"] == 200}
    assert len(answered) == 200


def test_a_token_that_is_never_answered_delays_nobody(start: Callable[..., Service], standin: StandinProcess) -> None:
    service = start(providers={"ios": {"timeout": "4s"}})
    silent = apns_token(0xAA)
    service.register("silent", silent)
    standin.script(silent, [{"action": "hang", "forever": True}])
    uids = [f"many-{number}" for number in range(1_000)]
    service.register_many(
        [
            {"uid": uid, "device_id": "phone", "provider": "ios", "token": apns_token(0x30_0000 + n)}
            for n, uid in enumerate(uids)
        ]
    )
    message_id = service.offline(["silent", *uids], channel_type=2, channel_id="g")

    until(lambda: len(service.trace(message_id=message_id, outcome="sent", limit=1000)) == 1_000, "the others are sent")
    assert {r["answered"] for r in standin.requests(token=silent)} == {None}
    assert service.outcome(message_id, "silent", "retrying", seconds=20)["reason"] == "timed out"


def test_one_broken_provider_does_not_delay_another(service: Service, standin: StandinProcess) -> None:
    service.register("warm", "fcm-warm", "android")
    service.outcome(service.offline(["warm"]), "warm", "sent")
    standin.hold("fcm")
    service.register_many(
        [{"uid": f"slow-{n}", "device_id": "a", "provider": "android", "token": f"slow-{n}"} for n in range(3_000)]
    )
    stuck = service.offline([f"slow-{n}" for n in range(3_000)], channel_type=2, channel_id="g")
    standin.wait(101, server="fcm")
    service.register("quick", apns_token(0xAB))
    message_id = service.offline(["quick"])
    service.outcome(message_id, "quick", "sent")
    standin.release("fcm")
    until(
        lambda: service.admin("GET", "/stats")["dispatchers"][0]["providers"]["android"]["sent"] >= 3_000,
        "the slow provider catches up",
        30,
    )
    assert {r["outcome"] for r in service.trace(message_id=stuck, limit=1000)} == {"sent"}


def test_a_refused_key_pauses_its_provider_and_buries_nothing(
    start: Callable[..., Service], standin: StandinProcess
) -> None:
    service = start()
    service.register("paused", apns_token(0xAC))
    service.register("paused", "fcm-paused", "android", "pixel")
    standin.script_all("apns", [{"status": 403, "body": {"reason": "InvalidProviderToken"}, "forever": True}])
    message_id = service.offline(["paused"])
    until(lambda: len(service.trace(message_id=message_id)) == 2, "both have an outcome")
    records = {r["provider"]: r for r in service.trace(message_id=message_id)}
    assert records["android"]["outcome"] == "sent"
    assert (records["ios"]["outcome"], records["ios"]["attempts"]) == ("queued", 0)
    assert records["ios"]["reason"].startswith("InvalidProviderToken")
    health = until(
        lambda: (p := service.admin("GET", "/stats")["dispatchers"][0]["providers"]["ios"])["state"] == "paused" and p,
        "the pause is known",
    )
    assert health["reason"].startswith("InvalidProviderToken")


def test_the_outcome_of_everybody_can_be_looked_up(service: Service, standin: StandinProcess) -> None:
    service.register("here", apns_token(0xAD))
    message_id = service.offline(["sender", "nobody", "here"])
    service.outcome(message_id, "here", "sent")
    reasons = {r["uid"]: (r["outcome"], r["reason"]) for r in service.trace(message_id=message_id)}
    assert reasons == {"sender": ("skipped", "sender"), "nobody": ("skipped", "no_device"), "here": ("sent", "")}
    command = offline(["here"], header={"no_persist": 0, "red_dot": 0, "sync_once": 1})
    assert service.webhook("msg.offline", command) == 200
    assert service.outcome(command["message_id"], "here", "skipped")["reason"] == "sync_once"
    expired = service.offline(["here"], timestamp=1_700_000_000, expire=60)
    assert service.outcome(expired, "here", "skipped")["reason"] == "expired"


def test_a_handed_on_phone_gets_only_its_new_owners_messages(service: Service, standin: StandinProcess) -> None:
    token = apns_token(0xAE)
    service.register("old-owner", token)
    service.register("new-owner", token, device_id="mine")
    message_id = service.offline(["old-owner", "new-owner"])
    service.outcome(message_id, "new-owner", "sent")
    assert service.outcome(message_id, "old-owner", "skipped")["reason"] == "no_device"
    assert len(service.pushes(standin, message_id)) == 1
    assert service.admin("GET", f"/users/{quote('old-owner')}/devices") == {"devices": []}


RARE = {"pushbridge_rescue_left_out_total"} | {
    f"pushbridge_{name}"
    for name in (
        "relay_age_seconds",
        "relay_waiting",
        "relayed_total",
        "relay_failures_total",
        "relay_dropped_total",
    )
}
"""Told once there is one: a message that was looked at in vain, an event for a relay target."""


def test_every_metric_that_alerts_and_panels_ask_for_is_told_and_explained(service: Service) -> None:
    service.register("counted", apns_token(0xAF))
    service.statuses("no status")
    service.outcome(service.offline(["counted"]), "counted", "sent")

    def missing() -> set[str]:
        found = told(service.request("GET", "/metrics")[1].decode())
        assert found.keys() - explained() == set()
        return ((used() - samples(found)) | (explained() - found.keys())) - RARE

    until(lambda: not missing(), "all of them are told")
    scrape = service.request("GET", "/metrics")[1].decode()
    for name in ("answer_seconds_count", "paused", "paused_seconds", "queued", "inflight"):
        assert re.search(rf'^pushbridge_provider_{name}{{.*provider="ios"}} ', scrape, re.MULTILINE), name
