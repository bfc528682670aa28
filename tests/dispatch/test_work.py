"""What becomes of messages on their way through a whole dispatcher."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest

from app import intake
from app.clock import now_ms
from app.dispatch import settler, steps
from app.dispatch.sender import SLICE
from app.dispatch.steps import Renderer, Rules
from app.dispatch.work import Known, Parsed, Progress
from app.model import Content, Device, Message, Outcome, Recipients, Settings
from app.plan import Policy
from app.render import Style
from app.settle import Limits
from app.store import people
from app.store.rows import Delivery
from app.store.schema import deliveries
from providers.kit.base import Misconfigured, Request, Retry, Target
from tests.dispatch.conftest import TEMPLATES, Bridge, Gated, Stub

RULES = Rules(Policy(), Style(types={1: "text"}, templates=TEMPLATES))
BOB = Device("bob", "phone", "p", "token", 1, 1)


class Showing(Stub):
    """Keeps the text that each token was sent."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.shown: dict[str, str] = {}

    def request(self, prepared: str, target: Target) -> Request:
        self.shown[target.token] = prepared
        return super().request(prepared, target)


@pytest.mark.parametrize("to", [("shy", "open", "zh"), ("zh", "open", "shy")])
def test_each_recipient_of_a_group_is_shown_the_message_in_their_own_way(bridge: Bridge, to: tuple[str, ...]) -> None:
    with bridge.database.write() as connection:
        people.put_settings(connection, "shy", Settings(show_content=False))
        people.put_settings(connection, "zh", Settings(show_content=False, locale="zh"))
    for uid in to:
        bridge.register(uid, "p")
    provider = Showing("p")
    bridge.message(*to)
    asyncio.run(bridge.run(provider, until=lambda: len(provider.shown) == 3))
    assert provider.shown == {"p-shy": "hidden", "p-open": "hello", "p-zh": "verborgen"}


def test_a_phone_has_its_own_language(bridge: Bridge) -> None:
    with bridge.database.write() as connection:
        people.put_settings(connection, "bob", Settings(show_content=False, locale="en"))
    bridge.register("bob", "p", locale="zh")
    provider = Showing("p")
    bridge.message("bob")
    asyncio.run(bridge.run(provider, until=lambda: bool(provider.shown)))
    assert provider.shown == {"p-bob": "verborgen"}


def test_a_test_push_rings_though_its_user_is_online(bridge: Bridge) -> None:
    bridge.register("bob", "p")
    bridge.statuses("bob-0-1-1-1-1")
    provider = Showing("p")
    push = msgspec.json.encode(intake.TestPush(1, "bob", "title", "words")).decode()
    bridge._put(intake.TEST, push, intake.NOW_LANE)
    asyncio.run(bridge.run(provider, until=lambda: bridge.outcomes() == {"bob": "sent"}))
    assert provider.shown == {"p-bob": "words"}


def test_two_webhooks_of_one_message_reach_each_recipient_once(bridge: Bridge) -> None:
    """They differ, and come while the push of the first is under way."""

    async def scenario() -> None:
        provider = Gated("p")
        async with bridge.running(provider) as wait:
            bridge.message("bob")
            await wait(lambda: provider.sent == ["p-bob"])
            bridge._next -= 1
            bridge.message("bob", "cid")
            bridge.message("dan")
            await wait(lambda: "p-dan" in provider.sent)
            provider.gate.set()
            await wait(lambda: len(bridge.outcomes()) == 3)
        assert sorted(provider.sent) == ["p-bob", "p-cid", "p-dan"]

    for uid in ("bob", "cid", "dan"):
        bridge.register(uid, "p")
    asyncio.run(scenario())


def test_messages_for_a_paused_provider_wait_in_the_database(bridge: Bridge) -> None:
    async def scenario() -> None:
        provider = Stub("p", lambda _: Misconfigured("key"))
        async with bridge.running(provider) as wait:
            bridge.message("first")
            await wait(lambda: bridge.dispatcher._shared.senders["p"].pause is not None)
            bridge.message(*uids)
            await wait(lambda: len(bridge.outcomes()) == len(uids) + 1)
            assert set(bridge.outcomes().values()) == {"queued"}
            assert provider.sent == ["p-first"]

    uids = [f"u{n}" for n in range(20)]
    for uid in ["first", *uids]:
        bridge.register(uid, "p")
    asyncio.run(scenario())


def test_what_a_pause_put_off_goes_out_when_the_setting_is_mended_and_reloaded(bridge: Bridge) -> None:
    """Not when the pause would have been over, which may be an hour later; what the vendor put off stays so."""
    for uid in ("waits", "slow"):
        bridge.register(uid, "p")
    bridge.message("waits", "slow")
    asyncio.run(bridge.run(Stub("p", lambda _: Misconfigured("key")), until=lambda: len(bridge.outcomes()) == 2))
    far = now_ms() + 3_600_000
    with bridge.database.write() as connection:
        connection.execute(deliveries.update().values(due_at=far))
        connection.execute(deliveries.update().where(deliveries.c.uid == "slow").values(outcome="retrying"))
    provider = Stub("p")
    asyncio.run(bridge.run(provider, until=lambda: bridge.outcomes()["waits"] == "sent"))
    assert provider.sent == ["p-waits"]
    assert bridge.rows()["slow"].due_at == far


def test_what_is_urgent_is_not_planned_far_ahead_of_what_is_written(
    bridge: Bridge, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who has no phone is decided at once, and there may be a million such calls after an outage."""
    monkeypatch.setattr(settler, "URGENT_BEHIND", 20)
    ahead: list[int] = []
    add = settler.Settler.add

    def added(self: settler.Settler, row: Delivery, event_id: int) -> None:
        add(self, row, event_id)
        ahead.append(len(self._batch) + len(self._writing))

    monkeypatch.setattr(settler.Settler, "add", added)
    for _ in range(2 * SLICE):
        bridge.message("nobody", lane=intake.NOW_LANE)
    asyncio.run(bridge.run(until=lambda: not bridge.depth()))
    assert len(ahead) == 2 * SLICE
    assert max(ahead) <= 20 + SLICE


def test_what_is_given_up_keeps_its_content(bridge: Bridge) -> None:
    bridge.register("bob", "p")
    bridge.message("bob")
    vain = Stub("p", lambda _: Retry("503", after=60.0))
    asyncio.run(bridge.run(vain, until=lambda: bridge.outcomes() == {"bob": "dead"}, limits=Limits(max_age=50_000)))
    assert bridge.rows()["bob"].event_id is not None


def test_leases_are_renewed_while_a_push_is_under_way(bridge: Bridge, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.dispatch.loop.RENEW_EVERY", 0.02)

    def leases() -> list[int]:
        with bridge.database.read() as connection:
            return list(connection.exec_driver_sql("SELECT lease_until FROM events").scalars())

    async def scenario() -> None:
        provider = Gated("p")
        async with bridge.running(provider) as wait:
            bridge.message("bob")
            await wait(lambda: bool(provider.sent))
            (first,) = leases()
            await wait(lambda: leases()[0] > first)
            provider.gate.set()

    bridge.register("bob", "p")
    asyncio.run(scenario())


def parsed(**message: Any) -> Parsed:
    return Parsed(
        event_id=5,
        received_at=1_000_000,
        source="msg.offline",
        message=Message(message_id=7, **message),
        content=Content(type=1, text="hello"),
        recipients=Recipients(("bob",)),
    )


def known(**more: Any) -> Known:
    return Known(**({"devices": {"bob": [BOB]}, "settings": {}, "presence": {}, "channels": {}} | more))


def row(**fields: Any) -> Delivery:
    base = {"message_id": 7, "uid": "bob", "device_id": "phone", "provider": "p", "outcome": Outcome.RETRYING}
    return Delivery(**(base | {"first_at": 1_000_000, "at": 1_000_000, "event_id": 5, "id": 3} | fields))


@pytest.mark.parametrize(
    ("message", "now", "outcome", "event_id"),
    [
        ({}, 1_000_500, None, None),
        ({"timestamp": 900, "expire": 100}, 1_000_500, Outcome.SKIPPED, None),
        ({}, 1_001_001, Outcome.DEAD, 5),
    ],
)
def test_a_push_that_waited(message: dict[str, int], now: int, outcome: Outcome | None, event_id: int | None) -> None:
    pairs = [(row(), parsed(**message))]
    jobs, settled = steps.plan_due(pairs, known(), Renderer(RULES, {"p": Stub("p")}), 1_000, now)
    assert len(jobs) == (outcome is None)
    assert [(row.outcome, row.event_id) for row in settled] == ([] if outcome is None else [(outcome, event_id)])


def test_a_held_message_that_has_expired_does_not_ring() -> None:
    pairs = [(row(device_id="", provider="", outcome=Outcome.HELD), parsed(timestamp=900, expire=100))]
    free, settled = steps.plan_held(pairs, known(), frozenset(), RULES, 1_000_500)
    assert free == []
    assert [(row.outcome, row.reason) for row in settled] == [(Outcome.SKIPPED, "expired")]


@pytest.mark.parametrize("device_id", ["", "phone"])
def test_who_has_an_outcome_gets_no_other(device_id: str) -> None:
    decided = known(decided={(7, "bob", device_id)})
    batch = [(Progress(parsed()), ["bob"])]
    jobs, rows, repeats = steps.plan_new(batch, decided, RULES, Renderer(RULES, {"p": Stub("p")}), 1_000_000)
    assert (jobs, rows, repeats) == ([], [], 1)


def test_a_stale_device_has_one_outcome_of_a_message_that_comes_twice() -> None:
    rules = Rules(Policy(stale_after=1), RULES.style)
    batch = [(Progress(msgspec.structs.replace(parsed(), received_at=10**12)), ["bob"])]

    def planned(*decided: tuple[int, str, str]) -> tuple[list[Any], list[Delivery], int]:
        renderer = Renderer(rules, {"p": Stub("p")})
        return steps.plan_new(batch, known(decided=set(decided)), rules, renderer, 10**12)

    jobs, [stale], repeats = planned()
    assert (jobs, repeats) == ([], 0)
    assert (stale.device_id, stale.provider, stale.outcome, stale.reason) == ("phone", "p", Outcome.SKIPPED, "stale")
    assert planned((7, "bob", "phone")) == ([], [], 1)
