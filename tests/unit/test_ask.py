"""The question who is online, and what becomes of its answers."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any
from uuid import UUID

import msgspec
import pytest
from structlog.testing import capture_logs

from app.clock import now_ms
from app.dispatch.ask import MOST, SILENCE, Ask
from providers.kit.base import Response, Transport, Unreachable
from providers.kit.http import Client
from tests.providers.fake import FakeTransport
from tests.providers.proxy import Listener

FIXTURES = Path(__file__).parents[1] / "fixtures" / "wukongim" / "onlinestatus-api.jsonl"
CAPTURED = [json.loads(line) for line in FIXTURES.read_text().splitlines()]
USABLE = [case for case in CAPTURED if case["request"] and case["response"].startswith("[")]
RECORD = {"uid": "ann", "device_flag": 1, "online": 1}
GOOD = Response(200, {}, json.dumps([RECORD]).encode())


def ask(answer: Response | Unreachable, *uids: str) -> dict[str, frozenset[int]] | None:
    return asyncio.run(Ask(FakeTransport([answer]), "", now_ms)(uids or ["ann"]))


def test_the_whole_question() -> None:
    fake = FakeTransport([GOOD])
    assert asyncio.run(Ask(fake, "secret", now_ms)(["ann", "bob", "ann"])) == {"ann": {1}, "bob": frozenset()}
    (request,) = fake.requests
    assert (request.method, request.path) == ("POST", "/user/onlinestatus")
    assert request.headers == {"content-type": "application/json", "token": "secret"}
    assert json.loads(request.body) == ["ann", "bob"]


def test_many_are_asked_about_in_parts() -> None:
    uids = [f"u{number}" for number in range(MOST + 1)]
    fake = FakeTransport([GOOD, GOOD])
    found = asyncio.run(Ask(fake, "", now_ms)(uids))
    assert found is not None
    assert list(found) == uids
    assert [len(json.loads(request.body)) for request in fake.requests] == [MOST, 1]


@pytest.mark.parametrize("case", USABLE, ids=[f"{case['line']}-{case['name']}" for case in USABLE])
def test_what_real_servers_answered_is_usable(case: dict[str, Any]) -> None:
    online: dict[str, set[int]] = {uid: set() for uid in json.loads(case["request"])}
    for record in json.loads(case["response"]):
        online[record["uid"]].add(record["device_flag"])
    assert ask(Response(case["status"], {}, case["response"].encode()), *online) == {
        uid: frozenset(flags) for uid, flags in online.items()
    }


def test_who_was_not_asked_about_or_is_not_online_is_left_out() -> None:
    body = json.dumps([RECORD | {"online": 0}, RECORD | {"uid": "stranger"}]).encode()
    assert ask(Response(200, {}, body)) == {"ann": frozenset()}


UNUSABLE: dict[str, Response | Unreachable] = {
    "nobody there": Unreachable("timed out"),
    "an error": Response(500, {}, GOOD.body),
    "cut short": Response(200, {}, GOOD.body[:-1]),
    "no UTF-8": Response(200, {}, b'[{"uid":"\xff"}]'),
    "deep": Response(200, {}, b'[{"x":' + b"[" * 100_000),
}
ODD: list[object] = [
    None,
    {"status": 200},
    ["ann"],
    [RECORD, None],
    [RECORD | {"uid": ["x"]}],
    [RECORD | {"uid": None}],
    [RECORD | {"device_flag": "1"}],
    [RECORD | {"device_flag": 10**30}],
    [RECORD | {"online": [1]}],
    [{"uid": "ann"}],
]
UNUSABLE |= {json.dumps(body): Response(200, {}, json.dumps(body).encode()) for body in ODD}


@pytest.mark.parametrize("case", UNUSABLE)
def test_any_other_answer_is_none(case: str) -> None:
    assert ask(UNUSABLE[case]) is None


def test_a_server_that_gave_no_answer_is_left_alone_for_a_while() -> None:
    now = 1_000
    fake = FakeTransport([Unreachable("timed out"), GOOD, GOOD])
    ask = Ask(fake, "", lambda: now)

    async def main() -> None:
        nonlocal now
        assert not ask.silent
        assert await ask(["ann"]) is None
        now += SILENCE - 1
        assert ask.silent
        assert await ask(["ann"]) is None
        assert len(fake.requests) == 1
        now += 1
        for _ in range(2):
            assert await ask(["ann"]) == {"ann": {1}}

    with capture_logs() as lines:
        asyncio.run(main())
    assert [(line["event"], line["users"]) for line in lines] == [("WuKongIM did not say who is online", 1)]


class Everybody(Listener):
    """WuKongIM where everybody is online on two devices."""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        length = int(head.partition("content-length: ")[2].partition("\r\n")[0])
        uids = json.loads(await reader.readexactly(length))
        body = msgspec.json.encode([{"uid": uid, "device_flag": flag, "online": 1} for uid in uids for flag in (0, 1)])
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body))
        await writer.drain()


def test_as_many_as_are_asked_about_at_once_may_be_online_on_two_devices() -> None:
    uids = [str(UUID(int=number)) for number in range(MOST)]

    async def main() -> None:
        async with Everybody() as server:
            endpoint = f"http://127.0.0.1:{server.port}"
            client = Client(Transport(endpoint=endpoint, http1=True, body_limit=Ask.ANSWER_LIMIT))
            assert await Ask(client.send, "", now_ms)(uids) == {uid: frozenset({0, 1}) for uid in uids}
            await client.close()

    asyncio.run(main())


@pytest.mark.parametrize(("endpoint", "token"), [("http://127.0.0.1:99999", ""), ("http://127.0.0.1:1", "a\nb")])
def test_a_wrong_setting_is_no_answer(endpoint: str, token: str) -> None:
    async def main() -> None:
        client = Client(Transport(endpoint=endpoint, http1=True))
        assert await Ask(client.send, token, now_ms)(["ann"]) is None
        await client.close()

    asyncio.run(main())
