"""Messages that `msg.notify` brought and `msg.offline` did not."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from prometheus_client import REGISTRY
from structlog.testing import capture_logs

from app import events
from app import rescue as rescuing
from app.clock import now_ms
from app.dispatch import rescue, settling
from app.dispatch.work import FAULT
from app.intake import LANES, NOTIFY_LANE, NOW_LANE
from app.model import Connection
from app.plan import Policy
from app.store import deliveries, inbox, presence
from app.store.dialect import DatabaseError
from app.store.inbox import Arrival
from tests.dispatch.conftest import PAYLOAD, Asked, Bridge, Stub

OFFLINE: frozenset[int] = frozenset()


class Server(Asked):
    """Stands for WuKongIM: says who is online, and keeps what it was asked. online: None = it gives no answer."""

    def __init__(self, **online: frozenset[int]) -> None:
        super().__init__(self._say)
        self.online: dict[str, frozenset[int]] | None = online
        self.asked: list[list[str]] = []

    async def _say(self, uids: Sequence[str]) -> dict[str, frozenset[int]] | None:
        self.asked.append(sorted(uids))
        return None if self.online is None else {uid: self.online.get(uid, OFFLINE) for uid in uids}


def counted(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(f"pushbridge_{name}_total", labels) or 0


class Counts:
    """What was counted since it was made."""

    REASONS = (
        "named",
        "no_device",
        "online",
        "was_online",
        "unknown",
        "ambiguous",
        "channel",
        "system",
        "sender",
        "fault",
    )

    def __init__(self) -> None:
        self._before = self._now()

    def _now(self) -> dict[str, float]:
        reasons = {reason: counted("rescue_left_out", reason=reason) for reason in self.REASONS}
        return {"rescued": counted("rescued"), "seen": counted("notify_messages"), **reasons}

    def __call__(self) -> dict[str, float]:
        grown = {name: value - self._before[name] for name, value in self._now().items()}
        return {name: value for name, value in grown.items() if value}


@pytest.fixture
def counts() -> Counts:
    return Counts()


def drained(bridge: Bridge) -> Callable[[], bool]:
    return lambda: not bridge.depth()


def run(bridge: Bridge, *more: Stub, until: Callable[[], bool] | None = None, **given: Any) -> Stub:
    """Run a dispatcher until everything was looked at and planned; the provider `phone`."""
    phone = Stub("phone")
    asyncio.run(bridge.run(phone, *more, until=until or drained(bridge), **given))
    return phone


def test_a_message_that_named_nobody_is_pushed_to_whoever_is_said_to_be_offline(bridge: Bridge, counts: Counts) -> None:
    for uid in ("bob", "cid", "dot", "eve"):
        bridge.register(uid, "phone")
    bridge.statuses("bob-0-1-1-1-1", "bob-0-0-1-0-0", "cid-0-1-2-1-1")
    came_at = now_ms() - 1_000
    bridge.notify({}, {"channel_id": "cid"}, {"channel_id": "dot"}, {"channel_id": "nobody"}, received_at=came_at)
    phone = run(bridge)
    assert phone.sent == ["phone-bob"]
    assert counts() == {"seen": 4, "rescued": 1, "online": 1, "unknown": 1, "no_device": 1}
    row = bridge.rows()["bob"]
    assert (row.source, row.first_at) == ("rescue", came_at)
    assert bridge.rows().keys() == {"bob"}


def test_whoever_was_named_is_left_alone(bridge: Bridge, counts: Counts) -> None:
    bridge.register("bob", "phone")
    bridge.statuses("bob-0-0-1-0-0")
    message_id = bridge.message("bob", "cid")
    phone = run(bridge)
    bridge.notify({"message_id": message_id}, {"message_id": message_id, "channel_id": "cid"})
    phone.sent += run(bridge).sent
    assert phone.sent == ["phone-bob"]
    assert counts() == {"seen": 2, "named": 1}


def test_it_does_not_run_ahead_of_what_is_not_planned_yet(
    bridge: Bridge, counts: Counts, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = 0
    ready_until = rescue.ready_until

    def looking(*given: Any) -> int:
        nonlocal looks
        looks += 1
        return ready_until(*given)

    monkeypatch.setattr(rescue, "ready_until", looking)
    monkeypatch.setattr(rescue, "LOOK_EVERY", 0.01)
    bridge.register("bob", "phone")
    bridge.statuses("bob-0-0-1-0-0")
    came_at = now_ms() - 5_000
    body = b'{"message_id":1,"from_uid":"ann","channel_id":"bob","payload":"%s","to_uids":["bob"]}' % PAYLOAD.encode()
    later = now_ms() + 600
    with bridge.database.write() as connection:
        inbox.put(connection, [Arrival(events.OFFLINE, body, came_at, NOW_LANE, 1, True, 0, later)])
        notify = b"[" + body + b"]"
        inbox.put(connection, [Arrival(events.NOTIFY, notify, came_at, NOTIFY_LANE, 1, True, 0, came_at + 1)])
    phone = run(bridge)
    assert looks > 3
    assert phone.sent == ["phone-bob"]
    assert bridge.rows()["bob"].source == "msg.offline"
    assert counts() == {"seen": 1, "named": 1}


def test_its_patience_has_an_end(bridge: Bridge) -> None:
    now = now_ms()
    assert rescue.ready_until(bridge.database, now) == now
    with bridge.database.write() as connection:
        inbox.put(connection, [Arrival(events.OFFLINE, b"1", now - 100, LANES[1], 1, True)])
    assert rescue.ready_until(bridge.database, now) == now - 100
    assert rescue.ready_until(bridge.database, now - 200) == now - 200
    with bridge.database.write() as connection:
        inbox.put(connection, [Arrival(events.OFFLINE, b"2", now - 10**7, LANES[0], 1, True)])
    assert rescue.ready_until(bridge.database, now) == now - rescue.BACKLOG_PATIENCE


def test_one_question_settles_a_whole_batch(bridge: Bridge, counts: Counts) -> None:
    for uid in ("bob", "cid", "dot"):
        bridge.register(uid, "phone")
    bridge.statuses("dot-0-0-1-0-0")
    server = Server(cid=frozenset({1}), dot=frozenset({0}))
    bridge.notify({}, {"channel_id": "cid"})
    bridge.notify({}, {"channel_id": "dot"}, {"channel_id": "without a phone"})
    phone = run(bridge, ask=server)
    assert phone.sent == ["phone-bob", "phone-bob"]
    assert server.asked == [["bob", "cid", "dot"]]
    assert counts() == {"seen": 5, "rescued": 2, "online": 2, "no_device": 1}


def test_a_server_without_an_answer_is_left_alone_and_presence_decides(bridge: Bridge, counts: Counts) -> None:
    bridge.register("bob", "phone")
    bridge.register("cid", "phone")
    bridge.statuses("bob-0-0-1-0-0")
    server = Server()
    server.online = None
    bridge.notify({}, {"channel_id": "cid"})

    async def scenario() -> None:
        phone = Stub("phone")
        async with bridge.running(phone, ask=server, policy=Policy(hold=300, ask_after=10)) as wait:
            await wait(lambda: len(phone.sent) == 1 and not bridge.depth())
            bridge.notify({"message_id": 77})
            await wait(lambda: phone.sent == ["phone-bob"] * 2)
            bridge.statuses("cid-0-1-2-1-1")
            bridge.message("cid")
            bridge.poke()
            await wait(lambda: bridge.outcomes().get("cid") == "suppressed")

    asyncio.run(scenario())
    assert server.asked == [["bob", "cid"]], "no part asks again"
    assert counts() == {"seen": 3, "rescued": 2, "unknown": 1}


def test_a_record_that_the_server_corrects_holds_nothing(bridge: Bridge) -> None:
    bridge.register("bob", "phone")
    bridge.statuses("bob-0-1-1-1-1")
    server = Server()
    bridge.notify({})
    phone = run(bridge, until=lambda: bridge.outcomes() == {"bob": "sent"}, ask=server, policy=Policy(hold=60_000))
    assert phone.sent == ["phone-bob"]
    assert server.asked == [["bob"]]


def test_a_message_that_came_while_the_user_was_there_is_not_pushed(bridge: Bridge, counts: Counts) -> None:
    bridge.register("bob", "phone")
    bridge.statuses("bob-0-0-1-0-0")
    bridge.notify({}, received_at=now_ms() - 10_000)
    phone = run(bridge)
    assert phone.sent == []
    assert counts() == {"seen": 1, "was_online": 1}


@pytest.mark.parametrize(
    ("registered", "said", "sent", "reason"),
    [
        (["s3d"], [], ["phone-s3d"], None),
        (["s3from@s3d"], [], ["phone-s3from@s3d"], None),
        (["s3d", "s3from@s3d"], [], [], "ambiguous"),
        (["s3d"], ["s3from@s3d-0-0-1-0-0"], [], "ambiguous"),
        (["s3from@s3d"], ["s3d-0-0-1-0-0"], [], "ambiguous"),
        (["s3from"], [], [], "no_device"),
    ],
)
def test_the_wrong_user_is_never_pushed(
    bridge: Bridge, counts: Counts, registered: list[str], said: list[str], sent: list[str], reason: str | None
) -> None:
    for uid in registered:
        bridge.register(uid, "phone")
    bridge.statuses(*said)
    bridge.notify({"from_uid": "s3from", "channel_id": "s3from@s3d"})
    phone = run(bridge, ask=Server())
    assert phone.sent == sent
    assert counts() == {"seen": 1, reason or "rescued": 1}


def test_what_rings_nobody_is_counted(bridge: Bridge, counts: Counts) -> None:
    bridge.register("bob", "phone")
    bridge.statuses("bob-0-0-1-0-0")
    bridge.notify(
        {"channel_type": 2},
        {"from_uid": "", "channel_id": "____system"},
        {"channel_id": "ann"},
        {"header": {"sync_once": 1}},
        {"channel_id": "bob____cmd"},
    )
    assert run(bridge).sent == []
    assert counts() == {"seen": 5, "channel": 1, "system": 1, "sender": 1}


def test_a_message_that_is_notified_again_is_pushed_once(bridge: Bridge, counts: Counts) -> None:
    """v2 tries again with newer messages beside it, so the body is another."""
    bridge.register("bob", "phone")
    bridge.statuses("bob-0-0-1-0-0")
    bridge.notify({"message_id": 7})
    bridge.notify({"message_id": 7}, {"message_id": 8})
    phone = run(bridge)
    bridge.notify({"message_id": 8}, {"message_id": 7})
    phone.sent += run(bridge).sent
    assert phone.sent == ["phone-bob", "phone-bob"]
    assert counts() == {"seen": 5, "rescued": 2, "named": 2}


def test_a_msg_offline_that_comes_later_still_doubles_nothing(bridge: Bridge) -> None:
    bridge.register("bob", "phone")
    bridge.statuses("bob-0-0-1-0-0")
    bridge.notify({"message_id": 1})
    phone = run(bridge)
    assert bridge.message("bob") == 2
    bridge._next = 0
    assert bridge.message("bob") == 1
    phone.sent += run(bridge).sent
    assert phone.sent == ["phone-bob", "phone-bob"]
    with bridge.database.read() as connection:
        found = {(row.message_id, row.source) for row in deliveries.trace(connection)}
    assert found == {(1, "rescue"), (2, "msg.offline")}


def test_it_is_remembered_for_a_month_that_somebody_is_offline(bridge: Bridge, counts: Counts) -> None:
    def known() -> set[str]:
        with bridge.database.read() as connection:
            return set(presence.of_users(connection, ["bob", "cid"]))

    day = 86_400_000
    with bridge.database.write() as connection:
        for uid, days in (("bob", 29), ("cid", 31)):
            at = now_ms() - days * day
            presence.put(connection, {uid: {0: Connection(False, at, at)}})
    bridge.register("bob", "phone")
    bridge.register("cid", "phone")

    async def scenario() -> None:
        phone = Stub("phone")
        async with bridge.running(phone) as wait:
            await wait(lambda: known() == {"bob"})
            bridge.notify({}, {"channel_id": "cid"})
            await wait(lambda: phone.sent == ["phone-bob"] and not bridge.depth())

    asyncio.run(scenario())
    assert counts() == {"seen": 2, "rescued": 1, "unknown": 1}


def test_what_was_rescued_just_before_a_crash_is_pushed_once(bridge: Bridge) -> None:
    bridge.register("bob", "phone")
    bridge.notify({"message_id": 7})
    message = events.notify(b'[{"message_id":7,"from_uid":"ann","channel_id":"bob"}]')[0][0]
    with bridge.database.write() as connection:
        (claimed,) = inbox.claim(connection, NOTIFY_LANE, 9, 9, "me", now_ms(), 1_000)
    arrival = Arrival("rescue", events.naming(message, "bob"), 1, NOW_LANE, 1, True)
    rescue.finish(bridge.database, [claimed.id], [(claimed.id, arrival)], "me")
    assert bridge.depth() == {"now": 1}
    bridge.statuses("bob-0-0-1-0-0")
    bridge.notify({"message_id": 7}, {"message_id": 7})
    assert run(bridge).sent == ["phone-bob"]


def test_whoever_lost_a_call_puts_nothing_in_its_place(bridge: Bridge) -> None:
    bridge.notify({})
    with bridge.database.write() as connection:
        (claimed,) = inbox.claim(connection, NOTIFY_LANE, 9, 9, "another", now_ms(), 1_000)
    rescue.finish(bridge.database, [claimed.id], [(claimed.id, Arrival("rescue", b"", 1, NOW_LANE, 1, True))], "me")
    assert bridge.depth() == {"notify": 1}


def test_a_call_and_what_was_found_in_it_change_places_at_once(bridge: Bridge) -> None:
    bridge.notify({})
    with bridge.database.write() as connection:
        (claimed,) = inbox.claim(connection, NOTIFY_LANE, 9, 9, "me", now_ms(), 1_000)
    broken: Any = Arrival("rescue", b"", 1, None, 1, True)  # type: ignore[arg-type]
    with pytest.raises(Exception, match="NOT NULL"):
        rescue.finish(bridge.database, [claimed.id], [(claimed.id, broken)], "me")
    assert bridge.depth() == {"notify": 1}


@pytest.mark.parametrize("fault", [RuntimeError, DatabaseError])
def test_a_call_that_cannot_be_read_costs_itself_only(
    bridge: Bridge, counts: Counts, monkeypatch: pytest.MonkeyPatch, fault: type[Exception]
) -> None:
    notify = events.notify

    def stricter(body: bytes) -> Any:
        if b"poison" in body:
            raise fault("hunter2")
        return notify(body)

    monkeypatch.setattr(events, "notify", stricter)
    monkeypatch.setattr(settling, "EVENT_TRIES", 2)
    bridge.register("bob", "phone")
    bridge.statuses("bob-0-0-1-0-0")
    bridge.notify({})
    bridge.notify({"client_msg_no": "poison"})
    bridge.notify({})
    with capture_logs() as lines:
        phone = run(bridge, until=lambda: bridge.depth() == {"failed": 1})
    assert phone.sent == ["phone-bob", "phone-bob"]
    assert "hunter2" not in str(lines)
    with bridge.database.read() as connection:
        (letter,) = deliveries.dead_letters(connection, 9)
    assert (letter.source, letter.reason) == ("msg.notify", FAULT)
    monkeypatch.setattr(events, "notify", notify)
    assert run(bridge).sent == ["phone-bob"]
    assert bridge.outcomes() == {"bob": "sent"}, "the letter is gone"
    assert counts() == {"seen": 3, "rescued": 3}


@pytest.mark.parametrize("step", ["passed_over", "left_out"])
def test_a_message_that_meets_a_fault_costs_itself_only(
    bridge: Bridge, counts: Counts, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    decide = getattr(rescuing, step)
    decided = 0

    def failing(*given: Any, **more: Any) -> Any:
        nonlocal decided
        decided += 1
        if decided == 2:
            raise RuntimeError("hunter2")
        return decide(*given, **more)

    monkeypatch.setattr(rescuing, step, failing)
    bridge.register("bob", "phone")
    bridge.statuses("bob-0-0-1-0-0")
    ids = bridge.notify({}, {}, {})
    with capture_logs() as lines:
        phone = run(bridge)
    assert phone.sent == ["phone-bob", "phone-bob"]
    assert counts() == {"seen": 3, "rescued": 2, "fault": 1}
    told = [(line["message_id"], line["error"]) for line in lines if line["event"] == "message passed over"]
    assert told == [(ids[1], "RuntimeError")]


def test_a_silent_server_holds_nobody_up(bridge: Bridge) -> None:
    bridge.register("bob", "phone")
    bridge.register("cid", "phone")
    bridge.statuses("bob-0-0-1-0-0")

    async def scenario() -> None:
        asked = asyncio.Event()
        may_answer = asyncio.Event()

        async def ask(_: Sequence[str]) -> None:
            asked.set()
            await may_answer.wait()

        phone = Stub("phone")
        async with bridge.running(phone, ask=Asked(ask)) as wait:
            bridge.notify({})
            await wait(asked.is_set)
            bridge.message("cid")
            await wait(lambda: phone.sent == ["phone-cid"])
            may_answer.set()
            await wait(lambda: phone.sent == ["phone-cid", "phone-bob"])

    asyncio.run(scenario())
