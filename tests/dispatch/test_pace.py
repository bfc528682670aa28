"""How much is in flight where this process cannot keep up."""

from __future__ import annotations

import asyncio
import time
from itertools import count
from typing import Any

import pytest

from app.dispatch import loop
from app.dispatch.pace import EVERY, LEAST, Pace
from app.dispatch.sender import Sender
from app.model import Lane
from app.settle import Limits
from tests.dispatch.conftest import Bridge, Gated, Stub
from tests.dispatch.test_sender import idle, job

READINGS = count(1)


def noted(pace: Pace, busy: float, times: int, cores: int = 1, waited: bool = True) -> Pace:
    """So many readings of a process that used this share of each of its cores, long after those before.

    waited: messages come that somebody waits for.
    """
    at, cpu = 1e6 * next(READINGS), 7.0
    pace.note(cpu, at, cores)
    for _ in range(times):
        if waited:
            pace.hurry(at)
        at, cpu = at + EVERY, cpu + EVERY * busy * cores
        pace.note(cpu, at, cores)
    return pace


def test_a_process_that_cannot_keep_up_has_less_and_less_in_flight() -> None:
    limits = [noted(Pace(), 1.0, times).limit(4_000) for times in range(15)]
    assert limits[0] == 4_000
    assert limits == sorted(limits, reverse=True)
    assert limits[2] < 2_000
    assert limits[-1] == LEAST


def test_a_process_with_time_to_spare_comes_back_to_the_whole() -> None:
    pace = noted(Pace(), 1.0, 1_000)
    assert pace.limit(4_000) == LEAST
    some = noted(pace, 0.5, 20).limit(4_000)
    assert LEAST < some < 4_000
    assert noted(pace, 0.5, 30).limit(4_000) == 4_000


def test_where_nobody_waits_heaps_are_cheaper() -> None:
    assert noted(Pace(), 1.0, 100, waited=False).limit(4_000) == 4_000
    late = noted(Pace(), 1.0, 100)
    assert noted(late, 1.0, 100, waited=False).limit(4_000) == 4_000, "nobody has for a long time"


@pytest.mark.parametrize(("busy", "cores", "limit"), [(0.85, 1, 4_000), (0.5, 2, 4_000), (0.95, 2, LEAST)])
def test_busy_is_a_share_of_the_cores_that_may_be_used(busy: float, cores: int, limit: int) -> None:
    assert noted(Pace(), busy, 50, cores).limit(4_000) == limit


def test_what_can_take_few_is_never_given_more() -> None:
    assert noted(Pace(), 1.0, 50).limit(10) == 10


def test_a_sender_keeps_to_the_pace_and_picks_up_with_it() -> None:
    async def scenario() -> None:
        provider, pace = Gated("p"), Pace()
        sender = Sender(provider, Limits(), lambda *_: None, lambda: None, pace=pace)
        sender.capacity = 1_000

        async def answered() -> tuple[int, int]:
            """What is under way and what waits when all that was under way has been answered."""
            provider.gate.set()
            provider.gate.clear()
            for _ in range(5):
                await asyncio.sleep(0)
            return sender.inflight, sender.queued

        sender.submit([job(provider, f"v{n}", Lane.BULK) for n in range(900)], 1)
        await asyncio.sleep(0)
        noted(pace, 1.0, 50)
        sender.submit([job(provider, f"w{n}", Lane.BULK) for n in range(600)], 1)
        assert (sender.inflight, sender.queued) == (900, 600), "what is under way is not called back"
        assert await answered() == (LEAST, 600 - LEAST)
        noted(pace, 0.1, 100)
        sender._rate_from = 0  # it looks four times a second, when an answer comes
        assert await answered() == (600 - LEAST, 0)
        provider.gate.set()
        await idle(sender)
        await sender.stop(1)

    asyncio.run(scenario())


def test_a_dispatcher_reads_how_busy_it_is_and_who_waits(bridge: Bridge, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the clock's own time as what it used, it looks busy; its senders are given less when somebody waits."""
    limits: list[int] = []
    read: list[float] = []

    class Busy:
        def __getattr__(self, name: str) -> Any:
            return getattr(time, name)

        def process_time(self) -> float:
            read.append(time.monotonic())
            return read[-1]

    monkeypatch.setattr(loop, "time", Busy())
    monkeypatch.setattr(loop, "_cores", lambda: 1)

    bridge.register("bob", "p")
    bridge.statuses("bob-0-0-1-0-0")

    async def scenario() -> None:
        provider = Stub("p")
        async with bridge.running(provider) as wait:
            (sender,) = bridge.dispatcher._shared.senders.values()
            bridge.message("bob")
            bridge.poke()
            await wait(lambda: len(provider.sent) == 1)
            seen = len(read)
            await wait(lambda: len(read) > seen + 5)
            limits.append(sender._pace.limit(1_000))
            bridge.notify({})
            bridge.poke()
            await wait(lambda: sender._pace.limit(1_000) < 1_000)
            limits.append(sender._pace.limit(1_000))

    asyncio.run(scenario())
    assert limits[0] == 1_000
    assert limits[1] < 1_000
