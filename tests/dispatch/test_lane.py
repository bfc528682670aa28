"""One lane by itself: what it sends in which order, and how it pauses."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from app.dispatch import lane as lanes
from app.dispatch.lane import SMALLER_BUDGET, Lane
from app.dispatch.work import Job, Parsed
from app.model import Content, Device, Message, Outcome, Recipients
from app.settle import Done, Limits, Pause, RetryAt, Settled
from providers.kit.base import Delivered, Misconfigured, Notice, Request, Target, TooLarge
from tests.dispatch.conftest import Gated, Stub

NOTICE = Notice(message_id="7", title="", body="hello", thread="2:g", data={})


class Clock:
    def __init__(self) -> None:
        self.now = 1_000_000

    def __call__(self) -> int:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(lanes, "now_ms", clock)
    return clock


def job(provider: Stub, uid: str, bulk: bool = False) -> Job:
    parsed = Parsed(
        event_id=1,
        received_at=1_000_000,
        source="msg.offline",
        message=Message(message_id=7),
        content=Content(),
        recipients=Recipients((uid,)),
    )
    device = Device(uid, "phone", provider.name, f"token-{uid}", 1, 1)
    return Job(parsed, device, NOTICE, provider.prepare(NOTICE), None, first_at=1_000_000, bulk=bulk)


def sent_by(provider: Stub, work: Callable[[Lane, list[Settled]], Any]) -> list[Settled]:
    """What a lane decided while `work` was done with it."""
    settled: list[Settled] = []

    async def scenario() -> None:
        lane = Lane(provider, Limits(), lambda _, decision: settled.append(decision), lambda: None)
        await work(lane, settled)
        await lane.stop(5)

    asyncio.run(scenario())
    return settled


async def idle(lane: Lane) -> None:
    """Wait for everything that the lane was given."""
    while lane._tasks:
        await asyncio.wait_for(asyncio.wait(lane._tasks), 10)


def test_a_pause_is_renewed_by_a_probe_that_fails_and_ended_by_one_that_does_not(clock: Clock) -> None:
    answers = iter([Misconfigured("key"), Misconfigured("key"), Delivered("id")])
    provider = Stub("p", lambda _: next(answers))

    async def work(lane: Lane, settled: list[Settled]) -> None:
        room = lane.room(clock.now)
        for _ in range(2):
            lane.submit([job(provider, "bob")], clock.now)
            await idle(lane)
            assert isinstance(settled[-1], Pause)
            assert lane.pause is not None
            assert lane.room(clock.now) == 0
            clock.now = lane.pause.until
            assert lane.room(clock.now) == 1, "one push tries whether the pause is over"
        lane.submit([job(provider, "bob")], clock.now)
        await idle(lane)
        assert lane.pause is None
        assert not lane.probing
        assert lane.room(clock.now) == room

    assert sent_by(provider, work)[-1] == Done(Outcome.SENT, provider_id="id")


def test_a_push_too_large_is_made_smaller_once() -> None:
    budgets: list[int | None] = []

    class Choosy(Stub):
        def prepare(self, notice: Notice, budget: int | None = None) -> str:
            budgets.append(budget)
            return super().prepare(notice, budget)

    answers = iter([TooLarge("413"), Delivered("id")])
    provider = Choosy("p", lambda _: next(answers))

    async def work(lane: Lane, _: list[Settled]) -> None:
        lane.submit([job(provider, "bob")], 1)
        await idle(lane)

    assert sent_by(provider, work) == [Done(Outcome.SENT, provider_id="id")]
    assert budgets == [None, SMALLER_BUDGET]


def test_a_fault_in_one_push_ends_neither_it_nor_the_lane(clock: Clock) -> None:
    class Faulty(Stub):
        def request(self, prepared: str, target: Target) -> Request:
            if target.token == "token-bob":
                raise RuntimeError("a fault in the provider")
            return super().request(prepared, target)

    provider = Faulty("p")

    async def work(lane: Lane, _: list[Settled]) -> None:
        lane.submit([job(provider, "bob"), *(job(provider, f"u{n}") for n in range(200))], 1)
        await idle(lane)

    settled = sent_by(provider, work)
    assert [type(decision) for decision in settled].count(RetryAt) == 1
    assert len(provider.sent) == 200


def test_every_device_of_a_message_has_an_id_of_its_own() -> None:
    ids: list[str] = []

    class Noting(Stub):
        def request(self, prepared: str, target: Target) -> Request:
            ids.append(target.push_id)
            return super().request(prepared, target)

    provider = Noting("p")

    async def work(lane: Lane, _: list[Settled]) -> None:
        lane.submit([job(provider, "bob"), job(provider, "cid"), job(provider, "bob")], 1)
        await idle(lane)

    sent_by(provider, work)
    assert len(set(ids)) == 2
    assert ids[0] == ids[2], "the same at every attempt"


def test_a_single_message_goes_before_a_large_group() -> None:
    provider = Stub("p")

    async def work(lane: Lane, _: list[Settled]) -> None:
        lane.submit([job(provider, f"u{n}", bulk=True) for n in range(500)], 1)
        lane.submit([job(provider, "single")], 1)
        await idle(lane)

    sent_by(provider, work)
    assert provider.sent.index("token-single") < 8
    assert len(provider.sent) == 501


def test_a_refused_credential_is_renewed_before_anything_pauses() -> None:
    class Credential:
        header = "bearer old"

        async def ready(self) -> None:
            pass

        def refuse(self, header: str) -> None:
            refused.append(header)
            self.header = "bearer new"

    class Signed(Stub):
        def request(self, prepared: str, target: Target) -> Request:
            assert self.credential is not None
            headers.append(self.credential.header)
            return Request("POST", "/" + target.token, {"authorization": self.credential.header}, b"")

    headers: list[str] = []
    refused: list[str] = []
    answers = iter([Misconfigured("401", renew=True), Delivered("id")])
    provider = Signed("p", lambda _: next(answers))
    provider.credential = Credential()

    async def work(lane: Lane, _: list[Settled]) -> None:
        lane.submit([job(provider, "bob")], 1)
        await idle(lane)
        assert lane.pause is None

    assert sent_by(provider, work) == [Done(Outcome.SENT, provider_id="id")]
    assert headers == ["bearer old", "bearer new"]
    assert refused == ["bearer old"]


def test_a_stop_waits_for_what_is_under_way() -> None:
    async def scenario() -> None:
        settled: list[Settled] = []
        provider = Gated("p")
        lane = Lane(provider, Limits(), lambda _, decision: settled.append(decision), lambda: None)
        lane.submit([job(provider, "bob")], 1)
        await asyncio.sleep(0)
        stopping = asyncio.create_task(lane.stop(10))
        await asyncio.sleep(0)
        provider.gate.set()
        await stopping
        assert settled == [Done(Outcome.SENT, provider_id="id")]

    asyncio.run(scenario())
