"""The trace, dead letters and figures."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import msgspec
import pytest

from app.admin import times, tracing
from app.model import Connection, Device, Outcome
from app.store import deliveries, devices, health, inbox, presence, relay
from app.store.inbox import Arrival
from app.store.relay import Copy
from app.store.rows import Delivery, Health
from tests.web.admin.kit import START, Api, ok, refused

BIG = 2**60 + 1


def row(number: int, **more: Any) -> Delivery:
    fields: dict[str, Any] = {
        "message_id": BIG + number,
        "uid": f"u{number % 2}",
        "device_id": "d",
        "provider": "console",
        "outcome": Outcome.SENT,
        "first_at": START,
        "at": START + number,
    }
    return Delivery(**(fields | more))


def keep(api: Api, *rows: Delivery) -> None:
    with api.database.write() as connection:
        deliveries.insert_new(connection, rows)


def trace(api: Api, query: str = "") -> list[int]:
    """The numbers of the rows that a query finds."""
    return [int(record["message_id"]) - BIG for record in ok(api.call("GET", f"/trace?{query}"))["records"]]


def test_a_record(api: Api) -> None:
    keep(api, row(7, provider_id="p-1", reason="r", source="test", latency_ms=12, attempts=3, uid="a/b" * 2000))
    answer = ok(api.call("GET", "/trace"))
    assert answer == {
        "records": [
            {
                "message_id": str(BIG + 7),
                "uid": "a/b" * 2000,
                "device_id": "d",
                "provider": "console",
                "outcome": "sent",
                "reason": "r",
                "provider_id": "p-1",
                "source": "test",
                "at": "2023-11-14T22:13:20.007Z",
                "latency_ms": 12,
                "attempts": 3,
            }
        ],
        "next": None,
    }
    assert trace(api, "uid=" + quote("a/b" * 2000)) == [7]


def test_the_filters(api: Api) -> None:
    keep(api, row(1), row(2), row(3, outcome=Outcome.SKIPPED, device_id=""), row(4, uid="é +&"))
    assert trace(api) == [4, 3, 2, 1]
    assert trace(api, "uid=u1") == [3, 1]
    assert trace(api, "uid=%C3%A9+%2B%26") == [4]
    assert trace(api, f"message_id={BIG + 2}") == [2]
    assert trace(api, "outcome=skipped&uid=u1") == [3]
    assert trace(api, "outcome=muted") == []
    assert trace(api, "limit=2") == [4, 3]
    assert trace(api, "before=2023-11-14T22:13:20.003Z") == [2, 1]
    assert trace(api, "before=2023-11-15T06:13:20.002%2B08:00") == [1]
    assert trace(api, "before=2023-11-15T06:13:20.002+08:00") == [1]


def test_pages_miss_nothing_and_repeat_nothing(api: Api) -> None:
    keep(api, *(row(number, at=START + number // 4) for number in range(23)))
    seen: list[int] = []
    query = "limit=5"
    while True:
        answer = ok(api.call("GET", f"/trace?{query}"))
        seen += [int(record["message_id"]) - BIG for record in answer["records"]]
        if answer["next"] is None:
            break
        query = f"limit=5&before={answer['next']}"
    assert seen == list(range(22, -1, -1))


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("limit=0", ("limit", "out of range", "1 to 1000")),
        ("limit=1001", ("limit", "out of range")),
        ("limit=-1", ("limit", "out of range")),
        ("limit=ten", ("limit", "a text")),
        ("limit=", ("limit", "a text")),
        ("limit=1.0", ("limit", "a text")),
        ("limit=١", ("limit", "a text")),
        ("limit=1&limit=2", ("limit", "twice")),
        ("message_id=0", ("message_id", "out of range")),
        (f"message_id={2**63}", ("message_id", "out of range")),
        ("message_id=" + "9" * 5000, ("message_id", "a text")),
        ("message_id=abc", ("message_id", "a text")),
        ("outcome=lost", ("outcome", "another text", "suppressed", "muted", "dead")),
        ("outcome=", ("outcome", "another text")),
        ("uid=", ("uid", "0 characters")),
        ("uid=%ff", ("query", "UTF-8")),
        ("uid=" + "x" * 16_385, ("uid", "16385 characters")),
        ("before=yesterday", ("before", "RFC 3339")),
        ("before=2023-11-14", ("before", "RFC 3339")),
        ("before=2023-11-14T22:13:20", ("before", "RFC 3339")),
        ("before=2023-13-14T22:13:20Z", ("before", "RFC 3339")),
        ("before=2023-11-14T22:13:20%2B99:00", ("before", "RFC 3339")),
        ("before=-1-1", ("before", "RFC 3339")),
        ("user=u", ("user", "unknown", "uid, message_id, outcome, limit, before")),
        ("=1", ("without a name", "unknown")),
    ],
    ids=lambda value: value[:24] if isinstance(value, str) else "",
)
def test_a_bad_query_names_its_parameter(api: Api, query: str, words: tuple[str, ...]) -> None:
    refused(api.call("GET", f"/trace?{query}"), *words)


@pytest.mark.parametrize(
    ("text", "ms"),
    [
        ("1970-01-01T00:00:00Z", 0),
        ("1970-01-01t00:00:00.1z", 100),
        ("1970-01-01 00:00:01.9999Z", 1_999),
        ("1970-01-01T01:00:00+01:00", 0),
        ("1969-12-31T23:59:59-00:00", -1_000),
        ("2016-12-31T23:59:60Z", 1_483_228_799_000),
        ("0001-01-01T00:00:00Z", -62_135_596_800_000),
    ],
)
def test_times(text: str, ms: int) -> None:
    assert times.parse(text) == ms
    assert times.parse(times.utc(ms)) == times.parse(times.local(ms)) == ms


def letter(number: int, event_id: int | None = 1, **more: Any) -> Delivery:
    return row(number, outcome=Outcome.DEAD, event_id=event_id, reason="gave up", attempts=9, **more)


def test_dead_letters(api: Api) -> None:
    with api.database.write() as connection:
        inbox.put(connection, [Arrival("msg.offline", b"secret words", START, "normal", 1, True)])
    keep(api, row(1), letter(2), letter(3), letter(4, event_id=None))
    answer = ok(api.call("GET", "/dead-letters"))
    assert [int(found["message_id"]) - BIG for found in answer["dead_letters"]] == [3, 2]
    assert answer["next"] is None
    first = answer["dead_letters"][0]
    assert (first["reason"], first["attempts"], first["first_at"]) == ("gave up", 9, "2023-11-14T22:13:20.000Z")
    assert "secret" not in str(answer)
    page = ok(api.call("GET", "/dead-letters?limit=1"))
    assert [found["id"] for found in page["dead_letters"]] == [first["id"]]
    rest = ok(api.call("GET", f"/dead-letters?limit=1&before={page['next']}"))
    assert [int(found["message_id"]) - BIG for found in rest["dead_letters"]] == [2]


def test_a_dead_letter_is_tried_again(api: Api) -> None:
    keep(api, letter(1))
    (found,) = ok(api.call("GET", "/dead-letters"))["dead_letters"]
    api.now = START + 60_000
    path = f"/dead-letters/{found['id']}/retry"
    assert ok(api.call("POST", path)) == {"id": found["id"], "outcome": "retrying"}
    assert api.pokes == 1
    assert ok(api.call("GET", "/trace"))["records"][0]["outcome"] == "retrying"
    with api.database.read() as connection:
        assert deliveries.next_due(connection, ["console"], "me") == START + 60_000
    refused(api.call("POST", path), "no dead letter", status=404)
    assert api.pokes == 1


def test_a_dead_letter_is_let_go_and_its_trace_stays(api: Api) -> None:
    keep(api, letter(1))
    (found,) = ok(api.call("GET", "/dead-letters"))["dead_letters"]
    assert api.call("DELETE", f"/dead-letters/{found['id']}").status_code == 204
    refused(api.call("DELETE", f"/dead-letters/{found['id']}"), status=404)
    assert ok(api.call("GET", "/dead-letters"))["dead_letters"] == []
    assert trace(api) == [1]


@pytest.mark.parametrize("path", ["/dead-letters/0", "/dead-letters/x", f"/dead-letters/{2**63}", "/dead-letters/%20"])
def test_a_bad_letter_id(api: Api, path: str) -> None:
    refused(api.call("DELETE", path), "id (in the path)")
    refused(api.call("POST", f"{path}/retry"), "id (in the path)")


def test_stats(api: Api) -> None:
    assert ok(api.call("GET", "/stats")) == {
        "queue": {lane: {"depth": 0, "oldest_seconds": None} for lane in ("status", "now", "normal", "bulk", "notify")},
        "pending": {},
        "devices": {},
        "presence": {"online": 0},
        "providers": {},
        "relay": {},
        "dispatchers": [],
    }
    said = {"providers": {"ios": {"state": "ok", "sent": 5, "failed": 1}}, "suppressed": 2, "owner": "not this"}
    with api.database.write() as connection:
        inbox.put(connection, [Arrival("msg.offline", b"x", START - 2_500, "bulk", 1, True)])
        devices.put(connection, Device("u", "d", "ios", "t", START))
        presence.put(connection, {"u": {0: Connection(online=True, since=START, seen=START)}})
        copies = [Copy("h:80/1", kind, b"x", START - age, True) for kind, age in (("a", 500), ("b", 1_500))]
        relay.put(connection, copies)
        health.beat(connection, Health("host/0", START - 1_000, msgspec.json.encode(said).decode()))
        health.beat(connection, Health("host/1", START - 60_000, "{}"))
    keep(api, row(1, outcome=Outcome.HELD, due_at=START + 3_000))
    stats = ok(api.call("GET", "/stats"))
    assert stats["queue"]["bulk"] == {"depth": 1, "oldest_seconds": 2.5}
    assert stats["pending"] == {"held": {"depth": 1, "oldest_seconds": 0.0}}
    assert stats["devices"] == {"ios": 1}
    assert stats["presence"] == {"online": 1}
    assert stats["relay"] == {"h:80/1": {"depth": 2, "oldest_seconds": 1.5}}
    assert stats["dispatchers"] == [
        {
            "providers": {"ios": {"state": "ok", "sent": 5, "failed": 1}},
            "suppressed": 2,
            "owner": "host/0",
            "alive": True,
            "beat_seconds_ago": 1.0,
        },
        {"owner": "host/1", "alive": False, "beat_seconds_ago": 60.0},
    ]


def test_the_words_are_those_of_the_trace() -> None:
    assert set(tracing.OutcomeWord.__args__) == set(Outcome) | {"muted"}
