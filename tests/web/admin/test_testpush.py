"""Test pushes: what is done when the API pokes stands in for the dispatcher."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, cast

import msgspec
import pytest
from sqlalchemy import Connection
from werkzeug.test import TestResponse as Answer

from app import intake
from app.admin import testpush
from app.model import Outcome
from app.store import deliveries, inbox
from app.store.dialect import Database
from app.store.rows import Delivery
from tests.web.admin.kit import START, Api, ok, refused


@pytest.fixture
def phones(api: Api) -> Api:
    """A user with two devices."""
    api.register("a/b", "one", token="token one")
    api.register("a/b", "two", token="token two", provider="android")
    return api


def pushed(api: Api) -> intake.TestPush:
    """The test push that lies in the inbox."""
    with api.database.read() as connection:
        ((event,), _) = inbox.waiting(connection, "now", 10, 10)
    assert event.kind == intake.TEST
    return msgspec.json.decode(event.body, type=intake.TestPush)


def settle(api: Api, device_id: str, outcome: Outcome, **more: Any) -> None:
    push = pushed(api)
    fields: dict[str, Any] = {
        "message_id": push.message_id,
        "uid": push.uid,
        "device_id": device_id,
        "provider": "",
        "outcome": outcome,
        "first_at": START,
        "at": START,
    }
    with api.database.write() as connection:
        deliveries.insert_new(connection, [Delivery(**fields, **more)])


def send(api: Api, **how: Any) -> Answer:
    return api.call("POST", "/users/{}/test", "a/b", **how)


def test_each_device_is_reported(phones: Api) -> None:
    def work() -> None:
        settle(phones, "one", Outcome.SENT, provider_id="p-1", latency_ms=40)
        settle(phones, "two", Outcome.RETRYING, reason="503", due_at=START)

    phones.on_poke = work
    report = ok(send(phones, body={"title": "Hi", "body": "two\nlines"}))
    push = pushed(phones)
    assert (push.uid, push.title, push.body) == ("a/b", "Hi", "two\nlines")
    assert report == {
        "message_id": str(push.message_id),
        "complete": True,
        "results": [
            {
                "device_id": "one",
                "provider": "console",
                "outcome": "sent",
                "reason": "",
                "provider_id": "p-1",
                "latency_ms": 40,
            },
            {
                "device_id": "two",
                "provider": "android",
                "outcome": "retrying",
                "reason": "503",
                "provider_id": "",
                "latency_ms": 0,
            },
        ],
    }


class Late:
    """A database in which something happens before the third look."""

    def __init__(self, database: Database, happens: Callable[[], None]) -> None:
        self._database, self._happens, self.looks = database, happens, 0

    def read(self) -> AbstractContextManager[Connection]:
        self.looks += 1
        if self.looks == 3:
            self._happens()
        return self._database.read()


def test_it_looks_again_until_the_last_outcome_is_there(phones: Api) -> None:
    phones.on_poke = lambda: settle(phones, "one", Outcome.SENT)
    late = Late(phones.database, lambda: settle(phones, "two", Outcome.REJECTED))
    report = testpush.send(cast(Database, late), phones.intake, "a/b", testpush.TestBody(), 30)
    assert report is not None
    assert report.complete
    assert [result.outcome for result in report.results] == ["sent", "rejected"]
    assert late.looks == 3


@pytest.mark.parametrize("outcome", [None, Outcome.QUEUED, Outcome.HELD])
def test_when_the_time_is_up_it_says_what_is_known(phones: Api, outcome: Outcome | None) -> None:
    def work() -> None:
        settle(phones, "one", Outcome.SENT)
        if outcome:
            settle(phones, "two", outcome, due_at=START)

    phones.on_poke = work
    report = ok(send(phones))
    assert [result["outcome"] for result in report["results"]] == ["sent", outcome or "queued"]
    assert not report["complete"]


def test_a_user_passed_over_as_a_whole_is_an_answer(phones: Api) -> None:
    phones.on_poke = lambda: settle(phones, "", Outcome.SKIPPED, reason="no_device")
    report = ok(send(phones))
    assert report["complete"]
    assert {(result["outcome"], result["reason"]) for result in report["results"]} == {("skipped", "no_device")}


def test_without_a_device_nothing_is_sent(api: Api) -> None:
    before = api.everything()
    refused(send(api), "no device", status=404)
    assert api.everything() == before
    assert api.pokes == 0


def test_only_one_may_wait_at_once(phones: Api) -> None:
    answers: list[Answer] = []
    phones.on_poke = lambda: answers.append(send(phones))
    ok(send(phones))
    (busy,) = answers
    refused(busy, "try again", status=429)
    assert int(busy.headers["Retry-After"]) > 0
    ok(send(phones))


@pytest.mark.parametrize(
    ("body", "word"),
    [
        ({"title": ""}, "title"),
        ({"title": "x" * 256}, "title"),
        ({"title": "a\nb"}, "title"),
        ({"body": "x" * 1001}, "body"),
        ({"body": "\x1b[2J"}, "body"),
        ({"body": 1}, "body"),
        ({"text": "x"}, "text"),
        ([], "body"),
    ],
    ids=lambda value: str(value)[:24],
)
def test_bad_words_are_refused(phones: Api, body: Any, word: str) -> None:
    before = phones.everything()
    refused(send(phones, body=body), word)
    assert phones.everything() == before


def test_what_cannot_be_stored_is_said(phones: Api) -> None:
    with phones.database.write() as connection:
        connection.exec_driver_sql("ALTER TABLE events RENAME TO elsewhere")
    answer = send(phones)
    refused(answer, "could not be stored", status=503)
    assert answer.get_json()["error"]["code"] == "unavailable"
    assert phones.pokes == 0


def test_a_bridge_that_is_full_takes_no_test_push_either(api: Api) -> None:
    api.register("u", "d")
    api.bounds.min_free = 2**62
    refused(api.call("POST", "/users/{}/test", "u"), "storage.min_free", status=503)
    assert api.pokes == 0
