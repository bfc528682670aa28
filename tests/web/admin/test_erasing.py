"""Forgetting a user: nothing of them is left in any table, and nothing of anybody else is missing."""

from __future__ import annotations

import json
from typing import Any

import pytest

from app.model import Connection, Outcome
from app.store import deliveries, inbox, presence
from tests.store.kit import NOW, claim, delivery, put, waiting
from tests.web.admin.kit import Api, ok

LONG = "x" * 5_000


def know(api: Api, uid: str, event_id: int, message_id: int) -> None:
    """Have something of this user in every table."""
    api.register(uid, "d1", token=f"token one of {uid[:9]}")
    api.register(uid, "d2", token=f"token two of {uid[:9]}")
    ok(api.call("PUT", "/users/{}/settings", uid, body={"name": "Ann"}))
    with api.database.write() as connection:
        presence.put(connection, {uid: {0: Connection(True, NOW, NOW)}})
        rows = [
            waiting(uid, "d1", message_id=message_id, event_id=event_id),
            waiting(uid, "", message_id=message_id + 1, event_id=event_id, outcome=Outcome.HELD),
            delivery(uid, "d1", message_id=message_id + 2),
            delivery(uid, "d2", message_id=message_id + 2, outcome=Outcome.DEAD, event_id=event_id),
        ]
        deliveries.insert_new(connection, rows)
        connection.exec_driver_sql("UPDATE devices SET removed_at = 1 WHERE device_id = 'd2'")


def two_messages(api: Api) -> list[int]:
    with api.database.write() as connection:
        put(connection, b"of one", b"of both")
        ids = [event.id for event in claim(connection)]
        connection.exec_driver_sql("UPDATE events SET state = 1, owner = NULL, lease_until = NULL")
    return ids


def everything(api: Api) -> list[Any]:
    return [(table, rows) for table, rows in api.everything() if not table.startswith("sqlite_")]


@pytest.mark.parametrize("uid", ["u", "a/b", "😀", LONG], ids=lambda uid: ascii(uid[:8]))
def test_nothing_of_a_user_is_left(api: Api, uid: str) -> None:
    one, both = two_messages(api)
    know(api, "other", both, 100)
    with api.database.write() as connection:
        before = [event.body for event in inbox.load(connection, [one, both]).values()]
    others = [(table, rows) for table, rows in everything(api) if table != "events"]
    know(api, uid, one, 200)
    with api.database.write() as connection:
        deliveries.insert_new(connection, [waiting(uid, "d3", message_id=300, event_id=both)])
    assert api.call("DELETE", "/users/{}", uid).status_code == 204
    assert [(table, rows) for table, rows in everything(api) if table != "events"] == others
    with api.database.read() as connection:
        left = [event.body for event in inbox.load(connection, [one, both]).values()]
    assert (before, left) == ([b"of one", b"of both"], [b"of both"])
    assert api.devices(uid) == []
    assert ok(api.call("GET", "/users/{}/settings", uid))["name"] == ""


def set_aside(api: Api, *bodies: bytes) -> None:
    """Have calls that could not be planned, each with its dead letter."""
    with api.database.write() as connection:
        put(connection, *bodies)
        for event in claim(connection):
            inbox.set_aside(connection, event.id)
            letter = delivery("", "", message_id=-event.id, outcome=Outcome.DEAD, event_id=event.id)
            deliveries.insert_new(connection, [letter])


@pytest.mark.parametrize("uid", ["u", "a/b", "😀", LONG], ids=lambda uid: ascii(uid[:8]))
def test_what_could_not_be_planned_goes_where_it_names_nobody_else(api: Api, uid: str) -> None:
    mine, *others = (
        json.dumps({"message_id": 1, "to_uids": to}).encode() for to in ([uid], [uid, "other"], ["other"], [])
    )
    set_aside(api, mine, *others, b"[]", b"nonsense")
    assert api.call("DELETE", "/users/{}", uid).status_code == 204
    with api.database.read() as connection:
        left = inbox.load(connection, inbox.all_set_aside(connection))
        letters = deliveries.dead_letters(connection, 100)
    assert [event.body for event in left.values()] == [*others, b"[]", b"nonsense"]
    assert {row.event_id for row in letters} == left.keys()


def test_a_user_who_is_not_known_is_forgotten_too(api: Api) -> None:
    for _ in range(2):
        answer = api.call("DELETE", "/users/{}", "nobody")
        assert (answer.status_code, answer.data) == (204, b"")


def test_a_channel_of_the_same_long_name_keeps_it(api: Api) -> None:
    know(api, LONG, 0, 1)
    assert api.call("PUT", "/channels/2/{}", LONG, body={"name": "Team"}).status_code in (200, 201)
    assert api.call("DELETE", "/users/{}", LONG).status_code == 204
    assert [rows for table, rows in everything(api) if table == "long_names"] != [[]]


def test_a_push_that_is_under_way_does_not_bring_its_row_back(api: Api) -> None:
    with api.database.write() as connection:
        deliveries.insert_new(connection, [waiting("u")], "me")
        (row,) = deliveries.trace(connection)
    api.call("DELETE", "/users/{}", "u")
    with api.database.write() as connection:
        assert deliveries.update_held_by(connection, [row], "me") == 0
        assert deliveries.trace(connection) == []
