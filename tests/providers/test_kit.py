"""The small parts of the kit: answers in general, the fake transport."""

from __future__ import annotations

import asyncio

import pytest

from providers.kit.answers import by_status, json_object, plain, retry_after
from providers.kit.base import (
    Delivered,
    Misconfigured,
    Outcome,
    Rejected,
    Request,
    Response,
    Retry,
    TokenInvalid,
    TooLarge,
    Unreachable,
)
from providers.kit.values import Network, Secret
from tests.providers.fake import FakeTransport
from tests.providers.material import answer

DATE = "Wed, 21 Oct 2026 07:28:00 GMT"
AT = 1_792_567_680.0
ONE = Request("POST", "/one", {}, b"")
OK = Response(200, {}, b"")


@pytest.mark.parametrize(
    ("header", "now", "seconds"),
    [
        ("0", 0, 0),
        ("120", 0, 120),
        ("999999999999", 0, 86400),
        (DATE, AT - 30, 30),
        (DATE, AT + 30, 0),
        (DATE, 0, 86400),
        ("", 0, None),
        ("-5", 0, None),
        ("soon", 0, None),
        ("1.5", 0, None),
        ("²", 0, None),
        ("Wed, 99 Oct 2026 07:28:00 GMT", 0, None),
    ],
)
def test_retry_after(header: str, now: float, seconds: float | None) -> None:
    assert retry_after(answer(503, retry_after=header), now) == seconds


def test_no_retry_after() -> None:
    assert retry_after(OK) is None


@pytest.mark.parametrize(
    ("status", "outcome"),
    [
        (200, Delivered("")),
        (204, Delivered("")),
        (100, Misconfigured("HTTP 100")),
        (302, Misconfigured("HTTP 302")),
        (400, Rejected("HTTP 400")),
        (401, Misconfigured("HTTP 401")),
        (403, Misconfigured("HTTP 403")),
        (404, Misconfigured("HTTP 404")),
        (407, Misconfigured("HTTP 407")),
        (408, Retry("HTTP 408")),
        (410, TokenInvalid("HTTP 410")),
        (413, TooLarge("HTTP 413")),
        (418, Rejected("HTTP 418")),
        (429, Retry("HTTP 429", after=60.0)),
        (500, Retry("HTTP 500")),
    ],
)
def test_by_status(status: int, outcome: Outcome) -> None:
    assert by_status(answer(status)) == outcome


@pytest.mark.parametrize("body", [b"", b"[]", b"1", b"{", b"\xff", b"[" * 100_000, b'{"a":' * 100_000])
def test_what_is_no_object_is_an_empty_one(body: bytes) -> None:
    assert json_object(body) == {}


def test_plain_words() -> None:
    assert plain("Bad Token") == "Bad Token"
    assert plain("a\nb\x1bc") == "a b c"
    assert len(plain("x" * 999)) == 160
    assert plain(None) == plain(5) == ""


def test_the_fake_answers_in_turn_and_keeps_what_it_was_sent() -> None:
    def broken(_: Request) -> Response:
        raise Unreachable("called")

    fake = FakeTransport([OK, Unreachable("down"), lambda request: Response(201, {}, request.path.encode()), broken])

    async def main() -> None:
        assert await fake(ONE) is OK
        with pytest.raises(Unreachable, match="down"):
            await fake(ONE)
        assert (await fake(ONE)).body == b"/one"
        with pytest.raises(Unreachable, match="called"):
            await fake(ONE)
        with pytest.raises(AssertionError, match="no answer is scripted for request 5"):
            await fake(ONE)

    asyncio.run(main())
    assert fake.requests == [ONE] * 5


def test_the_fake_may_answer_all_alike() -> None:
    fake = FakeTransport(lambda request: OK)
    assert [asyncio.run(fake(ONE)) for _ in range(3)] == [OK] * 3


def test_a_block_does_not_show_its_secrets() -> None:
    block = Network(type="x", proxy="http://user:password@h", ca=Secret("ca"))
    assert repr(block) == "Network(type='x', endpoint='')"
