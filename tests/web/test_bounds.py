"""Calls are refused before anything breaks: the disk nearly full, too much to be planned."""

from __future__ import annotations

import json

from sqlalchemy import event
from structlog.testing import capture_logs

from app.events import NOTIFY, OFFLINE, STATUS
from app.store import inbox
from tests.store.kit import arrival
from tests.web.bridge import Bridge
from tests.web.test_health import beat, figures, ready

PLENTY = 2**62


def message(number: int) -> bytes:
    return json.dumps({"message_id": number + 1, "to_uids": ["u"]}).encode()


def refused(bridge: Bridge, *words: str) -> None:
    answer = bridge.post(OFFLINE, message(99))
    assert answer.status_code == 503
    error = answer.get_json()["error"]
    assert error["code"] == "unavailable"
    assert all(word in error["message"] for word in words), error


def test_a_disk_that_is_nearly_full(bridge: Bridge) -> None:
    beat(bridge)
    assert ready(bridge)[0] == 200
    bridge.bounds.min_free = PLENTY
    bridge.look_again()
    refused(bridge, "storage.min_free", "bytes free", str(PLENTY))
    assert bridge.post(STATUS, b'["u-0-1-1-1-1"]').status_code == 503
    assert bridge.depth() == {}
    status, parts = ready(bridge)
    assert status == 503
    assert parts["storage"].startswith("disk nearly full: ")
    found = figures(bridge)
    assert (found["pushbridge_refusing disk"], found["pushbridge_refusing backlog"]) == (1, 0)
    assert found["pushbridge_disk_free_bytes"] > 0


def test_it_takes_calls_again_by_itself(bridge: Bridge) -> None:
    bridge.bounds.min_free = PLENTY
    refused(bridge)
    bridge.bounds.min_free = 1
    bridge.look_again()
    assert bridge.call("/webhook?event=msg.offline", message(1)) == 200
    assert figures(bridge)["pushbridge_refusing disk"] == 0


def test_a_backlog_that_is_too_long(bridge: Bridge) -> None:
    beat(bridge)
    bridge.bounds.max_backlog = 3
    for number in range(4):
        assert bridge.call("/webhook?event=msg.offline", message(number)) == 200
        bridge.look_again()
    refused(bridge, "storage.max_backlog", "more than 3", "allowed: 3")
    assert ready(bridge) == (503, {"storage": "backlog: more than 3 calls wait to be planned", "dispatcher": "ok"})
    assert figures(bridge)["pushbridge_refusing backlog"] == 1
    # What is not kept needs no room, and a status that is late blocks those behind it at the server.
    assert bridge.call("/webhook?event=" + NOTIFY, b"[]") == 200
    assert bridge.call("/webhook?event=" + STATUS, b'["u-0-1-1-1-1"]') == 200
    with bridge.database.write() as connection:
        connection.exec_driver_sql("DELETE FROM events WHERE id < 3")
    bridge.look_again()
    assert bridge.call("/webhook?event=msg.offline", message(5)) == 200
    assert ready(bridge)[0] == 200


def test_what_was_planned_is_no_backlog(bridge: Bridge) -> None:
    bridge.bounds.max_backlog = 2
    for number in range(6):
        assert bridge.call("/webhook?event=msg.offline", message(number)) == 200
        bridge.kept()
        with bridge.database.write() as connection:
            connection.exec_driver_sql("UPDATE events SET state = 1")
        bridge.look_again()


def test_a_body_that_cannot_be_used_is_told_so_all_the_same(bridge: Bridge) -> None:
    bridge.bounds.min_free = PLENTY
    assert bridge.call("/webhook?event=msg.offline", b"x") == 400


def test_it_looks_once_a_second_and_counts_when_it_must(bridge: Bridge) -> None:
    statements: list[str] = []
    event.listen(bridge.database.engine, "before_cursor_execute", lambda *a: statements.append(a[2]))
    bridge.bounds.max_backlog = 100

    def looks() -> tuple[int, int]:
        """How often it looked for the newest, and how often it counted."""
        found = sum("max(" in s for s in statements), sum("count(" in s and "LIMIT" in s for s in statements)
        statements.clear()
        return found

    for number in range(50):
        bridge.post(OFFLINE, message(number))
    assert looks() == (1, 1)
    for _ in range(3):
        bridge.look_again()
        bridge.post(OFFLINE, message(1))
    assert looks() == (3, 0)
    with bridge.database.write() as connection:
        inbox.put(connection, [arrival(b"%d" % n) for n in range(60)])
    bridge.look_again()
    bridge.post(OFFLINE, message(1))
    assert looks() == (1, 1)


def test_one_line_at_each_change(bridge: Bridge) -> None:
    bridge.bounds.min_free = PLENTY
    with capture_logs() as lines:
        for _ in range(5):
            refused(bridge)
            bridge.look_again()
    [line] = lines
    assert (line["event"], line["bound"]) == ("calls are refused", "disk")
    assert "storage.min_free" in line["why"]
    bridge.bounds.min_free = 1
    with capture_logs() as lines:
        for number in range(5):
            bridge.post(OFFLINE, message(number))
            bridge.look_again()
    [line] = lines
    assert (line["event"], line["bound"]) == ("calls are taken again", "disk")
