"""One group's flood is queued: what must ring now, and what other groups say, goes ahead of it. How soon: `make bench`.

No clock decides: APNs answers nothing until all is planned, which is known by messages that were posted last and go to
FCM. What was under way by then is what anything may have to stand behind.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from app.demo.standin import StandinProcess
from tests.e2e.service import Service, apns_token, offline, payload, until

MEMBERS = 400
UNDER_WAY = 250
"""Requests at once on the one connection."""
AHEAD = UNDER_WAY + 250
"""Pushes of the flood that may go ahead of what must ring now."""
TURNS = UNDER_WAY + 2_000 + 1_000 + 500
"""Pushes of the flood that may go ahead of all of another group: what is under way, one queue, what waits to be
written, one slice of a plan."""

FRIEND, NAMED, EVERYBODY, NEIGHBOURS = ("friend", ["named"], ["all-1", "all-2"], [f"next-{n}" for n in range(20)])
OTHERS = [FRIEND, *NAMED, *EVERYBODY, *NEIGHBOURS]
Order = list[str]


def mentioning(mention: dict[str, Any]) -> str:
    return payload({"type": 1, "content": "@", "mention": mention})


def register(service: Service, members: list[str]) -> dict[str, str]:
    """A phone each; who has which token."""
    tokens = {uid: apns_token(0x90_0000 + n) for n, uid in enumerate([*members, *OTHERS])}
    phones = [{"uid": uid, "device_id": "phone", "provider": "ios", "token": token} for uid, token in tokens.items()]
    marks = [{"uid": uid, "device_id": "phone", "provider": "android", "token": uid} for uid in ("mark-1", "mark-2")]
    service.register_many([*phones, *marks])
    return tokens


@pytest.fixture(scope="module")
def order(tmp_path_factory: pytest.TempPathFactory, standin_process: StandinProcess, soak: bool) -> Iterator[Order]:
    """To whom pushes went, in the order in which APNs saw them."""
    standin = standin_process
    standin.reset()
    standin.settings("apns", first_streams=1000)
    block = {"timeout": "120s", "max_connections": 1}
    service = Service(tmp_path_factory.mktemp("flood"), standin, providers={"ios": block}).start()
    try:
        yield flooded(service, standin, 250 if soak else 25)
    finally:
        service.kill()


def flooded(service: Service, standin: StandinProcess, messages: int) -> Order:
    members = [f"member-{n}" for n in range(MEMBERS)]
    tokens = register(service, members)
    service.outcome(service.offline([FRIEND]), FRIEND, "sent")
    standin.clear()
    standin.hold("apns")
    group = {"channel_type": 2, "channel_id": "flood"}
    assert service.webhooks("msg.offline", [offline(members, **group) for _ in range(messages)]) == [200] * messages
    standin.wait(UNDER_WAY, server="apns", timeout=30)

    service.offline([FRIEND])
    service.offline(NAMED, payload=mentioning({"uids": NAMED}), **group)
    service.offline(EVERYBODY, payload=mentioning({"all": 1}), **group)
    service.offline(NEIGHBOURS, channel_type=2, channel_id="next")
    service.offline(["mark-1"])
    service.offline(["mark-2"], channel_type=2, channel_id="mark")
    for mark in ("mark-1", "mark-2"):
        standin.wait(1, server="fcm", token=mark, timeout=60)

    standin.release("apns")
    until(lambda: is_decided(standin, [tokens[uid] for uid in OTHERS]), "the others' pushes came, or too much else", 60)
    owner = {token: uid for uid, token in tokens.items()}
    return [owner[request["device"]] for request in standin.requests(server="apns")]


def is_decided(standin: StandinProcess, others: list[str]) -> bool:
    """Whether all of these tokens were sent to, or so much else that it no longer matters."""
    return standin.counts()["requests"]["apns"] > TURNS + 500 or all(standin.requests(token=token) for token in others)


def before(order: Order, uids: list[str]) -> int:
    """How many pushes of the flood went ahead of the last of these."""
    places = [order.index(uid) if uid in order else len(order) for uid in uids]
    return sum(uid.startswith("member-") for uid in order[: max(places)])


@pytest.mark.soak
def test_a_person_message_goes_ahead(order: Order) -> None:
    assert UNDER_WAY <= before(order, [FRIEND]) <= AHEAD


@pytest.mark.soak
def test_a_mention_goes_ahead_in_the_flooded_group_too(order: Order) -> None:
    assert before(order, NAMED) <= AHEAD
    assert before(order, EVERYBODY) <= AHEAD


@pytest.mark.soak
def test_another_group_takes_its_turn(order: Order) -> None:
    assert before(order, NEIGHBOURS) <= TURNS
