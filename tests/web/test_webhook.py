from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import REGISTRY

from app import events
from app.clock import now_ms
from app.events import NOTIFY, OFFLINE, STATUS
from tests.web.bridge import MAX_BODY, Bridge

CAPTURED = Path(__file__).parents[1] / "fixtures" / "wukongim"


def message(message_id: int = 2**60 + 1, **fields: Any) -> bytes:
    payload = base64.b64encode(b'{"type":1,"content":"hello"}').decode()
    known = {"message_id": message_id, "from_uid": "u1", "channel_id": "u2", "payload": payload, "to_uids": ["u2"]}
    return json.dumps({**known, **fields}).encode()


GOOD = {OFFLINE: message(), NOTIFY: b"[" + message() + b"]", STATUS: b'["u2-0-1-7-1-1"]'}


def refused(bridge: Bridge, event: str, body: bytes, status: int, **more: Any) -> str:
    """The message of a refusal, of which nothing was kept."""
    answer = bridge.post(event, body, **more)
    assert answer.status_code == status, answer.text
    assert answer.content_type == "application/json"
    assert set(answer.get_json()["error"]) == {"code", "message"}
    assert bridge.depth() == {}
    assert bridge.pokes == 0
    said: str = answer.get_json()["error"]["message"]
    return said


@pytest.mark.parametrize("event", [OFFLINE, STATUS])
def test_200_with_an_empty_body_means_kept(bridge: Bridge, event: str) -> None:
    answer = bridge.post(event, GOOD[event])
    assert (answer.status_code, answer.data) == (200, b"")
    assert answer.headers["Content-Length"] == "0"
    assert sum(bridge.depth().values()) == 1
    assert bridge.pokes == 1


def test_a_message_is_kept_byte_for_byte(bridge: Bridge) -> None:
    body = b" " + message(message_id=2**63 - 1) + b"\n"
    bridge.post(OFFLINE, body)
    (event,) = bridge.kept()
    assert (event.kind, event.body) == (OFFLINE, body)


def test_without_rescue_notifications_are_checked_and_not_kept(bridge: Bridge) -> None:
    answer = bridge.post(NOTIFY, GOOD[NOTIFY])
    assert (answer.status_code, answer.data) == (200, b"")
    assert bridge.depth() == {}
    refused(bridge, NOTIFY, b"{}", 400)


def test_notifications_are_kept_until_they_are_looked_at(bridged: Callable[..., Bridge]) -> None:
    bridge = bridged(notify_after=5_000)
    before = now_ms()
    body = b" " + GOOD[NOTIFY]
    for _ in range(2):
        answer = bridge.post(NOTIFY, body)
        assert (answer.status_code, answer.data) == (200, b"")
    assert bridge.depth() == {"notify": 1}
    assert bridge.take(before + 4_999, "notify").claimed == []
    (event,) = bridge.take(now_ms() + 5_000, "notify").claimed
    assert (event.kind, event.body) == (NOTIFY, body)
    assert before <= event.received_at <= now_ms()


def test_what_is_no_notification_is_not_kept_either(bridged: Callable[..., Bridge]) -> None:
    refused(bridged(notify_after=5_000), NOTIFY, b"{}", 400)


@pytest.mark.parametrize("path", ["/", "/webhook"])
def test_an_address_without_a_path_works_too(bridge: Bridge, path: str) -> None:
    assert bridge.post(STATUS, GOOD[STATUS], path).status_code == 200
    assert bridge.depth() == {"status": 1}


def test_each_message_has_its_lane(bridge: Bridge) -> None:
    mention = base64.b64encode(b'{"type":1,"content":"@all","mention":{"all":1}}').decode()
    bridge.post(OFFLINE, message(1, channel_type=1))
    bridge.post(OFFLINE, message(2, channel_type=2, to_uids=["u"] * 1_000))
    bridge.post(OFFLINE, message(3, channel_type=2, to_uids=["u"] * 1_001, payload=mention))
    bridge.post(OFFLINE, message(4, channel_type=2, payload=mention))
    bridge.post(STATUS, GOOD[STATUS])
    assert bridge.depth() == {"now": 2, "normal": 1, "bulk": 1, "status": 1}


def test_a_repeat_is_200_and_kept_once(bridge: Bridge) -> None:
    assert [bridge.post(OFFLINE, message()).status_code for _ in range(3)] == [200] * 3
    assert bridge.post(OFFLINE, message(to_uids=["u3"])).status_code == 200
    assert len(bridge.kept()) == 2


def test_every_status_is_kept(bridge: Bridge) -> None:
    """The server counts its connections anew when it restarts: the same words may be said again and be meant."""
    for _ in range(3):
        assert bridge.post(STATUS, GOOD[STATUS]).status_code == 200
    assert bridge.depth() == {"status": 3}


@pytest.mark.parametrize("event", [OFFLINE, NOTIFY, STATUS])
@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"x",
        b"null",
        b"1",
        b'"text"',
        b"[" * 100_000,
        b"\xff\xfe",
        b"NaN",
        b'{"message_id":NaN}',
        b"[1,]",
        b"[NaN]",
    ],
    ids=range(11),
)
def test_what_is_not_the_json_it_should_be(bridge: Bridge, event: str, body: bytes) -> None:
    assert refused(bridge, event, body, 400).startswith("body: found ")


def test_content_length_zero(bridge: Bridge) -> None:
    assert refused(bridge, OFFLINE, b"", 400, headers={"Content-Length": "0"}).startswith("body: found ")


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({"message_id": 2.0**60}, "message_id"),
        ({"message_id": "1"}, "message_id"),
        ({"message_id": 0}, "message_id"),
        ({"message_id": 2**63}, "message_id"),
        ({"message_id": None}, "message_id"),
        ({"to_uids": "u2"}, "to_uids"),
        ({"payload": "%"}, "payload"),
        ({"compress": "gzip", "compress_to_uids": 5}, "compress_to_uids"),
        ({"header": []}, "header"),
        ({"header": {"sync_once": "1"}}, "header.sync_once"),
    ],
)
def test_the_field_at_fault_is_named(bridge: Bridge, fields: dict[str, Any], name: str) -> None:
    assert refused(bridge, OFFLINE, message(**fields) if fields else b"", 400).startswith(f"{name}: found ")


def test_a_key_given_twice_is_refused(bridge: Bridge) -> None:
    said = refused(bridge, OFFLINE, b'{"message_id":1,"to_uids":["a"],"to_uids":["b"]}', 400)
    assert said == "body: found the key 'to_uids' twice; allowed: once"


def test_a_missing_event_is_named(bridge: Bridge) -> None:
    for url in ("/webhook", "/webhook?", "/webhook?event=", "/webhook?evnt=msg.offline"):
        answer = bridge.client.post(url, data=GOOD[OFFLINE])
        assert (answer.status_code, answer.get_json()["error"]["message"][:15]) == (400, "event: missing;")
    assert bridge.depth() == {}


@pytest.mark.parametrize("event", ["msg.new", "MSG.OFFLINE", "%FF", "%00", "a" * 1_000])
def test_an_unknown_event_is_taken_and_dropped(bridge: Bridge, event: str) -> None:
    answer = bridge.post(event, b"anything")
    assert (answer.status_code, answer.data) == (200, b"")
    assert bridge.depth() == {}


def test_only_post_is_answered(bridge: Bridge) -> None:
    answer = bridge.client.get("/webhook?event=msg.offline")
    assert (answer.status_code, answer.get_json()["error"]["code"]) == (405, "method_not_allowed")
    assert "POST" in answer.headers["Allow"]


def test_the_limit_counts_bytes(bridge: Bridge) -> None:
    fitting = message() + b" " * (MAX_BODY - len(message()))
    said = refused(bridge, OFFLINE, fitting + b" ", 413)
    assert said == f"body: {MAX_BODY + 1} bytes; allowed: webhook.max_body, {MAX_BODY} bytes"
    assert bridge.post(OFFLINE, fitting).status_code == 200


def test_a_length_that_is_too_large_is_refused_unread(bridge: Bridge) -> None:
    class Unread(io.RawIOBase):
        def read(self, size: int = -1) -> bytes:
            raise AssertionError("the body was read")

    unread = {"wsgi.input": Unread(), "CONTENT_LENGTH": str(10**12)}
    assert bridge.client.post("/webhook?event=msg.offline", environ_overrides=unread).status_code == 413


@pytest.mark.parametrize("spare", [0, 1])
def test_a_body_without_a_length_is_bounded_too(bridge: Bridge, spare: int) -> None:
    """WuKongIM never sends one so, a proxy in between may."""
    body = message() + b" " * (MAX_BODY - len(message()) + spare)
    chunked = {"wsgi.input": io.BytesIO(body), "wsgi.input_terminated": True, "HTTP_TRANSFER_ENCODING": "chunked"}
    answer = bridge.client.post("/webhook?event=msg.offline", environ_overrides=chunked)
    assert answer.status_code == (413 if spare else 200)
    assert len(bridge.kept()) == 1 - spare


@pytest.mark.parametrize("event", [OFFLINE, NOTIFY, STATUS])
def test_503_where_it_cannot_be_made_durable(bridged: Callable[..., Bridge], store_folder: Path, event: str) -> None:
    bridge = bridged(notify_after=5_000)
    bridge.database.close()
    file = store_folder / "pushbridge.db"
    for suffix in ("-wal", "-shm"):
        Path(f"{file}{suffix}").unlink(missing_ok=True)
    file.rename(store_folder / "away")
    file.mkdir()
    answer = bridge.post(event, GOOD[event])
    assert (answer.status_code, answer.get_json()["error"]["code"]) == (503, "unavailable")
    assert bridge.pokes == 0
    assert bridge.post(event, b"x").status_code == 400
    file.rmdir()
    (store_folder / "away").rename(file)
    assert bridge.post(event, GOOD[event]).status_code == 200


def test_a_bad_element_costs_only_itself(bridge: Bridge) -> None:
    bridge.post(STATUS, json.dumps([None, "u1-0-1-1-1-1", 5, "nonsense", "a-b-0-1-2-1-1", {}]).encode())
    taken = bridge.take()
    assert taken.bad == 4
    assert bridge.online("u1", "a-b", "nonsense") == {"u1", "a-b"}
    bridge.post(OFFLINE, message(to_uids=["u1", 5, None, "u2", "", ["u3"]]))
    (event,) = bridge.kept()
    recipients = events.offline(event.body)[1]
    assert (recipients.uids, recipients.bad) == (("u1", "u2"), 4)


def count(event: str, status: str) -> float:
    return REGISTRY.get_sample_value("pushbridge_webhooks_total", {"event": event, "status": status}) or 0


@pytest.mark.parametrize(
    ("event", "body", "label", "status"),
    [
        (OFFLINE, message(), OFFLINE, "200"),
        (OFFLINE, b"", OFFLINE, "400"),
        ("anything", b"", "other", "200"),
        ("", b"", "other", "400"),
        (STATUS, b"x" * (MAX_BODY + 1), STATUS, "413"),
    ],
)
def test_calls_are_counted(bridge: Bridge, event: str, body: bytes, label: str, status: str) -> None:
    before = count(label, status)
    bridge.post(event, body)
    assert count(label, status) == before + 1


@pytest.mark.parametrize("server", ["v2", "v3"])
def test_every_captured_request_is_taken(bridge: Bridge, server: str) -> None:
    lines = [json.loads(line) for line in (CAPTURED / f"{server}.jsonl").read_text().splitlines()]
    answers = {bridge.call(f"{line['path']}?{line['query']}", line["body"].encode()) for line in lines}
    assert answers == {200}
    assert all(events.offline(event.body) for event in bridge.kept())
