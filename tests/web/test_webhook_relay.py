"""What a webhook call leaves for those that events are passed on to."""

from __future__ import annotations

import io
from collections.abc import Callable

import pytest

from app import relay
from app.relay import Target
from tests.web.bridge import MAX_BODY, Bridge

OFFLINE = b'{"message_id":1,"to_uids":["u"]}'
STATUS = b'["u-0-1-1-1-1"]'


def target(host: str, *events: str) -> Target:
    return relay.target(f"http://{host}/", b"", frozenset(events) or None, max_age=1, max_backlog=9, timeout=1)


ALL, NOTIFY = target("all"), target("notify", "msg.notify", "custom.one")


@pytest.fixture
def relaying(bridged: Callable[..., Bridge]) -> Bridge:
    return bridged(targets=[ALL, NOTIFY])


def test_bodies_are_kept_as_they_came_for_those_that_want_them(relaying: Bridge) -> None:
    odd = b' [ {"message_id" : 1 } ]\n'
    for event, body in {"msg.offline": OFFLINE, "msg.notify": odd, "user.onlinestatus": STATUS}.items():
        assert relaying.post(event, body).status_code == 200
    assert relaying.copies(ALL) == {"msg.offline": [OFFLINE], "msg.notify": [odd], "user.onlinestatus": [STATUS]}
    assert relaying.copies(NOTIFY) == {"msg.notify": [odd]}
    assert (relaying.depth()["status"], sum(relaying.depth().values())) == (1, 2)
    assert relaying.pokes == 3


def test_unknown_events_are_passed_on_whatever_they_hold(relaying: Bridge) -> None:
    bodies = [b"", b"\xff no JSON", b'{"a":1,"a":2}']
    for body in bodies:
        assert relaying.post("custom.one", body).status_code == 200
    assert relaying.post("a%20b%26%2F%C3%A9", b"x").status_code == 200
    assert relaying.copies(ALL) == {"custom.one": bodies, "a b&/é": [b"x"]}
    assert relaying.copies(NOTIFY) == {"custom.one": bodies}
    assert relaying.depth() == {}


class Broken(io.BytesIO):
    def read(self, _: int | None = -1) -> bytes:
        raise OSError("broken off")


@pytest.mark.parametrize("stream", [io.BytesIO(b"not all of it"), Broken()], ids=["short", "broken"])
def test_a_body_that_is_not_whole_is_refused_and_not_passed_on(relaying: Bridge, stream: io.BytesIO) -> None:
    environ = {"wsgi.input": stream, "wsgi.input_terminated": True, "CONTENT_LENGTH": "100"}  # as gunicorn has it
    answer = relaying.client.post("/webhook?event=custom.one", environ_overrides=environ)
    assert answer.status_code == 400
    assert "broken off" in answer.get_json()["error"]["message"]
    assert relaying.copies(ALL) == {}


def test_made_up_names_make_no_series(relaying: Bridge) -> None:
    for event in ("made.up.1", "made.up.2"):
        assert relaying.post(event, b"x").status_code == 200
    found = relaying.client.get("/metrics").text
    assert "made.up" not in found
    for name in ("webhooks_total", "elements_total", "webhook_seconds_count"):
        assert f'pushbridge_{name}{{event="other"' in found


@pytest.mark.parametrize("event", ["x" * 129, "a%0Ab", "%ff", "%7f"])
def test_events_without_a_usable_name_are_dropped(relaying: Bridge, event: str) -> None:
    assert relaying.post(event, b"x").status_code == 200
    assert relaying.copies(ALL) == {}
    assert relaying.pokes == 0


def test_what_is_refused_is_not_passed_on(relaying: Bridge) -> None:
    assert relaying.post("msg.offline", b"x").status_code == 400
    assert relaying.post("msg.notify", b"{}").status_code == 400
    assert relaying.post("custom.one", b"x" * (MAX_BODY + 1)).status_code == 413
    assert relaying.post("", b"x").status_code == 400
    assert relaying.copies(ALL) == relaying.copies(NOTIFY) == {}


def test_a_repeat_is_kept_once(relaying: Bridge) -> None:
    for _ in range(2):
        relaying.post("msg.offline", OFFLINE)
        relaying.post("user.onlinestatus", STATUS)
    assert relaying.copies(ALL) == {"msg.offline": [OFFLINE], "user.onlinestatus": [STATUS]}
    relaying.post("user.onlinestatus", b"[]")
    relaying.post("user.onlinestatus", STATUS)
    assert relaying.copies(ALL)["user.onlinestatus"] == [STATUS, b"[]", STATUS]


def test_503_where_the_copies_cannot_be_kept(relaying: Bridge) -> None:
    with relaying.database.write() as connection:
        connection.exec_driver_sql("ALTER TABLE relay RENAME TO away")
    assert relaying.post("msg.offline", OFFLINE).status_code == 503
    assert relaying.post("custom.one", b"x").status_code == 503
    assert relaying.depth() == {}


def test_nothing_is_kept_where_nobody_wants_it(bridge: Bridge) -> None:
    assert bridge.post("custom.one", b"x").status_code == 200
    assert bridge.post("msg.notify", b"[]").status_code == 200
    assert bridge.copies(ALL) == {}
    assert bridge.pokes == 0
