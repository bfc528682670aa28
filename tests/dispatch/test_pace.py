"""How much is in flight where this process cannot keep up."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from app.dispatch import loop
from app.dispatch.pace import ENOUGH, LEAST, PACE_EVERY, WAITED, Load, Pace
from app.dispatch.sender import Sender
from app.model import Lane
from app.settle import Settled
from tests.dispatch.conftest import Bridge, Gated, Stub
from tests.dispatch.test_sender import idle, job, sent_by


class Noted(Pace):
    """A pace with a clock of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.at = self.answers = 0.0

    def go(self, times: int, crowded: bool = True, rate: int = 6 * ENOUGH) -> Noted:
        """So many readings at this many answers a second."""
        for _ in range(times):
            self.at += PACE_EVERY
            self.answers += PACE_EVERY * rate
            self.note(crowded, int(self.answers), self.at)
        return self


def test_a_process_that_cannot_keep_up_has_less_and_less_in_flight() -> None:
    limits = [Noted().go(times).limit(4_000) for times in range(15)]
    assert limits[0] == 4_000
    assert limits == sorted(limits, reverse=True)
    assert limits[3] < 2_000
    assert limits[-1] == LEAST


def test_a_process_with_time_to_spare_comes_back_to_the_whole() -> None:
    pace = Noted().go(1_000)
    assert pace.limit(4_000) == LEAST
    assert LEAST < pace.go(5, crowded=False).limit(4_000) < 4_000
    assert pace.go(15, crowded=False).limit(4_000) == 4_000


def test_a_slow_vendor_is_not_made_slower() -> None:
    assert Noted().go(50, rate=ENOUGH - 10).limit(4_000) == 4_000
    pace = Noted().go(50)
    assert pace.go(30, rate=ENOUGH - 10).limit(4_000) == 4_000, "what it gave before is forgotten"


def test_what_can_take_few_is_never_given_more() -> None:
    assert Noted().go(50).limit(10) == 10


@pytest.mark.parametrize(
    ("busy", "cores", "full"), [(0.85, 1, False), (0.95, 1, True), (0.5, 2, False), (0.95, 2, True)]
)
def test_busy_is_a_share_of_the_cores_that_may_be_used(busy: float, cores: int, full: bool) -> None:
    load = Load(cores)
    assert not load.is_full(100.0, 7.0), "nothing is known yet"
    assert load.is_full(100.0 + busy * cores * PACE_EVERY, 7.0 + PACE_EVERY) is full
    assert not load.is_full(100.0 + busy * cores * PACE_EVERY, 7.0 + 2 * PACE_EVERY), "only since the last time"


def crowded(sender: Sender, times: int) -> None:
    """Have it be read so many times on a process that cannot keep up."""
    for n in range(times):
        sender.answers.count += int(6 * ENOUGH * PACE_EVERY)
        sender.keep_pace(True, PACE_EVERY * (n + 1))


def test_a_sender_keeps_to_the_pace_and_picks_up_with_it() -> None:
    provider = Gated("p")

    async def work(sender: Sender, _: list[Settled]) -> None:
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
        crowded(sender, 50)
        sender.submit([job(provider, f"w{n}", Lane.BULK) for n in range(600)], 1)
        assert (sender.inflight, sender.queued) == (900, 600), "what is under way is not called back"
        assert await answered() == (LEAST, 600 - LEAST)
        sender.submit([job(provider, f"x{n}", Lane.NOW) for n in range(300)], 1)
        await asyncio.sleep(0)
        assert sender.inflight == LEAST + 300, "what somebody waits for is not kept back"
        assert await answered() == (LEAST, 600 - 2 * LEAST)
        for n in range(100):
            sender.keep_pace(False, 100 + n)
        await asyncio.sleep(0)
        assert (sender.inflight, sender.queued) == (600 - LEAST, 0)
        provider.gate.set()
        await idle(sender)

    sent_by(provider, work)


def test_what_somebody_waits_for_takes_no_place_from_the_rest() -> None:
    provider = Gated("p")

    async def work(sender: Sender, _: list[Settled]) -> None:
        sender.capacity = 1_000
        crowded(sender, 50)
        sender.submit([job(provider, f"x{n}", Lane.NOW) for n in range(300)], 1)
        await asyncio.sleep(0)
        sender.submit([job(provider, f"v{n}", Lane.NORMAL) for n in range(100)], 1)
        await asyncio.sleep(0)
        assert (sender.inflight, sender.queued) == (300 + LEAST, 100 - LEAST)
        provider.gate.set()
        await idle(sender)

    sent_by(provider, work)


def test_a_sender_knows_for_a_while_that_somebody_waits() -> None:
    provider = Stub("p")

    async def work(sender: Sender, _: list[Settled]) -> None:
        sender.submit([job(provider, "group", Lane.NORMAL), job(provider, "crowd", Lane.BULK)], 1)
        assert not sender.is_waited_for(time.monotonic())
        before = time.monotonic()
        sender.submit([job(provider, "bob", Lane.NOW)], 1)
        assert sender.is_waited_for(before + WAITED)
        assert not sender.is_waited_for(time.monotonic() + WAITED + 1)
        await idle(sender)

    sent_by(provider, work)


@pytest.mark.parametrize("busy", [True, False])
def test_a_dispatcher_reads_how_busy_it_is_and_who_waits(
    bridge: Bridge, monkeypatch: pytest.MonkeyPatch, busy: bool
) -> None:
    """With the clock's own time as what it used, it looks busy; that means something when somebody waits."""
    told: list[bool] = []

    class Busy:
        def __getattr__(self, name: str) -> Any:
            return getattr(time, name)

        def process_time(self) -> float:
            return time.monotonic() if busy else 0.0

    monkeypatch.setattr(loop, "time", Busy())
    monkeypatch.setattr(loop, "_cores", lambda: 1)
    monkeypatch.setattr(Sender, "keep_pace", lambda _sender, crowded, _at: told.append(crowded))
    bridge.register("bob", "p")
    bridge.statuses("bob-0-0-1-0-0")

    async def scenario() -> None:
        provider = Stub("p")
        async with bridge.running(provider) as wait:
            bridge.message("bob")
            bridge.poke()
            await wait(lambda: len(provider.sent) == 1)
            seen = len(told)
            await wait(lambda: len(told) > seen + 2)
            assert not any(told), "it is a group's"
            bridge.notify({})
            bridge.poke()
            await wait(lambda: len(provider.sent) == 2)
            seen = len(told)
            await wait(lambda: len(told) > seen + 2)
            assert told[-1] is busy

    asyncio.run(scenario())
